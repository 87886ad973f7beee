//! What a wait waits on: the kernel's record where it says, `/proc` where it does not, and honesty where neither can.

use std::{num::NonZeroU32, sync::OnceLock};

use super::{
    behind,
    fd::{self, KnownFiles, Recorded},
    page, path, poll,
};
use crate::{
    model::{
        file::{Addresses, Device, FileKind, OpenFile, OpenSocket, SocketFamily, SocketKind, Transport},
        obstacles::{Obstacle, obstacle},
        stack::KernelStack,
        syscalls::{Direction, Operation, Syscall},
        target::Target,
        tcp::TcpState,
        wait::{FdState, ProcessId, SocketFacts, ThreadId, UnixFacts, Wait},
    },
    procfs::Reads,
};

/// An fd as a thread uses it.
#[derive(Clone, Copy)]
pub struct Descriptor<'a> {
    /// Whose.
    pub thread: ThreadId,
    /// Its number.
    pub fd: i32,
    /// What the source saw of it.
    pub state: &'a FdState,
    /// What the source saw of the socket.
    pub socket: &'a SocketFacts,
    /// What is done with it.
    pub operation: Operation,
    /// Which way data is to go.
    pub direction: Option<Direction>,
    /// The id of the mount that its file is on, if the source told.
    pub mount: Option<NonZeroU32>,
}

impl<'a> Descriptor<'a> {
    /// The fd that a wait is on.
    fn of(wait: &'a Wait) -> Option<Self> {
        Some(Self {
            thread: wait.thread,
            fd: wait.fd?,
            state: &wait.fd_state,
            socket: &wait.socket,
            operation: wait.call.operation(),
            direction: wait.call.direction(),
            mount: wait.mount,
        })
    }
}

/// Looks the target of a wait up; `stack`: where in the kernel it sleeps, if that is known.
pub fn of(wait: &Wait, stack: Option<&KernelStack>, reads: &mut Reads, names: &mut KnownFiles) -> Target {
    let never_stored = wait.fd_state.file().is_some_and(never_stored);
    let is_page = |stack: &KernelStack| stack.is_page_fault() || never_stored && page::is_waited_for(stack);
    if stack.is_some_and(is_page) {
        return page_of(wait.thread.process, stack, reads);
    }
    match Descriptor::of(wait).filter(|descriptor| *descriptor.state != FdState::None) {
        Some(descriptor) if *descriptor.state == FdState::Absent => {
            let closed = stack.and_then(|stack| behind::of_closed(wait.thread.process, stack, reads));
            closed.unwrap_or_else(|| of_descriptor(descriptor, reads, names))
        }
        Some(descriptor) => of_descriptor(descriptor, reads, names),
        None => without_fd(wait, stack, names, reads),
    }
}

/// Looks up what an fd is.
pub fn of_descriptor(descriptor: Descriptor<'_>, reads: &mut Reads, names: &mut KnownFiles) -> Target {
    let Descriptor { thread: ThreadId { process, tid, .. }, fd, state, operation, mount, .. } = descriptor;
    match state {
        FdState::None => Target::None,
        FdState::Absent if fd >= 0 => Target::Gone,
        FdState::Absent => Target::Unreadable { reason: "the call's fd is no number of an fd".into() },
        FdState::Unknown => device(fd::look_up(process, tid, fd, Recorded::default(), names, reads), None),
        FdState::Open(file) if has_name(state, operation) => {
            let recorded = Recorded { inode: Some(file.inode), mount };
            device(fd::look_up(process, tid, fd, recorded, names, reads), Some(file))
        }
        FdState::Open(file) => match file.socket {
            Some(socket) => of_socket(descriptor, file.inode, &socket),
            // The fd was closed and given out again.
            None if operation.is_for_sockets() => Target::Reused,
            None => Target::Pipe { inode: file.inode },
        },
    }
}

/// A page of the process's memory that is being read in. One that another process is to supply is of no file.
fn page_of(process: ProcessId, stack: Option<&KernelStack>, reads: &mut Reads) -> Target {
    if stack.and_then(obstacle) == Some(Obstacle::Userfault) {
        return Target::None;
    }
    page::of(process, reads).map_or(Target::None, |path| Target::Page { path })
}

/// The target by the kernel's record alone, without its name.
pub fn by_record_alone(wait: &Wait) -> Target {
    let FdState::Open(file) = wait.fd_state else { return Target::None };
    let path = String::new;
    if let Some((socket, descriptor)) = file.socket.zip(Descriptor::of(wait)) {
        return of_socket(descriptor, file.inode, &socket);
    }
    match file.kind() {
        FileKind::Fifo => Target::Pipe { inode: file.inode },
        FileKind::CharacterDevice if is_tty(file.special) => Target::Tty { path: path() },
        FileKind::CharacterDevice | FileKind::BlockDevice => Target::Device { path: path() },
        FileKind::Anonymous => Target::Anonymous { name: path() },
        FileKind::Socket | FileKind::Link | FileKind::Regular | FileKind::Directory | FileKind::Unknown => {
            Target::File { path: path(), inode: Some(file.inode), deleted: false, pseudo_fs: false }
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

/// Whether a file is a terminal.
pub fn is_terminal(file: &OpenFile) -> bool {
    file.kind() == FileKind::CharacterDevice && is_tty(file.special)
}

/// Terminal devices by major number: virtual consoles and serial lines, `/dev/tty`, pseudo-terminals
/// (Documentation/admin-guide/devices.txt).
fn is_tty(device: Device) -> bool {
    matches!(device.major(), 4 | 5 | 136..=143 | 204)
}

fn of_socket(descriptor: Descriptor<'_>, inode: u64, socket: &OpenSocket) -> Target {
    match (socket.transport(), descriptor.socket) {
        (Some((Transport::Tcp, addresses)), _) => tcp(descriptor, addresses, inode),
        (Some((Transport::Udp, Addresses { local, remote })), _) => {
            let remote = (remote.port != 0).then(|| remote.socket_addr());
            Target::Udp { local: local.socket_addr(), remote, inode }
        }
        (None, SocketFacts::Unix(facts)) if socket.family == SocketFamily::Unix => {
            let UnixFacts { path, peer_path, peer_inode, peer_pid, .. } = &**facts;
            Target::Unix {
                path: path.clone().or_else(|| peer_path.clone()),
                inode,
                peer_inode: *peer_inode,
                peer_pid: *peer_pid,
                datagram: socket.kind == SocketKind::Datagram,
                client: peer_path.is_some(),
            }
        }
        _ => Target::Socket { family: Some(family(socket)), inode },
    }
}

fn tcp(descriptor: Descriptor<'_>, addresses: Addresses, inode: u64) -> Target {
    let sends = descriptor.direction == Some(Direction::Send) || descriptor.operation == Operation::Connect;
    let (state, timeout) = match descriptor.socket {
        SocketFacts::Tcp(facts) => (facts.state, facts.timeout(sends)),
        // The connection has gone; its addresses are known.
        SocketFacts::Unix(_) | SocketFacts::Udp(_) | SocketFacts::None => (TcpState::Unknown, None),
    };
    let (local, remote) = (addresses.local.socket_addr(), addresses.remote.socket_addr());
    Target::Tcp { local, remote, state, inode, timeout }
}

fn family(socket: &OpenSocket) -> &'static str {
    match (socket.family, socket.kind) {
        (SocketFamily::Unix, _) => "unix",
        (SocketFamily::Inet(_) | SocketFamily::Inet6(_), SocketKind::Raw) => "raw",
        (SocketFamily::Inet(_) | SocketFamily::Inet6(_), SocketKind::Stream) => "inet stream",
        (SocketFamily::Inet(_) | SocketFamily::Inet6(_), _) => "inet",
        (SocketFamily::Other(number), _) => match libc::c_int::from(number) {
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

fn without_fd(wait: &Wait, stack: Option<&KernelStack>, names: &mut KnownFiles, reads: &mut Reads) -> Target {
    if let Some(fd) = pidfd(wait) {
        return fd::look_up(wait.thread.process, wait.thread.tid, fd, Recorded::default(), names, reads);
    }
    let args = wait.call.arguments();
    match wait.call.operation() {
        Operation::Futex | Operation::FutexCondition => Target::Futex { address: args[0] },
        // The kernel takes the lower half of the register.
        Operation::Semaphore => Target::Semaphores { set: args[0] as u32 as i32 },
        Operation::SendMessage | Operation::ReceiveMessage => {
            Target::MessageQueue { id: args[0] as u32 as i32 }
        }
        Operation::PageFault => page_of(wait.thread.process, stack, reads),
        operation @ (Operation::Open | Operation::Path) => match path::of(wait, reads) {
            Some(path) => {
                let is_fifo = operation == Operation::Open && stack.is_some_and(path::waits_for_partner);
                let path = path.to_string_lossy().into_owned();
                if is_fifo {
                    Target::Fifo { path, inode: None }
                } else {
                    // A line without a carrier keeps who opens it waiting: it is a terminal by its name.
                    device(Target::File { path, inode: None, deleted: false, pseudo_fs: false }, None)
                }
            }
            None => Target::Unreadable { reason: "its path could not be read".into() },
        },
        Operation::Poll | Operation::Select => Target::Unreadable {
            reason: match poll::count(wait.call.syscall, &args, poll::SET_MAX) {
                0..=poll::SET_MAX => "its set of fds could not be read".into(),
                many => format!("its set of {many} fds is too large to be read").into(),
            },
        },
        Operation::Read | Operation::Write | Operation::Receive | Operation::Send | Operation::Copy => {
            Target::None
        }
        Operation::Accept | Operation::Connect | Operation::Close | Operation::Epoll => Target::None,
        Operation::Lock | Operation::Fcntl | Operation::Sync | Operation::Child => Target::None,
        Operation::Sleep | Operation::Signal => Target::None,
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
                (None, SocketFamily::Unix) => "unix",
                (None, _) => "socket",
            })
        }
        FileKind::Fifo => "pipe",
        FileKind::CharacterDevice if is_terminal(file) => "tty",
        FileKind::CharacterDevice | FileKind::BlockDevice => "device",
        FileKind::Anonymous => "anonymous",
        FileKind::Link | FileKind::Regular | FileKind::Directory | FileKind::Unknown => "file",
    }
}
