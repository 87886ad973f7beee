//! Which waits may stand in a circle since another process has gone or closed its end? Pure.
//!
//! A circle that closes as somebody begins to wait is found when that wait is old enough. One that closes as somebody goes is not to be
//! seen in any snapshot: so the waits are looked up again that any of several could end, of whom one waits itself.

use hashbrown::HashMap;

use super::Tracker;
use crate::{
    assess::pipeline::Assessment,
    config::Config,
    diagnose::{graph::Needed, needs::needs},
    model::syscalls::Operation,
    model::wait::{Snapshot, Wait},
};

/// Waits that are looked up again in one look. Where there are more they take turns.
const AGAIN_MAX: usize = 16;

/// The processes any of which could end a wait on a pipe or a pair of sockets, if there are several: each may go.
pub fn ends(Assessment { wait, resolved, .. }: &Assessment) -> Box<[u32]> {
    let is_end = wait.call.operation() != Operation::Child
        && resolved.peers.as_ref().is_some_and(|peers| peers.futex.is_none());
    match needs(wait, resolved).filter(|_| is_end) {
        Some(Needed::AnyOf(ends)) if ends.len() > 1 => ends.iter().map(|end| end.pid).collect(),
        _ => Box::default(),
    }
}

impl Tracker {
    /// Waits of which the circle may have closed meanwhile, those first that were looked up longest ago.
    pub(super) fn may_have_closed<'a>(&self, snapshot: &'a Snapshot, policy: &Config) -> Vec<&'a Wait> {
        let candidate = |wait: &'a Wait| {
            let track = self.waits.get(&wait.thread)?;
            let is_it = !track.ends.is_empty()
                && track.sleep_began_ns == wait.sleep_began_ns
                && snapshot.monotonic_ns.saturating_sub(track.began_ns) >= policy.least().as_nanos() as u64
                && !self.stalls.has(&wait.thread);
            is_it.then_some((track, wait))
        };
        let mut candidates: Vec<_> = snapshot.waits.iter().filter_map(candidate).collect();
        if candidates.is_empty() {
            return Vec::new();
        }
        // Of each process, whether all of its waits may be for others.
        let mut waits_for_others: HashMap<u32, bool> = HashMap::new();
        for wait in &snapshot.waits {
            *waits_for_others.entry(wait.thread.process.pid).or_insert(true) &= wait.may_be_for_others();
        }
        candidates.retain(|(track, _)| {
            track.ends.iter().any(|pid| waits_for_others.get(pid).copied().unwrap_or(false))
        });
        candidates.sort_by_key(|(track, _)| track.looked_ns);
        candidates.into_iter().take(AGAIN_MAX).map(|(_, wait)| wait).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        agent::tracker::track::Track,
        diagnose::verdict::{
            classify,
            tests::{on, peers, wait},
        },
        model::{
            file::{FileKind, tests::file},
            syscalls::Syscall,
            target::Target,
            wait::FdState,
        },
        resolve::Resolved,
        util::clock::Now,
    };

    fn wait_of(pid: u32, syscall: Syscall) -> Wait {
        let mut wait = wait(syscall, [3, 0, 0, 0, 0, 0]);
        (wait.thread.process.pid, wait.thread.tid) = (pid, pid);
        wait.fd_state = FdState::Open(file(u64::from(pid), FileKind::Fifo));
        wait
    }

    #[test]
    fn only_one_that_any_of_several_could_end_has_ends() {
        for (syscall, others, own, expected) in [
            (Syscall::Read, 2, false, 2),
            (Syscall::Write, 2, false, 2),
            // Its own copy counts: another thread may use it.
            (Syscall::Read, 1, true, 2),
            (Syscall::Read, 1, false, 0),
            // Who waits for any child goes on when one ends.
            (Syscall::Wait4, 2, false, 0),
        ] {
            let resolved =
                Resolved { peers: peers(others, own, false, None), ..on(syscall, Target::Pipe { inode: 1 }) };
            let wait = wait_of(1, syscall);
            let class = classify(&wait, &resolved);
            let found = ends(&Assessment { wait, resolved, class }).len();
            assert_eq!(found, expected, "{syscall:?} {others} {own}");
        }
    }

    /// A tracker that has looked at reads of pipes which 7 and 8 could end, of so many processes from 100 on, the last of them first.
    fn looked(number: u32) -> (Tracker, Vec<Wait>) {
        let mut tracker = Tracker::default();
        let waits: Vec<Wait> = (100..100 + number).map(|pid| wait_of(pid, Syscall::Read)).collect();
        for wait in &waits {
            let mut track = Track::new(wait);
            (track.ends, track.looked_ns) = ([7, 8].into(), Some(u64::from(1_000 - wait.thread.tid)));
            tracker.waits.insert(wait.thread, track);
        }
        (tracker, waits)
    }

    fn again(tracker: &Tracker, waits: &[Wait], more: &[Wait], now_s: u64) -> Vec<u32> {
        let mut snapshot = Snapshot::empty(&Now::read(), "bpf");
        snapshot.monotonic_ns = now_s * 1_000_000_000;
        snapshot.waits = [waits, more].concat();
        let again = tracker.may_have_closed(&snapshot, &Config::default());
        again.into_iter().map(|wait| wait.thread.tid).collect()
    }

    #[test]
    fn it_is_looked_at_again_while_one_of_its_ends_waits_for_others() {
        let (tracker, waits) = looked(1);
        let reads = [wait_of(8, Syscall::Read)];
        assert_eq!(again(&tracker, &waits, &reads, 60), [100]);
        assert_eq!(again(&tracker, &waits, &reads, 29), [] as [u32; 0], "it is young");
        assert_eq!(again(&tracker, &waits, &[], 60), [] as [u32; 0], "both of its ends can act");
        let mut sleeps = wait_of(8, Syscall::Nanosleep);
        (sleeps.thread.tid, sleeps.fd_state) = (9, FdState::None);
        let both = [wait_of(8, Syscall::Read), sleeps];
        assert_eq!(again(&tracker, &waits, &both, 60), [] as [u32; 0], "a thread of it can");
        let later = Wait { sleep_began_ns: 5, ..waits[0].clone() };
        assert_eq!(again(&tracker, &[later], &reads, 60), [] as [u32; 0], "it has gone on");
    }

    #[test]
    fn where_there_are_many_they_take_turns() {
        let (mut tracker, waits) = looked(40);
        let reads = [wait_of(8, Syscall::Read)];
        let mut seen = Vec::new();
        for second in 60..63 {
            let turn = again(&tracker, &waits, &reads, second);
            assert!(turn.len() <= AGAIN_MAX, "{turn:?}");
            for wait in waits.iter().filter(|wait| turn.contains(&wait.thread.tid)) {
                let track = tracker.waits.get_mut(&wait.thread).expect("known");
                track.looked_ns = Some(Duration::from_secs(second).as_nanos() as u64);
            }
            seen.extend(turn);
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, (100..140).collect::<Vec<_>>());
    }
}
