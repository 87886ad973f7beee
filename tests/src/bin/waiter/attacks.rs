//! Which roles try to keep others from being seen? What one user of a host can do to an agent, and whom they borrow names from.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::report::{Report, print, woke};
use crate::sockets::{recvfrom, tcp_report};
use crate::{Call, sys};

/// N processes that read from one pipe, which all of them may write to: what is left of a prefork server or a jobserver.
pub(crate) fn one_pipe(call: &Call) {
    let (reader, writer) = sys::pipe();
    let (ready, tell) = sys::pipe();
    for _ in 0..call.count() {
        sys::peer(&[ready.as_raw_fd()], || {
            sys::write_byte(tell.as_raw_fd());
            sys::read_byte(reader.as_raw_fd());
        });
    }
    for _ in 0..call.count() {
        sys::must(sys::read_byte(ready.as_raw_fd()), "a reader's word");
    }
    Report::new(call.role, "none").fd(&writer).print();
    sys::rest()
}

/// `shadow PORT` listens on the local port of another's connection, at addresses that are not that connection's.
pub(crate) fn shadow(call: &Call) {
    let port = u16::try_from(call.count()).expect("a port");
    let six = listen_six(port);
    let other = TcpListener::bind(("127.0.0.2", port));
    Report::new(call.role, "none").with("six", six.is_some()).with("other", other.is_ok()).print();
    sys::rest()
}

/// A listener on `[::]` that takes no connections of IPv4.
fn listen_six(port: u16) -> Option<TcpListener> {
    // SAFETY: socket takes three numbers.
    let fd = unsafe { libc::socket(libc::AF_INET6, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return None;
    }
    // SAFETY: the kernel has just returned this descriptor to us; nobody else owns it.
    let listener = unsafe { TcpListener::from_raw_fd(fd) };
    let only: libc::c_int = 1;
    // SAFETY: an all-zero sockaddr_in6 is a valid value: any address, no port.
    let mut address: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
    address.sin6_family = libc::sa_family_t::try_from(libc::AF_INET6).expect("AF_INET6 is small");
    address.sin6_port = port.to_be();
    // SAFETY: the option and the address are of the lengths given and outlive the calls.
    let bound = unsafe {
        let (value, length) = ((&raw const only).cast(), size_of_val(&only) as libc::socklen_t);
        libc::setsockopt(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, value, length) == 0
            && libc::bind(fd, (&raw const address).cast(), size_of_val(&address) as libc::socklen_t) == 0
            && libc::listen(fd, 1) == 0
    };
    bound.then_some(listener)
}

/// `trainer ADDRESS COMM TIMES SECONDS`: under a name that is another's, it asks a server of its own, which takes its time.
pub(crate) fn trainer(call: &Call) {
    let [address, comm, times, seconds] = call.args else { panic!("trainer ADDRESS COMM TIMES SECONDS") };
    let (times, seconds): (u32, u64) = (times.parse().expect("times"), seconds.parse().expect("seconds"));
    let listener = TcpListener::bind(address).expect("bind");
    sys::peer(&[], move || {
        let (mut stream, _) = listener.accept().expect("accept");
        let mut byte = [0];
        while stream.read_exact(&mut byte).is_ok() {
            thread::sleep(Duration::from_secs(seconds));
            stream.write_all(&byte).expect("answer");
        }
    });
    let mut client = TcpStream::connect(address).expect("connect");
    sys::set_comm(comm.as_bytes());
    tcp_report(call.role, "recvfrom", &client).print();
    for _ in 0..times {
        client.write_all(b"?").expect("ask");
        sys::must(recvfrom(client.as_raw_fd()), "recvfrom");
    }
    print(&json!({ "event": "trained" }));
    sys::rest()
}

/// `ask ADDRESS COMM`: asks somebody's server, under that name.
pub(crate) fn ask(call: &Call) {
    let [address, comm] = call.args else { panic!("ask ADDRESS COMM") };
    let mut client = TcpStream::connect(address).expect("connect");
    sys::set_comm(comm.as_bytes());
    client.write_all(b"PING\r\n").expect("ask");
    tcp_report(call.role, "recvfrom", &client).print();
    woke(recvfrom(client.as_raw_fd()))
}

/// `ask-socket PATH CONNECTIONS URL`: asks an agent without a pause, on so many connections at a time. Each command is answered
/// with how often the agent has answered so far.
pub(crate) fn ask_socket(call: &Call) {
    static ANSWERS: AtomicU64 = AtomicU64::new(0);
    let [path, connections, url] = call.args else { panic!("ask-socket PATH CONNECTIONS URL") };
    let connections: u32 = connections.parse().expect("a number");
    let ask = || -> std::io::Result<()> {
        let mut stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(Duration::from_secs(25)))?;
        write!(stream, "GET {url} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    };
    let asker = || {
        loop {
            match ask() {
                Ok(()) => drop(ANSWERS.fetch_add(1, Ordering::Relaxed)),
                // A refusal is no reason to let go.
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        }
    };
    Report::new(call.role, "none").print();
    thread::scope(|scope| {
        (0..connections).for_each(|_| drop(scope.spawn(asker)));
        sys::on_commands(|_| print(&json!({ "answers": ANSWERS.load(Ordering::Relaxed) })))
    })
}
