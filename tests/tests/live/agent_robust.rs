//! Does the agent keep its promises to clients and readers that misbehave: silent, deaf, or gone?

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use tests::{
    ANY_PORT, Agent, Limited, Running, Waiter, address_of, alone, http, shared, slow, start, tracer, with_few,
};

const PATIENCE: Duration = Duration::from_secs(10);

/// An agent of which only the command line is the test's affair: its pipes are what `prepare` makes them.
fn bare(listen: &str, args: &[&str], prepare: impl FnOnce(&mut Command)) -> Running {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let socket = format!("robust-{}.sock", COUNT.fetch_add(1, Ordering::Relaxed));
    let mut command = Command::new(tracer());
    command
        .env("STATE_DIRECTORY", tests::own_dir().join("state"))
        .args(["agent", "--listen", listen, "--socket"])
        .arg(tests::own_dir().join(socket))
        .args(args)
        .stdin(Stdio::null());
    prepare(&mut command);
    start(command)
}

/// Nobody hears it.
fn quiet(command: &mut Command) {
    command.stdout(Stdio::null()).stderr(Stdio::null());
}

/// Waits until the agent is ready; where it listens.
fn until_ready(process: &mut Running) -> SocketAddr {
    let begin = Instant::now();
    loop {
        if let Some(address) = address_of(process.pid())
            && http::get(address, "/-/ready").is_ok_and(|answer| answer.status == 200)
        {
            return address;
        }
        if let Some(status) = process.ended() {
            panic!("the agent ended: {status}");
        }
        assert!(begin.elapsed() < slow(PATIENCE), "the agent is not ready after {PATIENCE:?}");
        sleep(Duration::from_millis(20));
    }
}

/// Waits until the agent shows a stall of the waiter, at most three and a half seconds after its wait began.
fn until_stalled(address: SocketAddr, waiter: &Waiter) {
    let label = format!("tracer_stall_seconds{{pid=\"{}\"", waiter.pid());
    loop {
        let page = http::get(address, "/metrics").expect("it still serves").body;
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
    let mut agent = bare(ANY_PORT, &[], quiet);
    let address = until_ready(&mut agent);
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

/// Connections that say nothing make room for those that do.
#[test]
fn a_thousand_silent_clients_and_two_hundred_hostile_requests_do_not_shut_others_out() {
    let _few = with_few();
    let agent = Agent::start(&[]);
    let address = agent.address();
    let mut slowest = Duration::ZERO;
    let mut is_healthy = || {
        let begin = Instant::now();
        assert_eq!(agent.get("/-/healthy").map(|(status, _)| status), Some(200), "{:?}", begin.elapsed());
        slowest = slowest.max(begin.elapsed());
    };
    is_healthy();
    let mut silent = Vec::new();
    for number in 0..1000 {
        let mut stream = TcpStream::connect(address).expect("connect");
        if number % 3 == 0 {
            let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: ");
        }
        silent.push(stream);
        if number % 100 == 99 {
            is_healthy();
        }
    }
    for number in 0..200 {
        hostile(address, number);
        if number % 20 == 19 {
            is_healthy();
        }
    }
    // The young are spared for a moment.
    sleep(slow(Duration::from_millis(500)));
    let fds = std::fs::read_dir(format!("/proc/{}/fd", agent.pid())).expect("an agent").count();
    assert!(fds < 150, "{fds} descriptors are open");
    assert!(slowest < slow(Duration::from_millis(100)), "{slowest:?}");
    drop(silent);
}

/// Three hundred who ask at the same moment are all answered.
#[test]
fn a_burst_of_askers_is_answered() {
    const ASKERS: usize = 300;
    let _alone = alone();
    let agent = Agent::start(&[]);
    let address = agent.address();
    for _ in 0..5 {
        let start = Barrier::new(ASKERS);
        let unanswered: Vec<String> = thread::scope(|scope| {
            let ask = || {
                start.wait();
                ask_health(address).err().map(|error| error.to_string())
            };
            let askers: Vec<_> = (0..ASKERS).map(|_| scope.spawn(ask)).collect();
            askers.into_iter().filter_map(|asker| asker.join().expect("it does not panic")).collect()
        });
        assert!(unanswered.is_empty(), "{} of {ASKERS}: {:?}", unanswered.len(), unanswered[0]);
    }
}

/// Asks for health; an error where the answer is any but 200.
fn ask_health(address: SocketAddr) -> io::Result<()> {
    let answer = http::get(address, "/-/healthy")?;
    if answer.status == 200 { Ok(()) } else { Err(io::Error::other(format!("{answer:?}"))) }
}

/// Many ask for a large page hundreds of times over one connection, and read it, or do not: health answers meanwhile, and 64 MiB
/// are enough.
#[test]
fn neither_many_pages_asked_for_nor_unread_ones_harm_it() {
    const ASKS: usize = 300;
    let _alone = alone();
    let agent = Agent::start(&[]);
    let memory = Limited::to(&agent, 64 << 20);
    // Names of programs and of processes, as many as there may be.
    let _crowd = [Waiter::start_with("named", &["1200"]), Waiter::start_with("family", &["1200"])];
    let large = |all: &[tests::Sample]| {
        ["tracer_wait_duration_seconds_count", "tracer_blocked_seconds_total"]
            .iter()
            .all(|name| all.iter().filter(|sample| sample.name == *name).count() > 900)
    };
    agent.wait_scrape(PATIENCE, large);
    let address = agent.address();
    let over = AtomicBool::new(false);
    let mut slowest = Duration::ZERO;
    let mut pages = 0;
    thread::scope(|scope| {
        let client = |reads: bool| {
            let over = &over;
            move || {
                let mut read = 0;
                // Its connection may be ended for somebody else's: it comes again.
                while !over.load(Ordering::Relaxed) {
                    let Ok(mut stream) = TcpStream::connect(address) else { continue };
                    let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
                    let _ = stream.write_all(&b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n".repeat(ASKS));
                    let mut buffer = vec![0; 64 * 1024];
                    while !over.load(Ordering::Relaxed) {
                        if !reads {
                            // Another look, another page: no two wait for the same.
                            sleep(Duration::from_millis(700));
                            if stream.write_all(b"GET / HTTP/1.1\r\n").is_err() {
                                break;
                            }
                        } else if let Ok(n @ 1..) = stream.read(&mut buffer) {
                            read += n;
                        } else {
                            break;
                        }
                    }
                }
                read
            }
        };
        let readers: Vec<_> = (0..20).map(|_| scope.spawn(client(true))).collect();
        for _ in 0..40 {
            sleep(Duration::from_millis(100));
            scope.spawn(client(false));
        }
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(5) {
            let asked = Instant::now();
            let answer = ask_health(address);
            slowest = slowest.max(asked.elapsed());
            if let Err(error) = answer {
                over.store(true, Ordering::Relaxed);
                panic!("health is not told: {error}");
            }
            sleep(Duration::from_millis(5));
        }
        over.store(true, Ordering::Relaxed);
        pages = readers.into_iter().map(|reader| reader.join().expect("it does not panic")).sum();
    });
    assert!(pages > 10 << 20, "the readers got {pages} bytes");
    assert!(slowest < slow(Duration::from_millis(100)), "{slowest:?}");
    memory.was_enough();
    assert_eq!(agent.get("/metrics").map(|(status, _)| status), Some(200));
}

/// One of ten kinds of request that no scraper makes; whatever the answer is, it is short, and the agent lives.
fn hostile(address: SocketAddr, number: usize) {
    let long = "x".repeat(64 * 1024);
    let request: Vec<u8> = match number % 10 {
        0 => format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n").into(),
        1 => format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n").into(),
        2 => format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(5000)).into(),
        3 => (0..=255).collect(),
        4 => b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\nx".to_vec(),
        5 => b"GET /metrics HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\n"
            .to_vec(),
        6 => b"GET http://[::1/metrics HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        7 => b"DELETE /../../etc/shadow HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        8 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        _ => b"GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".to_vec(),
    };
    let mut stream = TcpStream::connect(address).expect("connect");
    // It may have been ended while it speaks.
    let _ = stream.write_all(&request);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
    let mut answer = Vec::new();
    let _ = stream.take(1024).read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 4");
    assert!(refused || number % 10 == 5, "{number}: {answer}");
}

/// `/metrics` is for those who know the token; health is for everybody.
#[test]
fn a_token_keeps_strangers_from_the_metrics() {
    use std::os::unix::fs::PermissionsExt;
    let _shared = shared();
    let (config, token) = (tests::own_dir().join("token.toml"), tests::own_dir().join("token"));
    std::fs::write(&token, "0123456789abcdef\n").expect("write");
    std::fs::write(&config, format!("[agent]\ntoken_file = '{}'\n", token.display())).expect("write");
    let run = || {
        let mut command = Command::new(tracer());
        command.args(["agent", "--listen", "127.0.0.1:0", "--config"]).arg(&config);
        command.arg("--socket").arg(tests::own_dir().join("token.sock"));
        command.env("STATE_DIRECTORY", tests::own_dir().join("state")).output().expect("tracer starts")
    };
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    let said = String::from_utf8_lossy(&run().stderr).into_owned();
    assert!(said.contains("can be read by everybody"), "{said}");
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    let agent = Agent::start(&["--config", config.to_str().expect("text")]);
    let ask = |head: &str| {
        let mut stream = TcpStream::connect(agent.address()).expect("connect");
        write!(stream, "GET /metrics HTTP/1.0\r\n{head}\r\n").expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer.split_whitespace().nth(1).map(str::to_owned).unwrap_or_default()
    };
    assert_eq!(ask(""), "401");
    assert_eq!(ask("Authorization: Bearer 0123456789abcdeg\r\n"), "401");
    assert_eq!(ask("Authorization: Bearer 0123456789abcdef\r\n"), "200");
    assert_eq!(agent.get("/-/healthy").map(|(status, _)| status), Some(200));
}

/// The scraper's connection is open when the agent is killed: its successor gets the same address at once.
#[test]
fn the_same_address_is_free_after_a_kill() {
    let _shared = shared();
    let mut agent = bare(ANY_PORT, &[], quiet);
    let address = until_ready(&mut agent);
    let scraper = TcpStream::connect(address).expect("connect");
    agent.kill();
    let mut again = bare(&address.to_string(), &[], quiet);
    let begin = Instant::now();
    until_ready(&mut again);
    assert!(begin.elapsed() < slow(Duration::from_secs(3)), "it took {:?}", begin.elapsed());
    drop(scraper);
}

/// Nobody reads its events and the pipe is full: it goes on watching, counts what was lost, and ends when told.
#[test]
fn a_deaf_reader_costs_events_and_nothing_else() {
    let _shared = shared();
    let (_reader, mut writer) = std::io::pipe().expect("a pipe");
    fill(&mut writer);
    let mut agent = bare(ANY_PORT, &["--threshold", "1s"], |command| {
        command.stdout(writer).stderr(Stdio::null());
    });
    let address = until_ready(&mut agent);
    let waiters = [Waiter::start("recvfrom-tcp4"), Waiter::start("flock")];
    for waiter in &waiters {
        until_stalled(address, waiter);
    }
    assert!(http::get(address, "/-/healthy").is_ok_and(|answer| answer.status == 200));
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
    let mut agent = bare(ANY_PORT, &["--threshold", "1s"], |command| {
        let gone = || std::io::pipe().map(|(_, writer)| writer).expect("a pipe");
        command.stdout(gone()).stderr(gone());
    });
    let address = until_ready(&mut agent);
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
    // As long as it takes to look at another process, on a machine that may be busy.
    let usual = tests::ps(&["--all", "-p", &others[0].pid().to_string()]).took;
    let snapshot = tests::ps(&["--all", "-p", &poller.pid().to_string()]);
    assert_eq!(snapshot.row(poller.tid())["syscall"], "ppoll");
    assert!(snapshot.took < Duration::from_secs(2) + 2 * usual, "{:?}, usually {usual:?}", snapshot.took);
    let (status, took) = agent.stop(libc::SIGTERM);
    assert!(status.success() && took < Duration::from_secs(2), "{status}, {took:?}");
}
