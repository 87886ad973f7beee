//! The path that a call names: read from its caller's memory, and not touched. Whoever walked it would wait for the same file
//! system that the caller waits for.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use crate::{
    model::file::FileKind,
    model::wait::{Sleep, Wait},
    procfs::Reads,
};

/// `dirfd` of a path relative to the working directory.
const AT_FDCWD: i32 = libc::AT_FDCWD;
/// Longest path the kernel takes (`PATH_MAX`).
const PATH_MAX: usize = libc::PATH_MAX as usize;

/// Calls that take a path: name, which argument is the directory it is relative to, if one is, and which the path.
#[rustfmt::skip]
const PATH_CALLS: &[(&str, Option<u8>, u8)] = &[
    ("open", None, 0), ("creat", None, 0), ("openat", Some(0), 1), ("openat2", Some(0), 1),
    ("stat", None, 0), ("stat64", None, 0), ("lstat", None, 0), ("lstat64", None, 0), ("oldstat", None, 0),
    ("oldlstat", None, 0), ("newfstatat", Some(0), 1), ("fstatat64", Some(0), 1), ("statx", Some(0), 1),
    ("access", None, 0), ("faccessat", Some(0), 1), ("faccessat2", Some(0), 1),
    ("statfs", None, 0), ("statfs64", None, 0), ("readlink", None, 0), ("readlinkat", Some(0), 1),
    ("execve", None, 0), ("execveat", Some(0), 1), ("uselib", None, 0),
    ("chdir", None, 0), ("chroot", None, 0), ("pivot_root", None, 0),
    ("unlink", None, 0), ("unlinkat", Some(0), 1), ("rmdir", None, 0),
    ("mkdir", None, 0), ("mkdirat", Some(0), 1), ("mknod", None, 0), ("mknodat", Some(0), 1),
    ("rename", None, 0), ("renameat", Some(0), 1), ("renameat2", Some(0), 1),
    ("link", None, 0), ("linkat", Some(0), 1), ("symlink", None, 1), ("symlinkat", Some(1), 2),
    ("chmod", None, 0), ("fchmodat", Some(0), 1), ("fchmodat2", Some(0), 1),
    ("chown", None, 0), ("chown32", None, 0), ("lchown", None, 0), ("lchown32", None, 0), ("fchownat", Some(0), 1),
    ("truncate", None, 0), ("truncate64", None, 0),
    ("utime", None, 0), ("utimes", None, 0), ("futimesat", Some(0), 1), ("utimensat", Some(0), 1),
    ("utimensat_time64", Some(0), 1),
    ("getxattr", None, 0), ("lgetxattr", None, 0), ("setxattr", None, 0), ("lsetxattr", None, 0),
    ("listxattr", None, 0), ("llistxattr", None, 0), ("removexattr", None, 0), ("lremovexattr", None, 0),
    ("name_to_handle_at", Some(0), 1), ("mount", None, 1), ("umount", None, 0), ("umount2", None, 0),
    ("open_tree", Some(0), 1), ("move_mount", Some(0), 1), ("mount_setattr", Some(0), 1), ("fspick", Some(0), 1),
    ("quotactl", None, 1), ("acct", None, 0), ("swapon", None, 0), ("swapoff", None, 0),
];

fn row(call: &str) -> Option<&'static (&'static str, Option<u8>, u8)> {
    PATH_CALLS.iter().find(|(name, ..)| *name == call)
}

/// Whether a call takes a path, and so waits for storage if it waits; what may be opened may be something else.
pub fn takes_path(call: &str) -> bool {
    row(call).is_some()
}

/// Whether a call opens what its path names, which may be a FIFO that has no other end.
pub fn opens(call: &str) -> bool {
    matches!(call, "open" | "openat" | "openat2" | "creat")
}

/// The path as the caller gave it, made absolute. An empty one is the directory itself, as `AT_EMPTY_PATH` has it.
pub fn of(wait: &Wait, reads: &mut Reads) -> Option<PathBuf> {
    let (_, directory, path) = row(wait.call.name)?;
    let dirfd = directory.map_or(AT_FDCWD, |at| wait.call.args[usize::from(at)] as i32);
    let process = wait.thread.process;
    let path = reads.string(process, wait.call.args[usize::from(*path)], PATH_MAX)?;
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

/// Whether the thread sleeps in the opening of a FIFO, for its other end (`wait_for_partner`, fs/pipe.c): the kernel says so,
/// without a look at the file. Kernels before 5.16 mostly do not; there a reader looks, which may be lost.
pub fn waits_for_partner(wait: &Wait, path: &Path, reads: &mut Reads) -> bool {
    let process = wait.thread.process;
    let asleep_in = reads.text(process, &format!("task/{}/wchan", wait.thread.tid)).unwrap_or_default();
    match asleep_in.as_str() {
        "" | "0" if wait.sleep == Sleep::Interruptible => path
            .to_str()
            .and_then(|path| reads.what(process, &format!("root{path}")).ok())
            .is_some_and(|file| FileKind::of(file.mode) == FileKind::Fifo),
        function => function.starts_with("wait_for_partner") || function.starts_with("fifo_open"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::verdict::tests::wait,
        model::syscalls::{self, Table},
        procfs::by_pid,
    };

    #[test]
    fn every_row_is_a_call_of_some_table_and_has_no_fd_of_its_own() {
        for (name, directory, path) in PATH_CALLS {
            let known = (0..512).any(|number| {
                [Table::Native, Table::Compat]
                    .iter()
                    .any(|table| syscalls::name(*table, number) == Some(name))
            });
            // Names of other machines' tables.
            assert!(known || ["stat64", "lstat64", "umount"].contains(name), "{name} is in no table");
            assert!(*path < 6 && directory.is_none_or(|directory| directory < *path), "{name}");
            assert_eq!(syscalls::fd_argument(name), None, "{name}");
        }
    }

    #[test]
    fn a_path_is_read_where_it_lies_and_made_absolute() {
        let mut reads = Reads::new();
        let me = by_pid(std::process::id());
        let mut of = |name, args: [u64; 6]| {
            let mut wait = wait(name, args);
            (wait.thread.process, wait.thread.tid) = (me, me.pid);
            // The first thread of a test's process waits for the others.
            let status = reads.text(me, &format!("task/{}/status", me.pid)).expect("its own");
            wait.switches = crate::procfs::stat::status(&status).expect("parses").1;
            super::of(&wait, &mut reads)
        };
        let (absolute, relative) = (c"/a/b".as_ptr() as u64, c"b".as_ptr() as u64);
        let here = std::env::current_dir().expect("a folder");
        let cwd = u64::from(AT_FDCWD as u32);
        assert_eq!(of("stat", [absolute, 0, 0, 0, 0, 0]), Some("/a/b".into()));
        assert_eq!(of("openat", [cwd, relative, 0, 0, 0, 0]), Some(here.join("b")));
        assert_eq!(of("statx", [cwd, c"".as_ptr() as u64, 0, 0, 0, 0]), Some(here));
        assert_eq!(of("openat", [999_999, relative, 0, 0, 0, 0]), Some("b".into()), "no such folder");
        assert_eq!(of("openat", [cwd, 1, 0, 0, 0, 0]), None);
        assert_eq!(of("read", [0; 6]), None);
    }
}
