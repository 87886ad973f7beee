//! Which tests must not run beside others? Those that load the machine exclude those that measure latency.
//!
//! The test harness runs tests in parallel. A test that starts ten thousand threads on two cores would make
//! another's "within 3.1 seconds" a matter of luck, so the one asks to be [`alone`] and the other is [`shared`].

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

static MACHINE: RwLock<()> = RwLock::new(());

/// Held by a test that loads the machine: no `shared` test runs meanwhile.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    // Another test's failure must not fail this one.
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

/// Held by a test that measures how soon something happens.
pub fn shared() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}
