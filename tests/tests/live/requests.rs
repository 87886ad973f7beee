//! Are requests of event loops shown, each with its connection, and flagged where an answer is due, and none that a thread waits for?

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{
    Agent, Waiter, age_tolerance, own_dir, parse_rfc3339_ns, pause, ps, seconds_between, shared,
    shared_for_minutes, slow, slowness, tracer, why,
};

/// A pass over all sockets each five seconds, and a slow machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Lines of the requests below the table of `ps --all`, as words: age, pid, command, fd, number, connection.
fn listed(pid: u32) -> Vec<Vec<String>> {
    below(pid, "Requests without an answer")
}

/// Lines of those that others have sent, likewise, with how many lie unread after how many there are.
fn received(pid: u32) -> Vec<Vec<String>> {
    below(pid, "Requests received")
}

/// Lines of the block of `ps --all` that begins so.
fn below(pid: u32, title: &str) -> Vec<Vec<String>> {
    let output = Command::new(tracer())
        .args(["ps", "--all", "--min-age", "0s", "-p", &pid.to_string()])
        .output()
        .expect("tracer starts");
    let page = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{page}{}", String::from_utf8_lossy(&output.stderr));
    let Some((_, block)) = page.split_once(&format!("\n{title}")) else { return Vec::new() };
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

/// Who has been asked owes an answer until it says something, or whoever asked has gone; it is told of, and not flagged.
#[test]
fn those_that_others_have_sent_are_listed_and_counted() {
    let _shared = shared();
    let service = Waiter::start("mute-service");
    let address = service.text("address");
    let pool = Waiter::start_with("asking-pool", &[address, "3"]);
    let mut talker = TcpStream::connect(address).expect("connect");
    let greeter = Waiter::start("greeter");
    let mut greeted = TcpStream::connect(greeter.text("address")).expect("connect");
    greeted.read_exact(&mut [0; 5]).expect("a greeting");
    pool.until_age(1.5);

    let lines = received(service.pid());
    let [age, pid, comm, _, number, unread, kind, local, arrow, _] = &lines[0][..] else {
        panic!("{lines:?}")
    };
    let seconds: f64 = age.strip_suffix('s').and_then(|age| age.parse().ok()).expect("seconds");
    assert!((1.0..60.0).contains(&seconds), "{lines:?}");
    assert_eq!((pid, comm.as_str()), (&service.pid().to_string(), "waiter"));
    assert_eq!(
        (number.as_str(), unread.as_str(), lines.len()),
        ("3", "3", 1),
        "one has said nothing: {lines:?}"
    );
    assert_eq!((kind.as_str(), local.as_str(), arrow.as_str()), ("tcp", address, "←"));
    assert!(received(greeter.pid()).is_empty(), "it spoke last");

    let mut agent = Agent::start(&["--threshold", "1h"]);
    let of_service =
        |name| move |sample: &&tests::Sample| sample.is(name, &[("comm", "waiter"), ("local", address)]);
    talker.write_all(b"HELLO?").expect("write");
    greeted.write_all(b"HELLO?").expect("write");
    let page = agent.wait_scrape(PATIENCE, |page| {
        page.iter().find(of_service("tracer_incoming_requests")).is_some_and(|of| of.value == 4.0)
    });
    let oldest = page.iter().find(of_service("tracer_incoming_request_seconds")).expect("its age").value;
    let truth = seconds_between(pool.begun_ns(), tests::realtime_ns());
    assert!((oldest - truth).abs() <= 1.0 + age_tolerance(), "{oldest} of {truth}");
    let lines = received(greeter.pid());
    assert_eq!(lines.first().map(|line| line[4].as_str()), Some("1"), "{lines:?}");

    let client = pool.pid();
    drop((pool, talker, greeted));
    agent.wait_scrape(PATIENCE, |page| !page.iter().any(|of| of_service("tracer_incoming_requests")(&of)));
    assert!(received(service.pid()).is_empty() && received(greeter.pid()).is_empty(), "{client} has gone");
    assert!(agent.events_of(service.pid()).is_empty());
}

/// Who never closes what the other end has closed runs out of descriptors: after a minute that is told, listed and counted.
#[test]
fn connections_that_only_the_other_end_has_closed_are_a_leak() {
    let _shared = shared_for_minutes();
    let service = Waiter::start("mute-service");
    let clients: Vec<TcpStream> =
        (0..20).map(|_| TcpStream::connect(service.text("address")).expect("connect")).collect();
    let mut agent = Agent::start(&["--threshold", "1h"]);
    std::thread::sleep(Duration::from_secs(2));
    drop(clients);
    let closed = Instant::now();
    let leaked = |sample: &&tests::Sample| {
        sample.is("tracer_unclosed_connections", &[("comm", "waiter"), ("unit", "")])
    };
    std::thread::sleep(Duration::from_secs(50));
    assert!(
        below(service.pid(), "Connections closed only by the other end").is_empty(),
        "it may still close them"
    );
    let page =
        agent.wait_scrape(PATIENCE + Duration::from_secs(20), |page| page.iter().any(|of| leaked(&of)));
    assert!(closed.elapsed() > Duration::from_secs(59), "{:?}", closed.elapsed());
    // Another test may have some as well.
    assert!(page.iter().find(leaked).is_some_and(|of| of.value >= 20.0));
    let lines = below(service.pid(), "Connections closed only by the other end");
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert!(line.join(" ").contains(&format!(" {} waiter ", service.pid())), "{lines:?}");
    assert!(line.join(" ").contains(" 20 tcp "), "{lines:?}");

    let report = why(service.pid());
    let said = report["headline"].as_str().expect("a headline");
    assert!(
        said.contains(" It has not closed 20 connections that the other end closed, the first 1m "),
        "{said}"
    );
    assert!(!said.contains("not answered"), "nobody has asked: {said}");
    assert_eq!(report["sockets"]["unclosed"]["number"], 20, "{report:#}");
    assert!(agent.events_of(service.pid()).is_empty());
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
