//! Which thread holds the lock in memory that another waits for, if it is a lock: the C library writes the owner's id beside
//! it.

use std::collections::HashMap;

use crate::{
    model::wait::{ProcessId, Wait},
    procfs::Reads,
    util::linux::{FUTEX_LOCK_PI, FUTEX_LOCK_PI2, futex_command},
};

/// A thread that holds a lock in the memory of its process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockOwner {
    /// Its id.
    pub tid: u32,
    /// Its name.
    pub comm: String,
}

/// The word of a priority-inheriting futex is its owner's id, with two bits for the kernel (`FUTEX_TID_MASK`,
/// include/uapi/linux/futex.h).
const TID_MASK: u32 = libc::FUTEX_TID_MASK;

/// The thread that holds the lock `wait` waits for, `None` if there is no telling; and whether it is a barrier instead.
pub fn look(wait: &Wait, reads: &mut Reads, owners: &mut Owners) -> (Option<LockOwner>, bool) {
    if !wait.call.waits_for_memory_lock() {
        return (None, false);
    }
    let (process, args) = (wait.thread.process, wait.call.args);
    let Some(words) = reads.memory(process, args[0], 12).filter(|bytes| bytes.len() == 12) else {
        return (None, false);
    };
    // What lies before a lock need not be there.
    let before = args[0].checked_sub(4).and_then(|at| reads.memory(process, at, 4)).unwrap_or_default();
    if !reads.still_in(wait) {
        return (None, false);
    }
    let inherits = matches!(futex_command(args[1]), FUTEX_LOCK_PI | FUTEX_LOCK_PI2);
    let owner = owner_in(&words, inherits).and_then(|id| owners.thread(process, id, reads));
    let owner = owner.filter(|owner| owner.tid != wait.thread.tid);
    let barrier = owner.is_none() && !inherits && is_barrier(&before, &words);
    (owner, barrier)
}

/// Whether the words at a futex, and the one before it, are glibc's barrier of two threads: how many have come, the round
/// that is waited for, threads a round, private or shared (nptl/pthread_barrier_wait.c). In its second round that is 2, the
/// value of a contended lock; no other barrier has it.
fn is_barrier(before: &[u8], words: &[u8]) -> bool {
    const SHARED: u32 = 128;
    let word = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).ok().map(u32::from_ne_bytes);
    let [round, threads, shared] = [0, 4, 8].map(|at| words.get(at..at + 4).and_then(word));
    word(before) == Some(3) && round == Some(2) && threads == Some(2) && matches!(shared, Some(0 | SHARED))
}

/// The owner's id in its own PID namespace, from the lock's first three words: glibc's `pthread_mutex_t` has the lock,
/// how often its owner has taken it, and the owner (nptl/bits/struct_mutex.h). musl's lock is the owner's id itself, but
/// of an ordinary mutex, which has none.
fn owner_in(words: &[u8], inherits: bool) -> Option<u32> {
    const CONTENDED: u32 = 2;
    const MUSL_CONTENDED: u32 = 0x8000_0000;
    const NO_OWNER: u32 = libc::EBUSY as u32;
    let word = |at: usize| Some(u32::from_ne_bytes(words.get(at * 4..at * 4 + 4)?.try_into().ok()?));
    let owner = match inherits {
        true => word(0)? & TID_MASK,
        // Another library's lock has something else there; that it is the id of a thread of this process is checked.
        false if word(0)? == CONTENDED => word(2)?,
        false if word(0)? & MUSL_CONTENDED != 0 && word(0)? & TID_MASK != NO_OWNER => word(0)? & TID_MASK,
        false => 0,
    };
    (owner != 0).then_some(owner)
}

/// Threads by their ids in their processes' own PID namespaces, as far as they were asked for.
#[derive(Default)]
pub struct Owners {
    named: HashMap<(ProcessId, u32), Option<LockOwner>>,
    inside: HashMap<ProcessId, HashMap<u32, u32>>,
}

impl Owners {
    /// The thread of a process that has this id in the process's own PID namespace. The threads of a process are walked once at
    /// most.
    fn thread(&mut self, process: ProcessId, id: u32, reads: &mut Reads) -> Option<LockOwner> {
        let inside = &mut self.inside;
        let find = || {
            let tid = match own_id(process, process.pid, reads)? == process.pid {
                true => id,
                false => *inside.entry(process).or_insert_with(|| ids_inside(process, reads)).get(&id)?,
            };
            Some(LockOwner { tid, comm: reads.thread_comm(process, tid)? })
        };
        self.named.entry((process, id)).or_insert_with(find).clone()
    }
}

/// The ids that the threads of a process have here, by those that they have inside.
fn ids_inside(process: ProcessId, reads: &mut Reads) -> HashMap<u32, u32> {
    let tids = reads.numbers(process, "task").into_iter();
    tids.filter_map(|tid| Some((own_id(process, tid, reads)?, tid))).collect()
}

/// A thread's id in its innermost PID namespace.
fn own_id(process: ProcessId, tid: u32, reads: &mut Reads) -> Option<u32> {
    let status = reads.text(process, &format!("task/{tid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_ascii_whitespace().next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_where_each_kind_of_lock_has_it() {
        let words = |words: [u32; 3]| words.map(u32::to_ne_bytes).concat();
        assert_eq!(owner_in(&words([2, 1, 77]), false), Some(77));
        assert_eq!(owner_in(&words([2, 0, 0]), false), None, "a lock without an owner's id");
        assert_eq!(owner_in(&words([1, 1, 77]), false), None, "nobody waits for this one");
        assert_eq!(owner_in(&words([0x8000_004d, 0, 0]), true), Some(77));
        assert_eq!(owner_in(&words([0x8000_004d, 0, 0]), false), Some(77), "musl");
        assert_eq!(owner_in(&words([0x8000_0010, 0, 0]), false), None, "musl, an ordinary mutex");
        assert_eq!(owner_in(&[2, 0], false), None);
    }

    #[test]
    fn a_barrier_of_two_in_its_second_round_is_told_from_a_lock() {
        let bytes = |words: &[u32]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
        for (before, words, barrier) in [
            (&[3][..], [2, 2, 0], true),
            (&[3], [2, 2, 128], true),
            (&[3], [2, 1, 0], false),
            (&[3], [2, 2, 77], false),
            (&[2], [2, 2, 0], false),
            (&[], [2, 2, 0], false),
        ] {
            assert_eq!(is_barrier(&bytes(before), &bytes(&words)), barrier, "{before:?} {words:?}");
        }
    }

    #[test]
    fn only_threads_of_the_process_are_owners() {
        let pid = std::process::id();
        let process = ProcessId { pid, start_ns: 0 };
        let (mut owners, mut reads) = (Owners::default(), Reads::new());
        assert_eq!(owners.thread(process, pid, &mut reads).map(|owner| owner.tid), Some(pid));
        assert_eq!(owners.thread(process, 1, &mut reads), None);
    }
}
