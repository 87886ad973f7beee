//! Which roles wait for a place in a queue of messages? Each has queues of its own, which go with it.

use std::ffi::CStr;
use std::io::Error;
use std::os::fd::AsRawFd;

use crate::report::{Report, unsupported, woke};
use crate::{Call, sys};

/// So long a call with a time-out waits.
pub(crate) const SECONDS: u64 = 1000;

/// Queues made from here on end with this process and its children.
fn own_queues(call: &Call) {
    // SAFETY: unshare takes flags.
    if unsafe { libc::unshare(libc::CLONE_NEWIPC) } != 0 {
        unsupported(call.role, &format!("unshare: {}", Error::last_os_error()));
    }
}

/// `msgsnd` into a full queue.
pub(crate) fn msgsnd(call: &Call) {
    own_queues(call);
    // SAFETY: msgget takes numbers.
    let queue = sys::must(unsafe { libc::msgget(libc::IPC_PRIVATE, 0o600) }.into(), "msgget");
    let queue = i32::try_from(queue).expect("ids are small");
    // A type and 1,016 bytes.
    let message = [1_u64; 128];
    // SAFETY: the message outlives the call.
    let send = |flags: i32| unsafe { libc::syscall(libc::SYS_msgsnd, queue, message.as_ptr(), 1016, flags) };
    while send(libc::IPC_NOWAIT) == 0 {}
    Report::new(call.role, "msgsnd").with("id", queue).print();
    woke(send(0))
}

/// `mq_timedsend` into a full queue that another process has open.
pub(crate) fn mq_timedsend(call: &Call) {
    const NAME: &CStr = c"tracer-tests";
    own_queues(call);
    // SAFETY: an all-zero mq_attr is one.
    let mut room: libc::mq_attr = unsafe { std::mem::zeroed() };
    (room.mq_maxmsg, room.mq_msgsize) = (2, 16);
    // SAFETY: the name is NUL-terminated, and both outlive the call.
    let opened = unsafe {
        libc::syscall(libc::SYS_mq_open, NAME.as_ptr(), libc::O_CREAT | libc::O_RDWR, 0o600, &raw const room)
    };
    if opened < 0 {
        unsupported(call.role, &format!("mq_open: {}", Error::last_os_error()));
    }
    let queue = sys::must_fd(opened, "mq_open");
    let holder = sys::peer(&[], || {});
    let send = |until: Option<libc::timespec>| {
        let until = until.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: one byte of a string, and a moment that outlives the call.
        unsafe { libc::syscall(libc::SYS_mq_timedsend, queue.as_raw_fd(), c"x".as_ptr(), 1, 0, until) }
    };
    let past = Some(libc::timespec { tv_sec: 0, tv_nsec: 0 });
    while send(past) == 0 {}
    let now = sys::realtime_ns() / 1_000_000_000;
    let moment = libc::timespec { tv_sec: (now + SECONDS).cast_signed(), tv_nsec: 0 };
    Report::new(call.role, "mq_timedsend").fd(&queue).with("holder", holder).print();
    woke(send(Some(moment)))
}
