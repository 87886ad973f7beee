//! A reader: a process that makes the reads which may never come back, one after the other, and nothing else. It holds
//! nothing but its end of a socket pair, so that whatever becomes of it holds up nobody and keeps nothing.

use std::{
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, StatxFlags, fstat, openat, readlinkat, statx},
    io::{Errno, pread, read, retry_on_intr},
    net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, send, sendmsg},
};

use super::{
    allowed::is_allowed,
    ask::{ENTRIES_MAX, FileStat, Head, PART_BYTES, ReadRequest},
    symbols::{self, ReadAt},
};

/// Bytes of questions that are taken at a time.
const QUESTIONS_BYTES: usize = 64 * 1024;
/// Size of a page of memory that every machine's is a multiple of.
const PAGE: u64 = 4096;

/// Answers until nobody asks any more; `lent` is what it was started to read. An error means that nobody listens.
pub fn serve(socket: BorrowedFd<'_>, lent: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    // Both are made once: to clear them for each question costs more than most reads.
    let (mut questions, mut came) = (vec![0; QUESTIONS_BYTES], 0);
    let mut page = vec![0; PART_BYTES];
    loop {
        let mut used = 0;
        while let Some((ask, length)) = ReadRequest::decode(&questions[used..came])? {
            used += length;
            answer(socket, &ask, lent, &mut page)?;
        }
        questions.copy_within(used..came, 0);
        came -= used;
        if came == questions.len() {
            return Err(Errno::INVAL);
        }
        let (received, _) = retry_on_intr(|| recv(socket, &mut questions[came..], RecvFlags::empty()))?;
        came += received;
        if received == 0 {
            return Ok(());
        }
    }
}

fn answer(
    socket: BorrowedFd<'_>,
    ask: &ReadRequest,
    lent: Option<BorrowedFd<'_>>,
    page: &mut [u8],
) -> Result<(), Errno> {
    match ask {
        _ if !is_allowed(ask) => send_all(socket, &Head::Failed(Errno::PERM).encode()),
        ReadRequest::Drain => drain(socket, lent),
        // A namespace is behind a link.
        ReadRequest::Open { path } => match open(path, OFlags::empty()) {
            Ok(file) => hand_over(socket, &file),
            Err(error) => send_all(socket, &Head::Failed(error).encode()),
        },
        _ => match bytes(ask, page) {
            Ok(bytes) => send_answer(socket, &bytes),
            Err(error) => send_all(socket, &Head::Failed(error).encode()),
        },
    }
}

/// What is asked for, as bytes.
fn bytes(ask: &ReadRequest, page: &mut [u8]) -> Result<Vec<u8>, Errno> {
    match ask {
        ReadRequest::File { path, limit } => file(path, *limit, page),
        ReadRequest::Link { path } => Ok(readlinkat(CWD, path, Vec::new())?.into_bytes()),
        ReadRequest::Names { path } => entries(path, |_, _| None),
        ReadRequest::Links { path } => {
            entries(path, |dir, name| Some(readlinkat(dir, name, Vec::new()).ok()?.into_bytes()))
        }
        ReadRequest::Stat { path } => Ok(stat(path)?.encode()),
        ReadRequest::Memory { pid, address, length } => memory(*pid, *address, *length),
        ReadRequest::Text { pid, address, limit } => text(*pid, *address, *limit),
        ReadRequest::Symbols { path, inode, addresses } => names_of(path, *inode, addresses),
        ReadRequest::Section { path, inode, section } => {
            let (file, stat) = regular(path)?;
            let same = if stat.st_ino == *inode { Ok(()) } else { Err(Errno::STALE) };
            same.and_then(|()| symbols::section(&file, section))
        }
        ReadRequest::Open { .. } | ReadRequest::Drain => Err(Errno::INVAL),
    }
}

/// Without waiting for the other end of a FIFO or for a device.
fn open(path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty())
}

fn file(path: &str, limit: usize, page: &mut [u8]) -> Result<Vec<u8>, Errno> {
    let file = open(path, OFlags::NOFOLLOW)?;
    let mut bytes = Vec::new();
    while bytes.len() < limit {
        let most = page.len().min(limit - bytes.len());
        let read = retry_on_intr(|| read(&file, &mut page[..most]))?;
        if read == 0 {
            break;
        }
        bytes.extend_from_slice(&page[..read]);
    }
    Ok(bytes)
}

/// Names, each with a zero behind it; where `leads` says where one leads, that and another zero.
fn entries(
    path: &str,
    leads: impl Fn(BorrowedFd<'_>, &std::ffi::CStr) -> Option<Vec<u8>>,
) -> Result<Vec<u8>, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let dir = openat(CWD, path, flags, Mode::empty())?;
    let mut entries = Vec::new();
    let names = Dir::read_from(&dir)?
        .filter_map(Result::ok)
        .filter(|entry| !matches!(entry.file_name().to_bytes(), b"." | b".."));
    for entry in names.take(ENTRIES_MAX) {
        entries.extend(entry.file_name().to_bytes_with_nul());
        if let Some(link) = leads(dir.as_fd(), entry.file_name()) {
            entries.extend(link);
            entries.push(0);
        }
    }
    Ok(entries)
}

/// Asks no file system for news of a file: a server that is gone would not answer.
fn stat(path: &str) -> Result<FileStat, Errno> {
    let wanted = StatxFlags::TYPE | StatxFlags::MODE | StatxFlags::INO | StatxFlags::UID | StatxFlags::NLINK;
    let stat = statx(CWD, path, AtFlags::STATX_DONT_SYNC, wanted)?;
    let device = |major: u32, minor: u32| major << 20 | minor;
    Ok(FileStat {
        inode: stat.stx_ino,
        dev: device(stat.stx_dev_major, stat.stx_dev_minor),
        rdev: device(stat.stx_rdev_major, stat.stx_rdev_minor),
        mode: stat.stx_mode,
        uid: stat.stx_uid,
        links: stat.stx_nlink,
    })
}

fn memory(pid: u32, address: u64, length: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0u8; length];
    let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: length };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: length };
    // SAFETY: `local` is `length` bytes of `bytes`; the remote side is checked by the kernel.
    let read = unsafe { libc::process_vm_readv(pid as i32, &raw const local, 1, &raw const remote, 1, 0) };
    let read = usize::try_from(read).map_err(|_| last_error())?;
    bytes.truncate(read);
    Ok(bytes)
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Page by page: the string may end just before memory that is not there.
fn text(pid: u32, address: u64, limit: usize) -> Result<Vec<u8>, Errno> {
    let mut text = Vec::new();
    while text.len() < limit {
        let at = address.checked_add(text.len() as u64).ok_or(Errno::FAULT)?;
        let part = memory(pid, at, (PAGE - at % PAGE) as usize)?;
        if let Some(end) = part.iter().position(|byte| *byte == 0) {
            text.extend(&part[..end]);
            return Ok(text);
        }
        if part.is_empty() {
            break;
        }
        text.extend(part);
    }
    Err(Errno::NAMETOOLONG)
}

/// A regular file, read at places.
struct RegularFile(OwnedFd);

impl ReadAt for RegularFile {
    fn read_at(&self, offset: u64, to: &mut [u8]) -> Result<usize, Errno> {
        let mut done = 0;
        while done < to.len() {
            let at = offset.checked_add(done as u64).ok_or(Errno::OVERFLOW)?;
            match retry_on_intr(|| pread(&self.0, &mut to[done..], at))? {
                0 => break,
                read => done += read,
            }
        }
        Ok(done)
    }
}

/// Opens a program or a map below a process's directory, if it is a regular file.
fn regular(path: &str) -> Result<(RegularFile, Stat), Errno> {
    // What is mapped is behind a link of the kernel's own, which leads to the file itself.
    let is_link = matches!(path.split('/').nth(3), Some("exe" | "map_files"));
    // What it is, is seen before it is opened: opening a device may do something.
    let place = open(path, OFlags::PATH | if is_link { OFlags::empty() } else { OFlags::NOFOLLOW })?;
    let stat = fstat(&place)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Errno::ACCESS);
    }
    let file = open(&format!("/proc/self/fd/{}", place.as_raw_fd()), OFlags::empty())?;
    Ok((RegularFile(file), stat))
}

/// What addresses are called by the file with this inode number; without one by a map that the process's own user has written.
fn names_of(path: &str, inode: u64, addresses: &[u64]) -> Result<Vec<u8>, Errno> {
    let (file, stat) = regular(path)?;
    let found = if inode == 0 {
        let process = path.split("/root/").next().unwrap_or_default();
        if self::stat(process)?.uid != stat.st_uid {
            return Err(Errno::ACCESS);
        }
        symbols::in_perf_map(&file, addresses)?
    } else if stat.st_ino == inode {
        symbols::look_up(&file, addresses)?
    } else {
        return Err(Errno::STALE);
    };
    Ok(symbols::encode(&found))
}

/// Everything a descriptor gives, as it comes.
fn drain(socket: BorrowedFd<'_>, from: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let Some(from) = from else { return send_all(socket, &Head::Failed(Errno::BADF).encode()) };
    let mut buffer = vec![0; PART_BYTES];
    loop {
        match read(from, &mut buffer[..]) {
            // An iterator that has visited a million files without a record asks for a pause.
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return send_all(socket, &Head::Failed(error).encode()),
            Ok(0) => return send_all(socket, &Head::Last(0).encode()),
            Ok(read) => {
                send_all(socket, &Head::Part(read).encode())?;
                send_all(socket, &buffer[..read])?;
            }
        }
    }
}

fn hand_over(socket: BorrowedFd<'_>, file: &OwnedFd) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [file.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    let head = Head::Last(0).encode();
    let parts = [std::io::IoSlice::new(&head)];
    retry_on_intr(|| sendmsg(socket, &parts, &mut ancillary, SendFlags::NOSIGNAL)).map(drop)
}

fn send_answer(socket: BorrowedFd<'_>, bytes: &[u8]) -> Result<(), Errno> {
    let mut parts = bytes.chunks(PART_BYTES).peekable();
    while let Some(part) = parts.next() {
        let head = if parts.peek().is_some() { Head::Part(part.len()) } else { Head::Last(part.len()) };
        // One message each, as most answers are one part.
        let mut message = head.encode().to_vec();
        message.extend(part);
        send_all(socket, &message)?;
    }
    if bytes.is_empty() { send_all(socket, &Head::Last(0).encode()) } else { Ok(()) }
}

fn send_all(socket: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let sent = retry_on_intr(|| send(socket, bytes, SendFlags::NOSIGNAL))?;
        bytes = &bytes[sent..];
    }
    Ok(())
}

/// Names as [`ReadRequest::Names`] gives them.
pub fn names(bytes: &[u8]) -> impl Iterator<Item = &std::ffi::OsStr> {
    bytes.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(std::ffi::OsStr::from_bytes)
}
