//! The process that runs the hook: takes stalls from the agent, one message each, and runs the program for them one after
//! another. Owners of stalls take turns, and one who has many leaves runs to the others. It ends when the agent does.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Seek, Write},
    os::{fd::AsFd, unix::process::CommandExt},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::{
    fs::{MemfdFlags, memfd_create},
    net::{RecvFlags, SendFlags, recv, send},
    process::{
        Pid, Signal, WaitOptions, getpid, kill_process, kill_process_group, set_child_subreaper, waitpid,
    },
};

use super::{END, RunnerReport};
use crate::{
    config::HookConfig,
    util::fair::{self, Room},
    util::human,
};

/// Between the first try and the second.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How often it is asked whether the program has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How often those that it has left are ended before they are given up.
const KILL_ROUNDS_MAX: usize = 50;
/// Programs that do not end, as storage keeps them, of which no more are started then.
const LEFT_BEHIND_MAX: usize = 4;
/// No stall is longer.
const EVENT_BYTES_MAX: usize = 1024 * 1024;

/// Stalls that may wait for their run.
const WAITING_MAX: usize = 256;
/// For so long an owner whose stalls nobody was told of lately waits for a run. A later one is no news.
const OWNER_TIMEOUT: Duration = MINUTE;
const MINUTE: Duration = Duration::from_secs(60);
/// How often it is asked whether somebody who waits for a run may have one.
const ALLOWANCE_POLL_INTERVAL: Duration = Duration::from_millis(500);

/// A stall that waits for its run.
#[derive(Debug)]
struct Waiting {
    /// The event, as the program is given it.
    stall: Vec<u8>,
    came: Instant,
}

/// Runs until the agent ends, which is at the other end of standard input.
pub fn run(hook: &HookConfig) -> Result<()> {
    // What the program has started and left is this process's from then on, to be ended.
    set_child_subreaper(Some(getpid())).context("cannot take care of what the hook starts")?;
    let (waiting, queue) = fair::channel(Room { all: WAITING_MAX, of_one: WAITING_MAX });
    let takes = thread::Builder::new()
        .name("hook-queue".into())
        .spawn(move || take_in(&waiting))
        .context("cannot start the thread that takes stalls")?;
    let mut budget = Budget::new(hook.a_minute);
    let mut goes_on = true;
    while goes_on {
        goes_on = queue.wait_for_more(if queue.is_empty() { Duration::MAX } else { ALLOWANCE_POLL_INTERVAL });
        while let Some(turn) = budget.next(&queue, Instant::now()) {
            let untold = match turn {
                StallOutcome::Tell(owner, stall) => tell(hook, &owner, &stall.stall, &mut budget),
                StallOutcome::GoWithout => Some(RunnerReport::NotRun),
            };
            untold.into_iter().for_each(report);
        }
    }
    takes.join().map_err(|_| anyhow!("the thread that takes stalls has panicked"))?
}

/// Takes stalls from the agent until it ends.
fn take_in(waiting: &fair::Sender<String, Waiting>) -> Result<()> {
    let agent = io::stdin();
    let mut buffer = vec![0; EVENT_BYTES_MAX];
    loop {
        let length = match recv(agent.as_fd(), &mut buffer[..], RecvFlags::empty()) {
            Ok((0, _)) => return Ok(()),
            Ok((length, _)) => length,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error).context("this is started by `tracer agent` only"),
        };
        let message = &buffer[..length];
        let end = message.iter().position(|byte| *byte == END as u8).context("a stall is nobody's")?;
        let owner = String::from_utf8_lossy(&message[..end]).into_owned();
        let stall = Waiting { stall: message[end + 1..].to_vec(), came: Instant::now() };
        if waiting.send(owner, stall).is_err() {
            report(RunnerReport::NotRun);
        }
    }
}

/// Tells the agent. One that has ended does not count any more.
fn report(report: RunnerReport) {
    let _ = send(io::stdin().as_fd(), &[report as u8], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}

/// Runs the program for one stall, and once more if it fails.
fn tell(hook: &HookConfig, owner: &str, stall: &[u8], budget: &mut Budget) -> Option<RunnerReport> {
    let name = &hook.command[0];
    for second in [false, true] {
        if second {
            thread::sleep(RETRY_AFTER);
        }
        let left = left().len();
        if left >= LEFT_BEHIND_MAX {
            human::say(&format!(
                "hook {name}: not run, because {left} processes of earlier runs have not ended"
            ));
        }
        if left >= LEFT_BEHIND_MAX || !budget.take(owner, Instant::now()) {
            return Some(if second { RunnerReport::Failed } else { RunnerReport::NotRun });
        }
        let outcome = once(hook, stall);
        end_the_rest();
        match outcome {
            Ok(()) => return None,
            Err(error) => {
                let then = if second { "it is not told of this" } else { "it is tried once more" };
                human::say(&format!("hook {name}: {error:#}; {then}"));
            }
        }
    }
    Some(RunnerReport::Failed)
}

fn once(hook: &HookConfig, stall: &[u8]) -> Result<()> {
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
        thread::sleep(POLL_INTERVAL);
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
    for _ in 0..KILL_ROUNDS_MAX {
        let children = left();
        if children.is_empty() {
            return;
        }
        for child in children {
            // One that has ended already is only waited for.
            let _ = kill_process(child, Signal::KILL);
            let _ = waitpid(Some(child), WaitOptions::NOHANG);
        }
        thread::sleep(POLL_INTERVAL);
    }
    human::say("hook: processes that it started do not end");
}

/// So many runs in any minute. A quarter of them is kept for owners that have had few.
struct Budget {
    most: usize,
    runs: VecDeque<(Instant, String)>,
}

impl Budget {
    fn new(a_minute: u32) -> Self {
        Self { most: a_minute as usize, runs: VecDeque::new() }
    }

    /// Forgets runs that are a minute old.
    fn forget(&mut self, now: Instant) {
        while self.runs.front().is_some_and(|(run, _)| now.duration_since(*run) >= MINUTE) {
            self.runs.pop_front();
        }
    }

    /// How many runs this owner had in the last minute.
    fn had(&self, owner: &str) -> usize {
        self.runs.iter().filter(|(_, of)| of == owner).count()
    }

    /// Whether this owner had no run in the last minute.
    fn is_quiet(&self, owner: &str) -> bool {
        self.had(owner) == 0
    }

    /// Whether this owner may have a run: the more it had, the more is kept back from it for others, a quarter at most.
    fn allows(&self, owner: &str) -> bool {
        let kept_back = self.most.div_ceil(4).min(self.most.saturating_sub(1));
        self.runs.len() < self.most - self.had(owner).min(kept_back)
    }

    fn take(&mut self, owner: &str, now: Instant) -> bool {
        self.forget(now);
        let may = self.allows(owner);
        if may {
            self.runs.push_back((now, owner.to_owned()));
        }
        may
    }

    /// What becomes of the next stall: those go first that nobody will be told of, then the quiet owners'. `None`: the others
    /// wait.
    fn next(&mut self, queue: &fair::Receiver<String, Waiting>, now: Instant) -> Option<StallOutcome> {
        self.forget(now);
        let is_too_late = |owner: &String, stall: &Waiting| {
            !self.allows(owner) && (!self.is_quiet(owner) || now.duration_since(stall.came) >= OWNER_TIMEOUT)
        };
        if queue.take_if(is_too_late).is_some() {
            return Some(StallOutcome::GoWithout);
        }
        let quiet = queue.take_if(|owner, _| self.is_quiet(owner) && self.allows(owner));
        let next = quiet.or_else(|| queue.take_if(|owner, _| self.allows(owner)));
        next.map(|(owner, stall)| StallOutcome::Tell(owner, stall))
    }
}

/// What becomes of a stall.
enum StallOutcome {
    /// The program is told of it.
    Tell(String, Waiting),
    /// It is not.
    GoWithout,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_runs_in_any_minute() {
        let begin = Instant::now();
        let mut budget = Budget::new(2);
        let at = |seconds| begin + Duration::from_secs(seconds);
        let taken: Vec<bool> = [(0, "a"), (10, "b"), (20, "c"), (60, "c"), (61, "d"), (70, "d"), (71, "e")]
            .map(|(second, owner)| budget.take(owner, at(second)))
            .into();
        assert_eq!(taken, [true, true, false, true, false, true, false]);
    }

    /// The owners whose stalls the program is told of, of so many stalls of each.
    fn told(budget: &mut Budget, now: Instant, stalls: &[(&str, usize)]) -> Vec<String> {
        let (waiting, queue) = fair::channel(Room { all: 100, of_one: 100 });
        for (owner, number) in stalls {
            for _ in 0..*number {
                let stall = Waiting { stall: Vec::new(), came: now };
                waiting.send((*owner).to_owned(), stall).expect("there is room");
            }
        }
        let mut told = Vec::new();
        while let Some(turn) = budget.next(&queue, now) {
            if let StallOutcome::Tell(owner, _) = turn {
                assert!(budget.take(&owner, now));
                told.push(owner);
            }
        }
        told
    }

    #[test]
    fn who_has_many_leaves_runs_to_the_others() {
        let begin = Instant::now();
        let mut budget = Budget::new(10);
        assert_eq!(told(&mut budget, begin, &[("flood", 50)]).len(), 7);
        let second = begin + Duration::from_secs(1);
        assert_eq!(told(&mut budget, second, &[("flood", 50), ("quiet", 2)]), ["quiet", "quiet"]);
        assert_eq!(told(&mut budget, second, &[("another", 1), ("flood", 9)]), ["another"]);
        let many: Vec<String> = (0..9).map(|number| format!("owner {number}")).collect();
        let many: Vec<(&str, usize)> = many.iter().map(|owner| (&**owner, 1)).collect();
        assert_eq!(told(&mut budget, second, &many).len(), 0, "ten in all");
        // One run does not make an owner a flood.
        let mut budget = Budget::new(10);
        assert_eq!(told(&mut budget, begin, &[("quiet", 1)]), ["quiet"]);
        assert_eq!(told(&mut budget, begin, &[("flood", 50)]).len(), 6);
        assert_eq!(told(&mut budget, second, &[("flood", 9), ("quiet", 1)]), ["quiet"]);
        let minute = second + MINUTE;
        assert_eq!(told(&mut budget, minute, &[("flood", 1)]), ["flood"]);
        assert_eq!(
            told(&mut Budget::new(1), begin, &[("flood", 2)]),
            ["flood"],
            "nothing is kept back of one"
        );
        assert_eq!(told(&mut Budget::new(0), begin, &[("flood", 2)]), [""; 0]);
    }

    /// With nothing left, whoever was not told of anything lately waits, for a minute at most.
    #[test]
    fn the_quiet_wait_for_a_run() {
        let begin = Instant::now();
        let mut budget = Budget::new(1);
        assert!(budget.take("flood", begin));
        let (waiting, queue) = fair::channel(Room { all: 9, of_one: 9 });
        let send = |owner: &str, second: u64| {
            let came = begin + Duration::from_secs(second);
            waiting.send(owner.to_owned(), Waiting { stall: Vec::new(), came }).expect("there is room");
        };
        let next = |budget: &mut Budget, second: u64| match budget
            .next(&queue, begin + Duration::from_secs(second))
        {
            Some(StallOutcome::Tell(owner, _)) => owner,
            Some(StallOutcome::GoWithout) => "goes without".to_owned(),
            None => "waits".to_owned(),
        };
        send("flood", 1);
        send("quiet", 2);
        assert_eq!(next(&mut budget, 3), "goes without");
        assert_eq!(next(&mut budget, 3), "waits");
        send("flood", 60);
        assert_eq!(next(&mut budget, 60), "quiet");
        assert!(budget.take("quiet", begin + Duration::from_secs(60)));
        assert_eq!(next(&mut budget, 61), "waits", "by now the flood is quiet, too");
        assert_eq!(next(&mut budget, 119), "waits");
        assert_eq!(next(&mut budget, 120), "flood", "in time");
        assert!(budget.take("another", begin + Duration::from_secs(120)));
        send("late", 121);
        assert!(budget.take("another", begin + Duration::from_secs(180)));
        assert_eq!(next(&mut budget, 180), "waits");
        assert_eq!(next(&mut budget, 181), "goes without", "a minute is over");
        assert_eq!(next(&mut budget, 181), "waits");
    }

    #[test]
    fn a_program_is_given_the_stall_and_a_bad_one_is_bounded() {
        let hook = |script: &str| HookConfig {
            command: vec!["sh".into(), "-c".into(), script.into()],
            timeout: Duration::from_millis(300),
            a_minute: 60,
        };
        let budget = &mut Budget::new(60);
        let tell = |hook: &HookConfig, stall: &[u8], budget: &mut Budget| tell(hook, "user 0", stall, budget);
        assert_eq!(tell(&hook("test \"$(cat)\" = stall"), b"stall", budget), None);
        // Longer than a pipe holds, and nobody reads it.
        assert_eq!(tell(&hook("true"), &vec![b'x'; 300_000], budget), None);
        let begin = Instant::now();
        assert_eq!(tell(&hook("sleep 60 & sleep 60"), b"stall", budget), Some(RunnerReport::Failed));
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
        let nothing = HookConfig { command: vec!["/nonexistent".into()], ..hook("") };
        assert_eq!(tell(&nothing, b"stall", budget), Some(RunnerReport::Failed));
        assert_eq!(tell(&hook("false"), b"stall", &mut Budget::new(1)), Some(RunnerReport::Failed));
        assert_eq!(tell(&hook("true"), b"stall", &mut Budget::new(0)), Some(RunnerReport::NotRun));
    }
}
