//! Are many stalls all announced, and their series bounded?

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tests::{Agent, Waiter, alone};

const THREADS: usize = 300;
/// Series of open stalls at most.
const SERIES: usize = 200;
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
