//! Is a stall neither closed nor opened again when its process is stopped for a while?

use std::time::Duration;

use tests::{Agent, Waiter, seconds_between, shared};

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

    let woke = waiter.answer();
    let truth = seconds_between(waiter.begun_ns(), woke);
    let (event, _) = agent.wait_stall("stall_closed", waiter.pid(), Duration::from_secs(10));
    assert_eq!(event["ended"], "resumed", "{event:#}");
    let lasted = event["stall_seconds"].as_f64().expect("stall_seconds");
    // The three stopped seconds may count or not; those before the stop do.
    assert!((truth - 3.5..=truth + 0.2).contains(&lasted), "{truth:.3} s: {event:#}");
    assert_eq!(agent.events_of(waiter.pid()), ["stall_opened", "stall_closed"]);
}
