//! Whose turn is it? Connections, pipes and queues on which the one or the other side has spoken last, or nobody can.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

use crate::report::{Report, woke};
use crate::sockets::{Connection, recvfrom, tcp_report};
use crate::{Call, sys};

/// A client that has got the first half of an answer.
pub(crate) fn quiet(call: &Call) {
    let Connection { listener, mut client, mut server } = Connection::new("127.0.0.1");
    client.write_all(b"GET /\r\n").expect("ask");
    server.read_exact(&mut [0; 7]).expect("the question");
    server.write_all(b"HALF").expect("half an answer");
    client.read_exact(&mut [0; 4]).expect("the half");
    sys::peer(&[client.as_raw_fd()], move || {
        let _listener = listener;
        sys::on_answer(|| server.write_all(b"rest").expect("answer"));
    });
    tcp_report(call.role, "recvfrom", &client).print();
    woke(recvfrom(client.as_raw_fd()))
}

/// A client that has subscribed to something, as SUBSCRIBE and LISTEN do: it was told so, and then its server had nothing to say. That
/// one watches the connection among others.
pub(crate) fn subscribed(call: &Call) {
    let Connection { listener, mut client, mut server } = Connection::new("127.0.0.1");
    client.write_all(b"SUBSCRIBE\r\n").expect("ask");
    server.read_exact(&mut [0; 11]).expect("the question");
    server.write_all(b"OK").expect("answer");
    client.read_exact(&mut [0; 2]).expect("the answer");
    let watched = [server.as_raw_fd(), listener.as_raw_fd()];
    sys::peer(&[client.as_raw_fd()], || {
        let mut set = watched.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
        // SAFETY: two pollfds, which outlive the call.
        unsafe { libc::poll(set.as_mut_ptr(), 2, -1) };
    });
    watched.into_iter().for_each(sys::close);
    std::mem::forget((server, listener));
    tcp_report(call.role, "recvfrom", &client).print();
    woke(recvfrom(client.as_raw_fd()))
}

/// The server's end of a connection whose last request has been answered.
pub(crate) fn peer(call: &Call) {
    let (listener, mut server, mut client) = accepted();
    client.write_all(b"PING").expect("ask");
    server.read_exact(&mut [0; 4]).expect("the question");
    server.write_all(b"PONG").expect("answer");
    client.read_exact(&mut [0; 4]).expect("the answer");
    serve(call, &listener, &server, client);
}

/// The server's end of a connection on which half a request has come.
pub(crate) fn request(call: &Call) {
    let (listener, mut server, mut client) = accepted();
    client.write_all(b"HALF").expect("half a question");
    server.read_exact(&mut [0; 4]).expect("the half");
    serve(call, &listener, &server, client);
}

/// The server's end of a connection whose listener is closed, as `nc -l` has it, before the first request.
pub(crate) fn served(call: &Call) {
    let (listener, server, mut client) = accepted();
    let own = client.as_raw_fd();
    let fds: [RawFd; 2] = [listener.as_raw_fd(), server.as_raw_fd()];
    sys::peer(&fds, || sys::on_answer(|| client.write_all(b"more").expect("ask")));
    sys::close(own);
    std::mem::forget(client);
    drop(listener);
    Report::new(call.role, "recvfrom").fd(&server).print();
    woke(recvfrom(server.as_raw_fd()))
}

fn accepted() -> (TcpListener, TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback listener");
    let (client, server) = Connection::pair(&listener);
    (listener, server, client)
}

/// Waits as a server does, with its listener open and the client in another process.
fn serve(call: &Call, listener: &TcpListener, server: &TcpStream, mut client: TcpStream) {
    let fds: [RawFd; 2] = [listener.as_raw_fd(), server.as_raw_fd()];
    let own = client.as_raw_fd();
    sys::peer(&fds, || sys::on_answer(|| client.write_all(b"more").expect("ask")));
    sys::close(own);
    std::mem::forget(client);
    Report::new(call.role, "recvfrom").fd(server).print();
    woke(recvfrom(server.as_raw_fd()))
}

/// A client of a unix socket whose server watches its connection among other things.
pub(crate) fn dialog(call: &Call) {
    let path = sys::own_path("dialog");
    let listener = UnixListener::bind(&path).expect("bind");
    let client = UnixStream::connect(&path).expect("connect");
    let (server, _) = listener.accept().expect("accept");
    let (own, theirs) = (server.as_raw_fd(), client.as_raw_fd());
    let watched = [own, listener.as_raw_fd()];
    sys::peer(&[theirs], || {
        let mut set = watched.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
        // SAFETY: two pollfds, which outlive the call.
        unsafe { libc::poll(set.as_mut_ptr(), 2, -1) };
    });
    sys::close(own);
    std::mem::forget(server);
    Report::new(call.role, "recvfrom").fd(&client).print();
    woke(recvfrom(client.as_raw_fd()))
}

/// A pipe whose only writer is the reader.
pub(crate) fn orphan(call: &Call) {
    let (reader, _writer) = sys::pipe();
    Report::new(call.role, "read").fd(&reader).print();
    woke(sys::read_byte(reader.as_raw_fd()))
}

/// An empty message queue, which goes with this process.
pub(crate) fn message(call: &Call) {
    let name = std::ffi::CString::new(format!("/waiter-{}", std::process::id())).expect("no NUL");
    let (none, mut bytes) = (std::ptr::null::<libc::timespec>(), vec![0_u8; 65536]);
    // SAFETY: the name is NUL-terminated, and so is what mq_open reads of it.
    let queue = unsafe { libc::mq_open(name.as_ptr(), libc::O_RDONLY | libc::O_CREAT, 0o600, 0) };
    sys::must(queue.into(), "mq_open");
    // SAFETY: as above.
    sys::must(unsafe { libc::mq_unlink(name.as_ptr()) }.into(), "mq_unlink");
    Report::new(call.role, "mq_timedreceive").with("fd", queue).print();
    // SAFETY: room for the longest message, no priority asked for, no time-out.
    woke(unsafe { libc::syscall(libc::SYS_mq_timedreceive, queue, bytes.as_mut_ptr(), bytes.len(), 0, none) })
}
