//! Does the agent bear it when descriptors, memory or the processor run out, and go on when they are back?

use std::fs;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tests::{
    Agent, Group, Limited, Waiter, alone, limit, seconds_between, shared, shared_for_minutes, slow,
    unsupported,
};

const PATIENCE: Duration = Duration::from_secs(10);

/// Those that it holds between two looks, in which it opens others.
fn descriptors(agent: &Agent) -> u64 {
    let held = (0..25).map(|_| {
        std::thread::sleep(Duration::from_millis(20));
        fs::read_dir(format!("/proc/{}/fd", agent.pid())).expect("an agent").count() as u64
    });
    held.min().expect("several")
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
    while !agent.stderr().contains("trying again at the next interval") {
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
    let memory = Limited::to(&agent, 64 << 20);
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
    memory.was_enough();
}

/// The kernel charges the slots of all threads to the agent's control group. Where that has no room, threads begin without one: that
/// is counted, they are seen all the same, and with room again they get one.
#[test]
fn threads_that_get_no_slot_are_counted_and_seen() {
    const THREADS: f64 = 8000.0;
    let _alone = alone();
    let Some(group) = Group::make("slots") else { return unsupported("control groups of memory") };
    let agent = Agent::start_as(&[], |command| group.take(command));
    if !agent.samples("tracer_probe_up", &[("probe", "exited")]).is_empty() {
        return unsupported("slots in task storage");
    }
    let failed = || -> f64 {
        let samples = agent.samples("tracer_lost_events_total", &[("reason", "slot_failed")]);
        samples.iter().map(|sample| sample.value).sum()
    };
    assert_eq!(failed(), 0.0);
    // It stands still, so that the kernel alone wants for memory.
    agent.signal(libc::SIGSTOP);
    std::thread::sleep(Duration::from_millis(100));
    group.limit(group.used() + (32 << 10)).expect("it has no more");
    let _crowd = Waiter::start_with("pipes", &[&THREADS.to_string()]);
    group.limit(64 << 20).expect("it has less");
    agent.signal(libc::SIGCONT);
    agent.wait_scrape(PATIENCE, |all| {
        let seen = |sample: &tests::Sample| {
            sample.is("tracer_waiting_threads", &[("class", "pipe")]) && sample.value >= THREADS
        };
        all.iter().any(seen)
    });
    agent.wait_scrape(PATIENCE, |_| failed() > 0.0);
    // Looks make the slots; so many at a time may take more than one.
    let begin = Instant::now();
    loop {
        let before = failed();
        std::thread::sleep(slow(Duration::from_millis(2_500)));
        if failed() == before {
            break;
        }
        assert!(begin.elapsed() < slow(2 * PATIENCE), "there is room, and no slots: {before}");
    }
}

/// A machine that was suspended by its host, a processor that others have: the agent gets none for a minute. What happened
/// meanwhile is found out, and of too much of it the rest is counted as lost.
#[test]
fn a_minute_without_a_processor_costs_no_stall() {
    let _shared = shared_for_minutes();
    let mut agent = Agent::start(&["--threshold", "2s"]);
    let crowd = Waiter::start_with("pipes", &["3000"]);
    let mut early = Waiter::start("recvfrom-tcp4");
    let mut late = Waiter::start("recvfrom-tcp4");
    agent.wait_stall("stall_opened", early.pid(), PATIENCE);
    agent.wait_stall("stall_opened", late.pid(), PATIENCE);

    agent.signal(libc::SIGSTOP);
    let meanwhile = Waiter::start("recvfrom-tcp4");
    let told = early.answer();
    // Three thousand waits end, and the ring has room for a third of them: the next end is not in it.
    drop(crowd);
    let untold = late.answer();
    std::thread::sleep(Duration::from_secs(60));
    agent.signal(libc::SIGCONT);

    let (event, _) = agent.wait_stall("stall_opened", meanwhile.pid(), PATIENCE);
    let age = event["wait"]["age_seconds"].as_f64().expect("a number");
    assert!((59.0..=meanwhile.age() + 0.5).contains(&age), "{event:#}");
    let lasted = |agent: &mut Agent, pid| {
        let (event, _) = agent.wait_stall("stall_closed", pid, PATIENCE);
        event["stall_seconds"].as_f64().expect("a number")
    };
    let truth = seconds_between(early.begun_ns(), told);
    let said = lasted(&mut agent, early.pid());
    assert!((said - truth).abs() < 0.5, "{said} s, not {truth}");
    let truth = seconds_between(late.begun_ns(), untold);
    let said = lasted(&mut agent, late.pid());
    assert!((said - truth).abs() < 0.5, "{said} s, not {truth}");
    for waiter in [&early, &late] {
        assert_eq!(agent.events_of(waiter.pid()), ["stall_opened", "stall_closed"]);
    }
    let lost = |all: &[tests::Sample]| {
        all.iter().any(|s| s.is("tracer_lost_events_total", &[("reason", "ring_full")]) && s.value >= 1000.0)
    };
    agent.wait_scrape(PATIENCE, lost);
    assert_eq!(agent.get("/-/healthy").map(|(status, _)| status), Some(200));
}
