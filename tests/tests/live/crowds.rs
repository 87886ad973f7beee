//! Do `ps` and the agent get on with a crowd that waits for one thing? A thousand is enough: what grows with the square of that is seen.

use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{Agent, Waiter, ps, ps_first, slow, with_crowds};

const MANY: usize = 1_000;
/// Those at the other end that are named.
const NAMED: usize = 8;
const PATIENCE: Duration = Duration::from_secs(20);

/// What tells the crowd of one test from those of others.
fn own_name() -> String {
    std::thread::current().name().unwrap_or("crowd").to_owned()
}

/// Rows of the crowd, without the process that has made it, and without who has what all of them wait for.
fn of_crowd<'a>(rows: &'a [Value], waiter: &Waiter, kind: &str) -> Vec<&'a Value> {
    let end = format!(" crowd-{kind} {MANY} {}", own_name());
    let is_of_it = |row: &&Value| {
        let is_another = row["tid"] == waiter.pid() || row["tid"] == waiter.line()["holder"];
        row["cmdline"].as_str().is_some_and(|line| line.ends_with(&end)) && !is_another
    };
    rows.iter().filter(is_of_it).collect()
}

fn pid_of(row: &Value) -> u32 {
    row["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid")
}

/// A crowd of which all wait.
fn crowd(kind: &str, aged: f64) -> Waiter {
    let waiter = Waiter::start_with(&format!("crowd-{kind}"), &[&MANY.to_string(), &own_name()]);
    let begin = Instant::now();
    while of_crowd(&ps(&["--all", "--min-age", "0s"]).rows, &waiter, kind).len() < MANY {
        assert!(begin.elapsed() < slow(PATIENCE), "they do not all wait");
    }
    waiter.until_age(aged);
    waiter
}

/// `ps` shows all of them, says this of each, and is soon done: once in three, since the machine does other things as well.
fn ps_is_fast(kind: &str, said: &str) {
    let _crowds = with_crowds();
    let waiter = crowd(kind, 2.0);
    let took: Vec<Duration> = (0..3).map(|_| ps_first(&[]).took).collect();
    eprintln!("ps with {MANY} on one {kind}: {took:?}");
    assert!(took.iter().any(|took| *took < slow(Duration::from_secs(2))), "ps took {took:?}");
    let rows = ps(&["--all"]).rows;
    let rows = of_crowd(&rows, &waiter, kind);
    assert_eq!(rows.len(), MANY);
    for row in rows {
        let verdict = row["verdict"].as_str().unwrap_or_default();
        assert!(verdict.contains(said), "{row:#}");
        assert!(verdict.len() < 400, "nobody reads that: {verdict}");
    }
}

#[test]
fn on_one_pipe() {
    // All of them and the first process hold it; each waits for all but itself.
    ps_is_fast("pipe", &format!(" and {} more to write on pipe", MANY - 1));
}

#[test]
fn on_one_unix_socket() {
    ps_is_fast("unix", &format!(" and {} more to write on unix", MANY - 1));
}

#[test]
fn on_one_lock() {
    ps_is_fast("lock", "for the lock on ");
}

#[test]
fn on_one_epoll_set() {
    ps_is_fast("epoll", "for any of its events on epoll of 100 fds");
}

/// `why` names a few, and says how many it has left out.
#[test]
fn why_says_how_many_it_did_not_look_at() {
    let _crowds = with_crowds();
    let waiter = crowd("pipe", 2.0);
    let rows = ps(&["--all"]).rows;
    let pid = pid_of(of_crowd(&rows, &waiter, "pipe")[0]);
    let report = tests::why(pid);
    let others = report["others"].as_array().map_or(0, Vec::len);
    assert!((1..=NAMED).contains(&others), "{others}");
    assert_eq!(report["others_left_out"].as_u64(), Some((MANY - others) as u64), "{report:#}");
    let page = tests::why_page(pid);
    assert!(page.contains(&format!("and {} more, which were not looked at", MANY - others)), "{page}");
}

/// With their holder more processes wait for locks than the kernel's table of locks is read for.
#[test]
fn why_follows_a_long_queue_for_a_lock_to_its_end() {
    let _crowds = with_crowds();
    let waiter = crowd("lock-behind", 2.0);
    let holder = waiter.number("holder");
    let rows = ps(&[]).rows;
    let rows = of_crowd(&rows, &waiter, "lock-behind");
    assert_eq!(rows.len(), MANY);
    let names_holder = format!(" that waiter (pid {holder}) holds");
    for row in &rows {
        assert!(row["verdict"].as_str().is_some_and(|verdict| verdict.ends_with(&names_holder)), "{row:#}");
    }
    let last = pid_of(rows[MANY - 1]);
    let begin = Instant::now();
    let report = tests::why(last);
    let took = begin.elapsed();
    assert!(took < slow(Duration::from_secs(3)), "why took {took:?}");
    assert!(report["headline"].as_str().is_some_and(|line| line.contains(&names_holder)), "{report:#}");
    let first = &report["others"][0];
    assert_eq!((&first["pid"], &first["role"]), (&holder.into(), &"holds the lock".into()), "{report:#}");
    let second = &first["then"][0];
    assert_eq!(
        (&second["pid"], &second["role"]),
        (&waiter.pid().into(), &"holds the lock".into()),
        "{report:#}"
    );
    tests::why_page(last);
}

/// The agent looks on, and flags another's hang in time, while it flags all of the crowd.
fn agent_goes_on(kind: &str) {
    let _crowds = with_crowds();
    let mut agent = Agent::start(&["--threshold", "3s"]);
    let waiter = crowd(kind, 0.0);
    let looks = |agent: &Agent| -> f64 {
        agent.samples("tracer_snapshot_duration_seconds_count", &[]).iter().map(|sample| sample.value).sum()
    };
    let (before, begin) = (looks(&agent), Instant::now());
    let victim = Waiter::start("recvfrom-tcp4");
    let (event, _) = agent.wait_stall("stall_opened", victim.pid(), Duration::from_secs(8));
    assert!(event["stall_seconds"].as_f64() < Some(slow(Duration::from_secs(8)).as_secs_f64()), "{event:#}");
    let (looked, seconds) = (looks(&agent) - before, begin.elapsed().as_secs_f64());
    assert!(looked >= seconds / 3.0 - 1.0, "{looked} looks in {seconds} s");
    drop(waiter);
}

#[test]
fn the_agent_goes_on_beside_a_crowd_on_one_pipe() {
    agent_goes_on("pipe");
}

#[test]
fn the_agent_goes_on_beside_a_crowd_on_one_unix_socket() {
    agent_goes_on("unix");
}

#[test]
fn the_agent_goes_on_beside_a_crowd_on_one_lock() {
    agent_goes_on("lock");
}

#[test]
fn the_agent_goes_on_beside_a_crowd_on_one_epoll_set() {
    agent_goes_on("epoll");
}
