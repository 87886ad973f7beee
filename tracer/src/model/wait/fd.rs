//! What a source saw of an fd: its file, and the socket, terminal or ring behind it.

use std::time::Duration;

use super::ids::ThreadId;
use crate::{model::backlog::Backlog, model::file::OpenFile, model::target::Interest, model::tcp::TcpFacts};

/// What the kernel's record says about the fd a call waits on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FdState {
    /// The call has no fd.
    None,
    /// Open, with what its file is.
    Open(OpenFile),
    /// The call's fd was not open when it was looked up.
    Absent,
    /// The source does not see into the kernel: `/proc/PID/fd` has to say.
    Unknown,
}

impl FdState {
    /// The file, if it is known.
    pub fn file(&self) -> Option<&OpenFile> {
        match self {
            FdState::Open(file) => Some(file),
            FdState::None | FdState::Absent | FdState::Unknown => None,
        }
    }

    /// Inode number of the file, if it is known.
    pub fn inode(&self) -> Option<u64> {
        self.file().map(|file| file.inode)
    }
}

/// What lies unread in the queue of a unix socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Queued {
    /// Nothing.
    #[default]
    Nothing,
    /// So many messages.
    Messages(u32),
    /// Bytes, in nobody knows how many messages.
    Bytes,
}

/// The two ends of a unix socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnixFacts {
    /// Address of this end; an abstract one begins with `@`.
    pub path: Option<String>,
    /// Address of the peer.
    pub peer_path: Option<String>,
    /// Inode of the peer's socket.
    pub peer_inode: Option<u64>,
    /// Process that made the peer's end.
    pub peer_pid: Option<u32>,
    /// What we sent that lies unread in the peer's queue.
    pub unread: Queued,
    /// How many messages the peer's queue takes, where that is bounded by their number.
    pub peer_limit: Option<u32>,
    /// It is connected, and nobody has accepted the connection yet.
    pub unaccepted: bool,
    /// What waits in its own queue, where that is a listener's, or one of datagrams.
    pub backlog: Option<Backlog>,
    /// `SO_RCVTIMEO`, if it is set and that is seen.
    pub receive_timeout: Option<Duration>,
    /// `SO_SNDTIMEO`, likewise.
    pub send_timeout: Option<Duration>,
}

/// What a UDP socket keeps of itself: no time, and no counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpFacts {
    /// Its program has received a datagram on it.
    pub has_received: bool,
    /// `SO_RCVTIMEO`, if set.
    pub receive_timeout: Option<Duration>,
    /// `SO_SNDTIMEO`, if set.
    pub send_timeout: Option<Duration>,
}

/// What a source saw of the socket behind the fd. The facts lie apart: most of a host's waits have none, and all waits are moved at
/// each look.
#[derive(Clone, Debug, PartialEq)]
pub enum SocketFacts {
    /// Nothing, or not a socket with facts.
    None,
    /// A TCP connection.
    Tcp(Box<TcpFacts>),
    /// A unix socket.
    Unix(Box<UnixFacts>),
    /// A UDP socket.
    Udp(UdpFacts),
}

impl SocketFacts {
    /// The socket's own time-out for who sends, or for who receives, if it is set and that is seen.
    pub fn timeout(&self, sends: bool) -> Option<Duration> {
        let (receive, send) = match self {
            SocketFacts::Tcp(facts) => return facts.timeout(sends),
            SocketFacts::Unix(facts) => (facts.receive_timeout, facts.send_timeout),
            SocketFacts::Udp(facts) => (facts.receive_timeout, facts.send_timeout),
            SocketFacts::None => return None,
        };
        if sends { send } else { receive }
    }

    /// What was seen of a TCP connection.
    pub fn tcp(&self) -> Option<&TcpFacts> {
        match self {
            SocketFacts::Tcp(facts) => Some(facts),
            SocketFacts::Unix(_) | SocketFacts::Udp(_) | SocketFacts::None => None,
        }
    }

    /// What was seen of a unix socket.
    pub fn unix(&self) -> Option<&UnixFacts> {
        match self {
            SocketFacts::Unix(facts) => Some(facts),
            SocketFacts::Tcp(_) | SocketFacts::Udp(_) | SocketFacts::None => None,
        }
    }

    /// What waits in its queue, where that is a listener's, or one of datagrams.
    pub fn backlog(&self) -> Option<Backlog> {
        match self {
            SocketFacts::Tcp(facts) => facts.backlog,
            SocketFacts::Unix(facts) => facts.backlog,
            SocketFacts::Udp(_) | SocketFacts::None => None,
        }
    }
}

/// An fd that was looked up.
#[derive(Clone, Debug, PartialEq)]
pub struct SeenFd {
    /// Whose.
    pub thread: ThreadId,
    /// Its number.
    pub fd: i32,
    /// What it is.
    pub state: FdState,
    /// What the source saw of the socket.
    pub socket: SocketFacts,
    /// Of a terminal, whether its output goes on. `None`: not a terminal, or not to be seen.
    pub flow: Option<OutputFlow>,
}

/// A request of io_uring that a thread waits for.
#[derive(Clone, Debug, PartialEq)]
pub struct RingRequest {
    /// Whose.
    pub thread: ThreadId,
    /// The fd that it is on; `None`: a file that is registered with the ring.
    pub fd: Option<i32>,
    /// What it wants of it.
    pub interest: Interest,
    /// What the file is.
    pub state: FdState,
    /// What the source saw of the socket.
    pub socket: SocketFacts,
}

/// Whether what is written to a terminal leaves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputFlow {
    /// It does, as far as somebody reads it.
    Runs,
    /// It was stopped, by Ctrl-S or by tcflow(3).
    Stopped,
}
