//! Tries: a program that asks a service in vain, gives up and asks anew, on another socket or by another thread, has waited all the
//! time. Which wait is the next try of which? Pure.
//!
//! The next one begins when the last one has ended in vain, or after a pause that a single sleep fills: who does anything else in
//! between may have had an answer.

use std::net::SocketAddr;

use hashbrown::HashMap;

use super::track::Track;
use crate::{
    model::class::Class,
    model::target::Target,
    model::wait::{ProcessId, ThreadId},
    resolve::Resolved,
};

/// How much later than the end of one try, or of the sleep after it, the next one begins: a program closes a socket and makes another.
const AT_ONCE_NS: u64 = 250_000_000;
/// For how long after a try the next one is waited for. Who asks again after a failure mostly does so within a minute.
const NEXT_WITHIN_NS: u64 = 60_000_000_000;
/// Tries that are remembered.
const TRIES_MAX: usize = 4096;

/// Whom a program asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Service {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    /// A unix socket's name.
    Unix(String),
}

impl Service {
    /// Whom a wait asks that may be one of many tries: nothing has come back on its socket.
    pub fn tried_by(resolved: &Resolved, class: Class) -> Option<Self> {
        let silent = || match resolved.socket.tcp() {
            Some(facts) => facts.activity.is_some_and(|activity| activity.bytes_received == 0),
            None => resolved.socket.unix().is_none_or(|facts| facts.unaccepted),
        };
        let is_try = class == Class::Connect || class == Class::Reply && silent();
        if !is_try {
            return None;
        }
        match &resolved.target {
            Target::Tcp { remote, .. } => Some(Self::Tcp(*remote)),
            Target::Udp { remote: Some(remote), .. } => Some(Self::Udp(*remote)),
            Target::Unix { path: Some(path), .. } => Some(Self::Unix(path.clone())),
            _ => None,
        }
    }
}

/// A try that has ended in vain.
#[derive(Clone, Debug)]
pub struct FailedTry {
    /// Whose it was.
    pub thread: ThreadId,
    /// The wait, as it was.
    pub track: Track,
    /// When it ended, nanoseconds of `CLOCK_MONOTONIC`.
    pub ended_ns: u64,
}

/// When a wait begins, and what its thread did before.
#[derive(Clone, Copy, Debug)]
pub struct Beginning {
    /// Its thread.
    pub thread: ThreadId,
    /// When it began.
    pub began_ns: u64,
    /// The sleep of its thread before it: when that began and ended, if it is known.
    pub slept: Option<(u64, u64)>,
}

/// Whether one follows the other at once, or nearly so. Ends and beginnings are of two clocks.
pub fn at_once(ended_ns: u64, began_ns: u64) -> bool {
    ended_ns.abs_diff(began_ns) <= AT_ONCE_NS
}

impl FailedTry {
    /// Whether a wait is the next try.
    fn is_followed_by(&self, next: &Beginning) -> bool {
        let is_after_pause = |(began_ns, ended_ns): (u64, u64)| {
            at_once(self.ended_ns, began_ns) && at_once(ended_ns, next.began_ns)
        };
        let paused = next.slept.filter(|_| next.thread == self.thread);
        at_once(self.ended_ns, next.began_ns) || paused.is_some_and(is_after_pause)
    }
}

/// What becomes of a try that has ended in vain when another one has.
#[derive(Debug)]
pub enum Replaced {
    /// There was none.
    Nothing,
    /// That one was the next try, by this thread or another.
    GoesOn {
        /// Whose stall it was.
        from: ThreadId,
        /// Whose it is.
        to: ThreadId,
    },
    /// Nobody will go on with it: it was another's, or there is no room.
    GivenUp(Box<FailedTry>),
}

/// Tries that have ended in vain and may be followed by another, by process and service.
#[derive(Debug, Default)]
pub struct Tries(HashMap<(ProcessId, Service), FailedTry>);

impl Tries {
    /// A try has ended in vain, which may have been the next one of another: what becomes of that.
    pub fn failed(&mut self, service: Service, mut failed: FailedTry) -> Replaced {
        let key = (failed.thread.process, service);
        let began_ns = failed.track.began_ns;
        let next = Beginning { thread: failed.thread, began_ns, slept: None };
        let before = self.0.remove(&key);
        if before.is_none() && self.0.len() >= TRIES_MAX {
            return Replaced::GivenUp(Box::new(failed));
        }
        let replaced = match before {
            // Both too short to be looked into, it may be.
            Some(before) if before.is_followed_by(&next) && !failed.track.is_flagged => {
                (failed.track.began_ns, failed.track.is_flagged) =
                    (before.track.began_ns, before.track.is_flagged);
                Replaced::GoesOn { from: before.thread, to: failed.thread }
            }
            Some(before) => Replaced::GivenUp(Box::new(before)),
            None => Replaced::Nothing,
        };
        self.0.insert(key, failed);
        replaced
    }

    /// The try that a wait goes on with.
    pub fn followed_by(&mut self, service: &Service, next: &Beginning) -> Option<FailedTry> {
        let key = (next.thread.process, service.clone());
        self.0.get(&key).filter(|failed| failed.is_followed_by(next))?;
        self.0.remove(&key)
    }

    /// Those that nobody has followed in time, or can any more: of a flagged one it is known whether its process lives.
    pub fn given_up(&mut self, now_ns: u64, lives: impl Fn(&FailedTry) -> bool) -> Vec<FailedTry> {
        let is_old = |failed: &FailedTry| now_ns.saturating_sub(failed.ended_ns) > NEXT_WITHIN_NS;
        let is_over = |failed: &FailedTry| is_old(failed) || failed.track.is_flagged && !lives(failed);
        self.0.extract_if(|_, failed| is_over(failed)).map(|(_, failed)| failed).collect()
    }

    /// All that may be followed.
    pub fn all(&self) -> impl Iterator<Item = &FailedTry> {
        self.0.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::verdict::tests::{on, tcp, unix, wait},
        model::{
            syscalls::Syscall,
            tcp::tests::facts,
            wait::{SocketFacts, UdpFacts, UnixFacts},
        },
    };

    const SECOND: u64 = 1_000_000_000;

    fn thread(tid: u32) -> ThreadId {
        ThreadId { process: ProcessId { pid: 7, start_ns: 1 }, tid, start_ns: 1 }
    }

    fn failed(tid: u32, ended_ns: u64) -> FailedTry {
        FailedTry { thread: thread(tid), track: Track::new(&wait(Syscall::Connect, [0; 6])), ended_ns }
    }

    #[test]
    fn only_what_has_heard_nothing_is_a_try() {
        let udp = || Target::Udp {
            local: "10.0.0.1:40000".parse().expect("an address"),
            remote: Some("10.0.0.2:53".parse().expect("an address")),
            inode: 1,
        };
        let unaccepted = SocketFacts::Unix(Box::new(UnixFacts { unaccepted: true, ..UnixFacts::default() }));
        let tcp_service = || Some(Service::Tcp("10.0.0.2:443".parse().expect("an address")));
        for (target, socket, class, expected) in [
            (tcp(), SocketFacts::Tcp(Box::new(facts(0, 0))), Class::Connect, tcp_service()),
            (tcp(), SocketFacts::Tcp(Box::new(facts(500, 0))), Class::Reply, tcp_service()),
            (tcp(), SocketFacts::Tcp(Box::new(facts(500, 1))), Class::Reply, None),
            (tcp(), SocketFacts::Tcp(Box::new(facts(500, 0))), Class::Send, None),
            (
                udp(),
                SocketFacts::Udp(UdpFacts::default()),
                Class::Reply,
                Some(Service::Udp("10.0.0.2:53".parse().expect("an address"))),
            ),
            (udp(), SocketFacts::Udp(UdpFacts::default()), Class::Quiet, None),
            (unix(false, false, true), unaccepted, Class::Reply, Some(Service::Unix("/run/s".into()))),
            (unix(false, true, true), SocketFacts::Unix(Box::default()), Class::Reply, None),
            (Target::Pipe { inode: 1 }, SocketFacts::None, Class::Pipe, None),
        ] {
            let resolved = Resolved { socket, ..on(Syscall::Read, target) };
            assert_eq!(Service::tried_by(&resolved, class), expected, "{resolved:?}");
        }
    }

    #[test]
    fn the_next_try_follows_at_once_or_after_one_sleep() {
        let service = Service::Unix("/run/s".into());
        for (tid, began_ns, slept, expected) in [
            (1, 10 * SECOND + 1_000_000, None, true),
            // By another thread of a pool.
            (2, 10 * SECOND + 1_000_000, None, true),
            (1, 11 * SECOND, None, false),
            // A pause, filled by a sleep of its own.
            (1, 40 * SECOND, Some((10 * SECOND, 40 * SECOND)), true),
            (2, 40 * SECOND, Some((10 * SECOND, 40 * SECOND)), false),
            (1, 40 * SECOND, Some((11 * SECOND, 40 * SECOND)), false),
            (1, 40 * SECOND, Some((10 * SECOND, 39 * SECOND)), false),
        ] {
            let mut tries = Tries::default();
            assert!(matches!(tries.failed(service.clone(), failed(1, 10 * SECOND)), Replaced::Nothing));
            let next = Beginning { thread: thread(tid), began_ns, slept };
            let followed = tries.followed_by(&service, &next).is_some();
            assert_eq!(followed, expected, "{next:?}");
            let other = Service::Unix("/run/t".into());
            assert!(tries.followed_by(&other, &next).is_none());
        }
    }

    #[test]
    fn nobody_waits_for_the_next_try_for_ever() {
        let mut tries = Tries::default();
        tries.failed(Service::Unix("/a".into()), failed(1, 10 * SECOND));
        tries.failed(Service::Unix("/b".into()), failed(1, 20 * SECOND));
        assert_eq!(tries.given_up(70 * SECOND, |_| false).len(), 0);
        assert_eq!(tries.given_up(71 * SECOND, |_| true).len(), 1);
        let mut flagged = failed(1, 71 * SECOND);
        flagged.track.is_flagged = true;
        tries.failed(Service::Unix("/c".into()), flagged);
        assert_eq!(tries.given_up(71 * SECOND, |_| true).len(), 0);
        assert_eq!(tries.given_up(71 * SECOND, |_| false).len(), 1, "its process has gone");
        assert_eq!(tries.all().count(), 1);
    }

    #[test]
    fn there_is_an_end_to_what_is_remembered() {
        let mut tries = Tries::default();
        let number = |at: usize| Service::Unix(at.to_string());
        let mut fail = |at, tid, ended_ns| tries.failed(number(at), failed(tid, ended_ns));
        assert!((0..TRIES_MAX).all(|at| matches!(fail(at, 1, 9 * SECOND), Replaced::Nothing)));
        let left = |replaced| match replaced {
            Replaced::GivenUp(failed) => Some(failed.thread),
            Replaced::Nothing | Replaced::GoesOn { .. } => None,
        };
        assert_eq!(left(fail(TRIES_MAX, 2, 9 * SECOND)), Some(thread(2)));
        assert_eq!(left(fail(0, 3, 9 * SECOND)), Some(thread(1)));
    }

    /// Each is over before anybody has looked at it.
    #[test]
    fn tries_that_follow_each_other_are_one() {
        let mut tries = Tries::default();
        let service = || Service::Unix("/run/s".into());
        for at in 1..5 {
            let mut next = failed(at, u64::from(at + 1) * SECOND);
            next.track.began_ns = u64::from(at) * SECOND;
            next.track.is_flagged = at == 1;
            let replaced = tries.failed(service(), next);
            let goes_on =
                matches!(replaced, Replaced::GoesOn { from, to } if (from.tid, to.tid) == (at - 1, at));
            assert_eq!(goes_on, at > 1, "{replaced:?}");
        }
        let last = tries.all().next().expect("one");
        assert_eq!((last.track.began_ns, last.track.is_flagged, last.thread), (SECOND, true, thread(4)));
    }
}
