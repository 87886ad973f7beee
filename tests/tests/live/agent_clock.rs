//! Do ages, stalls and the history stay right when somebody sets the clock? It sets the machine's, so it runs only in a
//! machine of the matrix that is there for the clock: `cargo xtask vm slewed`.

use std::io::Error;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{
    Agent, SECOND_NS, Waiter, age_tolerance, alone, parse_rfc3339_ns, ps, realtime_ns, seconds_between,
    tracer,
};

const PATIENCE: Duration = Duration::from_secs(10);
const HOUR: i128 = 3600 * SECOND_NS;

/// Sets the realtime clock, so many nanoseconds from what it says.
fn step(ns: i128) {
    let to = realtime_ns() + ns;
    let at = libc::timespec { tv_sec: (to / SECOND_NS) as i64, tv_nsec: (to % SECOND_NS) as i64 };
    // SAFETY: `at` outlives the call.
    let result = unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const at) };
    assert_eq!(result, 0, "clock_settime: {}", Error::last_os_error());
}

/// The process's only stall, as the agent's history has it.
fn kept(agent: &Agent, pid: u32) -> Value {
    let mut command = Command::new(tracer());
    command.args(["stalls", "--json", "--since", "1h", "--socket"]).arg(agent.socket());
    let text = String::from_utf8(command.output().expect("tracer starts").stdout).expect("UTF-8");
    let all = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("an object a line"));
    let own: Vec<Value> = all.filter(|stall| stall["wait"]["pid"] == pid).collect();
    let [stall] = &own[..] else { panic!("{text}") };
    stall.clone()
}

#[test]
#[ignore = "sets the machine's clock: cargo xtask vm slewed runs it"]
fn a_clock_that_is_set_changes_no_age_and_tells_nothing_twice() {
    let _alone = alone();
    let mut agent = Agent::start(&["--threshold", "2s"]);
    let mut waiter = Waiter::start("recvfrom-tcp4");
    let (pid, begun) = (waiter.pid(), Instant::now());
    agent.wait_stall("stall_opened", pid, PATIENCE);
    // The history writes twice a second at most.
    tests::pause(Duration::from_secs(1));

    for ns in [HOUR, -2 * HOUR, HOUR] {
        step(ns);
        let truth = || begun.elapsed().as_secs_f64();
        let near = |what: &str, said: f64, since: f64| {
            let most = truth() + age_tolerance() + 1.0;
            assert!(
                (since - 2.0..=most).contains(&said),
                "{what} after {ns} ns: {said} s, not {since} to {most}"
            );
        };
        let before = truth();
        let snapshot = ps(&["-p", &pid.to_string()]);
        let row = snapshot.row(waiter.tid());
        near("ps", row["age_seconds"].as_f64().expect("a number"), before);
        // What is printed is what today's clock would have said then.
        let since = parse_rfc3339_ns(row["since"].as_str().expect("a time"));
        near("since", seconds_between(since, realtime_ns()), before);
        let before = truth();
        // These two are as old as the last look, and a slow machine looks every three seconds.
        let looked = before - 3.0;
        near("the history", kept(&agent, pid)["stall_seconds"].as_f64().expect("a number"), looked);
        let before = truth();
        let samples = agent.samples("tracer_stall_seconds", &[("pid", &pid.to_string())]);
        near("the metric", samples.first().expect("a series").value, before - 3.0);
        assert_eq!(agent.get("/-/healthy").map(|(status, _)| status), Some(200));
        // And it still watches.
        let other = Waiter::start("recvfrom-tcp4");
        agent.wait_stall("stall_opened", other.pid(), PATIENCE);
    }

    waiter.answer();
    let truth = begun.elapsed().as_secs_f64();
    let (event, _) = agent.wait_stall("stall_closed", pid, PATIENCE);
    let lasted = event["stall_seconds"].as_f64().expect("a number");
    assert!((truth - lasted).abs() < 1.0 + age_tolerance(), "{truth} s: {event:#}");
    assert_eq!(agent.events_of(pid), ["stall_opened", "stall_closed"]);
}
