//! Who waits for a server that does not take what is sent to it? Unix sockets with a full queue, or whose connections nobody accepts; and
//! queries by UDP that nobody answers.

use std::io::{ErrorKind, Write};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::report::{Report, woke};
use crate::sockets::recvfrom;
use crate::{Call, sys};

/// A process that has something open and does nothing with it.
fn keeper(keeps: impl Sized) -> libc::pid_t {
    sys::peer(&[], move || {
        let _keeps = keeps;
        sys::on_answer(|| ())
    })
}

/// The address of a unix socket with this path.
fn address(path: &Path) -> (libc::sockaddr_un, libc::socklen_t) {
    // SAFETY: zeros are an address without a path.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::sa_family_t::try_from(libc::AF_UNIX).expect("AF_UNIX is small");
    let path = sys::c_path(path);
    // SAFETY: as many bytes as it has, in the C library's type for them, which may have a sign.
    let name = unsafe { std::slice::from_raw_parts(path.as_ptr(), path.as_bytes_with_nul().len()) };
    address.sun_path[..name.len()].copy_from_slice(name);
    (address, size_of::<libc::sockaddr_un>() as libc::socklen_t)
}

/// A socket of datagrams with a name, as a log daemon has it that does not read: its path, and who has it. Its queue is full.
fn full_log() -> (PathBuf, libc::pid_t) {
    let path = sys::own_path("log");
    let server = UnixDatagram::bind(&path).expect("bind");
    let filler = UnixDatagram::unbound().expect("a socket");
    filler.set_nonblocking(true).expect("nonblocking");
    while filler.send_to(b"x", &path).is_ok() {}
    (path, keeper(server))
}

/// `sendto` to a socket by its name: the sender's own has neither name nor peer.
pub(crate) fn sendto_named(call: &Call) {
    let (path, keeper) = full_log();
    let client = UnixDatagram::unbound().expect("a socket");
    let (address, length) = address(&path);
    Report::new(call.role, "sendto").fd(&client).path(&path).with("keeper", keeper).print();
    // SAFETY: a byte and an address, which outlive the call.
    woke(unsafe {
        let (byte, address) = (b"x".as_ptr(), (&raw const address).cast::<libc::c_void>());
        libc::syscall(libc::SYS_sendto, client.as_raw_fd(), byte, 1, 0, address, length)
    })
}

/// The same by `sendmsg`, whose address lies behind another pointer.
pub(crate) fn sendmsg_named(call: &Call) {
    let (path, keeper) = full_log();
    let client = UnixDatagram::unbound().expect("a socket");
    let (mut address, length) = address(&path);
    let mut bytes = libc::iovec { iov_base: b"x".as_ptr().cast_mut().cast(), iov_len: 1 };
    // SAFETY: zeros are a message without anything.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_name, message.msg_namelen) = ((&raw mut address).cast(), length);
    (message.msg_iov, message.msg_iovlen) = (&raw mut bytes, 1);
    Report::new(call.role, "sendmsg").fd(&client).path(&path).with("keeper", keeper).print();
    // SAFETY: the message and what it points to outlive the call, which only reads them.
    woke(unsafe { libc::syscall(libc::SYS_sendmsg, client.as_raw_fd(), &raw const message, 0) })
}

/// `connect` to a unix socket whose backlog is full.
pub(crate) fn connect_unix(call: &Call) {
    let path = sys::own_path("full");
    let listener = UnixListener::bind(&path).expect("bind");
    // SAFETY: listen takes two numbers; a second call only changes the backlog.
    sys::must(unsafe { libc::listen(listener.as_raw_fd(), 0) }.into(), "listen");
    let filler = UnixStream::connect(&path).expect("there is room for one");
    let keeper = keeper((listener, filler));
    // SAFETY: socket takes three numbers.
    let made = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    let socket = sys::must_fd(made.into(), "socket");
    let (address, length) = address(&path);
    Report::new(call.role, "connect").fd(&socket).path(&path).with("keeper", keeper).print();
    // SAFETY: an address, which outlives the call.
    woke(unsafe { libc::syscall(libc::SYS_connect, socket.as_raw_fd(), &raw const address, length) })
}

/// A client that has asked on a connection that nobody accepts.
pub(crate) fn unaccepted(call: &Call) {
    let path = sys::own_path("unaccepted");
    let listener = UnixListener::bind(&path).expect("bind");
    let keeper = keeper(listener);
    let mut client = UnixStream::connect(&path).expect("connect");
    client.write_all(b"GET /\r\n").expect("ask");
    Report::new(call.role, "recvfrom").fd(&client).path(&path).with("keeper", keeper).print();
    woke(recvfrom(client.as_raw_fd()))
}

/// A socket that has asked a server of datagrams that hears and says nothing.
fn query(server: &UdpSocket) -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
    client.connect(server.local_addr().expect("bound")).expect("connect");
    client.send(b"who?").expect("ask");
    client
}

/// A query by UDP that nobody answers.
pub(crate) fn query_udp(call: &Call) {
    let server = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let client = query(&server);
    let remote = server.local_addr().expect("bound");
    Report::new(call.role, "recvfrom").fd(&client).remote(remote).print();
    woke(recvfrom(client.as_raw_fd()))
}

/// Queries, each of which is given up after a second and a half, and made again on another socket.
pub(crate) fn queries_udp(call: &Call) {
    let server = UdpSocket::bind("127.0.0.1:0").expect("bind");
    Report::new(call.role, "any").remote(server.local_addr().expect("bound")).print();
    loop {
        let client = query(&server);
        client.set_read_timeout(Some(Duration::from_millis(1500))).expect("a time-out");
        let answer = client.recv(&mut [0; 9]);
        assert!(answer.is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "nobody answers");
    }
}
