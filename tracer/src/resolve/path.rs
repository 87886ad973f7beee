//! The path a thread waits to open: read from its memory, looked up from its own root and directory.

use std::{
    ffi::OsStr,
    os::unix::{ffi::OsStrExt, fs::FileTypeExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use super::guard::Guard;
use crate::wait::Wait;

/// `dirfd` of a path relative to the working directory.
const AT_FDCWD: i32 = -100;
/// Longest path the kernel takes (`PATH_MAX`).
const PATH_MAX: usize = 4096;

/// What is to be opened.
pub struct Opened {
    /// The path as the caller gave it, made absolute.
    pub path: PathBuf,
    /// Inode number, if it could be looked up.
    pub inode: Option<u64>,
    /// It is a FIFO.
    pub fifo: bool,
}

/// The file that a thread asleep in `open`, `openat` or `openat2` wants.
pub fn of(wait: &Wait, guard: &mut Guard) -> Option<Opened> {
    let (dirfd, address) = match wait.call.name {
        "open" | "creat" => (AT_FDCWD, wait.call.args[0]),
        "openat" | "openat2" => (wait.call.args[0] as i32, wait.call.args[1]),
        _ => return None,
    };
    let (pid, tid, switches) = (wait.thread.process.pid, wait.thread.tid, wait.switches);
    guard.read(wait.thread.process, move || {
        let path = read_string(pid, address)?;
        // What was read is the call's argument only if the thread has not run meanwhile.
        if switch_count(pid, tid)? != switches {
            return None;
        }
        let path = PathBuf::from(OsStr::from_bytes(&path));
        let base = if path.is_absolute() {
            format!("/proc/{pid}/root")
        } else if dirfd == AT_FDCWD {
            format!("/proc/{pid}/cwd")
        } else {
            format!("/proc/{pid}/fd/{dirfd}")
        };
        let found = Path::new(&base).join(path.strip_prefix("/").unwrap_or(&path));
        let metadata = std::fs::metadata(&found).ok();
        let shown = if path.is_absolute() {
            path
        } else {
            std::fs::read_link(&base).map(|dir| dir.join(&path)).unwrap_or(path)
        };
        Some(Opened {
            path: shown,
            inode: metadata.as_ref().map(MetadataExt::ino),
            fifo: metadata.is_some_and(|metadata| metadata.file_type().is_fifo()),
        })
    })
}

/// A zero-terminated string in the memory of a process.
fn read_string(pid: u32, address: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0u8; PATH_MAX];
    let mut filled = 0;
    // Page by page: the string may end just before memory that is not there.
    while filled < bytes.len() {
        let at = address.checked_add(filled as u64)?;
        let length = (4096 - at as usize % 4096).min(bytes.len() - filled);
        let local = libc::iovec { iov_base: bytes[filled..].as_mut_ptr().cast(), iov_len: length };
        let remote = libc::iovec { iov_base: at as *mut libc::c_void, iov_len: length };
        // SAFETY: `local` is `length` bytes of `bytes`; the remote side is checked by the kernel.
        let read =
            unsafe { libc::process_vm_readv(pid as i32, &raw const local, 1, &raw const remote, 1, 0) };
        let read = usize::try_from(read).ok().filter(|read| *read > 0)?;
        if let Some(end) = bytes[filled..filled + read].iter().position(|byte| *byte == 0) {
            bytes.truncate(filled + end);
            return Some(bytes);
        }
        filled += read;
    }
    None
}

/// Voluntary and involuntary context switches of a thread so far.
fn switch_count(pid: u32, tid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).ok()?;
    let mut sum = 0;
    for name in ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"] {
        let line = status.lines().find(|line| line.starts_with(name))?;
        sum += line[name.len()..].trim().parse::<u64>().ok()?;
    }
    Some(sum)
}
