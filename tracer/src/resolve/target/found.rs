//! What a wait waits on: the kernel's record where it says, `/proc` where it does not, and honesty where neither can.

use std::{net::SocketAddr, sync::OnceLock, time::Duration};

use tracer_ebpf::abi::{File, Tcp};

use super::{
    super::{
        fd::{self, Mounts},
        page, path, poll, semaphore,
    },
    Target, TcpState, Timers, UdpState,
};
use crate::model::syscalls::PAGE_FAULT;
use crate::model::wait::{FdState, SocketFacts, TcpFacts, UnixFacts, Wait, socket_addr};
use crate::procfs::Reads;

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

/// Looks the target of a wait up.
pub fn of(wait: &Wait, reads: &mut Reads, mounts: &mut Mounts) -> Target {
    let (process, tid) = (wait.thread.process, wait.thread.tid);
    match (wait.fd_state, wait.fd) {
        (FdState::Open(file), _) if never_stored(&file) && page::is_waited_for(wait, reads) => {
            page::of(process, reads).map_or(Target::None, |path| Target::Page { path })
        }
        (FdState::Absent, Some(fd)) if fd >= 0 => Target::Gone,
        (FdState::Absent, _) => Target::Unreadable { reason: "the call's fd is no number of an fd".into() },
        (FdState::Unknown, Some(fd)) => device(fd::look_up(process, tid, fd, None, mounts, reads), 0),
        (FdState::Open(file), Some(fd)) if has_name(&wait.fd_state, wait.call.name) => {
            let named = fd::look_up(process, tid, fd, Some(file.inode), mounts, reads);
            device(named, file.mode & S_IFMT).with_rdev(file.rdev)
        }
        (FdState::Open(file), Some(_)) => match file.mode & S_IFMT {
            S_IFSOCK => of_socket(wait, &file),
            // The fd was closed and given out again.
            _ if is_for_sockets(wait.call.name) => Target::Reused,
            _ => Target::Pipe { inode: file.inode },
        },
        _ => without_fd(wait, mounts, reads),
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

/// Whether the fd that a call waits on is something that has a name to be looked up.
pub fn has_name(state: &FdState, call: &str) -> bool {
    match state {
        FdState::Unknown => true,
        FdState::Open(file) => match file.mode & S_IFMT {
            S_IFSOCK => false,
            _ if is_for_sockets(call) => false,
            S_IFIFO => Some(file.dev) != pipe_device(),
            _ => true,
        },
        FdState::Absent | FdState::None => false,
    }
}

/// Whether only a socket can block a call.
fn is_for_sockets(call: &str) -> bool {
    call.starts_with("recv") || call.starts_with("send") && !call.starts_with("sendfile")
}

/// Whether nobody waits for storage on it.
fn never_stored(file: &File) -> bool {
    matches!(file.mode & S_IFMT, S_IFSOCK | S_IFIFO | S_IFCHR)
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
    let sends = matches!(crate::model::syscalls::way(wait.call.name), crate::model::syscalls::Way::Out)
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
        unacknowledged: crate::diagnose::progress::unacknowledged(facts),
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

fn without_fd(wait: &Wait, mounts: &mut Mounts, reads: &mut Reads) -> Target {
    if let Some(fd) = pidfd(wait) {
        return fd::look_up(wait.thread.process, wait.thread.tid, fd, None, mounts, reads);
    }
    match wait.call.name {
        name if name.starts_with("futex") => Target::Futex { address: format!("{:#x}", wait.call.args[0]) },
        // The kernel takes the lower half of the register.
        name if semaphore::is_semaphore(name) => Target::Semaphores { set: wait.call.args[0] as u32 as i32 },
        PAGE_FAULT => page::of(wait.thread.process, reads).map_or(Target::None, |path| Target::Page { path }),
        name if path::takes_path(name) => match path::of(wait, reads) {
            Some(path) => {
                let is_fifo = path::opens(name) && path::waits_for_partner(wait, &path, reads);
                let path = path.to_string_lossy().into_owned();
                if is_fifo {
                    Target::Fifo { path, inode: None }
                } else {
                    // A line without a carrier keeps who opens it waiting: it is a terminal by its name.
                    device(Target::File { path, inode: None, deleted: false, made_up: false }, 0)
                }
            }
            None => Target::Unreadable { reason: "its path could not be read".into() },
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
