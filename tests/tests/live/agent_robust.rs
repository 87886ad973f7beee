//! Does the agent keep its promises to clients and readers that misbehave: silent, deaf, or gone?

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tests::{Agent, Running, Waiter, shared, slow, start, tracer};

const PATIENCE: Duration = Duration::from_secs(10);

/// An address on loopback that was free a moment ago.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port on loopback")
}

/// An agent of which only the command line is the test's affair: its pipes are what `prepare` makes them.
fn bare(address: SocketAddr, args: &[&str], prepare: impl FnOnce(&mut Command)) -> Running {
    let mut command = Command::new(tracer());
    command
        .env("STATE_DIRECTORY", tests::own_dir().join("state"))
        .args(["agent", "--listen", &address.to_string(), "--socket"])
        .arg(tests::own_dir().join(format!("robust-{}.sock", address.port())))
        .args(args)
        .stdin(Stdio::null());
    prepare(&mut command);
    start(command)
}

/// Nobody hears it.
fn quiet(command: &mut Command) {
    command.stdout(Stdio::null()).stderr(Stdio::null());
}

/// Waits until the agent at `address` is ready.
fn until_ready(process: &mut Running, address: SocketAddr) {
    let begin = Instant::now();
    while get(address, "/-/ready").is_none_or(|answer| !answer.starts_with("HTTP/1.0 200")) {
        if let Some(status) = process.ended() {
            panic!("the agent ended: {status}");
        }
        assert!(begin.elapsed() < slow(PATIENCE), "the agent is not ready after {PATIENCE:?}");
        sleep(Duration::from_millis(20));
    }
}

fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(slow(PATIENCE))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// Waits until the agent shows a stall of the waiter, at most three and a half seconds after its wait began.
fn until_stalled(address: SocketAddr, waiter: &Waiter) {
    let label = format!("tracer_stall_seconds{{pid=\"{}\"", waiter.pid());
    loop {
        let page = get(address, "/metrics").expect("it still serves");
        if page.contains(&label) {
            return;
        }
        let most = slow(Duration::from_millis(3_500)).as_secs_f64();
        assert!(waiter.age() < most, "no series of pid {}:\n{page}", waiter.pid());
        sleep(Duration::from_millis(50));
    }
}

/// Sends SIGTERM; the agent must be gone, with 0, within a second.
fn stops_within_a_second(process: &mut Running) {
    let begin = Instant::now();
    process.signal(libc::SIGTERM);
    let status = process.wait(slow(PATIENCE)).unwrap_or_else(|| panic!("it runs {PATIENCE:?} after SIGTERM"));
    let took = begin.elapsed();
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(took < slow(Duration::from_secs(1)), "it took {took:?}");
}

#[test]
fn clients_that_stay_do_not_hold_up_its_end() {
    let _shared = shared();
    let address = free_address();
    let mut agent = bare(address, &[], quiet);
    until_ready(&mut agent, address);
    let silent = TcpStream::connect(address).expect("connect");
    let mut half = TcpStream::connect(address).expect("connect");
    half.write_all(b"GET /metrics HT").expect("half a request");
    let mut kept = TcpStream::connect(address).expect("connect");
    kept.write_all(b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("a request");
    let mut head = [0; 12];
    kept.read_exact(&mut head).expect("an answer");
    assert_eq!(&head, b"HTTP/1.1 200");
    stops_within_a_second(&mut agent);
    drop((silent, half, kept));
}

/// Connections that say nothing cost others a few seconds at most: they are dropped.
#[test]
fn silent_clients_do_not_shut_others_out() {
    let _shared = shared();
    let agent = Agent::start(&[]);
    let address = agent.address();
    let _silent: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(address).expect("connect")).collect();
    let begin = Instant::now();
    assert_eq!(agent.get("/-/healthy").map(|(status, _)| status), Some(200), "{:?}", begin.elapsed());
    assert!(begin.elapsed() < slow(PATIENCE), "{:?}", begin.elapsed());
}

/// The scraper's connection is open when the agent is killed: its successor gets the same address at once.
#[test]
fn the_same_address_is_free_after_a_kill() {
    let _shared = shared();
    let address = free_address();
    let mut agent = bare(address, &[], quiet);
    until_ready(&mut agent, address);
    let scraper = TcpStream::connect(address).expect("connect");
    agent.kill();
    let mut again = bare(address, &[], quiet);
    let begin = Instant::now();
    until_ready(&mut again, address);
    assert!(begin.elapsed() < slow(Duration::from_secs(3)), "it took {:?}", begin.elapsed());
    drop(scraper);
}

/// Nobody reads its events and the pipe is full: it goes on watching, counts what was lost, and ends when told.
#[test]
fn a_deaf_reader_costs_events_and_nothing_else() {
    let _shared = shared();
    let (_reader, mut writer) = std::io::pipe().expect("a pipe");
    fill(&mut writer);
    let address = free_address();
    let mut agent = bare(address, &["--threshold", "1s"], |command| {
        command.stdout(writer).stderr(Stdio::null());
    });
    until_ready(&mut agent, address);
    let waiters = [Waiter::start("recvfrom-tcp4"), Waiter::start("flock")];
    for waiter in &waiters {
        until_stalled(address, waiter);
    }
    assert!(get(address, "/-/healthy").is_some_and(|answer| answer.contains("200 OK")));
    stops_within_a_second(&mut agent);
}

/// Writes until the pipe is full; blocking again afterwards, as a service's standard output is.
fn fill(writer: &mut std::io::PipeWriter) {
    use std::os::fd::AsRawFd;
    let fd = writer.as_raw_fd();
    // SAFETY: fcntl takes numbers here.
    unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) };
    while writer.write(b"\n").is_ok_and(|n| n > 0) {}
    // SAFETY: as above.
    unsafe { libc::fcntl(fd, libc::F_SETFL, 0) };
}

/// Whoever read its messages or its events has gone: a service goes on.
#[test]
fn readers_that_are_gone_do_not_end_it() {
    let _shared = shared();
    let address = free_address();
    let mut agent = bare(address, &["--threshold", "1s"], |command| {
        let gone = || std::io::pipe().map(|(_, writer)| writer).expect("a pipe");
        command.stdout(gone()).stderr(gone());
    });
    until_ready(&mut agent, address);
    let waiter = Waiter::start("recvfrom-tcp4");
    until_stalled(address, &waiter);
    stops_within_a_second(&mut agent);
}

/// Its poll array lies on a page that never comes: that holds nothing up, and costs one read, counted.
#[test]
fn memory_that_never_comes_costs_one_read() {
    let _shared = shared();
    let mut agent = tests::Agent::start(&["--threshold", "1s"]);
    let poller = tests::Waiter::start("poll-missing");
    let others: Vec<tests::Waiter> = (0..3).map(|_| tests::Waiter::start("recvfrom-tcp4")).collect();
    for other in &others {
        agent.wait_stall("stall_opened", other.pid(), Duration::from_secs(10));
    }
    std::thread::sleep(Duration::from_secs(3));
    let lost = agent.samples("tracer_lost_events_total", &[("reason", "reads_abandoned")]);
    assert_eq!(lost.iter().map(|sample| sample.value).collect::<Vec<_>>(), [1.0], "{lost:?}");
    let snapshot = tests::ps(&["--all", "-p", &poller.pid().to_string()]);
    assert_eq!(snapshot.row(poller.tid())["syscall"], "ppoll");
    assert!(snapshot.took < Duration::from_secs(2), "{:?}", snapshot.took);
    let (status, took) = agent.stop(libc::SIGTERM);
    assert!(status.success() && took < Duration::from_secs(2), "{status}, {took:?}");
}
