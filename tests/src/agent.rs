//! What does a running agent say? Its events as they come, its metrics when asked, its end.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::exposition::{self, Sample};
use crate::launch::{Running, own_dir, start};
use crate::unused::{ANY_PORT, address_in};
use crate::{bpf, clock, http, programs, slow};

/// How long an agent may take until it is ready: generous, since the machine may be loaded.
const PATIENCE: Duration = Duration::from_secs(30);

/// An event line and when it came.
#[derive(Debug, Clone)]
struct Event {
    arrived_ns: i128,
    value: Value,
}

/// A `tracer agent` of a test's own, on a free port. It is killed when dropped.
#[derive(Debug)]
pub struct Agent {
    process: Running,
    address: SocketAddr,
    socket: PathBuf,
    incoming: Receiver<Event>,
    seen: Vec<Event>,
    stderr: Arc<Mutex<String>>,
}

impl Agent {
    /// Starts an agent with these arguments more, and waits until it is ready.
    pub fn start(args: &[&str]) -> Self {
        Self::start_as(args, |_| {})
    }

    /// The same, started as `prepare` wants its command to be.
    pub fn start_as(args: &[&str], prepare: impl Fn(&mut Command)) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let socket = own_dir().join(format!("agent-{number}.sock"));
        let mut command = Command::new(programs::tracer());
        prepare(&mut command);
        command.args(["agent", "--listen", ANY_PORT]).args(args);
        if !args.contains(&"--state-dir") {
            // What an earlier agent remembered is not this test's affair.
            command.arg("--state-dir").arg(own_dir().join(format!("state-{number}")));
        }
        if !args.contains(&"--socket") {
            command.arg("--socket").arg(&socket);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = start(command);
        let stdout = process.pipes().stdout.take().expect("piped");
        let mut error = process.pipes().stderr.take().expect("piped");
        let (send, incoming) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let arrived_ns = clock::realtime_ns();
                let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if send.send(Event { arrived_ns, value }).is_err() {
                    break;
                }
            }
        });
        let stderr = Arc::new(Mutex::new(String::new()));
        let sink = Arc::clone(&stderr);
        thread::spawn(move || {
            let mut buffer = [0_u8; 4096];
            while let Ok(n @ 1..) = error.read(&mut buffer) {
                sink.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
        });
        // Until it has said where it listens.
        let address = ([127, 0, 0, 1], 0).into();
        let mut agent = Self { process, address, socket, incoming, seen: Vec::new(), stderr };
        let begin = Instant::now();
        while !agent.is_ready() {
            if let Some(status) = agent.process.ended() {
                panic!("tracer agent {args:?} ended: {status}\n{}", agent.stderr());
            }
            assert!(
                begin.elapsed() < slow(PATIENCE),
                "tracer agent is not ready after {PATIENCE:?}\n{}",
                agent.stderr()
            );
            thread::sleep(Duration::from_millis(20));
        }
        agent
    }

    fn is_ready(&mut self) -> bool {
        let Some(address) = address_in(&self.stderr()) else { return false };
        self.address = address;
        self.get("/-/ready").is_some_and(|(status, _)| status == 200)
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// A process that its main thread has started, by the name of its command.
    pub fn child(&self, command: &str) -> u32 {
        let pid = self.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("an agent");
        let is_it = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == command.as_bytes())
        };
        let found = children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(is_it);
        found.unwrap_or_else(|| panic!("no {command} among {children}"))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        self.process.signal(signal);
    }

    /// Ends it as a crash would, and waits until it is gone.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The ids of the BPF programs it holds.
    pub fn program_ids(&self) -> Vec<u32> {
        bpf::ids_of(self.pid(), "prog_id")
    }

    /// Waits for the first event that satisfies `is_it`, those that have come already included; the event and
    /// the moment it came. Panics after `at_most`, on a slow machine after as many times that.
    pub fn wait_event(&mut self, at_most: Duration, is_it: impl Fn(&Value) -> bool) -> (Value, i128) {
        self.event(at_most, is_it).unwrap_or_else(|seen| panic!("no such event in {at_most:?}; {seen}"))
    }

    /// The event, or what there was instead.
    fn event(&mut self, at_most: Duration, is_it: impl Fn(&Value) -> bool) -> Result<(Value, i128), String> {
        let begin = Instant::now();
        // What has come already is not waited for.
        let mut wait = Duration::ZERO;
        while begin.elapsed() < slow(at_most) {
            self.receive(wait);
            if let Some(event) = self.seen.iter().find(|event| is_it(&event.value)) {
                return Ok((event.value.clone(), event.arrived_ns));
            }
            wait = Duration::from_millis(20);
        }
        let seen = self.seen.iter().map(|event| format!("{}\n", event.value)).collect::<String>();
        Err(format!("there were {} events:\n{seen}\nstderr:\n{}", self.seen.len(), self.stderr()))
    }

    /// Waits for the event of this name about this process.
    pub fn wait_stall(&mut self, name: &str, pid: u32, at_most: Duration) -> (Value, i128) {
        self.event(at_most, |event| event["event"] == name && event["wait"]["pid"] == pid).unwrap_or_else(
            |seen| {
                let now = Command::new(programs::tracer())
                    .args(["ps", "--json", "--all", "--min-age", "0s", "-p", &pid.to_string()])
                    .output();
                let now = now.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
                panic!("no {name} of {pid} in {at_most:?}; now {now:?}; {seen}")
            },
        )
    }

    /// All events so far.
    pub fn all_events(&mut self) -> Vec<Value> {
        self.receive(Duration::from_millis(20));
        self.seen.iter().map(|event| event.value.clone()).collect()
    }

    /// All events about a process so far: their names in order.
    pub fn events_of(&mut self, pid: u32) -> Vec<String> {
        self.receive(Duration::from_millis(20));
        let about = self.seen.iter().filter(|event| event.value["wait"]["pid"] == pid);
        about.map(|event| event.value["event"].as_str().unwrap_or("?").to_owned()).collect()
    }

    /// Forgets the events about a process: its id may be another's soon.
    pub fn forget(&mut self, pid: u32) {
        self.seen.retain(|event| event.value["wait"]["pid"] != pid);
    }

    /// All events about a process so far, each with the moment it came.
    pub fn stories_of(&mut self, pid: u32) -> Vec<(Value, i128)> {
        self.receive(Duration::from_millis(20));
        let about = self.seen.iter().filter(|event| event.value["wait"]["pid"] == pid);
        about.map(|event| (event.value.clone(), event.arrived_ns)).collect()
    }

    fn receive(&mut self, at_most: Duration) {
        if let Ok(event) = self.incoming.recv_timeout(at_most) {
            self.seen.push(event);
        }
        while let Ok(event) = self.incoming.try_recv() {
            self.seen.push(event);
        }
    }

    /// The samples of `/metrics`.
    pub fn scrape(&self) -> Vec<Sample> {
        exposition::parse(&self.page())
    }

    /// The page of `/metrics` as it is.
    pub fn page(&self) -> String {
        match self.get("/metrics") {
            Some((200, page)) => page,
            other => panic!("GET /metrics: {other:?}\n{}", self.stderr()),
        }
    }

    /// The samples of one metric with at least these labels.
    pub fn samples(&self, name: &str, labels: &[(&str, &str)]) -> Vec<Sample> {
        self.scrape().into_iter().filter(|sample| sample.is(name, labels)).collect()
    }

    /// Scrapes until `is_it` likes what comes; the page. Panics after `at_most`, on a slow machine after as many times
    /// that.
    pub fn wait_scrape(&self, at_most: Duration, is_it: impl Fn(&[Sample]) -> bool) -> Vec<Sample> {
        let begin = Instant::now();
        loop {
            let samples = self.scrape();
            if is_it(&samples) {
                return samples;
            }
            assert!(begin.elapsed() < slow(at_most), "not on /metrics after {at_most:?}:\n{}", self.page());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// `GET path`: status and body, or `None` where nobody answers.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        http::get(self.address, path).ok().map(|answer| (answer.status, answer.body))
    }

    /// Sends a signal and waits for the end: the status and how long it took. Panics after ten seconds.
    pub fn stop(mut self, signal: i32) -> (ExitStatus, Duration) {
        let begin = Instant::now();
        self.process.signal(signal);
        match self.process.wait(slow(Duration::from_secs(10))) {
            Some(status) => (status, begin.elapsed()),
            None => panic!("tracer agent runs ten seconds after signal {signal}\n{}", self.stderr()),
        }
    }
}
