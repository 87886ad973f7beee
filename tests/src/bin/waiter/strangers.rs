//! What does another user of the host do? Its client is answered, or not, as it asks.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;

use crate::Call;
use crate::report::woke;
use crate::sockets::{recvfrom, tcp_report};

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
