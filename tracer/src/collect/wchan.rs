//! Which call is a thread in, by the kernel function it sleeps in? What is left where the call itself is kept from us:
//! `/proc/TID/syscall` needs the right to attach a debugger, which Yama takes from a user's own processes, `wchan` needs less.

use crate::model::syscalls::Syscall;

/// Beginnings of names of kernel functions, and the call that sleeps there. Other calls may, too (`ppoll` in `poll`'s).
const SLEEPS: &[(&str, Syscall)] = &[
    ("poll_schedule_timeout", Syscall::Poll),
    ("do_sys_poll", Syscall::Poll),
    ("do_select", Syscall::Select),
    ("ep_poll", Syscall::EpollWait),
    ("do_epoll_wait", Syscall::EpollWait),
    ("futex_", Syscall::Futex),
    ("do_futex", Syscall::Futex),
    ("hrtimer_nanosleep", Syscall::Nanosleep),
    ("do_nanosleep", Syscall::Nanosleep),
    ("do_wait", Syscall::Wait4),
    ("kernel_wait", Syscall::Wait4),
    ("pipe_read", Syscall::Read),
    ("anon_pipe_read", Syscall::Read),
    ("pipe_wait_readable", Syscall::Read),
    ("pipe_write", Syscall::Write),
    ("anon_pipe_write", Syscall::Write),
    ("pipe_wait_writable", Syscall::Write),
    ("wait_for_partner", Syscall::Openat),
    ("inet_csk_accept", Syscall::Accept),
    ("inet_csk_wait_for_connect", Syscall::Accept),
    ("unix_stream_data_wait", Syscall::Recvfrom),
    ("unix_stream_read_generic", Syscall::Recvfrom),
    ("flock_lock_inode_wait", Syscall::Flock),
    ("locks_lock_inode_wait", Syscall::Flock),
    ("do_lock_file_wait", Syscall::Fcntl),
    ("fcntl_setlk", Syscall::Fcntl),
    ("do_sigtimedwait", Syscall::RtSigtimedwait),
    ("sigsuspend", Syscall::RtSigsuspend),
    ("do_semtimedop", Syscall::Semtimedop),
    ("do_msgrcv", Syscall::Msgrcv),
    ("inotify_read", Syscall::Read),
    ("io_cqring_wait", Syscall::IoUringEnter),
];

/// The call that sleeps in this function; `None` where many do.
pub fn call(function: &str) -> Option<Syscall> {
    SLEEPS.iter().find(|(begin, _)| function.starts_with(begin)).map(|(_, syscall)| *syscall)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::syscalls::CallTable;

    #[test]
    fn functions_name_calls_that_exist() {
        let is_absent = |syscall: &Syscall| syscall.number(CallTable::Native).is_none();
        // Some machines have newer calls only.
        let absent: Vec<_> = SLEEPS.iter().map(|(_, syscall)| *syscall).filter(is_absent).collect();
        assert!(cfg!(not(target_arch = "x86_64")) || absent.is_empty(), "{absent:?}");
        assert_eq!(call("poll_schedule_timeout.constprop.0"), Some(Syscall::Poll));
        assert_eq!(call("wait_woken"), None);
    }
}
