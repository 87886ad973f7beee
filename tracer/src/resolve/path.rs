//! The path a thread waits to open: read from its memory, looked up from its own root and directory.

use std::{
    ffi::OsStr,
    os::unix::{ffi::OsStrExt, fs::FileTypeExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use super::{guard::Guard, memory};
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
    let stamp = memory::Stamp::of(wait);
    let pid = stamp.pid;
    guard.read(wait.thread.process, move || {
        let path = memory::read_string(pid, address, PATH_MAX)?;
        if !memory::still_in(&stamp) {
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
