//! Which call is a thread in, by the kernel function it sleeps in? What is left where the call itself is kept from us:
//! `/proc/TID/syscall` needs the right to attach a debugger, which Yama takes from a user's own processes, `wchan` needs less.

/// Beginnings of names of kernel functions, and the call that sleeps there. Other calls may, too (`ppoll` in `poll`'s).
const SLEEPS: &[(&str, &str)] = &[
    ("poll_schedule_timeout", "poll"),
    ("do_sys_poll", "poll"),
    ("do_select", "select"),
    ("ep_poll", "epoll_wait"),
    ("do_epoll_wait", "epoll_wait"),
    ("futex_", "futex"),
    ("do_futex", "futex"),
    ("hrtimer_nanosleep", "nanosleep"),
    ("do_nanosleep", "nanosleep"),
    ("do_wait", "wait4"),
    ("kernel_wait", "wait4"),
    ("pipe_read", "read"),
    ("anon_pipe_read", "read"),
    ("pipe_wait_readable", "read"),
    ("pipe_write", "write"),
    ("anon_pipe_write", "write"),
    ("pipe_wait_writable", "write"),
    ("wait_for_partner", "openat"),
    ("inet_csk_accept", "accept"),
    ("inet_csk_wait_for_connect", "accept"),
    ("unix_stream_data_wait", "recvfrom"),
    ("unix_stream_read_generic", "recvfrom"),
    ("flock_lock_inode_wait", "flock"),
    ("locks_lock_inode_wait", "flock"),
    ("do_lock_file_wait", "fcntl"),
    ("fcntl_setlk", "fcntl"),
    ("do_sigtimedwait", "rt_sigtimedwait"),
    ("sigsuspend", "rt_sigsuspend"),
    ("do_semtimedop", "semtimedop"),
    ("do_msgrcv", "msgrcv"),
    ("inotify_read", "read"),
    ("io_cqring_wait", "io_uring_enter"),
];

/// The call that sleeps in this function; `None` where many do.
pub fn call(function: &str) -> Option<&'static str> {
    SLEEPS.iter().find(|(begin, _)| function.starts_with(begin)).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::syscalls::{self, Table};

    #[test]
    fn functions_name_calls_that_exist() {
        let known =
            |wanted: &str| (0..512).any(|number| syscalls::name(Table::Native, number) == Some(wanted));
        // Some machines have newer calls only.
        let absent: Vec<_> = SLEEPS.iter().filter(|(_, name)| !known(name)).map(|(_, name)| *name).collect();
        assert!(cfg!(not(target_arch = "x86_64")) || absent.is_empty(), "{absent:?}");
        assert_eq!(call("poll_schedule_timeout.constprop.0"), Some("poll"));
        assert_eq!(call("wait_woken"), None);
    }
}
