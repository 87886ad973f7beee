//! `tracer run`: runs a command as it is, and says what hangs in it once nothing of it moves.

mod movement;
mod report;
pub mod signals;
mod tree;

use std::{
    io::{ErrorKind, Write},
    os::unix::process::ExitStatusExt,
    process::{Child, Command, ExitStatus},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::process::Signal;

use self::{
    movement::Movement,
    report::{Finding, Reporter},
    tree::Tree,
};
use crate::{
    config::cli::Run,
    procfs::{Reads, by_pid},
    util::human,
};

/// What shells return for a command that is not there, and for one that cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;
/// What timeout(1) returns for a command that it has ended.
const ENDED: u8 = 124;
/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(10);
/// Of the time after which it counts as stuck, one look at its processes, and one look for a part of it that hangs.
const POLLS: u32 = 30;
const LOOKS: u32 = 4;

/// Runs it to its end; its status.
pub fn run(args: &Run) -> Result<u8> {
    let (program, rest) = args.command.split_first().context("there is no command")?;
    let mut child = match signals::as_before(Command::new(program).args(rest)).spawn() {
        Ok(child) => child,
        Err(error) => {
            human::say(&format!("cannot run {}: {error}", program.display()));
            return Ok(if error.kind() == ErrorKind::NotFound { NOT_FOUND } else { NOT_RUN });
        }
    };
    let words: Vec<String> = args.command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let mut watch = Watch::new(args, words.join(" "), child.id());
    loop {
        let signal = signals::wait(watch.pause());
        if let Some(status) = child.try_wait().context("cannot wait for the command")? {
            return Ok(if watch.has_ended_it { ENDED } else { code(status) });
        }
        // Those of a terminal reach the command without us.
        if let Some(signal @ (Signal::TERM | Signal::HUP)) = signal {
            send(&child, signal);
        }
        // What cannot be seen is no reason to end anything.
        if let Err(error) = watch.tick() {
            watch.say(&format!("cannot look at the command: {error:#}"));
        }
    }
}

/// A status as shells return it.
fn code(status: ExitStatus) -> u8 {
    let of_signal = || status.signal().map_or(NOT_RUN, |signal| 128u8.saturating_add(signal as u8));
    status.code().map_or_else(of_signal, |code| code as u8)
}

fn send(child: &Child, signal: Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(child.id().cast_signed()) {
        // It has not been waited for, and so is no other process.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// What is known of a command that runs.
struct Watch<'a> {
    args: &'a Run,
    reporter: Reporter<'a>,
    root: u32,
    reads: Reads,
    movement: Movement,
    began: Instant,
    looked: Instant,
    /// It was said that nothing moves.
    is_still: bool,
    /// When SIGTERM was sent.
    told_to_end: Option<Instant>,
    has_ended_it: bool,
}

impl<'a> Watch<'a> {
    fn new(args: &'a Run, command: String, root: u32) -> Self {
        let now = Instant::now();
        Self {
            args,
            reporter: Reporter::new(args.report.as_deref(), command),
            root,
            reads: Reads::new(),
            movement: Movement::within(args.stuck_after),
            began: now,
            looked: now,
            is_still: false,
            told_to_end: None,
            has_ended_it: false,
        }
    }

    /// Until the next look.
    fn pause(&self) -> Duration {
        (self.args.stuck_after / POLLS).clamp(Duration::from_millis(200), Duration::from_secs(10))
    }

    fn say(&mut self, text: &str) {
        self.reporter.write(&format!("tracer: {text}\n"));
    }

    fn tick(&mut self) -> Result<()> {
        let tree = Tree::below(by_pid(self.root), &mut self.reads);
        let now = Instant::now();
        self.movement.add(now, tree.used);
        if let Some(told) = self.told_to_end {
            if told.elapsed() >= GRACE {
                tree.send(Signal::KILL, &mut self.reads);
            }
            return Ok(());
        }
        let window = self.args.stuck_after;
        let is_still = self.movement.is_still(now);
        if self.is_still && !is_still {
            self.is_still = false;
            self.reporter.forget();
            self.say("it moves again");
        }
        let is_due = self.looked.elapsed() >= (window / LOOKS).max(Duration::from_secs(1));
        let is_wanted = match is_still {
            true => is_due || !self.is_still,
            // Where the rest has come to rest as well, it will be said of all.
            false => is_due && self.movement.is_at_work(now),
        };
        if now.duration_since(self.began) < window || !is_wanted {
            return Ok(());
        }
        self.looked = now;
        let finding = if is_still { Finding::Still(window) } else { Finding::Part(window) };
        self.reporter.look(finding, &tree)?;
        self.is_still = is_still;
        if is_still && self.args.kill {
            self.say(&format!("ending it: SIGTERM now, SIGKILL in {}", human::age(GRACE)));
            tree.send(Signal::TERM, &mut self.reads);
            (self.told_to_end, self.has_ended_it) = (Some(now), true);
        }
        Ok(())
    }
}

/// Standard error, whose reader may have gone.
fn to_stderr(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_as_shells_return_it() {
        for (raw, expected) in [(0, 0), (3 << 8, 3), (9, 137), (15, 143)] {
            assert_eq!(code(ExitStatus::from_raw(raw)), expected);
        }
    }
}
