//! Which roles wait on descriptors that are neither socket nor pipe nor file? eventfd, timerfd, signalfd and kin.

use std::os::fd::{AsRawFd, OwnedFd};

use crate::pipes::ppoll;
use crate::report::{Report, woke};
use crate::{Call, sys, terminals};

/// Reads enough for any of these descriptors; a buffer too small would be refused at once.
fn read(call: &Call, fd: &OwnedFd) -> ! {
    let mut buffer = [0_u8; 1024];
    Report::new(call.role, "read").fd(fd).print();
    // SAFETY: the buffer outlives the call.
    woke(unsafe { libc::syscall(libc::SYS_read, fd.as_raw_fd(), buffer.as_mut_ptr(), buffer.len()) })
}

pub(crate) fn read_eventfd(call: &Call) {
    // SAFETY: eventfd takes two numbers.
    let fd = sys::must_fd(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) }.into(), "eventfd");
    read(call, &fd);
}

/// A timer that is far away.
pub(crate) fn read_timerfd(call: &Call) {
    // SAFETY: timerfd_create takes two numbers.
    let made = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC) };
    let fd = sys::must_fd(made.into(), "timerfd_create");
    let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let far =
        libc::itimerspec { it_interval: zero, it_value: libc::timespec { tv_sec: 100_000, tv_nsec: 0 } };
    // SAFETY: `far` outlives the call; the old setting is not asked for.
    let set = unsafe { libc::timerfd_settime(fd.as_raw_fd(), 0, &raw const far, std::ptr::null_mut()) };
    sys::must(set.into(), "timerfd_settime");
    read(call, &fd);
}

pub(crate) fn read_signalfd(call: &Call) {
    // SAFETY: an all-zero sigset_t is a valid value, and sigemptyset makes it the empty set in any case.
    let mut mask: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `mask` outlives the three calls.
    let made = unsafe {
        libc::sigemptyset(&raw mut mask);
        libc::sigaddset(&raw mut mask, libc::SIGUSR1);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const mask, std::ptr::null_mut());
        libc::signalfd(-1, &raw const mask, libc::SFD_CLOEXEC)
    };
    let fd = sys::must_fd(made.into(), "signalfd");
    read(call, &fd);
}

pub(crate) fn read_inotify(call: &Call) {
    // SAFETY: inotify_init1 takes a flag.
    let fd = sys::must_fd(unsafe { libc::inotify_init1(libc::IN_CLOEXEC) }.into(), "inotify_init1");
    read(call, &fd);
}

/// `read` on a terminal nobody types at; another process holds the other side.
pub(crate) fn read_tty(call: &Call) {
    let (master, terminal) = terminals::pair();
    sys::peer(&[terminal.as_raw_fd()], move || {
        let _master = master;
        sys::rest();
    });
    read(call, &terminal);
}

/// A child that lives on, by descriptor.
fn child_fd() -> OwnedFd {
    let child = sys::peer(&[], || {});
    // SAFETY: pidfd_open takes two numbers.
    sys::must_fd(unsafe { libc::syscall(libc::SYS_pidfd_open, child, 0) }, "pidfd_open")
}

/// `ppoll` on a pidfd.
pub(crate) fn poll_pidfd(call: &Call) {
    let fd = child_fd();
    Report::new(call.role, "ppoll").fd(&fd).print();
    woke(ppoll(fd.as_raw_fd()))
}

/// `waitid(P_PIDFD)`: the descriptor is its second argument.
pub(crate) fn waitid_pidfd(call: &Call) {
    let fd = child_fd();
    let none = std::ptr::null_mut::<libc::c_void>();
    Report::new(call.role, "waitid").fd(&fd).print();
    // SAFETY: neither status nor usage is asked for.
    woke(unsafe { libc::syscall(libc::SYS_waitid, libc::P_PIDFD, fd.as_raw_fd(), none, libc::WEXITED, none) })
}
