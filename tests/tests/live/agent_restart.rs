//! What does an agent know of the one before it?

use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{Agent, Sample, SmallDisk, Waiter, own_dir, shared, slow};

const PATIENCE: Duration = Duration::from_secs(10);

/// A stall that was announced is not announced again; it is shown, and its end is told.
#[test]
fn a_stall_open_at_a_restart_is_announced_once() {
    let _shared = shared();
    let dir = own_dir().join("restarted");
    let args = ["--threshold", "1s", "--state-dir", dir.to_str().expect("UTF-8")];
    let mut waiter = Waiter::start("recvfrom-tcp4");
    let mut first = Agent::start(&args);
    first.wait_stall("stall_opened", waiter.pid(), PATIENCE);
    // Not even if it is killed, a moment later.
    std::thread::sleep(Duration::from_secs(3));
    first.stop(libc::SIGKILL);
    let mut second = Agent::start(&args);
    let pid = waiter.pid().to_string();
    let shown = |samples: &[Sample]| samples.iter().any(|s| s.is("tracer_stall_seconds", &[("pid", &pid)]));
    second.wait_scrape(PATIENCE, shown);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(second.events_of(waiter.pid()), Vec::<String>::new());
    let other = Waiter::start("recvfrom-tcp4");
    second.wait_stall("stall_opened", other.pid(), PATIENCE);
    waiter.answer();
    let (event, _) = second.wait_stall("stall_closed", waiter.pid(), PATIENCE);
    assert_eq!(event["ended"], "resumed", "{event:#}");
}

/// A state file that is none, or cannot be written, costs what it would have known.
#[test]
fn a_broken_state_is_no_hindrance() {
    let _shared = shared();
    let dir = own_dir().join("broken-state");
    std::fs::create_dir_all(&dir).expect("a folder");
    std::fs::write(dir.join("state.json"), b"{ not json").expect("write");
    let mut agent = Agent::start(&["--threshold", "1s", "--state-dir", dir.to_str().expect("UTF-8")]);
    let waiter = Waiter::start("recvfrom-tcp4");
    agent.wait_stall("stall_opened", waiter.pid(), PATIENCE);
}

/// What it cannot write down for want of room is counted and said, once each time; with room again it is written, and counts for the
/// next agent.
#[test]
fn a_state_that_cannot_be_written_is_counted_and_written_later() {
    let _shared = shared();
    let disk = SmallDisk::mount("state-disk", 1024);
    let dir = disk.path().join("state");
    let args = ["--threshold", "1s", "--state-dir", dir.to_str().expect("UTF-8")];
    let mut agent = Agent::start(&args);
    // Processes of the stalls that are on disk: always a whole file.
    let written = || -> Vec<u64> {
        let Ok(text) = std::fs::read(dir.join("state.json")) else { return Vec::new() };
        let state: Value = serde_json::from_slice(&text).expect("a whole file");
        state["stalls"].as_array().expect("a list").iter().filter_map(|stall| stall["pid"].as_u64()).collect()
    };
    let is_written = |waiter: &Waiter| written().contains(&waiter.pid().into());
    let until_written = |agent: &Agent, waiter: &Waiter| {
        let begin = Instant::now();
        while !is_written(waiter) {
            assert!(begin.elapsed() < slow(PATIENCE), "it is not written\n{}", agent.stderr());
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let unsaved = |agent: &Agent| -> f64 {
        let samples = agent.samples("tracer_lost_events_total", &[("reason", "state_unsaved")]);
        samples.iter().map(|sample| sample.value).sum()
    };
    let looks = |all: &[Sample]| -> f64 {
        let counts = all.iter().filter(|s| s.name == "tracer_snapshot_duration_seconds_count");
        counts.map(|s| s.value).sum()
    };
    let said = |agent: &Agent| agent.stderr().matches("will not survive a restart").count();
    let one_more = |agent: &mut Agent| {
        let waiter = Waiter::start("recvfrom-tcp4");
        agent.wait_stall("stall_opened", waiter.pid(), PATIENCE);
        waiter
    };
    let mut stalled = Vec::new();
    let first = one_more(&mut agent);
    until_written(&agent, &first);
    assert_eq!((unsaved(&agent), said(&agent)), (0.0, 0));
    let mut before = 0.0;
    for time in 1..=2 {
        disk.fill();
        let second = one_more(&mut agent);
        // It tries once a second.
        agent.wait_scrape(PATIENCE, |_| unsaved(&agent) >= before + 3.0);
        assert_eq!(said(&agent), time, "{}", agent.stderr());
        assert!(is_written(&first) && !is_written(&second), "what was there stays: {:?}", written());
        assert_eq!(agent.get("/-/healthy").map(|(status, _)| status), Some(200));
        disk.make_room();
        until_written(&agent, &second);
        // What was lost before that is told by the look that comes after it.
        let so_far = looks(&agent.scrape());
        agent.wait_scrape(PATIENCE, |all| looks(all) >= so_far + 2.0);
        before = unsaved(&agent);
        std::thread::sleep(Duration::from_millis(2_500));
        assert_eq!(unsaved(&agent), before);
        stalled.push(second);
    }
    agent.stop(libc::SIGKILL);
    let mut again = Agent::start(&args);
    for waiter in stalled.iter().chain([&first]) {
        let pid = waiter.pid().to_string();
        again.wait_scrape(PATIENCE, |all| all.iter().any(|s| s.is("tracer_stall_seconds", &[("pid", &pid)])));
    }
    let told: Vec<String> = stalled.iter().flat_map(|waiter| again.events_of(waiter.pid())).collect();
    assert!(told.is_empty(), "{told:?}");
    again.stop(libc::SIGTERM);
}
