//! The path that a call names: read from its caller's memory, and not touched. Whoever walked it would wait for the same file
//! system that the caller waits for.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::PathBuf};

use crate::{
    model::{stack::KernelStack, wait::Wait},
    procfs::Reads,
};

/// `dirfd` of a path relative to the working directory.
const AT_FDCWD: i32 = libc::AT_FDCWD;
/// Longest path the kernel takes (`PATH_MAX`).
const PATH_MAX: usize = libc::PATH_MAX as usize;

/// The path as the caller gave it, made absolute. An empty one is the directory itself, as `AT_EMPTY_PATH` has it.
pub fn of(wait: &Wait, reads: &mut Reads) -> Option<PathBuf> {
    let (directory, path) = wait.call.syscall.path()?;
    let dirfd = directory.map_or(AT_FDCWD, |at| wait.call.args[at] as i32);
    let process = wait.thread.process;
    let path = reads.string(process, wait.call.args[path], PATH_MAX)?;
    if !reads.still_in(wait) {
        return None;
    }
    let path = PathBuf::from(OsStr::from_bytes(&path));
    if path.is_absolute() {
        return Some(path);
    }
    let tid = wait.thread.tid;
    let base = match dirfd {
        AT_FDCWD => format!("task/{tid}/cwd"),
        dirfd => format!("task/{tid}/fd/{dirfd}"),
    };
    let Ok(base) = reads.link(process, &base) else { return Some(path) };
    Some(if path.as_os_str().is_empty() { base } else { base.join(path) })
}

/// Whether a thread sleeps in the opening of a FIFO, for its other end (fs/pipe.c): the kernel says so, without a look at the file.
pub fn waits_for_partner(stack: &KernelStack) -> bool {
    stack.has("wait_for_partner") || stack.has("fifo_open")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::syscalls::{CallTable, Syscall},
        resolve::samples::in_own_call,
    };

    #[test]
    fn a_path_is_read_where_it_lies_and_made_absolute() {
        let of = |syscall, args| in_own_call(syscall, CallTable::Native, args, super::of);
        let (absolute, relative) = (c"/a/b".as_ptr() as u64, c"b".as_ptr() as u64);
        let here = std::env::current_dir().expect("a folder");
        let cwd = u64::from(AT_FDCWD as u32);
        assert_eq!(of(Syscall::Stat, [absolute, 0, 0, 0, 0, 0]), Some("/a/b".into()));
        assert_eq!(of(Syscall::Openat, [cwd, relative, 0, 0, 0, 0]), Some(here.join("b")));
        assert_eq!(of(Syscall::Statx, [cwd, c"".as_ptr() as u64, 0, 0, 0, 0]), Some(here));
        assert_eq!(of(Syscall::Openat, [999_999, relative, 0, 0, 0, 0]), Some("b".into()), "no such folder");
        assert_eq!(of(Syscall::Openat, [cwd, 1, 0, 0, 0, 0]), None);
        assert_eq!(of(Syscall::Read, [0; 6]), None);
    }
}
