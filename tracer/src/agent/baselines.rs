//! Baselines: how long does an answer to a program usually take, of each service that it asks?
//!
//! A worker that asks a queue for its next job looks, on the wire, exactly like a request that is never answered. What
//! tells them apart is what they did before. Pure, but for the caller's clock.

use std::time::Duration;

use crate::{
    assess::client::Client,
    model::baseline::Excuse,
    model::cgroup::Owner,
    resolve::process::ProcessMeta,
    util::fair::Fair,
    wire::state::{BaselineKey, Sample},
};

/// A wait is flagged when it is this many times older than what is usual.
const USUAL_FACTOR: u32 = 3;
/// A baseline never excuses more than this.
const EXCUSE_MAX: Duration = Duration::from_secs(6 * 3600);
/// How long a wait is remembered.
const SAMPLE_AGE_MAX_SECONDS: u64 = 8 * 86_400;
/// A clock that is set back by more has been wrong.
const CLOCK_ERROR_MIN_SECONDS: u64 = 86_400;
/// Waits remembered of each baseline, the longest.
const SAMPLES_MAX: usize = 8;
/// Shorter waits are nobody's baseline.
pub const SAMPLE_MIN: Duration = Duration::from_secs(1);
/// Baselines kept.
const BASELINES_MAX: usize = 1000;

impl BaselineKey {
    /// Of a client, by who its process is.
    pub fn of(client: &Client, who: &ProcessMeta) -> Self {
        Self {
            owner: who.owner().unwrap_or(Owner::User(client.uid)),
            uid: client.uid,
            program: who.exe.as_ref().map_or_else(|| client.comm.clone(), |exe| exe.path.clone()),
            remote: client.remote,
        }
    }
}

impl Sample {
    /// Whether it still counts. One of the future was taken while the clock was wrong.
    fn counts(&self, now: u64) -> bool {
        self.at + SAMPLE_AGE_MAX_SECONDS > now && self.at < now + CLOCK_ERROR_MIN_SECONDS
    }
}

/// All baselines known, shared between those on whose account programs run.
#[derive(Debug)]
pub struct Baselines(Fair<Owner, BaselineKey, Vec<Sample>>);

impl Default for Baselines {
    fn default() -> Self {
        Self(Fair::new(BASELINES_MAX))
    }
}

impl Baselines {
    /// A wait ended with bytes received.
    pub fn add(&mut self, key: &BaselineKey, lasted: Duration, now: u64) {
        if lasted < SAMPLE_MIN {
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
    pub fn usual(&self, key: &BaselineKey, now: u64) -> Option<Duration> {
        let recent = self.0.get(key)?.iter().filter(|sample| sample.counts(now));
        recent.map(|sample| Duration::from_secs_f64(sample.seconds)).nth(1)
    }

    /// How a baseline moves a threshold. `None`: it does not keep the wait from being flagged.
    pub fn excuse(&self, key: &BaselineKey, threshold: Duration, now: u64) -> Option<Excuse> {
        let usual = self.usual(key, now)?;
        let until = (usual * USUAL_FACTOR).min(EXCUSE_MAX);
        (until > threshold).then_some(Excuse { usual, from: threshold, until })
    }

    /// To be kept over restarts, the one used longest ago first.
    pub fn export(&self) -> Vec<(BaselineKey, Vec<Sample>)> {
        let mut all: Vec<_> = self.0.iter().map(|(key, samples)| (key.clone(), samples.clone())).collect();
        all.sort_by_cached_key(|(key, samples)| (last(samples), key.clone()));
        all
    }

    /// What was kept.
    pub fn import(mut kept: Vec<(BaselineKey, Vec<Sample>)>) -> Self {
        let sane = |sample: &Sample| sample.seconds.is_finite() && (0.0..1e9).contains(&sample.seconds);
        let mut baselines = Self::default();
        kept.sort_by_key(|(_, samples)| last(samples));
        for (key, mut samples) in kept {
            samples.retain(sane);
            longest_first(&mut samples);
            baselines.0.insert(key.owner.clone(), key, samples);
        }
        baselines
    }
}

/// As many as are remembered.
fn longest_first(samples: &mut Vec<Sample>) {
    samples.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    samples.truncate(SAMPLES_MAX);
}

/// When it was last added to.
fn last(samples: &[Sample]) -> Option<u64> {
    samples.iter().map(|sample| sample.at).max()
}

#[cfg(test)]
pub mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::{
        diagnose::verdict::tests::{tcp, wait},
        model::syscalls::{Direction, Syscall},
        model::target::Target,
        model::wait::Wait,
        resolve::{Resolved, process::HeldPath},
    };

    /// A baseline's key, of user 33.
    pub fn key() -> BaselineKey {
        BaselineKey {
            owner: Owner::Unit("worker@1.service".into()),
            uid: 33,
            program: "/usr/bin/php8.2".into(),
            remote: "10.0.0.5:6379".parse().expect("an address"),
        }
    }

    const DAY: u64 = 86_400;
    const NO_THRESHOLD: Duration = Duration::ZERO;

    fn until(baselines: &Baselines, key: &BaselineKey, now: u64) -> Duration {
        baselines.excuse(key, NO_THRESHOLD, now).map_or(Duration::ZERO, |excuse| excuse.until)
    }

    #[test]
    fn what_came_more_than_once_is_a_baseline() {
        let mut baselines = Baselines::default();
        assert_eq!(baselines.excuse(&key(), NO_THRESHOLD, 0), None);
        baselines.add(&key(), Duration::from_secs(60), 0);
        assert_eq!(baselines.excuse(&key(), NO_THRESHOLD, 0), None, "once is no baseline");
        baselines.add(&key(), Duration::from_secs(50), 0);
        let [usual, from, until] = [50, 30, 150].map(Duration::from_secs);
        assert_eq!(baselines.usual(&key(), 0), Some(usual));
        assert_eq!(baselines.excuse(&key(), from, 0), Some(Excuse { usual, from, until }));
        assert_eq!(baselines.excuse(&key(), until, 0), None, "the threshold says so by itself");
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
        let mut baselines = Baselines::default();
        for _ in 0..20 {
            baselines.add(&key(), Duration::from_secs(2), 0);
        }
        baselines.add(&key(), Duration::from_secs(6 * 3600), 0);
        assert_eq!(until(&baselines, &key(), 0), Duration::from_secs(6));
    }

    #[test]
    fn baselines_are_forgotten_and_capped() {
        let mut baselines = Baselines::default();
        for _ in 0..2 {
            baselines.add(&key(), Duration::from_secs(12 * 3600), 0);
        }
        assert_eq!(until(&baselines, &key(), 7 * DAY), EXCUSE_MAX);
        assert_eq!(until(&baselines, &key(), 9 * DAY), Duration::ZERO);
    }

    #[test]
    fn what_a_wrong_clock_has_dated_does_not_count() {
        let mut baselines = Baselines::default();
        for _ in 0..2 {
            baselines.add(&key(), Duration::from_secs(60), 30_000 * DAY);
        }
        assert_eq!(until(&baselines, &key(), 20_000 * DAY), Duration::ZERO);
    }

    /// Another account, user, program, address or port: nothing that is learned there counts here.
    #[test]
    fn nobody_trains_another() {
        let to = |address: &str| address.parse().expect("an address");
        let others = [
            BaselineKey { owner: Owner::User(65534), ..key() },
            BaselineKey { owner: Owner::Container("worker@1.service".into()), ..key() },
            BaselineKey { owner: Owner::Unit("user@33.service/worker@1.service".into()), ..key() },
            BaselineKey { uid: 65534, ..key() },
            BaselineKey { program: "php8.2".into(), ..key() },
            BaselineKey { program: "/home/x/php8.2".into(), ..key() },
            BaselineKey { remote: to("10.0.0.6:6379"), ..key() },
            BaselineKey { remote: to("10.0.0.5:6380"), ..key() },
            BaselineKey { remote: to("[::ffff:a00:5]:6379"), ..key() },
        ];
        let mut baselines = Baselines::default();
        for other in &others {
            baselines.add(other, Duration::from_secs(60), 0);
            baselines.add(other, Duration::from_secs(60), 0);
        }
        assert_eq!(baselines.usual(&key(), 0), None);
        assert!(others.iter().all(|other| baselines.usual(other, 0).is_some()));
    }

    #[test]
    fn a_client_is_known_by_its_account_its_program_and_the_service() {
        let wait = Wait { uid: 33, ..wait(Syscall::Recvfrom, [5, 0, 0, 0, 0, 0]) };
        let resolved = |direction| Resolved::new(Some(5), tcp(), direction);
        assert_eq!(Client::of(&wait, &resolved(Some(Direction::Send))), None);
        assert_eq!(
            Client::of(&wait, &Resolved { server: Some(true), ..resolved(Some(Direction::Receive)) }),
            None
        );
        let client =
            Client::of(&wait, &Resolved { server: Some(false), ..resolved(Some(Direction::Receive)) });
        let client = client.expect("a client");
        let Target::Tcp { remote, .. } = tcp() else { panic!("another target") };
        let exe = Some(HeldPath { path: "/usr/bin/php8.2".into(), deleted: true });
        // An upgrade changes nothing.
        let known = BaselineKey::of(&client, &ProcessMeta { exe, ..ProcessMeta::default() });
        let expected =
            BaselineKey { owner: Owner::User(33), uid: 33, program: "/usr/bin/php8.2".into(), remote };
        assert_eq!(known, expected);
        assert_eq!(
            BaselineKey::of(&client, &ProcessMeta::default()),
            BaselineKey { program: wait.comm.to_string(), ..expected }
        );
    }

    #[test]
    fn a_quiet_owners_baselines_stay() {
        let of = |uid, port| BaselineKey {
            owner: Owner::User(uid),
            uid,
            remote: SocketAddr::new([127, 0, 0, 1].into(), port),
            ..key()
        };
        let mut baselines = Baselines::default();
        for _ in 0..2 {
            baselines.add(&of(33, 1), Duration::from_secs(60), 0);
        }
        for port in 0..3 * BASELINES_MAX as u16 {
            baselines.add(&of(65534, port), Duration::from_secs(60), 1 + u64::from(port));
        }
        let now = 3 * BASELINES_MAX as u64;
        assert_eq!(baselines.0.len(), BASELINES_MAX);
        assert_eq!(baselines.usual(&of(33, 1), now), Some(Duration::from_secs(60)));
        let again = Baselines::import(baselines.export());
        assert_eq!(again.usual(&of(33, 1), now), Some(Duration::from_secs(60)));
        assert!(again.0.get(&of(65534, 3 * BASELINES_MAX as u16 - 1)).is_some());
        assert!(again.0.get(&of(65534, 0)).is_none());
        // Those that do not count any more go first, all of them.
        baselines.add(&of(65534, 60_000), Duration::from_secs(60), 9 * DAY);
        assert_eq!(baselines.0.len(), 1);
    }

    #[test]
    fn they_survive_being_kept() {
        let mut baselines = Baselines::default();
        for seconds in [10, 20, 30] {
            baselines.add(&key(), Duration::from_secs(seconds), 5);
        }
        let again = Baselines::import(baselines.export());
        assert_eq!(again.usual(&key(), 5), Some(Duration::from_secs(20)));
        let odd = vec![(key(), vec![Sample { seconds: f64::NAN, at: 1 }; 3])];
        assert_eq!(Baselines::import(odd).usual(&key(), 5), None);
        let many = |port| {
            (BaselineKey { remote: SocketAddr::new([127, 0, 0, 1].into(), port), ..key() }, Vec::new())
        };
        assert_eq!(
            Baselines::import((0..2 * BASELINES_MAX as u16).map(many).collect()).0.len(),
            BASELINES_MAX
        );
    }
}
