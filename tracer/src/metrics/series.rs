//! How many series a family has: what is more than that is folded into one. Pure.

use std::{
    hash::{BuildHasher, Hash},
    net::SocketAddr,
};

use hashbrown::{HashMap, HashSet};

use super::families::{Histogram, Number};
use crate::model::{
    histogram::{BUCKETS, WaitHistogram, bound_us},
    wait::ProcessId,
};

/// Series a labelled family has at most.
pub const SERIES_MAX: usize = 1000;
/// Folded keys that are remembered, each of which counts once. Beyond, they are forgotten and count again.
pub const FOLDED_MAX: usize = 16_384;
/// What the labels of folded series say.
pub const OTHER: &str = "other";

/// A family with a limited number of series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SeriesFamily {
    /// `tracer_wait_duration_seconds`.
    Durations,
    /// `tracer_blocked_seconds_total`.
    Blocked,
    /// `tracer_response_seconds`.
    Responses,
}

impl SeriesFamily {
    const ALL: [SeriesFamily; 3] = [SeriesFamily::Durations, SeriesFamily::Blocked, SeriesFamily::Responses];

    /// `reason` of `tracer_dropped_series_total`.
    fn reason(self) -> &'static str {
        match self {
            SeriesFamily::Durations => "wait_duration",
            SeriesFamily::Blocked => "blocked_seconds",
            SeriesFamily::Responses => "response_seconds",
        }
    }
}

/// Labels of ended waits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DurationKey {
    /// Name of the process.
    pub comm: String,
    /// The call.
    pub syscall: &'static str,
    /// Kind of the target.
    pub kind: &'static str,
}

/// Labels of time spent waiting.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockedKey {
    /// The process; `None` for the folded series.
    pub process: Option<ProcessId>,
    /// The call.
    pub syscall: &'static str,
    /// Kind of the target.
    pub kind: &'static str,
}

/// Labels of answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResponseKey {
    /// Name of the process that asked.
    pub comm: String,
    /// Address of the service; `None` for the folded series.
    pub remote: Option<SocketAddr>,
}

impl ResponseKey {
    /// Of the folded series.
    pub fn other() -> Self {
        Self { comm: OTHER.into(), remote: None }
    }
}

impl DurationKey {
    /// Of the folded series.
    pub fn other() -> Self {
        Self { comm: OTHER.into(), syscall: OTHER, kind: OTHER }
    }
}

impl BlockedKey {
    /// Of the folded series.
    pub fn other() -> Self {
        Self { process: None, syscall: OTHER, kind: OTHER }
    }
}

/// Ended waits, or answers, of one series.
#[derive(Clone, Debug, Default)]
pub struct DurationSeries {
    /// How many.
    pub count: u64,
    /// Sum of their durations, nanoseconds.
    pub sum_ns: u64,
    /// They by bucket, not cumulative.
    pub buckets: [u64; BUCKETS],
    /// When something was last added; `None` since the last look.
    pub used_ns: Option<u64>,
}

impl DurationSeries {
    /// Adds more of them.
    pub fn add(&mut self, more: &WaitHistogram) {
        self.used_ns = None;
        self.count += more.count;
        self.sum_ns += more.sum_ns;
        for (sum, more) in self.buckets.iter_mut().zip(more.buckets) {
            *sum += more;
        }
    }

    /// The metric's series with these labels.
    pub fn labelled(&self, labels: Vec<String>) -> Histogram {
        let (count, sum) = (self.count, self.sum_ns as f64 / 1e9);
        Histogram { labels, count, sum, buckets: self.cumulative() }
    }

    /// Cumulative counts with their bounds in seconds, empty ones at the far end left out.
    pub fn cumulative(&self) -> Vec<(f64, u64)> {
        let used = self.buckets.iter().rposition(|count| *count != 0).map_or(0, |last| last + 1);
        let mut sum = 0;
        (0..used.min(BUCKETS - 1))
            .map(|i| {
                sum += self.buckets[i];
                (bound_us(i) as f64 / 1e6, sum)
            })
            .collect()
    }
}

/// What was folded: keys, each of which counts once.
#[derive(Default)]
pub struct Folded {
    known: HashSet<u64>,
    by_family: HashMap<SeriesFamily, u64>,
}

impl Folded {
    /// Counts a key that was folded, if it was not before.
    pub fn count(&mut self, family: SeriesFamily, key: &impl Hash) {
        if self.known.len() >= FOLDED_MAX {
            self.known.clear();
        }
        if self.known.insert(self.known.hasher().hash_one((family, key))) {
            *self.by_family.entry(family).or_default() += 1;
        }
    }

    /// How many of a family were.
    pub fn of(&self, family: SeriesFamily) -> u64 {
        self.by_family.get(&family).copied().unwrap_or_default()
    }

    /// The same of each. A counter that appears with its first increment hides it from `increase()`.
    pub fn by_family(&self) -> Vec<Number> {
        SeriesFamily::ALL
            .into_iter()
            .map(|family| Number::of([family.reason()], self.of(family) as f64))
            .collect()
    }
}

/// The series of `key`, or the folded one where the family is full; and whether it is its own.
pub fn bounded<'a, K: Hash + Eq + Clone, V: Default>(
    series: &'a mut HashMap<K, V>,
    folded: &mut Folded,
    family: SeriesFamily,
    key: K,
    other: K,
) -> (&'a mut V, bool) {
    let room = SERIES_MAX - usize::from(!series.contains_key(&other));
    let own = series.len() < room || series.contains_key(&key);
    if !own {
        folded.count(family, &key);
    }
    let key = if own { key } else { other };
    (series.entry(key).or_default(), own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_in_seconds() {
        let mut durations = DurationSeries { count: 3, sum_ns: 3, ..DurationSeries::default() };
        durations.buckets[0] = 1;
        durations.buckets[2] = 2;
        assert_eq!(durations.cumulative(), vec![(0.000128, 1), (0.000256, 1), (0.000512, 3)]);
    }
}
