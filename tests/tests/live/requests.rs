//! Are requests of event loops shown, each with its connection, and flagged where an answer is due, and none that a thread waits for?

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{
    Agent, Waiter, age_tolerance, own_dir, parse_rfc3339_ns, pause, ps, seconds_between, shared, slow,
    slowness, tracer,
};

/// A pass over all sockets each five seconds, and a slow machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Lines of the requests below the table of `ps --all`, as words: age, pid, command, fd, number, connection.
fn listed(pid: u32) -> Vec<Vec<String>> {
    let output = Command::new(tracer())
        .args(["ps", "--all", "--min-age", "0s", "-p", &pid.to_string()])
        .output()
        .expect("tracer starts");
    let page = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{page}{}", String::from_utf8_lossy(&output.stderr));
    let Some((_, block)) = page.split_once("\nRequests without an answer") else { return Vec::new() };
    let lines = block.lines().skip(2).take_while(|line| !line.is_empty());
    lines.map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

/// Rows of `ps` about requests of a process.
fn rows(pid: u32) -> Vec<Value> {
    let rows = ps(&["--all", "-p", &pid.to_string()]).rows;
    rows.into_iter().filter(|row| row["syscall"] == "request").collect()
}

/// Gauge of open requests by whether an answer is due.
fn open(agent: &Agent, answer: &str) -> f64 {
    agent.samples("tracer_open_requests", &[("answer", answer)])[0].value
}

#[test]
fn of_an_event_loop_are_shown_each_with_its_connection() {
    let waiter = Waiter::start("event-loop");
    waiter.until_age(1.5);
    let rows = rows(waiter.pid());
    assert_eq!(rows.len(), 2, "{rows:#?}");
    for row in &rows {
        assert_eq!(
            (&row["class"], &row["level"], &row["tid"]),
            (&"reply".into(), &"stuck".into(), &0.into())
        );
        assert_eq!(row["comm"], "waiter", "{row:#}");
        let since = parse_rfc3339_ns(row["since"].as_str().expect("a time"));
        let off = seconds_between(waiter.begun_ns(), since);
        assert!(off.abs() <= age_tolerance(), "off by {off:+.3} s: {row:#}");
        let said = row["verdict"].as_str().expect("a sentence");
        assert!(
            said.contains("for a reply from 127.0.0.1:") && said.contains("nothing was ever received"),
            "{said}"
        );
    }
    assert!(listed(waiter.pid()).is_empty(), "they are in the table");
}

/// What follows an answer at once may be the protocol's own acknowledgement: it is listed, and not called stuck.
#[test]
fn one_that_followed_an_answer_at_once_is_listed() {
    let waiter = Waiter::start("requests");
    waiter.until_age(1.5);
    let lines = listed(waiter.pid());
    let before = lines.iter().find(|line| line.last().is_some_and(|remote| remote == waiter.text("before")));
    let line = before.unwrap_or_else(|| panic!("{lines:?}"));
    let [age, pid, comm, _, number, kind, _, arrow, remote] = &line[..] else { panic!("{line:?}") };
    let seconds: f64 = age.strip_suffix('s').and_then(|age| age.parse().ok()).expect("seconds");
    assert!((1.0..60.0).contains(&seconds), "{line:?}");
    assert_eq!((pid, comm.as_str(), number.as_str()), (&waiter.pid().to_string(), "waiter", "1"));
    assert_eq!((kind.as_str(), arrow.as_str(), remote.as_str()), ("tcp", "→", waiter.text("before")));
    assert_eq!(lines.len(), 2, "and the one that nobody watches: {lines:?}");
    assert_eq!(rows(waiter.pid()).len(), 2, "what is due is in the table");
}

/// Its wait is shown already.
#[test]
fn that_a_thread_waits_for_are_not_shown_twice() {
    for role in ["recvfrom-tcp4", "poll-tcp4", "epoll-client"] {
        let waiter = Waiter::start(role);
        waiter.until_age(1.5);
        let (rows, listed) = (rows(waiter.pid()), listed(waiter.pid()));
        assert!(rows.is_empty() && listed.is_empty(), "{role}: {rows:#?} {listed:?}");
    }
}

/// One that was never answered is flagged once, and closed when the answer comes. What a program says into silence again and again
/// expects no answer.
#[test]
fn one_is_flagged_where_an_answer_is_due() {
    let _shared = shared();
    let mut waiter = Waiter::start("requests");
    waiter.until_age(1.5);
    let threshold = threshold().as_secs_f64();
    let mut agent = Agent::start(&["--threshold", &format!("{threshold}s")]);
    // The logger's first message must have been seen, or its second one looks like a request.
    agent.wait_scrape(PATIENCE, |page| {
        let due = page.iter().find(|of| of.is("tracer_open_requests", &[("answer", "yes")]));
        due.is_some_and(|due| due.value >= 2.0)
    });
    waiter.until_age(3.0);
    waiter.command("log");
    let logged: i128 = waiter.next_line()["realtime_ns"].as_i64().expect("a moment").into();
    let (event, arrived) = agent.wait_stall("stall_opened", waiter.pid(), PATIENCE);
    let wait = &event["wait"];
    let told = [&wait["tid"], &wait["syscall"], &wait["class"], &wait["fd"], &wait["target"]["remote"]];
    let truth =
        [&Value::from(0), &"request".into(), &"reply".into(), &waiter.line()["fd"], &waiter.line()["remote"]];
    assert_eq!(told, truth, "{event:#}");
    let after = seconds_between(waiter.begun_ns(), arrived);
    let late = late();
    let expected = threshold - 0.1..=threshold + late;
    assert!(expected.contains(&after), "flagged after {after:.3} s: {event:#}");

    let since = seconds_between(logged, tests::realtime_ns());
    std::thread::sleep(Duration::from_secs_f64((threshold + 2.0 - since).max(0.0)));
    assert_eq!(agent.events_of(waiter.pid()), ["stall_opened"], "the logger's, or the one answered before");
    assert!(open(&agent, "yes") >= 1.0 && open(&agent, "unknown") >= 1.0 && open(&agent, "no") >= 1.0);

    let answered = waiter.answer();
    let (event, _) = agent.wait_stall("stall_closed", waiter.pid(), PATIENCE);
    assert_eq!(event["ended"], "resumed", "{event:#}");
    let lasted = event["stall_seconds"].as_f64().expect("a number");
    let off = lasted - seconds_between(waiter.begun_ns(), answered);
    assert!(off.abs() <= late, "off by {off:+.3} s: {event:#}");
}

/// A pool whose connections were answered before: what is asked on its own is due at once; what follows an answer at once is, when it has
/// been seen how such connections rest.
#[test]
fn one_is_flagged_on_a_connection_that_was_answered_before() {
    let _shared = shared();
    let mut pool = Waiter::start("pool");
    let mut other = Waiter::start("pool");
    let state_dir = own_dir().join("manners");
    let path = state_dir.to_str().expect("UTF-8");
    let threshold = threshold().as_secs_f64();
    let mut agent = Agent::start(&["--threshold", &format!("{threshold}s"), "--state-dir", path]);
    let tell = |pool: &mut Waiter, command| -> i128 {
        pool.command(command);
        pool.next_line()["realtime_ns"].as_i64().expect("a moment").into()
    };
    // Nothing is known of it yet.
    tell(&mut other, "at-once");
    pause(Duration::from_secs(1));
    let asked = tell(&mut pool, "ask");
    let (event, arrived) = agent.wait_stall("stall_opened", pool.pid(), PATIENCE);
    let wait = &event["wait"];
    assert_eq!(
        (&wait["syscall"], &wait["class"], &wait["fd"]),
        (&"request".into(), &"reply".into(), &pool.line()["fd"])
    );
    let after = seconds_between(asked, arrived);
    let late = late();
    let expected = threshold - 0.1..=threshold + late;
    assert!(expected.contains(&after), "flagged after {after:.3} s: {event:#}");
    let answered = tell(&mut pool, "answer");
    let (event, _) = agent.wait_stall("stall_closed", pool.pid(), PATIENCE);
    let off = event["stall_seconds"].as_f64().expect("a number") - seconds_between(asked, answered);
    assert!(off.abs() <= late, "off by {off:+.3} s: {event:#}");
    // A slow machine reacts so late that it looks like a question.
    if slowness() == 1 {
        assert_eq!(agent.events_of(other.pid()), Vec::<String>::new(), "it may be at rest");
    }

    // Several passes see how the connections rest.
    let until = Instant::now() + slow(Duration::from_secs(60));
    while Instant::now() < until && rested(&state_dir) < 8 {
        tell(&mut pool, "exchange");
        pause(Duration::from_secs(5));
    }
    tell(&mut pool, "at-once");
    let at_once = pool.line()["at_once"].as_array().expect("two fds");
    for fd in at_once {
        let is_it = |event: &Value| event["wait"]["pid"] == pool.pid() && event["wait"]["fd"] == *fd;
        agent.wait_event(PATIENCE, is_it);
    }
}

/// Long enough that an agent has begun by then, and has seen all sockets twice: either takes long on a slow machine.
fn threshold() -> Duration {
    slow(Duration::from_secs(6))
}

/// How much later than that a request may be flagged, seconds: as far apart as looks are at most.
fn late() -> f64 {
    slow(Duration::from_millis(3_500)).as_secs_f64()
}

/// How many connections an agent has seen at rest, of the service that it knows best.
fn rested(state_dir: &Path) -> u64 {
    let kept = std::fs::read(state_dir.join("state.json")).unwrap_or_default();
    let kept: Value = serde_json::from_slice(&kept).unwrap_or_default();
    let all = kept["manners"].as_array().into_iter().flatten();
    all.filter_map(|service| service[1]["rested"].as_u64()).max().unwrap_or(0)
}
