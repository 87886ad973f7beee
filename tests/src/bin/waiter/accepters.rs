//! Which roles wait for a lock whose holder waits for a connection? Servers take turns so; an event loop that keeps a lock does not.

use std::net::TcpListener;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::mpsc;
use std::thread;

use crate::report::{Report, woke};
use crate::sockets::Connection;
use crate::{Call, files, locks, sys};

/// Processes that take turns by a lock on a file.
pub(crate) fn turns_file(call: &Call) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback listener");
    let path = sys::own_path("turns");
    let file = files::create(&path);
    let accepts = listener.as_raw_fd();
    files::held_elsewhere(&path, move |fd| {
        let locked = sys::must(files::flock_exclusive(fd), "flock");
        // SAFETY: the address of who connects is not asked for.
        thread::spawn(move || unsafe { libc::accept(accepts, std::ptr::null_mut(), std::ptr::null_mut()) });
        locked
    });
    Report::new(call.role, "flock").fd(&file).print();
    woke(files::flock_exclusive(file.as_raw_fd()))
}

/// Threads that take turns by a mutex: the one that has it polls the listener.
pub(crate) fn turns_mutex(call: &Call) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback listener");
    behind(call, vec![listener.as_raw_fd()]);
}

/// An event loop with a connection besides, which keeps a mutex.
pub(crate) fn loop_with_mutex(call: &Call) {
    let Connection { listener, client: _client, server } = Connection::new("127.0.0.1");
    behind(call, vec![listener.as_raw_fd(), server.as_raw_fd()]);
}

/// Waits for a mutex of a thread that polls these.
fn behind(call: &Call, fds: Vec<RawFd>) {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        locks::lock();
        tell.send(sys::gettid()).expect("the main thread listens");
        let mut set: Vec<libc::pollfd> =
            fds.into_iter().map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect();
        // SAFETY: pollfds that outlive the call, as many as it is told.
        unsafe { libc::poll(set.as_mut_ptr(), set.len() as libc::nfds_t, -1) };
    });
    let holder = told.recv().expect("the thread reports");
    Report::new(call.role, "futex").with("holder", holder).print();
    woke(locks::lock())
}
