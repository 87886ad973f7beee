//! Does tracer say what holds a call up inside the kernel? By the functions that the thread sleeps in, which are asked for where call
//! and target do not say enough.

use std::time::Duration;

use serde_json::Value;
use tests::{Waiter, ps, shared, why};

use super::why::until;

/// A row of the waiter's, once it is old enough.
fn row(waiter: &Waiter) -> Value {
    waiter.until_age(1.5);
    let all = ps(&["--all"]);
    let own = all.rows.into_iter().find(|row| row["pid"] == waiter.pid());
    own.unwrap_or_else(|| panic!("no row of pid {}", waiter.pid()))
}

#[test]
fn who_waits_for_a_lease_a_permission_or_a_mount_is_stuck_and_told_so() {
    let _shared = shared();
    for (role, says) in [
        ("open-leased", " to give up its lease, in openat on "),
        ("open-permitted", " to allow openat on "),
        ("open-automount", " to finish its mount, in openat on "),
    ] {
        let waiter = Waiter::start_any(role, &[]);
        if let Some(why) = waiter.unsupported() {
            tests::unsupported(why);
            continue;
        }
        let row = row(&waiter);
        let path = waiter.line()["path"].as_str().unwrap_or_default().to_owned();
        let verdict = row["verdict"].as_str().unwrap_or_default();
        assert!(verdict.ends_with(&format!("{says}{path}")), "{row:#}");
        assert_eq!((&row["class"], &row["level"]), (&"disk".into(), &"stuck".into()), "{row:#}");
        assert_eq!(row["target"]["path"], path.as_str(), "{row:#}");
        let report = until(waiter.pid(), "stuck");
        let holder = waiter.number("holder");
        let named = report["others"].as_array().is_some_and(|all| all.iter().any(|one| one["pid"] == holder));
        assert!(named && verdict.contains(&format!("(pid {holder})")), "{report:#}");
    }
}

/// A page of its own memory that nobody supplies: it touches the page, or hands it to a call, whose target is not to blame.
#[test]
fn who_waits_for_a_page_is_told_who_is_to_supply_it() {
    let _shared = shared();
    for (role, handed) in [("page-fault-elsewhere", ""), ("write-unserved", ", passed to write,")] {
        let waiter = Waiter::start_any(role, &[]);
        if let Some(why) = waiter.unsupported() {
            tests::unsupported(why);
            continue;
        }
        let row = row(&waiter);
        let verdict = row["verdict"].as_str().unwrap_or_default();
        assert_eq!((&row["class"], &row["level"]), (&"disk".into(), &"stuck".into()), "{row:#}");
        assert!(verdict.contains(&format!("for a page of memory{handed} that ")), "{row:#}");
        assert!(verdict.ends_with(" to supply (userfaultfd)"), "{row:#}");
        // Other tests' pages may wait as well: the kernel does not say who waits for whom.
        let report = until(waiter.pid(), "stuck");
        let holder = waiter.number("holder");
        let of = |other: &&Value| other["pid"] == holder;
        let other = report["others"].as_array().and_then(|all| all.iter().find(of));
        let role = other.and_then(|other| other["role"].as_str());
        assert!(role.is_some_and(|role| role.ends_with("serves its page faults")), "{report:#}");
    }
}

#[test]
fn who_is_to_supply_its_own_page_is_told_so() {
    let _shared = shared();
    let waiter = Waiter::start_any("page-fault", &[]);
    if let Some(why) = waiter.unsupported() {
        return tests::unsupported(why);
    }
    let row = row(&waiter);
    let says = "for a page of memory that its own process is to supply (userfaultfd)";
    assert!(row["verdict"].as_str().is_some_and(|verdict| verdict.ends_with(says)), "{row:#}");
}

/// The kernel names them, in the page too.
#[test]
fn why_names_the_functions() {
    let _shared = shared();
    let waiter = Waiter::start("read-pipe");
    std::thread::sleep(Duration::from_millis(300));
    let report = why(waiter.pid());
    let stack = report["threads"][0]["stack"].as_array().cloned().unwrap_or_default();
    assert!(
        stack.iter().any(|name| name.as_str().is_some_and(|name| name.contains("pipe_read"))),
        "{report:#}"
    );
}
