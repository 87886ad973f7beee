//! How do connections of a program to a service go on, and who has the last word on them? Pure, but for the caller's clock.
//!
//! Nothing of a protocol is known here: what counts is what was seen of earlier exchanges.

use std::time::Duration;

use crate::{
    model::request::AskedConnection,
    util::fair::Fair,
    wire::state::{AskedService, Manners},
};

/// Programs and services that are remembered, and as many ports of programs.
const SERVICES_MAX: usize = 2_000;
/// How long nothing new may be learned of one before it is forgotten.
const AGE_MAX_SECONDS: u64 = 8 * 86_400;
/// A program that talks into silence on one of so many occasions is not known for it.
const ONE_OF: u32 = 10;
/// So many connections must have been seen to rest with the service's word as the last.
const RESTED_MIN: u32 = 8;
/// After so many occasions earlier ones count half.
const OCCASIONS_MAX: u32 = 1_000;

impl AskedService {
    /// The service that a connection is with.
    fn of(connection: &AskedConnection) -> Option<Self> {
        let remote = connection.file.tcp()?.remote.socket_addr();
        let (uid, comm) = (connection.uid, connection.comm.to_string());
        Some(Self { uid, comm, address: Some(remote.ip()), port: remote.port() })
    }

    /// The same at whatever address: a new pod is no new service.
    fn anywhere(&self) -> Self {
        Self { address: None, ..self.clone() }
    }
}

impl Manners {
    /// Whether the program says more where it is not answered. Once is no habit where it waits otherwise: two requests may overlap.
    pub fn is_talker(&self) -> bool {
        let quiet = self.answered.saturating_add(self.rested);
        let is_once = self.talked == 1 && quiet > 0;
        self.talked > 0 && !is_once && self.talked.saturating_mul(ONE_OF) > quiet
    }

    /// Whether what this program says to the service is answered, and the answer is the last word, always.
    pub fn has_answers_last(&self) -> bool {
        self.rested >= RESTED_MIN && self.reused == 0 && !self.is_talker()
    }

    /// How long it takes at most until something comes while the program talks: the longest time that was reached more than once. `None`
    /// where that is not known.
    pub fn silence(&self) -> Option<Duration> {
        let seconds = self.silences[1];
        (seconds > 0.0).then(|| Duration::from_secs_f64(seconds))
    }

    /// Earlier occasions count less.
    fn fade(&mut self) {
        let occasions = [self.answered, self.talked, self.rested];
        if occasions.iter().fold(0, |sum: u32, number| sum.saturating_add(*number)) > OCCASIONS_MAX {
            [self.answered, self.talked, self.rested] = occasions.map(|number| number / 2);
            // Once is enough.
            self.reused = self.reused.min(1);
            self.silences[0] = self.silences[1];
        }
    }

    /// Whether it can be what was written.
    fn is_sane(&self) -> bool {
        self.silences.iter().all(|seconds| seconds.is_finite() && (0.0..1e9).contains(seconds))
    }
}

/// What is known of all programs, shared between their users.
#[derive(Debug)]
pub struct LearnedManners {
    services: Fair<u32, AskedService, Manners>,
    /// What time it is, seconds of Unix time.
    now: u64,
    /// How often anything was learned.
    changes: u64,
}

impl Default for LearnedManners {
    fn default() -> Self {
        Self { services: Fair::new(SERVICES_MAX), now: 0, changes: 0 }
    }
}

impl LearnedManners {
    /// What was kept.
    pub fn import(mut kept: Vec<(AskedService, Manners)>) -> Self {
        let mut learned = Self::default();
        kept.retain(|(_, manners)| manners.is_sane());
        kept.sort_by_key(|(_, manners)| manners.at);
        for (service, manners) in kept {
            learned.services.insert(service.uid, service, manners);
        }
        learned
    }

    /// To be kept over restarts, what was learned last at the end.
    pub fn export(&self) -> Vec<(AskedService, Manners)> {
        let mut all: Vec<_> =
            self.services.iter().map(|(service, manners)| (service.clone(), *manners)).collect();
        all.sort_by(|(one, a), (other, b)| (a.at, one).cmp(&(b.at, other)));
        all
    }

    /// How often anything was learned.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// What time it is by now, seconds of Unix time: what was learned long ago is forgotten.
    pub fn at(&mut self, now: u64) {
        self.now = now;
        self.services.retain(|_, manners| manners.at + AGE_MAX_SECONDS > now);
    }

    /// What is known of the program and the service of a connection; of a service at a new address, what is known of others at its port.
    pub fn of(&self, connection: &AskedConnection) -> Manners {
        let Some(service) = AskedService::of(connection) else { return Manners::default() };
        let known = self.services.get(&service).or_else(|| self.services.get(&service.anywhere()));
        known.copied().unwrap_or_default()
    }

    /// It was seen to rest, with the service's word as the last.
    pub fn rested(&mut self, connection: &AskedConnection) {
        self.learn(connection, |manners| manners.rested = manners.rested.saturating_add(1));
    }

    /// It was answered after a while, and nothing more was said before.
    pub fn answered(&mut self, connection: &AskedConnection) {
        self.learn(connection, |manners| manners.answered = manners.answered.saturating_add(1));
    }

    /// More was said on it though nothing had come.
    pub fn talked(&mut self, connection: &AskedConnection) {
        self.learn(connection, |manners| manners.talked = manners.talked.saturating_add(1));
    }

    /// What was said last on it had followed an answer at once, and had rested so for a while, when the program said more.
    pub fn reused(&mut self, connection: &AskedConnection) {
        self.learn(connection, |manners| manners.reused = manners.reused.saturating_add(1));
    }

    /// The program talked for so long at the most until something came.
    pub fn broke_silence(&mut self, connection: &AskedConnection, lasted: Duration) {
        self.learn(connection, |manners| {
            let [longest, second] = manners.silences;
            let seconds = lasted.as_secs_f64();
            manners.silences =
                if seconds > longest { [seconds, longest] } else { [longest, second.max(seconds)] };
        });
    }

    fn learn(&mut self, connection: &AskedConnection, change: impl Fn(&mut Manners)) {
        let Some(service) = AskedService::of(connection) else { return };
        self.changes += 1;
        for service in [service.anywhere(), service] {
            let now = self.now;
            let change = |manners: &mut Manners| {
                change(manners);
                manners.fade();
                manners.at = now;
            };
            match self.services.use_mut(&service) {
                Some(manners) => change(manners),
                None => {
                    let mut manners = Manners::default();
                    change(&mut manners);
                    self.services.insert(service.uid, service, manners);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::request::tests::asked;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_talker_is_one_that_talks_often() {
        let manners = |answered, talked, rested| Manners { answered, talked, rested, ..Manners::default() };
        for (answered, talked, rested, is_talker) in [
            (0, 0, 0, false),
            (0, 1, 0, true),
            (0, 1, 1, false),
            (1, 1, 0, false),
            (19, 2, 0, true),
            (20, 2, 0, false),
            (10, 2, 10, false),
            (5, 2, 10, true),
        ] {
            assert_eq!(manners(answered, talked, rested).is_talker(), is_talker);
        }
        assert!(!manners(100, 0, 7).has_answers_last(), "slow answers are no rest");
        assert!(manners(0, 0, 8).has_answers_last() && !manners(0, 2, 8).has_answers_last());
        assert!(!Manners { reused: 1, ..manners(0, 0, 800) }.has_answers_last());
    }

    #[test]
    fn one_long_silence_is_not_usual() {
        let mut learned = LearnedManners::default();
        let connection = asked(7, 3, 80, 1);
        for (lasted, usual) in [(5, None), (3600, Some(5)), (4, Some(5)), (7, Some(7))] {
            learned.broke_silence(&connection, seconds(lasted));
            assert_eq!(learned.of(&connection).silence(), usual.map(seconds));
        }
    }

    #[test]
    fn a_new_address_inherits_and_another_port_or_user_does_not() {
        let mut learned = LearnedManners::default();
        let known = asked(7, 3, 80, 1);
        (0..2).for_each(|_| learned.talked(&known));
        let mut moved = known.clone();
        let socket = moved.file.socket.as_mut().expect("a socket");
        let crate::model::file::SocketFamily::Inet(addresses) = &mut socket.family else { panic!("TCP") };
        addresses.remote.address = "::ffff:10.0.0.7".parse().expect("an address");
        assert!(learned.of(&moved).is_talker());
        (0..40).for_each(|_| learned.rested(&moved));
        assert!(!learned.of(&moved).is_talker() && learned.of(&known).is_talker(), "each by itself");
        assert_eq!(learned.of(&asked(7, 3, 81, 1)), Manners::default());
        assert_eq!(learned.of(&AskedConnection { uid: 33, ..known }), Manners::default());
    }

    #[test]
    fn what_is_kept_is_found_again_and_what_is_old_is_forgotten() {
        let mut learned = LearnedManners::default();
        let connection = asked(7, 3, 80, 1);
        learned.at(1_000);
        learned.talked(&connection);
        learned.broke_silence(&connection, seconds(5));
        let kept = learned.export();
        let written = serde_json::to_vec(&kept).expect("JSON");
        let read: Vec<(AskedService, Manners)> = serde_json::from_slice(&written).expect("the same");
        let mut again = LearnedManners::import(read);
        assert_eq!(again.export(), kept);
        assert!(again.of(&connection).is_talker());
        again.at(1_000 + AGE_MAX_SECONDS);
        assert_eq!(again.of(&connection), Manners::default());
        let broken = Manners { silences: [f64::NAN, -1.0], ..Manners::default() };
        let service = AskedService::of(&connection).expect("TCP");
        assert!(LearnedManners::import(vec![(service, broken)]).export().is_empty());
    }

    #[test]
    fn what_was_long_ago_counts_less() {
        let mut learned = LearnedManners::default();
        let connection = asked(7, 3, 80, 1);
        learned.talked(&connection);
        (0..3).for_each(|_| learned.reused(&connection));
        (0..2 * OCCASIONS_MAX).for_each(|_| learned.rested(&connection));
        let manners = learned.of(&connection);
        assert_eq!((manners.talked, manners.reused), (0, 1), "one is forgotten, the other not");
        assert!(manners.rested > OCCASIONS_MAX / 4 && manners.rested <= OCCASIONS_MAX);
    }
}
