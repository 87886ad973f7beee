//! Who is at the other end: the processes of this host that hold a pipe's or socket's other end, or a lock, and whether
//! they wait on it themselves.
//!
//! Part of `resolve`, layer 3, and uses what that may use. Here is what was found; `ends` says what is searched for, `search` finds
//! it, `holders` keeps it, `awaited` says what a process waits for, and `wakers` who could wake a thread.

mod awaited;
mod ends;
mod holders;
mod search;
mod wakers;

pub use self::{awaited::awaits, search::look_up};

use std::sync::Arc;

use super::{
    futex::{FutexWord, LockOwner},
    mounts::Mount,
    semaphore::Semaphore,
    services::Services,
};
use crate::collect::conntrack::Conntrack;
use crate::model::{backlog::Backlog, file::Addresses};

/// Processes that are named at the other end; the others are counted.
pub const NAMED_MAX: usize = 8;
/// Waits that are told of their other ends however late it is.
pub const RESOLVED_MIN: usize = 32;

/// What one search for other ends leaves for the next.
#[derive(Default)]
pub struct PeerMemory {
    pub(super) services: Services,
    pub(super) conntrack: Conntrack,
}

/// A process at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its pid.
    pub pid: u32,
    /// Its name.
    pub comm: String,
}

/// What the others have to do with a wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// They hold the other end, or the lock on a file.
    #[default]
    OtherEnd,
    /// They serve the file system.
    Server,
    /// They are asked before a file may be used.
    Listener,
    /// They mount what is missing.
    Automounter,
    /// One of their threads holds a lock inside the kernel.
    LockHolder,
    /// They have the master of the terminal open.
    TerminalMaster,
    /// They have a userfaultfd open, and are to supply a page of memory.
    FaultServer,
    /// They did last with a message queue what is waited for.
    LastUser,
}

/// What was found at the other end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// What the others have to do with it.
    pub role: Role,
    /// The kernel says that it is they; otherwise they are only likely.
    pub certain: bool,
    /// A signal has stopped the first of them.
    pub stopped: bool,
    /// The mount that the wait is about, where one holds it up.
    pub mount: Option<Arc<Mount>>,
    /// The addresses of the socket at the other end, where the connection is translated on its way: not those that this end has.
    pub translated: Option<Addresses>,
    /// Other processes that hold it: [`NAMED_MAX`] at most. All that wait for the same file share them.
    pub others: Arc<[Peer]>,
    /// How many more there are.
    pub more: usize,
    /// The waiting process holds it too; of a word in memory: its own threads may wake it.
    pub own: bool,
    /// Nothing but the waiting thread could use what the process holds: it has no other thread, and no handler of a
    /// signal that another process may send.
    pub alone: bool,
    /// A handler of a signal from outside may run in the waiting process. Only asked where that could end the wait.
    pub handles_signals: bool,
    /// Whoever could end the wait waits for this one in turn, and nobody else can help: a deadlock.
    pub circle: bool,
    /// One of the others waits on it: it has nothing to do on this connection. `None`: not looked at.
    pub waits: Option<bool>,
    /// Since when one of them has done nothing but read it, nanoseconds of `CLOCK_MONOTONIC`, if one does: what it does next is for the
    /// waiter to say.
    pub reads_since: Option<u64>,
    /// The waiting process has no other thread.
    pub single: bool,
    /// One of the others waits until it can write more there.
    pub writes: bool,
    /// The thread of its own process that holds a lock inside the kernel.
    pub owner: Option<LockOwner>,
    /// What the word in memory is that it waits on.
    pub futex: Option<FutexWord>,
    /// Who has the lock waits for a connection, on a socket that the waiting process has as well: they take turns to accept.
    pub takes_turns: bool,
    /// Who has the lock, or the other end of a connection on which nobody waits, is at work, or who that is cannot be told just now: a moment
    /// later it may be otherwise.
    pub unsettled: bool,
    /// The System V semaphore it is; of the others who changed it last.
    pub semaphore: Option<Semaphore>,
    /// Nobody has accepted the connection, or read the datagrams: what waits there together with it. The others are those who listen.
    pub backlog: Option<Backlog>,
}

impl Peers {
    /// How many other processes hold it.
    pub fn number(&self) -> usize {
        self.others.len() + self.more
    }
}

#[cfg(test)]
mod tests;
