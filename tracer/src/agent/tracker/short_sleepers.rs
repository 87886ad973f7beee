//! Threads that sleep often and briefly: when is one of them looked into? Pure.
//!
//! A loop that wakes ten times a second for a timer of its own may wait for an answer all the while. No sleep of it ever grows
//! old enough to be looked at, so such threads take turns, seldom enough to cost nothing.

use std::time::Duration;

use hashbrown::HashMap;

use crate::model::wait::ThreadId;

/// Turns are no closer than this, whatever the threshold.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Nor further apart for a thread that may be stuck.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Nor for one that was at rest each time.
const PAUSE_MAX_AT_REST: Duration = Duration::from_secs(60);
/// A thread that was not seen in a brief sleep for this long is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(120);

/// A thread's next turn.
#[derive(Clone, Copy, Debug)]
struct Turn {
    due_ns: u64,
    pause: Duration,
    seen_ns: u64,
    /// It has had its first.
    had: bool,
}

/// Whose turn is when.
#[derive(Debug, Default)]
pub struct ShortSleepers(HashMap<ThreadId, Turn>);

impl ShortSleepers {
    /// Whether it is the turn of a thread that was found in a brief sleep; `threshold` is the least of any class. The first
    /// turn comes as soon as it is found in the same call `again`, or after a pause: most threads sleep briefly once, and then
    /// do something else.
    pub fn is_due(&mut self, thread: ThreadId, again: bool, now_ns: u64, threshold: Duration) -> bool {
        let pause = (threshold / 4).clamp(PAUSE_MIN, PAUSE_MAX);
        let first = || Turn { due_ns: now_ns + pause.as_nanos() as u64, pause, seen_ns: now_ns, had: false };
        let turn = self.0.entry(thread).or_insert_with(first);
        if again && !turn.had {
            turn.due_ns = now_ns;
        }
        turn.seen_ns = now_ns;
        turn.due_ns <= now_ns
    }

    /// It has been looked into, and was at rest or not.
    pub fn looked(&mut self, thread: &ThreadId, now_ns: u64, at_rest: bool, threshold: Duration) {
        let Some(turn) = self.0.get_mut(thread) else { return };
        turn.had = true;
        turn.pause = if at_rest {
            (turn.pause * 2).min(PAUSE_MAX_AT_REST)
        } else {
            (threshold / 4).clamp(PAUSE_MIN, PAUSE_MAX)
        };
        turn.due_ns = now_ns + turn.pause.as_nanos() as u64;
    }

    /// Forgets those not seen for long.
    pub fn forget(&mut self, now_ns: u64) {
        self.0.retain(|_, turn| now_ns.saturating_sub(turn.seen_ns) < FORGET_AFTER.as_nanos() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::wait::ProcessId;

    const SECOND: u64 = 1_000_000_000;

    fn thread(tid: u32) -> ThreadId {
        ThreadId { process: ProcessId { pid: tid, start_ns: 1 }, tid, start_ns: 1 }
    }

    /// Seconds at which a thread seen once a second is looked into.
    fn turns(threshold: u64, again: bool, at_rest: bool, seconds: u64) -> Vec<u64> {
        let (mut short_sleepers, threshold) = (ShortSleepers::default(), Duration::from_secs(threshold));
        let mut turns = Vec::new();
        for second in 0..seconds {
            if short_sleepers.is_due(thread(1), again && second > 0, second * SECOND, threshold) {
                short_sleepers.looked(&thread(1), second * SECOND, at_rest, threshold);
                turns.push(second);
            }
        }
        turns
    }

    #[test]
    fn a_thread_that_may_be_stuck_has_its_turn_well_within_its_threshold() {
        assert_eq!(turns(2, false, false, 6), [1, 2, 3, 4, 5]);
        assert_eq!(turns(30, false, false, 30), [8, 16, 24]);
        assert_eq!(turns(600, false, false, 41), [10, 20, 30, 40]);
        assert_eq!(turns(30, true, false, 20), [1, 9, 17], "the same call again");
    }

    #[test]
    fn one_that_rests_is_left_in_peace() {
        assert_eq!(turns(40, false, true, 200), [10, 30, 70, 130, 190]);
        assert_eq!(turns(40, true, true, 100), [1, 21, 61]);
    }

    #[test]
    fn who_has_gone_is_forgotten() {
        let mut short_sleepers = ShortSleepers::default();
        short_sleepers.is_due(thread(1), false, 0, PAUSE_MIN);
        short_sleepers.forget(60 * SECOND);
        assert_eq!(short_sleepers.0.len(), 1);
        short_sleepers.forget(120 * SECOND);
        assert_eq!(short_sleepers.0.len(), 0);
    }
}
