//! The state behind the metrics: what the watching thread keeps up to date and a scrape reads. Pure.

use std::time::Duration;

use hashbrown::{HashMap, HashSet};

use super::{
    blocked::Blocked,
    families::{Histogram, Number},
    series::{
        BlockedKey, DurationKey, DurationSeries, Folded, OTHER, ResponseKey, SERIES_MAX, SeriesFamily,
        bounded,
    },
    services::ServiceSeries,
    stalls::{IncidentSeries, StallSeries},
};
use crate::{
    assess::blind::Blindness,
    collect::losses::Loss,
    model::{class::Class, histogram::WaitHistogram, request::RequestNumbers, wait::ProcessId},
};

/// How long a series stays that nothing is added to.
pub const EXPIRY: Duration = Duration::from_secs(300);

/// Everything a scrape shows.
#[derive(Default)]
pub struct State {
    /// Open incidents that have a series of their own.
    pub incidents: Vec<IncidentSeries>,
    /// Open incidents.
    pub open_incidents: usize,
    /// Open stalls that have a series of their own.
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
    /// Requests of event loops.
    pub requests: RequestNumbers,
    /// Requests that services have got and not answered.
    pub incoming: Vec<ServiceSeries>,
    /// Connections that only the other end has closed.
    pub unclosed: Vec<ServiceSeries>,
    /// Between the last two looks.
    pub interval: Duration,
    /// What has been lost so far.
    pub lost: HashMap<Loss, u64>,
    /// Kernel programs: name, mechanism, and whether it works.
    pub probes: Vec<(&'static str, &'static str, bool)>,
    durations: HashMap<DurationKey, DurationSeries>,
    responses: HashMap<ResponseKey, DurationSeries>,
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
    /// Series that there was no room for.
    pub(super) folded: Folded,
    looks: u64,
    snapshots: HashMap<&'static str, (u64, Duration, [u64; SNAPSHOT_BUCKETS.len()])>,
}

/// Upper bounds of a snapshot's duration, seconds.
const SNAPSHOT_BUCKETS: [f64; 8] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 1.0];

impl State {
    /// Counts ended waits.
    pub fn add_durations(&mut self, key: DurationKey, add: &WaitHistogram) {
        let (series, _) = bounded(
            &mut self.durations,
            &mut self.folded,
            SeriesFamily::Durations,
            key,
            DurationKey::other(),
        );
        series.add(add);
    }

    /// Counts answers.
    pub fn add_responses(&mut self, key: ResponseKey, add: &WaitHistogram) {
        let other = ResponseKey::other();
        let (series, _) = bounded(&mut self.responses, &mut self.folded, SeriesFamily::Responses, key, other);
        series.add(add);
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
        if is_new && self.blocked.len() >= SERIES_MAX {
            self.make_room(user);
        }
        let (series, own) =
            bounded(&mut self.blocked, &mut self.folded, SeriesFamily::Blocked, key, BlockedKey::other());
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
            self.folded.count(SeriesFamily::Blocked, &key);
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
        self.responses.retain(|key, series| !expired(&mut series.used_ns) || key.remote.is_none());
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

    /// `tracer_wait_duration_seconds`.
    pub(super) fn durations(&self) -> Vec<Histogram> {
        let labels = |key: &DurationKey| vec![key.comm.clone(), key.syscall.to_owned(), key.kind.to_owned()];
        self.durations.iter().map(|(key, durations)| durations.labelled(labels(key))).collect()
    }

    /// `tracer_response_seconds`.
    pub(super) fn responses(&self) -> Vec<Histogram> {
        let remote = |key: &ResponseKey| key.remote.map_or_else(|| OTHER.to_owned(), |at| at.to_string());
        let labels = |key: &ResponseKey| vec![key.comm.clone(), remote(key)];
        self.responses.iter().map(|(key, responses)| responses.labelled(labels(key))).collect()
    }

    /// `tracer_blocked_seconds_total`. A pid that was reused has one series: its latest process's.
    pub(super) fn blocked(&self) -> Vec<Number> {
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
        latest.into_iter().map(|(labels, (_, value))| Number::of(labels, value)).collect()
    }

    /// `tracer_snapshot_duration_seconds`.
    pub(super) fn snapshots(&self) -> Vec<Histogram> {
        let series = self.snapshots.iter().map(|(source, (count, sum, buckets))| Histogram {
            labels: vec![(*source).to_owned()],
            count: *count,
            sum: sum.as_secs_f64(),
            buckets: SNAPSHOT_BUCKETS.iter().copied().zip(*buckets).collect(),
        });
        series.collect()
    }
}

/// A series for each class, also of those of which there is nothing.
pub(super) fn by_class(numbers: &HashMap<Class, u64>) -> Vec<Number> {
    let number = |class: &Class| numbers.get(class).copied().unwrap_or(0) as f64;
    Class::ALL.iter().map(|class| Number::of([class.label()], number(class))).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{assess::blind::Cause, model::histogram::BUCKETS};

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
        assert_eq!(state.blocked.len(), SERIES_MAX);
        assert_eq!(state.folded.of(SeriesFamily::Blocked), 4001, "each counts once");
        state.settle(0, |_| false, |_| false);
        assert_eq!(state.blocked.len(), SERIES_MAX, "they stay a while");
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
        assert_eq!(look(0..5000), (SERIES_MAX, 50_000, SERIES_MAX - 1, 0));
        assert_eq!(look(0..5010), (SERIES_MAX, 50_100, SERIES_MAX - 11, 10));
        assert_eq!(look(0..5010), (SERIES_MAX, 50_100, SERIES_MAX - 11, 10), "and so it stays");
    }

    #[test]
    fn names_of_programs_that_ran_once_make_room_for_others() {
        let minute = 60_000_000_000;
        let waits = WaitHistogram { count: 1, sum_ns: 2, buckets: [1; BUCKETS] };
        let named = |comm: &str| DurationKey { comm: comm.into(), syscall: "read", kind: "tcp" };
        let mut state = State::default();
        state.add_durations(named("busy"), &waits);
        for number in 0..5000 {
            state.add_durations(named(&number.to_string()), &waits);
        }
        assert_eq!(state.durations.len(), SERIES_MAX);
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
    fn a_reused_pid_has_one_series() {
        let mut state = State::default();
        let again = BlockedKey { process: Some(ProcessId { pid: 1, start_ns: 9 }), ..key(1) };
        state.add_blocked(key(1), 1_000_000_000);
        state.add_blocked(again, 2_000_000_000);
        state.settle(0, |_| false, |_| true);
        assert_eq!(state.blocked(), [Number::of(["1", "", "read", "tcp"], 2.0)]);
    }

    /// Something of everything that can be on the page.
    pub(in super::super) fn full() -> State {
        let mut state = State::default();
        let histogram = |count: u64, bucket: usize| {
            let mut buckets = [0; BUCKETS];
            buckets[bucket] = count;
            WaitHistogram { count, sum_ns: count * 1_500_000, buckets }
        };
        for (comm, syscall, kind, count, bucket) in [
            ("nginx", "read", "tcp", 3, 2),
            ("nginx", "read", "tcp", 1, 5),
            ("a\"b\\c", "futex", "none", 2, BUCKETS - 1),
        ] {
            let key = DurationKey { comm: comm.into(), syscall, kind };
            state.add_durations(key, &histogram(count, bucket));
        }
        let remote = Some("10.0.0.2:5432".parse().expect("is one"));
        state.add_responses(ResponseKey { comm: "php-fpm".into(), remote }, &histogram(2, 4));
        state.add_responses(ResponseKey::other(), &histogram(1, 0));
        state.set_users((1..=3).map(|pid| (ProcessId { pid, start_ns: 1 }, pid)).collect());
        for pid in 1..=3 {
            state.set_name(ProcessId { pid, start_ns: 1 }, format!("worker-{pid}"));
            state.add_blocked(key(pid), u64::from(pid) * 1_250_000_000);
            state.add_open(key(pid), u64::from(pid) * 10_000_000);
        }
        state.folded.count(SeriesFamily::Blocked, &key(4));
        for (series, age) in [(["7", "8", "psql"], 61_500), (["70", "71", "curl\n"], 5)] {
            let [pid, tid, comm] = series.map(str::to_owned);
            let others =
                ["db.service", "", "", "", "read", "3", "reply", "10.0.0.1:5000", "10.0.0.2:5432", "6a-1"];
            let labels = [pid, tid, comm].into_iter().chain(others.map(str::to_owned)).collect::<Vec<_>>();
            state.stalls.push(StallSeries {
                labels: labels.try_into().expect("thirteen"),
                age: Duration::from_millis(age),
            });
        }
        state.incidents.push(IncidentSeries {
            labels: ["6a-1", "10.0.0.2:5432", "", "", "10.0.0.2:5432"].map(str::to_owned),
            oldest: Duration::from_millis(61_500),
            stalls: 2,
        });
        state.unclosed.push(ServiceSeries {
            labels: ["python3", "", "", "", "", ""].map(str::to_owned),
            number: 60,
            oldest: Duration::from_secs(600),
        });
        state.incoming.push(ServiceSeries {
            labels: ["node", "shop.service", "", "", "", "10.0.0.7:8080"].map(str::to_owned),
            number: 3,
            oldest: Duration::from_millis(40_500),
        });
        state.open_incidents = 1;
        state.without_series = 4;
        for (number, class) in (1..).zip(Class::ALL) {
            state.open_stalls.insert(*class, number);
            state.opened.insert(*class, 10 * number);
            state.waiting.insert(*class, 100 * number);
        }
        state.excused = 6;
        state.interval = Duration::from_secs(1);
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
}
