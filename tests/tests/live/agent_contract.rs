//! Is `/metrics` whole from the first scrape, with the labels the design lists, and safe whatever a process is called?

use std::collections::BTreeSet;
use std::time::Duration;

use tests::{Agent, Waiter, shared};

const PATIENCE: Duration = Duration::from_secs(10);

/// The table that the agent's own is written to, and held against: name, type, labels of each metric.
fn metrics() -> Vec<(&'static str, &'static str, BTreeSet<&'static str>)> {
    let table = include_str!("../../../docs/METRICS.md").lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `tracer_")?.split('|').map(str::trim);
        let name = &line[3..line[3..].find('`')? + 3];
        cells.next();
        Some((name, cells.next()?, cells.next()?.split_whitespace().collect()))
    });
    table.collect()
}

#[test]
fn every_metric_has_its_type_and_labels() {
    let _shared = shared();
    let agent = Agent::start(&["--threshold", "2s"]);
    let mut waiter = Waiter::start("many-short-waits");
    waiter.command("go");
    waiter.next_line();
    let stalled = Waiter::start("recvfrom-tcp4");
    let pid = stalled.pid().to_string();
    let samples = agent.wait_scrape(PATIENCE, |all| {
        all.iter().any(|s| s.is("tracer_stall_seconds", &[("pid", &pid)]))
            && all.iter().any(|s| s.name == "tracer_wait_duration_seconds_count")
            && all.iter().any(|s| s.name == "tracer_incoming_requests")
    });
    let page = agent.page();
    let metrics = metrics();
    assert_eq!(metrics.len(), 25, "{metrics:?}");
    // One takes a minute, and one has to be asked for: both are in tests of their own.
    let others = ["tracer_unclosed_connections", "tracer_response_seconds"];
    for (name, kind, labels) in metrics.iter().filter(|(name, ..)| !others.contains(name)) {
        assert!(page.contains(&format!("# TYPE {name} {kind}\n")), "no {kind} {name}:\n{page}");
        let of_it = |sample: &&tests::Sample| match *kind {
            "histogram" => sample.name.rsplit_once('_').is_some_and(|(family, _)| family == *name),
            _ => sample.name == *name,
        };
        let series: Vec<_> = samples.iter().filter(of_it).collect();
        assert!(!series.is_empty(), "{name} has no series");
        for sample in series {
            let has: BTreeSet<&str> =
                sample.labels.keys().map(String::as_str).filter(|l| *l != "le").collect();
            assert_eq!(has, *labels, "{sample:?}");
        }
    }
    let declared: BTreeSet<&str> = metrics.iter().map(|(name, ..)| *name).collect();
    let shown: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let others: Vec<_> = shown.difference(&declared).filter(|name| !name.starts_with("process_")).collect();
    assert!(others.is_empty(), "{others:?} are in no table");
}

/// A counter that appears with its first increment hides that increment from `rate()` and `increase()`.
#[test]
fn counters_of_loss_are_there_before_the_first_loss() {
    let _shared = shared();
    let agent = Agent::start(&[]);
    let samples = agent.scrape();
    for name in ["tracer_lost_events_total", "tracer_dropped_series_total"] {
        assert!(samples.iter().any(|s| s.name == name), "{name} has no series on a fresh agent");
    }
}

/// Newlines, escapes and bytes that are no UTF-8 in a name: one sample, one JSON line, no raw control byte.
#[test]
fn a_hostile_name_breaks_neither_metrics_nor_events() {
    let _shared = shared();
    let mut agent = Agent::start(&["--threshold", "1s"]);
    let waiter = Waiter::start("evil-tcp");
    let pid = waiter.pid().to_string();
    let (event, _) = agent.wait_stall("stall_opened", waiter.pid(), PATIENCE);
    assert!(event["wait"]["comm"].as_str().is_some_and(|comm| comm.starts_with("a\nb")), "{event:#}");
    // `wait_scrape` panics on a line that is no sample.
    let samples =
        agent.wait_scrape(PATIENCE, |all| all.iter().any(|s| s.is("tracer_stall_seconds", &[("pid", &pid)])));
    let names: BTreeSet<&str> =
        samples.iter().filter(|s| s.label("pid") == pid).map(|s| s.label("comm")).collect();
    assert_eq!(names.len(), 1, "one process, one name: {names:?}");
}
