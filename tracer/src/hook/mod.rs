//! `on_stall` and `on_incident`: programs that are told of each stall, or of each incident. Each is run by a small process of its own, started before the agent gives
//! up the right to start any, so that neither a slow nor a malicious one can harm the agent.
//!
//! Layer 5: a sink, which uses what lies below.

mod runner;

use std::{
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};
use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair},
};

pub use self::runner::run;
use crate::config::HookConfig;
use crate::{
    assess::sink::{IncidentNotice, Notice, Sink},
    collect::losses::Loss,
    model::cgroup::Owner,
    util::fair::{Queue, Room},
};

/// Stalls that may wait until the process takes them.
const WAITING_MAX: usize = 1024;
/// Ends the name of the owner in a message; neither a unit's name nor a container's has it.
const END: char = '\0';

/// What the runner reports: a stall nobody was told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RunnerReport {
    /// The program failed twice.
    Failed = b'f' as isize,
    /// It had been run as often as it may be, or too many wait.
    NotRun = b'n' as isize,
}

/// Stalls nobody was told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Losses {
    /// The program failed, both times.
    failed: u64,
    /// It was not run: too often, or it takes too long.
    not_run: u64,
}

/// Of what a program is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Of each stall.
    Stalls,
    /// Of each incident, as it opens and as it closes.
    Incidents,
}

/// The process that runs the program, as the agent sees it.
pub struct Runner {
    told: Told,
    socket: OwnedFd,
    /// What the socket has no room for yet, by owner.
    waiting: Queue<String, String>,
    losses: Losses,
}

impl Runner {
    /// Starts it; the second is what to wait for, it does not end before the agent.
    pub fn start(hook: &HookConfig, told: Told) -> Result<(Self, Child)> {
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
        let waiting = Queue::new(Room { all: WAITING_MAX, of_one: WAITING_MAX });
        Ok((Self { told, socket: ours, waiting, losses: Losses::default() }, child))
    }

    /// Has the program told of something of this owner's. Never waits: where there is no room, the loss is counted.
    fn tell(&mut self, owner: &str, line: &str) {
        let message = format!("{owner}{END}{line}");
        if self.waiting.push(owner.to_owned(), message).is_some() {
            self.losses.not_run += 1;
        }
        self.send_on();
    }

    /// Hands on what waits, as much as the socket takes. The owners take turns.
    fn send_on(&mut self) {
        while let Some(message) = self.waiting.front() {
            match send(self.socket.as_fd(), message.as_bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(_) => {}
                Err(Errno::AGAIN) => break,
                // It is too long, or nobody is there.
                Err(_) => self.losses.not_run += 1,
            }
            self.waiting.pop();
        }
    }
}

impl Sink for Runner {
    fn stall_opened(&mut self, notice: &Notice) {
        if self.told == Told::Stalls {
            self.tell(&notice.stall.wait.owner().to_string(), notice.line());
        }
    }

    fn incident_opened(&mut self, notice: &IncidentNotice) {
        if self.told == Told::Incidents {
            let owner = notice.incident.owner.as_ref().map(Owner::to_string).unwrap_or_default();
            self.tell(&owner, notice.line());
        }
    }

    fn incident_closed(&mut self, notice: &IncidentNotice) {
        self.incident_opened(notice);
    }

    /// At each look, which is when what waits is handed on, too.
    fn losses(&mut self) -> Vec<(Loss, u64)> {
        self.send_on();
        let mut reports = [0; 64];
        // One report is one message.
        while let Ok((1.., _)) = recv(self.socket.as_fd(), &mut reports[..], RecvFlags::DONTWAIT) {
            match reports[0] {
                b'f' => self.losses.failed += 1,
                _ => self.losses.not_run += 1,
            }
        }
        vec![(Loss::HookFailed, self.losses.failed), (Loss::HookNotRun, self.losses.not_run)]
    }
}
