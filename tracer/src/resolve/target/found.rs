//! What a wait waits on: the kernel's record where it says, `/proc` where it does not, and honesty where neither can.

use std::{sync::OnceLock, time::Duration};

use super::{
    super::{
        fd::{self, Mounts},
        page, path, poll,
    },
    Target, Timers, UdpState,
};
use crate::{
    model::{
        file::{Addresses, Device, Family, FileKind, OpenFile, OpenSocket, SocketKind, Transport},
        stack::KernelStack,
        syscalls::{Direction, Operation, Syscall},
        tcp::TcpState,
        wait::{FdState, ProcessId, SocketFacts, UnixFacts, Wait},
    },
    procfs::Reads,
};

/// Looks the target of a wait up; `stack`: where in the kernel it sleeps, if that is known.
pub fn of(wait: &Wait, stack: Option<&KernelStack>, reads: &mut Reads, mounts: &mut Mounts) -> Target {
    let (process, tid) = (wait.thread.process, wait.thread.tid);
    match (wait.fd_state, wait.fd) {
        _ if stack.is_some_and(KernelStack::is_page_fault) => page_of(process, reads),
        (FdState::Open(file), _) if never_stored(&file) && stack.is_some_and(page::is_waited_for) => {
            page_of(process, reads)
        }
        (FdState::Absent, Some(fd)) if fd >= 0 => Target::Gone,
        (FdState::Absent, _) => Target::Unreadable { reason: "the call's fd is no number of an fd".into() },
        (FdState::Unknown, Some(fd)) => device(fd::look_up(process, tid, fd, None, mounts, reads), None),
        (FdState::Open(file), Some(fd)) if has_name(&wait.fd_state, wait.call.operation()) => {
            let named = fd::look_up(process, tid, fd, Some(file.inode), mounts, reads);
            device(named, Some(&file))
        }
        (FdState::Open(file), Some(_)) => match file.socket {
            Some(socket) => of_socket(wait, file.inode, &socket),
            // The fd was closed and given out again.
            None if wait.call.operation().is_for_sockets() => Target::Reused,
            None => Target::Pipe { inode: file.inode },
        },
        _ => without_fd(wait, stack, mounts, reads),
    }
}

/// A page of the process's memory that is being read in.
fn page_of(process: ProcessId, reads: &mut Reads) -> Target {
    page::of(process, reads).map_or(Target::None, |path| Target::Page { path })
}

/// The target by the kernel's record alone, without its name.
pub fn sketch(wait: &Wait) -> Target {
    let FdState::Open(file) = wait.fd_state else { return Target::None };
    let path = String::new;
    if let Some(socket) = file.socket {
        return of_socket(wait, file.inode, &socket);
    }
    match file.kind() {
        FileKind::Fifo => Target::Pipe { inode: file.inode },
        FileKind::CharacterDevice if is_tty(file.special) => Target::Tty { path: path() },
        FileKind::CharacterDevice | FileKind::BlockDevice => Target::Device { path: path() },
        FileKind::Anonymous => Target::Anonymous { name: path() },
        FileKind::Socket | FileKind::Link | FileKind::Regular | FileKind::Directory | FileKind::Unknown => {
            Target::File { path: path(), inode: Some(file.inode), deleted: false, made_up: false }
        }
    }
}

/// Whether the fd that a call waits on is something that has a name to be looked up.
pub fn has_name(state: &FdState, operation: Operation) -> bool {
    match state {
        FdState::Unknown => true,
        FdState::Open(file) => match file.kind() {
            FileKind::Socket => false,
            _ if operation.is_for_sockets() => false,
            FileKind::Fifo => Some(file.device) != pipe_device(),
            _ => true,
        },
        FdState::Absent | FdState::None => false,
    }
}

/// Whether nobody waits for storage on it.
fn never_stored(file: &OpenFile) -> bool {
    matches!(file.kind(), FileKind::Socket | FileKind::Fifo | FileKind::CharacterDevice)
}

/// Whether it is a socket or a pipe, each of which has an inode of its own.
pub fn is_socket_or_pipe(file: &OpenFile) -> bool {
    matches!(file.kind(), FileKind::Socket | FileKind::Fifo)
}

/// The device of the file system that anonymous pipes are in: as a pipe of ours has it.
fn pipe_device() -> Option<Device> {
    static DEVICE: OnceLock<Option<Device>> = OnceLock::new();
    *DEVICE.get_or_init(|| {
        let (reader, _) = rustix::pipe::pipe().ok()?;
        Some(Device::from_stat(rustix::fs::fstat(reader).ok()?.st_dev))
    })
}

/// Tells device files and FIFOs from regular ones, whose names look alike: by the open file, by the name where that is not known.
fn device(named: Target, file: Option<&OpenFile>) -> Target {
    let Target::File { path, inode, .. } = &named else { return named };
    let path = || path.clone();
    match file.map(|file| (file.kind(), file.special)) {
        Some((FileKind::CharacterDevice | FileKind::BlockDevice, special)) if is_tty(special) => {
            Target::Tty { path: path() }
        }
        Some((FileKind::CharacterDevice | FileKind::BlockDevice, _)) => Target::Device { path: path() },
        Some((FileKind::Fifo, _)) => Target::Fifo { path: path(), inode: *inode },
        None | Some((FileKind::Anonymous, _)) if is_named_as_tty(&path()) => Target::Tty { path: path() },
        _ => named,
    }
}

fn is_named_as_tty(path: &str) -> bool {
    path.starts_with("/dev/pts/") || path.starts_with("/dev/tty")
}

/// Terminal devices by major number: virtual consoles and serial lines, `/dev/tty`, pseudo-terminals
/// (Documentation/admin-guide/devices.txt).
fn is_tty(device: Device) -> bool {
    matches!(device.major(), 4 | 5 | 136..=143 | 204)
}

fn of_socket(wait: &Wait, inode: u64, socket: &OpenSocket) -> Target {
    match (socket.transport(), &wait.socket) {
        (Some((Transport::Tcp, addresses)), facts) => tcp(wait, addresses, inode, facts),
        (Some((Transport::Udp, Addresses { local, remote })), _) => {
            let connected = remote.port != 0;
            Target::Udp {
                local: local.socket_addr(),
                remote: connected.then(|| remote.socket_addr()),
                state: if connected { UdpState::Connected } else { UdpState::Unconnected },
                inode,
            }
        }
        (None, SocketFacts::Unix(UnixFacts { path, peer_path, peer_inode, peer_pid, .. }))
            if socket.family == Family::Unix =>
        {
            Target::Unix {
                path: path.clone().or_else(|| peer_path.clone()),
                inode,
                peer_inode: *peer_inode,
                peer_pid: *peer_pid,
                datagram: socket.kind == SocketKind::Datagram,
                client: peer_path.is_some(),
            }
        }
        _ => Target::Socket { family: Some(family(socket).into()), inode },
    }
}

fn tcp(wait: &Wait, addresses: Addresses, inode: u64, facts: &SocketFacts) -> Target {
    let (local, remote) = (addresses.local.socket_addr(), addresses.remote.socket_addr());
    let SocketFacts::Tcp(facts) = facts else {
        // The connection has gone; its addresses are known.
        return Target::Tcp {
            local,
            remote,
            state: TcpState::Unknown,
            inode,
            sent_seconds: None,
            received_seconds: None,
            bytes_sent: 0,
            bytes_received: 0,
            retransmits: 0,
            keepalive: false,
            timeout_seconds: None,
            unacknowledged: 0,
            timers: Timers::default(),
        };
    };
    let seconds = |duration: Option<Duration>| duration.map(|duration| duration.as_secs_f64());
    let sends = wait.call.direction() == Some(Direction::Send) || wait.call.operation() == Operation::Connect;
    Target::Tcp {
        local,
        remote,
        state: facts.state,
        inode,
        sent_seconds: seconds(facts.sent()),
        received_seconds: seconds(facts.received()),
        bytes_sent: facts.activity.map_or(0, |activity| activity.bytes_sent_once()),
        bytes_received: facts.activity.map_or(0, |activity| activity.bytes_received),
        retransmits: facts.retransmits(),
        keepalive: facts.keepalive,
        timeout_seconds: seconds(facts.timeout(sends)),
        unacknowledged: facts.unacknowledged(),
        timers: Timers::of(facts),
    }
}

fn family(socket: &OpenSocket) -> &'static str {
    match (socket.family, socket.kind) {
        (Family::Unix, _) => "unix",
        (Family::Inet(_) | Family::Inet6(_), SocketKind::Raw) => "raw",
        (Family::Inet(_) | Family::Inet6(_), SocketKind::Stream) => "inet stream",
        (Family::Inet(_) | Family::Inet6(_), _) => "inet",
        (Family::Other(number), _) => match libc::c_int::from(number) {
            libc::AF_NETLINK => "netlink",
            libc::AF_PACKET => "packet",
            libc::AF_VSOCK => "vsock",
            libc::AF_ALG => "alg",
            libc::AF_BLUETOOTH => "bluetooth",
            libc::AF_CAN => "can",
            libc::AF_XDP => "xdp",
            _ => "other",
        },
    }
}

/// The pidfd that `waitid` waits on, if it is told to wait on one.
pub fn pidfd(wait: &Wait) -> Option<i32> {
    const P_PIDFD: u64 = 3;
    (wait.call.syscall == Syscall::Waitid && wait.call.args[0] == P_PIDFD).then_some(wait.call.args[1] as i32)
}

fn without_fd(wait: &Wait, stack: Option<&KernelStack>, mounts: &mut Mounts, reads: &mut Reads) -> Target {
    if let Some(fd) = pidfd(wait) {
        return fd::look_up(wait.thread.process, wait.thread.tid, fd, None, mounts, reads);
    }
    let args = wait.call.arguments();
    match wait.call.operation() {
        Operation::Futex | Operation::FutexCondition => Target::Futex { address: format!("{:#x}", args[0]) },
        // The kernel takes the lower half of the register.
        Operation::Semaphore => Target::Semaphores { set: args[0] as u32 as i32 },
        Operation::PageFault => page_of(wait.thread.process, reads),
        operation @ (Operation::Open | Operation::Path) => match path::of(wait, reads) {
            Some(path) => {
                let is_fifo = operation == Operation::Open && stack.is_some_and(path::waits_for_partner);
                let path = path.to_string_lossy().into_owned();
                if is_fifo {
                    Target::Fifo { path, inode: None }
                } else {
                    // A line without a carrier keeps who opens it waiting: it is a terminal by its name.
                    device(Target::File { path, inode: None, deleted: false, made_up: false }, None)
                }
            }
            None => Target::Unreadable { reason: "its path could not be read".into() },
        },
        Operation::Poll | Operation::Select => Target::Unreadable {
            reason: match poll::count(wait.call.syscall, &args, poll::MOST) {
                0..=poll::MOST => "its set of fds could not be read".into(),
                many => format!("its set of {many} fds is too large to be read").into(),
            },
        },
        Operation::Read | Operation::Write | Operation::Receive | Operation::Send | Operation::Copy => {
            Target::None
        }
        Operation::Accept | Operation::Connect | Operation::Close | Operation::Epoll => Target::None,
        Operation::Lock | Operation::Fcntl | Operation::Sync | Operation::Child => Target::None,
        Operation::Sleep | Operation::Signal | Operation::ReceiveMessage | Operation::SendMessage => {
            Target::None
        }
        Operation::Ring | Operation::RingControl | Operation::Restart | Operation::Exit => Target::None,
        Operation::Other => Target::None,
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

/// The same for an open file.
pub fn kind_of_file(file: &OpenFile) -> &'static str {
    match file.kind() {
        FileKind::Socket => {
            file.socket.map_or("socket", |socket| match (socket.transport(), socket.family) {
                (Some((Transport::Tcp, _)), _) => "tcp",
                (Some((Transport::Udp, _)), _) => "udp",
                (None, Family::Unix) => "unix",
                (None, _) => "socket",
            })
        }
        FileKind::Fifo => "pipe",
        FileKind::CharacterDevice if is_tty(file.special) => "tty",
        FileKind::CharacterDevice | FileKind::BlockDevice => "device",
        FileKind::Anonymous => "anonymous",
        FileKind::Link | FileKind::Regular | FileKind::Directory | FileKind::Unknown => "file",
    }
}
