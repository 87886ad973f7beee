//! With `response_times = true`, is it counted how long services take to answer, and nothing else?

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use tests::{Agent, Sample, own_dir, pause, shared, slowness, unsupported};

const PATIENCE: Duration = Duration::from_secs(10);
/// How long a service takes to answer.
const TAKES: Duration = Duration::from_millis(300);

/// An agent that times answers; `None` where the kernel cannot, which it must have said.
fn agent() -> Option<Agent> {
    let path = own_dir().join("response-times.toml");
    std::fs::write(&path, "[agent]\nresponse_times = true\n").expect("write");
    let agent = Agent::start(&["--config", path.to_str().expect("UTF-8")]);
    let up = agent.samples("tracer_probe_up", &[("probe", "answers")]);
    assert_eq!(up.len(), 1, "it was asked for: {}", agent.stderr());
    if up[0].value == 1.0 {
        return Some(agent);
    }
    assert!(agent.stderr().contains("response times are not measured: "), "{}", agent.stderr());
    unsupported("the kernel keeps nothing of sockets for programs on tracepoints");
    None
}

/// Serves each connection to a free port of this address on a thread of its own.
fn serve(address: &str, with: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind(address).expect("a free port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let with = with.clone();
            thread::spawn(move || with(stream));
        }
    });
    address
}

/// Reads what is asked, byte by byte, and answers each line late: at once with a few bytes, and with many a moment after.
fn answer_late(mut stream: TcpStream) {
    let mut byte = [0];
    while stream.read(&mut byte).is_ok_and(|read| read == 1) {
        if byte == *b"\n" {
            thread::sleep(TAKES);
            stream.write_all(b"yes").expect("it reads");
            thread::sleep(Duration::from_millis(50));
            stream.write_all(&[b'.'; 100_000]).expect("it reads");
        }
    }
}

/// Asks on a connection, and reads the whole answer after a while.
fn ask(stream: &mut TcpStream, after: Duration) {
    stream.write_all(b"well?").expect("it listens");
    stream.write_all(b"\n").expect("it listens");
    thread::sleep(after);
    let mut answer = [0; 100_003];
    stream.read_exact(&mut answer).expect("it answers");
}

/// How many answers of this service were counted, and how many seconds they took together.
fn counted(samples: &[Sample], remote: SocketAddr) -> (f64, f64) {
    let of = |name: &str| {
        let name = format!("tracer_response_seconds_{name}");
        let remote = remote.to_string();
        samples.iter().filter(|sample| sample.is(&name, &[("remote", &remote)])).map(|of| of.value).sum()
    };
    (of("count"), of("sum"))
}

#[test]
fn answers_are_counted_once_each_by_program_and_service() {
    let _shared = shared();
    let before = serve("127.0.0.1:0", answer_late);
    let mut asked_before = TcpStream::connect(before).expect("it listens");
    asked_before.write_all(b"\n").expect("it listens");
    thread::sleep(TAKES + Duration::from_millis(200));
    let Some(agent) = agent() else { return };
    // What was asked before the agent came is not counted, what is asked on the same connection later is.
    asked_before.read_exact(&mut [0; 100_003]).expect("it answers");
    ask(&mut asked_before, Duration::ZERO);
    let [old, new] = ["127.0.0.1:0", "[::1]:0"].map(|address| serve(address, answer_late));
    let mut kept = TcpStream::connect(old).expect("it listens");
    for _ in 0..3 {
        ask(&mut kept, Duration::ZERO);
        ask(&mut TcpStream::connect(new).expect("it listens"), Duration::ZERO);
    }
    let all = |samples: &[Sample]| [before, old, new].map(|remote| counted(samples, remote));
    let is_counted = |samples: &[Sample]| all(samples).map(|of| of.0) == [1.0, 3.0, 3.0];
    agent.wait_scrape(PATIENCE, is_counted);
    pause(Duration::from_millis(1_500));
    let samples = agent.scrape();
    assert!(is_counted(&samples), "and no more: {:?}", all(&samples));
    for (count, sum) in all(&samples) {
        let late = 0.03 * f64::from(slowness());
        assert!(
            (TAKES.as_secs_f64()..TAKES.as_secs_f64() + late).contains(&(sum / count)),
            "{sum} of {count}"
        );
    }
    // The services have read what they were asked, which is no answer.
    for asks in [kept, asked_before] {
        let local = asks.local_addr().expect("connected");
        assert_eq!(counted(&samples, local).0, 0.0, "{local}");
    }
    // Tests are threads of one process.
    let comm = std::fs::read_to_string("/proc/self/comm").expect("/proc");
    let labels = [("comm", comm.trim_end()), ("remote", &*old.to_string())];
    assert!(samples.iter().any(|sample| sample.is("tracer_response_seconds_count", &labels)), "{labels:?}");
}

#[test]
fn a_greeting_is_no_answer_and_a_slow_reader_is_not_the_service() {
    let _shared = shared();
    let Some(agent) = agent() else { return };
    let greets = serve("127.0.0.1:0", |mut stream| {
        stream.write_all(b"220 at your service\r\n").expect("it reads");
        answer_late(stream);
    });
    let mut stream = TcpStream::connect(greets).expect("it listens");
    thread::sleep(Duration::from_millis(200));
    stream.read_exact(&mut [0; 21]).expect("it greets");
    ask(&mut stream, Duration::from_millis(1_500));
    agent.wait_scrape(PATIENCE, |samples| counted(samples, greets).0 > 0.0);
    pause(Duration::from_millis(1_500));
    let (count, sum) = counted(&agent.scrape(), greets);
    assert_eq!(count, 1.0);
    // Until it is read, the rest of the answer comes, and is acknowledged.
    let late = 0.5 * f64::from(slowness());
    assert!((TAKES.as_secs_f64()..TAKES.as_secs_f64() + late).contains(&sum), "{sum}");
}

/// Nobody pays for what nobody has asked for.
#[test]
fn without_the_setting_nothing_is_attached() {
    let _shared = shared();
    let agent = Agent::start(&[]);
    assert!(agent.samples("tracer_probe_up", &[("probe", "answers")]).is_empty());
    let address = serve("127.0.0.1:0", answer_late);
    ask(&mut TcpStream::connect(address).expect("it listens"), Duration::ZERO);
    pause(Duration::from_millis(1_500));
    assert!(!agent.page().contains("tracer_response_seconds"), "{}", agent.page());
}
