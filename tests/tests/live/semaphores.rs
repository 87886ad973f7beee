//! Does `why` say who changed a System V semaphore last?

use serde_json::{Value, json};
use tests::{Waiter, why_page as page};

use super::why::{headline, until};

/// A waiter's semaphores, which outlive all who use them.
struct Semaphores(Waiter);

impl Semaphores {
    fn start(role: &str) -> Self {
        let semaphores = Self(Waiter::start(role));
        semaphores.0.until_age(1.2);
        semaphores
    }

    /// What `why` says, whose first sentence has this of the semaphore.
    fn report(&self, says: &str) -> Value {
        let report = until(self.0.pid(), "stuck");
        let expected = format!("for semaphore 1 of set {}, which {says}", self.0.number("set"));
        assert!(headline(&report).contains(&expected), "{report:#}");
        page(self.0.pid());
        report
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
    let (set, holder) = (semaphores.0.number("set"), semaphores.0.number("holder"));
    let report = semaphores.report(&format!("waiter (pid {holder}) changed last"));
    assert_eq!(report["others"][0]["role"], "changed it last", "{report:#}");
    assert_eq!(report["others"][0]["pid"], holder, "{report:#}");
    let wait = &report["threads"][0]["wait"];
    assert_eq!(wait["class"], "lock", "{report:#}");
    assert_eq!(wait["target"], json!({"kind": "semaphores", "set": set}), "{report:#}");
}

#[test]
fn a_semaphore_that_was_left() {
    let semaphores = Semaphores::start("semop-left");
    let holder = semaphores.0.number("holder");
    let report = semaphores.report(&format!("pid {holder} changed last, and that has ended"));
    assert_eq!(report["others"].as_array().map(Vec::len), Some(0), "{report:#}");
}
