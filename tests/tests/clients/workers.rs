//! Is a worker that waits for its next job left in peace? On the wire it looks like a request never answered; flagged
//! at most once while its baseline is not known, not when it is, and never with the rules that the default configuration
//! shows.

use std::process::Command;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{Agent, Running, ps, start};

use crate::blocked::until_waiting;
use tests::servers::{Server, gearman, gearmand, must, redis, redis_cli};

const PATIENCE: Duration = Duration::from_secs(30);

fn silent(mut command: Command) -> Running {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    start(command)
}

/// A redis client on the server that is in this state of mind, as the server's own list of clients has it.
fn redis_worker(server: &Server, args: &[&str], listed: &str) -> Running {
    let worker = silent(redis_cli(server, args));
    let begin = Instant::now();
    loop {
        let list = must(redis_cli(server, &["CLIENT", "LIST"]));
        if list.lines().any(|line| line.contains(listed)) {
            return worker;
        }
        assert!(begin.elapsed() < PATIENCE, "no client {listed:?}:\n{list}");
        sleep(Duration::from_millis(20));
    }
}

fn names(events: &[(Value, i128)]) -> Vec<&str> {
    events.iter().map(|(event, _)| event["event"].as_str().unwrap_or("?")).collect()
}

/// Servers without work, and who waits for some.
struct Idle {
    redis: Server,
    gearmand: Server,
    blpop: Running,
    subscriber: Running,
    worker: Running,
}

impl Idle {
    fn start() -> Self {
        let (redis, gearmand) = (redis(), gearmand());
        let blpop = redis_worker(&redis, &["BLPOP", "jobs", "0"], "cmd=blpop");
        let subscriber = redis_worker(&redis, &["SUBSCRIBE", "news"], "cmd=subscribe");
        let worker = silent(gearman(&gearmand, &["-w", "-f", "job", "--", "/bin/cat"]));
        until_registered(&gearmand, "job\t0\t0\t1");
        Self { redis, gearmand, blpop, subscriber, worker }
    }
}

#[test]
fn idle_ones_are_flagged_at_most_once() {
    let idle = Idle::start();
    let Idle { blpop, subscriber, worker, .. } = &idle;
    let mut agent = Agent::start(&["--threshold", "3s"]);
    sleep(Duration::from_secs(3 + 15));

    // The last bytes are the worker's: it has asked for a job.
    for (name, process) in [("BLPOP", blpop), ("gearman", worker)] {
        let events = agent.stories_of(process.pid());
        assert!(matches!(&names(&events)[..], [] | ["stall_opened"]), "{name}: {events:#?}");
        assert_eq!(class(process), "reply", "{name}");
    }
    // The last bytes are the server's, even if they came in the same tick as the question: its confirmation.
    assert_eq!(class(subscriber), "quiet");
    let events = agent.stories_of(subscriber.pid());
    assert!(events.is_empty(), "a subscription is doubtful, not stuck: {events:#?}");
}

/// The rules of the default configuration for these services, which are comments there, with the ports of these servers.
fn default_rules(redis: &Server, gearmand: &Server) -> std::path::PathBuf {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/tracer.toml");
    let text = std::fs::read_to_string(file).expect("the default configuration");
    let (mut rules, mut found) = (String::new(), 0);
    for block in text.split("\n\n").filter(|block| block.contains("#[[rule]]")) {
        for (port, server) in [(":6379", redis), (":4730", gearmand)] {
            if block.contains(port) {
                let settings = block.lines().filter_map(|line| line.strip_prefix('#'));
                let settings: Vec<&str> = settings.filter(|line| !line.starts_with(' ')).collect();
                rules += &(settings.join("\n").replace(port, &format!(":{}", server.port())) + "\n");
                found += 1;
            }
        }
    }
    assert_eq!(found, 2, "the default configuration shows a rule for each: {text}");
    let path = tests::own_dir().join("default-rules.toml");
    std::fs::write(&path, rules).expect("write");
    path
}

#[test]
fn with_the_default_rules_they_are_never_flagged() {
    let idle = Idle::start();
    let Idle { blpop, subscriber, worker, .. } = &idle;
    let rules = default_rules(&idle.redis, &idle.gearmand);
    let mut agent = Agent::start(&["--threshold", "1s", "--config", rules.to_str().expect("UTF-8")]);
    // Somebody is flagged: the agent is awake.
    let waiter = tests::Waiter::start("recvfrom-tcp4");
    agent.wait_stall("stall_opened", waiter.pid(), PATIENCE);
    sleep(Duration::from_secs(12));
    for process in [blpop, subscriber, worker] {
        let events = agent.stories_of(process.pid());
        assert!(events.is_empty(), "{events:#?}");
    }
}

fn class(process: &Running) -> String {
    let snapshot = ps(&["-p", &process.pid().to_string()]);
    let row = snapshot.row(process.pid());
    row["class"].as_str().unwrap_or_else(|| panic!("no class: {row:#}")).to_owned()
}

/// Waits until the server's status has this line: function, jobs, running, workers.
fn until_registered(server: &Server, line: &str) {
    let begin = Instant::now();
    loop {
        let status = tests::servers::gearman_status(server);
        if status.lines().any(|one| one == line) {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "no worker:\n{status}");
        sleep(Duration::from_millis(50));
    }
}

/// It was answered twice after three seconds: that is its baseline, so that it is flagged after nine seconds, not two.
#[test]
fn one_with_a_baseline_is_flagged_later() {
    flagged_later("baseline", false);
}

#[test]
fn a_baseline_outlives_a_restart_of_the_agent() {
    flagged_later("baseline-restart", true);
}

fn flagged_later(name: &str, restart: bool) {
    let redis = redis();
    let state = tests::own_dir().join(name);
    let args = ["--threshold", "2s", "--state-dir", state.to_str().expect("UTF-8")];
    let mut agent = Agent::start(&args);
    let worker = redis_worker(&redis, &["-r", "-1", "BLPOP", "jobs", "0"], "cmd=blpop");
    for _ in 0..2 {
        sleep(Duration::from_secs(3));
        must(redis_cli(&redis, &["RPUSH", "jobs", "one"]));
    }
    let asked = Instant::now();
    until_waiting(worker.pid());
    sleep(Duration::from_millis(1_500));
    let before = agent.stories_of(worker.pid());
    // Each of the two may have been flagged, once, while nothing was known; and those stalls are over.
    let opened = names(&before).iter().filter(|name| **name == "stall_opened").count();
    assert!(opened <= 2 && before.len() == 2 * opened, "{before:#?}");
    let before = if restart {
        let (status, _) = agent.stop(libc::SIGTERM);
        assert!(status.success(), "{status}");
        agent = Agent::start(&args);
        Vec::new()
    } else {
        before
    };

    sleep(Duration::from_secs(8).saturating_sub(asked.elapsed()));
    let events = agent.stories_of(worker.pid());
    assert_eq!(events.len(), before.len(), "flagged in spite of its baseline: {events:#?}");
    // It is no excuse for ever.
    // As far apart as looks are at most, where there is much to look at.
    sleep(Duration::from_secs(13).saturating_sub(asked.elapsed()));
    let events = agent.stories_of(worker.pid());
    let more = &events[before.len()..];
    assert_eq!(names(more), ["stall_opened"], "{more:#?}");
    let seconds = more[0].0["stall_seconds"].as_f64().unwrap_or(f64::NAN);
    assert!((8.5..=12.6).contains(&seconds), "flagged after {seconds} s: {more:#?}");
}
