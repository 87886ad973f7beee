//! Does the agent bear it when descriptors or memory run out, and go on when they are back?

use std::fs;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tests::{Agent, Waiter, shared, slow};

const PATIENCE: Duration = Duration::from_secs(10);

fn descriptors(agent: &Agent) -> u64 {
    fs::read_dir(format!("/proc/{}/fd", agent.pid())).expect("an agent").count() as u64
}

/// Sets a limit of another process.
fn limit(agent: &Agent, what: libc::__rlimit_resource_t, soft: u64) {
    let value = libc::rlimit { rlim_cur: soft, rlim_max: libc::RLIM_INFINITY };
    let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both outlive the call.
    let result = unsafe {
        libc::prlimit(agent.pid() as i32, what, std::ptr::null(), &raw mut before);
        let value = libc::rlimit { rlim_max: before.rlim_max, ..value };
        libc::prlimit(agent.pid() as i32, what, &raw const value, std::ptr::null_mut())
    };
    assert_eq!(result, 0, "prlimit: {}", std::io::Error::last_os_error());
}

#[test]
fn without_descriptors_it_waits_for_better_times() {
    let _shared = shared();
    let mut agent = Agent::start(&["--threshold", "2s"]);
    let before = descriptors(&agent);
    limit(&agent, libc::RLIMIT_NOFILE, before);
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
    limit(&agent, libc::RLIMIT_NOFILE, 4096);
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
    limit(&agent, libc::RLIMIT_DATA, 64 << 20);
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
