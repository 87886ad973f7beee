//! The process that runs the hook: takes stalls from the agent, one message each, and runs the program for them one after
//! another. It ends when the agent does.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Seek, Write},
    os::{fd::AsFd, unix::process::CommandExt},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    fs::{MemfdFlags, memfd_create},
    net::{RecvFlags, SendFlags, recv, send},
    process::{
        Pid, Signal, WaitOptions, getpid, kill_process, kill_process_group, set_child_subreaper, waitpid,
    },
};

use super::{Hook, Report};
use crate::human;

/// Between the first try and the second.
const AGAIN: Duration = Duration::from_secs(1);
/// How often it is asked whether the program has ended.
const LOOK: Duration = Duration::from_millis(20);
/// How often those that it has left are ended before they are given up.
const ROUNDS: usize = 50;
/// Programs that do not end, as storage keeps them, of which no more are started then.
const MOST_LEFT: usize = 4;
/// No stall is longer.
const LONGEST: usize = 1024 * 1024;

/// Runs until the agent ends, which is at the other end of standard input.
pub fn run(hook: &Hook) -> Result<()> {
    // What the program has started and left is this process's from then on, to be ended.
    set_child_subreaper(Some(getpid())).context("cannot take care of what the hook starts")?;
    let agent = io::stdin();
    let mut buffer = vec![0; LONGEST];
    let mut budget = Budget::new(hook.a_minute);
    loop {
        let length = match recv(agent.as_fd(), &mut buffer[..], RecvFlags::empty()) {
            Ok((0, _)) => return Ok(()),
            Ok((length, _)) => length,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error).context("this is started by `tracer agent` only"),
        };
        if let Some(report) = tell(hook, &buffer[..length], &mut budget) {
            // An agent that has ended does not count any more.
            let _ = send(agent.as_fd(), &[report as u8], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
    }
}

/// Runs the program for one stall, and once more if it fails.
fn tell(hook: &Hook, stall: &[u8], budget: &mut Budget) -> Option<Report> {
    let name = &hook.command[0];
    for second in [false, true] {
        if second {
            thread::sleep(AGAIN);
        }
        let left = left().len();
        if left >= MOST_LEFT {
            human::say(&format!("on_stall: {name}: not run, as {left} processes of earlier runs do not end"));
        }
        if left >= MOST_LEFT || !budget.take(Instant::now()) {
            return Some(if second { Report::Failed } else { Report::NotRun });
        }
        let outcome = once(hook, stall);
        end_the_rest();
        match outcome {
            Ok(()) => return None,
            Err(error) => {
                let then = if second { "it is not told of this stall" } else { "it is tried once more" };
                human::say(&format!("on_stall: {name}: {error:#}; {then}"));
            }
        }
    }
    Some(Report::Failed)
}

fn once(hook: &Hook, stall: &[u8]) -> Result<()> {
    // A file and no pipe: a program that does not read it holds nobody up.
    let mut input = File::from(memfd_create("stall", MemfdFlags::CLOEXEC)?);
    input.write_all(stall)?;
    input.rewind()?;
    let mut child = Command::new(&hook.command[0])
        .args(&hook.command[1..])
        .stdin(Stdio::from(input))
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .context("cannot be run")?;
    let end = Instant::now() + hook.timeout;
    loop {
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "{status}");
            return Ok(());
        }
        if Instant::now() >= end {
            if let Some(group) = Pid::from_raw(child.id() as i32) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            // It may wait for storage that never comes. It is waited for with what it has left.
            let late = humantime::format_duration(hook.timeout);
            bail!("has not ended after {late}");
        }
        thread::sleep(LOOK);
    }
}

/// What earlier runs have started and left, as far as it has not ended.
fn left() -> Vec<Pid> {
    let children = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

/// Ends what the program has started and left, whatever session it is in. Those that go leave their own children to this process,
/// so it looks until there is none.
fn end_the_rest() {
    for _ in 0..ROUNDS {
        let children = left();
        if children.is_empty() {
            return;
        }
        for child in children {
            // One that has ended already is only waited for.
            let _ = kill_process(child, Signal::KILL);
            let _ = waitpid(Some(child), WaitOptions::NOHANG);
        }
        thread::sleep(LOOK);
    }
    human::say("on_stall: it has left processes that do not end");
}

/// So many runs in any minute.
struct Budget {
    most: usize,
    runs: VecDeque<Instant>,
}

impl Budget {
    fn new(a_minute: u32) -> Self {
        Self { most: a_minute as usize, runs: VecDeque::new() }
    }

    fn take(&mut self, now: Instant) -> bool {
        while self.runs.front().is_some_and(|run| now.duration_since(*run) >= Duration::from_secs(60)) {
            self.runs.pop_front();
        }
        let may = self.runs.len() < self.most;
        if may {
            self.runs.push_back(now);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_runs_in_any_minute() {
        let begin = Instant::now();
        let mut budget = Budget::new(2);
        let at = |seconds| begin + Duration::from_secs(seconds);
        let taken: Vec<bool> = [0, 10, 20, 60, 61, 70, 71].map(|second| budget.take(at(second))).into();
        assert_eq!(taken, [true, true, false, true, false, true, false]);
    }

    #[test]
    fn a_program_is_given_the_stall_and_a_bad_one_is_bounded() {
        let hook = |script: &str| Hook {
            command: vec!["sh".into(), "-c".into(), script.into()],
            timeout: Duration::from_millis(300),
            a_minute: 60,
        };
        let budget = &mut Budget::new(60);
        assert_eq!(tell(&hook("test \"$(cat)\" = stall"), b"stall", budget), None);
        // Longer than a pipe holds, and nobody reads it.
        assert_eq!(tell(&hook("true"), &vec![b'x'; 300_000], budget), None);
        let begin = Instant::now();
        assert_eq!(tell(&hook("sleep 60 & sleep 60"), b"stall", budget), Some(Report::Failed));
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
        let nothing = Hook { command: vec!["/nonexistent".into()], ..hook("") };
        assert_eq!(tell(&nothing, b"stall", budget), Some(Report::Failed));
        assert_eq!(tell(&hook("false"), b"stall", &mut Budget::new(1)), Some(Report::Failed));
        assert_eq!(tell(&hook("true"), b"stall", &mut Budget::new(0)), Some(Report::NotRun));
    }
}
