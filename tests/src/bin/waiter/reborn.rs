//! Which role has the same process id twice? A child that waits, and after it another, alike but for its start.

use std::io::Error;
use std::os::fd::AsRawFd;

use crate::report::woke;
use crate::sockets::{Connection, recvfrom, tcp_report};
use crate::{Call, sys};

/// `struct clone_args` of include/uapi/linux/sched.h, up to what version 1 has.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
}

/// Forks a child with this process id, which must be free.
fn fork_as(pid: &libc::pid_t) -> i64 {
    let args = CloneArgs {
        exit_signal: libc::SIGCHLD as u64,
        set_tid: std::ptr::from_ref(pid).expose_provenance() as u64,
        set_tid_size: 1,
        ..CloneArgs::default()
    };
    // SAFETY: the arguments and the pid outlive the call; without flags and stack it is a fork, and this process has
    // one thread.
    unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) }
}

/// A child in `recvfrom`; at every line on standard input it is killed and one with its process id takes its place,
/// in the same call, on the same descriptor, with the same arguments.
pub(crate) fn reborn(call: &Call) {
    let Connection { listener, client, server } = Connection::new("127.0.0.1");
    let parent = std::process::id();
    sys::peer(&[client.as_raw_fd()], move || {
        let _held = (listener, server);
        sys::rest();
    });
    // A process id that was free a moment ago, as its process has just gone.
    // SAFETY: this process has one thread; the child leaves at once.
    let pid = match unsafe { libc::fork() } {
        // SAFETY: _exit takes a number.
        0 => unsafe { libc::_exit(0) },
        pid => pid,
    };
    reap(pid);
    let wait = || match fork_as(&pid) {
        -1 => panic!("clone3 with a process id: {}", Error::last_os_error()),
        0 => {
            sys::die_with(parent);
            tcp_report(call.role, "recvfrom", &client).print();
            woke(recvfrom(client.as_raw_fd()))
        }
        _ => (),
    };
    wait();
    sys::on_commands(|_| {
        // SAFETY: kill takes two numbers; the child has not been waited for, so the id is still its own.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        reap(pid);
        wait();
    })
}

fn reap(pid: libc::pid_t) {
    // SAFETY: the status is not asked for.
    sys::must(unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) }.into(), "waitpid");
}
