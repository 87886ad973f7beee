//! Does a receiver of OTLP get every event, in its order, whatever happens to it, to the exporter and to the agent meanwhile?

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{Agent, Running, Waiter, own_dir, shared, slow, start, tracer};

const PATIENCE: Duration = Duration::from_secs(60);
const THRESHOLD: &[&str] = &["--threshold", "1s", "--interval", "200ms"];

/// What a receiver does with a request.
#[derive(Clone, Copy)]
enum Reply {
    /// Answers with this status, and this header.
    Status(u16, &'static str),
    /// Closes the connection without an answer.
    Close,
    /// Takes this long, and accepts.
    Slow(Duration),
}

/// What has been received: by path, one body for each request that was accepted.
type Received = Arc<Mutex<Vec<(String, Value)>>>;

/// A receiver of OTLP/HTTP.
struct Receiver {
    address: SocketAddr,
    received: Received,
    script: Arc<Mutex<VecDeque<Reply>>>,
    refused: Arc<Mutex<usize>>,
}

impl Receiver {
    /// One that answers so first, and then accepts everything.
    fn start(script: &[Reply]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let receiver = Self {
            address: listener.local_addr().expect("bound"),
            received: Received::default(),
            script: Arc::new(Mutex::new(script.iter().copied().collect())),
            refused: Arc::default(),
        };
        let (received, script, refused) =
            (receiver.received.clone(), receiver.script.clone(), receiver.refused.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let reply =
                    script.lock().expect("no panic").pop_front().unwrap_or(Reply::Slow(Duration::ZERO));
                if serve(stream, reply, &received).is_none() {
                    *refused.lock().expect("no panic") += 1;
                }
            }
        });
        receiver
    }

    /// So many requests from now on are answered so.
    fn next(&self, reply: Reply, times: usize) {
        self.script.lock().expect("no panic").extend(std::iter::repeat_n(reply, times));
    }

    /// The log records of this process, or about none, in their order: of each its name.
    fn records(&self, pid: Option<u32>) -> Vec<(String, Value)> {
        let received = self.received.lock().expect("no panic");
        let logs = received.iter().filter(|(path, _)| path == "/v1/logs");
        let records = logs.flat_map(|(_, body)| all(body, "resourceLogs", "scopeLogs", "logRecords"));
        records
            .filter(|record| attribute(record, "process.pid").map(number) == pid.map(u64::from))
            .map(|record| (record["eventName"].as_str().expect("a name").to_owned(), record))
            .collect()
    }

    /// Waits until there are so many of a process.
    fn wait(&self, pid: u32, records: usize) -> Vec<(String, Value)> {
        let begin = Instant::now();
        loop {
            let found = self.records(Some(pid));
            if found.len() >= records {
                return found;
            }
            assert!(begin.elapsed() < slow(PATIENCE), "{records} of pid {pid}: {found:#?}");
            sleep(Duration::from_millis(100));
        }
    }

    fn export(&self, agent: &Agent, queue: &Path, more: &[&str]) -> Running {
        let mut command = Command::new(tracer());
        command.args(["export", "--otlp", &format!("http://{}", self.address), "--queue-dir"]).arg(queue);
        command.arg("--socket").arg(agent.socket()).args(more);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        start(command)
    }
}

/// Reads a request and answers; `None` if it was not accepted.
fn serve(stream: TcpStream, reply: Reply, received: &Received) -> Option<()> {
    let mut reader = BufReader::new(&stream);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).ok()?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().to_ascii_lowercase().split_once(": ") {
            Some(("content-length", value)) => length = value.parse().ok()?,
            Some(("content-type", value)) => assert_eq!(value, "application/json"),
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let answer = |status: &str, more: &str| {
        let text = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n{more}\r\n{{}}");
        let _ = (&stream).write_all(text.as_bytes());
    };
    match reply {
        Reply::Close => return None,
        Reply::Status(status, more) => {
            answer(&format!("{status} No"), more);
            return None;
        }
        Reply::Slow(time) => sleep(time),
    }
    let path = first.split(' ').nth(1)?.to_owned();
    received.lock().expect("no panic").push((path, serde_json::from_slice(&body).expect("JSON")));
    answer("200 OK", "");
    Some(())
}

/// All records of a body, by the names of its three levels.
fn all<'a>(
    body: &'a Value,
    resource: &str,
    scope: &'a str,
    record: &'a str,
) -> impl Iterator<Item = Value> + 'a {
    let resources = body[resource].as_array().expect("a list").iter();
    let scopes = resources.flat_map(move |of| of[scope].as_array().expect("a list"));
    scopes.flat_map(move |of| of[record].as_array().expect("a list").clone())
}

fn attribute<'a>(record: &'a Value, key: &str) -> Option<&'a Value> {
    let attributes = record["attributes"].as_array().expect("a list");
    attributes.iter().find(|attribute| attribute["key"] == key).map(|attribute| &attribute["value"])
}

/// Numbers of 64 bits are texts.
fn number(value: &Value) -> u64 {
    value["intValue"].as_str().expect("a text").parse().expect("a number")
}

fn text<'a>(record: &'a Value, key: &str) -> &'a str {
    attribute(record, key).unwrap_or_else(|| panic!("{key}: {record:#}"))["stringValue"]
        .as_str()
        .expect("a text")
}

/// An agent with an empty directory for the queue of its exporter.
fn agent(name: &str) -> (Agent, std::path::PathBuf) {
    (Agent::start(THRESHOLD), own_dir().join(format!("export-{name}")))
}

const BOTH: [&str; 2] = ["tracer.stall.opened", "tracer.stall.closed"];

fn names(records: &[(String, Value)]) -> Vec<&str> {
    records.iter().map(|(name, _)| name.as_str()).filter(|name| name.starts_with("tracer.stall.")).collect()
}

#[test]
fn events_arrive_once_and_in_order_whatever_the_receiver_does() {
    let _shared = shared();
    let retry = Reply::Status(429, "Retry-After: 1\r\n");
    let receiver =
        Receiver::start(&[Reply::Status(503, ""), retry, Reply::Close, Reply::Slow(Duration::from_secs(2))]);
    let (agent, queue) = agent("faults");
    let _export = receiver.export(&agent, &queue, &[]);
    let waiter = Waiter::start("recvfrom-tcp4");
    let pid = waiter.pid();
    let opened = receiver.wait(pid, 1);
    assert_eq!(*receiver.refused.lock().expect("no panic"), 3, "it was tried again");
    let (_, record) = &opened[0];
    assert_eq!((record["severityText"].as_str(), text(record, "tracer.class")), (Some("WARN"), "reply"));
    assert_eq!(text(record, "network.transport"), "tcp");
    assert!(number(attribute(record, "network.peer.port").expect("a port")) > 0);
    receiver.next(Reply::Close, 2);
    drop(waiter);
    let records = receiver.wait(pid, 2);
    assert_eq!(names(&records), BOTH);
    let closed = &records[1].1;
    assert!(closed["timeUnixNano"].as_str() > record["timeUnixNano"].as_str());
    // Its span is as long as the wait was, and of the same trace.
    let begin = Instant::now();
    let span = loop {
        let received = receiver.received.lock().expect("no panic").clone();
        let traces = received.iter().filter(|(path, _)| path == "/v1/traces");
        let spans = traces.flat_map(|(_, body)| all(body, "resourceSpans", "scopeSpans", "spans"));
        let mut of_it = spans.filter(|span| attribute(span, "process.pid").map(number) == Some(pid.into()));
        if let Some(span) = of_it.next() {
            break span;
        }
        assert!(begin.elapsed() < slow(PATIENCE), "no span: {received:#?}");
        sleep(Duration::from_millis(100));
    };
    assert_eq!((&span["traceId"], &span["spanId"]), (&closed["traceId"], &closed["spanId"]));
    let at = |field: &str| span[field].as_str().expect("a text").parse::<u64>().expect("a number");
    let seconds = attribute(closed, "tracer.stall.duration").expect("it has one")["doubleValue"].as_f64();
    let length = Duration::from_nanos(at("endTimeUnixNano") - at("startTimeUnixNano"));
    assert!((length.as_secs_f64() - seconds.expect("seconds")).abs() < 0.01, "{length:?} {seconds:?}");
}

#[test]
fn what_happens_while_nobody_sends_or_reads_is_sent_later() {
    let _shared = shared();
    let receiver = Receiver::start(&[]);
    let (agent, queue) = agent("restarts");
    // Before it is started for the first time: what is open is told of.
    let first = Waiter::start("recvfrom-tcp4");
    let mut agent = agent;
    agent.wait_stall("stall_opened", first.pid(), PATIENCE);
    let mut export = receiver.export(&agent, &queue, &[]);
    receiver.wait(first.pid(), 1);
    // The receiver is away, and then the exporter is killed: what it had read is on disk.
    receiver.next(Reply::Status(503, ""), 1000);
    let second = Waiter::start("recvfrom-tcp4");
    agent.wait_stall("stall_opened", second.pid(), PATIENCE);
    let begin = Instant::now();
    while *receiver.refused.lock().expect("no panic") == 0 {
        assert!(begin.elapsed() < slow(PATIENCE), "it does not try");
        sleep(Duration::from_millis(50));
    }
    export.kill();
    // While it is not there, stalls open and close.
    let (first_pid, second_pid) = (first.pid(), second.pid());
    drop(first);
    agent.wait_stall("stall_closed", first_pid, PATIENCE);
    let third = Waiter::start("recvfrom-tcp4");
    agent.wait_stall("stall_opened", third.pid(), PATIENCE);
    drop(second);
    agent.wait_stall("stall_closed", second_pid, PATIENCE);
    // The history is written twice a second.
    sleep(Duration::from_secs(1));
    receiver.script.lock().expect("no panic").clear();
    let _export = receiver.export(&agent, &queue, &[]);
    assert_eq!(names(&receiver.wait(first_pid, 2)), BOTH);
    assert_eq!(names(&receiver.wait(second_pid, 2)), BOTH);
    assert_eq!(names(&receiver.wait(third.pid(), 1)), BOTH[..1]);
    let third_pid = third.pid();
    drop(third);
    assert_eq!(names(&receiver.wait(third_pid, 2)), BOTH);
    sleep(Duration::from_secs(2));
    for pid in [first_pid, second_pid, third_pid] {
        assert_eq!(names(&receiver.records(Some(pid))), BOTH, "each once");
    }
}

#[test]
fn what_there_is_no_room_for_is_counted() {
    let _shared = shared();
    let receiver = Receiver::start(&[Reply::Status(503, "Retry-After: 1\r\n"); 8]);
    let (mut agent, queue) = agent("full");
    let _export = receiver.export(&agent, &queue, &["--queue-max", "20KiB", "--no-spans"]);
    let mut pids = Vec::new();
    for _ in 0..20 {
        let waiter = Waiter::start("recvfrom-tcp4");
        agent.wait_stall("stall_opened", waiter.pid(), PATIENCE);
        pids.push(waiter.pid());
    }
    let last = *pids.last().expect("some");
    agent.wait_stall("stall_closed", last, PATIENCE);
    assert_eq!(*names(&receiver.wait(last, 2)).last().expect("the newest"), BOTH[1]);
    let begin = Instant::now();
    let lost = loop {
        let told = receiver.records(None);
        let told: Vec<u64> = told
            .iter()
            .filter(|(name, _)| name == "tracer.export.lost")
            .map(|(_, record)| number(attribute(record, "tracer.events.lost").expect("a number")))
            .collect();
        if !told.is_empty() {
            break told.iter().sum::<u64>();
        }
        assert!(begin.elapsed() < slow(PATIENCE), "nothing is said of the lost ones");
        sleep(Duration::from_millis(100));
    };
    let arrived: usize = pids.iter().map(|pid| names(&receiver.records(Some(*pid))).len()).sum();
    assert!(lost > 0 && arrived < 40, "{lost} lost, {arrived} arrived");
}
