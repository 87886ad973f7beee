//! Are ended waits counted exactly, with their true length, by socket?

use std::time::Duration;

use tests::{Agent, Waiter, map_holds, pause, shared, slow, slowness};

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn fifty_waits_of_20_ms() {
    let _shared = shared();
    let agent = Agent::start(&[]);
    let mut waiter = Waiter::start("many-short-waits");
    waiter.command("go");
    let done = waiter.next_line();
    let truth = std::time::Duration::from_nanos(done["total_ns"].as_u64().expect("total_ns")).as_secs_f64();
    let comm = waiter.text("comm").to_owned();
    let labels = [("comm", &*comm), ("syscall", "recvfrom"), ("kind", "tcp")];
    let count = "tracer_wait_duration_seconds_count";
    // Of the host's waits those whose end this machine has hidden; hardly more than two are of these.
    let unseen = |all: &[tests::Sample]| -> f64 {
        let mut hidden = all.iter().filter(|s| s.is("tracer_lost_events_total", &[("reason", "end_unseen")]));
        hidden.next().map_or(0.0, |s| s.value.min(2.0))
    };
    let is_all =
        |all: &[tests::Sample]| all.iter().any(|s| s.is(count, &labels) && s.value + unseen(all) >= 50.0);
    agent.wait_scrape(PATIENCE, is_all);
    // And no more than fifty, whatever comes late.
    pause(Duration::from_millis(1_500));
    let value = |name: &str, more: &[(&str, &str)]| -> f64 {
        let labels: Vec<(&str, &str)> = labels.iter().chain(more).copied().collect();
        agent.samples(name, &labels).iter().map(|s| s.value).sum()
    };
    let counted = value(count, &[]);
    assert!((50.0 - unseen(&agent.scrape())..=50.0).contains(&counted), "{counted}");
    assert_eq!(value("tracer_wait_duration_seconds_bucket", &[("le", "+Inf")]), counted);
    let sum = value("tracer_wait_duration_seconds_sum", &[]);
    // The truth has the time from the wait's end until the thread runs, which in an emulated machine is long.
    let tolerance = 0.05 * f64::from(slowness().min(4));
    assert!(
        (sum / counted / (truth / 50.0) - 1.0).abs() <= tolerance,
        "the waits took {truth:.4} s, the histogram says {sum:.4}"
    );
}

/// The tuple is in the key of a kernel map: whose wait it was is never guessed afterwards.
#[test]
fn the_key_holds_the_tuple() {
    let _shared = shared();
    let agent = Agent::start(&[]);
    let mut waiter = Waiter::start("many-short-waits");
    let port = |name: &str| -> u16 {
        waiter.text(name).rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
    };
    let (local, remote) = (port("local"), port("remote"));
    let has = |key: &[u8], part: &[u8]| key.windows(part.len()).any(|window| window == part);
    let has_port = |key: &[u8], port: u16| has(key, &port.to_be_bytes()) || has(key, &port.to_le_bytes());
    let is_it = |key: &[u8]| has(key, &[127, 0, 0, 1]) && has_port(key, local) && has_port(key, remote);
    waiter.command("go");
    // The agent may empty the map as it reads it: look while the waits go on, a second in all.
    let begin = std::time::Instant::now();
    while !map_holds(agent.pid(), is_it) {
        assert!(
            begin.elapsed() < slow(PATIENCE),
            "no map of the agent has a key with ports {local} and {remote}"
        );
        if begin.elapsed() > Duration::from_millis(900) {
            waiter.command("go");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
