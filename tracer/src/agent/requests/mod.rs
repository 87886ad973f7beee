//! Which connections of event loops have asked and have no answer, from one pass over all sockets to the next, and which of them are
//! waited for? Pure.
//!
//! A thread that waits in a call wants what it waits for. A connection on which a process has spoken last says less: a client of HTTP/2 at
//! rest has sent an acknowledgement, a logger is never answered. What tells them apart is when the last bytes were sent, and what programs
//! do otherwise (`manners`).

pub mod manners;
pub mod services;
#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    time::{Duration, Instant},
};

use hashbrown::HashMap;

use self::{manners::LearnedManners, services::ServiceTable};
use crate::{
    assess::requests::Taken,
    collect::SeenConnections,
    model::file::Endpoint,
    model::request::{AskedConnection, Expectation, RequestNumbers},
    model::wait::{ProcessId, SeenFd, SocketFacts, ThreadId, Wait},
    util::clock::Now,
    util::fair,
};

/// How often all sockets are looked at.
const PASS_INTERVAL: Duration = Duration::from_secs(5);
/// And at the least, however long that takes.
const PASS_INTERVAL_MAX: Duration = Duration::from_secs(60);
/// Of how much time a pass may take one part: 0.5 % of a core.
const SHARE: u32 = 200;
/// Connections that are followed at a time, the oldest requests of each user.
const FOLLOWED_MAX: usize = 4_096;
/// Answered ones that are followed beside them, so that it is learned how such connections rest.
const ANSWERED_MAX: usize = 512;
/// At first, one answered connection in so many is followed: how many there are is not known.
const ANSWERED_ONE_IN: u32 = 8;
/// Of the ones that are due, the oldest of each user are looked at again at each look between two passes.
const REFRESHED_MAX: usize = 256;
/// And of each process, where each takes a walk over all threads.
const REFRESHED_BY_WALKS_MAX: usize = 16;
/// How long a thread may be elsewhere before its connection's request is taken for an event loop's: it is the agent's tracker that
/// knows whether it comes back.
const THREAD_AWAY_MAX_NS: u64 = 60_000_000_000;
/// Who sends more in less time has not ended what it says.
const SILENCE_MIN: Duration = Duration::from_secs(1);
/// Who has talked into silence for so many times as long as it usually takes until something comes waits for it.
const SILENCE_FACTOR: u32 = 3;

/// When all sockets were looked at.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// When it began.
    pub began: Instant,
    /// How long it took.
    pub took: Duration,
    /// The same, seconds of Unix time.
    pub at: u64,
}

/// A connection that is followed from pass to pass.
#[derive(Debug)]
struct FollowedConnection {
    connection: AskedConnection,
    /// When the first of its bytes left that have no answer, nanoseconds of `CLOCK_MONOTONIC`; `None`: all have one.
    silent_since_ns: Option<u64>,
    /// More was said on it since.
    talks: bool,
    /// When a thread was last seen to wait on its socket, nanoseconds of `CLOCK_MONOTONIC`.
    thread_ns: Option<u64>,
    /// The last pass did not find it: it has been answered or closed, or more has been said on it just now.
    is_missing: bool,
}

/// All connections that are followed, and what was learned of those before.
pub struct OpenRequests {
    followed: HashMap<(ProcessId, u64), FollowedConnection>,
    /// How many of them a process has with a service.
    numbers: HashMap<(ProcessId, Option<Endpoint>), usize>,
    manners: LearnedManners,
    incoming: ServiceTable,
    unclosed: ServiceTable,
    next_pass: Option<Instant>,
    interval: Duration,
    took: Duration,
    /// Of the answered connections, one in so many is followed.
    answered_one_in: u32,
    /// Requests that there was no room for, in all passes, and passes that did not come to their end.
    missed: u64,
}

impl OpenRequests {
    /// One that follows nothing yet, and knows this of programs.
    pub fn knowing(manners: LearnedManners) -> Self {
        Self {
            followed: HashMap::new(),
            numbers: HashMap::new(),
            manners,
            incoming: ServiceTable::default(),
            unclosed: ServiceTable::default(),
            next_pass: None,
            interval: PASS_INTERVAL,
            took: Duration::ZERO,
            answered_one_in: ANSWERED_ONE_IN,
            missed: 0,
        }
    }

    /// What is known of programs.
    pub fn manners(&self) -> &LearnedManners {
        &self.manners
    }

    /// Services that owed answers at the last pass.
    pub fn incoming(&self) -> &ServiceTable {
        &self.incoming
    }

    /// Programs that had connections at the last pass which only the other end has closed.
    pub fn unclosed(&self) -> &ServiceTable {
        &self.unclosed
    }

    /// Whether all sockets are to be looked at now.
    pub fn pass_is_due(&self, now: Instant) -> bool {
        self.next_pass.is_none_or(|next| now >= next)
    }

    /// Of the answered connections, a pass is to tell of one in so many.
    pub fn answered_one_in(&self) -> u32 {
        self.answered_one_in
    }

    /// Takes what a pass has found; `None`: it did not come to its end.
    pub fn passed(&mut self, found: Option<SeenConnections>, Pass { began, took, at }: Pass) {
        self.manners.at(at);
        self.took = took;
        self.interval = (took * SHARE).clamp(PASS_INTERVAL, PASS_INTERVAL_MAX);
        self.next_pass = Some(began + self.interval);
        let Some(found) = found else {
            self.missed += 1;
            return;
        };
        self.incoming = ServiceTable::of(found.incoming);
        self.unclosed = ServiceTable::of(found.unclosed);
        let (mut open, mut answered): (Vec<_>, Vec<_>) =
            found.asked.into_iter().partition(|connection| connection.unanswered().is_some());
        open.retain(|connection| connection.unanswered().is_some_and(|age| age >= SILENCE_MIN));
        open.sort_by_cached_key(|connection| Reverse(connection.unanswered()));
        let number = open.len();
        let open = fair::keep(open, FOLLOWED_MAX, |connection| connection.uid);
        self.missed += (number - open.len()) as u64;
        self.answered_one_in = match answered.len() {
            too_many if too_many > ANSWERED_MAX => self.answered_one_in.saturating_mul(2),
            few if few < ANSWERED_MAX / 4 => (self.answered_one_in / 2).max(1),
            _ => self.answered_one_in,
        };
        answered.truncate(ANSWERED_MAX);
        let mut before = std::mem::take(&mut self.followed);
        for connection in open.into_iter().chain(answered) {
            let key = (connection.process, connection.file.inode);
            let after = self.after(before.remove(&key), connection);
            self.followed.insert(key, after);
        }
        // Those that were missing before could not be looked at again.
        let missing = before.into_iter().filter(|(_, before)| !before.is_missing && before.is_open());
        let missing = missing.map(|(key, before)| (key, FollowedConnection { is_missing: true, ..before }));
        self.followed.extend(missing);
        self.numbers.clear();
        for followed in self.followed.values() {
            *self.numbers.entry(followed.with()).or_default() += 1;
        }
    }

    /// Descriptors of connections that are to be looked at again: the ones that a pass has missed, as more may have been said on them just
    /// now, and of those on which an answer is due the ones of each user that have waited for longest. Not those that have just been seen.
    /// `by_walks`: each costs a walk over all threads.
    pub fn to_refresh(&self, now_ns: u64, by_walks: bool) -> Vec<(ThreadId, i32)> {
        let is_due = |followed: &&FollowedConnection| {
            followed.connection.seen_ns < now_ns
                && (followed.is_missing || self.expectation(followed) == Expectation::Answer)
        };
        let mut oldest: Vec<&FollowedConnection> = self.followed.values().filter(is_due).collect();
        oldest.sort_by_key(|followed| {
            (!followed.is_missing, followed.connection.began_ns(), followed.connection.fd)
        });
        let mut of_process: HashMap<ProcessId, usize> = HashMap::new();
        oldest.retain(|followed| {
            let number = of_process.entry(followed.connection.process).or_default();
            *number += 1;
            !by_walks || *number <= REFRESHED_BY_WALKS_MAX
        });
        let oldest = fair::keep(oldest, REFRESHED_MAX, |followed| followed.connection.uid);
        oldest.iter().map(|followed| (followed.connection.request(), followed.connection.fd)).collect()
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
            let after = self.after(Some(before), now);
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
        let due = self
            .followed
            .values()
            .filter(|followed| {
                !followed.is_missing && !taken.suspended.contains(&followed.connection.process)
            })
            .filter_map(|followed| {
                let (Expectation::Answer, Some(since_ns)) = self.judge(followed) else { return None };
                let connection = &followed.connection;
                let is_threads = taken.has(connection) || followed.is_of_thread(now.monotonic_ns);
                // A thread waits for the answer to what it said last, and begins anew each time that it says more.
                let is_older = connection.began_ns().is_some_and(|last| since_ns < last);
                (is_older || !is_threads).then_some((connection, since_ns))
            });
        let mut due: Vec<(&AskedConnection, u64)> = due.collect();
        due.sort_by_key(|(connection, _)| {
            (connection.file.inode, connection.process.start_ns, connection.fd)
        });
        due.dedup_by_key(|(connection, _)| connection.file.inode);
        due.iter().map(|(connection, since_ns)| connection.wait_since(*since_ns, now)).collect()
    }

    /// Whether none is followed.
    pub fn is_empty(&self) -> bool {
        self.followed.is_empty()
    }

    /// How many have no answer.
    pub fn numbers(&self) -> RequestNumbers {
        let mut numbers =
            RequestNumbers { pass: self.took, interval: self.interval, ..RequestNumbers::default() };
        for followed in self.followed.values().filter(|followed| followed.is_open()) {
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

    /// What is due.
    fn expectation(&self, followed: &FollowedConnection) -> Expectation {
        self.judge(followed).0
    }

    /// What is due, by the connection itself and by what its program does otherwise, and since when, nanoseconds of `CLOCK_MONOTONIC`.
    fn judge(&self, followed: &FollowedConnection) -> (Expectation, Option<u64>) {
        let connection = &followed.connection;
        let (own, since) = (connection.expectation(), connection.began_ns());
        if since.is_none() || own == Expectation::Nothing {
            return (Expectation::Nothing, None);
        }
        if connection.is_undelivered() {
            return (Expectation::Answer, since);
        }
        let manners = self.manners.of(connection);
        let is_one_of_several = self.numbers.get(&followed.with()).is_some_and(|number| *number > 1);
        let is_usually_answered = manners.has_answers_last();
        match own {
            _ if followed.talks && manners.silence().is_some_and(|usual| followed.has_talked_for(usual)) => {
                (Expectation::Answer, followed.silent_since_ns)
            }
            // What overlaps are requests, or parts of one: the last of them counts.
            _ if followed.talks && is_usually_answered => (Expectation::Answer, since),
            _ if followed.talks || manners.is_talker() => (Expectation::Nothing, None),
            // A process that has one connection only may share it between many requests, and acknowledge now and then what it has got.
            Expectation::Unknown if is_usually_answered && is_one_of_several => (Expectation::Answer, since),
            own => (own, since),
        }
    }

    /// What is known of a connection after it has been looked at, and learns from it what it teaches.
    fn after(&mut self, before: Option<FollowedConnection>, mut now: AskedConnection) -> FollowedConnection {
        let open_since = now.began_ns();
        let Some(before) = before else {
            if open_since.is_none() {
                self.manners.rested(&now);
            }
            let (talks, thread_ns, is_missing) = (false, None, false);
            return FollowedConnection {
                connection: now,
                silent_since_ns: open_since,
                talks,
                thread_ns,
                is_missing,
            };
        };
        // Who polls now and then watches as well.
        now.is_watched |= before.connection.is_watched;
        let has_heard = now.bytes_received() > before.connection.bytes_received();
        let has_said = now.bytes_sent() > before.connection.bytes_sent();
        if has_said && before.has_ended() && before.connection.tcp.has_reacted() {
            self.manners.reused(&now);
        }
        let (mut talks, mut silent_since_ns) = (before.talks, before.silent_since_ns);
        if has_heard {
            self.heard(&before, &now, has_said);
            (talks, silent_since_ns) = (false, open_since);
        } else if has_said && before.has_ended() {
            if !talks {
                self.manners.talked(&now);
            }
            talks = true;
        } else if has_said && (!talks || silent_since_ns.is_none()) {
            // Something new, or more of what was being said.
            silent_since_ns = open_since;
        }
        let thread_ns = before.thread_ns;
        FollowedConnection { connection: now, silent_since_ns, talks, thread_ns, is_missing: false }
    }

    /// Something has come since.
    fn heard(&mut self, before: &FollowedConnection, now: &AskedConnection, has_said: bool) {
        let came_ns = now.seen_ns.saturating_sub(now.tcp.received().unwrap_or_default().as_nanos() as u64);
        match before.silent_since_ns {
            Some(since) if before.talks => {
                self.manners.broke_silence(now, Duration::from_nanos(came_ns.saturating_sub(since)));
            }
            _ if has_said => {
                let apart = now.seen_ns.saturating_sub(before.connection.seen_ns);
                self.manners.broke_silence(now, Duration::from_nanos(apart));
            }
            Some(_) => self.manners.answered(now),
            None => {}
        }
        if now.began_ns().is_none() {
            self.manners.rested(now);
        }
    }
}

impl FollowedConnection {
    /// Whether the process has spoken last.
    fn is_open(&self) -> bool {
        self.connection.unanswered().is_some()
    }

    /// Whose it is, and with whom.
    fn with(&self) -> (ProcessId, Option<Endpoint>) {
        (self.connection.process, self.connection.file.tcp().map(|addresses| addresses.remote))
    }

    /// Whether the peer had got all there was for a while.
    fn has_ended(&self) -> bool {
        !self.connection.is_undelivered()
            && self.connection.unanswered().is_some_and(|age| age >= SILENCE_MIN)
    }

    /// Whether it has gone on talking, and heard nothing, for some times as long as this.
    fn has_talked_for(&self, usual: Duration) -> bool {
        let (Some(since), Some(last)) = (self.silent_since_ns, self.connection.began_ns()) else {
            return false;
        };
        Duration::from_nanos(last.saturating_sub(since)) >= usual * SILENCE_FACTOR
    }

    /// Whether a thread waits for its answer, which may be elsewhere at the moment.
    fn is_of_thread(&self, now_ns: u64) -> bool {
        self.thread_ns.is_some_and(|thread_ns| now_ns.saturating_sub(thread_ns) < THREAD_AWAY_MAX_NS)
    }
}
