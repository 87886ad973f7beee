//! The records of the kernel programs' streams, taken off as bytes come.

use anyhow::{Result, bail};
use tracer_ebpf::abi::{
    FdRecord, Header, HolderRecord, KIND_FD, KIND_HEADER, KIND_HOLDER, KIND_REGISTERS, KIND_REQUEST,
    KIND_SOCKET, KIND_STACK, KIND_THREAD, Plain, RegisterRecord, RequestRecord, SocketRecord, StackRecord,
    TAIL_NONE, TAIL_TCP, TAIL_UDP, TAIL_UNIX, Tcp, ThreadRecord, Udp, Unix,
};

/// A record of a program's stream.
#[derive(Clone, Copy)]
pub enum Record<'a> {
    /// The first of each pass.
    Header(Header),
    /// One thread with the bytes of its tail.
    Thread(ThreadRecord, &'a [u8]),
    /// One fd that was asked for, likewise.
    Fd(FdRecord, &'a [u8]),
    /// A request of a ring, likewise.
    Request(RequestRecord, &'a [u8]),
    /// A process that holds a wanted file.
    Holder(HolderRecord),
    /// A connection on which a process may have asked and not been answered, with the bytes of its tail.
    Socket(SocketRecord, &'a [u8]),
    /// A thread with the lines that name the kernel's functions it sleeps in.
    Stack(StackRecord, &'a [u8]),
    /// The user registers of a thread.
    Registers(RegisterRecord),
}

impl<'a> Record<'a> {
    /// The next whole record, `None` if there is only a part of one.
    pub fn take(rest: &mut &'a [u8]) -> Result<Option<Self>> {
        let mut bytes = *rest;
        let Some(kind) = bytes.first_chunk().map(|word| u32::from_ne_bytes(*word)) else { return Ok(None) };
        let record = match kind {
            KIND_HEADER => plain(&mut bytes).map(Record::Header),
            KIND_THREAD => {
                let thread = plain::<ThreadRecord>(&mut bytes);
                with_tail(thread, thread.map(|thread| thread.tail), &mut bytes)?
                    .map(|(thread, tail)| Record::Thread(thread, tail))
            }
            KIND_FD => {
                let fd = plain::<FdRecord>(&mut bytes);
                with_tail(fd, fd.map(|fd| fd.tail), &mut bytes)?.map(|(fd, tail)| Record::Fd(fd, tail))
            }
            KIND_REQUEST => {
                let request = plain::<RequestRecord>(&mut bytes);
                with_tail(request, request.map(|request| request.tail), &mut bytes)?
                    .map(|(request, tail)| Record::Request(request, tail))
            }
            KIND_HOLDER => plain(&mut bytes).map(Record::Holder),
            KIND_SOCKET => {
                let socket = plain::<SocketRecord>(&mut bytes);
                with_tail(socket, socket.map(|socket| socket.tail), &mut bytes)?
                    .map(|(socket, tail)| Record::Socket(socket, tail))
            }
            KIND_STACK => {
                let stack = plain::<StackRecord>(&mut bytes);
                stack.zip(terminated(&mut bytes)).map(|(stack, text)| Record::Stack(stack, text))
            }
            KIND_REGISTERS => plain(&mut bytes).map(Record::Registers),
            other => bail!("the snapshot has a record of unknown kind {other:#x}"),
        };
        if record.is_some() {
            *rest = bytes;
        }
        Ok(record)
    }
}

/// Hands out every whole record, and says how many bytes they had. A part of one may be left at the end.
pub fn take_all<'a>(bytes: &'a [u8], mut each: impl FnMut(Record<'a>) -> Result<()>) -> Result<usize> {
    let mut rest = bytes;
    while let Some(record) = Record::take(&mut rest)? {
        each(record)?;
    }
    Ok(bytes.len() - rest.len())
}

/// A record with the tail it names, `None` if one of them is not whole yet.
fn with_tail<'a, T>(
    record: Option<T>,
    tail: Option<u32>,
    bytes: &mut &'a [u8],
) -> Result<Option<(T, &'a [u8])>> {
    let (Some(record), Some(tail)) = (record, tail) else { return Ok(None) };
    let size = match tail {
        TAIL_NONE => 0,
        TAIL_TCP => size_of::<Tcp>(),
        TAIL_UNIX => size_of::<Unix>(),
        TAIL_UDP => size_of::<Udp>(),
        other => bail!("the kernel programs wrote a record with a tail of unknown kind {other}"),
    };
    let Some((tail, rest)) = bytes.split_at_checked(size) else { return Ok(None) };
    *bytes = rest;
    Ok(Some((record, tail)))
}

/// A text without the zero byte that ends it; `None` if it is not whole yet.
fn terminated<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    let (text, rest) = bytes.split_at(end);
    *bytes = &rest[1..];
    Some(text)
}

/// Copies a record off the front of `bytes`; `None` if they are too few.
pub fn plain<T: Plain>(bytes: &mut &[u8]) -> Option<T> {
    let (head, rest) = bytes.split_at_checked(size_of::<T>())?;
    *bytes = rest;
    // SAFETY: `head` has the size of T, and any bit pattern is a Plain value.
    Some(unsafe { head.as_ptr().cast::<T>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use tracer_ebpf::abi::{FD_OPEN, FdRecord, File, HolderRecord, RequestRecord, SocketRecord, StackRecord};

    use super::*;

    /// A record's bytes.
    fn bytes<T: Plain>(value: &T) -> &[u8] {
        // SAFETY: the slice is the value itself, which has no padding (tracer_ebpf::abi).
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
    }

    fn zeroed<T: Plain>() -> T {
        // SAFETY: any bit pattern is a Plain value.
        unsafe { std::mem::zeroed() }
    }

    fn thread(tail: u32, family: u16) -> ThreadRecord {
        let size = u32::try_from(size_of::<ThreadRecord>()).expect("it is small");
        ThreadRecord {
            kind: KIND_THREAD,
            size,
            tail,
            tgid: 7,
            tid: 7,
            state: 1,
            fd: 4,
            fd_state: FD_OPEN,
            args: [4, 0x1000, 1, 0, 0, 0],
            comm: *b"php\0\0\0\0\0\0\0\0\0\0\0\0\0",
            file: File {
                inode: 9,
                mode: libc::S_IFSOCK as u16,
                family,
                sock_type: 1,
                protocol: 6,
                ..File::EMPTY
            },
            ..zeroed()
        }
    }

    /// What names a kernel stack.
    const STACK: &[u8] = b"pipe_read+0x1/0x2\n\0";

    /// A stream with each record and each tail.
    fn stream() -> Vec<u8> {
        let path = |name: &[u8]| std::array::from_fn(|at| name.get(at).copied().unwrap_or(0));
        [
            bytes(&Header { kind: KIND_HEADER, jiffies: 1_000, ..zeroed() }),
            bytes(&thread(TAIL_NONE, 0)),
            bytes(&thread(TAIL_TCP, 2)),
            bytes(&Tcp { state: 1, bytes_sent: 10, bytes_acked: 10, ..zeroed() }),
            bytes(&thread(TAIL_UNIX, 1)),
            bytes(&Unix { peer_inode: 8, peer_path_len: 5, peer_path: path(b"/run/"), ..zeroed() }),
            bytes(&thread(TAIL_UDP, 2)),
            bytes(&Udp { stamp: -1, ..zeroed() }),
            bytes(&FdRecord { kind: KIND_FD, ..zeroed() }),
            bytes(&HolderRecord { kind: KIND_HOLDER, ..zeroed() }),
            bytes(&SocketRecord { kind: KIND_SOCKET, tail: TAIL_TCP, ..zeroed() }),
            bytes(&Tcp { state: 1, bytes_sent: 10, ..zeroed() }),
            bytes(&RequestRecord { kind: KIND_REQUEST, tail: TAIL_TCP, ..zeroed() }),
            bytes(&Tcp { state: 1, ..zeroed() }),
            bytes(&RegisterRecord { kind: KIND_REGISTERS, tid: 5, ..zeroed() }),
            bytes(&StackRecord { kind: KIND_STACK, ..zeroed() }),
            STACK,
        ]
        .concat()
    }

    #[test]
    fn records_are_taken_one_by_one() {
        let stream = stream();
        let mut kinds = Vec::new();
        let used = take_all(&stream, |record| {
            kinds.push(match record {
                Record::Header(header) => ("header", header.jiffies as usize),
                Record::Thread(thread, tail) => {
                    (["none", "tcp", "unix", "udp"][thread.tail as usize], tail.len())
                }
                Record::Fd(_, tail) => ("fd", tail.len()),
                Record::Holder(_) => ("holder", 0),
                Record::Socket(_, tail) => ("socket", tail.len()),
                Record::Request(_, tail) => ("request", tail.len()),
                Record::Stack(_, text) => ("stack", text.len()),
                Record::Registers(record) => ("registers", record.tid as usize),
            });
            Ok(())
        });
        let expected = [
            ("header", 1_000),
            ("none", 0),
            ("tcp", size_of::<Tcp>()),
            ("unix", size_of::<Unix>()),
            ("udp", size_of::<Udp>()),
            ("fd", 0),
            ("holder", 0),
            ("socket", size_of::<Tcp>()),
            ("request", size_of::<Tcp>()),
            ("registers", 5),
            ("stack", STACK.len() - 1),
        ];
        assert_eq!((kinds.as_slice(), used.expect("all are known")), (expected.as_slice(), stream.len()));
        // A part of a record is none yet, and is left where it is.
        let mut part = &stream[..size_of::<Header>() - 1];
        assert!(Record::take(&mut part).is_ok_and(|record| record.is_none()) && !part.is_empty());
        let mut number = 0;
        let used = take_all(&stream[..stream.len() - 1], |_| {
            number += 1;
            Ok(())
        });
        let whole = stream.len() - size_of::<StackRecord>() - STACK.len();
        assert_eq!((number, used.expect("all are known")), (expected.len() - 1, whole));
        take_all(&stream, |_| bail!("no more")).expect_err("the first is one too many");
    }

    /// A fuzzer that has to guess the first word and the sizes finds nothing behind them.
    #[test]
    fn the_seed_of_the_fuzzer_is_of_these_records() {
        let seed = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/records/all");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::create_dir_all(seed.parent().expect("a folder")).expect("it is made");
            std::fs::write(&seed, stream()).expect("write");
        }
        let is = std::fs::read(&seed).unwrap_or_default();
        assert!(is == stream(), "UPDATE_DOCS=1 cargo test -p tracer writes {}", seed.display());
    }
}
