//! `tracer run`: runs a command as it is, and says what hangs in it once nothing in it moves.

mod movement;
mod report;
pub mod signals;
mod tree;

use std::{
    io::{ErrorKind, Write},
    process::{Child, Command},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, WaitOptions, waitpid};

use self::{
    movement::Movement,
    report::{Finding, Reporter},
    signals::Arrived,
    tree::Tree,
};
use crate::{
    config::cli::Run,
    procfs::{Reads, by_pid},
    resolve::children,
    util::exit::{NOT_FOUND, NOT_RUN, code},
    util::human,
};

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
    let own = rustix::process::getpid();
    let helpers = children::all(by_pid(own.as_raw_pid().cast_unsigned()), &mut Reads::new());
    // What it leaves behind stays below us: such a process may hold its output open, and is what others wait for.
    rustix::process::set_child_subreaper(Some(own)).context("cannot adopt what the command leaves behind")?;
    let words: Vec<String> = args.command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    // Before it runs: nobody wants to learn when it hangs that there is no report.
    let reporter = Reporter::new(args.report.as_deref(), words.join(" "), !args.kill)?;
    let mut child = match signals::as_before(Command::new(program).args(rest)).spawn() {
        Ok(child) => child,
        Err(error) => {
            human::say(&format!("cannot run {}: {error}", program.display()));
            return Ok(if error.kind() == ErrorKind::NotFound { NOT_FOUND } else { NOT_RUN });
        }
    };
    let mut watch = Watch::new(args, reporter, child.id(), helpers);
    let mut ended = None;
    loop {
        let signal = signals::wait(watch.pause());
        if ended.is_none() {
            ended = child.try_wait().context("cannot wait for the command")?;
        }
        match (ended, watch.told_to_end) {
            (Some(status), None) => return Ok(code(status)),
            // What it leaves behind ends as well.
            (Some(_), Some(told)) if told.elapsed() > 2 * GRACE || watch.tree().processes.is_empty() => {
                return Ok(ENDED);
            }
            _ => {}
        }
        // What a terminal sends reaches the command without us.
        if let Some(Arrived { signal, is_sent: true }) = signal
            && ended.is_none()
        {
            send(&child, signal);
        }
        // What cannot be seen is no reason to end anything.
        if let Err(error) = watch.tick() {
            watch.say(&format!("cannot look at the command: {error:#}"));
        }
    }
}

fn send(child: &Child, signal: Signal) {
    if let Some(pid) = Pid::from_raw(child.id().cast_signed()) {
        // It has not been waited for, and so is no other process.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// What is known of a command that runs.
struct Watch<'a> {
    args: &'a Run,
    reporter: Reporter<'a>,
    root: u32,
    /// Processes of our own that are no part of it.
    helpers: Vec<u32>,
    reads: Reads,
    movement: Movement,
    began: Instant,
    looked: Instant,
    /// It was said that nothing moves.
    is_still: bool,
    /// When SIGTERM was sent.
    told_to_end: Option<Instant>,
}

impl<'a> Watch<'a> {
    fn new(args: &'a Run, reporter: Reporter<'a>, root: u32, helpers: Vec<u32>) -> Self {
        let now = Instant::now();
        Self {
            args,
            reporter,
            root,
            helpers,
            reads: Reads::new(),
            movement: Movement::within(args.stuck_after),
            began: now,
            looked: now,
            is_still: false,
            told_to_end: None,
        }
    }

    /// Until the next look.
    fn pause(&self) -> Duration {
        (self.args.stuck_after / POLLS).clamp(Duration::from_millis(200), Duration::from_secs(10))
    }

    fn say(&mut self, text: &str) {
        self.reporter.write(&format!("tracer: {text}\n"));
    }

    /// The command, and what others of its processes have left behind; of these, those that have ended are waited for.
    fn tree(&mut self) -> Tree {
        let left = children::all(by_pid(std::process::id()), &mut self.reads);
        let is_left = |pid: &u32| *pid != self.root && !self.helpers.contains(pid);
        let left: Vec<u32> = left.into_iter().filter(is_left).collect();
        for pid in &left {
            let _ = waitpid(Pid::from_raw(pid.cast_signed()), WaitOptions::NOHANG);
        }
        let roots = [self.root].into_iter().chain(left).map(by_pid).collect();
        Tree::below(roots, &mut self.reads)
    }

    fn tick(&mut self) -> Result<()> {
        let tree = self.tree();
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
            tree.end(&mut self.reads);
            self.told_to_end = Some(now);
        }
        Ok(())
    }
}

/// Standard error, whose reader may have gone.
fn to_stderr(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
