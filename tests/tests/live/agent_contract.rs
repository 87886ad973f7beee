//! Is `/metrics` whole from the first scrape, with the labels the design lists, and safe whatever a process is called?

use std::collections::BTreeSet;
use std::time::Duration;

use tests::{Agent, Waiter, shared};

const PATIENCE: Duration = Duration::from_secs(10);

/// Every metric of the design with its type and labels.
const METRICS: &[(&str, &str, &[&str])] = &[
    (
        "tracer_stall_seconds",
        "gauge",
        &[
            "pid",
            "tid",
            "comm",
            "unit",
            "namespace",
            "pod",
            "container",
            "syscall",
            "fd",
            "class",
            "local",
            "remote",
        ],
    ),
    ("tracer_open_stalls", "gauge", &["class"]),
    ("tracer_stalls_total", "counter", &["class"]),
    ("tracer_waiting_threads", "gauge", &["class"]),
    ("tracer_wait_duration_seconds", "histogram", &["comm", "syscall", "kind"]),
    ("tracer_blocked_seconds_total", "counter", &["pid", "comm", "syscall", "kind"]),
    ("tracer_lost_events_total", "counter", &["reason"]),
    ("tracer_dropped_series_total", "counter", &["reason"]),
    ("tracer_snapshot_duration_seconds", "histogram", &["source"]),
    ("tracer_probe_up", "gauge", &["probe", "mechanism"]),
    ("tracer_build_info", "gauge", &[]),
];

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
    });
    let page = agent.page();
    for (name, kind, labels) in METRICS {
        assert!(page.contains(&format!("# TYPE {name} {kind}\n")), "no {kind} {name}:\n{page}");
        let first = if *kind == "histogram" { format!("{name}_count") } else { (*name).to_owned() };
        let sample = samples.iter().find(|s| s.name == first);
        let sample = sample.unwrap_or_else(|| panic!("{name} has no series"));
        let has: BTreeSet<&str> = sample.labels.keys().map(String::as_str).collect();
        let missing: Vec<_> = labels.iter().filter(|label| !has.contains(**label)).collect();
        assert!(missing.is_empty(), "{name} lacks the labels {missing:?}: {sample:?}");
    }
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
