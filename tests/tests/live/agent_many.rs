//! Are many stalls all announced, and their series bounded?

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tests::{Agent, Waiter, alone};

const THREADS: usize = 300;
/// Series of open stalls at most.
const SERIES: usize = 200;
/// Of a family with labels of processes, the one for the rest among them.
const SERIES_OF_A_FAMILY: usize = 1000;
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn three_hundred_stalls_have_two_hundred_series() {
    let _alone = alone();
    let mut agent = Agent::start(&["--threshold", "2s"]);
    let mut waiter = Waiter::start_with("threads", &[&THREADS.to_string()]);
    let (pid, number) = (waiter.pid().to_string(), waiter.pid());
    let open = |all: &[tests::Sample]| {
        all.iter().filter(|s| s.is("tracer_open_stalls", &[("class", "reply")])).map(|s| s.value).sum::<f64>()
    };
    let samples = agent.wait_scrape(PATIENCE, |all| open(all) >= THREADS as f64);
    let series = samples.iter().filter(|s| s.name == "tracer_stall_seconds").count();
    assert_eq!(series, SERIES);
    // They come through a pipe, one by one.
    let begin = Instant::now();
    let mut events = agent.events_of(number);
    while events.len() < THREADS && begin.elapsed() < PATIENCE {
        events = agent.events_of(number);
    }
    assert_eq!((events.len(), events.iter().all(|event| event == "stall_opened")), (THREADS, true));
    let total = samples.iter().find(|s| s.is("tracer_stalls_total", &[("class", "reply")]));
    assert!(total.is_some_and(|s| s.value >= THREADS as f64), "{total:?}");

    waiter.kill();
    let mut closed = BTreeSet::new();
    for _ in 0..THREADS {
        let (event, _) = agent.wait_event(PATIENCE, |event| {
            event["event"] == "stall_closed"
                && event["wait"]["pid"] == number
                && event["wait"]["tid"].as_u64().is_some_and(|tid| !closed.contains(&tid))
        });
        assert_eq!(event["ended"], "exited", "{event:#}");
        closed.insert(event["wait"]["tid"].as_u64().expect("a tid"));
    }
    let gone = |all: &[tests::Sample]| !all.iter().any(|s| s.is("tracer_stall_seconds", &[("pid", &pid)]));
    agent.wait_scrape(Duration::from_millis(1_500), gone);
    let events = agent.events_of(number);
    assert_eq!(events.len(), 2 * THREADS, "each opened once and closed once");
}

/// Processor time that an agent has used.
fn cpu_seconds(agent: &Agent) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", agent.pid())).expect("an agent");
    // Behind the name: the 12th and 13th are ticks in user space and in the kernel, of which there are a hundred a second.
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("a name").split(' ').collect();
    let ticks: f64 = fields[11..13].iter().map(|ticks| ticks.parse::<f64>().expect("a number")).sum();
    ticks / 100.0
}

/// To look at each one's connection again must not take a walk over all threads of the host.
#[test]
fn thousands_of_requests_of_one_process_are_flagged_and_cost_little() {
    const REQUESTS: usize = 8000;
    const SECONDS: u64 = 5;
    let _alone = alone();
    let agent = Agent::start(&["--threshold", "2s"]);
    let _waiter = Waiter::start_with("asking-threads", &[&REQUESTS.to_string()]);
    agent.wait_scrape(Duration::from_secs(120), |all| {
        let open = all.iter().filter(|s| s.is("tracer_open_stalls", &[("class", "reply")]));
        open.map(|s| s.value).sum::<f64>() >= REQUESTS as f64
    });
    let before = cpu_seconds(&agent);
    std::thread::sleep(Duration::from_secs(SECONDS));
    let share = (cpu_seconds(&agent) - before) / SECONDS as f64;
    assert!(share < 0.25, "{:.1} % of a core", 100.0 * share);
}

/// Of as many processes as a large host has, each with a wait of its own, the page has a bounded number of series, and what
/// is folded is counted, not left out.
#[test]
fn five_thousand_processes_have_a_thousand_series() {
    const PROCESSES: usize = 5000;
    let _alone = alone();
    let agent = Agent::start(&[]);
    let waiter = Waiter::start_with("family", &[&PROCESSES.to_string()]);
    let value = |all: &[tests::Sample], name: &str, labels: &[(&str, &str)]| -> f64 {
        all.iter().filter(|s| s.is(name, labels)).map(|s| s.value).sum()
    };
    let all = agent.wait_scrape(PATIENCE, |all| {
        value(all, "tracer_waiting_threads", &[("class", "pipe")]) >= PROCESSES as f64
            && value(all, "tracer_blocked_seconds_total", &[("comm", "other")]) > 5000.0
    });
    let mut families: BTreeMap<&str, usize> = BTreeMap::new();
    for sample in &all {
        *families.entry(&sample.name).or_default() += 1;
    }
    assert_eq!(families["tracer_blocked_seconds_total"], SERIES_OF_A_FAMILY, "{families:#?}");
    // A histogram's series has a line a bucket.
    assert!(families.values().sum::<usize>() < 20 * SERIES_OF_A_FAMILY, "{families:#?}");
    let dropped = value(&all, "tracer_dropped_series_total", &[("reason", "blocked_seconds")]);
    assert!(dropped >= (PROCESSES - SERIES_OF_A_FAMILY) as f64, "{dropped}");
    drop(waiter);
}
