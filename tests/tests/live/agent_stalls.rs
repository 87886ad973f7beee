//! Does the agent report a stall soon, once, while it lasts, and say how it ended?

use std::time::Duration;

use serde_json::Value;
use tests::{Agent, Waiter, age_tolerance, parse_rfc3339_ns, seconds_between, shared, slow, unused_id};

/// Threshold, as far apart as looks are at most where there is much to look at, and the design's 100 ms.
fn soon() -> f64 {
    2.0 + slow(Duration::from_millis(3_100)).as_secs_f64()
}

const PATIENCE: Duration = Duration::from_secs(10);

fn stall_seconds(event: &Value) -> f64 {
    event["stall_seconds"].as_f64().unwrap_or_else(|| panic!("no stall_seconds: {event:#}"))
}

/// Waits for the stall of a fresh waiter; checks when it came and what it says.
fn opened(agent: &mut Agent, waiter: &Waiter, class: &str) {
    let (event, arrived) = agent.wait_stall("stall_opened", waiter.pid(), PATIENCE);
    let after = seconds_between(waiter.begun_ns(), arrived);
    assert!((1.9..=soon()).contains(&after), "reported {after:.3} s after the wait began: {event:#}");
    assert!(event["ended"].is_null(), "{event:#}");
    let wait = &event["wait"];
    assert_eq!(wait["tid"], waiter.tid(), "{event:#}");
    assert_eq!(wait["syscall"], waiter.line()["syscall"], "{event:#}");
    assert_eq!(wait["fd"], waiter.line()["fd"], "{event:#}");
    assert_eq!(wait["class"], class, "{event:#}");
    assert!(stall_seconds(&event) >= 1.9 && stall_seconds(&event) <= after + age_tolerance(), "{event:#}");
}

#[test]
fn a_stall_that_resumes() {
    resumes(&[]);
}

/// Where context switches cannot tell that a wait has ended.
#[test]
fn a_stall_that_resumes_by_calls() {
    if tests::doctor()["trace"] == serde_json::json!(["waits"]) {
        return tests::unsupported("it does not tell programs the running thread");
    }
    resumes(&["--probes", "calls"]);
}

/// By probes on the calls: how long each process was blocked in read, recvfrom and connect, and on which connection.
#[test]
fn read_recvfrom_and_connect_by_calls() {
    if tests::doctor()["trace"] == serde_json::json!(["waits"]) {
        return tests::unsupported("it does not tell programs the running thread");
    }
    let _shared = shared();
    let mut agent = Agent::start(&["--probes", "calls", "--threshold", "2s"]);
    // Series are shared between users, and other tests start more of root's processes than there are series.
    let user = unused_id();
    for (role, syscall) in
        [("read-tcp4", "read"), ("recvfrom-tcp4", "recvfrom"), ("connect-backlog", "connect")]
    {
        let mut waiter = Waiter::start_as(user, role, &[]);
        let pid = waiter.pid().to_string();
        let (event, _) = agent.wait_stall("stall_opened", waiter.pid(), PATIENCE);
        let wait = &event["wait"];
        let told = [&wait["syscall"], &wait["target"]["local"], &wait["target"]["remote"]];
        assert_eq!(told, [syscall, waiter.text("local"), waiter.text("remote")], "{event:#}");
        let truth = seconds_between(waiter.begun_ns(), waiter.answer());
        let labels = [("pid", &*pid), ("comm", "waiter"), ("syscall", syscall), ("kind", "tcp")];
        let blocked = |all: &[tests::Sample]| -> f64 {
            let of_it = all.iter().filter(|s| s.is("tracer_blocked_seconds_total", &labels));
            of_it.map(|s| s.value).sum()
        };
        // No less once it is over, and no more two intervals later.
        agent.wait_scrape(PATIENCE, |all| blocked(all) >= truth - age_tolerance());
        tests::pause(Duration::from_millis(2_500));
        let counted = blocked(&agent.scrape());
        assert!((counted - truth).abs() <= age_tolerance(), "{syscall}: {truth:.3} s, counted {counted:.3}");
    }
}

fn resumes(args: &[&str]) {
    let _shared = shared();
    let mut agent = Agent::start(&[&["--threshold", "2s"], args].concat());
    let mut waiter = Waiter::start("recvfrom-tcp4");
    opened(&mut agent, &waiter, "reply");

    let pid = waiter.pid().to_string();
    let fd = waiter.number("fd").to_string();
    let labels = [
        ("pid", &*pid),
        ("tid", &pid),
        ("comm", "waiter"),
        ("syscall", "recvfrom"),
        ("fd", &fd),
        ("class", "reply"),
        ("local", waiter.text("local")),
        ("remote", waiter.text("remote")),
    ];
    let samples =
        agent.wait_scrape(PATIENCE, |all| all.iter().any(|s| s.is("tracer_stall_seconds", &labels)));
    let series: Vec<_> = samples.iter().filter(|s| s.is("tracer_stall_seconds", &[("pid", &pid)])).collect();
    assert_eq!(series.len(), 1, "{series:#?}");
    let off = waiter.age() - series[0].value;
    assert!(
        (-age_tolerance()..=slow(Duration::from_millis(3_500)).as_secs_f64()).contains(&off),
        "the series is {off:+.3} s behind: {series:#?}"
    );
    let open = samples.iter().find(|s| s.is("tracer_open_stalls", &[("class", "reply")]));
    assert!(open.is_some_and(|s| s.value >= 1.0), "{open:?}");
    let total = samples.iter().find(|s| s.is("tracer_stalls_total", &[("class", "reply")]));
    assert!(total.is_some_and(|s| s.value >= 1.0), "{total:?}");

    // Three more intervals and no second word.
    waiter.until_age(7.0);
    assert_eq!(agent.events_of(waiter.pid()), ["stall_opened"]);

    let woke = waiter.answer();
    let truth = seconds_between(waiter.begun_ns(), woke);
    let (event, _) = agent.wait_stall("stall_closed", waiter.pid(), PATIENCE);
    assert_eq!(event["ended"], "resumed", "{event:#}");
    let off = stall_seconds(&event) - truth;
    assert!(
        off.abs() <= age_tolerance(),
        "the stall lasted {truth:.3} s, the event is off by {off:+.3} s: {event:#}"
    );
    let gone = |all: &[tests::Sample]| !all.iter().any(|s| s.is("tracer_stall_seconds", &[("pid", &pid)]));
    agent.wait_scrape(Duration::from_millis(3_500), gone);
    assert_eq!(agent.events_of(waiter.pid()), ["stall_opened", "stall_closed"]);
}

#[test]
fn a_stall_whose_process_is_killed() {
    let _shared = shared();
    let mut agent = Agent::start(&["--threshold", "2s"]);
    let mut waiter = Waiter::start("read-tcp4");
    opened(&mut agent, &waiter, "reply");
    let killed = waiter.kill();
    let truth = seconds_between(waiter.begun_ns(), killed);
    let (event, arrived) = agent.wait_stall("stall_closed", waiter.pid(), PATIENCE);
    assert_eq!(event["ended"], "exited", "{event:#}");
    let late = seconds_between(killed, arrived);
    assert!(
        late <= slow(Duration::from_millis(3_600)).as_secs_f64(),
        "reported {late:.3} s after the kill: {event:#}"
    );
    // Nothing says when a killed process's wait ended but the interval it was missing in.
    let off = stall_seconds(&event) - truth;
    assert!(
        off.abs() <= slow(Duration::from_millis(3_200)).as_secs_f64(),
        "the stall lasted {truth:.3} s, off by {off:+.3} s: {event:#}"
    );
    let pid = waiter.pid().to_string();
    let gone = |all: &[tests::Sample]| !all.iter().any(|s| s.is("tracer_stall_seconds", &[("pid", &pid)]));
    agent.wait_scrape(Duration::from_millis(3_500), gone);
}

/// A wait without a descriptor stalls like any other; its event says which file.
#[test]
fn a_lock_stall() {
    let _shared = shared();
    let mut agent = Agent::start(&["--threshold", "2s"]);
    let mut waiter = Waiter::start("flock");
    opened(&mut agent, &waiter, "lock");
    let woke = waiter.answer();
    let (event, _) = agent.wait_stall("stall_closed", waiter.pid(), PATIENCE);
    assert_eq!(event["ended"], "resumed", "{event:#}");
    // It has been there from the first moment, and no connection knows better.
    assert_eq!(event["wait"]["age_exact"], true, "{event:#}");
    let off = stall_seconds(&event) - seconds_between(waiter.begun_ns(), woke);
    assert!(off.abs() <= age_tolerance(), "off by {off:+.3} s: {event:#}");
}

/// How healthy programs rest is never flagged.
#[test]
fn idle_waits_are_no_stalls() {
    let _shared = shared();
    let mut agent = Agent::start(&["--threshold", "2s"]);
    let idle = ["accept", "nanosleep", "wait4", "epoll", "recvfrom-udp", "futex"].map(Waiter::start);
    idle[5].until_age(4.5);
    for waiter in &idle {
        assert_eq!(agent.events_of(waiter.pid()), [""; 0], "{}", waiter.line());
    }
}

/// A wait that was there before the agent is flagged too, with its true length.
#[test]
fn a_stall_older_than_the_agent() {
    let _shared = shared();
    let waiter = Waiter::start("recvfrom-tcp6");
    waiter.until_age(4.0);
    let mut agent = Agent::start(&["--threshold", "2s"]);
    let (event, arrived) = agent.wait_stall("stall_opened", waiter.pid(), PATIENCE);
    let truth = seconds_between(waiter.begun_ns(), arrived);
    assert_eq!(event["wait"]["age_exact"], false, "{event:#}");
    let off = stall_seconds(&event) - truth;
    let least = -slow(Duration::from_millis(500)).as_secs_f64();
    assert!((least..=age_tolerance()).contains(&off), "off by {off:+.3} s: {event:#}");
    // However long the event took to come, when the wait began is right.
    let since = parse_rfc3339_ns(event["wait"]["since"].as_str().expect("since"));
    let off = seconds_between(waiter.begun_ns(), since);
    assert!(off.abs() <= age_tolerance(), "since is off by {off:+.3} s: {event:#}");
}
