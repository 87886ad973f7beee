//! What a wait waits on, with the evidence for its verdict. Values only.

use std::time::Duration;

use super::peers::Peers;
use crate::{
    model::stack::KernelStack,
    model::syscalls::Direction,
    model::target::Target,
    model::tcp::{LastSender, TcpActivity},
    model::wait::{FdState, OutputFlow, SocketFacts},
};

/// What a wait waits on, and the evidence for its verdict.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// The fd that matters, if one does.
    pub fd: Option<i32>,
    /// What it is.
    pub target: Target,
    /// Which way data is to go; `None`: neither, or both.
    pub direction: Option<Direction>,
    /// The kernel's record of the fd's file.
    pub file: FdState,
    /// The socket's own facts.
    pub socket: SocketFacts,
    /// This is the server's end. `None`: not known, or no TCP.
    pub server: Option<bool>,
    /// Whose bytes were the last on a TCP connection.
    pub last_sender: Option<LastSender>,
    /// The call's own time-out, from its start.
    pub timeout: Option<Duration>,
    /// Who is at the other end. `None`: not looked up.
    pub peers: Option<Peers>,
    /// Where in the kernel it sleeps. `None`: not looked up, since call and target say enough, or not to be seen.
    pub stack: Option<KernelStack>,
    /// Of a terminal that is written to, whether its output goes on. `None`: not looked up, or not to be seen.
    pub flow: Option<OutputFlow>,
}

impl Resolved {
    /// Whether nobody can end it, since whoever could waits for this one.
    pub fn is_deadlock(&self) -> bool {
        self.peers.as_ref().is_some_and(|peers| peers.circle)
    }

    /// With no evidence yet.
    pub fn new(fd: Option<i32>, target: Target, direction: Option<Direction>) -> Self {
        Self {
            fd,
            target,
            direction,
            file: FdState::None,
            socket: SocketFacts::None,
            server: None,
            last_sender: None,
            timeout: None,
            peers: None,
            stack: None,
            flow: None,
        }
    }

    /// Takes what the source saw of the fd.
    pub(super) fn seen(mut self, file: FdState, socket: SocketFacts) -> Self {
        if let SocketFacts::Tcp(facts) = &socket {
            self.last_sender = Some(facts.last_sender());
        }
        (self.file, self.socket) = (file, socket);
        self
    }

    /// Whether the output of the terminal that it writes to was stopped: the kernel says so, or who has its other end waits for
    /// something to come, and yet there is no room.
    pub fn is_output_stopped(&self) -> bool {
        let writes = matches!(self.target, Target::Tty { .. }) && self.direction == Some(Direction::Send);
        let read = self.peers.as_ref().and_then(|peers| peers.waits);
        writes && (self.flow == Some(OutputFlow::Stopped) || self.flow.is_none() && read == Some(true))
    }

    /// The thread that holds the lock inside the kernel that it sleeps on, where the kernel says which.
    pub fn lock_holder(&self) -> Option<u32> {
        self.stack.as_ref()?.lock()?.holder
    }

    /// The time-out that its socket has for the way in which data is to go.
    pub(super) fn socket_timeout(&self) -> Option<Duration> {
        self.socket.timeout(self.direction != Some(Direction::Receive))
    }

    /// What was seen so long ago, as of now, nothing having moved meanwhile.
    pub fn grow_older(&mut self, by: Duration) {
        if let SocketFacts::Tcp(facts) = &mut self.socket
            && let Some(activity) = &mut facts.activity
        {
            activity.acknowledged += by;
            let TcpActivity { sent, received, delivered, first_sent, .. } = activity;
            for stamp in [sent, received, delivered, first_sent].into_iter().flatten() {
                *stamp += by;
            }
        }
    }

    /// Whether this is the server's end of a connection. Where it is not known, the end with the lower port counts as
    /// the server's: clients get theirs from the top.
    pub fn is_server(&self) -> bool {
        self.server.unwrap_or(match &self.target {
            Target::Tcp { local, remote, .. } => local.port() < remote.port(),
            _ => false,
        })
    }
}
