//! Which waits began ten seconds before tracer ran? One waiter a role, shared by the tests, and what must be true.

use std::sync::{LazyLock, OnceLock};

use serde_json::Value;
use tests::{Snapshot, Waiter, age_tolerance, parse_rfc3339_ns, ps, seconds_between, unsupported};

/// How old a wait is before tracer looks, in seconds.
pub(crate) const AGE: f64 = 10.0;

/// The roles that tests share. All start when the first is asked for: ten seconds pass once, not once a test.
pub(crate) const ROLES: &[&str] = &[
    "recvfrom-tcp4",
    "recvfrom-tcp6",
    "read-tcp4",
    "recvfrom-udp",
    "recvmsg-unix",
    "connect-backlog",
    "accept",
    "sendto-full",
    "poll-full",
    "select-full",
    "read-pipe",
    "flock",
    "flock-deleted",
    "flock-memfd",
    "fcntl-setlkw",
    "open-fifo",
    "futex",
    "wait4",
    "nanosleep",
    "epoll",
    "poll",
    "poll-tcp4",
    "poll-pidfd",
    "waitid-pidfd",
    "read-eventfd",
    "read-timerfd",
    "read-signalfd",
    "read-inotify",
    "read-tty",
    "closed-fd",
    "i386-read",
    "page-fault",
    "evil-name",
];

/// What a hypervisor had taken from a processor when the waiters started.
static STOLEN: OnceLock<f64> = OnceLock::new();

/// What it has taken since, seconds: the scheduler's clock, by which `/proc` says when a thread last ran, stands still
/// meanwhile.
pub(crate) fn stolen_meanwhile() -> f64 {
    tests::stolen_seconds() - STOLEN.get().expect("there are waiters")
}

/// A shared waiter, whatever its age. `evil-name` has arguments as hostile as its name.
pub(crate) fn waiter(role: &str) -> &'static Waiter {
    static ALL: LazyLock<Vec<OnceLock<Waiter>>> = LazyLock::new(|| {
        let start = |role: &&str| match *role {
            "evil-name" => Waiter::start_with(role, &["\x1b]0;title\x07", "two\nlines", "\u{9b}2J", "\r"]),
            role => Waiter::start_any(role, &[]),
        };
        STOLEN.get_or_init(tests::stolen_seconds);
        ROLES.iter().map(|role| OnceLock::from(start(role))).collect()
    });
    let place = ROLES.iter().position(|name| *name == role).unwrap_or_else(|| panic!("not shared: {role}"));
    ALL[place].get().expect("started")
}

/// A shared waiter of the age, or `None`, said aloud, where this kernel cannot do the role.
pub(crate) fn old_waiter(role: &str) -> Option<&'static Waiter> {
    let waiter = waiter(role);
    if let Some(why) = waiter.unsupported() {
        unsupported(why);
        return None;
    }
    waiter.until_age(AGE);
    Some(waiter)
}

/// One look at all shared waiters of the age: they stay as they are, and an emulated machine takes seconds for a look.
fn look() -> &'static Snapshot {
    static LOOK: LazyLock<Snapshot> = LazyLock::new(|| {
        let waiters = ROLES.iter().map(|role| waiter(role)).filter(|waiter| waiter.unsupported().is_none());
        let pids = waiters.flat_map(|waiter| {
            waiter.until_age(AGE);
            ["-p".to_owned(), waiter.pid().to_string()]
        });
        let args: Vec<String> = std::iter::once("--all".to_owned()).chain(pids).collect();
        ps(&args.iter().map(String::as_str).collect::<Vec<_>>())
    });
    &LOOK
}

/// The row of a shared waiter in `ps --all`, of which all is checked that is the same for every wait: pid, tid, syscall, fd, since,
/// age.
pub(crate) fn old_row(role: &str) -> Value {
    let waiter = old_waiter(role).unwrap_or_else(|| panic!("{role} is not optional"));
    let snapshot = look();
    let row = snapshot.row(waiter.tid());
    let line = waiter.line();
    assert_eq!(row["pid"], waiter.pid(), "{row:#}");
    assert_eq!(row["syscall"], line["syscall"], "{row:#}");
    assert_eq!(row["fd"], line["fd"], "{row:#}");
    check_age(row, waiter.begun_ns(), snapshot);
    row.clone()
}

/// `since` and `age_seconds` against the truth. The age is of some moment during the run.
pub(crate) fn check_age(row: &Value, begun_ns: i128, snapshot: &Snapshot) {
    let since = parse_rfc3339_ns(row["since"].as_str().unwrap_or_else(|| panic!("no since: {row:#}")));
    let off = seconds_between(begun_ns, since);
    // A window that is shut is tried after 0.2 s, 0.4 s and so on, and a byte may get in.
    let late = if row["class"] == "send" { 1.5 } else { 0.0 };
    assert!(
        (-age_tolerance()..=age_tolerance() + late).contains(&off),
        "since is off by {off:+.3} s: {row:#}"
    );
    let age = row["age_seconds"].as_f64().unwrap_or_else(|| panic!("no age: {row:#}"));
    let least = seconds_between(begun_ns, snapshot.before_ns) - age_tolerance() - late;
    let most = seconds_between(begun_ns, snapshot.after_ns) + age_tolerance();
    assert!((least..=most).contains(&age), "the age is not within {least:.3} to {most:.3}: {row:#}");
    assert!(row["age_exact"].is_boolean(), "{row:#}");
}

/// The target's kind and, of these fields, those the waiter named.
pub(crate) fn check_target(role: &str, row: &Value, kind: &str, fields: &[&str]) {
    let line = waiter(role).line();
    assert_eq!(row["target"]["kind"], kind, "{row:#}");
    for field in fields {
        assert!(!line[*field].is_null(), "the waiter names no {field}: {line}");
        assert_eq!(row["target"][*field], line[*field], "{field}: {row:#}");
    }
}
