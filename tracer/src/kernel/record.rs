//! The records of the kernel programs' streams, taken off as bytes come.

use anyhow::{Result, bail};
use tracer_ebpf::abi::{
    FdRecord, Header, HolderRecord, KIND_FD, KIND_HEADER, KIND_HOLDER, KIND_THREAD, Plain, TAIL_NONE,
    TAIL_TCP, TAIL_UNIX, Tcp, ThreadRecord, Unix,
};

/// A record of the snapshot's stream.
#[derive(Clone, Copy)]
pub enum Record<'a> {
    /// The pass's first.
    Header(Header),
    /// One thread with the bytes of its tail.
    Thread(ThreadRecord, &'a [u8]),
    /// One fd that was asked for, likewise.
    Fd(FdRecord, &'a [u8]),
    /// A process that holds a wanted file.
    Holder(HolderRecord),
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
            KIND_HOLDER => plain(&mut bytes).map(Record::Holder),
            other => bail!("the snapshot has a record of unknown kind {other:#x}"),
        };
        if record.is_some() {
            *rest = bytes;
        }
        Ok(record)
    }
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
        other => bail!("the kernel programs wrote a record with a tail of unknown kind {other}"),
    };
    let Some((tail, rest)) = bytes.split_at_checked(size) else { return Ok(None) };
    *bytes = rest;
    Ok(Some((record, tail)))
}

/// Copies a record off the front of `bytes`; `None` if they are too few.
pub fn plain<T: Plain>(bytes: &mut &[u8]) -> Option<T> {
    let (head, rest) = bytes.split_at_checked(size_of::<T>())?;
    *bytes = rest;
    // SAFETY: `head` has the size of T, and any bit pattern is a Plain value.
    Some(unsafe { head.as_ptr().cast::<T>().read_unaligned() })
}
