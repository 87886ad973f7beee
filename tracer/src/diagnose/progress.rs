//! Since when has nothing moved on the connection that a wait is on? Pure.

use std::time::Duration;

use crate::{
    model::syscalls::Direction,
    model::wait::{SocketFacts, Wait},
    resolve::Resolved,
};

/// For how long nothing has moved on the connection that a reader waits on; nothing where it is not one.
pub fn unmoved(wait: &Wait) -> Duration {
    match &wait.socket {
        SocketFacts::Tcp(facts) if wait.call.direction() == Some(Direction::Receive) => {
            facts.unmoved().unwrap_or_default()
        }
        _ => Duration::ZERO,
    }
}

/// Dates a reader's wait back to its connection's last progress: short polls again and again, and a signal in between,
/// are one wait. Both clocks in nanoseconds, `CLOCK_MONOTONIC` and `CLOCK_BOOTTIME`.
pub fn date_back(wait: &mut Wait, resolved: &Resolved, now_ns: u64, boottime_ns: u64) {
    let (Some(Direction::Receive), SocketFacts::Tcp(facts)) = (resolved.direction, &resolved.socket) else {
        return;
    };
    let lived = Duration::from_nanos(boottime_ns.saturating_sub(wait.thread.start_ns));
    if let Some(since) = facts.unmoved().map(|since| since.min(lived)).filter(|since| *since > wait.age) {
        wait.date_back(now_ns.saturating_sub(since.as_nanos() as u64));
    }
}
