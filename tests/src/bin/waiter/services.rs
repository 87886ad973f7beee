//! Which roles are a service that many wait for, and those who wait for it: a pool of threads, subscribers, a proxy with an event loop?

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::thread::Builder;

use crate::pipes::epoll_of;
use crate::report::{Report, woke};
use crate::sockets::{recvfrom, tcp_report};
use crate::{Call, sys};

/// A listener on loopback, and the report of who accepts there.
fn listener(call: &Call) -> (TcpListener, Report) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("bound");
    let report = Report::new(call.role, "accept4").fd(&listener).with("address", address.to_string());
    (listener, report)
}

/// Where the service is that the first argument names.
fn service(call: &Call) -> SocketAddr {
    let address = call.args.first().and_then(|address| address.parse().ok());
    address.unwrap_or_else(|| panic!("{}: which service?", call.role))
}

/// Accepts every connection, and says nothing.
pub(crate) fn mute_service(call: &Call) {
    let (listener, report) = listener(call);
    report.print();
    let _kept: Vec<TcpStream> = listener.incoming().map_while(Result::ok).collect();
}

/// Greets everybody, and says nothing more.
pub(crate) fn greeter(call: &Call) {
    let (listener, report) = listener(call);
    report.print();
    let greet = |mut client: TcpStream| {
        client.write_all(b"HELLO").expect("greet");
        client
    };
    let _kept: Vec<TcpStream> = listener.incoming().map_while(Result::ok).map(greet).collect();
}

/// A connection to the service on which something was asked.
fn asked(service: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(service).expect("connect");
    client.write_all(b"PING\r\n").expect("ask");
    client
}

/// As many threads as the second argument says, each of which has asked the service and waits for its answer.
pub(crate) fn asking_pool(call: &Call) {
    let service = service(call);
    let number: usize = call.args.get(1).and_then(|number| number.parse().ok()).expect("how many?");
    let (tell, told) = mpsc::channel();
    for _ in 1..number {
        let tell = tell.clone();
        let body = move || {
            let client = asked(service);
            tell.send(()).expect("the main thread listens");
            recvfrom(client.as_raw_fd())
        };
        Builder::new().stack_size(64 * 1024).spawn(body).expect("a thread");
    }
    told.iter().take(number - 1).for_each(drop);
    let client = asked(service);
    tcp_report(call.role, "recvfrom", &client).print();
    woke(recvfrom(client.as_raw_fd()))
}

/// Has heard from the service, and waits for more.
pub(crate) fn subscriber(call: &Call) {
    let mut client = TcpStream::connect(service(call)).expect("connect");
    client.read_exact(&mut [0; 5]).expect("a greeting");
    tcp_report(call.role, "recvfrom", &client).print();
    woke(recvfrom(client.as_raw_fd()))
}

/// One thread that asks the service once at its start, and once for each client that comes, and waits for all of them in an epoll set.
pub(crate) fn proxy(call: &Call) {
    let service = service(call);
    let (listener, report) = listener(call);
    let mut asked_for = vec![asked(service)];
    let mut clients = Vec::new();
    report.print();
    loop {
        let fds = asked_for.iter().map(AsRawFd::as_raw_fd).chain([listener.as_raw_fd()]);
        let set = epoll_of(&fds.collect::<Vec<_>>());
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: room for one event, which outlives the call.
        sys::must(unsafe { libc::epoll_wait(set.as_raw_fd(), &raw mut event, 1, -1) }.into(), "epoll_wait");
        // The service never answers: it is another client.
        clients.push(listener.accept().expect("accept"));
        asked_for.push(asked(service));
    }
}
