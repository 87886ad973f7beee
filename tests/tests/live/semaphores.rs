//! Does `why` say who changed a System V semaphore last?

use serde_json::json;
use tests::{Waiter, why_page as page};

use super::why::{headline, until};

/// A waiter's semaphores, which outlive all who use them.
struct Semaphores(Waiter);

impl Semaphores {
    fn start(role: &str) -> Self {
        let waiter = Waiter::start(role);
        waiter.until_age(1.2);
        Self(waiter)
    }
}

impl Drop for Semaphores {
    fn drop(&mut self) {
        // SAFETY: IPC_RMID takes nothing.
        unsafe { libc::semctl(self.0.number("set") as i32, 0, libc::IPC_RMID) };
    }
}

#[test]
fn who_changed_a_semaphore_last() {
    let semaphores = Semaphores::start("semop");
    let waiter = &semaphores.0;
    let (set, holder) = (waiter.number("set"), waiter.number("holder"));
    let report = until(waiter.pid(), "stuck");
    let expected = format!("for semaphore 1 of set {set}, which waiter (pid {holder}) changed last");
    assert!(headline(&report).contains(&expected), "{report:#}");
    assert_eq!(report["others"][0]["role"], "changed it last", "{report:#}");
    assert_eq!(report["others"][0]["pid"], holder, "{report:#}");
    assert_eq!(report["threads"][0]["wait"]["class"], "lock", "{report:#}");
    assert_eq!(
        report["threads"][0]["wait"]["target"],
        json!({"kind": "semaphores", "set": set}),
        "{report:#}"
    );
    page(waiter.pid());
}

#[test]
fn a_semaphore_that_was_left() {
    let semaphores = Semaphores::start("semop-left");
    let waiter = &semaphores.0;
    let (set, holder) = (waiter.number("set"), waiter.number("holder"));
    let report = until(waiter.pid(), "stuck");
    let expected =
        format!("for semaphore 1 of set {set}, which pid {holder} changed last, and that has ended");
    assert!(headline(&report).contains(&expected), "{report:#}");
    assert_eq!(report["others"].as_array().map(Vec::len), Some(0), "{report:#}");
    page(waiter.pid());
}
