//! Is a call that a stop and a continue made the kernel restart still called by its name?

use std::time::{Duration, Instant};

use tests::{Waiter, ps, slow, unsupported};

/// Stops and continues the waiter, makes sure the kernel restarted its call, and looks at it.
fn name_after_restart(role: &str) {
    let waiter = Waiter::start_any(role, &[]);
    if let Some(why) = waiter.unsupported() {
        return unsupported(why);
    }
    let begin = Instant::now();
    let syscall = format!("/proc/{}/syscall", waiter.pid());
    let restarted = || {
        let line = std::fs::read_to_string(&syscall).expect("the waiter lives");
        line.split(' ').next().and_then(|number| number.parse().ok()) == Some(libc::SYS_restart_syscall)
    };
    // The first stop may come before the thread sleeps: then its call is begun, not restarted.
    while !restarted() {
        assert!(begin.elapsed() < slow(Duration::from_secs(30)), "{role} does not show as restart_syscall");
        waiter.stop();
        std::thread::sleep(Duration::from_millis(100));
        waiter.go_on();
        std::thread::sleep(Duration::from_millis(100));
    }
    let snapshot = ps(&["--all", "--min-age", "0s", "-p", &waiter.pid().to_string()]);
    let row = snapshot.row(waiter.tid());
    assert_eq!(row["syscall"], waiter.line()["syscall"], "{row:#}");
    if role == "restart-nanosleep" {
        assert_eq!(row["class"], "timer", "{row:#}");
    }
}

#[test]
fn nanosleep() {
    name_after_restart("restart-nanosleep");
}

#[test]
fn poll() {
    name_after_restart("restart-poll");
}

#[test]
fn futex() {
    name_after_restart("restart-futex");
}
