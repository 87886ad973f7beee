//! Does the agent's HTTP have the limits that docs/PRODUCTION.md states: of time, of size, of connections, of what is asked?

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use tests::{Agent, Sample, Waiter, alone, shared, slow};

const PATIENCE: Duration = Duration::from_secs(10);
/// What a request's head may take.
const HEAD: Duration = Duration::from_secs(5);
const HEALTH: &[u8] = b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(slow(PATIENCE))).expect("a time-out");
    stream
}

/// The answer to a request on a connection that stays open, which is a short one.
fn ask(stream: &mut TcpStream, request: &[u8]) -> io::Result<String> {
    stream.write_all(request)?;
    let mut answer = String::new();
    let mut buffer = [0; 4096];
    while !answer.contains("\r\n\r\n") {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        answer += &String::from_utf8_lossy(&buffer[..n]);
    }
    Ok(answer)
}

/// Whether the other end has closed it; nothing may have come.
fn is_closed(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("a flag");
    let came = (&mut &*stream).read(&mut [0; 64]);
    stream.set_nonblocking(false).expect("a flag");
    match came {
        Ok(0) => true,
        Ok(n) => panic!("{n} bytes came unasked"),
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// How long it takes until the connection is closed, while `meanwhile` is done to it.
fn until_closed(mut stream: TcpStream, mut meanwhile: impl FnMut(&mut TcpStream)) -> Duration {
    let begin = Instant::now();
    while !is_closed(&stream) {
        assert!(begin.elapsed() < slow(3 * HEAD), "it is open after {:?}", begin.elapsed());
        meanwhile(&mut stream);
        sleep(Duration::from_millis(20));
    }
    begin.elapsed()
}

/// Nothing, a byte a second, nothing more after an answer: none of it keeps a connection for longer than a head may take. One that
/// comes slowly and in time is answered.
#[test]
fn a_head_has_five_seconds() {
    let _shared = shared();
    let agent = Agent::start(&[]);
    let address = agent.address();
    thread::scope(|scope| {
        let silent = scope.spawn(|| until_closed(connect(address), |_| ()));
        let drips = scope.spawn(|| {
            let mut stream = connect(address);
            stream.write_all(b"GET /-/healthy HTTP/1.1\r\nX: ").expect("half a head");
            let mut last = Instant::now();
            until_closed(stream, |stream| {
                if last.elapsed() >= Duration::from_secs(1) {
                    last = Instant::now();
                    // It may be closed just now.
                    let _ = stream.write_all(b"x");
                }
            })
        });
        let rests = scope.spawn(|| {
            let mut stream = connect(address);
            ask(&mut stream, HEALTH).expect("an answer");
            until_closed(stream, |_| ())
        });
        let in_time = scope.spawn(|| {
            let mut stream = connect(address);
            for piece in HEALTH.chunks(HEALTH.len().div_ceil(4)) {
                sleep(Duration::from_millis(800));
                stream.write_all(piece).expect("it is open");
            }
            ask(&mut stream, b"").expect("an answer")
        });
        for (what, client) in [("silent", silent), ("drips", drips), ("rests", rests)] {
            let took = client.join().expect("it does not panic");
            let least = HEAD - Duration::from_millis(500);
            assert!(took > least && took < slow(HEAD + Duration::from_secs(2)), "{what}: {took:?}");
        }
        let answer = in_time.join().expect("it does not panic");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    });
}

/// A head of `bytes` with one long header.
fn head_of(bytes: usize) -> Vec<u8> {
    let (begin, end) = ("GET /-/healthy HTTP/1.1\r\nHost: localhost\r\nX: ", "\r\n\r\n");
    [begin, &"x".repeat(bytes - begin.len() - end.len()), end].concat().into()
}

#[test]
fn a_head_has_sixteen_kibibytes() {
    let _shared = shared();
    let agent = Agent::start(&[]);
    let status = |bytes: usize| {
        let mut stream = connect(agent.address());
        let answer = ask(&mut stream, &head_of(bytes)).unwrap_or_else(|error| format!("{error}"));
        answer.lines().next().unwrap_or_default().to_owned()
    };
    let most = 16 << 10;
    assert_eq!(status(most - 64), "HTTP/1.1 200 OK");
    for bytes in [most + 64, 2 * most, 16 * most] {
        assert_eq!(status(bytes), "HTTP/1.1 431 Request Header Fields Too Large", "{bytes} bytes");
    }
}

/// With 64 open, one more ends the one that has been idle for longest: not the oldest, and nobody else.
#[test]
fn the_sixty_fifth_ends_the_longest_idle() {
    let _shared = shared();
    let agent = Agent::start(&[]);
    // The test's own questions have ended by now.
    sleep(slow(Duration::from_millis(200)));
    let mut open: Vec<TcpStream> = (0..64)
        .map(|_| {
            let mut stream = connect(agent.address());
            // It is accepted: what is in the backlog is none of the 64.
            ask(&mut stream, HEALTH).expect("an answer");
            stream
        })
        .collect();
    // None is young any more. The first comes back.
    sleep(Duration::from_millis(300));
    ask(&mut open[0], HEALTH).expect("an answer");
    let closed = |open: &[TcpStream]| -> Vec<usize> { (0..64).filter(|at| is_closed(&open[*at])).collect() };
    assert_eq!(closed(&open), [0_usize; 0]);
    let mut more = connect(agent.address());
    let answer = ask(&mut more, HEALTH).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    sleep(Duration::from_millis(200));
    assert_eq!(closed(&open), [1]);
}

/// Of pages that are not read to the end eight are kept, the latest among them: who reads an older one gets no more than the kernel
/// has taken of it.
#[test]
fn who_does_not_read_loses_the_page() {
    const PAGES: usize = 12;
    let _alone = alone();
    let agent = Agent::start(&["--interval", "200ms"]);
    let _crowd = [Waiter::start_with("named", &["1200"]), Waiter::start_with("family", &["1200"])];
    let large = |all: &[Sample]| {
        ["tracer_wait_duration_seconds_count", "tracer_blocked_seconds_total"]
            .iter()
            .all(|name| all.iter().filter(|sample| sample.name == *name).count() > 900)
    };
    agent.wait_scrape(PATIENCE, large);
    let looks = || -> f64 {
        agent.samples("tracer_snapshot_duration_seconds_count", &[]).iter().map(|sample| sample.value).sum()
    };
    let deaf: Vec<TcpStream> = (0..PAGES)
        .map(|_| {
            let mut stream = connect(agent.address());
            stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("a request");
            // The next asks for another page.
            let before = looks();
            while looks() <= before {
                sleep(Duration::from_millis(50));
            }
            stream
        })
        .collect();
    let whole: Vec<bool> = deaf
        .into_iter()
        .map(|mut stream| {
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            let text = String::from_utf8_lossy(&answer);
            let (head, page) = text.split_once("\r\n\r\n").expect("a head");
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            // Who gets a part can tell.
            let length: usize = length.unwrap_or_else(|| panic!("{head}"));
            assert!(length > 512 << 10 && page.len() <= length, "{} of {length}", page.len());
            page.len() == length
        })
        .collect();
    // The latest, which is nobody's here, and seven before it.
    let expected: Vec<bool> = (0..PAGES).map(|number| number >= PAGES - 7).collect();
    assert_eq!(whole, expected);
}

#[test]
fn only_get_and_head_are_answered() {
    let _shared = shared();
    let agent = Agent::start(&[]);
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"] {
        for path in ["/metrics", "/-/healthy", "/no-such-page"] {
            let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            let answer = ask(&mut connect(agent.address()), request.as_bytes()).expect("an answer");
            assert!(
                answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET, HEAD\r\n"),
                "{answer}"
            );
        }
    }
    let answer = ask(&mut connect(agent.address()), b"HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let answer = answer.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n"), "{answer}");
}
