//! Habit: how long a program's waits on a service usually take before an answer comes.
//!
//! A worker that asks a queue for its next job looks, on the wire, exactly like a request that is never answered. What
//! tells them apart is what they did before. Pure, but for the caller's clock.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    model::baseline::Excuse,
    model::cgroup::Owner,
    model::syscalls::Way,
    model::wait::Wait,
    resolve::{Resolved, process::Who, target::Target},
    util::fair::Fair,
};

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

/// Whose habit: this program of this user, with this service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// On whose account it runs.
    pub owner: Owner,
    /// Its real user: cron's unit has programs of many.
    pub uid: u32,
    /// Path of its executable; the name of its thread where that is not known.
    pub program: String,
    /// The peer's address with its port.
    pub remote: SocketAddr,
}

/// A client that waits for an answer: what its habit is known by, but for who the process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    uid: u32,
    comm: String,
    remote: SocketAddr,
}

impl Client {
    /// Who asks here and waits, if somebody does. A server's clients have any port.
    pub fn of(wait: &Wait, resolved: &Resolved) -> Option<Self> {
        match (&resolved.target, resolved.way) {
            (Target::Tcp { remote, .. }, Way::In) if !resolved.is_server() => {
                Some(Self { uid: wait.uid, comm: wait.comm.to_string(), remote: *remote })
            }
            _ => None,
        }
    }

    /// Under what its habit is remembered.
    pub fn key(&self, who: &Who) -> Key {
        Key {
            owner: who.owner().unwrap_or(Owner::User(self.uid)),
            uid: self.uid,
            program: who.exe.as_ref().map_or_else(|| self.comm.clone(), |exe| exe.path.clone()),
            remote: self.remote,
        }
    }
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

/// All habits known, shared between those on whose account programs run.
#[derive(Debug)]
pub struct Habits(Fair<Owner, Key, Vec<Sample>>);

impl Default for Habits {
    fn default() -> Self {
        Self(Fair::new(KEYS))
    }
}

impl Habits {
    /// A wait ended with bytes received.
    pub fn add(&mut self, key: &Key, lasted: Duration, now: u64) {
        if lasted < LEAST {
            return;
        }
        let sample = Sample { seconds: lasted.as_secs_f64(), at: now };
        if let Some(samples) = self.0.use_mut(key) {
            samples.retain(|sample| sample.counts(now));
            samples.push(sample);
            longest_first(samples);
            return;
        }
        if self.0.is_full() {
            self.0.retain(|_, samples| samples.iter().any(|sample| sample.counts(now)));
        }
        self.0.insert(key.owner.clone(), key.clone(), vec![sample]);
    }

    /// How long such waits usually take: the longest length that was reached more than once, since one hang that
    /// recovered must not hide the next.
    pub fn usual(&self, key: &Key, now: u64) -> Option<Duration> {
        let recent = self.0.get(key)?.iter().filter(|sample| sample.counts(now));
        recent.map(|sample| Duration::from_secs_f64(sample.seconds)).nth(1)
    }

    /// What a wait's habit is to its threshold. `None`: it does not keep the wait from being flagged.
    pub fn excuse(&self, key: &Key, threshold: Duration, now: u64) -> Option<Excuse> {
        let usual = self.usual(key, now)?;
        let until = (usual * FACTOR).min(CAP);
        (until > threshold).then_some(Excuse { usual, from: threshold, until })
    }

    /// To be kept over restarts, the one used longest ago first.
    pub fn export(&self) -> Vec<(Key, Vec<Sample>)> {
        let mut all: Vec<_> = self.0.iter().map(|(key, samples)| (key.clone(), samples.clone())).collect();
        all.sort_by_cached_key(|(key, samples)| (last(samples), key.clone()));
        all
    }

    /// What was kept.
    pub fn import(mut kept: Vec<(Key, Vec<Sample>)>) -> Self {
        let sane = |sample: &Sample| sample.seconds.is_finite() && (0.0..1e9).contains(&sample.seconds);
        let mut habits = Self::default();
        kept.sort_by_key(|(_, samples)| last(samples));
        for (key, mut samples) in kept {
            samples.retain(sane);
            longest_first(&mut samples);
            habits.0.insert(key.owner.clone(), key, samples);
        }
        habits
    }
}

/// As many as are remembered.
fn longest_first(samples: &mut Vec<Sample>) {
    samples.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    samples.truncate(SAMPLES);
}

/// When it was last added to.
fn last(samples: &[Sample]) -> Option<u64> {
    samples.iter().map(|sample| sample.at).max()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::{
        diagnose::verdict::tests::{tcp, wait},
        resolve::process::Place,
    };

    /// A habit's key, of user 33.
    pub fn key() -> Key {
        Key {
            owner: Owner::Unit("worker@1.service".into()),
            uid: 33,
            program: "/usr/bin/php8.2".into(),
            remote: "10.0.0.5:6379".parse().expect("an address"),
        }
    }

    const DAY: u64 = 86_400;
    const NO_THRESHOLD: Duration = Duration::ZERO;

    fn until(habits: &Habits, key: &Key, now: u64) -> Duration {
        habits.excuse(key, NO_THRESHOLD, now).map_or(Duration::ZERO, |excuse| excuse.until)
    }

    #[test]
    fn what_came_more_than_once_is_a_habit() {
        let mut habits = Habits::default();
        assert_eq!(habits.excuse(&key(), NO_THRESHOLD, 0), None);
        habits.add(&key(), Duration::from_secs(60), 0);
        assert_eq!(habits.excuse(&key(), NO_THRESHOLD, 0), None, "once is no habit");
        habits.add(&key(), Duration::from_secs(50), 0);
        let [usual, from, until] = [50, 30, 150].map(Duration::from_secs);
        assert_eq!(habits.usual(&key(), 0), Some(usual));
        assert_eq!(habits.excuse(&key(), from, 0), Some(Excuse { usual, from, until }));
        assert_eq!(habits.excuse(&key(), until, 0), None, "the threshold says so by itself");
    }

    #[test]
    fn an_excuse_holds_from_the_threshold_on_and_not_for_ever() {
        let [usual, from, until] = [50, 30, 150].map(Duration::from_secs);
        let excuse = Excuse { usual, from, until };
        for (seconds, holds) in [(29, false), (30, true), (149, true), (150, false)] {
            assert_eq!(excuse.holds(Duration::from_secs(seconds)), holds, "{seconds}");
        }
    }

    #[test]
    fn one_long_hang_that_recovered_does_not_hide_the_next() {
        let mut habits = Habits::default();
        for _ in 0..20 {
            habits.add(&key(), Duration::from_secs(2), 0);
        }
        habits.add(&key(), Duration::from_secs(6 * 3600), 0);
        assert_eq!(until(&habits, &key(), 0), Duration::from_secs(6));
    }

    #[test]
    fn habits_are_forgotten_and_capped() {
        let mut habits = Habits::default();
        for _ in 0..2 {
            habits.add(&key(), Duration::from_secs(12 * 3600), 0);
        }
        assert_eq!(until(&habits, &key(), 7 * DAY), CAP);
        assert_eq!(until(&habits, &key(), 9 * DAY), Duration::ZERO);
    }

    #[test]
    fn what_a_wrong_clock_has_dated_does_not_count() {
        let mut habits = Habits::default();
        for _ in 0..2 {
            habits.add(&key(), Duration::from_secs(60), 30_000 * DAY);
        }
        assert_eq!(until(&habits, &key(), 20_000 * DAY), Duration::ZERO);
    }

    /// Another account, user, program, address or port: nothing that is learned there counts here.
    #[test]
    fn nobody_trains_another() {
        let to = |address: &str| address.parse().expect("an address");
        let others = [
            Key { owner: Owner::User(65534), ..key() },
            Key { owner: Owner::Container("worker@1.service".into()), ..key() },
            Key { owner: Owner::Unit("user@33.service/worker@1.service".into()), ..key() },
            Key { uid: 65534, ..key() },
            Key { program: "php8.2".into(), ..key() },
            Key { program: "/home/x/php8.2".into(), ..key() },
            Key { remote: to("10.0.0.6:6379"), ..key() },
            Key { remote: to("10.0.0.5:6380"), ..key() },
            Key { remote: to("[::ffff:a00:5]:6379"), ..key() },
        ];
        let mut habits = Habits::default();
        for other in &others {
            habits.add(other, Duration::from_secs(60), 0);
            habits.add(other, Duration::from_secs(60), 0);
        }
        assert_eq!(habits.usual(&key(), 0), None);
        assert!(others.iter().all(|other| habits.usual(other, 0).is_some()));
    }

    #[test]
    fn a_client_is_known_by_its_account_its_program_and_the_service() {
        let wait = Wait { uid: 33, ..wait("recvfrom", [5, 0, 0, 0, 0, 0]) };
        let resolved = |way| Resolved::new(Some(5), tcp(), way);
        assert_eq!(Client::of(&wait, &resolved(Way::Out)), None);
        assert_eq!(Client::of(&wait, &Resolved { server: Some(true), ..resolved(Way::In) }), None);
        let client = Client::of(&wait, &Resolved { server: Some(false), ..resolved(Way::In) });
        let client = client.expect("a client");
        let Target::Tcp { remote, .. } = tcp() else { panic!("another target") };
        let exe = Some(Place { path: "/usr/bin/php8.2".into(), deleted: true });
        // An upgrade changes nothing.
        let known = client.key(&Who { exe, ..Who::default() });
        let expected = Key { owner: Owner::User(33), uid: 33, program: "/usr/bin/php8.2".into(), remote };
        assert_eq!(known, expected);
        assert_eq!(client.key(&Who::default()), Key { program: wait.comm.to_string(), ..expected });
    }

    #[test]
    fn a_quiet_owners_habits_stay() {
        let of = |uid, port| Key {
            owner: Owner::User(uid),
            uid,
            remote: SocketAddr::new([127, 0, 0, 1].into(), port),
            ..key()
        };
        let mut habits = Habits::default();
        for _ in 0..2 {
            habits.add(&of(33, 1), Duration::from_secs(60), 0);
        }
        for port in 0..3 * KEYS as u16 {
            habits.add(&of(65534, port), Duration::from_secs(60), 1 + u64::from(port));
        }
        let now = 3 * KEYS as u64;
        assert_eq!(habits.0.len(), KEYS);
        assert_eq!(habits.usual(&of(33, 1), now), Some(Duration::from_secs(60)));
        let again = Habits::import(habits.export());
        assert_eq!(again.usual(&of(33, 1), now), Some(Duration::from_secs(60)));
        assert!(again.0.get(&of(65534, 3 * KEYS as u16 - 1)).is_some());
        assert!(again.0.get(&of(65534, 0)).is_none());
        // Those that do not count any more go first, all of them.
        habits.add(&of(65534, 60_000), Duration::from_secs(60), 9 * DAY);
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
        let odd = vec![(key(), vec![Sample { seconds: f64::NAN, at: 1 }; 3])];
        assert_eq!(Habits::import(odd).usual(&key(), 5), None);
        let many = |port| (Key { remote: SocketAddr::new([127, 0, 0, 1].into(), port), ..key() }, Vec::new());
        assert_eq!(Habits::import((0..2 * KEYS as u16).map(many).collect()).0.len(), KEYS);
    }
}
