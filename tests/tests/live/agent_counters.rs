//! Is time blocked counted once, however the end of a wait falls between the agent's looks, and under one name?

use std::collections::BTreeMap;
use std::time::Duration;

use tests::{Agent, Running, Waiter, age_tolerance, alone, pause, seconds_between, shared, start};

const WAITERS: usize = 40;

/// Forty waits that end at forty phases of the interval. Some end after a snapshot and before the ended waits are
/// read: those must not be counted both as lasting and as ended.
#[test]
fn a_wait_is_counted_once_whenever_it_ends() {
    let _alone = alone();
    // Thousands of others, so that a look takes long enough for some end to fall into it.
    let _others = Waiter::start_with("pipes", &["5000"]);
    let agent = Agent::start(&["--interval", "100ms"]);
    let mut waiters: Vec<Waiter> = (0..WAITERS).map(|_| Waiter::start("recvfrom-tcp4")).collect();
    let _busy: Vec<Running> = (0..6).map(|_| busy()).collect();
    waiters[WAITERS - 1].until_age(3.0);
    let mut lasted = BTreeMap::new();
    for waiter in &mut waiters {
        let woke = waiter.answer();
        lasted.insert(waiter.pid().to_string(), seconds_between(waiter.begun_ns(), woke));
        std::thread::sleep(Duration::from_millis(63));
    }
    pause(Duration::from_secs(1));
    let samples = agent.scrape();
    let mut wrong = Vec::new();
    for (pid, truth) in &lasted {
        let labels = [("pid", pid.as_str()), ("syscall", "recvfrom"), ("kind", "tcp")];
        let series = samples.iter().filter(|s| s.is("tracer_blocked_seconds_total", &labels));
        let counted: f64 = series.map(|s| s.value).sum();
        if (counted - truth).abs() > age_tolerance() {
            wrong.push(format!("pid {pid}: {truth:.3} s, counted {counted:.3}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {WAITERS} waits are counted wrongly: {wrong:#?}", wrong.len());
}

/// Has its call begun anew three times.
fn interrupt(waiter: &Waiter) {
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(300));
        waiter.stop();
        std::thread::sleep(Duration::from_millis(100));
        waiter.go_on();
    }
}

/// A restarted call is named by its own name when it ends too.
#[test]
fn an_ended_restarted_call_has_its_own_name() {
    let _shared = shared();
    let agent = Agent::start(&[]);
    let mut waiter = Waiter::start("restart-poll");
    interrupt(&waiter);
    std::thread::sleep(Duration::from_millis(500));
    waiter.answer();
    let pid = waiter.pid().to_string();
    let labels = [("pid", &*pid), ("syscall", "poll")];
    agent.wait_scrape(Duration::from_secs(5), |all| {
        all.iter().any(|s| s.is("tracer_blocked_seconds_total", &labels))
    });
    // And whatever comes a look later.
    pause(Duration::from_millis(1_500));
    let series = agent.samples("tracer_blocked_seconds_total", &[("pid", &pid)]);
    assert!(series.iter().all(|s| s.label("syscall") != "restart_syscall"), "{series:#?}");
}

/// Two calls go on by the same function of the kernel; its arguments tell one from the other.
#[test]
fn a_restarted_sleep_keeps_its_name() {
    let _shared = shared();
    let agent = Agent::start(&[]);
    let waiter = Waiter::start("restart-nanosleep");
    interrupt(&waiter);
    let pid = waiter.pid().to_string();
    agent.wait_scrape(Duration::from_secs(5), |all| {
        let of_sleep = |s: &&tests::Sample| s.is("tracer_blocked_seconds_total", &[("pid", &pid)]);
        all.iter().filter(of_sleep).map(|s| s.value).sum::<f64>() > 1.0
    });
    let series = agent.samples("tracer_blocked_seconds_total", &[("pid", &pid)]);
    assert!(
        series.iter().all(|s| !["nanosleep", "restart_syscall"].contains(&s.label("syscall"))),
        "{series:#?}"
    );
}

/// A process that ends while the agent looks has a name or no series, never a series without a name.
#[test]
fn no_series_lacks_a_name() {
    // Thousands of processes fill the families: others would find theirs folded.
    let _alone = alone();
    let agent = Agent::start(&["--interval", "100ms"]);
    let _storms = [Waiter::start("storm"), Waiter::start("storm")];
    std::thread::sleep(Duration::from_secs(5));
    for name in ["tracer_blocked_seconds_total", "tracer_wait_duration_seconds_count"] {
        let nameless: Vec<_> =
            agent.samples(name, &[]).into_iter().filter(|s| s.label("comm").is_empty()).take(3).collect();
        assert!(nameless.is_empty(), "{nameless:#?}");
    }
}

/// A process that never sleeps.
fn busy() -> Running {
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "while :; do :; done"]);
    start(command)
}
