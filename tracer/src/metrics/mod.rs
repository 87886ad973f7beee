//! What `/metrics` shows: the state behind the metrics, which the watching thread keeps, and the page.
//!
//! Layer 5: a sink, which uses what lies below.

pub mod blind;
mod blocked;
mod families;
pub mod health;
mod table;

use std::{
    hash::{BuildHasher, Hash},
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use anyhow::Result;
use hashbrown::{HashMap, HashSet};
use prometheus::{
    Encoder, TextEncoder,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use tracer_ebpf::abi::{BUCKETS, FIRST_BUCKET_LOG2};

use self::{
    blocked::Blocked,
    families::{histograms, numbers},
    table::{
        BLIND, BLOCKED, BUILD, DROPPED, DURATION, EXCUSED, LOST, OPEN_STALLS, PROBE, SNAPSHOT, STALL_SECONDS,
        STALLS, WAITING, WITHOUT_SERIES,
    },
};
use crate::{
    collect::losses::Loss,
    diagnose::verdict::Class,
    metrics::blind::{Blindness, Cause},
    model::wait::ProcessId,
};

/// Series a labelled family has at most.
pub const SERIES: usize = 1000;
/// Series of open stalls at most.
pub const STALL_SERIES: usize = 200;
/// How long a series stays that nothing is added to.
const EXPIRY: Duration = Duration::from_secs(300);
/// Folded keys that are remembered, each of which counts once. Beyond, they are forgotten and count again.
const FOLDED: usize = 16_384;
/// What the labels of folded series say.
const OTHER: &str = "other";

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

impl BlockedKey {
    /// Of the folded series.
    fn other() -> Self {
        Self { process: None, syscall: OTHER, kind: OTHER }
    }
}

/// Ended waits of one series.
#[derive(Clone, Debug, Default)]
pub struct Durations {
    /// Waits.
    pub count: u64,
    /// Sum of their durations, nanoseconds.
    pub sum_ns: u64,
    /// Waits by bucket, not cumulative.
    pub buckets: [u64; BUCKETS],
    /// When something was last added; `None` since the last look.
    used_ns: Option<u64>,
}

/// An open stall's labels and age.
pub struct StallSeries {
    /// Values of the labels of `tracer_stall_seconds`.
    pub labels: [String; 12],
    /// Its age.
    pub age: Duration,
}

/// Reasons of `tracer_dropped_series_total`: the family that was full.
const DURATION_SERIES: &str = "wait_duration";
const BLOCKED_SERIES: &str = "blocked_seconds";

/// Everything a scrape shows.
#[derive(Default)]
pub struct State {
    /// Open stalls that have a series of their own, [`STALL_SERIES`] at most.
    pub stalls: Vec<StallSeries>,
    /// Open stalls that have none.
    pub without_series: usize,
    /// What keeps the agent from seeing.
    pub blind: Blindness,
    /// Open stalls by class.
    pub open_stalls: HashMap<Class, u64>,
    /// Stalls opened by class.
    pub opened: HashMap<Class, u64>,
    /// Waiting threads by class.
    pub waiting: HashMap<Class, u64>,
    /// Waits that a baseline keeps from being flagged.
    pub excused: u64,
    /// What has been lost so far.
    pub lost: HashMap<Loss, u64>,
    /// Kernel programs: name, mechanism, and whether it works.
    pub probes: Vec<(&'static str, &'static str, bool)>,
    durations: HashMap<DurationKey, Durations>,
    blocked: HashMap<BlockedKey, Blocked>,
    /// Users of the processes that waited at the last look.
    users: HashMap<ProcessId, u32>,
    /// Series of `blocked` by user; `None`: of processes that no look has seen waiting.
    shares: HashMap<Option<u32>, usize>,
    /// No share was larger at the last look.
    largest: usize,
    /// Of the next series of `blocked`.
    next_order: u64,
    /// Names of the processes of `blocked`. One that executes another program has that one's name everywhere.
    names: HashMap<ProcessId, String>,
    folded: Folded,
    looks: u64,
    snapshots: HashMap<&'static str, (u64, Duration, [u64; SNAPSHOT_BUCKETS.len()])>,
}

/// Upper bounds of a snapshot's duration, seconds.
const SNAPSHOT_BUCKETS: [f64; 8] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 1.0];

impl State {
    /// Counts ended waits.
    pub fn add_durations(&mut self, key: DurationKey, add: &tracer_ebpf::abi::Histogram) {
        let fold = || DurationKey { comm: OTHER.into(), syscall: OTHER, kind: OTHER };
        let (series, _) = bounded(&mut self.durations, &mut self.folded, key, fold, DURATION_SERIES);
        series.used_ns = None;
        series.count += add.count;
        series.sum_ns += add.sum_ns;
        for (sum, more) in series.buckets.iter_mut().zip(add.buckets) {
            *sum += u64::from(more);
        }
    }

    /// A process's name, if it is known.
    pub fn name(&self, process: &ProcessId) -> Option<&str> {
        self.names.get(process).map(String::as_str)
    }

    /// Names a process, or names it anew.
    pub fn set_name(&mut self, process: ProcessId, name: String) {
        self.names.insert(process, name);
    }

    /// Adds the time of ended waits. Whether the key has a series of its own.
    pub fn add_blocked(&mut self, key: BlockedKey, ns: u64) -> bool {
        let (series, own) = self.blocked_series(key);
        series.ended_ns += ns;
        own
    }

    /// Begins the account of open waits anew.
    pub fn reset_open(&mut self) {
        self.blocked.values_mut().for_each(|series| series.open_ns = 0);
    }

    /// Adds the age of a wait that lasts. Whether the key has a series of its own.
    pub fn add_open(&mut self, key: BlockedKey, ns: u64) -> bool {
        let (series, own) = self.blocked_series(key);
        series.open_ns += ns;
        own
    }

    /// Says whose the processes are that wait.
    pub fn set_users(&mut self, users: HashMap<ProcessId, u32>) {
        self.users = users;
    }

    fn blocked_series(&mut self, key: BlockedKey) -> (&mut Blocked, bool) {
        let user = key.process.and_then(|process| self.users.get(&process)).copied();
        let is_new = !self.blocked.contains_key(&key);
        if is_new && self.blocked.len() >= SERIES {
            self.make_room(user);
        }
        let (series, own) =
            bounded(&mut self.blocked, &mut self.folded, key, BlockedKey::other, BLOCKED_SERIES);
        series.used_ns = None;
        if own {
            series.user = user.or(series.user);
            if is_new {
                series.order = self.next_order;
                self.next_order += 1;
                *self.shares.entry(series.user).or_default() += 1;
            }
        }
        (series, own)
    }

    /// Folds the latest series of whoever has most, if that is more than this user has or would have.
    fn make_room(&mut self, user: Option<u32>) {
        let has = self.shares.get(&user).copied().unwrap_or_default();
        // Most of those for whom there is no room are of whoever has most.
        if has + 1 >= self.largest {
            return;
        }
        let Some((most, number)) =
            self.shares.iter().max_by_key(|(_, number)| **number).map(|(user, number)| (*user, *number))
        else {
            return;
        };
        self.largest = number;
        let latest = self.blocked.iter().filter(|(key, series)| key.process.is_some() && series.user == most);
        let latest = latest.max_by_key(|(_, series)| series.order).map(|(key, _)| key.clone());
        if let Some(key) = latest.filter(|_| has + 1 < number)
            && let Some(series) = self.blocked.remove(&key)
        {
            self.folded.count(BLOCKED_SERIES, &key);
            self.blocked.entry(BlockedKey::other()).or_default().take_over(&series);
            self.shares.insert(most, number - 1);
        }
    }

    /// How many looks have been accounted for.
    pub fn looks(&self) -> u64 {
        self.looks
    }

    /// Processes whose series nothing has been added to for long: [`settle`](Self::settle) drops them unless they live.
    pub fn expired(&self, now_ns: u64) -> Vec<ProcessId> {
        let expired = |series: &Blocked| {
            series.used_ns.is_some_and(|used_ns| now_ns.saturating_sub(used_ns) >= EXPIRY.as_nanos() as u64)
        };
        let expired = self.blocked.iter().filter(|(_, series)| expired(series));
        let processes: HashSet<ProcessId> = expired.filter_map(|(key, _)| key.process).collect();
        processes.into_iter().collect()
    }

    /// Ends the account of a snapshot: counters move up, series that are over go. Of a series that nothing was added to for long
    /// it is asked whether the process lives: then it stays, as a counter never falls. Time that
    /// `may_return` to a process's account is waited for.
    pub fn settle(
        &mut self,
        now_ns: u64,
        may_return: impl Fn(Option<&ProcessId>) -> bool,
        lives: impl Fn(&ProcessId) -> bool,
    ) {
        self.looks += 1;
        let expired = |used_ns: &mut Option<u64>| {
            now_ns.saturating_sub(*used_ns.get_or_insert(now_ns)) >= EXPIRY.as_nanos() as u64
        };
        self.durations.retain(|key, series| !expired(&mut series.used_ns) || key.syscall == OTHER);
        self.blocked.retain(|key, series| {
            series.settle(may_return(key.process.as_ref()));
            let Some(process) = &key.process else { return true };
            if !expired(&mut series.used_ns) {
                return true;
            }
            series.used_ns = Some(now_ns);
            lives(process)
        });
        self.shares.clear();
        for (_, series) in self.blocked.iter().filter(|(key, _)| key.process.is_some()) {
            *self.shares.entry(series.user).or_default() += 1;
        }
        self.largest = self.shares.values().copied().max().unwrap_or_default();
        let shown: HashSet<&ProcessId> = self.blocked.keys().filter_map(|key| key.process.as_ref()).collect();
        self.names.retain(|process, _| shown.contains(process));
    }

    /// Counts a snapshot.
    pub fn add_snapshot(&mut self, source: &'static str, duration: Duration) {
        let (count, sum, buckets) = self.snapshots.entry(source).or_default();
        *count += 1;
        *sum += duration;
        for (bucket, bound) in buckets.iter_mut().zip(SNAPSHOT_BUCKETS) {
            *bucket += u64::from(duration.as_secs_f64() <= bound);
        }
    }

    /// Labels and values of time blocked. A pid that was reused has one series: its latest process's.
    fn blocked_values(&self) -> Vec<(Vec<String>, f64)> {
        let mut latest: HashMap<Vec<String>, (u64, f64)> = HashMap::new();
        for (key, series) in &self.blocked {
            let pid = key.process.map_or_else(|| OTHER.to_owned(), |process| process.pid.to_string());
            let name =
                key.process.map_or(OTHER, |process| self.name(&process).unwrap_or_default()).to_owned();
            let labels = vec![pid, name, key.syscall.to_owned(), key.kind.to_owned()];
            let start = key.process.map_or(0, |process| process.start_ns);
            let value = (start, series.shown_ns as f64 / 1e9);
            latest
                .entry(labels)
                .and_modify(|old| {
                    if old.0 < start {
                        *old = value
                    }
                })
                .or_insert(value);
        }
        latest.into_iter().map(|(labels, (_, value))| (labels, value)).collect()
    }

    fn families(&self) -> Vec<MetricFamily> {
        let by_class = |map: &HashMap<Class, u64>| -> Vec<(Vec<String>, f64)> {
            let value = |class: &Class| map.get(class).copied().unwrap_or(0) as f64;
            Class::ALL.iter().map(|class| (vec![class.label().to_owned()], value(class))).collect()
        };
        let by_reason = |map: &HashMap<&'static str, u64>| -> Vec<(Vec<String>, f64)> {
            map.iter().map(|(reason, value)| (vec![(*reason).to_owned()], *value as f64)).collect()
        };
        // A counter that appears with its first increment hides it from `increase()`.
        let mut dropped = HashMap::from([(DURATION_SERIES, 0), (BLOCKED_SERIES, 0)]);
        dropped.extend(&self.folded.by_family);
        let mut families = vec![
            numbers(
                &STALL_SECONDS,
                self.stalls.iter().map(|s| (s.labels.to_vec(), s.age.as_secs_f64())).collect(),
            ),
            numbers(&WITHOUT_SERIES, vec![(Vec::new(), self.without_series as f64)]),
            numbers(&OPEN_STALLS, by_class(&self.open_stalls)),
            numbers(&STALLS, by_class(&self.opened)),
            numbers(&WAITING, by_class(&self.waiting)),
            numbers(&EXCUSED, vec![(Vec::new(), self.excused as f64)]),
            histograms(
                &DURATION,
                self.durations
                    .iter()
                    .map(|(key, durations)| {
                        let labels = vec![key.comm.clone(), key.syscall.to_owned(), key.kind.to_owned()];
                        (labels, durations.count, durations.sum_ns as f64 / 1e9, wait_buckets(durations))
                    })
                    .collect(),
            ),
            numbers(&BLOCKED, self.blocked_values()),
            numbers(
                &LOST,
                self.lost
                    .iter()
                    .map(|(loss, value)| (vec![loss.reason().to_owned()], *value as f64))
                    .collect(),
            ),
            numbers(&DROPPED, by_reason(&dropped)),
            histograms(
                &SNAPSHOT,
                self.snapshots
                    .iter()
                    .map(|(source, (count, sum, buckets))| {
                        let buckets = SNAPSHOT_BUCKETS.iter().copied().zip(*buckets).collect();
                        (vec![(*source).to_owned()], *count, sum.as_secs_f64(), buckets)
                    })
                    .collect(),
            ),
            numbers(
                &PROBE,
                self.probes
                    .iter()
                    .map(|(probe, mechanism, up)| {
                        (vec![(*probe).to_owned(), (*mechanism).to_owned()], f64::from(u8::from(*up)))
                    })
                    .collect(),
            ),
            numbers(
                &BLIND,
                Cause::ALL
                    .iter()
                    .map(|cause| {
                        let is_so = self.blind.is_so(*cause);
                        (vec![cause.label().to_owned()], f64::from(u8::from(is_so)))
                    })
                    .collect(),
            ),
            numbers(&BUILD, vec![(vec![env!("CARGO_PKG_VERSION").to_owned()], 1.0)]),
        ];
        families.retain(|family| !family.get_metric().is_empty());
        families
    }
}

/// Cumulative counts with their bounds in seconds, empty ones at the far end left out.
fn wait_buckets(durations: &Durations) -> Vec<(f64, u64)> {
    let used = durations.buckets.iter().rposition(|count| *count != 0).map_or(0, |last| last + 1);
    let mut sum = 0;
    (0..used.min(BUCKETS - 1))
        .map(|i| {
            sum += durations.buckets[i];
            ((1u64 << (i as u32 + FIRST_BUCKET_LOG2)) as f64 / 1e6, sum)
        })
        .collect()
}

/// What was folded: keys, each of which counts once.
#[derive(Default)]
struct Folded {
    known: HashSet<u64>,
    by_family: HashMap<&'static str, u64>,
}

impl Folded {
    fn count(&mut self, family: &'static str, key: &impl Hash) {
        if self.known.len() >= FOLDED {
            self.known.clear();
        }
        if self.known.insert(self.known.hasher().hash_one((family, key))) {
            *self.by_family.entry(family).or_default() += 1;
        }
    }
}

/// The series of `key`, or the folded one where the family is full; and whether it is its own.
fn bounded<'a, K: Hash + Eq + Clone, V: Default>(
    family: &'a mut HashMap<K, V>,
    folded: &mut Folded,
    key: K,
    fold: impl Fn() -> K,
    name: &'static str,
) -> (&'a mut V, bool) {
    let other = fold();
    let room = SERIES - usize::from(!family.contains_key(&other));
    let own = family.len() < room || family.contains_key(&key);
    if !own {
        folded.count(name, &key);
    }
    let key = if own { key } else { other };
    (family.entry(key).or_default(), own)
}

/// The state shared between the thread that watches and the one that serves.
#[derive(Default)]
pub struct Metrics(Mutex<State>);

impl Metrics {
    /// The state, to read or change.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while it was held leaves numbers, and numbers are always whole.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The registry's view of [`Metrics`].
pub struct Exported(pub std::sync::Arc<Metrics>);

impl Collector for Exported {
    fn desc(&self) -> Vec<&Desc> {
        // Families come and go with what there is to show, so none is promised beforehand.
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.0.lock().families()
    }
}

/// The whole page, in Prometheus's text format.
pub fn page(metrics: &std::sync::Arc<Metrics>) -> Result<Vec<u8>> {
    let mut families = Exported(std::sync::Arc::clone(metrics)).collect();
    families.extend(prometheus::process_collector::ProcessCollector::for_self().collect());
    families.sort_by(|a, b| a.name().cmp(b.name()));
    let mut page = Vec::new();
    TextEncoder::new().encode(&families, &mut page)?;
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(pid: u32) -> BlockedKey {
        let process = Some(ProcessId { pid, start_ns: 1 });
        BlockedKey { process, syscall: "read", kind: "tcp" }
    }

    fn shown(state: &State, pid: u32) -> Option<u64> {
        state.blocked.get(&key(pid)).map(|series| series.shown_ns)
    }

    #[test]
    fn time_blocked_grows_while_a_wait_lasts_and_never_falls() {
        let mut state = State::default();
        for (open, ended, expected) in [(5, 0, 5), (9, 0, 9), (0, 0, 9), (0, 12, 12), (3, 0, 15)] {
            state.reset_open();
            state.add_open(key(1), open);
            state.add_blocked(key(1), ended);
            state.settle(0, |_| false, |_| true);
            assert_eq!(shown(&state, 1), Some(expected));
        }
    }

    #[test]
    fn series_are_bounded_and_expire() {
        let mut state = State::default();
        for _ in 0..3 {
            for pid in 0..5000 {
                state.add_blocked(key(pid), 1);
            }
        }
        assert_eq!(state.blocked.len(), SERIES);
        assert_eq!(state.folded.by_family.get("blocked_seconds"), Some(&4001), "each counts once");
        state.settle(0, |_| false, |_| false);
        assert_eq!(state.blocked.len(), SERIES, "they stay a while");
        state.settle(EXPIRY.as_nanos() as u64, |_| false, |_| false);
        assert_eq!(state.blocked.len(), 1, "the folded series has no process");
    }

    /// One user has more processes than there are series; another's come later.
    #[test]
    fn nobody_has_all_of_the_series() {
        let mut state = State::default();
        let process = |pid| ProcessId { pid, start_ns: 1 };
        let user = |pid: u32| if pid < 5000 { 33 } else { 0 };
        state.set_users((0..5010).map(|pid| (process(pid), user(pid))).collect());
        let mut look = |pids: std::ops::Range<u32>| {
            state.reset_open();
            pids.for_each(|pid| {
                state.add_open(key(pid), 10);
            });
            state.settle(0, |_| false, |_| true);
            let all: u64 = state.blocked.values().map(|series| series.shown_ns).sum();
            let own = |pids: std::ops::Range<u32>| pids.filter(|pid| shown(&state, *pid).is_some()).count();
            (state.blocked.len(), all, own(0..5000), own(5000..5010))
        };
        assert_eq!(look(0..5000), (SERIES, 50_000, SERIES - 1, 0));
        assert_eq!(look(0..5010), (SERIES, 50_100, SERIES - 11, 10));
        assert_eq!(look(0..5010), (SERIES, 50_100, SERIES - 11, 10), "and so it stays");
    }

    #[test]
    fn names_of_programs_that_ran_once_make_room_for_others() {
        let minute = 60_000_000_000;
        let waits = tracer_ebpf::abi::Histogram { count: 1, sum_ns: 2, comm: [0; 16], buckets: [1; BUCKETS] };
        let named = |comm: &str| DurationKey { comm: comm.into(), syscall: "read", kind: "tcp" };
        let mut state = State::default();
        state.add_durations(named("busy"), &waits);
        for number in 0..5000 {
            state.add_durations(named(&number.to_string()), &waits);
        }
        assert_eq!(state.durations.len(), SERIES);
        for now in 0..6 {
            state.add_durations(named("busy"), &waits);
            state.settle(now * minute, |_| false, |_| false);
        }
        state.add_durations(named("late"), &waits);
        let mut names: Vec<(&str, u64)> =
            state.durations.iter().map(|(key, waits)| (&*key.comm, waits.count)).collect();
        names.sort_unstable();
        assert_eq!(names, [("busy", 7), ("late", 1), (OTHER, 4002)]);
    }

    /// It waits now and then, or, at work, not at all for a while: its counter does not begin anew.
    #[test]
    fn time_blocked_of_a_process_that_lives_stays() {
        let mut state = State::default();
        state.add_blocked(key(1), 5);
        for minute in 0..20 {
            state.reset_open();
            if minute % 7 == 6 {
                state.add_open(key(1), 2);
            }
            state.settle(minute * 60_000_000_000, |_| false, |_| true);
        }
        assert_eq!(shown(&state, 1), Some(9));
        state.settle(22 * 60_000_000_000, |_| false, |_| false);
        assert_eq!(shown(&state, 1), Some(9), "its end is not asked for at each look");
        state.settle(23 * 60_000_000_000, |_| false, |_| false);
        assert_eq!(shown(&state, 1), None);
    }

    #[test]
    fn every_cause_of_blindness_is_on_the_page() {
        let metrics = std::sync::Arc::new(Metrics::default());
        metrics.lock().blind.report(Cause::Series);
        assert_eq!(metrics.lock().blind.settle(1).len(), 1);
        let page = String::from_utf8(page(&metrics).expect("encodes")).expect("is text");
        for cause in Cause::ALL {
            let value = u8::from(*cause == Cause::Series);
            assert!(
                page.contains(&format!("tracer_blind{{cause=\"{}\"}} {value}\n", cause.label())),
                "{page}"
            );
        }
    }

    #[test]
    fn a_reused_pid_has_one_series() {
        let mut state = State::default();
        let again = BlockedKey { process: Some(ProcessId { pid: 1, start_ns: 9 }), ..key(1) };
        state.add_blocked(key(1), 1_000_000_000);
        state.add_blocked(again, 2_000_000_000);
        state.settle(0, |_| false, |_| true);
        assert_eq!(state.blocked_values().iter().map(|(_, value)| *value).collect::<Vec<_>>(), vec![2.0]);
    }

    #[test]
    fn buckets_are_cumulative_and_in_seconds() {
        let mut durations = Durations { count: 3, sum_ns: 3, ..Durations::default() };
        durations.buckets[0] = 1;
        durations.buckets[2] = 2;
        assert_eq!(wait_buckets(&durations), vec![(0.000128, 1), (0.000256, 1), (0.000512, 3)]);
    }

    /// Something of everything that can be on the page.
    fn full() -> State {
        let mut state = State::default();
        let histogram = |comm: &str, count: u64, bucket: usize| {
            let mut histogram = tracer_ebpf::abi::Histogram {
                count,
                sum_ns: count * 1_500_000,
                comm: [0; 16],
                buckets: [0; BUCKETS],
            };
            histogram.comm[..comm.len()].copy_from_slice(comm.as_bytes());
            histogram.buckets[bucket] = count as u32;
            histogram
        };
        for (comm, syscall, kind, count, bucket) in [
            ("nginx", "read", "tcp", 3, 2),
            ("nginx", "read", "tcp", 1, 5),
            ("a\"b\\c", "futex", "none", 2, BUCKETS - 1),
        ] {
            let key = DurationKey { comm: comm.into(), syscall, kind };
            state.add_durations(key, &histogram(comm, count, bucket));
        }
        state.set_users((1..=3).map(|pid| (ProcessId { pid, start_ns: 1 }, pid)).collect());
        for pid in 1..=3 {
            state.set_name(ProcessId { pid, start_ns: 1 }, format!("worker-{pid}"));
            state.add_blocked(key(pid), u64::from(pid) * 1_250_000_000);
            state.add_open(key(pid), u64::from(pid) * 10_000_000);
        }
        state.folded.count(BLOCKED_SERIES, &key(4));
        for (series, age) in [(["7", "8", "psql"], 61_500), (["70", "71", "curl\n"], 5)] {
            let [pid, tid, comm] = series.map(str::to_owned);
            let others = ["db.service", "", "", "", "read", "3", "reply", "10.0.0.1:5000", "10.0.0.2:5432"];
            let labels = [pid, tid, comm].into_iter().chain(others.map(str::to_owned)).collect::<Vec<_>>();
            state.stalls.push(StallSeries {
                labels: labels.try_into().expect("twelve"),
                age: Duration::from_millis(age),
            });
        }
        state.without_series = 4;
        for (number, class) in (1..).zip(Class::ALL) {
            state.open_stalls.insert(*class, number);
            state.opened.insert(*class, 10 * number);
            state.waiting.insert(*class, 100 * number);
        }
        state.excused = 6;
        state.lost.extend(Loss::ALL.iter().copied().zip(0..));
        state.probes = vec![("waits", "tp_btf", true), ("snapshot", "iter", false)];
        for (source, milliseconds) in [("bpf", 1), ("bpf", 30), ("proc", 2000)] {
            state.add_snapshot(source, Duration::from_millis(milliseconds));
        }
        state.blind.report(Cause::LookCut);
        state.blind.settle(1);
        state.settle(0, |_| false, |_| true);
        state
    }

    /// The text of a state, without what the library says of the process.
    fn text(state: State) -> String {
        let metrics = std::sync::Arc::new(Metrics(Mutex::new(state)));
        let page = String::from_utf8(page(&metrics).expect("encodes")).expect("is text");
        let own = page.lines().filter(|line| !line.contains("process_"));
        own.map(|line| line.replace(env!("CARGO_PKG_VERSION"), "VERSION") + "\n").collect()
    }

    #[test]
    fn the_page_is_the_same_byte_for_byte() {
        insta::assert_snapshot!("full", text(full()));
        insta::assert_snapshot!("empty", text(State::default()));
    }

    #[test]
    fn the_page_is_text_with_every_kind_of_metric() {
        let metrics = std::sync::Arc::new(Metrics::default());
        let empty = tracer_ebpf::abi::Histogram { count: 1, sum_ns: 2, comm: [0; 16], buckets: [1; BUCKETS] };
        metrics
            .lock()
            .add_durations(DurationKey { comm: "a\"b".into(), syscall: "read", kind: "tcp" }, &empty);
        let page = String::from_utf8(page(&metrics).expect("encodes")).expect("is text");
        assert!(page.contains("# TYPE tracer_stalls_total counter"), "{page}");
        assert!(
            page.contains(
                "tracer_wait_duration_seconds_count{comm=\"a\\\"b\",syscall=\"read\",kind=\"tcp\"} 1"
            )
        );
        assert!(page.contains("process_resident_memory_bytes"));
    }
}
