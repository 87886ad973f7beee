//! Does `ps` say what every kind of descriptor is, and say so when it cannot know?

use serde_json::Value;

use crate::aged::{check_target, old_row, waiter};

fn kind(role: &str, kind: &str) {
    let row = old_row(role);
    check_target(role, &row, kind, &[]);
}

#[test]
fn eventfd() {
    kind("read-eventfd", "eventfd");
}

#[test]
fn timerfd() {
    kind("read-timerfd", "timerfd");
}

#[test]
fn signalfd() {
    kind("read-signalfd", "signalfd");
}

#[test]
fn inotify() {
    kind("read-inotify", "inotify");
}

#[test]
fn terminal() {
    kind("read-tty", "tty");
    let row = old_row("read-tty");
    assert_eq!((&row["class"], &row["level"]), (&"tty".into(), &"idle".into()), "{row:#}");
}

#[test]
fn deleted_file_is_marked() {
    let row = old_row("flock-deleted");
    let (path, shown) = (waiter("flock-deleted").text("path"), row["target"]["path"].as_str().unwrap_or(""));
    let marked = row["target"]["deleted"] == true || shown.ends_with(" (deleted)");
    assert!(shown.starts_with(path) && marked, "{row:#}");
}

#[test]
fn memfd_is_named() {
    let row = old_row("flock-memfd");
    assert!(row["target"].to_string().contains("waiter-memory"), "{row:#}");
}

#[test]
fn epoll_is_an_event_loop() {
    let row = old_row("epoll");
    assert_eq!((&row["class"], &row["level"]), (&"events".into(), &"idle".into()), "{row:#}");
}

/// waitid(P_PIDFD) is the one call that takes a pidfd and sleeps on it.
#[test]
fn pidfd() {
    let row = old_row("waitid-pidfd");
    check_target("waitid-pidfd", &row, "pidfd", &[]);
    assert_eq!((&row["class"], &row["level"]), (&"child".into(), &"idle".into()), "{row:#}");
}

/// A poll is at least there, whatever it watches.
#[test]
fn poll_has_a_row() {
    let waiter = waiter("poll");
    waiter.until_age(1.5);
    let snapshot = tests::ps(&["--all", "-p", &waiter.pid().to_string()]);
    assert_eq!(snapshot.row(waiter.tid())["syscall"], "ppoll");
}

/// What a poll watches may be the target itself or one of a list.
fn watched(role: &str, is_it: impl Fn(&Value) -> bool) {
    let waiter = waiter(role);
    waiter.until_age(1.5);
    let snapshot = tests::ps(&["--all", "-p", &waiter.pid().to_string()]);
    let row = snapshot.row(waiter.tid());
    assert_eq!(row["syscall"], "ppoll", "{row:#}");
    let target = &row["target"];
    let list = target["watched"].as_array().map_or_else(Vec::new, |list| list.iter().collect());
    assert!(is_it(target) || list.into_iter().any(is_it), "{row:#}");
}

#[test]
fn poll_of_a_pidfd() {
    watched("poll-pidfd", |target| target["kind"] == "pidfd");
}

#[test]
fn poll_of_a_pipe() {
    watched("poll", |target| target["kind"] == "pipe" && target["inode"] == waiter("poll").line()["inode"]);
}

#[test]
fn poll_of_one_connection() {
    let line = waiter("poll-tcp4").line();
    watched("poll-tcp4", |target| target["local"] == line["local"] && target["remote"] == line["remote"]);
}

/// The thread reads on, but its descriptor is closed: the row stays, and claims nothing.
#[test]
fn descriptor_closed_meanwhile() {
    let waiter = waiter("closed-fd");
    waiter.until_age(1.5);
    let snapshot = tests::ps(&["--all", "-p", &waiter.pid().to_string()]);
    let row = snapshot.row(waiter.tid());
    assert_eq!((&row["syscall"], &row["fd"]), (&"read".into(), &waiter.line()["fd"]), "{row:#}");
    let kind = row["target"]["kind"].as_str().unwrap_or_else(|| panic!("no kind: {row:#}"));
    assert!(
        !["tcp", "udp", "unix", "pipe", "file", "tty"].contains(&kind),
        "the descriptor is gone: {row:#}"
    );
}
