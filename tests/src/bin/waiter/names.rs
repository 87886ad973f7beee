//! Which role has a name that would write on a terminal? Newlines, escapes and bytes that are no UTF-8.

use std::os::fd::AsRawFd;

use crate::report::{Report, woke};
use crate::{Call, sys};

/// Reads from a pipe under a hostile name; its arguments are the test's, and hostile too.
pub(crate) fn evil_name(call: &Call) {
    let reader = crate::pipes::quiet_pipe();
    sys::set_comm(b"a\nb\x1b[31mc\xff\x9b\x07");
    Report::new(call.role, "read").fd(&reader).print();
    woke(sys::read_byte(reader.as_raw_fd()))
}

/// The same name on a client that waits for its answer, which is a stall.
pub(crate) fn evil_tcp(call: &Call) {
    let client = crate::sockets::unanswered("127.0.0.1");
    sys::set_comm(b"a\nb\x1b[31mc\xff\x9b\x07");
    crate::sockets::tcp_report(call.role, "recvfrom", &client).print();
    woke(crate::sockets::recvfrom(client.as_raw_fd()))
}

/// Nobody's terminal may see these bytes of a path.
const EVIL_PATH: &str = "a\nb\x1b[31mc\u{9b}2J\r";

pub(crate) fn evil_flock(call: &Call) {
    crate::files::flock_at(call, &sys::own_path(EVIL_PATH));
}

pub(crate) fn evil_unix(call: &Call) {
    crate::sockets::recvmsg_unix_at(call, &sys::own_path(EVIL_PATH));
}

/// As many processes as it is told, each with a name of its own, that sleep for a moment and are gone.
pub(crate) fn named(call: &Call) {
    // SAFETY: no handler is set; the kernel takes away those that have ended.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    for number in 0..call.count() {
        sys::peer(&[], || {
            sys::set_comm(format!("named-{number}").as_bytes());
            std::thread::sleep(std::time::Duration::from_millis(10));
            std::process::exit(0);
        });
    }
    Report::new(call.role, "none").print();
    sys::rest()
}
