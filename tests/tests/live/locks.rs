//! Is it said who holds a lock in memory: another process, one that has ended, or the very thread that waits for it?

use std::time::Duration;

use serde_json::Value;
use tests::{Agent, Waiter, ps};

use super::why::{headline, until};

/// The waits of a process.
fn rows(pid: u32) -> Vec<Value> {
    ps(&["--all", "--pid", &pid.to_string()]).rows
}

fn verdict(row: &Value) -> &str {
    row["verdict"].as_str().expect("a sentence")
}

/// The C library of what the tests start.
fn is_musl() -> bool {
    cfg!(target_env = "musl")
}

#[test]
fn a_lock_that_another_process_holds() {
    for kind in ["mutex", "inherits", "rwlock"] {
        let waiter = Waiter::start_with("lock-held", &[kind]);
        waiter.until_age(1.2);
        let row = &rows(waiter.pid())[0];
        // musl keeps an owner of few locks.
        if is_musl() && kind != "inherits" {
            continue;
        }
        assert_eq!(row["class"], "mutex", "{kind}: {row:#}");
        let holder = format!("shared memory that waiter (pid {}) holds", waiter.number("holder"));
        assert!(verdict(row).contains(&holder), "{kind}: {row:#}");
        let report = until(waiter.pid(), "stuck");
        assert_eq!(report["others"][0]["pid"], waiter.number("holder"), "{report:#}");
    }
}

#[test]
fn a_lock_whose_holder_was_killed() {
    for (kind, says) in [
        ("mutex", "has ended without letting go"),
        ("inherits", "whose owner is gone"),
        ("rwlock", "has ended without letting go"),
    ] {
        let waiter = Waiter::start_with("lock-left", &[kind]);
        waiter.until_age(1.2);
        if is_musl() {
            continue;
        }
        let row = &rows(waiter.pid())[0];
        assert_eq!(row["class"], "mutex", "{kind}: {row:#}");
        assert!(verdict(row).contains(says), "{kind}: {row:#}");
    }
}

/// Nothing says who had it, but all who share it wait for each other.
#[test]
fn a_semaphore_whose_holder_was_killed() {
    let parent = Waiter::start("semaphore-left");
    parent.until_age(1.2);
    let child = u32::try_from(parent.number("child")).expect("a pid");
    if is_musl() {
        return;
    }
    let row = &rows(child)[0];
    assert_eq!((&row["class"], &row["deadlock"]), (&"mutex".into(), &true.into()), "{row:#}");
    let report = until(child, "stuck");
    assert!(headline(&report).contains("a deadlock"), "{report:#}");
}

#[test]
fn a_lock_that_was_held_at_the_fork() {
    let mut agent = Agent::start(&["--threshold", "2s"]);
    let parent = Waiter::start("forked-lock");
    let child = u32::try_from(parent.number("child")).expect("a pid");
    let (stall, _) = agent.wait_stall("stall_opened", child, Duration::from_secs(30));
    assert_eq!(stall["wait"]["class"], "mutex", "{stall:#}");
    if !is_musl() {
        let says = format!("thread {} held", parent.number("holder"));
        assert!(verdict(&stall["wait"]).contains(&says), "{stall:#}");
    }
    let report = until(parent.pid(), "idle");
    assert!(
        headline(&report).contains(&format!("(pid {child}), for which it waits, is stuck")),
        "{report:#}"
    );
}

#[test]
fn a_lock_that_its_own_thread_holds() {
    let waiter = Waiter::start("own-lock");
    waiter.until_age(1.2);
    let row = &rows(waiter.pid())[0];
    assert_eq!((&row["class"], &row["deadlock"]), (&"mutex".into(), &true.into()), "{row:#}");
    if !is_musl() {
        assert!(verdict(row).contains("that it holds itself"), "{row:#}");
        let report = until(waiter.pid(), "stuck");
        assert!(headline(&report).contains("a deadlock"), "{report:#}");
    }
}

#[test]
fn locks_of_rust_are_told_from_a_pool_at_rest() {
    let mut agent = Agent::start(&["--threshold", "2s"]);
    let (pool, locks) = (Waiter::start("pool-at-rest"), Waiter::start("rust-deadlock"));
    let (stall, _) = agent.wait_stall("stall_opened", locks.pid(), Duration::from_secs(30));
    let wait = &stall["wait"];
    assert_eq!((&wait["class"], &wait["deadlock"]), (&"mutex".into(), &true.into()), "{stall:#}");
    // It is older.
    assert_eq!(agent.events_of(pool.pid()), [] as [String; 0]);
    let rows = rows(pool.pid());
    assert_eq!(rows.len(), 4, "{rows:#?}");
    assert!(rows.iter().all(|row| row["level"] == "idle"), "{rows:#?}");
}

/// Whose turn it is to accept is no matter of being stuck; what keeps a lock while it serves connections is.
#[test]
fn a_lock_whose_holder_waits_for_a_connection() {
    for (role, class, says) in [
        ("turns-file", "listen", "for its turn to accept a connection: waiter (pid "),
        ("turns-mutex", "listen", "for its turn to accept a connection: thread "),
        ("loop-with-mutex", "mutex", "for a lock in memory that thread "),
    ] {
        let waiter = Waiter::start(role);
        waiter.until_age(1.2);
        // musl does not keep who has a mutex.
        if is_musl() && role != "turns-file" {
            continue;
        }
        let rows = rows(waiter.pid());
        let row = rows.iter().find(|row| row["tid"] == waiter.pid()).expect("it waits");
        assert_eq!(row["class"], class, "{role}: {row:#}");
        assert!(verdict(row).contains(says), "{role}: {row:#}");
    }
}
