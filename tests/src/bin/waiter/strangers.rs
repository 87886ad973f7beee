//! Which roles does another user of the host play? A client that is answered, or not, as it asks; somebody who listens at the port
//! of another's client.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;

use crate::report::{Report, woke};
use crate::sockets::{recvfrom, tcp_report};
use crate::{Call, sys};

/// A client of the server at its first argument: it is answered as often as the second one says, on one connection, and waits for
/// the answer after that.
pub(crate) fn asks(call: &Call) {
    let [address, times] = call.args else { panic!("{}: whom, and how often?", call.role) };
    let address: SocketAddr = address.parse().expect("an address");
    let mut client = TcpStream::connect(address).expect("connect");
    for _ in 0..times.parse().expect("a number") {
        client.write_all(b"y").expect("ask");
        client.read_exact(&mut [0]).expect("an answer");
    }
    client.write_all(b"n").expect("ask");
    tcp_report(call.role, "recvfrom", &client).print();
    woke(recvfrom(client.as_raw_fd()))
}

/// Listens on a port of all IPv6 addresses, and on no IPv4 one.
pub(crate) fn shadow(call: &Call) {
    let port: u16 = call.args.first().and_then(|port| port.parse().ok()).expect("a port");
    // SAFETY: three numbers.
    let socket = sys::must_fd(unsafe { libc::socket(libc::AF_INET6, libc::SOCK_STREAM, 0) }.into(), "socket");
    let (fd, one) = (socket.as_raw_fd(), 1_i32);
    // SAFETY: all zero is a valid value of the C struct.
    let mut any: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
    (any.sin6_family, any.sin6_port) = (libc::AF_INET6 as libc::sa_family_t, port.to_be());
    let length = |bytes: usize| libc::socklen_t::try_from(bytes).expect("a small struct");
    // SAFETY: a number of the length that is said, which outlives the call.
    let only = unsafe {
        let length = length(size_of_val(&one));
        libc::setsockopt(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, (&raw const one).cast(), length)
    };
    sys::must(only.into(), "setsockopt");
    // SAFETY: an address of the length that is said, which outlives the call.
    let bound = unsafe { libc::bind(fd, (&raw const any).cast(), length(size_of_val(&any))) };
    sys::must(bound.into(), "bind");
    // SAFETY: two numbers.
    sys::must(unsafe { libc::listen(fd, 1) }.into(), "listen");
    Report::new(call.role, "none").print();
    sys::rest()
}
