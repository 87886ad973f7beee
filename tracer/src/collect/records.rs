//! What the kernel programs' records say, in the model's terms; and what is asked of the programs, in theirs.

use std::net::Ipv6Addr;

use tracer_ebpf::abi::{
    FD_ABSENT, FD_OPEN, File, FileKey, HOLDS_READ, HOLDS_WRITE, HolderRecord, PORT_BIND, PORT_CONNECT,
    TupleKey,
};

use crate::model::{
    backlog::{Backlog, QueueKind},
    file::{Addresses, Device, Endpoint, FileKind, OpenFile, OpenSocket, SocketFamily, SocketKind},
    holder::{Access, ConnectionEnd, FileId, Holder, Holding},
    target::Interest,
    tcp::{PortChooser, TcpState},
    wait::FdState,
};

/// The file of a record; `None` if it was not read.
pub fn open_file(file: &File) -> Option<OpenFile> {
    let kind = FileKind::of(file.mode);
    (*file != File::EMPTY).then(|| OpenFile {
        inode: file.inode,
        device: Device(file.dev),
        mode: file.mode,
        special: Device(file.rdev),
        socket: (kind == FileKind::Socket).then(|| socket(file)),
    })
}

fn socket(file: &File) -> OpenSocket {
    let end = |address: [u8; 16], port| Endpoint { address: Ipv6Addr::from(address), port };
    let addresses =
        Addresses { local: end(file.local, file.local_port), remote: end(file.remote, file.remote_port) };
    let family = match libc::c_int::from(file.family) {
        libc::AF_INET => SocketFamily::Inet(addresses),
        libc::AF_INET6 => SocketFamily::Inet6(addresses),
        libc::AF_UNIX => SocketFamily::Unix,
        _ => SocketFamily::Other(file.family),
    };
    OpenSocket { family, kind: SocketKind::of(file.sock_type), protocol: file.protocol }
}

/// The fd of a record, by one of `FD_*` and its file.
pub fn fd_state(state: u32, file: &File) -> FdState {
    match state {
        FD_OPEN => open_file(file).map_or(FdState::Unknown, FdState::Open),
        FD_ABSENT => FdState::Absent,
        _ => FdState::None,
    }
}

/// Who chose a port, by one of `PORT_*`.
pub fn port_chooser(port: u8) -> Option<PortChooser> {
    match port {
        PORT_CONNECT => Some(PortChooser::Connect),
        PORT_BIND => Some(PortChooser::Bind),
        _ => None,
    }
}

/// What a request of io_uring wants of its file, by its `IORING_OP_*` (include/uapi/linux/io_uring.h).
pub fn wanted_by(opcode: u32) -> Interest {
    const WRITEV: u32 = 2;
    const WRITE_FIXED: u32 = 5;
    const SENDMSG: u32 = 9;
    const CONNECT: u32 = 16;
    const WRITE: u32 = 23;
    const SEND: u32 = 26;
    const SEND_ZC: u32 = 47;
    const SENDMSG_ZC: u32 = 48;
    let write =
        matches!(opcode, WRITEV | WRITE_FIXED | SENDMSG | CONNECT | WRITE | SEND | SEND_ZC | SENDMSG_ZC);
    Interest { read: !write, write }
}

/// A number that is zero where it is not known.
pub fn known<T: Default + PartialEq>(number: T) -> Option<T> {
    (number != T::default()).then_some(number)
}

/// Who has a file open; `None` if the file was not read.
pub fn holder(record: &HolderRecord) -> Option<Holder> {
    let access = Access { read: record.access & HOLDS_READ != 0, write: record.access & HOLDS_WRITE != 0 };
    let (file, netns) = (open_file(&record.file)?, known(record.netns));
    let waiting = waiting(record.state, file.socket.map(|socket| socket.kind));
    Some(Holder {
        pid: record.tgid,
        fd: record.fd,
        access,
        holding: Holding::of(&file, netns),
        inode: file.inode,
        netns,
        backlog: waiting.map(|waiting| backlog(waiting, record.queue, record.limit)),
    })
}

/// What waits in the queue of a TCP or unix socket of this state, if that is bounded by its number.
pub fn waiting(state: u32, kind: Option<SocketKind>) -> Option<QueueKind> {
    const LISTEN: u32 = TcpState::Listen as u32;
    match (state, kind) {
        (LISTEN, _) => Some(QueueKind::Connections),
        (_, Some(SocketKind::Datagram)) => Some(QueueKind::Datagrams),
        _ => None,
    }
}

/// A queue as the kernel has it. A program may ask for a limit that no queue ever reaches, which the kernel keeps as a number all the same.
pub fn backlog(waiting: QueueKind, number: u32, limit: u32) -> Backlog {
    Backlog { waiting, number, limit: Some(limit) }
}

/// A file as the programs are asked for its holders.
pub fn file_key(file: &FileId) -> FileKey {
    FileKey { inode: file.inode, kind: file.kind.bits(), dev: file.device.0 }
}

/// A connection's end, likewise.
pub fn tuple_key(end: &ConnectionEnd) -> TupleKey {
    TupleKey {
        local: end.local.address.octets(),
        remote: end.remote.address.octets(),
        local_port: end.local.port,
        remote_port: end.remote.port,
        netns: end.netns.unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn internet(local: [u8; 16], remote: [u8; 16]) -> File {
        let family = libc::AF_INET6 as u16;
        let (mode, protocol) = (libc::S_IFSOCK as u16 | 0o777, libc::IPPROTO_TCP as u16);
        File {
            inode: 9,
            mode,
            family,
            protocol,
            local,
            remote,
            local_port: 80,
            remote_port: 4000,
            ..File::EMPTY
        }
    }

    /// The keys made of what was read must be those that the programs make of the same file, byte by byte.
    #[test]
    fn what_is_asked_for_is_what_the_programs_compare() {
        let mut mapped = [0; 16];
        mapped[10..].copy_from_slice(&[0xff, 0xff, 127, 0, 0, 1]);
        let mut v6 = [0; 16];
        v6[15] = 1;
        let mut far = mapped;
        far[12] = 10;
        for (local, netns) in [(mapped, 5), (v6, 5), (far, 5), (mapped, 0)] {
            let file = internet(local, far);
            let record = HolderRecord {
                kind: 0,
                size: 0,
                tgid: 7,
                fd: 3,
                access: HOLDS_READ,
                netns,
                process_start_ns: 0,
                state: 1,
                queue: 0,
                limit: 0,
                reserved: 0,
                file,
            };
            let Some(Holder {
                pid: 7,
                fd: 3,
                access: Access::READ,
                holding: Holding::Connection(end),
                backlog: None,
                ..
            }) = holder(&record)
            else {
                panic!("a connection")
            };
            assert_eq!(tuple_key(&end), TupleKey::of(&file, netns));
        }
        for mode in [0o010_600, libc::S_IFSOCK as u16 | 0o777, 0o100_644, 0o040_755, 0o020_666, 0o600] {
            let file = File { inode: 8, mode, dev: 5, ..File::EMPTY };
            let open = open_file(&file).expect("it was read");
            assert_eq!(file_key(&FileId::from(&open)), FileKey::of(&file), "{mode:o}");
        }
    }

    #[test]
    fn what_was_not_read_is_no_file() {
        assert_eq!(open_file(&File::EMPTY), None);
        assert_eq!(fd_state(FD_OPEN, &File::EMPTY), FdState::Unknown);
        assert_eq!(fd_state(FD_ABSENT, &File::EMPTY), FdState::Absent);
        assert_eq!(fd_state(0, &File::EMPTY), FdState::None);
    }
}
