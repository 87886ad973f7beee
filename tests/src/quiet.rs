//! Which tests must not run beside others? Those that load the machine exclude those that measure latency.
//!
//! The test harness runs tests in parallel. A test that starts ten thousand threads on two cores would make
//! another's "within 3.1 seconds" a matter of luck, so the one asks to be [`alone`] and the other is [`shared`]. So does one that
//! sets the clock, beside those that read it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Shared tests at a time.
const AT_A_TIME: usize = 12;

/// Who runs now.
struct Machine {
    shared: usize,
    /// Shared tests that wait for their turn.
    waiting: usize,
    alone: bool,
}

static MACHINE: Mutex<Machine> = Mutex::new(Machine { shared: 0, waiting: 0, alone: false });
static CHANGED: Condvar = Condvar::new();

/// Held by a test that loads the machine.
pub struct Alone(());

/// Held by a test that measures how soon something happens.
pub struct Shared(());

/// No [`shared`] test runs as long as this is held. Shared tests that can run do so first: to let them all end for each
/// test that loads the machine would be to wait for the longest of them again and again.
pub fn alone() -> Alone {
    let mut machine = machine();
    while machine.alone || machine.shared > 0 || machine.waiting > 0 {
        machine = CHANGED.wait(machine).unwrap_or_else(PoisonError::into_inner);
    }
    machine.alone = true;
    Alone(())
}

/// No test that is [`alone`] runs as long as this is held, and not too many others.
pub fn shared() -> Shared {
    let mut machine = machine();
    machine.waiting += 1;
    while machine.alone || machine.shared >= AT_A_TIME {
        machine = CHANGED.wait(machine).unwrap_or_else(PoisonError::into_inner);
    }
    machine.waiting -= 1;
    machine.shared += 1;
    Shared(())
}

/// Another test's failure must not fail this one.
fn machine() -> MutexGuard<'static, Machine> {
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Alone {
    fn drop(&mut self) {
        machine().alone = false;
        CHANGED.notify_all();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        machine().shared -= 1;
        CHANGED.notify_all();
    }
}
