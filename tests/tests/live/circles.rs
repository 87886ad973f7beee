//! Is a circle that nobody can leave flagged and called one, and no other?

use std::time::Duration;

use serde_json::Value;
use tests::{Agent, Waiter, ps, slow, why as report};

use super::why::headline;

/// The one wait of a process.
/// What a wait is for, and whether it stands in a deadlock.
fn judged(wait: &Value) -> (&str, bool) {
    let class = wait["class"].as_str().expect("a class");
    (class, wait["deadlock"].as_bool().expect("whether it is one"))
}

fn row(pid: u32) -> Value {
    let rows = ps(&["--all", "--pid", &pid.to_string()]).rows;
    assert_eq!(rows.len(), 1, "{rows:#?}");
    rows.into_iter().next().unwrap_or_default()
}

fn pid(waiter: &Waiter, name: &str) -> u32 {
    u32::try_from(waiter.number(name)).expect("a pid")
}

#[test]
fn a_circle_is_flagged_and_one_with_a_way_out_is_not() {
    let mut agent = Agent::start(&["--threshold", "2s"]);
    let (circle, left, words) =
        (Waiter::start("circle-pipe"), Waiter::start("circle-left"), Waiter::start("circle-words"));
    let child = pid(&circle, "child");
    let (stall, _) = agent.wait_stall("stall_opened", child, Duration::from_secs(30));
    assert_eq!(judged(&stall["wait"]), ("orphan", true), "{stall:#}");
    let verdict = stall["wait"]["verdict"].as_str().expect("a sentence");
    let parent = format!("for waiter (pid {}) to read", circle.pid());
    assert!(verdict.contains(&parent) && verdict.contains("a deadlock"), "{verdict}");
    for pid in [words.pid(), pid(&words, "child")] {
        let (stall, _) = agent.wait_stall("stall_opened", pid, Duration::from_secs(30));
        assert_eq!(judged(&stall["wait"]), ("orphan", true), "{stall:#}");
    }
    // It is older than the others.
    for pid in [left.pid(), pid(&left, "child")] {
        assert_eq!(agent.events_of(pid), [] as [String; 0]);
    }
    let plain = ps(&[]);
    let shown = |pid: u32| plain.rows.iter().any(|row| row["pid"] == pid);
    assert!(shown(child) && !shown(pid(&left, "child")), "{:#?}", plain.rows);
}

/// Another process could have ended it, which goes when the wait has long been looked into.
#[test]
fn a_circle_that_closes_late_is_flagged_at_once() {
    let mut agent = Agent::start(&["--threshold", "2s"]);
    let left = Waiter::start("circle-left");
    let child = pid(&left, "child");
    // By then it is not due for another look before it is half as old again.
    left.until_age(17.0);
    assert_eq!(agent.events_of(child), [] as [String; 0]);
    // SAFETY: kill takes numbers.
    unsafe { libc::kill(pid(&left, "other").cast_signed(), libc::SIGKILL) };
    // Two looks at most, which come less often where much else waits; the next look of its own would be in eight seconds.
    let (stall, _) = agent.wait_stall("stall_opened", child, slow(Duration::from_secs(7)));
    assert_eq!(judged(&stall["wait"]), ("orphan", true), "{stall:#}");
}

#[test]
fn both_ends_of_a_circle_are_called_a_deadlock() {
    let circle = Waiter::start("circle-pipe");
    circle.until_age(1.2);
    let child = pid(&circle, "child");
    assert_eq!([judged(&row(child)), judged(&row(circle.pid()))], [("orphan", true), ("child", true)]);
    for (one, other) in [(child, circle.pid()), (circle.pid(), child)] {
        let report = report(one);
        assert_eq!(report["condition"], "stuck", "{report:#}");
        let headline = headline(&report);
        assert!(headline.contains("a deadlock"), "{headline}");
        assert!(headline.contains(&format!("(pid {other})")), "{headline}");
    }
    let left = Waiter::start("circle-left");
    left.until_age(1.2);
    assert_eq!(row(pid(&left, "child"))["class"], "pipe");
    let report = report(left.pid());
    assert_eq!(report["condition"], "idle", "{report:#}");
}

/// A supervisor is as stuck as its child, and that is said first.
#[test]
fn a_parent_whose_child_is_stopped() {
    let parent = Waiter::start("wait4");
    parent.until_age(1.2);
    let child = pid(&parent, "child");
    // SAFETY: kill takes numbers.
    unsafe { libc::kill(child.cast_signed(), libc::SIGSTOP) };
    let report = super::why::until(parent.pid(), "stuck");
    let expected = format!("is stuck: its child waiter (pid {child}) is stopped by SIG");
    assert!(headline(&report).contains(&expected), "{report:#}");
    assert_eq!(report["next"][0]["command"], format!("kill -CONT {child}"), "{report:#}");
}
