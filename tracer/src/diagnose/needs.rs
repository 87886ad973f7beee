//! Whom does a wait need, so that it can end? Pure.

use crate::{
    diagnose::graph::Needed,
    model::syscalls::Operation,
    model::target::Target,
    model::wait::Wait,
    resolve::{
        Resolved,
        futex::{FutexWord, LockHolder},
        peers::Peers,
    },
};

/// Who may be needed: a process, any thread of which may act, or one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Party {
    /// The process.
    pub pid: u32,
    /// The thread, where only that is meant.
    pub tid: Option<u32>,
}

impl Party {
    /// A process.
    pub fn process(pid: u32) -> Self {
        Self { pid, tid: None }
    }

    /// A thread.
    pub fn thread(pid: u32, tid: u32) -> Self {
        Self { pid, tid: Some(tid) }
    }

    /// Who waits.
    pub fn of(wait: &Wait) -> Self {
        Self::thread(wait.thread.process.pid, wait.thread.tid)
    }
}

/// Whom a wait needs. `None`: it ends by itself, or somebody may end it who is not known.
pub fn needs(wait: &Wait, resolved: &Resolved) -> Option<Needed<Party>> {
    if wait.call.is_timed() || resolved.timeout.is_some() {
        return None;
    }
    if let Target::Pidfd { pid: Some(pid) } = &resolved.target {
        return u32::try_from(*pid).ok().map(|pid| Needed::AnyOf(vec![Party::process(pid)]));
    }
    let peers = resolved.peers.as_ref()?;
    if wait.call.waits_for_file_lock() {
        // A lock that several share is free once all have let go: each that is known counts.
        let mut holders = others(peers);
        holders.extend(peers.own.then(|| Party::process(wait.thread.process.pid)));
        return (!holders.is_empty()).then_some(Needed::AllOf(holders));
    }
    if let Some(word) = &peers.futex {
        return of_word(word, wait, peers);
    }
    let any = match (wait.call.operation(), &resolved.target) {
        (Operation::Child, _) => others(peers),
        // The client of a named socket may be answered by whoever listens there.
        (_, Target::Pipe { .. } | Target::Unix { path: None, client: false, peer_inode: Some(_), .. }) => {
            let mut ends = others(peers);
            // A wait goes on only while its other end is open: where nobody is seen to have that, somebody has it who is not seen.
            if ends.is_empty() && !peers.own {
                return None;
            }
            // Another thread, or a handler of a signal, may use the process's own copy, or wake the thread in another way.
            if peers.own || wait.call.watches_fds() {
                if peers.handles_signals {
                    return None;
                }
                ends.push(Party::process(wait.thread.process.pid));
            }
            ends
        }
        _ => return None,
    };
    if peers.alone {
        return Some(Needed::AnyOf(Vec::new()));
    }
    // Whoever is not named may end it.
    (peers.more == 0 && !any.is_empty()).then_some(Needed::AnyOf(any))
}

/// Whom a thread needs that waits on a word in memory.
fn of_word(word: &FutexWord, wait: &Wait, peers: &Peers) -> Option<Needed<Party>> {
    let pid = wait.thread.process.pid;
    Some(match word {
        FutexWord::Lock(LockHolder::Thread(owner)) => {
            Needed::AllOf(vec![Party::thread(owner.pid, owner.tid)])
        }
        FutexWord::Lock(LockHolder::Itself) => Needed::AllOf(vec![Party::of(wait)]),
        FutexWord::Lock(LockHolder::Gone(_)) | FutexWord::Nothing => Needed::AnyOf(Vec::new()),
        FutexWord::ThreadEnd(tid) => Needed::AnyOf(vec![Party::thread(pid, *tid)]),
        // Any thread of the process may wake it, and any of those that share the memory.
        _ if peers.own && peers.more == 0 && !peers.handles_signals => {
            Needed::AnyOf(others(peers).into_iter().chain([Party::process(pid)]).collect())
        }
        _ => return None,
    })
}

fn others(peers: &Peers) -> Vec<Party> {
    peers.others.iter().map(|peer| Party::process(peer.pid)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::verdict::tests::{on, peers, wait},
        model::syscalls::Syscall,
    };

    #[test]
    fn who_is_not_seen_may_end_a_wait_on_a_pipe() {
        for (syscall, others, own, expected) in [
            (Syscall::Read, 1, false, Some(1)),
            (Syscall::Read, 1, true, Some(2)),
            (Syscall::Read, 0, true, Some(1)),
            (Syscall::Read, 0, false, None),
            // Another thread may wake a poll in another way, but does not hold the other end either.
            (Syscall::Poll, 1, false, Some(2)),
            (Syscall::Poll, 0, true, Some(1)),
            (Syscall::Poll, 0, false, None),
        ] {
            let peers = peers(others, own, false, None);
            let resolved = Resolved { peers, ..on(syscall, Target::Pipe { inode: 1 }) };
            let args = [3, 0, 0xffff_ffff, 0, 0, 0];
            let found = needs(&wait(syscall, args), &resolved).map(|needs| needs.whom().len());
            assert_eq!(found, expected, "{syscall:?} {others} {own}");
        }
    }
}
