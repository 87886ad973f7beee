//! Who is at the other end: the processes of this host that hold a pipe's or socket's other end, or a lock, and whether
//! they wait on it themselves.

use std::collections::{HashMap, HashSet};

use anyhow::Result;
use serde::Serialize;
use tracer_ebpf::abi::{File, FileKey, HOLDS_READ, HOLDS_WRITE, HolderRecord, TupleKey};

use super::{
    Resolved, epoll, locks, mutex, poll,
    semaphore::{self, Semaphore},
    target::{Target, TcpState},
};
use crate::{
    collect::Source,
    procfs::{self, Reads, by_pid},
    syscalls::Way,
    wait::{FdState, ProcessId, SocketFacts, Wait},
};

const S_IFSOCK: u16 = 0o140_000;

/// A process at the other end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Peer {
    /// Its pid.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Its fd of the other end, -1 for a lock.
    #[serde(skip)]
    pub fd: i32,
}

/// What was found at the other end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// Other processes that hold it.
    pub others: Vec<Peer>,
    /// The waiting process holds it too.
    pub own: bool,
    /// Nothing but the waiting thread could use what the process holds: it has no other thread, and no handler of a
    /// signal that another process may send.
    pub alone: bool,
    /// One of the others waits on it: it has nothing to do on this connection. `None`: not looked at.
    pub waits: Option<bool>,
    /// The thread of this very process that holds the lock in memory; its id instead of a pid.
    pub owner: Option<Peer>,
    /// The word in memory is no lock's but a barrier's.
    pub barrier: bool,
    /// The System V semaphore it is; of the others who changed it last.
    pub semaphore: Option<Semaphore>,
}

/// What a wait's other end is looked for by.
enum Wanted {
    File(FileKey, u32),
    /// A file whose lock another has, unless `/proc/locks` names who.
    Lock(FileKey),
    Tuple(TupleKey),
}

/// A directory has two links, and this one another for each thread (fs/proc/base.c, `proc_task_getattr`). To list it
/// costs a look at every thread.
fn has_one_thread(process: ProcessId, reads: &mut Reads) -> bool {
    reads.what(process, "task").is_ok_and(|task| task.links == 3)
}

/// Whether a signal from outside would run a handler, which may write what the process waits for.
fn handles_signals(process: ProcessId, reads: &mut Reads) -> bool {
    reads.text(process, "status").is_none_or(|status| has_handlers(&status))
}

/// The same by the text of its status. Handlers of faults run only where the process itself is at fault, and the first
/// two real-time signals are the C library's own.
fn has_handlers(status: &str) -> bool {
    const FAULTS: [i32; 6] =
        [libc::SIGILL, libc::SIGTRAP, libc::SIGABRT, libc::SIGBUS, libc::SIGFPE, libc::SIGSEGV];
    const THE_LIBRARYS: [i32; 2] = [32, 33];
    let beside = FAULTS.iter().chain(&THE_LIBRARYS).fold(0, |mask, signal| mask | 1u64 << (signal - 1));
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_none_or(|mask| mask & !beside != 0)
}

/// Looks the other ends of these waits up; `all` are the host's waits of the same moment.
pub fn look_up(
    pairs: &mut [(&Wait, &mut Resolved)],
    all: &[Wait],
    reads: &mut Reads,
    source: &mut dyn Source,
) -> Result<()> {
    let wanted: Vec<Option<Wanted>> =
        pairs.iter().map(|(wait, resolved)| wanted(wait, resolved, reads)).collect();
    let (mut files, mut tuples) = (HashSet::new(), HashSet::new());
    for one in wanted.iter().flatten() {
        match one {
            Wanted::File(key, _) | Wanted::Lock(key) => drop(files.insert(*key)),
            Wanted::Tuple(key) => drop(tuples.insert(*key)),
        }
    }
    let (files, tuples): (Vec<_>, Vec<_>) = (files.into_iter().collect(), tuples.into_iter().collect());
    let found = if files.is_empty() && tuples.is_empty() {
        Some(Vec::new())
    } else {
        source.holders(&files, &tuples)?
    };
    // Nobody is said to be alone with what could not be looked at.
    let Some(found) = found else { return Ok(()) };
    let (mut by_file, mut by_tuple) = (HashMap::<FileKey, Vec<&HolderRecord>>::new(), HashMap::new());
    for holder in &found {
        if holder.file.local_port == 0 {
            by_file.entry(FileKey::of(&holder.file)).or_default().push(holder);
        } else {
            by_tuple.entry(TupleKey::of(&holder.file, holder.netns)).or_insert_with(Vec::new).push(holder);
        }
    }
    let (mut names, mut alone) = (HashMap::new(), HashMap::new());
    for ((wait, resolved), wanted) in pairs.iter_mut().zip(&wanted) {
        let none = Vec::new();
        let pid = wait.thread.process.pid;
        let mut peers = Peers::default();
        match wanted {
            Some(Wanted::File(key, access)) => {
                for holder in by_file.get(key).unwrap_or(&none).iter().filter(|h| h.access & access != 0) {
                    peers.add(holder, pid, &mut names, reads);
                }
                // Only asked where nobody else can write.
                peers.alone = peers.own
                    && peers.others.is_empty()
                    && *alone.entry(pid).or_insert_with(|| {
                        has_one_thread(wait.thread.process, reads)
                            && !handles_signals(wait.thread.process, reads)
                    });
                if matches!(resolved.target, Target::Unix { .. }) {
                    peers.waits = Some(waits_on(&peers, key.inode, all, reads));
                }
            }
            Some(Wanted::Tuple(key)) => {
                for holder in by_tuple.get(key).unwrap_or(&none) {
                    peers.add(holder, pid, &mut names, reads);
                }
            }
            Some(Wanted::Lock(key)) => {
                for holder in by_file.get(key).unwrap_or(&none) {
                    if locks::held_through(holder.tgid, holder.fd, reads) {
                        peers.add(holder, pid, &mut names, reads);
                    }
                }
            }
            None if is_lock(wait) => {
                for holder in locks_on_record(wait, resolved, reads) {
                    let comm = name(&mut names, holder, reads);
                    peers.others.push(Peer { pid: holder, comm, fd: -1 });
                }
            }
            None if semaphore::is_semaphore(wait.call.name) => {
                peers.semaphore = semaphore::look(wait, reads);
                match peers.semaphore {
                    Some(Semaphore { changed_by: Some(by), .. }) if by == pid => peers.own = true,
                    Some(Semaphore { changed_by: Some(by), lives: true, .. }) => {
                        let comm = name(&mut names, by, reads);
                        peers.others.push(Peer { pid: by, comm, fd: -1 });
                    }
                    _ => {}
                }
            }
            None => (peers.owner, peers.barrier) = mutex::look(wait, reads),
        }
        resolved.peers = Some(peers);
    }
    Ok(())
}

impl Peers {
    fn add(&mut self, holder: &HolderRecord, own: u32, names: &mut HashMap<u32, String>, reads: &mut Reads) {
        if holder.tgid == own {
            self.own = true;
        } else if self.others.iter().all(|peer| peer.pid != holder.tgid) {
            let comm = name(names, holder.tgid, reads);
            self.others.push(Peer { pid: holder.tgid, comm, fd: holder.fd });
        }
    }
}

/// Name of a process, read once.
fn name(names: &mut HashMap<u32, String>, pid: u32, reads: &mut Reads) -> String {
    names.entry(pid).or_insert_with(|| reads.comm(by_pid(pid)).unwrap_or_default()).clone()
}

/// The other end of what a wait waits on, with the access that makes a holder its other end.
fn wanted(wait: &Wait, resolved: &Resolved, reads: &mut Reads) -> Option<Wanted> {
    let FdState::Open(file) = resolved.file else { return None };
    if is_lock(wait) {
        return locks_on_record(wait, resolved, reads).is_empty().then_some(Wanted::Lock(FileKey::of(&file)));
    }
    match (&resolved.target, &resolved.socket) {
        (Target::Pipe { .. } | Target::Fifo { .. }, _) => {
            let access = if resolved.way == Way::Out { HOLDS_READ } else { HOLDS_WRITE };
            Some(Wanted::File(FileKey::of(&file), access))
        }
        (Target::Unix { peer_inode: Some(peer), .. }, _) => Some(Wanted::File(
            FileKey { inode: *peer, kind: S_IFSOCK.into(), dev: file.dev },
            HOLDS_READ | HOLDS_WRITE,
        )),
        (Target::Tcp { state, .. }, SocketFacts::Tcp(facts)) if *state != TcpState::Listen => {
            let other = File {
                local: file.remote,
                remote: file.local,
                local_port: file.remote_port,
                remote_port: file.local_port,
                ..file
            };
            Some(Wanted::Tuple(TupleKey::of(&other, facts.raw.netns)))
        }
        _ => None,
    }
}

/// Whether it is a call that takes locks on files.
fn is_lock(wait: &Wait) -> bool {
    matches!(wait.call.name, "flock" | "fcntl" | "fcntl64")
}

/// Living processes that `/proc/locks` names. It names who took the lock: `flock 9` in a script is gone by now, and the
/// script has the lock.
fn locks_on_record(wait: &Wait, resolved: &Resolved, reads: &mut Reads) -> Vec<u32> {
    let inode = match resolved.target {
        Target::File { inode, .. } => inode,
        _ => None,
    };
    let mut holders = locks::holders(wait.thread.process.pid, inode, reads);
    holders.retain(|pid| reads.exists(by_pid(*pid)));
    holders
}

/// Whether a thread of one of the peers waits to read its end: directly, in poll or select, or in an epoll set. This very process is
/// in no snapshot of its own; as it looks, it is not stuck, and who waits for its next event waits as all readers of events do.
fn waits_on(peers: &Peers, inode: u64, all: &[Wait], reads: &mut Reads) -> bool {
    peers.others.iter().any(|peer| procfs::is_own(peer.pid))
        || all.iter().any(|wait| {
            let pid = wait.thread.process.pid;
            let Some(peer) = peers.others.iter().find(|peer| peer.pid == pid) else { return false };
            let awaits = |set: &std::collections::BTreeMap<i32, poll::Interest>| {
                set.get(&peer.fd).is_some_and(|interest| interest.read)
            };
            match (wait.fd, &wait.fd_state) {
                // Which requests a ring holds is not to be seen.
                _ if wait.call.name.starts_with("io_") => true,
                (Some(fd), _) if epoll::is_epoll(wait.call.name) => {
                    epoll::read(wait.thread.process, wait.thread.tid, fd, reads)
                        .is_some_and(|set| awaits(&set))
                }
                (_, FdState::Open(file)) => {
                    file.inode == inode && crate::syscalls::way(wait.call.name) == Way::In
                }
                _ if poll::is_set(wait.call.name) => {
                    poll::read(wait, reads).is_some_and(|set| awaits(&set.fds))
                }
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_of_a_signal_from_outside_counts() {
        for (mask, expected) in [
            ("0000000000000000", false),
            ("0000000000000440", false), // SIGBUS and SIGSEGV, as Rust's programs have
            ("0000000180000000", false), // the C library's
            ("0000000000000002", true),  // SIGINT
            ("0000000000010440", true),  // SIGCHLD
            ("x", true),
        ] {
            assert_eq!(has_handlers(&format!("SigIgn:\t0\nSigCgt:\t{mask}\n")), expected, "{mask}");
        }
        assert!(has_handlers(""), "where it cannot be read");
    }
}
