//! What the service manager is told (sd_notify(3)): that the agent is ready, that it is well, that it ends. Where there is none,
//! nothing.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use sd_notify::NotifyState;

use crate::export::http::Health;

/// How often it is asked whether the first snapshot has been taken.
const LOOK: Duration = Duration::from_millis(50);

/// Says that the agent is ready when it is, and from then on that it is well, as long as it is; never ends.
pub async fn follow(health: Arc<Health>) {
    while !health.ready.load(Ordering::Relaxed) {
        tokio::time::sleep(LOOK).await;
    }
    tell(&[NotifyState::Ready]);
    let Some(every) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    loop {
        if health.is_well() {
            tell(&[NotifyState::Watchdog]);
        }
        tokio::time::sleep(every / 3).await;
    }
}

/// Says that the agent reads its configuration again; when it has, [`reloaded`].
pub fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

/// Says that it has, and what came of it.
pub fn reloaded(what: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(what)]);
}

/// Says that the agent ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    // A manager that does not listen learns from the process itself.
    let _ = sd_notify::notify(states);
}
