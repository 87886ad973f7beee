//! Is a stall neither closed nor opened again when its process is stopped for a while?

use std::process::Command;
use std::time::{Duration, Instant};

use tests::{Agent, Running, Traced, Waiter, age_tolerance, alone, seconds_between, shared, slow, start};

#[test]
fn a_stop_suspends_a_stall() {
    let _shared = shared();
    let mut agent = Agent::start(&["--threshold", "2s"]);
    let mut waiter = Waiter::start("recvfrom-tcp4");
    agent.wait_stall("stall_opened", waiter.pid(), Duration::from_secs(10));
    waiter.stop();
    std::thread::sleep(Duration::from_secs(3));
    waiter.go_on();
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(agent.events_of(waiter.pid()), ["stall_opened"]);

    ends_as_one(&mut agent, &mut waiter);
}

/// The wait ends, of which there were three seconds in which it could not: they were part of one stall.
pub(crate) fn ends_as_one(agent: &mut Agent, waiter: &mut Waiter) {
    let woke = waiter.answer();
    let truth = seconds_between(waiter.begun_ns(), woke);
    let (event, _) = agent.wait_stall("stall_closed", waiter.pid(), Duration::from_secs(10));
    assert_eq!(event["ended"], "resumed", "{event:#}");
    let lasted = event["stall_seconds"].as_f64().expect("stall_seconds");
    // Those seconds may count or not; those before them do.
    assert!((truth - 3.5..=truth + age_tolerance()).contains(&lasted), "{truth:.3} s: {event:#}");
    assert_eq!(agent.events_of(waiter.pid()), ["stall_opened", "stall_closed"]);
}

/// Each continue has the call begun anew, and for a moment the thread is awake: that is no progress either. So many looks at it
/// that some fall into such a moment.
#[test]
fn many_short_stops_are_one_stall() {
    let _alone = alone();
    // Somebody else has the processors, so that the thread stays awake, without one, for milliseconds.
    let _busy: Vec<Running> = (0..3).map(|_| busy()).collect();
    let mut agent = Agent::start(&["--threshold", "1s", "--interval", "100ms"]);
    let waiter = Waiter::start("recvfrom-tcp4");
    agent.wait_stall("stall_opened", waiter.pid(), Duration::from_secs(20));
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(4) {
        waiter.stop();
        std::thread::sleep(slow(Duration::from_millis(7)));
        waiter.go_on();
        std::thread::sleep(slow(Duration::from_millis(7)));
    }
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(agent.events_of(waiter.pid()), ["stall_opened"]);
}

/// As strace does it: the thread is stopped for a moment, and then its call begins anew.
#[test]
fn a_debugger_that_came_and_went_leaves_one_stall() {
    let _shared = shared();
    let mut agent = Agent::start(&["--threshold", "1s"]);
    let waiter = Waiter::start("recvfrom-tcp4");
    agent.wait_stall("stall_opened", waiter.pid(), Duration::from_secs(10));
    for _ in 0..3 {
        let traced = Traced::begin(waiter.pid());
        std::thread::sleep(Duration::from_millis(1200));
        drop(traced);
        std::thread::sleep(Duration::from_millis(1200));
    }
    assert_eq!(agent.events_of(waiter.pid()), ["stall_opened"]);
}

/// A process that never sleeps.
fn busy() -> Running {
    let mut command = Command::new("sh");
    command.args(["-c", "while :; do :; done"]);
    start(command)
}
