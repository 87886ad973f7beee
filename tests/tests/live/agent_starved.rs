//! Does the agent bear it when descriptors or memory run out, and go on when they are back?

use std::fs;
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use tests::{Agent, Waiter, shared, slow};

const PATIENCE: Duration = Duration::from_secs(10);

fn descriptors(agent: &Agent) -> u64 {
    fs::read_dir(format!("/proc/{}/fd", agent.pid())).expect("an agent").count() as u64
}

/// Sets a soft limit of the agent's, by the name that prlimit(1) has for it.
fn limit(agent: &Agent, name: &str, soft: u64) {
    let status = Command::new("prlimit")
        .args(["--pid", &agent.pid().to_string(), &format!("--{name}={soft}:")])
        .status()
        .expect("prlimit starts");
    assert!(status.success(), "prlimit: {status}");
}

#[test]
fn without_descriptors_it_waits_for_better_times() {
    let _shared = shared();
    let mut agent = Agent::start(&["--threshold", "2s"]);
    let before = descriptors(&agent);
    limit(&agent, "nofile", before);
    // Not one more: no snapshot, no file of /proc, no connection.
    let waiter = Waiter::start("recvfrom-tcp4");
    let begin = Instant::now();
    while !agent.stderr().contains("it is tried again at the next interval") {
        assert!(begin.elapsed() < slow(PATIENCE), "it does not say that it fails\n{}", agent.stderr());
        std::thread::sleep(Duration::from_millis(50));
    }
    let held: Vec<TcpStream> = (0..20).filter_map(|_| TcpStream::connect(agent.address()).ok()).collect();
    std::thread::sleep(Duration::from_secs(2));
    assert!(agent.events_of(waiter.pid()).is_empty());
    drop(held);
    limit(&agent, "nofile", 4096);
    agent.wait_stall("stall_opened", waiter.pid(), PATIENCE);
    let lost = |all: &[tests::Sample]| {
        all.iter().any(|s| s.is("tracer_lost_events_total", &[("reason", "look_failed")]) && s.value >= 2.0)
    };
    agent.wait_scrape(PATIENCE, lost);
    assert_eq!(agent.get("/-/healthy").map(|(status, _)| status), Some(200));
}

/// The design's budget is 40 MiB with 10,000 threads; it must do its work in 64 with a few hundred.
#[test]
fn in_sixty_four_mebibytes_it_works() {
    let _shared = shared();
    let mut agent = Agent::start(&["--threshold", "2s"]);
    limit(&agent, "data", 64 << 20);
    let crowd = Waiter::start_with("threads", &["300"]);
    let mut known: Vec<u64> = Vec::new();
    for _ in 0..300 {
        let (event, _) = agent.wait_event(PATIENCE, |event| {
            event["event"] == "stall_opened"
                && event["wait"]["pid"] == crowd.pid()
                && !known.contains(&event["wait"]["tid"].as_u64().unwrap_or(0))
        });
        known.extend(event["wait"]["tid"].as_u64());
    }
    for _ in 0..20 {
        assert_eq!(agent.get("/metrics").map(|(status, _)| status), Some(200));
    }
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).expect("an agent");
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    assert!(kib.is_some_and(|kib| kib < 64 << 10), "{status}");
}
