//! What is said of locks, on files and in memory, and of deadlocks.

use super::{on, on_full, others, pipe_peer};
use crate::{
    model::syscalls::{Direction, Operation},
    model::target::Target,
    model::wait::Wait,
    resolve::Resolved,
    resolve::futex::{FutexWord, LockHolder},
    resolve::peers::Peers,
    resolve::semaphore::Semaphore,
    util::human::count,
};

/// Servers that share a socket and a lock, of which one at a time waits for a connection.
pub(super) fn turn_to_accept(wait: &Wait, peers: &Peers) -> String {
    let holder = match &peers.futex {
        Some(FutexWord::Lock(LockHolder::Thread(owner))) if owner.pid == wait.thread.process.pid => {
            format!("thread {} ({})", owner.tid, owner.comm)
        }
        Some(FutexWord::Lock(LockHolder::Thread(owner))) => format!("{} (pid {})", owner.comm, owner.pid),
        _ => others(Some(peers)).unwrap_or_else(|| "another process".into()),
    };
    format!("for its turn to accept a connection: {holder}, which has the lock, waits for the next one")
}

/// A link of a circle that nobody can leave.
pub(super) fn deadlock(wait: &Wait, resolved: &Resolved) -> String {
    let target = &resolved.target;
    match wait.call.operation() {
        Operation::Futex | Operation::FutexCondition => mutex(wait, resolved),
        _ if wait.call.waits_for_file_lock() => lock(wait, resolved) + turn(resolved),
        Operation::Child => of_child(resolved),
        _ if matches!(target, Target::Pidfd { .. }) => of_child(resolved),
        _ => circle_of_pipe(resolved),
    }
}

fn of_child(resolved: &Resolved) -> String {
    match others(resolved.peers.as_ref()) {
        Some(children) => format!("for its child {children}{}", turn(resolved)),
        None => format!("for a child process{}{}", on(&resolved.target), turn(resolved)),
    }
}

/// What makes a wait a deadlock, if it is one.
fn turn(resolved: &Resolved) -> &'static str {
    match resolved.is_deadlock() {
        true => ", which waits for this one in turn: a deadlock",
        false => "",
    }
}

/// A pipe, or a pair of sockets, whose other end is with those who wait for this one.
fn circle_of_pipe(resolved: &Resolved) -> String {
    let (to, who, on) = match resolved.direction == Some(Direction::Send) {
        true => ("read", "the reader", on_full(&resolved.target)),
        false => ("write", "the writer", on(&resolved.target)),
    };
    let who = match &resolved.peers {
        Some(peers) if peers.others.is_empty() => "another thread of its own process".into(),
        _ => pipe_peer(who, resolved),
    };
    format!("for {who} to {to}{on}{}", turn(resolved))
}

pub(super) fn mutex(wait: &Wait, resolved: &Resolved) -> String {
    let on = on(&resolved.target);
    let peers = resolved.peers.as_ref();
    let holder = match peers.and_then(|peers| peers.futex.as_ref()) {
        Some(FutexWord::Lock(holder)) => holder,
        Some(FutexWord::Nothing) => {
            return format!(
                "for a lock in memory whose owner is gone, or waits for it itself{on}: the C library lets it wait for ever"
            );
        }
        _ if resolved.is_deadlock() => {
            return format!(
                "for another thread to wake it{on}: no thread of its process can, as all of them wait, without a time-out"
            );
        }
        _ => &LockHolder::Unknown,
    };
    match holder {
        LockHolder::Thread(owner) if owner.pid == wait.thread.process.pid => {
            let end = if resolved.is_deadlock() { "" } else { "; it will wait until it is released" };
            format!(
                "for a lock in memory that thread {} ({}) holds{end}{}",
                owner.tid,
                owner.comm,
                turn(resolved)
            )
        }
        LockHolder::Thread(owner) => {
            let thread =
                if owner.tid == owner.pid { String::new() } else { format!(", thread {}", owner.tid) };
            format!(
                "for a lock in shared memory that {} (pid {}{thread}) holds{}",
                owner.comm,
                owner.pid,
                turn(resolved)
            )
        }
        LockHolder::Itself => {
            format!("for a lock in memory that it holds itself{on}: a deadlock, it will wait for ever")
        }
        LockHolder::Gone(id) if wait.call.is_private_futex() => format!(
            "for a lock in memory that thread {id} held{on}, which its process does not have: that has ended, or was \
             not copied when the process was forked; it will wait for ever"
        ),
        LockHolder::Gone(id) => format!(
            "for a lock in shared memory{on} whose holder, thread {id}, has ended without letting go; it will wait for ever"
        ),
        LockHolder::Readers(readers) => format!(
            "to write what {} {} for reading{on}; the kernel does not say who they are",
            count(*readers as usize, "thread"),
            if *readers == 1 { "holds" } else { "hold" }
        ),
        LockHolder::Unknown if resolved.is_deadlock() => format!(
            "for a lock in memory{on}: no thread of its process can let go, as all of them wait, without a time-out"
        ),
        LockHolder::Unknown => {
            format!("for a lock in memory, judging by the futex value{on}; its holder is unknown")
        }
    }
}

pub(super) fn lock(wait: &Wait, resolved: &Resolved) -> String {
    let on = on(&resolved.target);
    if let Some(semaphore) = resolved.peers.as_ref().and_then(|peers| peers.semaphore) {
        let Semaphore { set, number, changed_by, .. } = semaphore;
        let who = match (others(resolved.peers.as_ref()), changed_by) {
            (Some(who), _) => format!("last changed by {who}"),
            (None, Some(pid)) if pid == wait.thread.process.pid => "last changed by itself".into(),
            (None, Some(pid)) => {
                format!("last changed by pid {pid}, which has exited: there may be nobody left to release it")
            }
            (None, None) => "and who changed it last is unknown".into(),
        };
        return format!("for semaphore {number} of set {set}, {who}");
    }
    match others(resolved.peers.as_ref()) {
        Some(holders) => {
            let several = resolved.peers.as_ref().is_some_and(|peers| peers.number() > 1);
            format!("for the lock{on} that {holders} {}", if several { "hold" } else { "holds" })
        }
        None if wait.call.operation() == Operation::Semaphore => format!("for a semaphore{on}"),
        None => format!("for a lock{on} that another process holds"),
    }
}
