//! Reading another process's memory. Only ever called inside the [`guard`](super::guard): a page may never come.

use crate::{collect::stat, wait::Wait};

/// Bytes of a process's memory, as many as are there up to `length`.
pub fn read(pid: u32, address: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0u8; length];
    let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: length };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: length };
    // SAFETY: `local` is `length` bytes of `bytes`; the remote side is checked by the kernel.
    let read = unsafe { libc::process_vm_readv(pid as i32, &raw const local, 1, &raw const remote, 1, 0) };
    bytes.truncate(usize::try_from(read).ok().filter(|read| *read > 0)?);
    Some(bytes)
}

/// A zero-terminated string of at most `longest` bytes.
pub fn read_string(pid: u32, address: u64, longest: usize) -> Option<Vec<u8>> {
    let mut string = Vec::new();
    // Page by page: the string may end just before memory that is not there.
    while string.len() < longest {
        let at = address.checked_add(string.len() as u64)?;
        let part = read(pid, at, 4096 - at as usize % 4096)?;
        if let Some(end) = part.iter().position(|byte| *byte == 0) {
            string.extend(&part[..end]);
            return Some(string);
        }
        string.extend(part);
    }
    None
}

/// Whether the thread has not run since the wait was seen: only then is what was read what its call was given.
pub fn still_in(wait: &Stamp) -> bool {
    switch_count(wait.pid, wait.tid) == Some(wait.switches)
}

/// What of a wait a read needs, free to move to another thread.
#[derive(Clone, Copy)]
pub struct Stamp {
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    switches: u64,
}

impl Stamp {
    /// Of this wait.
    pub fn of(wait: &Wait) -> Self {
        Self { pid: wait.thread.process.pid, tid: wait.thread.tid, switches: wait.switches }
    }
}

/// Voluntary and involuntary context switches of a thread so far.
fn switch_count(pid: u32, tid: u32) -> Option<u64> {
    let status = stat::read(format!("/proc/{pid}/task/{tid}/status"))?;
    let mut sum = 0;
    for name in ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"] {
        let line = status.lines().find(|line| line.starts_with(name))?;
        sum += line[name.len()..].trim().parse::<u64>().ok()?;
    }
    Some(sum)
}
