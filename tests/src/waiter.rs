//! What does a test know of the process it watches? The line a `waiter` printed just before it blocked.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::launch::{Running, own_dir, start_ended_by};
use crate::{clock, programs, slow};

/// How long a waiter may take to say something: generous, since the machine may be loaded.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process blocked in a known call. It is killed when dropped.
#[derive(Debug)]
pub struct Waiter {
    process: Running,
    stdin: ChildStdin,
    lines: Mutex<Receiver<Value>>,
    line: Value,
}

impl Waiter {
    /// Starts a role that this kernel must know.
    pub fn start(role: &str) -> Self {
        Self::start_with(role, &[])
    }

    /// The same with arguments.
    pub fn start_with(role: &str, args: &[&str]) -> Self {
        let waiter = Self::start_any(role, args);
        if let Some(why) = waiter.unsupported() {
            panic!("waiter {role}: {why}");
        }
        waiter
    }

    /// The same as a user of this id, who has no rights and belongs to no groups.
    pub fn start_as(uid: u32, role: &str, args: &[&str]) -> Self {
        Self::start_prepared(role, args, |command| {
            command.uid(uid).gid(uid);
        })
    }

    /// Starts a role that this kernel or architecture may lack; see [`Waiter::unsupported`].
    pub fn start_any(role: &str, args: &[&str]) -> Self {
        Self::start_prepared(role, args, |_| ())
    }

    /// The same for a role that tidies up when it gets this signal.
    pub fn start_ended_by(farewell: i32, role: &str, args: &[&str]) -> Self {
        Self::run(farewell, role, args, |_| ())
    }

    /// The same, started as `prepare` wants its command to be.
    pub fn start_prepared(role: &str, args: &[&str], prepare: impl FnOnce(&mut Command)) -> Self {
        Self::run(libc::SIGKILL, role, args, prepare)
    }

    fn run(farewell: i32, role: &str, args: &[&str], prepare: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(programs::waiter_program());
        command.arg(role).args(args).env("WAITER_DIR", own_dir());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        prepare(&mut command);
        let mut process = start_ended_by(farewell, command);
        let stdin = process.pipes().stdin.take().expect("piped");
        let stdout = process.pipes().stdout.take().expect("piped");
        let (send, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if send.send(value).is_err() {
                    break;
                }
            }
        });
        let mut waiter = Self { process, stdin, lines: Mutex::new(lines), line: Value::Null };
        waiter.line = waiter.next_line();
        waiter
    }

    /// Why this kernel cannot do the role.
    pub fn unsupported(&self) -> Option<&str> {
        self.line["unsupported"].as_str()
    }

    /// The line printed before the wait.
    pub fn line(&self) -> &Value {
        &self.line
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The thread that waits.
    pub fn tid(&self) -> u32 {
        number(&self.line, "tid").try_into().expect("a tid")
    }

    /// When the wait began, on the realtime clock.
    pub fn begun_ns(&self) -> i128 {
        number(&self.line, "realtime_ns").into()
    }

    /// A text field of the line.
    pub fn text(&self, name: &str) -> &str {
        self.line[name].as_str().unwrap_or_else(|| panic!("the waiter's line has no {name}: {}", self.line))
    }

    /// A number of the line.
    pub fn number(&self, name: &str) -> u64 {
        number(&self.line, name)
    }

    /// How long the wait has lasted, in seconds.
    pub fn age(&self) -> f64 {
        clock::seconds_between(self.begun_ns(), clock::realtime_ns())
    }

    /// Sleeps until the wait is so old.
    pub fn until_age(&self, seconds: f64) {
        let missing = seconds - self.age();
        if missing > 0.0 {
            thread::sleep(Duration::from_secs_f64(missing));
        }
    }

    /// Writes one line to the waiter's standard input.
    pub fn command(&mut self, command: &str) {
        writeln!(self.stdin, "{command}").expect("the waiter reads commands");
    }

    /// Ends the wait as its second party would, and returns the moment it ended, on the realtime clock.
    pub fn answer(&mut self) -> i128 {
        self.command("answer");
        number(&self.next_line(), "realtime_ns").into()
    }

    /// The next line the waiter prints.
    pub fn next_line(&self) -> Value {
        let lines = self.lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match lines.recv_timeout(slow(PATIENCE)) {
            Ok(line) => line,
            Err(e) => panic!("waiter (pid {}) said nothing more: {e}; its stderr is above", self.pid()),
        }
    }

    /// Whether it has printed a line that nobody has asked for: its wait is over.
    pub fn has_said_more(&self) -> bool {
        self.lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner).try_recv().is_ok()
    }

    /// Stops it as a shell's ^Z does.
    pub fn stop(&self) {
        self.process.signal(libc::SIGSTOP);
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        self.process.signal(libc::SIGCONT);
    }

    /// Kills it; returns the moment before.
    pub fn kill(&mut self) -> i128 {
        let moment = clock::realtime_ns();
        self.process.kill();
        moment
    }
}

fn number(line: &Value, name: &str) -> u64 {
    line[name].as_u64().unwrap_or_else(|| panic!("the waiter's line has no number {name}: {line}"))
}
