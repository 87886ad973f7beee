//! What a wait waits on: the kernel's record where it says, `/proc` where it does not, and honesty where neither can.

use std::{borrow::Cow, fmt, net::SocketAddr, sync::OnceLock, time::Duration};

use serde::{Deserialize, Serialize};
use tracer_ebpf::abi::{File, Tcp};

use super::{
    fd,
    guard::Guard,
    path,
    poll::{self, Interest},
};
use crate::wait::{FdState, Record, SocketFacts, TcpFacts, UnixFacts, Wait, socket_addr};
use crate::{human, timers};

const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;
const S_IFBLK: u16 = 0o060_000;
const S_IFCHR: u16 = 0o020_000;
const S_IFIFO: u16 = 0o010_000;
const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const IPPROTO_TCP: u16 = 6;
const IPPROTO_UDP: u16 = 17;
const SOCK_STREAM: u16 = 1;
const SOCK_DGRAM: u16 = 2;

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
        let probes = facts.keepalive && facts.record == Record::Whole;
        let seconds = |duration: Duration| probes.then_some(duration.as_secs_f64());
        Self {
            backoff: facts.raw.backoff,
            zero_window: facts.is_full(),
            keepalive_after_seconds: seconds(facts.keepalive_after),
            keepalive_interval_seconds: seconds(facts.keepalive_interval),
            keepalive_probes: probes.then_some(facts.keepalive_probes),
            gives_up_seconds: timers::gives_up(facts).map(|left| left.as_secs_f64()),
        }
    }
}

/// State of a TCP connection (include/net/tcp_states.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TcpState {
    Unknown,
    Established,
    SynSent,
    SynRecv,
    FinWait1,
    FinWait2,
    TimeWait,
    Close,
    CloseWait,
    LastAck,
    Listen,
    Closing,
    NewSynRecv,
}

impl TcpState {
    const NAMES: [(TcpState, &str); 13] = [
        (TcpState::Unknown, "UNKNOWN"),
        (TcpState::Established, "ESTABLISHED"),
        (TcpState::SynSent, "SYN_SENT"),
        (TcpState::SynRecv, "SYN_RECV"),
        (TcpState::FinWait1, "FIN_WAIT1"),
        (TcpState::FinWait2, "FIN_WAIT2"),
        (TcpState::TimeWait, "TIME_WAIT"),
        (TcpState::Close, "CLOSE"),
        (TcpState::CloseWait, "CLOSE_WAIT"),
        (TcpState::LastAck, "LAST_ACK"),
        (TcpState::Listen, "LISTEN"),
        (TcpState::Closing, "CLOSING"),
        (TcpState::NewSynRecv, "NEW_SYN_RECV"),
    ];

    /// By the kernel's number.
    pub fn of(number: u8) -> Self {
        Self::NAMES.get(usize::from(number)).map_or(Self::Unknown, |(state, _)| *state)
    }

    /// As `/proc/net/tcp`'s readers call it.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize].1
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

/// Looks the target of a wait up.
pub fn of(wait: &Wait, guard: &mut Guard) -> Target {
    let (pid, tid) = (wait.thread.process.pid, wait.thread.tid);
    match (wait.fd_state, wait.fd) {
        (FdState::Absent, Some(fd)) if fd >= 0 => Target::Gone,
        (FdState::Absent, _) => Target::Unreadable { reason: "the call's fd is no number of an fd".into() },
        (FdState::Unknown, Some(fd)) => device(fd::look_up(pid, tid, fd, None), 0),
        (FdState::Open(file), Some(fd)) => of_file(wait, fd, &file),
        _ => without_fd(wait, guard),
    }
}

/// The target by the kernel's record alone, without its name.
pub fn sketch(wait: &Wait) -> Target {
    let FdState::Open(file) = wait.fd_state else { return Target::None };
    let path = String::new;
    match file.mode & S_IFMT {
        S_IFSOCK => of_socket(wait, &file),
        S_IFIFO => Target::Pipe { inode: file.inode },
        S_IFCHR if is_tty(file.rdev) => Target::Tty { path: path() },
        S_IFCHR | S_IFBLK => Target::Device { path: path() },
        0 => Target::Anonymous { name: path() },
        _ => Target::File { path: path(), inode: Some(file.inode), deleted: false, made_up: false },
    }
}

fn of_file(wait: &Wait, fd: i32, file: &File) -> Target {
    if file.mode & S_IFMT == S_IFSOCK {
        return of_socket(wait, file);
    }
    if wait.call.name.starts_with("recv")
        || wait.call.name.starts_with("send") && wait.call.name != "sendfile"
    {
        // Only a socket can block these: the fd was closed and given out again.
        return Target::Reused;
    }
    if file.mode & S_IFMT == S_IFIFO && Some(file.dev) == pipe_device() {
        // It has no name that could be looked up.
        return Target::Pipe { inode: file.inode };
    }
    let named = fd::look_up(wait.thread.process.pid, wait.thread.tid, fd, Some(file.inode));
    device(named, file.mode & S_IFMT).with_rdev(file.rdev)
}

/// Whether it is a socket or a pipe, each of which has an inode of its own.
pub fn is_socket_or_pipe(file: &File) -> bool {
    matches!(file.mode & S_IFMT, S_IFSOCK | S_IFIFO)
}

/// The device of the file system that anonymous pipes are in, in the kernel's own encoding: as a pipe of ours has it.
fn pipe_device() -> Option<u32> {
    static DEVICE: OnceLock<Option<u32>> = OnceLock::new();
    *DEVICE.get_or_init(|| {
        let (reader, _) = rustix::pipe::pipe().ok()?;
        let device = rustix::fs::fstat(reader).ok()?.st_dev;
        Some(libc::major(device) << 20 | libc::minor(device))
    })
}

/// Tells device files and FIFOs from regular ones: their names look alike.
fn device(named: Target, kind: u16) -> Target {
    match (named, kind) {
        (Target::File { path, .. }, S_IFCHR | S_IFBLK) => Target::Device { path },
        (Target::File { path, inode, .. }, S_IFIFO) => Target::Fifo { path, inode },
        (Target::File { path, .. }, 0) if path.starts_with("/dev/pts/") || path.starts_with("/dev/tty") => {
            Target::Tty { path }
        }
        (other, _) => other,
    }
}

impl Target {
    fn with_rdev(self, rdev: u32) -> Target {
        match self {
            Target::Device { path } if is_tty(rdev) => Target::Tty { path },
            other => other,
        }
    }

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
            Target::File { .. } | Target::Fifo { .. } | Target::Device { .. } | Target::Tty { .. } => {
                human::fit_end(&whole, width)
            }
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

/// Terminal devices by major number: virtual consoles and serial lines, `/dev/tty`, pseudo-terminals
/// (Documentation/admin-guide/devices.txt). The kernel's own encoding has the major number above bit 20.
fn is_tty(rdev: u32) -> bool {
    matches!(rdev >> 20, 4 | 5 | 136..=143 | 204)
}

fn of_socket(wait: &Wait, file: &File) -> Target {
    let local = socket_addr(file.local, file.local_port);
    let remote = socket_addr(file.remote, file.remote_port);
    let connected = file.remote_port != 0;
    match (file.family, file.protocol, &wait.socket) {
        (AF_INET | AF_INET6, IPPROTO_TCP, SocketFacts::Tcp(facts)) => {
            tcp(wait, local, remote, file.inode, facts)
        }
        // The connection has gone; its addresses are known.
        (AF_INET | AF_INET6, IPPROTO_TCP, _) => {
            tcp(wait, local, remote, file.inode, &TcpFacts::table(Tcp::default()))
        }
        (AF_INET | AF_INET6, IPPROTO_UDP, _) => Target::Udp {
            local,
            remote: connected.then_some(remote),
            state: if connected { UdpState::Connected } else { UdpState::Unconnected },
            inode: file.inode,
        },
        (AF_UNIX, _, SocketFacts::Unix(UnixFacts { path, peer_path, peer_inode, peer_pid, .. })) => {
            Target::Unix {
                path: path.clone().or_else(|| peer_path.clone()),
                inode: file.inode,
                peer_inode: *peer_inode,
                peer_pid: *peer_pid,
                datagram: file.sock_type == SOCK_DGRAM,
                client: peer_path.is_some(),
            }
        }
        _ => Target::Socket { family: Some(family(file.family, file.sock_type).into()), inode: file.inode },
    }
}

fn tcp(wait: &Wait, local: SocketAddr, remote: SocketAddr, inode: u64, facts: &TcpFacts) -> Target {
    let seconds = |duration: Option<Duration>| duration.map(|duration| duration.as_secs_f64());
    let sends = matches!(crate::syscalls::way(wait.call.name), crate::syscalls::Way::Out)
        || wait.call.name == "connect";
    Target::Tcp {
        local,
        remote,
        state: TcpState::of(facts.raw.state),
        inode,
        sent_seconds: seconds(facts.sent),
        received_seconds: seconds(facts.received),
        bytes_sent: facts.raw.bytes_sent.saturating_sub(facts.raw.bytes_retrans),
        bytes_received: facts.raw.bytes_received,
        retransmits: facts.raw.retransmits,
        keepalive: facts.keepalive,
        timeout_seconds: seconds(if sends { facts.send_timeout } else { facts.receive_timeout }),
        unacknowledged: crate::progress::unacknowledged(facts),
        timers: Timers::of(facts),
    }
}

fn family(family: u16, sock_type: u16) -> &'static str {
    match (family, sock_type) {
        (AF_UNIX, _) => "unix",
        (AF_INET | AF_INET6, 3) => "raw",
        (AF_INET | AF_INET6, SOCK_STREAM) => "inet stream",
        (AF_INET | AF_INET6, _) => "inet",
        (16, _) => "netlink",
        (17, _) => "packet",
        (40, _) => "vsock",
        (38, _) => "alg",
        (31, _) => "bluetooth",
        (29, _) => "can",
        (44, _) => "xdp",
        _ => "other",
    }
}

/// The pidfd that `waitid` waits on, if it is told to wait on one.
pub fn pidfd(wait: &Wait) -> Option<i32> {
    const P_PIDFD: u64 = 3;
    (wait.call.name == "waitid" && wait.call.args[0] == P_PIDFD).then_some(wait.call.args[1] as i32)
}

fn without_fd(wait: &Wait, guard: &mut Guard) -> Target {
    if let Some(fd) = pidfd(wait) {
        return fd::look_up(wait.thread.process.pid, wait.thread.tid, fd, None);
    }
    match wait.call.name {
        name if name.starts_with("futex") => Target::Futex { address: format!("{:#x}", wait.call.args[0]) },
        "open" | "openat" | "openat2" | "creat" => match path::of(wait, guard) {
            Some(opened) => {
                let path = opened.path.to_string_lossy().into_owned();
                if opened.fifo {
                    Target::Fifo { path, inode: opened.inode }
                } else {
                    Target::File { path, inode: opened.inode, deleted: false, made_up: false }
                }
            }
            None => Target::Unreadable { reason: "the path to open could not be read".into() },
        },
        name if poll::is_set(name) => Target::Unreadable {
            reason: match poll::count(name, &wait.call.args, poll::MOST) {
                0..=poll::MOST => "its set of fds could not be read".into(),
                many => format!("its set of {many} fds is too large to be read").into(),
            },
        },
        _ => Target::None,
    }
}

/// What an open file is, in the one word that the metrics and the histograms of ended waits use.
pub fn kind_of(state: &FdState) -> &'static str {
    match state {
        FdState::Open(file) => kind_of_file(file),
        FdState::Absent => "gone",
        FdState::None | FdState::Unknown => "none",
    }
}

/// The same for a bare record; `none` for an empty one.
pub fn kind_of_file(file: &File) -> &'static str {
    match (file.mode & S_IFMT, file.family, file.protocol) {
        (S_IFSOCK, AF_INET | AF_INET6, IPPROTO_TCP) => "tcp",
        (S_IFSOCK, AF_INET | AF_INET6, IPPROTO_UDP) => "udp",
        (S_IFSOCK, AF_UNIX, _) => "unix",
        (S_IFSOCK, ..) => "socket",
        (S_IFIFO, ..) => "pipe",
        (S_IFCHR, ..) if is_tty(file.rdev) => "tty",
        (S_IFCHR | S_IFBLK, ..) => "device",
        (0, ..) if file.inode != 0 => "anonymous",
        (0, ..) => "none",
        _ => "file",
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
            Target::Gone => write!(f, "fd closed meanwhile"),
            Target::Reused => write!(f, "fd closed and reused meanwhile"),
            Target::Unreadable { reason } => write!(f, "unknown: {reason}"),
            Target::None => Ok(()),
        }
    }
}
