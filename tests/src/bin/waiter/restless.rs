//! Which roles wait for an answer in many brief sleeps? Clients that look again and again, in between sleep or do something else,
//! or have timers of their own; and one that is answered each time.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use crate::report::{Report, woke};
use crate::sockets::{Connection, tcp_report, unanswered};
use crate::{Call, pipes, sys};

/// One look for an answer, the `round`th: whether there is one.
type Look = fn(RawFd, u64) -> bool;

/// How a client may look for its answer, by the name given as argument.
const WAYS: &[(&str, Look)] = &[
    ("short-polls", |fd, round| poll(fd, 700 + 37 * round % 300)),
    ("long-polls", |fd, round| poll(fd, 1500 + 541 * round % 1700)),
    ("poll-and-sleep", |fd, _| poll(fd, 1000) || sleep(500)),
    ("receive-and-sleep", |fd, _| receive(fd, 2000) || sleep(300)),
    ("timers", |fd, round| loops(fd, 20 + 53 * round % 300)),
    ("slow-timers", |fd, round| loops(fd, 300 + 701 * round % 2500)),
];

/// A client of a server that does not answer; in which way it looks is the argument.
pub(crate) fn restless(call: &Call) {
    let client = unanswered("127.0.0.1");
    tcp_report(call.role, "any", &client).print();
    look(call, client.as_raw_fd());
}

/// The same of a unix socket's client, whose question lies unread.
pub(crate) fn restless_unix(call: &Call) {
    let path = sys::own_path("restless");
    let listener = UnixListener::bind(&path).expect("bind");
    let mut client = UnixStream::connect(&path).expect("connect");
    let (mut server, _) = listener.accept().expect("accept");
    client.write_all(b"PING").expect("ask");
    sys::peer(&[client.as_raw_fd()], move || {
        let _listener = listener;
        sys::on_answer(|| server.write_all(b"PONG").expect("answer"));
    });
    Report::new(call.role, "any").fd(&client).print();
    look(call, client.as_raw_fd());
}

fn way(call: &Call) -> Look {
    let way = call.args.first().and_then(|name| WAYS.iter().find(|(known, _)| known == name));
    way.unwrap_or_else(|| panic!("{}: in which way?", call.role)).1
}

fn look(call: &Call, fd: RawFd) -> ! {
    let look = way(call);
    for round in 0.. {
        if look(fd, round) {
            break;
        }
    }
    woke(0)
}

/// A client that is answered within 100 ms, each time, and asks again at once; it looks as the others do.
pub(crate) fn busy(call: &Call) {
    let look = way(call);
    let Connection { listener, mut client, mut server } = Connection::new("127.0.0.1");
    sys::peer(&[client.as_raw_fd()], move || {
        let _listener = listener;
        let mut question = [0; 4];
        while server.read_exact(&mut question).is_ok() {
            sleep(100);
            server.write_all(b"PONG").expect("answer");
        }
    });
    tcp_report(call.role, "any", &client).print();
    for round in 0.. {
        client.write_all(b"PING").expect("ask");
        while !look(client.as_raw_fd(), round) {}
        answered(&mut client);
    }
}

/// Waits six seconds for an answer; then it does something else for ever, and keeps the connection.
pub(crate) fn gives_up(call: &Call) {
    let client = unanswered("127.0.0.1");
    tcp_report(call.role, "poll", &client).print();
    poll(client.as_raw_fd(), 6000);
    woke(0)
}

/// Takes the answer, if `receive` has not.
fn answered(client: &mut TcpStream) {
    client.set_nonblocking(true).expect("a flag");
    while client.read(&mut [0; 64]).is_ok() {}
    client.set_nonblocking(false).expect("a flag");
}

fn poll(fd: RawFd, milliseconds: u64) -> bool {
    let mut set = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, which outlives the call.
    unsafe { libc::poll(&raw mut set, 1, milliseconds as i32) > 0 }
}

fn receive(fd: RawFd, milliseconds: i64) -> bool {
    let time = libc::timeval { tv_sec: milliseconds / 1000, tv_usec: milliseconds % 1000 * 1000 };
    let (time, size) = ((&raw const time).cast(), size_of::<libc::timeval>() as u32);
    // SAFETY: `time` outlives the call.
    unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, time, size) };
    crate::sockets::recvfrom(fd) > 0
}

/// Not an answer.
fn sleep(milliseconds: u64) -> bool {
    std::thread::sleep(Duration::from_millis(milliseconds));
    false
}

/// An event loop's turn: its one connection, an eventfd that others would wake it by, and a timer that is due soon.
fn loops(fd: RawFd, milliseconds: u64) -> bool {
    thread_local!(static LOOP: std::cell::OnceCell<(std::os::fd::OwnedFd, std::os::fd::OwnedFd)> = const { std::cell::OnceCell::new() });
    LOOP.with(|of_thread| {
        let (epoll, _) = of_thread.get_or_init(|| {
            // SAFETY: eventfd takes numbers.
            let waker = sys::must_fd(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) }.into(), "eventfd");
            (pipes::epoll_of(&[fd, waker.as_raw_fd()]), waker)
        });
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: room for one event, which outlives the call.
        unsafe { libc::epoll_wait(epoll.as_raw_fd(), &raw mut event, 1, milliseconds as i32) > 0 }
    })
}
