//! Does a program end in time, and with it its output? What it starts may hold that for longer than it lives.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::launch::{Running, start};
use crate::programs;

/// A run of a program that is waited for no longer than one wants.
#[derive(Debug)]
pub struct Program {
    pub(crate) process: Running,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

/// One that has ended in time.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status; none if a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
    /// Until it had ended and nobody could write to its output any more.
    pub took: Duration,
}

impl Program {
    /// Starts tracer with these arguments.
    pub fn tracer(args: &[&str]) -> Self {
        Self::tracer_as(args, |_| ())
    }

    /// The same, started as `prepare` wants its command to be.
    pub fn tracer_as(args: &[&str], prepare: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(programs::tracer());
        command.args(args);
        prepare(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = start(command);
        let stdout = read_all(process.pipes().stdout.take().expect("piped"));
        let stderr = read_all(process.pipes().stderr.take().expect("piped"));
        Self { process, stdout, stderr }
    }

    /// Sends it a signal, unless it has ended.
    pub fn signal(&mut self, signal: i32) {
        if self.process.ended().is_none() {
            self.process.signal(signal);
        }
    }

    /// What has become of it, if it and its output have ended by then.
    pub fn end(&mut self, by: Instant) -> Option<Ended> {
        let (begin, left) = (Instant::now(), || by.saturating_duration_since(Instant::now()));
        let status = self.process.wait(left())?;
        let stdout = self.stdout.recv_timeout(left()).ok()?;
        let stderr = self.stderr.recv_timeout(left()).ok()?;
        Some(Ended { code: status.code(), stdout, stderr, took: begin.elapsed() })
    }
}

/// Reads a stream to its end, in a thread of its own.
fn read_all(mut stream: impl Read + Send + 'static) -> Receiver<String> {
    let (send, receive) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        // A test that has failed listens no more.
        let _ = send.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receive
}
