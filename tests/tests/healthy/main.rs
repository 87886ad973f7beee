//! Does tracer stay silent on a healthy host? Debian's servers, running and used, with idle connections of every kind.
//!
//! Everything is started here, with configuration and data in a directory of the test's own, on free ports of loopback.
//! `TRACER_HEALTHY_SECONDS` says for how long; a minute by default.

mod fleet;
mod users;

use std::collections::HashSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{Agent, Waiter, ps};

use crate::fleet::Fleet;
use crate::users::Users;

/// A healthy server answers sooner.
const THRESHOLD: &str = "5s";

#[test]
fn nothing_is_flagged_where_nothing_is_stuck() {
    // What runs here already is not this test's to judge.
    let before = pids();
    let fleet = Fleet::start();
    let users = Users::start(&fleet);
    let mut agent = Agent::start(&["--threshold", THRESHOLD]);
    let seconds = std::env::var("TRACER_HEALTHY_SECONDS").ok();
    let length =
        Duration::from_secs(seconds.map_or(60, |seconds| seconds.parse().expect("a number of seconds")));
    let begin = Instant::now();
    while begin.elapsed() < length {
        sleep(Duration::from_secs(5).min(length.saturating_sub(begin.elapsed())));
        let stuck = |row: &&Value| row["level"] == "stuck" && !before.contains(&row["pid"].as_u64());
        let snapshot = ps(&["--min-age", "5s"]);
        let stuck: Vec<&Value> = snapshot.rows.iter().filter(stuck).collect();
        assert!(stuck.is_empty(), "ps calls stuck after {:?}: {stuck:#?}", begin.elapsed());
        users.check();
        fleet.check();
    }
    let used = users.used();
    eprintln!("used meanwhile: {used:?}");
    for (service, times) in &used {
        assert!(*times as f64 >= length.as_secs_f64(), "{service} was used {times} times in {length:?}");
    }
    let flagged = agent.all_events();
    let flagged: Vec<_> =
        flagged.iter().filter(|event| !before.contains(&event["wait"]["pid"].as_u64())).collect();
    assert!(flagged.is_empty(), "{} events in {length:?} of health: {flagged:#?}", flagged.len());

    // It was awake: what does hang is flagged, once.
    let waiter = Waiter::start("recvfrom-tcp4");
    agent.wait_stall("stall_opened", waiter.pid(), Duration::from_secs(20));
    sleep(Duration::from_secs(3));
    assert_eq!(agent.events_of(waiter.pid()), ["stall_opened"]);
}

/// All processes of this moment, as JSON has them.
fn pids() -> HashSet<Option<u64>> {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Some).collect()
}
