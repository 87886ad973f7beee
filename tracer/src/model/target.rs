//! What a wait waits on, as decisions need it.

use std::{borrow::Cow, net::SocketAddr, time::Duration};

use crate::model::{
    syscalls::Direction,
    tcp::{TcpFacts, TcpState},
};

/// What a wait waits on.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// A TCP socket.
    Tcp {
        /// Own address.
        local: SocketAddr,
        /// Peer's address.
        remote: SocketAddr,
        /// State of the connection.
        state: TcpState,
        /// Socket's inode number.
        inode: u64,
        /// Time-out of the socket for the direction waited on, if it is set.
        timeout: Option<Duration>,
    },
    /// A UDP socket.
    Udp {
        /// Own address.
        local: SocketAddr,
        /// Peer's address, if it is connected.
        remote: Option<SocketAddr>,
        /// Socket's inode number.
        inode: u64,
    },
    /// A unix socket.
    Unix {
        /// Address this end is bound to, else the peer's, if either is.
        path: Option<String>,
        /// Socket's inode number.
        inode: u64,
        /// Peer's inode number.
        peer_inode: Option<u64>,
        /// Process that made the peer's end.
        peer_pid: Option<u32>,
        /// It has no connection: datagrams.
        datagram: bool,
        /// The peer's end is bound to a path: we came to it.
        client: bool,
    },
    /// Another socket.
    Socket {
        /// Its family, if known.
        family: Option<&'static str>,
        /// Socket's inode number.
        inode: u64,
    },
    /// An anonymous pipe.
    Pipe {
        /// Its inode number.
        inode: u64,
    },
    /// A named pipe.
    Fifo {
        /// Its path.
        path: String,
        /// Its inode number, if known.
        inode: Option<u64>,
    },
    /// A regular file or directory.
    File {
        /// Its whole path.
        path: String,
        /// Its inode number, if known.
        inode: Option<u64>,
        /// It has been unlinked.
        deleted: bool,
        /// The kernel makes up what is in it: procfs, sysfs, tracefs and the like. There is no storage behind it.
        pseudo_fs: bool,
    },
    /// A page of memory that is to be read in.
    Page {
        /// The file that it probably is of, or the mount.
        path: String,
    },
    /// An anonymous memory file.
    Memfd {
        /// The name given to it.
        name: String,
        /// Its inode number, if known.
        inode: Option<u64>,
    },
    /// A terminal.
    Tty {
        /// Its device file.
        path: String,
    },
    /// Another device.
    Device {
        /// Its device file.
        path: String,
    },
    /// An event counter.
    Eventfd {
        /// Its id in `/proc`.
        id: Option<u64>,
    },
    /// A timer.
    Timerfd,
    /// A signal queue.
    Signalfd {
        /// The signals, as the kernel writes the mask.
        mask: Option<String>,
    },
    /// A file watch.
    Inotify,
    /// A file watch with permissions.
    Fanotify,
    /// A set of fds.
    Epoll {
        /// How many fds it watches.
        watched: usize,
    },
    /// A process.
    Pidfd {
        /// Its pid, if it lives.
        pid: Option<i64>,
    },
    /// A submission ring.
    IoUring,
    /// Another anonymous inode.
    Anonymous {
        /// What the kernel calls it.
        name: String,
    },
    /// Several fds.
    Fds {
        /// Each with its target.
        watched: Vec<WatchedFd>,
    },
    /// A word in memory.
    Futex {
        /// Its address.
        address: u64,
    },
    /// System V semaphores.
    Semaphores {
        /// Their set's id.
        set: i32,
    },
    /// A System V message queue.
    MessageQueue {
        /// Its id.
        id: i32,
    },
    /// The fd was closed while the thread waits on it.
    Gone,
    /// The fd means another file by now.
    Reused,
    /// It could not be looked up.
    Unreadable {
        /// Why.
        reason: Cow<'static, str>,
    },
    /// The call waits on nothing that has a name.
    None,
}

/// One fd of a set that is watched.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchedFd {
    /// Its number.
    pub fd: i32,
    /// What is wanted of it.
    pub interest: Interest,
    /// What it is.
    pub target: Target,
    /// What was seen of a TCP connection.
    pub facts: Option<Box<TcpFacts>>,
}

/// What a thread wants of one fd; neither: that it is told of errors, urgent data or changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Data, or a connection, to come.
    pub read: bool,
    /// Room to write.
    pub write: bool,
}

impl Interest {
    /// Which way data is to go.
    pub fn direction(self) -> Direction {
        if self.write && !self.read { Direction::Send } else { Direction::Receive }
    }

    /// Whether data is to go either way.
    pub fn is_any(self) -> bool {
        self.read || self.write
    }

    /// What either wants.
    pub fn union(self, that: Self) -> Self {
        Self { read: self.read || that.read, write: self.write || that.write }
    }
}

impl Target {
    /// The two addresses of an IP socket.
    pub fn socket_addresses(&self) -> (Option<SocketAddr>, Option<SocketAddr>) {
        match self {
            Target::Tcp { local, remote, .. } => (Some(*local), Some(*remote)),
            Target::Udp { local, remote, .. } => (Some(*local), *remote),
            _ => (None, None),
        }
    }

    /// The two addresses of a socket, empty where there are none: labels of the metrics.
    pub fn addresses(&self) -> (String, String) {
        match self {
            Target::Tcp { local, remote, .. } => (local.to_string(), remote.to_string()),
            Target::Udp { local, remote, .. } => {
                (local.to_string(), remote.map(|remote| remote.to_string()).unwrap_or_default())
            }
            Target::Unix { path: Some(path), .. } => (String::new(), path.clone()),
            _ => (String::new(), String::new()),
        }
    }
}
