//! What is a word in memory that a thread waits on, and who holds it if it is a lock? The C libraries write the owner's id beside a lock;
//! of the others the words around it tell at least what they are.

use std::collections::HashMap;

use super::memory::{self, SharedMemory};
use crate::{
    model::syscalls::Operation,
    model::wait::{ProcessId, Wait},
    procfs::{Reads, by_pid, stat},
    util::linux::{
        FUTEX_CLOCK_REALTIME, FUTEX_LOCK_PI, FUTEX_LOCK_PI2, FUTEX_PRIVATE, FUTEX_WAIT, FUTEX_WAIT_BITSET,
        futex_command,
    },
};

/// A thread that holds a lock in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockOwner {
    /// Its process.
    pub pid: u32,
    /// Its id.
    pub tid: u32,
    /// Its name.
    pub comm: String,
}

/// Who holds a lock in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockHolder {
    /// That is not to be told.
    Unknown,
    /// A thread of this process, or of another that shares the memory.
    Thread(LockOwner),
    /// The very thread that waits for it.
    Itself,
    /// A thread with this id, which is no more, or which this process does not have: it was forked from one that had it.
    Gone(u32),
    /// So many readers, whose ids are written nowhere.
    Readers(u32),
}

/// What a word is that a thread waits on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FutexWord {
    /// A lock.
    Lock(LockHolder),
    /// A lock, or a condition that looks like one.
    MayBeLock,
    /// A semaphore, as of `sem_wait`: a lock or a counter.
    Semaphore,
    /// A barrier or a condition that looks like a lock.
    Condition,
    /// The end of a thread of this process.
    ThreadEnd(u32),
    /// Nothing: the C library puts a thread to sleep for ever that wants a lock whose owner is gone, or is the thread itself.
    Nothing,
    /// Anything else.
    Other,
}

/// The word of a priority-inheriting futex is its owner's id, with two bits for the kernel (`FUTEX_TID_MASK`,
/// include/uapi/linux/futex.h).
const TID_MASK: u32 = libc::FUTEX_TID_MASK;
/// Ids are smaller (`PID_MAX_LIMIT`, include/linux/threads.h).
const LARGEST_TID: u32 = 1 << 22;

/// How a thread waits on a word.
#[derive(Clone, Copy, Debug)]
struct FutexCall {
    command: u64,
    is_private: bool,
    realtime: bool,
    value: u32,
}

impl FutexCall {
    fn of(wait: &Wait) -> Self {
        let [_, operation, value, ..] = wait.call.args;
        Self {
            command: futex_command(operation),
            is_private: operation & FUTEX_PRIVATE != 0,
            realtime: operation & FUTEX_CLOCK_REALTIME != 0,
            value: value as u32,
        }
    }

    fn inherits(self) -> bool {
        matches!(self.command, FUTEX_LOCK_PI | FUTEX_LOCK_PI2)
    }
}

/// Words before the one that is waited on, and from it on, as many as could be read.
#[derive(Clone, Copy, Debug, Default)]
struct Around {
    before: [Option<u32>; 3],
    from: [Option<u32>; 8],
}

impl Around {
    fn read(process: ProcessId, address: u64, reads: &mut Reads) -> Option<Self> {
        let mut around = Self::default();
        let from = reads.memory(process, address, 4 * around.from.len())?;
        // What lies before a lock need not be there.
        let before = address.checked_sub(12).and_then(|at| reads.memory(process, at, 12)).unwrap_or_default();
        let word = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_ne_bytes);
        around.from.iter_mut().zip(from.chunks_exact(4)).for_each(|(to, bytes)| *to = word(bytes));
        around.before.iter_mut().zip(before.chunks_exact(4)).for_each(|(to, bytes)| *to = word(bytes));
        around.from[0].is_some().then_some(around)
    }
}

/// The same as [`FutexWord`] before it is known who has an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// A lock; of its owner the id in its own PID namespace. `sure`: it can be nothing else, so that an owner that is not there is gone.
    Lock {
        owner: Option<u32>,
        sure: bool,
    },
    Readers(u32),
    MayBeLock,
    Semaphore,
    Condition,
    /// The end of the thread with this id, if there is one.
    End(u32),
    /// A word on the waiter's own stack, if it lies just above its stack pointer.
    OnStack(OnStack),
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnStack {
    /// musl's condition.
    Condition,
    /// glibc's dead end.
    Nothing,
}

/// What the words around a futex are, by how a thread waits for it.
fn shape(call: FutexCall, address: u64, around: &Around) -> Shape {
    let Some(word) = around.from[0] else { return Shape::Other };
    if call.inherits() {
        let owner = Some(word & TID_MASK).filter(|owner| *owner != 0);
        return Shape::Lock { owner, sure: true };
    }
    match (call.command, call.value) {
        (FUTEX_WAIT, 2) => plain_two(call, address, around),
        (FUTEX_WAIT, value) if value ^ libc::FUTEX_WAITERS <= LARGEST_TID => with_owner_inside(word, around),
        (FUTEX_WAIT_BITSET, 2 | 3) if call.realtime => read_write_lock(call, around).unwrap_or(Shape::Other),
        // Rust's mutex, or its condition after two notifications.
        (FUTEX_WAIT_BITSET, 2) => Shape::MayBeLock,
        (FUTEX_WAIT_BITSET, 0) if is_semaphore(call, address, around) => Shape::Semaphore,
        (FUTEX_WAIT_BITSET, 0) if call.realtime && !call.is_private => Shape::OnStack(OnStack::Nothing),
        // pthread_join of glibc waits for the kernel to clear the id of the thread (nptl/pthread_join_common.c).
        (FUTEX_WAIT_BITSET, id) if !call.is_private && id == word && id <= LARGEST_TID => Shape::End(id),
        _ => Shape::Other,
    }
}

/// How glibc waits for a mutex, and musl for some things: with 2, without a time-out.
fn plain_two(call: FutexCall, address: u64, around: &Around) -> Shape {
    const STILL_WAITS: Option<u32> = Some(0);
    if is_barrier(around) {
        return Shape::Condition;
    }
    // musl's pthread_join waits for the state of a thread, two words behind its id (src/internal/pthread_impl.h).
    if let (true, Some(id), Some(2)) = (call.is_private, around.before[1], around.from[0])
        && !has_glibc_kind(call, around)
        && (1..=LARGEST_TID).contains(&id)
    {
        return Shape::End(id);
    }
    // musl's condition waits in a node on its stack: state, this word, and whom to tell (src/thread/pthread_cond_timedwait.c).
    if address % 8 == 4 && around.before[2] == STILL_WAITS && around.from[1..3] == [Some(0); 2] {
        return Shape::OnStack(OnStack::Condition);
    }
    if around.from[0] != Some(2) {
        return Shape::Lock { owner: None, sure: false };
    }
    // glibc's pthread_mutex_t: the lock, how often its owner has taken it, the owner (nptl/bits/struct_mutex.h). Another library's lock has
    // something else there.
    let owner = around.from[2].filter(|owner| (1..=LARGEST_TID).contains(owner));
    Shape::Lock { owner, sure: owner.is_some() && has_glibc_kind(call, around) }
}

/// A lock that is its owner's id: a robust mutex of glibc's, or a mutex of musl's, which has none in an ordinary one.
fn with_owner_inside(word: u32, around: &Around) -> Shape {
    const NO_OWNER: u32 = libc::EBUSY as u32;
    /// `PTHREAD_MUTEX_ROBUST_NORMAL_NP` (nptl/pthreadP.h).
    const ROBUST: u32 = 16;
    let owner = Some(word & TID_MASK).filter(|owner| *owner != 0 && *owner != NO_OWNER);
    let is_robust = around.from[4].is_some_and(|kind| is_glibc_kind(kind) && kind & ROBUST != 0);
    Shape::Lock { owner, sure: is_robust && owner == around.from[2] }
}

/// Whether the words are a mutex of glibc's: how many threads use it, and its kind, which says as well whether processes share it.
fn has_glibc_kind(call: FutexCall, around: &Around) -> bool {
    const SHARED: u32 = 128;
    matches!((around.from[3], around.from[4]), (Some(users), Some(kind))
        if (1..=LARGEST_TID).contains(&users) && is_glibc_kind(kind) && (kind & SHARED == 0) == call.is_private)
}

/// Type, whether robust, protocol, whether shared, elision (nptl/pthreadP.h).
fn is_glibc_kind(kind: u32) -> bool {
    kind & !0x3f3 == 0
}

/// glibc's pthread_rwlock_t: readers, writers, the futexes of the phase and of writers, two words of padding, the id of the writer that
/// has it, whether processes share it (nptl/pthread_rwlock_common.c, nptl/bits/struct_rwlock.h).
fn read_write_lock(call: FutexCall, around: &Around) -> Option<Shape> {
    /// What lies below the number of readers.
    const READERS_SHIFT: u32 = 3;
    /// Of either futex: its state, and that somebody waits on it.
    const FUTEX_BITS: u32 = 3;
    let Around { before: b, from: f } = around;
    // In the order above, where the futex of the phase, or that of writers, is waited on.
    let of_phase = [b[1], b[2], f[0], f[1], f[2], f[3], f[4], f[5]];
    let of_writers = [b[0], b[1], b[2], f[0], f[1], f[2], f[3], f[4]];
    let lock = |words: [Option<u32>; 8]| {
        let [
            Some(readers),
            Some(writers),
            Some(phase),
            Some(futex),
            Some(0),
            Some(0),
            Some(writer),
            Some(shared),
        ] = words
        else {
            return None;
        };
        let is_one = phase & !FUTEX_BITS == 0
            && futex & !FUTEX_BITS == 0
            && shared == u32::from(!call.is_private)
            && writer <= LARGEST_TID
            && (writers > 0 || writer > 0);
        let shape = match (writer, readers >> READERS_SHIFT) {
            (0, 0) => return None,
            (0, readers) => Shape::Readers(readers),
            (writer, _) => Shape::Lock { owner: Some(writer), sure: true },
        };
        is_one.then_some(shape)
    };
    lock(of_phase).or_else(|| lock(of_writers))
}

/// glibc's sem_t: the value, how many wait, and whether processes share it (nptl/sem_waitcommon.c).
fn is_semaphore(call: FutexCall, address: u64, around: &Around) -> bool {
    const SHARED: u32 = 128;
    let shared = if call.is_private { 0 } else { SHARED };
    let waiters = around.from[1].is_some_and(|waiters| (1..=LARGEST_TID).contains(&waiters));
    address.is_multiple_of(8) && waiters && around.from[2..4] == [Some(shared), Some(0)]
}

/// Whether the words are glibc's barrier of two threads: how many have come, the round that is waited for, threads a round, private or
/// shared (nptl/pthread_barrier_wait.c). In its second round that is 2, the value of a contended lock; no other barrier has it.
fn is_barrier(around: &Around) -> bool {
    const SHARED: u32 = 128;
    let [round, threads, shared, ..] = around.from;
    around.before[2] == Some(3)
        && round == Some(2)
        && threads == Some(2)
        && matches!(shared, Some(0 | SHARED))
}

/// Whether the call may be how a lock or a thread's end is waited for. Of any other it matters what it is only where all threads of a
/// process wait.
pub fn tells(wait: &Wait) -> bool {
    let call = FutexCall::of(wait);
    wait.call.waits_for_memory_lock()
        || call.command == FUTEX_WAIT_BITSET
            && (!call.is_private || call.realtime && matches!(call.value, 2 | 3))
}

/// What `wait` waits on in memory; `None` if it waits on no word, or that is not to be read.
pub fn look(wait: &Wait, reads: &mut Reads, owners: &mut Owners) -> Option<FutexWord> {
    if wait.call.operation() != Operation::Futex || wait.call.is_timed() {
        return None;
    }
    let (process, address) = (wait.thread.process, wait.call.args[0]);
    let around = Around::read(process, address, reads)?;
    if !reads.still_in(wait) {
        return None;
    }
    let call = FutexCall::of(wait);
    Some(match shape(call, address, &around) {
        Shape::Lock { owner: None, .. } => FutexWord::Lock(LockHolder::Unknown),
        Shape::Lock { owner: Some(id), sure } => {
            let shared = match call.is_private {
                true => None,
                false => memory::shared_at(process, address, reads),
            };
            FutexWord::Lock(match owners.holder(process, id, shared.as_ref(), reads) {
                Some(owner) if owner.tid == wait.thread.tid => LockHolder::Itself,
                Some(owner) => LockHolder::Thread(owner),
                None if sure => LockHolder::Gone(id),
                None => LockHolder::Unknown,
            })
        }
        Shape::Readers(number) => FutexWord::Lock(LockHolder::Readers(number)),
        Shape::MayBeLock => FutexWord::MayBeLock,
        Shape::Semaphore => FutexWord::Semaphore,
        Shape::Condition => FutexWord::Condition,
        Shape::End(id) => match owners.thread(process, id, reads) {
            Some(thread) => FutexWord::ThreadEnd(thread.tid),
            None if wait.call.waits_for_memory_lock() => FutexWord::Lock(LockHolder::Unknown),
            None => FutexWord::Other,
        },
        Shape::OnStack(on_stack) => match (on_stack, is_on_stack(wait, reads)) {
            (OnStack::Condition, true) => FutexWord::Condition,
            (OnStack::Condition, false) => FutexWord::Lock(LockHolder::Unknown),
            (OnStack::Nothing, true) => FutexWord::Nothing,
            (OnStack::Nothing, false) => FutexWord::Other,
        },
        Shape::Other => FutexWord::Other,
    })
}

/// Whether the word lies in the innermost frames of the waiter's own stack.
fn is_on_stack(wait: &Wait, reads: &mut Reads) -> bool {
    const FRAMES: u64 = 512;
    let text = reads.text(wait.thread.process, &format!("task/{}/syscall", wait.thread.tid));
    let pointer = text.as_deref().and_then(stat::stack_pointer);
    pointer.is_some_and(|pointer| (pointer..pointer.saturating_add(FRAMES)).contains(&wait.call.args[0]))
}

/// Threads by their ids in their processes' own PID namespaces, as far as they were asked for.
#[derive(Default)]
pub struct Owners {
    named: HashMap<(ProcessId, u32), Option<LockOwner>>,
    inside: HashMap<ProcessId, HashMap<u32, u32>>,
    /// Of memory that processes share.
    elsewhere: HashMap<(SharedMemory, u32), Option<LockOwner>>,
}

impl Owners {
    /// The thread that has this id for a process: one of its own, or one of another process that shares the memory with it.
    fn holder(
        &mut self,
        process: ProcessId,
        id: u32,
        shared: Option<&SharedMemory>,
        reads: &mut Reads,
    ) -> Option<LockOwner> {
        if let Some(owner) = self.thread(process, id, reads) {
            return Some(owner);
        }
        let shared = shared?;
        let find = || elsewhere(id, shared, reads);
        self.elsewhere.entry((shared.clone(), id)).or_insert_with(find).clone()
    }

    /// The thread of a process that has this id in the process's own PID namespace. The threads of a process are walked once at
    /// most.
    fn thread(&mut self, process: ProcessId, id: u32, reads: &mut Reads) -> Option<LockOwner> {
        let inside = &mut self.inside;
        let find = || {
            let tid = match own_id(process, process.pid, reads)? == process.pid {
                true => id,
                false => *inside.entry(process).or_insert_with(|| ids_inside(process, reads)).get(&id)?,
            };
            Some(LockOwner { pid: process.pid, tid, comm: reads.thread_comm(process, tid)? })
        };
        self.named.entry((process, id)).or_insert_with(find).clone()
    }
}

/// A thread of any process that maps this memory. Of another PID namespace than ours its id says nothing here.
fn elsewhere(id: u32, shared: &SharedMemory, reads: &mut Reads) -> Option<LockOwner> {
    let status = reads.text(by_pid(id), "status")?;
    let pid = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()?;
    let process = by_pid(pid);
    let lives = reads.thread_stat(process, id).is_some_and(|stat| stat.thread_lives());
    let owner = LockOwner { pid, tid: id, comm: reads.thread_comm(process, id)? };
    (lives && memory::maps(process, shared, reads)).then_some(owner)
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

    const LOCK: u64 = 0x7f00_0000_1000;

    fn call(operation: u64, value: u32) -> FutexCall {
        FutexCall {
            command: futex_command(operation),
            is_private: operation & FUTEX_PRIVATE != 0,
            realtime: operation & FUTEX_CLOCK_REALTIME != 0,
            value,
        }
    }

    fn around(before: [u32; 3], from: &[u32]) -> Around {
        let mut around = Around { before: before.map(Some), ..Around::default() };
        around.from.iter_mut().zip(from).for_each(|(to, word)| *to = Some(*word));
        around
    }

    #[test]
    fn the_words_around_a_futex_tell_what_it_is() {
        const WAITERS: u32 = libc::FUTEX_WAITERS;
        let owned = |owner, sure| Shape::Lock { owner: Some(owner), sure };
        let unowned = Shape::Lock { owner: None, sure: false };
        for (operation, value, address, before, from, expected) in [
            // A mutex of glibc's: private, shared, recursive; one of another library; one that is free by now.
            (128, 2, LOCK, [0; 3], &[2, 1, 77, 1, 0][..], owned(77, true)),
            (0, 2, LOCK, [0; 3], &[2, 1, 77, 1, 128], owned(77, true)),
            (128, 2, LOCK, [0; 3], &[2, 4, 77, 1, 1], owned(77, true)),
            (128, 2, LOCK, [0; 3], &[2, 1, 77, 1, 128], owned(77, false)),
            (128, 2, LOCK, [0; 3], &[2, 0, 77, 0x5555, 0x1234], owned(77, false)),
            (128, 2, LOCK, [0; 3], &[2, 0, 0, 1, 0], unowned),
            (128, 2, LOCK, [0; 3], &[2, 0, 0x0500_0000, 1, 0], unowned),
            (128, 2, LOCK, [0; 3], &[1, 1, 77, 1, 0], unowned),
            (128, 2, LOCK, [0; 3], &[2], unowned),
            // Robust, and musl's.
            (0, WAITERS | 77, LOCK, [0; 3], &[WAITERS | 77, 1, 77, 1, 128 | 16], owned(77, true)),
            (128, WAITERS | 77, LOCK, [0; 3], &[WAITERS | 77, 0, 0, 0, 0], owned(77, false)),
            (128, WAITERS | 16, LOCK, [0; 3], &[WAITERS | 16, 0, 0, 0, 0], unowned),
            (128, u32::MAX, LOCK, [0; 3], &[u32::MAX, 0, 0, 0, 0], Shape::Other),
            // With priority inheritance.
            (134, 0, LOCK, [0; 3], &[WAITERS | 77], owned(77, true)),
            (6, 0, LOCK, [0; 3], &[0], Shape::Lock { owner: None, sure: true }),
            // A barrier of two in its second round.
            (128, 2, LOCK, [0, 0, 3], &[2, 2, 0], Shape::Condition),
            (128, 2, LOCK, [0, 0, 3], &[2, 2, 128], Shape::Condition),
            (128, 2, LOCK, [0, 0, 2], &[2, 2, 0], unowned),
            // musl's pthread_join and its condition.
            (128, 2, LOCK, [0, 77, 0], &[2, 0, 0, 0], Shape::End(77)),
            (128, 2, LOCK + 4, [0, 0, 0], &[2, 0, 0, 9], Shape::OnStack(OnStack::Condition)),
            // A read-write lock: a reader behind a writer, a writer behind one, a writer behind readers.
            (393, 3, LOCK, [0, 11, 1], &[3, 1, 0, 0, 77, 0], owned(77, true)),
            (265, 3, LOCK, [3, 1, 1], &[3, 0, 0, 77, 1], owned(77, true)),
            (393, 2, LOCK, [0, 16 | 2, 1], &[2, 1, 0, 0, 0, 0], Shape::Readers(2)),
            (393, 3, LOCK, [16, 1, 2], &[3, 0, 0, 0, 0], Shape::Readers(2)),
            (393, 3, LOCK, [0, 11, 1], &[3, 1, 0, 0, 77, 1], Shape::Other),
            (393, 3, LOCK, [0, 0, 0], &[3, 9, 9, 9, 9, 9], Shape::Other),
            // Rust's mutex, or a condition.
            (137, 2, LOCK, [0; 3], &[2, 0, 0, 0], Shape::MayBeLock),
            (137, 7, LOCK, [0; 3], &[7, 0, 0, 0], Shape::Other),
            // sem_wait, and what only looks like it.
            (393, 0, LOCK, [0; 3], &[0, 1, 0, 0], Shape::Semaphore),
            (265, 0, LOCK, [0; 3], &[0, 3, 128, 0], Shape::Semaphore),
            (393, 0, LOCK, [0; 3], &[0, 0, 0, 0], Shape::Other),
            (393, 0, LOCK + 4, [0; 3], &[0, 1, 0, 0], Shape::Other),
            // The dead end.
            (265, 0, LOCK, [0; 3], &[0, 0, 0, 0], Shape::OnStack(OnStack::Nothing)),
            // pthread_join.
            (265, 77, LOCK, [0; 3], &[77, 0, 0, 0], Shape::End(77)),
            (393, 77, LOCK, [0; 3], &[77, 0, 0, 0], Shape::Other),
        ] {
            let around = around(before, from);
            let shape = shape(call(operation, value), address, &around);
            assert_eq!(shape, expected, "{operation} {value} {before:?} {from:?}");
        }
    }

    #[test]
    fn most_waits_for_conditions_are_not_looked_into() {
        use crate::{diagnose::verdict::tests::wait, model::syscalls::Syscall};
        for (operation, value, expected) in [
            (128, 2, true),
            (128, 0, false),
            (128, u64::from(u32::MAX), false),
            (393, 0, false),
            (393, 3, true),
            (137, 2, false),
            (265, 0, true),
            (265, 77, true),
            (0, 0x8000_004d, true),
            (134, 0, true),
        ] {
            let wait = wait(Syscall::Futex, [LOCK, operation, value, 0, 0, 0]);
            assert_eq!(tells(&wait), expected, "{operation} {value}");
        }
    }

    #[test]
    fn only_threads_of_the_process_are_owners() {
        let pid = std::process::id();
        let process = ProcessId { pid, start_ns: 0 };
        let (mut owners, mut reads) = (Owners::default(), Reads::new());
        let holder = |id| owners.holder(process, id, None, &mut reads).map(|owner| (owner.pid, owner.tid));
        assert_eq!([pid, 1].map(holder), [Some((pid, pid)), None]);
    }
}
