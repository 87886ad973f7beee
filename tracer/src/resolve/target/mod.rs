//! What a wait waits on: the type, as JSON has it, and its one line for people.

mod found;

use std::{borrow::Cow, fmt, net::SocketAddr};

use serde::{Deserialize, Serialize};

pub use self::found::{has_name, is_socket_or_pipe, kind_of, kind_of_file, of, pidfd, sketch};
use super::poll::Interest;
use crate::{model::tcp::TcpFacts, util::human};

pub use crate::model::tcp::TcpState;

/// Fds of a set that a line names.
const NAMED: usize = 8;

/// What a wait waits on. Serialises to the `target` object of the JSON contract.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
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
        /// Since data was last sent; null if never.
        sent_seconds: Option<f64>,
        /// Since data was last received; null if never.
        received_seconds: Option<f64>,
        /// Payload bytes sent, without retransmissions.
        bytes_sent: u64,
        /// Payload bytes received.
        bytes_received: u64,
        /// Retransmissions without an answer.
        retransmits: u8,
        /// `SO_KEEPALIVE` is on.
        keepalive: bool,
        /// Time-out of the socket for the direction waited on; null for none.
        timeout_seconds: Option<f64>,
        /// Written by the program and not acknowledged, bytes.
        unacknowledged: u32,
        /// What the kernel does of itself.
        #[serde(flatten)]
        timers: Timers,
    },
    /// A UDP socket.
    Udp {
        /// Own address.
        local: SocketAddr,
        /// Peer's address; null where it is not connected.
        remote: Option<SocketAddr>,
        /// Whether it has a peer.
        state: UdpState,
        /// Socket's inode number.
        inode: u64,
    },
    /// A unix socket.
    Unix {
        /// Address this end is bound to, else the peer's; null if neither is.
        path: Option<String>,
        /// Socket's inode number.
        inode: u64,
        /// Peer's inode number.
        peer_inode: Option<u64>,
        /// Process that made the peer's end.
        peer_pid: Option<u32>,
        /// It has no connection: datagrams.
        #[serde(skip)]
        datagram: bool,
        /// The peer's end is bound to a path: we came to it.
        #[serde(skip)]
        client: bool,
    },
    /// Another socket.
    Socket {
        /// Its family, if known.
        family: Option<Cow<'static, str>>,
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
        #[serde(skip)]
        made_up: bool,
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
        /// Its address, as `0x…`.
        address: String,
    },
    /// System V semaphores.
    Semaphores {
        /// Their set's id.
        set: i32,
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

/// What the kernel does of itself on a TCP connection. Where that is not to be seen, as it is by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Timers {
    /// How often the time to the next retransmission or probe was doubled.
    pub backoff: u8,
    /// The peer takes nothing more: it does not read.
    pub zero_window: bool,
    /// Silence before the first keepalive probe; null where keepalive is off, and so below.
    pub keepalive_after_seconds: Option<f64>,
    /// Time between two probes.
    pub keepalive_interval_seconds: Option<f64>,
    /// Probes without an answer after which the peer counts as dead.
    pub keepalive_probes: Option<u8>,
    /// In how long the kernel ends the connection if nobody answers; null if it does not.
    pub gives_up_seconds: Option<f64>,
}

impl Timers {
    fn of(facts: &TcpFacts) -> Self {
        let probes = facts.internals.filter(|_| facts.keepalive);
        Self {
            backoff: facts.activity.map_or(0, |activity| activity.backoff),
            zero_window: facts.is_full(),
            keepalive_after_seconds: probes.map(|of| of.keepalive_after.as_secs_f64()),
            keepalive_interval_seconds: probes.map(|of| of.keepalive_interval.as_secs_f64()),
            keepalive_probes: probes.map(|of| of.keepalive_probes),
            gives_up_seconds: facts.gives_up().map(|left| left.as_secs_f64()),
        }
    }
}

/// Whether a UDP socket has a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum UdpState {
    /// It has one.
    Connected,
    /// It has none.
    Unconnected,
}

/// One fd of a set that is watched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WatchedFd {
    /// Its number.
    pub fd: i32,
    /// What is wanted of it.
    #[serde(skip)]
    pub interest: Interest,
    /// What it is.
    #[serde(flatten)]
    pub target: Target,
}

impl Target {
    /// One line of at most `width` columns: the peer is kept before the own address, a path's end before its start.
    pub fn fitted(&self, width: usize) -> String {
        let whole = human::clean(&self.to_string());
        if human::columns(&whole) <= width {
            return whole;
        }
        match self {
            Target::Tcp { remote, state, .. } if *state != TcpState::Listen => {
                human::fit(&format!("tcp → {remote}"), width)
            }
            Target::Udp { remote: Some(remote), .. } => human::fit(&format!("udp → {remote}"), width),
            Target::File { .. }
            | Target::Page { .. }
            | Target::Fifo { .. }
            | Target::Device { .. }
            | Target::Tty { .. } => human::fit_end(&whole, width),
            _ => human::fit(&whole, width),
        }
    }

    /// What is the same for all connections to one peer, and for all locks of a program.
    pub fn peer(&self) -> String {
        match self {
            Target::Tcp { remote, .. } if remote.port() != 0 => format!("tcp → {remote}"),
            Target::Udp { remote: Some(remote), .. } => format!("udp → {remote}"),
            Target::Futex { .. } => String::new(),
            other => other.to_string(),
        }
    }

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

impl fmt::Display for Target {
    /// One line for people; addresses print as `192.0.2.1:443` and `[2001:db8::1]:443`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let deleted = |deleted: &bool| if *deleted { " (deleted)" } else { "" };
        match self {
            Target::Tcp { local, remote, state: TcpState::Established, .. } => {
                write!(f, "tcp {local} → {remote}")
            }
            // Of a call that has ended, the addresses are known.
            Target::Tcp { local, remote, state: TcpState::Unknown, .. } if remote.port() == 0 => {
                write!(f, "tcp {local}")
            }
            Target::Tcp { local, remote, state: TcpState::Unknown, .. } if local.port() == 0 => {
                write!(f, "tcp → {remote}")
            }
            Target::Tcp { local, remote, state: TcpState::Unknown, .. } => {
                write!(f, "tcp {local} → {remote}")
            }
            Target::Tcp { local, state: TcpState::Listen, .. } => write!(f, "tcp {local} listening"),
            Target::Tcp { local, remote, state, .. } => write!(f, "tcp {local} → {remote} {}", state.name()),
            Target::Udp { local, remote: Some(remote), .. } => write!(f, "udp {local} → {remote}"),
            Target::Udp { local, .. } => write!(f, "udp {local}"),
            Target::Unix { path, peer_pid, inode, .. } => {
                match path {
                    Some(path) => write!(f, "unix {path}")?,
                    None => write!(f, "unix [{inode}]")?,
                }
                peer_pid.map_or(Ok(()), |pid| write!(f, " made by pid {pid}"))
            }
            Target::Socket { family, inode } => {
                write!(f, "{} socket [{inode}]", family.as_deref().unwrap_or("a"))
            }
            Target::Pipe { inode } => write!(f, "pipe [{inode}]"),
            Target::Fifo { path, .. } => write!(f, "fifo {path}"),
            Target::File { path, deleted: gone, .. } => write!(f, "{path}{}", deleted(gone)),
            Target::Page { path } => write!(f, "page of {path}"),
            Target::Memfd { name, .. } => write!(f, "memfd {name}"),
            Target::Tty { path } | Target::Device { path } => write!(f, "{path}"),
            Target::Eventfd { .. } => write!(f, "eventfd"),
            Target::Timerfd => write!(f, "timerfd"),
            Target::Signalfd { .. } => write!(f, "signalfd"),
            Target::Inotify => write!(f, "inotify"),
            Target::Fanotify => write!(f, "fanotify"),
            Target::Epoll { watched } => write!(f, "epoll of {}", human::count(*watched, "fd")),
            Target::Pidfd { pid: Some(pid) } => write!(f, "process {pid}"),
            Target::Pidfd { .. } => write!(f, "pidfd"),
            Target::IoUring => write!(f, "io_uring"),
            Target::Anonymous { name } => write!(f, "{name}"),
            Target::Fds { watched } if watched.is_empty() => Ok(()),
            Target::Fds { watched } => {
                let first: Vec<String> =
                    watched.iter().take(NAMED).map(|watched| watched.fd.to_string()).collect();
                write!(f, "{}: {}", human::count(watched.len(), "fd"), first.join(" "))?;
                match watched.len().saturating_sub(NAMED) {
                    0 => Ok(()),
                    more => write!(f, " and {more} more"),
                }
            }
            Target::Futex { address } => write!(f, "futex {address}"),
            Target::Semaphores { set } => write!(f, "semaphore set {set}"),
            Target::Gone => write!(f, "fd closed meanwhile"),
            Target::Reused => write!(f, "fd closed and reused meanwhile"),
            Target::Unreadable { reason } => write!(f, "unknown: {reason}"),
            Target::None => Ok(()),
        }
    }
}
