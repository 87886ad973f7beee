//! The table of system calls: which argument of which call is the fd it waits on, and which way the data goes.
//!
//! Numbers and names of every machine come from the `syscalls` crate; this file only adds what it does not know.

use tracer_ebpf::abi::{ROW_ADDRESS, ROW_POLLED, SYSCALLS, SyscallRow};

/// Which of a kernel's two tables a number is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    /// This machine's own.
    Native,
    /// The 32-bit one.
    Compat,
}

/// Which way a call moves data on its fd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Into the process.
    In,
    /// Out of the process.
    Out,
    /// Neither, or both.
    Other,
}

/// Name of the pseudo-call of a thread that sleeps in a page fault.
pub const PAGE_FAULT: &str = "page_fault";

/// That of a thread on its way out; a call of this name gets there at once.
pub const EXIT: &str = "exit";

/// That of a thread whose process's memory is being written as a core dump.
pub const CORE_DUMP: &str = "core_dump";

/// Every call that takes one fd and can block: name, which argument the fd is, which way.
#[rustfmt::skip]
const FD_CALLS: &[(&str, u8, Way)] = &[
    ("read", 0, Way::In), ("pread64", 0, Way::In), ("readv", 0, Way::In),
    ("preadv", 0, Way::In), ("preadv2", 0, Way::In), ("readahead", 0, Way::In),
    ("write", 0, Way::Out), ("pwrite64", 0, Way::Out), ("writev", 0, Way::Out),
    ("pwritev", 0, Way::Out), ("pwritev2", 0, Way::Out), ("vmsplice", 0, Way::Out),
    ("recv", 0, Way::In), ("recvfrom", 0, Way::In), ("recvmsg", 0, Way::In),
    ("recvmmsg", 0, Way::In), ("recvmmsg_time64", 0, Way::In),
    ("send", 0, Way::Out), ("sendto", 0, Way::Out), ("sendmsg", 0, Way::Out), ("sendmmsg", 0, Way::Out),
    ("connect", 0, Way::Other), ("accept", 0, Way::Other), ("accept4", 0, Way::Other),
    ("shutdown", 0, Way::Other), ("setsockopt", 0, Way::Other), ("getsockopt", 0, Way::Other),
    ("bind", 0, Way::Other), ("listen", 0, Way::Other), ("close", 0, Way::Other),
    ("flock", 0, Way::Other), ("fcntl", 0, Way::Other), ("fcntl64", 0, Way::Other),
    ("fsync", 0, Way::Out), ("fdatasync", 0, Way::Out), ("syncfs", 0, Way::Out),
    ("sync_file_range", 0, Way::Out), ("sync_file_range2", 0, Way::Out),
    ("arm_sync_file_range", 0, Way::Out), ("ftruncate", 0, Way::Out), ("ftruncate64", 0, Way::Out),
    ("fallocate", 0, Way::Out), ("fadvise64", 0, Way::Other), ("fadvise64_64", 0, Way::Other),
    ("lseek", 0, Way::Other), ("_llseek", 0, Way::Other),
    ("getdents", 0, Way::In), ("getdents64", 0, Way::In),
    ("fstat", 0, Way::Other), ("fstat64", 0, Way::Other), ("fstatfs", 0, Way::Other),
    ("fstatfs64", 0, Way::Other), ("fchmod", 0, Way::Other), ("fchown", 0, Way::Other),
    ("fchown32", 0, Way::Other), ("fchdir", 0, Way::Other),
    ("fgetxattr", 0, Way::Other), ("fsetxattr", 0, Way::Other), ("flistxattr", 0, Way::Other),
    ("fremovexattr", 0, Way::Other),
    ("ioctl", 0, Way::Other), ("finit_module", 0, Way::In), ("quotactl_fd", 0, Way::Other),
    ("sendfile", 0, Way::Out), ("sendfile64", 0, Way::Out),
    ("splice", 0, Way::In), ("tee", 0, Way::In), ("copy_file_range", 0, Way::In),
    ("epoll_wait", 0, Way::In), ("epoll_pwait", 0, Way::In), ("epoll_pwait2", 0, Way::In),
    ("epoll_ctl", 0, Way::Other), ("epoll_wait_old", 0, Way::In),
    ("io_uring_enter", 0, Way::Other), ("io_uring_register", 0, Way::Other),
    ("mq_timedsend", 0, Way::Out), ("mq_timedsend_time64", 0, Way::Out),
    ("mq_timedreceive", 0, Way::In), ("mq_timedreceive_time64", 0, Way::In),
    ("timerfd_settime", 0, Way::Other), ("process_mrelease", 0, Way::Other),
];

fn row(name: &str) -> Option<&'static (&'static str, u8, Way)> {
    FD_CALLS.iter().find(|row| row.0 == name)
}

/// Which way the call moves data; [`Way::Other`] for calls without an fd.
pub fn way(name: &str) -> Way {
    row(name).map_or(Way::Other, |row| row.2)
}

/// Which argument of the call is its fd.
pub fn fd_argument(name: &str) -> Option<usize> {
    row(name).map(|row| usize::from(row.1))
}

#[cfg(target_arch = "aarch64")]
use syscalls::{aarch64::Sysno as NativeSysno, arm::Sysno as CompatSysno};
#[cfg(target_arch = "x86_64")]
use syscalls::{x86::Sysno as CompatSysno, x86_64::Sysno as NativeSysno};

/// Name of a call; `None` for a number its table does not have.
pub fn name(table: Table, number: i32) -> Option<&'static str> {
    let number = usize::try_from(number).ok()?;
    match table {
        Table::Native => NativeSysno::new(number).map(|call| call.name()),
        Table::Compat => CompatSysno::new(number).map(|call| call.name()),
    }
}

/// Calls without an fd that can block.
#[rustfmt::skip]
const OTHER_CALLS: &[&str] = &[
    "futex", "futex_wait", "futex_waitv", "nanosleep", "clock_nanosleep", "wait4", "waitid", "pause", "rt_sigsuspend",
    "rt_sigtimedwait", "open", "openat", "openat2", "creat", "poll", "ppoll", "select", "pselect6", "io_getevents",
    "io_pgetevents", "semop", "semtimedop", "msgrcv", "msgsnd", "mq_timedsend", "mq_timedreceive", "sync", "msync",
    "unlink", "unlinkat", "rename", "renameat2", "stat", "newfstatat", "statx", "mkdir", "mkdirat", "execve", "vfork",
];

/// Calls of this machine's own table that can block.
pub fn blocking() -> impl Iterator<Item = &'static str> {
    (0..SYSCALLS as i32)
        .filter_map(|number| name(Table::Native, number))
        .filter(|name| row(name).is_some() || OTHER_CALLS.contains(name))
}

/// What the arguments of a call point to that is kept when it ends.
fn points_to(name: &str) -> SyscallRow {
    match name {
        "connect" => ROW_ADDRESS,
        "poll" | "ppoll" | "ppoll_time64" => ROW_POLLED,
        _ => 0,
    }
}

/// The rows the kernel programs need, for each number.
pub fn rows(table: Table) -> [SyscallRow; SYSCALLS] {
    std::array::from_fn(|number| {
        let fd = |name| row(name).map_or(0, |row| SyscallRow::from(row.1) + 1);
        name(table, number as i32).map_or(0, |name| fd(name) | points_to(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_a_call_of_some_table() {
        for (name, argument, _) in FD_CALLS {
            assert!(*argument < 6, "{name}");
            let known = (0..SYSCALLS as i32)
                .any(|n| [Table::Native, Table::Compat].iter().any(|t| super::name(*t, n) == Some(name)));
            // Names of other machines' tables and calls only some kernels have.
            let elsewhere =
                ["recv", "send", "sync_file_range2", "arm_sync_file_range", "fchown32", "epoll_wait_old"];
            assert!(known || elsewhere.contains(name), "{name} is in no table");
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn three_is_close_here_and_read_there() {
        assert_eq!(name(Table::Native, 3), Some("close"));
        assert_eq!(name(Table::Compat, 3), Some("read"));
        assert_eq!(rows(Table::Native)[0], 1);
        assert_eq!(name(Table::Native, 100_000), None);
        assert_eq!(name(Table::Native, -1), None);
    }

    #[test]
    fn calls_without_an_fd_have_no_row() {
        for without in ["futex", "nanosleep", "wait4", "openat", "poll"] {
            assert_eq!(fd_argument(without), None, "{without}");
        }
    }
}
