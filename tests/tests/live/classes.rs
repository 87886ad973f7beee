//! Does each class have a real process that is called so?

use std::process::Command;
use std::time::Duration;

use tests::{Waiter, ps, tracer};

/// A process for each class: the waiter's role, with its arguments.
const PROCESSES: &[(&str, &str)] = &[
    ("connect", "connect-backlog"),
    ("reply", "recvfrom-tcp4"),
    ("send", "sendto-full"),
    ("lock", "flock"),
    // Whatever the C library: the kernel knows these locks.
    ("mutex", "lock-held inherits"),
    ("disk", "page-fault"),
    ("fifo", "open-fifo"),
    ("orphan", "orphan"),
    // Of no class of its own.
    ("deadlock", "circle-pipe"),
    ("quiet", "quiet"),
    ("dialog", "dialog"),
    ("request", "request"),
    ("pipe", "read-pipe"),
    ("exit", "exiting"),
    ("other", "closed-fd"),
    ("peer", "peer"),
    ("listen", "accept"),
    ("events", "epoll"),
    ("tty", "read-tty"),
    ("timer", "nanosleep"),
    ("child", "wait4"),
    ("futex", "futex"),
    ("signal", "read-signalfd"),
    ("notify", "read-inotify"),
    ("ring", "ring"),
    ("datagram", "recvfrom-udp"),
    ("datagram", "message"),
];

/// The classes that `ps --class` takes.
fn all() -> Vec<String> {
    let output =
        Command::new(tracer()).args(["ps", "--class", "no-such-class"]).output().expect("tracer starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let list = said.split("[possible values: ").nth(1).and_then(|rest| rest.split(']').next());
    list.unwrap_or_else(|| panic!("no list of classes: {said}")).split(", ").map(str::to_owned).collect()
}

#[test]
fn each_class_has_a_process() {
    let missing: Vec<String> =
        all().into_iter().filter(|class| PROCESSES.iter().all(|(known, _)| known != class)).collect();
    assert!(missing.is_empty(), "no process of class {missing:?}");
    let start = |role: &str| {
        let mut words = role.split(' ');
        Waiter::start_with(words.next().unwrap_or_default(), &words.collect::<Vec<_>>())
    };
    let waiters: Vec<_> = PROCESSES.iter().map(|(class, role)| (*class, *role, start(role))).collect();
    std::thread::sleep(Duration::from_millis(1500));
    let snapshot = ps(&["--all"]);
    for (class, role, waiter) in &waiters {
        // What exits is a child.
        let child = waiter.line()["exiting"].as_u64();
        let pid = child.unwrap_or_else(|| waiter.pid().into());
        let rows: Vec<_> = snapshot.rows.iter().filter(|row| row["pid"] == pid).collect();
        let tid = child.unwrap_or_else(|| waiter.tid().into());
        let row = rows.iter().find(|row| row["tid"] == tid);
        let row = row.unwrap_or_else(|| panic!("{role}: no row of thread {tid}: {rows:#?}"));
        match *class {
            "deadlock" => assert_eq!(row["deadlock"], true, "{role}: {row:#}"),
            class => assert_eq!(row["class"], class, "{role}: {row:#}"),
        }
        let sentence = row["verdict"].as_str().unwrap_or_default();
        assert!(sentence.starts_with("waiting "), "{role}: {row:#}");
    }
}
