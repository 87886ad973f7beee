//! Which events of the last minutes are known: what the stream tells and what the agent is asked for overlap, and neither is to be sent twice.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use crate::wire::{
    event::{ReceivedEvent, What},
    stall::StallObject,
};

/// By how much the beginnings of one wait may differ that two sources tell, milliseconds.
const SAME_MS: i64 = 1000;
/// How long events are known, milliseconds: longer than what is asked for reaches back.
const KNOWN_MS: i64 = 180_000;
/// So many are known at most.
const KNOWN_MAX: usize = 200_000;

/// What an event is about, as a number, and since when it is: of a stall the beginning of its wait, milliseconds of Unix time. Of an incident, whose id
/// says all, nothing.
pub type Identity = (u64, i64);

/// KnownEvent events: for each what it is about, and when it happened.
#[derive(Default)]
pub struct RecentEvents {
    known: HashMap<u64, Vec<KnownEvent>>,
    number: usize,
    new: Vec<(Identity, i64)>,
}

#[derive(Clone, Copy)]
struct KnownEvent {
    since_ms: i64,
    at_ms: i64,
}

impl RecentEvents {
    /// Those that an earlier process has known.
    pub fn of(known: impl IntoIterator<Item = (Identity, i64)>) -> Self {
        let mut recent = Self::default();
        for ((about, since_ms), at_ms) in known {
            recent.add(about, KnownEvent { since_ms, at_ms });
        }
        recent
    }

    /// Whether an event is not known yet; from now on it is.
    pub fn note(&mut self, event: &ReceivedEvent) -> bool {
        let (about, since_ms) = identity(&event.what);
        let is_same = |known: &KnownEvent| known.since_ms.abs_diff(since_ms) < SAME_MS.unsigned_abs();
        if self.known.get(&about).is_some_and(|known| known.iter().any(is_same)) {
            return false;
        }
        let at_ms = event.time.as_millisecond();
        self.add(about, KnownEvent { since_ms, at_ms });
        self.new.push(((about, since_ms), at_ms));
        true
    }

    /// Those that were noted since this was last asked.
    pub fn take_new(&mut self) -> Vec<(Identity, i64)> {
        std::mem::take(&mut self.new)
    }

    /// Forgets what is older than events are known at this moment, and says before when that was.
    pub fn forget(&mut self, now_ms: i64) -> i64 {
        let before_ms = now_ms - KNOWN_MS;
        let is_recent = |known: &KnownEvent| known.at_ms >= before_ms;
        // Of too many all go: at worst some are sent twice.
        let keeps = self.number <= KNOWN_MAX;
        self.known.retain(|_, known| {
            known.retain(|known| keeps && is_recent(known));
            !known.is_empty()
        });
        self.number = self.known.values().map(Vec::len).sum();
        before_ms
    }

    fn add(&mut self, about: u64, known: KnownEvent) {
        self.known.entry(about).or_default().push(known);
        self.number += 1;
    }
}

fn identity(what: &What) -> Identity {
    let mut hasher = DefaultHasher::new();
    what.name().hash(&mut hasher);
    let mut since_ms = 0;
    match what {
        What::StallOpened(stall) | What::StallClosed(stall) => {
            let StallObject { wait, .. } = &**stall;
            // A thread has one wait at a time, a process as many requests as it likes.
            let fd = wait.fd.filter(|_| wait.tid == 0);
            (wait.pid, wait.tid, fd, wait.start_ticks).hash(&mut hasher);
            since_ms = wait.since.as_millisecond();
        }
        What::IncidentOpened(incident) | What::IncidentClosed(incident) => incident.id.hash(&mut hasher),
    }
    (hasher.finish(), since_ms)
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};

    use super::*;
    use crate::history::samples::stall;

    fn opened(pid: u32, at: i64, since_ms: i64) -> ReceivedEvent {
        let mut stall = stall(pid, at, None);
        stall.wait.since = Timestamp::from_millisecond(since_ms).expect("a time");
        let time = stall.opened + SignedDuration::from_millis(since_ms % 7);
        ReceivedEvent { time, host: "web1".into(), what: What::StallOpened(Box::new(stall)) }
    }

    #[test]
    fn the_same_wait_is_known_and_another_of_the_same_thread_is_not() {
        let mut recent = RecentEvents::default();
        assert!(recent.note(&opened(1, 100, 70_000)) && !recent.note(&opened(1, 102, 70_020)));
        assert!(recent.note(&opened(1, 101, 72_000)) && recent.note(&opened(2, 100, 70_000)));
        let kept = recent.take_new();
        assert!(kept.len() == 3 && recent.take_new().is_empty());
        // So it is after a restart, until it is long ago.
        let mut again = RecentEvents::of(kept);
        assert!(!again.note(&opened(2, 100, 70_000)));
        assert_eq!(again.forget(100_000 + KNOWN_MS + 500), 100_500);
        assert!(again.note(&opened(2, 100, 70_000)));
    }
}
