//! Which connections of event loops have asked and have no answer, from one pass over all sockets to the next, and which of them are
//! waited for? Pure.
//!
//! A thread that waits in a call wants what it waits for. A connection on which a process has spoken last says less: a client of HTTP/2 at
//! rest has sent an acknowledgement, a logger is never answered. So those are judged that have never been answered and that somebody
//! watches, unless the program goes on talking into the silence, and those whose bytes do not arrive, which no protocol wants.

use std::{
    cmp::Reverse,
    time::{Duration, Instant},
};

use compact_str::CompactString;
use hashbrown::HashMap;

use crate::{
    assess::requests::Taken,
    model::file::Endpoint,
    model::request::{AskedConnection, Expectation, RequestNumbers},
    model::wait::{ProcessId, SeenFd, SocketFacts, ThreadId, Wait},
    util::clock::Now,
    util::fair::{self, Fair},
};

/// How often all sockets are looked at.
const PASS_INTERVAL: Duration = Duration::from_secs(5);
/// And at the least, however long that takes.
const PASS_INTERVAL_MAX: Duration = Duration::from_secs(60);
/// Of how much time a pass may take one part: 0.5 % of a core.
const SHARE: u32 = 200;
/// Connections that are followed at a time, the oldest requests of each user.
const FOLLOWED_MAX: usize = 4_096;
/// Of these, the oldest are looked at again at each look between two passes.
const REFRESHED_MAX: usize = 256;
/// Programs and services that are remembered.
const SERVICES_MAX: usize = 1_000;
/// How long a thread may be elsewhere before its connection's request is taken for an event loop's: it is the agent's tracker that
/// knows whether it comes back.
const THREAD_AWAY_MAX_NS: u64 = 60_000_000_000;
/// Who sends more in less time has not ended what it says.
const SILENCE_MIN: Duration = Duration::from_secs(1);
/// A program that talks into silence on one of so many connections is not known for it.
const ONE_OF: u32 = 10;

/// A program and the service that it asks. Whoever can choose the name of a program has that user's rights anyway.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct AskedService {
    uid: u32,
    comm: CompactString,
    remote: Endpoint,
}

/// How connections of a program to a service went on that were once without an answer for a second.
#[derive(Clone, Copy, Debug, Default)]
struct Manners {
    /// An answer came.
    answered: u32,
    /// More was said before one came.
    talked: u32,
}

impl Manners {
    fn is_talker(self) -> bool {
        self.talked > 0 && self.talked.saturating_mul(ONE_OF) > self.answered
    }
}

/// A connection without an answer.
#[derive(Debug)]
struct FollowedConnection {
    connection: AskedConnection,
    /// More was said on it before an answer came.
    talks: bool,
    /// When a thread was last seen to wait on its socket, nanoseconds of `CLOCK_MONOTONIC`.
    thread_ns: Option<u64>,
    /// The last pass did not find it: it has been answered or closed, or more has been said on it just now.
    is_missing: bool,
}

/// All connections that are followed.
pub struct OpenRequests {
    followed: HashMap<(ProcessId, u64), FollowedConnection>,
    services: Fair<u32, AskedService, Manners>,
    next_pass: Option<Instant>,
    interval: Duration,
    took: Duration,
    /// Requests that there was no room for, in all passes, and passes that did not come to their end.
    missed: u64,
}

impl Default for OpenRequests {
    fn default() -> Self {
        Self {
            followed: HashMap::new(),
            services: Fair::new(SERVICES_MAX),
            next_pass: None,
            interval: PASS_INTERVAL,
            took: Duration::ZERO,
            missed: 0,
        }
    }
}

impl OpenRequests {
    /// Whether all sockets are to be looked at now.
    pub fn pass_is_due(&self, now: Instant) -> bool {
        self.next_pass.is_none_or(|next| now >= next)
    }

    /// Takes what a pass has found, which began then and took so long; `None`: it did not come to its end.
    pub fn passed(&mut self, found: Option<Vec<AskedConnection>>, (began, took): (Instant, Duration)) {
        self.took = took;
        self.interval = (took * SHARE).clamp(PASS_INTERVAL, PASS_INTERVAL_MAX);
        self.next_pass = Some(began + self.interval);
        let Some(mut found) = found else {
            self.missed += 1;
            return;
        };
        found.retain(|connection| connection.unanswered().is_some_and(|age| age >= SILENCE_MIN));
        found.sort_by_cached_key(|connection| Reverse(connection.unanswered()));
        let number = found.len();
        let found = fair::keep(found, FOLLOWED_MAX, |connection| connection.uid);
        self.missed += (number - found.len()) as u64;
        let mut before = std::mem::take(&mut self.followed);
        for mut connection in found {
            let key = (connection.process, connection.file.inode);
            let before = before.remove(&key);
            // Who polls now and then watches as well.
            connection.is_watched |= before.as_ref().is_some_and(|before| before.connection.is_watched);
            let thread_ns = before.as_ref().and_then(|before| before.thread_ns);
            let talks = before.is_some_and(|before| self.goes_on(&before, &connection));
            self.followed.insert(key, FollowedConnection { connection, talks, thread_ns, is_missing: false });
        }
        // Those that were missing before could not be looked at again.
        let missing = before.into_iter().filter(|(_, before)| !before.is_missing);
        let missing = missing.map(|(key, before)| (key, FollowedConnection { is_missing: true, ..before }));
        self.followed.extend(missing);
    }

    /// Descriptors of connections that are to be looked at again: of those on which an answer is due the ones that a pass has missed,
    /// and those that have waited for longest. Not those that have just been seen.
    pub fn to_refresh(&self, now_ns: u64) -> Vec<(ThreadId, i32)> {
        let is_due = |followed: &&FollowedConnection| {
            followed.connection.seen_ns < now_ns && self.expectation(followed) == Expectation::Answer
        };
        let mut oldest: Vec<&FollowedConnection> = self.followed.values().filter(is_due).collect();
        oldest.sort_by_key(|followed| {
            (!followed.is_missing, followed.connection.began_ns(), followed.connection.fd)
        });
        let id = |followed: &&FollowedConnection| (followed.connection.request(), followed.connection.fd);
        oldest.iter().take(REFRESHED_MAX).map(id).collect()
    }

    /// Takes what has become of them.
    pub fn refreshed(&mut self, asked: &[(ThreadId, i32)], seen: Vec<SeenFd>, now_ns: u64) {
        let mut seen: HashMap<ThreadId, SeenFd> = seen.into_iter().map(|seen| (seen.thread, seen)).collect();
        for (request, _) in asked {
            let key = (request.process, request.start_ns);
            let Some(before) = self.followed.remove(&key) else { continue };
            let Some(SeenFd { state, socket: SocketFacts::Tcp(tcp), .. }) = seen.remove(request) else {
                continue;
            };
            if state.inode() != Some(request.start_ns) {
                continue;
            }
            let now = AskedConnection { tcp, seen_ns: now_ns, ..before.connection.clone() };
            if now.unanswered().is_none() {
                self.answered(&before, &now);
                continue;
            }
            let thread_ns = before.thread_ns;
            let talks = self.goes_on(&before, &now);
            let after = FollowedConnection { connection: now, talks, thread_ns, is_missing: false };
            self.followed.insert(key, after);
        }
        // Those that were not asked about: there were more than are looked at again.
        self.followed.retain(|_, followed| !followed.is_missing);
    }

    /// What is waited for as waits, but for what is `taken`. Of processes that share a socket the oldest waits.
    pub fn waits(&mut self, now: &Now, taken: &Taken) -> Vec<Wait> {
        for followed in self.followed.values_mut() {
            if taken.sockets.contains(&followed.connection.file.inode) {
                followed.thread_ns = Some(now.monotonic_ns);
            }
        }
        let mut due: Vec<&FollowedConnection> = self
            .followed
            .values()
            .filter(|followed| !followed.is_missing && !taken.has(&followed.connection))
            .filter(|followed| !followed.is_of_thread(now.monotonic_ns))
            .filter(|followed| self.expectation(followed) == Expectation::Answer)
            .collect();
        due.sort_by_key(|followed| {
            (followed.connection.file.inode, followed.connection.process.start_ns, followed.connection.fd)
        });
        due.dedup_by_key(|followed| followed.connection.file.inode);
        due.iter().filter_map(|followed| followed.connection.wait(now)).collect()
    }

    /// Whether none is followed.
    pub fn is_empty(&self) -> bool {
        self.followed.is_empty()
    }

    /// How many there are.
    pub fn numbers(&self) -> RequestNumbers {
        let mut numbers =
            RequestNumbers { pass: self.took, interval: self.interval, ..RequestNumbers::default() };
        for followed in self.followed.values() {
            *match self.expectation(followed) {
                Expectation::Answer => &mut numbers.due,
                Expectation::Unknown => &mut numbers.unknown,
                Expectation::Nothing => &mut numbers.not_due,
            } += 1;
        }
        numbers
    }

    /// Requests that there was no room for, and passes that did not come to their end.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// What is due, by the connection itself and by what the program is known for.
    fn expectation(&self, followed: &FollowedConnection) -> Expectation {
        match followed.connection.expectation() {
            Expectation::Answer if followed.connection.is_undelivered() => Expectation::Answer,
            Expectation::Answer if followed.talks || self.is_talker(&followed.connection) => {
                Expectation::Nothing
            }
            expectation => expectation,
        }
    }

    fn is_talker(&self, connection: &AskedConnection) -> bool {
        let manners = service(connection).and_then(|service| self.services.get(&service).copied());
        manners.is_some_and(Manners::is_talker)
    }

    /// Nothing has come meanwhile: whether more has been said, though the peer had got all there was for a while. An upload that
    /// halts and goes on is one.
    fn goes_on(&mut self, before: &FollowedConnection, now: &AskedConnection) -> bool {
        let [then, now_sent] = [&before.connection, now].map(AskedConnection::bytes_sent);
        if before.connection.bytes_received() != now.bytes_received() {
            return false;
        }
        let had_ended = !before.connection.is_undelivered()
            && before.connection.unanswered().is_some_and(|age| age >= SILENCE_MIN);
        let talks = had_ended && now_sent > then;
        if talks && !before.talks {
            self.learn(now, |manners| manners.talked = manners.talked.saturating_add(1));
        }
        before.talks || talks
    }

    /// An answer has come.
    fn answered(&mut self, before: &FollowedConnection, now: &AskedConnection) {
        let is_first = before.connection.bytes_received() == 0 && now.bytes_received() > 0;
        if is_first && !before.talks {
            self.learn(now, |manners| manners.answered = manners.answered.saturating_add(1));
        }
    }

    fn learn(&mut self, connection: &AskedConnection, change: impl FnOnce(&mut Manners)) {
        let Some(service) = service(connection) else { return };
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

impl FollowedConnection {
    /// Whether a thread waits for its answer, which may be elsewhere at the moment.
    fn is_of_thread(&self, now_ns: u64) -> bool {
        self.thread_ns.is_some_and(|thread_ns| now_ns.saturating_sub(thread_ns) < THREAD_AWAY_MAX_NS)
    }
}

fn service(connection: &AskedConnection) -> Option<AskedService> {
    let remote = connection.file.tcp()?.remote;
    Some(AskedService { uid: connection.uid, comm: connection.comm.clone(), remote })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        request::tests::{asked, on_which},
        wait::FdState,
    };

    const SECOND_NS: u64 = 1_000_000_000;

    fn at(seconds: u64) -> Now {
        Now { wall: jiff::Timestamp::UNIX_EPOCH, monotonic_ns: seconds * SECOND_NS }
    }

    /// Those that have been seen by a pass at this second.
    fn pass(requests: &mut OpenRequests, found: &[AskedConnection], seconds: u64) {
        let now_ns = at(seconds).monotonic_ns;
        let as_of_now =
            |connection: &AskedConnection| AskedConnection { seen_ns: now_ns, ..connection.clone() };
        let found = found.iter().map(as_of_now).collect();
        requests.passed(Some(found), (Instant::now(), Duration::from_millis(1)));
        let missing = requests.to_refresh(now_ns);
        requests.refreshed(&missing, Vec::new(), now_ns);
    }

    /// What a look at a connection shows.
    fn seen(connection: &AskedConnection) -> SeenFd {
        SeenFd {
            thread: connection.request(),
            fd: connection.fd,
            state: FdState::Open(connection.file),
            socket: SocketFacts::Tcp(connection.tcp.clone()),
            flow: None,
        }
    }

    /// The fds of what is waited for, with ages in seconds.
    fn due(requests: &mut OpenRequests, seconds: u64) -> Vec<(i32, u64)> {
        let waits = requests.waits(&at(seconds), &Taken::default());
        waits.iter().map(|wait| (wait.fd.unwrap_or(-1), wait.age.as_secs())).collect()
    }

    #[test]
    fn what_was_never_answered_is_waited_for() {
        let mut requests = OpenRequests::default();
        let never = asked(7, 3, 80, 10);
        let before = on_which(&asked(7, 4, 80, 20), 100, 50);
        pass(&mut requests, &[never.clone(), before], 100);
        assert_eq!(due(&mut requests, 100), [(3, 10)]);
        let numbers = requests.numbers();
        assert_eq!([numbers.due, numbers.unknown, numbers.not_due], [1, 1, 0]);
        let taken = Taken { sockets: [never.file.inode].into(), ..Taken::default() };
        assert!(requests.waits(&at(100), &taken).is_empty(), "a thread waits on it");
        let taken = Taken { suspended: [never.process].into(), ..Taken::default() };
        assert!(requests.waits(&at(100), &taken).is_empty(), "it is stopped");
        pass(&mut requests, &[], 105);
        assert_eq!(due(&mut requests, 105), []);
    }

    /// It is not known what has become of it until it is looked at again: its age stays what it was then.
    #[test]
    fn its_age_is_what_was_seen() {
        let mut requests = OpenRequests::default();
        pass(&mut requests, &[asked(7, 3, 80, 10)], 100);
        assert_eq!(due(&mut requests, 103), [(3, 10)]);
        let wait = requests.waits(&at(103), &Taken::default()).remove(0);
        assert_eq!(wait.began_ns, 90 * SECOND_NS);
        assert!(wait.thread.is_request() && !wait.is_lower_bound());
    }

    #[test]
    fn of_processes_that_share_a_socket_one_waits() {
        let mut requests = OpenRequests::default();
        let parent = asked(7, 3, 80, 10);
        let mut child = AskedConnection { fd: 9, ..parent.clone() };
        child.process = ProcessId { pid: 8, start_ns: 2 };
        pass(&mut requests, &[child, parent], 100);
        assert_eq!(due(&mut requests, 100), [(3, 10)]);
    }

    #[test]
    fn who_goes_on_talking_waits_for_nothing_and_is_known_for_it() {
        let mut requests = OpenRequests::default();
        pass(&mut requests, &[asked(7, 3, 514, 10)], 100);
        assert_eq!(due(&mut requests, 100), [(3, 10)]);
        pass(&mut requests, &[on_which(&asked(7, 3, 514, 2), 150, 0)], 105);
        assert_eq!(due(&mut requests, 105), [], "more was said, and nothing had come");
        assert_eq!(requests.numbers().not_due, 1);
        pass(&mut requests, &[asked(9, 5, 514, 40), asked(9, 6, 515, 40)], 200);
        assert_eq!(due(&mut requests, 200), [(6, 40)], "the same program with the same service");
        let other = AskedConnection { uid: 33, ..asked(10, 7, 514, 40) };
        pass(&mut requests, &[other], 300);
        assert_eq!(due(&mut requests, 300), [(7, 40)], "another user's");
    }

    /// The peer has not got what was said before: it is an upload that goes on.
    #[test]
    fn an_upload_that_halts_is_no_talk() {
        let mut requests = OpenRequests::default();
        let mut halted = asked(7, 3, 80, 10);
        halted.tcp.send_queue = 50;
        pass(&mut requests, &[halted], 100);
        pass(&mut requests, &[on_which(&asked(7, 3, 80, 2), 150, 0), asked(7, 4, 80, 30)], 105);
        assert_eq!(requests.numbers().not_due, 0);
        assert_eq!(due(&mut requests, 105), [(3, 2), (4, 30)]);
    }

    /// What a failure to look has left is not kept for ever.
    #[test]
    fn what_is_missing_twice_is_forgotten() {
        let mut requests = OpenRequests::default();
        pass(&mut requests, &[asked(7, 3, 80, 10)], 100);
        let none = |requests: &mut OpenRequests| {
            requests.passed(Some(Vec::new()), (Instant::now(), Duration::from_millis(1)));
        };
        none(&mut requests);
        assert!(!requests.is_empty(), "it is to be looked at");
        none(&mut requests);
        assert!(requests.is_empty());
    }

    /// One upload in pieces does not blind a service that answers.
    #[test]
    fn a_service_that_answers_is_judged_though_one_has_talked() {
        let mut requests = OpenRequests::default();
        let reply = |requests: &mut OpenRequests, fd, seconds| {
            let open = asked(7, fd, 80, 3);
            pass(requests, std::slice::from_ref(&open), seconds);
            let now_ns = (seconds + 1) * SECOND_NS;
            let asked = requests.to_refresh(now_ns);
            assert_eq!(asked, [(open.request(), fd)]);
            let mut answered = on_which(&open, 100, 50);
            answered.tcp.internals.as_mut().expect("is seen").last_segment_had_data = true;
            requests.refreshed(&asked, vec![seen(&answered)], now_ns);
            assert_eq!(due(requests, seconds), []);
        };
        (0..ONE_OF as i32).for_each(|number| reply(&mut requests, 10 + number, 100));
        pass(&mut requests, &[asked(7, 3, 80, 3)], 200);
        pass(&mut requests, &[on_which(&asked(7, 3, 80, 2), 150, 0), asked(7, 4, 80, 30)], 205);
        assert_eq!(
            due(&mut requests, 205),
            [(4, 30)],
            "the connection that talks is not judged, the others are"
        );
    }

    /// Its thread polls for a moment and does something else in between.
    #[test]
    fn what_a_thread_comes_back_to_is_the_threads() {
        let mut requests = OpenRequests::default();
        pass(&mut requests, &[asked(7, 3, 80, 10)], 100);
        let taken = Taken { sockets: [asked(7, 3, 80, 10).file.inode].into(), ..Taken::default() };
        assert!(requests.waits(&at(100), &taken).is_empty());
        pass(&mut requests, &[asked(7, 3, 80, 50)], 140);
        assert_eq!(due(&mut requests, 140), []);
        pass(&mut requests, &[asked(7, 3, 80, 71)], 161);
        assert_eq!(due(&mut requests, 161), [(3, 71)], "it has gone for good");
    }

    /// A closed descriptor, or one that is something else by now.
    #[test]
    fn what_is_gone_is_not_followed() {
        let mut requests = OpenRequests::default();
        pass(&mut requests, &[asked(7, 3, 80, 10), asked(7, 4, 80, 10)], 100);
        let again = requests.to_refresh(101 * SECOND_NS);
        let other = SeenFd { state: FdState::None, ..seen(&asked(7, 3, 80, 10)) };
        requests.refreshed(&again, vec![other], 101 * SECOND_NS);
        assert_eq!(due(&mut requests, 101), []);
    }

    /// It has said more within the last second, which a pass does not tell from an answer.
    #[test]
    fn who_talks_as_a_pass_is_made_is_found_out_too() {
        let mut requests = OpenRequests::default();
        pass(&mut requests, &[asked(7, 3, 514, 10)], 100);
        requests.passed(Some(Vec::new()), (Instant::now(), Duration::from_millis(1)));
        assert_eq!(due(&mut requests, 105), []);
        let missing = requests.to_refresh(105 * SECOND_NS);
        requests.refreshed(&missing, vec![seen(&on_which(&asked(7, 3, 514, 0), 150, 0))], 105 * SECOND_NS);
        assert_eq!([requests.numbers().due, requests.numbers().not_due], [0, 1]);
    }

    #[test]
    fn passes_are_as_far_apart_as_they_are_long() {
        let mut requests = OpenRequests::default();
        let began = Instant::now();
        assert!(requests.pass_is_due(began));
        for (took_ms, every_s) in [(1, 5), (25, 5), (50, 10), (120, 24), (10_000, 60)] {
            requests.passed(Some(Vec::new()), (began, Duration::from_millis(took_ms)));
            assert!(!requests.pass_is_due(began + Duration::from_secs(every_s) - Duration::from_millis(1)));
            assert!(requests.pass_is_due(began + Duration::from_secs(every_s)), "{took_ms}");
        }
        requests.passed(None, (began, Duration::from_millis(1)));
        assert_eq!(requests.missed(), 1);
    }

    #[test]
    fn a_user_with_thousands_of_requests_leaves_room_for_another() {
        let mut requests = OpenRequests::default();
        let mut all: Vec<AskedConnection> =
            (0..2 * FOLLOWED_MAX as i32).map(|fd| asked(7, fd, 80, 600)).collect();
        all.push(AskedConnection { uid: 33, ..asked(8, 3, 80, 40) });
        pass(&mut requests, &all, 1_000);
        assert_eq!(requests.followed.len(), FOLLOWED_MAX);
        assert_eq!(requests.missed(), FOLLOWED_MAX as u64 + 1);
        assert!(requests.followed.values().any(|followed| followed.connection.uid == 33));
        assert_eq!(requests.to_refresh(1_001 * SECOND_NS).len(), REFRESHED_MAX);
    }
}
