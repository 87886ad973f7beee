//! How the agent is: what the health endpoints and systemd are told.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use crate::{
    assess::blind::Cause,
    assess::sink::{Look, Sink},
    util::clock::monotonic_ns,
};

/// How the agent is, for the health endpoints.
#[derive(Default)]
pub struct Health {
    /// The first snapshot has been taken.
    pub ready: AtomicBool,
    /// When the last snapshot was taken, nanoseconds of `CLOCK_MONOTONIC`.
    pub last_snapshot_ns: AtomicU64,
    /// Its looks do not find what they must find.
    pub misses_canary: AtomicBool,
    /// Without a snapshot for this long the agent is not healthy, nanoseconds.
    pub patience_ns: u64,
}

impl Health {
    /// Whether it looks as often as it should, and sees.
    pub fn is_well(&self) -> bool {
        self.trouble().is_none()
    }

    /// What is wrong with it.
    pub fn trouble(&self) -> Option<&'static str> {
        let last = self.last_snapshot_ns.load(Ordering::Relaxed);
        if monotonic_ns().saturating_sub(last) >= self.patience_ns {
            Some("no snapshot for too long\n")
        } else if self.misses_canary.load(Ordering::Relaxed) {
            Some("it does not find a wait of its own\n")
        } else {
            None
        }
    }
}

impl Sink for Arc<Health> {
    fn look_ended(&mut self, look: &Look<'_>) {
        self.misses_canary.store(look.blinded_by.contains(&Cause::Canary), Ordering::Relaxed);
        self.last_snapshot_ns.store(monotonic_ns(), Ordering::Relaxed);
        self.ready.store(true, Ordering::Relaxed);
    }
}
