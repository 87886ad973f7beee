//! What a wait waits on, as JSON has it, and its one line for people.

use std::{borrow::Cow, fmt, net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    model::{
        target::{Target, WatchedFd},
        tcp::{TcpFacts, TcpState},
        wait::SocketFacts,
    },
    util::human,
};

/// Before the pid of who has made a Unix socket.
const MADE_BY: &str = " made by pid ";
/// Columns of a place that are worth showing beside who is waited for.
const PLACE_MIN: usize = 12;

/// Fds of a set that a line names.
const NAMED_FDS_MAX: usize = 8;

/// What a wait waits on: the `target` object of the JSON contract.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TargetObject {
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
        timers: TimersObject,
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
        watched: Vec<WatchedObject>,
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

/// What the kernel does of itself on a TCP connection. Where that is not to be seen, as it is by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TimersObject {
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

impl TimersObject {
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
pub struct WatchedObject {
    /// Its number.
    pub fd: i32,
    /// What it is.
    #[serde(flatten)]
    pub target: TargetObject,
}

impl WatchedObject {
    fn new(watched: &WatchedFd) -> Self {
        Self { fd: watched.fd, target: TargetObject::with(&watched.target, watched.facts.as_deref()) }
    }
}

impl TargetObject {
    /// The socket's own address and its peer's, empty where there is none; of a unix socket, its path.
    pub fn addresses(&self) -> (String, String) {
        match self {
            Self::Tcp { local, remote, .. } => (local.to_string(), remote.to_string()),
            Self::Udp { local, remote, .. } => {
                (local.to_string(), remote.map(|remote| remote.to_string()).unwrap_or_default())
            }
            Self::Unix { path: Some(path), .. } => (String::new(), path.clone()),
            _ => (String::new(), String::new()),
        }
    }

    /// Of what a wait waits on, with what was seen of its socket.
    pub fn new(target: &Target, socket: &SocketFacts) -> Self {
        Self::with(target, socket.tcp())
    }

    fn with(target: &Target, facts: Option<&TcpFacts>) -> Self {
        match target.clone() {
            Target::Tcp { local, remote, state, inode, timeout } => {
                let activity = facts.and_then(|facts| facts.activity.as_ref());
                let seconds = |duration: Option<Duration>| duration.map(|duration| duration.as_secs_f64());
                Self::Tcp {
                    local,
                    remote,
                    state,
                    inode,
                    sent_seconds: seconds(activity.and_then(|activity| activity.sent)),
                    received_seconds: seconds(activity.and_then(|activity| activity.received)),
                    bytes_sent: activity.map_or(0, |activity| activity.bytes_sent_once()),
                    bytes_received: activity.map_or(0, |activity| activity.bytes_received),
                    retransmits: activity.map_or(0, |activity| activity.retransmits),
                    keepalive: facts.is_some_and(|facts| facts.keepalive),
                    timeout_seconds: seconds(timeout),
                    unacknowledged: facts.map_or(0, TcpFacts::unacknowledged),
                    timers: facts.map(TimersObject::of).unwrap_or_default(),
                }
            }
            Target::Udp { local, remote, inode } => {
                let state = if remote.is_some() { UdpState::Connected } else { UdpState::Unconnected };
                Self::Udp { local, remote, state, inode }
            }
            Target::Unix { path, inode, peer_inode, peer_pid, .. } => {
                Self::Unix { path, inode, peer_inode, peer_pid }
            }
            Target::Socket { family, inode } => Self::Socket { family: family.map(Cow::Borrowed), inode },
            Target::Pipe { inode } => Self::Pipe { inode },
            Target::Fifo { path, inode } => Self::Fifo { path, inode },
            Target::File { path, inode, deleted, .. } => Self::File { path, inode, deleted },
            Target::Page { path } => Self::Page { path },
            Target::Memfd { name, inode } => Self::Memfd { name, inode },
            Target::Tty { path } => Self::Tty { path },
            Target::Device { path } => Self::Device { path },
            Target::Eventfd { id } => Self::Eventfd { id },
            Target::Timerfd => Self::Timerfd,
            Target::Signalfd { mask } => Self::Signalfd { mask },
            Target::Inotify => Self::Inotify,
            Target::Fanotify => Self::Fanotify,
            Target::Epoll { watched } => Self::Epoll { watched },
            Target::Pidfd { pid } => Self::Pidfd { pid },
            Target::IoUring => Self::IoUring,
            Target::Anonymous { name } => Self::Anonymous { name },
            Target::Fds { watched } => {
                Self::Fds { watched: watched.iter().map(WatchedObject::new).collect() }
            }
            Target::Futex { address } => Self::Futex { address: format!("{address:#x}") },
            Target::Semaphores { set } => Self::Semaphores { set },
            Target::MessageQueue { id } => Self::MessageQueue { id },
            Target::Gone => Self::Gone,
            Target::Reused => Self::Reused,
            Target::Unreadable { reason } => Self::Unreadable { reason },
            Target::None => Self::None,
        }
    }

    /// One line of at most `width` columns: the peer is kept before the own address, a path's end before its start.
    pub fn fitted(&self, width: usize) -> String {
        let whole = human::clean(&self.to_string());
        if human::columns(&whole) <= width {
            return whole;
        }
        if let Some(short) = self.short() {
            // The port says more than the rest of an address.
            let address = short.split_once(' ').map_or(&*short, |(_, address)| address);
            let fits = |text: &&str| human::columns(text) <= width;
            let fitting = [&*short, address].into_iter().find(fits).map(str::to_owned);
            return fitting.unwrap_or_else(|| human::fit_end(address, width));
        }
        if self.is_place() { human::fit_end(&whole, width) } else { human::fit(&whole, width) }
    }

    /// Whether it has a path.
    fn is_place(&self) -> bool {
        matches!(
            self,
            TargetObject::File { .. }
                | TargetObject::Page { .. }
                | TargetObject::Fifo { .. }
                | TargetObject::Device { .. }
                | TargetObject::Tty { .. }
        )
    }
}

impl TargetObject {
    /// Whoever may be at the other end: addresses, or paths of unix sockets.
    pub fn peers(&self) -> Vec<(Option<SocketAddr>, Option<&str>)> {
        match self {
            TargetObject::Tcp { remote, .. } => vec![(Some(*remote), None)],
            TargetObject::Udp { remote, .. } => vec![(*remote, None)],
            TargetObject::Unix { path, .. } => vec![(None, path.as_deref())],
            TargetObject::Fds { watched } => watched.iter().flat_map(|one| one.target.peers()).collect(),
            _ => Vec::new(),
        }
    }

    /// For people, of a connection only the other end.
    pub fn without_local(&self) -> String {
        self.short().unwrap_or_else(|| human::clean(&self.to_string()))
    }

    /// A connection's other end, with what kind it is of; of others nothing.
    fn short(&self) -> Option<String> {
        match self {
            TargetObject::Tcp { remote, state, .. } if *state != TcpState::Listen => {
                Some(format!("tcp → {remote}"))
            }
            TargetObject::Udp { remote: Some(remote), .. } => Some(format!("udp → {remote}")),
            _ => None,
        }
    }

    /// Whether people call it so: by the address of the other end, with or without the port, or by its path.
    pub fn is_called(&self, text: &str) -> bool {
        let of = |address: &SocketAddr| address.to_string() == text || address.ip().to_string() == text;
        let is_peer = self
            .peers()
            .iter()
            .any(|(address, path)| address.as_ref().is_some_and(of) || *path == Some(text));
        is_peer
            || match self {
                TargetObject::File { path, .. }
                | TargetObject::Fifo { path, .. }
                | TargetObject::Page { path }
                | TargetObject::Device { path } => path == text,
                _ => false,
            }
    }

    /// The same with the process, or thread, that is waited for, if there is room for it: who has the other end of a connection says more
    /// than what kind of connection it is, and more than its address.
    pub fn fitted_with_peer(&self, width: usize, id: u32, comm: &str) -> String {
        let comm = human::clean(comm);
        let peer = format!(" ({comm} {id})");
        let whole = human::clean(&self.to_string());
        let named = match (self.short(), self) {
            (Some(short), _) => {
                let address = short.split_once(' ').map_or(&*short, |(_, address)| address);
                vec![
                    whole + &peer,
                    format!("{short}{peer}"),
                    format!("{address}{peer}"),
                    format!("→ {comm} ({id})"),
                    format!("→ {comm}"),
                ]
            }
            (None, TargetObject::Unix { peer_pid: None, .. }) => vec![whole + &peer],
            // Who has it now says more than who made it.
            (None, TargetObject::Unix { peer_pid: Some(_), .. }) => {
                let place = whole.split(MADE_BY).next().unwrap_or(&whole);
                vec![format!("{place}{peer}"), format!("→ {comm} ({id})"), format!("→ {comm}")]
            }
            (None, _) if whole.is_empty() => vec![format!("→ {comm} ({id})"), format!("→ {comm}")],
            (None, _) => {
                // The end of a path is what tells it from others.
                let left = width.saturating_sub(human::columns(&peer));
                let place = (self.is_place() && left >= PLACE_MIN).then(|| self.fitted(left) + &peer);
                let named = [format!("→ {comm} ({id})"), format!("→ {comm}")];
                [whole + &peer].into_iter().chain(place).chain(named).collect()
            }
        };
        named.into_iter().find(|named| human::columns(named) <= width).unwrap_or_else(|| self.fitted(width))
    }
}

impl fmt::Display for TargetObject {
    /// One line for people; addresses print as `192.0.2.1:443` and `[2001:db8::1]:443`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let deleted = |deleted: &bool| if *deleted { " (deleted)" } else { "" };
        match self {
            TargetObject::Tcp { local, remote, state: TcpState::Established, .. } => {
                write!(f, "tcp {local} → {remote}")
            }
            // Of a call that has ended, the addresses are known.
            TargetObject::Tcp { local, remote, state: TcpState::Unknown, .. } if remote.port() == 0 => {
                write!(f, "tcp {local}")
            }
            TargetObject::Tcp { local, remote, state: TcpState::Unknown, .. } if local.port() == 0 => {
                write!(f, "tcp → {remote}")
            }
            TargetObject::Tcp { local, remote, state: TcpState::Unknown, .. } => {
                write!(f, "tcp {local} → {remote}")
            }
            TargetObject::Tcp { local, state: TcpState::Listen, .. } => write!(f, "tcp {local} listening"),
            TargetObject::Tcp { local, remote, state, .. } => {
                write!(f, "tcp {local} → {remote} {}", state.name())
            }
            TargetObject::Udp { local, remote: Some(remote), .. } => write!(f, "udp {local} → {remote}"),
            TargetObject::Udp { local, .. } => write!(f, "udp {local}"),
            TargetObject::Unix { path, peer_pid, inode, .. } => {
                match path {
                    Some(path) => write!(f, "unix {path}")?,
                    None => write!(f, "unix [{inode}]")?,
                }
                peer_pid.map_or(Ok(()), |pid| write!(f, "{MADE_BY}{pid}"))
            }
            TargetObject::Socket { family, inode } => {
                write!(f, "{} socket [{inode}]", family.as_deref().unwrap_or("a"))
            }
            TargetObject::Pipe { inode } => write!(f, "pipe [{inode}]"),
            TargetObject::Fifo { path, .. } => write!(f, "fifo {path}"),
            TargetObject::File { path, deleted: gone, .. } => write!(f, "{path}{}", deleted(gone)),
            TargetObject::Page { path } => write!(f, "page of {path}"),
            TargetObject::Memfd { name, .. } => write!(f, "memfd {name}"),
            TargetObject::Tty { path } | TargetObject::Device { path } => write!(f, "{path}"),
            TargetObject::Eventfd { .. } => write!(f, "eventfd"),
            TargetObject::Timerfd => write!(f, "timerfd"),
            TargetObject::Signalfd { .. } => write!(f, "signalfd"),
            TargetObject::Inotify => write!(f, "inotify"),
            TargetObject::Fanotify => write!(f, "fanotify"),
            TargetObject::Epoll { watched } => write!(f, "epoll of {}", human::count(*watched, "fd")),
            TargetObject::Pidfd { pid: Some(pid) } => write!(f, "process {pid}"),
            TargetObject::Pidfd { .. } => write!(f, "pidfd"),
            TargetObject::IoUring => write!(f, "io_uring"),
            TargetObject::Anonymous { name } => write!(f, "{name}"),
            TargetObject::Fds { watched } if watched.is_empty() => Ok(()),
            TargetObject::Fds { watched } => {
                let first: Vec<String> =
                    watched.iter().take(NAMED_FDS_MAX).map(|watched| watched.fd.to_string()).collect();
                write!(f, "{}: {}", human::count(watched.len(), "fd"), first.join(" "))?;
                match watched.len().saturating_sub(NAMED_FDS_MAX) {
                    0 => Ok(()),
                    more => write!(f, " and {more} more"),
                }
            }
            TargetObject::Futex { address } => write!(f, "futex {address}"),
            TargetObject::Semaphores { set } => write!(f, "semaphore set {set}"),
            TargetObject::MessageQueue { id } => write!(f, "message queue {id}"),
            TargetObject::Gone => write!(f, "fd closed meanwhile"),
            TargetObject::Reused => write!(f, "fd closed and reused meanwhile"),
            TargetObject::Unreadable { reason } => write!(f, "unknown: {reason}"),
            TargetObject::None => Ok(()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        TargetObject::with(self, None).fmt(f)
    }
}
