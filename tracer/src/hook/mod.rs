//! `on_stall`: a program that is told of each stall. It is run by a small process of its own, started before the agent gives
//! up the right to start any, so that neither a slow nor a wicked one can harm the agent.

mod runner;

use std::{
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

pub use self::runner::run;

/// What is to be run, and how often at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// It is killed after this.
    pub timeout: Duration,
    /// Runs in a minute, second tries included.
    pub a_minute: u32,
}

/// What the runner reports: a stall nobody was told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Report {
    /// The program failed twice.
    Failed = b'f' as isize,
    /// It had been run as often as it may be.
    NotRun = b'n' as isize,
}

/// Stalls nobody was told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// The program failed, both times.
    pub failed: u64,
    /// It was not run: too often, or it takes too long.
    pub not_run: u64,
}

/// The process that runs the program, as the agent sees it.
pub struct Runner {
    socket: OwnedFd,
    losses: Mutex<Losses>,
    _child: Child,
}

impl Runner {
    /// Starts it.
    pub fn start(hook: &Hook) -> Result<Self> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .context("cannot make a socket for the hook")?;
        // The program itself, also where a newer one has been installed over it meanwhile.
        let mut command = Command::new(PathBuf::from("/proc/self/exe"));
        command
            .arg0("tracer")
            .arg("run-hook")
            .args(["--timeout", &format!("{}ms", hook.timeout.as_millis())])
            .args(["--a-minute", &hook.a_minute.to_string()])
            .arg("--")
            .args(&hook.command)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null());
        for variable in ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "STATE_DIRECTORY"] {
            command.env_remove(variable);
        }
        let child = command.spawn().context("cannot start the process that runs the hook")?;
        Ok(Self { socket: ours, losses: Mutex::default(), _child: child })
    }

    /// Has the program told of a stall. Never waits: where there is no room, the loss is counted.
    pub fn tell(&self, line: &str) {
        if send(self.socket.as_fd(), line.as_bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_err() {
            self.add(|losses| losses.not_run += 1);
        }
    }

    /// Losses so far.
    pub fn losses(&self) -> Losses {
        let mut reports = [0; 64];
        // One report is one message.
        while let Ok((1.., _)) = recv(self.socket.as_fd(), &mut reports[..], RecvFlags::DONTWAIT) {
            match reports[0] {
                b'f' => self.add(|losses| losses.failed += 1),
                _ => self.add(|losses| losses.not_run += 1),
            }
        }
        *self.losses.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn add(&self, what: impl FnOnce(&mut Losses)) {
        what(&mut self.losses.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}
