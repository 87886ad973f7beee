//! Does `why` say who changed a System V semaphore last?

use serde_json::{Value, json};
use tests::{Waiter, why_page as page};

use super::why::{headline, until};

/// A waiter's semaphores, which outlive all who use them.
struct Semaphores(Waiter);

impl Semaphores {
    /// Those of a role that this kernel may lack.
    fn start_any(role: &str) -> Option<Self> {
        let waiter = Waiter::start_any(role, &[]);
        if let Some(why) = waiter.unsupported() {
            tests::unsupported(why);
            return None;
        }
        waiter.until_age(1.2);
        Some(Self(waiter))
    }

    fn start(role: &str) -> Self {
        Self::start_any(role).unwrap_or_else(|| panic!("{role} is not optional"))
    }

    /// What `why` says, whose first sentence has this of the semaphore.
    fn report(&self, says: &str) -> Value {
        let report = until(self.0.pid(), "stuck");
        let expected = format!("for semaphore 1 of set {}, last changed by {says}", self.0.number("set"));
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
    is_changed_by_holder(&Semaphores::start("semop"));
}

/// It waits in `ipc`, which is for many things.
#[test]
fn who_changed_the_semaphore_of_a_32_bit_program() {
    if let Some(semaphores) = Semaphores::start_any("i386-semop") {
        is_changed_by_holder(&semaphores);
    }
}

fn is_changed_by_holder(semaphores: &Semaphores) {
    let (set, holder) = (semaphores.0.number("set"), semaphores.0.number("holder"));
    let report = semaphores.report(&format!("waiter (pid {holder})"));
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
    let report = semaphores.report(&format!("pid {holder}, which has exited"));
    assert_eq!(report["others"].as_array().map(Vec::len), Some(0), "{report:#}");
}
