//! Habit: how long a program's waits on a service usually take before an answer comes.
//!
//! A worker that asks a queue for its next job looks, on the wire, exactly like a request that is never answered. What
//! tells them apart is what they did before. Pure, but for the caller's clock.

use std::{collections::HashMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

/// A wait must be this many times older than its habit.
const FACTOR: u32 = 3;
/// A habit never excuses more than this.
const CAP: Duration = Duration::from_secs(6 * 3600);
/// How long a wait is remembered.
const MEMORY: u64 = 8 * 86_400;
/// A clock that is set back by more has been wrong, seconds.
const STEP: u64 = 86_400;
/// Waits remembered of each habit, the longest.
const SAMPLES: usize = 8;
/// Shorter waits are nobody's habit.
pub const LEAST: Duration = Duration::from_secs(1);
/// Habits kept.
const KEYS: usize = 1000;

/// Whose habit: this program, with this service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// Name of the thread.
    pub comm: String,
    /// Port of the peer.
    pub remote_port: u16,
}

/// A wait that an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// How long it lasted.
    pub seconds: f64,
    /// When it ended, seconds of Unix time.
    pub at: u64,
}

impl Sample {
    /// Whether it still counts. One of the future was taken while the clock was wrong.
    fn counts(&self, now: u64) -> bool {
        self.at + MEMORY > now && self.at < now + STEP
    }
}

/// All habits known.
#[derive(Debug, Default)]
pub struct Habits(HashMap<Arc<Key>, Vec<Sample>>);

impl Habits {
    /// A wait ended with bytes received.
    pub fn add(&mut self, key: &Arc<Key>, lasted: Duration, now: u64) {
        if lasted < LEAST {
            return;
        }
        if self.0.len() >= KEYS && !self.0.contains_key(key) {
            self.make_room(now);
        }
        let samples = self.0.entry(Arc::clone(key)).or_default();
        samples.retain(|sample| sample.counts(now));
        samples.push(Sample { seconds: lasted.as_secs_f64(), at: now });
        samples.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        samples.truncate(SAMPLES);
    }

    /// Forgets those that do not count any more, or the one that was last seen longest ago.
    fn make_room(&mut self, now: u64) {
        self.0.retain(|_, samples| samples.iter().any(|sample| sample.counts(now)));
        if self.0.len() >= KEYS {
            let last = |samples: &[Sample]| samples.iter().map(|sample| sample.at).max();
            let oldest =
                self.0.iter().min_by_key(|(_, samples)| last(samples)).map(|(key, _)| Arc::clone(key));
            oldest.map(|key| self.0.remove(&key));
        }
    }

    /// How long such waits usually take: the longest length that was reached more than once, since one hang that
    /// recovered must not hide the next.
    pub fn usual(&self, key: &Key, now: u64) -> Option<Duration> {
        let recent = self.0.get(key)?.iter().filter(|sample| sample.counts(now));
        recent.map(|sample| Duration::from_secs_f64(sample.seconds)).nth(1)
    }

    /// How old a wait must be before it is flagged, for its habit's sake.
    pub fn patience(&self, key: &Key, now: u64) -> Duration {
        self.usual(key, now).map_or(Duration::ZERO, |usual| (usual * FACTOR).min(CAP))
    }

    /// To be kept over restarts.
    pub fn export(&self) -> Vec<(Key, Vec<Sample>)> {
        let mut all: Vec<_> =
            self.0.iter().map(|(key, samples)| ((**key).clone(), samples.clone())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// What was kept.
    pub fn import(kept: Vec<(Key, Vec<Sample>)>) -> Self {
        let sane = |sample: &Sample| sample.seconds.is_finite() && (0.0..1e9).contains(&sample.seconds);
        Self(
            kept.into_iter()
                .take(KEYS)
                .map(|(key, mut samples)| {
                    samples.retain(sane);
                    samples.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
                    samples.truncate(SAMPLES);
                    (Arc::new(key), samples)
                })
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Arc<Key> {
        Arc::new(Key { comm: "worker".into(), remote_port: 6379 })
    }

    const DAY: u64 = 86_400;

    #[test]
    fn what_came_more_than_once_is_a_habit() {
        let mut habits = Habits::default();
        assert_eq!(habits.patience(&key(), 0), Duration::ZERO);
        habits.add(&key(), Duration::from_secs(60), 0);
        assert_eq!(habits.patience(&key(), 0), Duration::ZERO, "once is no habit");
        habits.add(&key(), Duration::from_secs(50), 0);
        assert_eq!(habits.usual(&key(), 0), Some(Duration::from_secs(50)));
        assert_eq!(habits.patience(&key(), 0), Duration::from_secs(150));
    }

    #[test]
    fn one_long_hang_that_recovered_does_not_hide_the_next() {
        let mut habits = Habits::default();
        for _ in 0..20 {
            habits.add(&key(), Duration::from_secs(2), 0);
        }
        habits.add(&key(), Duration::from_secs(6 * 3600), 0);
        assert_eq!(habits.patience(&key(), 0), Duration::from_secs(6));
    }

    #[test]
    fn habits_are_forgotten_and_capped() {
        let mut habits = Habits::default();
        for _ in 0..2 {
            habits.add(&key(), Duration::from_secs(12 * 3600), 0);
        }
        assert_eq!(habits.patience(&key(), 7 * DAY), CAP);
        assert_eq!(habits.patience(&key(), 9 * DAY), Duration::ZERO);
    }

    #[test]
    fn what_a_wrong_clock_has_dated_does_not_count() {
        let mut habits = Habits::default();
        for _ in 0..2 {
            habits.add(&key(), Duration::from_secs(60), 30_000 * DAY);
        }
        assert_eq!(habits.patience(&key(), 20_000 * DAY), Duration::ZERO);
    }

    #[test]
    fn a_new_habit_takes_the_place_of_the_one_seen_longest_ago() {
        let of = |remote_port| Arc::new(Key { comm: "worker".into(), remote_port });
        let mut habits = Habits::default();
        for at in 0..2 * KEYS as u64 {
            habits.add(&of(at as u16), Duration::from_secs(60), at);
            habits.add(&key(), Duration::from_secs(60), at);
        }
        assert_eq!(habits.0.len(), KEYS);
        assert!(habits.0.contains_key(&of(2 * KEYS as u16 - 1)) && !habits.0.contains_key(&of(0)));
        assert_eq!(habits.usual(&key(), 2 * KEYS as u64), Some(Duration::from_secs(60)), "it is in use");
        // Those that do not count any more go first, all of them.
        habits.add(&of(60_000), Duration::from_secs(60), 9 * DAY);
        assert_eq!(habits.0.len(), 1);
    }

    #[test]
    fn they_survive_being_kept() {
        let mut habits = Habits::default();
        for seconds in [10, 20, 30] {
            habits.add(&key(), Duration::from_secs(seconds), 5);
        }
        let again = Habits::import(habits.export());
        assert_eq!(again.usual(&key(), 5), Some(Duration::from_secs(20)));
        let odd = vec![((*key()).clone(), vec![Sample { seconds: f64::NAN, at: 1 }; 3])];
        assert_eq!(Habits::import(odd).usual(&key(), 5), None);
    }
}
