//! Which roles wait on sockets? TCP over IPv4 and IPv6, UDP, unix; receive, connect, accept, send.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::report::{Report, print, woke};
use crate::{Call, pipes, sys};

/// The two ends of a loopback connection and the listener it came through.
pub(crate) struct Connection {
    pub(crate) listener: TcpListener,
    pub(crate) client: TcpStream,
    pub(crate) server: TcpStream,
}

impl Connection {
    pub(crate) fn new(address: &str) -> Self {
        let listener = TcpListener::bind((address, 0)).expect("a loopback listener");
        let (client, server) = Self::pair(&listener);
        Self { listener, client, server }
    }

    /// One more connection through `listener`.
    pub(crate) fn pair(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(local(listener)).expect("connect over loopback");
        let (server, _) = listener.accept().expect("accept over loopback");
        client.set_nodelay(true).expect("nodelay");
        server.set_nodelay(true).expect("nodelay");
        (client, server)
    }
}

fn local(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().expect("a listener has an address")
}

/// The report of a wait on the client's end of a TCP connection.
pub(crate) fn tcp_report(role: &str, syscall: &str, client: &TcpStream) -> Report {
    Report::new(role, syscall)
        .fd(client)
        .local(client.local_addr().expect("connected"))
        .remote(client.peer_addr().expect("connected"))
}

pub(crate) fn recvfrom(fd: RawFd) -> i64 {
    let mut buffer = [0_u8; 64];
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the buffer outlives the call; the address of the sender is not asked for.
    unsafe { libc::syscall(libc::SYS_recvfrom, fd, buffer.as_mut_ptr(), buffer.len(), 0, none, none) }
}

/// A client that has asked something of a server that holds the connection and does not answer.
pub(crate) fn unanswered(address: &str) -> TcpStream {
    let Connection { listener, mut client, mut server } = Connection::new(address);
    client.write_all(b"PING\r\n").expect("write to a connection");
    sys::peer(&[client.as_raw_fd()], move || {
        // The listener stays with the server, as in a real one.
        let _listener = listener;
        sys::on_answer(|| server.write_all(b"PONG\r\n").expect("answer"));
    });
    client
}

pub(crate) fn recvfrom_tcp4(call: &Call) {
    let client = unanswered("127.0.0.1");
    tcp_report(call.role, "recvfrom", &client).print();
    woke(recvfrom(client.as_raw_fd()))
}

pub(crate) fn recvfrom_tcp6(call: &Call) {
    let client = unanswered("::1");
    tcp_report(call.role, "recvfrom", &client).print();
    woke(recvfrom(client.as_raw_fd()))
}

pub(crate) fn read_tcp4(call: &Call) {
    let client = unanswered("127.0.0.1");
    tcp_report(call.role, "read", &client).print();
    woke(sys::read_byte(client.as_raw_fd()))
}

/// An event loop with two requests on their way to servers that do not answer.
pub(crate) fn event_loop(call: &Call) {
    let clients = [unanswered("127.0.0.1"), unanswered("127.0.0.1")];
    let epoll = pipes::epoll_of(&clients.each_ref().map(AsRawFd::as_raw_fd));
    pipes::wait_in(call.role, &epoll);
}

/// Connections on which it has asked and no thread waits: one was never answered, one was answered before, of one nobody expects an
/// answer, and one nobody watches. Commands have the first answered, and say more on the third.
pub(crate) fn requests(call: &Call) {
    let [mut never, mut before, mut logger, mut unwatched] = [(); 4].map(|()| Connection::new("127.0.0.1"));
    let watched = [&never, &before, &logger].map(|connection| connection.client.as_raw_fd());
    let _epoll = pipes::epoll_of(&watched);
    before.client.write_all(b"PING").expect("ask");
    before.server.read_exact(&mut [0; 4]).expect("the question");
    before.server.write_all(b"PONG").expect("answer");
    before.client.read_exact(&mut [0; 4]).expect("the answer");
    for connection in [&mut never, &mut before, &mut logger, &mut unwatched] {
        connection.client.write_all(b"PING").expect("ask");
    }
    let remote = |of: &Connection| of.client.peer_addr().expect("connected").to_string();
    let report = tcp_report(call.role, "request", &never.client);
    report.with("before", remote(&before)).with("logger", remote(&logger)).print();
    sys::on_commands(|command| {
        match command {
            "answer" => {
                never.server.write_all(b"PONG").expect("answer");
                never.client.read_exact(&mut [0; 4]).expect("the answer");
            }
            "log" => logger.client.write_all(b"more").expect("say more"),
            _ => return,
        }
        print(&json!({ "realtime_ns": sys::realtime_ns() }));
    })
}

/// `ppoll` without a time-out on one connection, as psql and mysql wait.
pub(crate) fn poll_tcp4(call: &Call) {
    let client = unanswered("127.0.0.1");
    let mut set = libc::pollfd { fd: client.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let none = std::ptr::null::<libc::c_void>();
    tcp_report(call.role, "ppoll", &client).print();
    // SAFETY: one pollfd, which outlives the call; no time-out, no signal mask.
    woke(unsafe { libc::syscall(libc::SYS_ppoll, &raw mut set, 1, none, none, 0) })
}

/// When told, each call that watches a set of descriptors, of one connection and a wake-up of its own, for a moment and
/// for longer: nothing comes.
pub(crate) fn polls(call: &Call) {
    let Connection { listener: _listener, client, server: _server } = Connection::new("127.0.0.1");
    // SAFETY: eventfd takes two numbers.
    let wake_up = sys::must_fd(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) }.into(), "eventfd");
    let epoll = pipes::epoll_of(&[client.as_raw_fd(), wake_up.as_raw_fd()]);
    let fds = [client.as_raw_fd(), wake_up.as_raw_fd()];
    let calls = ["ppoll", "pselect6", "epoll_pwait"];
    tcp_report(call.role, "none", &client).with("calls", calls).print();
    sys::on_commands(|_| {
        for milliseconds in [150, 900] {
            // The kernel writes into it what is left of it.
            let mut time = libc::timespec { tv_sec: 0, tv_nsec: milliseconds * 1_000_000 };
            let none = std::ptr::null_mut::<libc::c_void>();
            let mut set = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
            // SAFETY: two pollfds and a time, which outlive the call; no signal mask.
            unsafe { libc::syscall(libc::SYS_ppoll, set.as_mut_ptr(), 2, &raw mut time, none, 0) };
            time.tv_nsec = milliseconds * 1_000_000;
            // SAFETY: an fd_set is an array of bits, and these descriptors are small.
            let mut set: libc::fd_set = unsafe { std::mem::zeroed() };
            for fd in fds {
                // SAFETY: as above.
                unsafe { libc::FD_SET(fd, &raw mut set) };
            }
            let count = fds[0].max(fds[1]) + 1;
            // SAFETY: a set and a time, which outlive the call; no other sets, no signal mask.
            unsafe {
                libc::syscall(libc::SYS_pselect6, count, &raw mut set, none, none, &raw mut time, none)
            };
            let mut event = libc::epoll_event { events: 0, u64: 0 };
            // SAFETY: room for one event, which outlives the call; no signal mask.
            unsafe {
                let (fd, event) = (epoll.as_raw_fd(), &raw mut event);
                libc::syscall(libc::SYS_epoll_pwait, fd, event, 1, milliseconds, none, 0)
            };
        }
        print(&json!({"event": "done"}));
    })
}

pub(crate) fn recvfrom_udp(call: &Call) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let address = socket.local_addr().expect("bound");
    sys::peer(&[socket.as_raw_fd()], move || {
        let from = UdpSocket::bind("127.0.0.1:0").expect("bind");
        sys::on_answer(|| drop(from.send_to(b"x", address)));
    });
    Report::new(call.role, "recvfrom").fd(&socket).local(address).print();
    woke(recvfrom(socket.as_raw_fd()))
}

/// The client's end of a unix stream whose server is bound to a path and does not answer.
pub(crate) fn recvmsg_unix(call: &Call) {
    recvmsg_unix_at(call, &sys::own_path("unix"));
}

pub(crate) fn recvmsg_unix_at(call: &Call, path: &Path) {
    let (ready, tell) = sys::pipe();
    let server_path = path.to_owned();
    // The server listens itself: the kernel notes the peer's pid at listen().
    let peer = sys::peer(&[ready.as_raw_fd()], move || {
        let listener = UnixListener::bind(server_path).expect("bind");
        let mut tell = File::from(tell);
        tell.write_all(&[0; 8]).expect("say that there is a listener");
        let (mut server, _) = listener.accept().expect("accept");
        tell.write_all(&sys::inode(server.as_raw_fd()).to_ne_bytes()).expect("say which socket it is");
        sys::on_answer(|| server.write_all(b"PONG\r\n").expect("answer"));
    });
    let mut ready = File::from(ready);
    let mut word = [0_u8; 8];
    ready.read_exact(&mut word).expect("the server listens");
    let mut client = UnixStream::connect(path).expect("connect");
    client.write_all(b"PING\r\n").expect("write to a connection");
    ready.read_exact(&mut word).expect("the server accepts");
    let server_inode = u64::from_ne_bytes(word);

    let mut buffer = [0_u8; 64];
    let mut slice = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: an all-zero msghdr is a valid value: no address, no buffers, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut slice;
    message.msg_iovlen = 1;
    Report::new(call.role, "recvmsg")
        .fd(&client)
        .path(path)
        .with("peer_inode", server_inode)
        .with("peer_pid", peer)
        .print();
    // SAFETY: the header, the slice and the buffer outlive the call.
    woke(unsafe { libc::syscall(libc::SYS_recvmsg, client.as_raw_fd(), &raw mut message, 0) })
}

/// Shrinks a socket's buffer so that it is soon full.
fn small_buffer(fd: RawFd, option: libc::c_int) {
    let size: libc::c_int = 4096;
    let length = libc::socklen_t::try_from(size_of_val(&size)).expect("four bytes");
    // SAFETY: `size` is an int that outlives the call.
    let result = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, option, (&raw const size).cast(), length) };
    sys::must(result.into(), "setsockopt");
}

/// A TCP socket bound to loopback, so that its address is known before it connects.
pub(crate) fn bound_socket(flags: libc::c_int) -> (TcpStream, SocketAddr) {
    // SAFETY: socket takes three numbers.
    let fd = sys::must_fd(
        unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | flags, 0) }.into(),
        "socket",
    );
    let address = loopback(0);
    let length = libc::socklen_t::try_from(size_of_val(&address)).expect("16 bytes");
    // SAFETY: `address` is a sockaddr_in of the length given.
    sys::must(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) }.into(), "bind");
    let socket = TcpStream::from(fd);
    let address = socket.local_addr().expect("bound");
    (socket, address)
}

fn loopback(port: u16) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::sa_family_t::try_from(libc::AF_INET).expect("AF_INET is small"),
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([127, 0, 0, 1]) },
        sin_zero: [0; 8],
    }
}

fn connect(fd: RawFd, port: u16) -> i64 {
    let address = loopback(port);
    // SAFETY: `address` is a sockaddr_in of the length given and outlives the call.
    unsafe { libc::syscall(libc::SYS_connect, fd, &raw const address, size_of_val(&address)) }
}

/// Whether poll finds `fd` writable within 300 ms.
fn becomes_writable(fd: RawFd) -> bool {
    let mut set = libc::pollfd { fd, events: libc::POLLOUT, revents: 0 };
    // SAFETY: one pollfd, which outlives the call.
    unsafe { libc::poll(&raw mut set, 1, 300) == 1 }
}

/// A listener whose backlog is full, and what fills it: the kernel drops every further SYN.
fn full_listener() -> (TcpListener, Vec<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let server = local(&listener);
    // SAFETY: listen takes two numbers; a second call only changes the backlog.
    sys::must(unsafe { libc::listen(listener.as_raw_fd(), 0) }.into(), "listen");
    let mut fillers = Vec::new();
    loop {
        let (filler, _) = bound_socket(libc::SOCK_NONBLOCK);
        connect(filler.as_raw_fd(), server.port());
        let fits = becomes_writable(filler.as_raw_fd());
        fillers.push(filler);
        if !fits {
            return (listener, fillers);
        }
    }
}

/// `connect` to a listener whose backlog is full: the socket stays in SYN_SENT.
pub(crate) fn connect_backlog(call: &Call) {
    let (listener, fillers) = full_listener();
    let server = local(&listener);
    let (socket, address) = bound_socket(0);
    sys::peer(&[socket.as_raw_fd()], move || {
        let _fillers = fillers;
        // Room in the backlog: the next retransmitted SYN is answered.
        sys::on_answer(|| {
            while let Ok((stream, _)) = listener.accept() {
                std::mem::forget(stream)
            }
        });
    });
    Report::new(call.role, "connect").fd(&socket).local(address).remote(server).print();
    woke(connect(socket.as_raw_fd(), server.port()))
}

/// The same, when told, on a socket that the kernel finds an address for and takes it back, since it gives up after one
/// more SYN: three seconds.
pub(crate) fn connect_times_out(call: &Call) {
    let (listener, _fillers) = full_listener();
    // SAFETY: socket takes three numbers.
    let made = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    let socket = sys::must_fd(made.into(), "socket");
    let once: libc::c_int = 1;
    let length = size_of_val(&once) as libc::socklen_t;
    // SAFETY: the option is a number of the length given.
    let set = unsafe {
        let value = (&raw const once).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_SYNCNT, value, length)
    };
    sys::must(set.into(), "TCP_SYNCNT");
    Report::new(call.role, "connect").fd(&socket).remote(local(&listener)).print();
    sys::on_commands(|_| {
        connect(socket.as_raw_fd(), local(&listener).port());
        print(&json!({"event": "done"}));
    })
}

/// `connect` that blocks, since its SYN is dropped, until the next one finds nobody listening, a second later. Its
/// descriptor, both addresses, and how to make it.
pub(crate) fn refused_late() -> (RawFd, SocketAddr, SocketAddr, impl FnOnce(Duration) -> i64) {
    let (listener, fillers) = full_listener();
    let server = local(&listener);
    let (socket, address) = bound_socket(0);
    let fd = socket.as_raw_fd();
    let connect = move |closes_after: Duration| {
        std::thread::spawn(move || {
            // In parts: no call of this thread is to count.
            for _ in 0..8 {
                std::thread::sleep(closes_after / 8);
            }
            drop((listener, fillers));
        });
        connect(socket.as_raw_fd(), server.port())
    };
    (fd, address, server, connect)
}

pub(crate) fn accept(call: &Call) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = local(&listener);
    sys::peer(&[listener.as_raw_fd()], move || {
        sys::on_answer(|| std::mem::forget(TcpStream::connect(address)));
    });
    let none = std::ptr::null_mut::<libc::c_void>();
    Report::new(call.role, "accept").fd(&listener).local(address).print();
    // SAFETY: the address of the client is not asked for.
    woke(unsafe { libc::syscall(libc::SYS_accept, listener.as_raw_fd(), none, none) })
}

/// A connection whose peer does not read and whose buffers are full, and when the last byte moved, nanoseconds of the wall clock.
fn full() -> (TcpStream, u64) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    small_buffer(listener.as_raw_fd(), libc::SO_RCVBUF);
    let (mut client, mut server) = Connection::pair(&listener);
    small_buffer(client.as_raw_fd(), libc::SO_SNDBUF);
    client.set_nonblocking(true).expect("nonblocking");
    // Full means that nothing fits for half a second: the kernel still moves bytes after the first refusal.
    let (mut moved, mut moved_ns) = (Instant::now(), sys::realtime_ns());
    while moved.elapsed() < Duration::from_millis(500) {
        match client.write(&[b'x'; 16 * 1024]) {
            Ok(_) => (moved, moved_ns) = (Instant::now(), sys::realtime_ns()),
            Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(10)),
            Err(e) => panic!("write to a connection: {e}"),
        }
    }
    client.set_nonblocking(false).expect("blocking");
    sys::peer(&[client.as_raw_fd()], move || {
        let _listener = listener;
        sys::on_answer(|| {
            let mut sink = [0_u8; 4096];
            while server.read(&mut sink).is_ok_and(|n| n > 0) {}
        });
    });
    (client, moved_ns)
}

/// `sendto` on a full connection.
pub(crate) fn sendto_full(call: &Call) {
    let (client, moved_ns) = full();
    let bytes = [b'x'; 16 * 1024];
    let none = std::ptr::null::<libc::c_void>();
    tcp_report(call.role, "sendto", &client).unmoved_since(moved_ns).print();
    // SAFETY: the bytes outlive the call; a connected socket needs no address.
    woke(unsafe {
        libc::syscall(libc::SYS_sendto, client.as_raw_fd(), bytes.as_ptr(), bytes.len(), 0, none, 0)
    })
}

/// `sendfile` of a file into a full connection, as web servers do it.
pub(crate) fn sendfile_full(call: &Call) {
    let (client, moved_ns) = full();
    let path = sys::own_path("sent");
    std::fs::write(&path, [b'x'; 16 * 1024]).expect("a file");
    let file = std::fs::File::open(&path).expect("it was made");
    let none = std::ptr::null::<libc::off_t>();
    tcp_report(call.role, "sendfile", &client).unmoved_since(moved_ns).print();
    // SAFETY: numbers, and no offset.
    woke(unsafe { libc::syscall(libc::SYS_sendfile, client.as_raw_fd(), file.as_raw_fd(), none, 16 * 1024) })
}

/// `ppoll` until there is room on a full connection, which began a while after the last byte had moved.
pub(crate) fn poll_full(call: &Call) {
    let (client, moved_ns) = full();
    std::thread::sleep(Duration::from_secs(2));
    let mut set = libc::pollfd { fd: client.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    let none = std::ptr::null::<libc::c_void>();
    tcp_report(call.role, "ppoll", &client).unmoved_since(moved_ns).print();
    // SAFETY: one pollfd, which outlives the call; no time-out, no signal mask.
    woke(unsafe { libc::syscall(libc::SYS_ppoll, &raw mut set, 1, none, none, 0) })
}

/// The same in `pselect6`.
pub(crate) fn select_full(call: &Call) {
    let (client, moved_ns) = full();
    std::thread::sleep(Duration::from_secs(2));
    let fd = client.as_raw_fd();
    // SAFETY: an all-zero fd_set is an empty one.
    let mut set: libc::fd_set = unsafe { std::mem::zeroed() };
    // SAFETY: the fd is one of the first, and fits the set.
    unsafe { libc::FD_SET(fd, &raw mut set) };
    let none = std::ptr::null::<libc::c_void>();
    tcp_report(call.role, "pselect6", &client).unmoved_since(moved_ns).print();
    // SAFETY: the set outlives the call; no other set, no time-out, no signal mask.
    woke(unsafe { libc::syscall(libc::SYS_pselect6, fd + 1, none, &raw mut set, none, none, none) })
}

/// As ssh waits for rsync or git: for an answer on its connection, and for what its parent may give it through a pipe.
pub(crate) fn beside_pipe(call: &Call) {
    let (reader, writer) = sys::pipe();
    let parent = std::process::id();
    // SAFETY: this process has one thread, so the child may go on as the parent could.
    match unsafe { libc::fork() } {
        -1 => panic!("fork: {}", std::io::Error::last_os_error()),
        0 => sys::die_with(parent),
        // The parent keeps the pipe, and reads what never comes from the child's side of another.
        _ => sys::rest(),
    }
    drop(writer);
    let client = unanswered("127.0.0.1");
    let mut set = [client.as_raw_fd(), reader.as_raw_fd()].map(|fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    });
    let none = std::ptr::null::<libc::c_void>();
    tcp_report(call.role, "ppoll", &client).print();
    // SAFETY: two pollfds, which outlive the call; no time-out, no signal mask.
    woke(unsafe { libc::syscall(libc::SYS_ppoll, set.as_mut_ptr(), 2, none, none, 0) })
}

/// How many short waits, and how long the server takes for each.
const SHORT_WAITS: usize = 50;
const SHORT_WAIT: Duration = Duration::from_millis(20);

/// Fifty waits of 20 ms on one connection, begun by a line on standard input, under a name of its own.
///
/// The server answers 20 ms after it has *seen* the client asleep in recvfrom, so that each request is one wait
/// however loaded the machine is.
pub(crate) fn many_short_waits(call: &Call) {
    let Connection { listener, mut client, mut server } = Connection::new("127.0.0.1");
    let asleep = format!("/proc/{0}/task/{0}/syscall", std::process::id());
    sys::peer(&[client.as_raw_fd()], move || {
        let _listener = listener;
        let mut request = [0_u8; 1];
        while server.read_exact(&mut request).is_ok() {
            sys::until_asleep_in(&asleep, libc::SYS_recvfrom);
            std::thread::sleep(SHORT_WAIT);
            server.write_all(b"x").expect("answer");
        }
    });
    // After the fork: the server waits for requests in the same call, not to be counted under this name.
    let comm = format!("w50-{}", std::process::id());
    sys::set_comm(comm.as_bytes());
    tcp_report(call.role, "recvfrom", &client).with("comm", comm).print();
    sys::on_commands(|command| {
        if command != "go" {
            return;
        }
        let mut total_ns = 0;
        for _ in 0..SHORT_WAITS {
            client.write_all(b"?").expect("ask");
            let begin = sys::monotonic_ns();
            sys::must(recvfrom(client.as_raw_fd()), "recvfrom");
            total_ns += sys::monotonic_ns() - begin;
        }
        print(&json!({ "event": "done", "waits": SHORT_WAITS, "total_ns": total_ns }));
    })
}
