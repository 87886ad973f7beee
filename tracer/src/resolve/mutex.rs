//! Which thread holds the lock in memory that another waits for: the C library writes the owner's id beside the lock.

use std::fs;

use super::{guard::Guard, memory, peers::Peer};
use crate::{
    class::Class,
    collect::stat,
    verdict::futex,
    wait::{ProcessId, Wait},
};

/// The word of a priority-inheriting futex is its owner's id, with two bits for the kernel (`FUTEX_TID_MASK`,
/// include/uapi/linux/futex.h).
const TID_MASK: u32 = 0x3fff_ffff;
const FUTEX_LOCK_PI: u64 = 6;
const FUTEX_LOCK_PI2: u64 = 13;

/// The thread that holds the lock `wait` waits for; `None` if there is no telling.
pub fn owner(wait: &Wait, guard: &mut Guard) -> Option<Peer> {
    if !wait.call.name.starts_with("futex") || futex(&wait.call.args) != Class::Mutex {
        return None;
    }
    let (stamp, call) = (memory::Stamp::of(wait), wait.call);
    let words = guard.read(wait.thread.process, move || {
        let bytes = memory::read(stamp.pid, call.args[0], 12).filter(|bytes| bytes.len() == 12)?;
        memory::still_in(&stamp).then_some(bytes)
    })?;
    let inherits = matches!(call.args[1] & 0x7f, FUTEX_LOCK_PI | FUTEX_LOCK_PI2);
    thread(wait.thread.process, owner_in(&words, inherits)?).filter(|owner| owner.pid != wait.thread.tid)
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

/// The thread of a process that has this id in the process's own PID namespace.
fn thread(process: ProcessId, id: u32) -> Option<Peer> {
    let dir = format!("/proc/{}/task", process.pid);
    let named = |tid: u32| {
        let comm = fs::read(format!("{dir}/{tid}/comm")).ok()?;
        let comm = String::from_utf8_lossy(comm.trim_ascii_end()).into_owned();
        Some(Peer { pid: tid, comm, fd: -1 })
    };
    if own_id(&format!("{dir}/{}", process.pid))? == process.pid {
        return named(id);
    }
    let tids = fs::read_dir(&dir).ok()?.flatten();
    let mut tids = tids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    named(tids.find(|tid| own_id(&format!("{dir}/{tid}")) == Some(id))?)
}

/// A thread's id in its innermost PID namespace.
fn own_id(dir: &str) -> Option<u32> {
    let status = stat::read(format!("{dir}/status"))?;
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
    fn only_threads_of_the_process_are_owners() {
        let pid = std::process::id();
        let process = ProcessId { pid, start_ns: 0 };
        assert_eq!(thread(process, pid).map(|peer| peer.pid), Some(pid));
        assert_eq!(thread(process, 1), None);
    }
}
