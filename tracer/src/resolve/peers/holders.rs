//! The processes at one other end, found once for all that wait for it, and what each of these is told. Values only.

use std::sync::Arc;

use super::{NAMED_MAX, Peer, Peers};
use crate::model::backlog::Backlog;

/// Who waits to read an other end.
#[derive(Clone, Debug, Default)]
pub(super) struct Readers {
    /// Two at most: one of them may be the waiter.
    pub(super) pids: Vec<u32>,
    /// Somebody waits to write to it.
    pub(super) writes: bool,
    /// Since when the last that came does nothing but read it.
    pub(super) since_ns: Option<u64>,
}

/// The processes at one other end: found once, however many wait for it.
#[derive(Debug, Default)]
pub(super) struct Holders {
    /// Their ids, sorted.
    pub(super) pids: Vec<u32>,
    /// The first of them, one more than are named: where the waiter is among them, it is left out.
    pub(super) first: Vec<Peer>,
    /// Those that are named to all who are not among them.
    pub(super) named: Arc<[Peer]>,
    /// Those that wait to read it. `None`: not looked at.
    pub(super) readers: Option<Readers>,
    /// What waits in the queue, where they are those who have not taken it from there.
    pub(super) backlog: Option<Backlog>,
}

impl Holders {
    /// Of these processes, in the order in which they are named. One process may be there several times.
    pub(super) fn new(mut pids: Vec<u32>, mut name: impl FnMut(u32) -> String) -> Self {
        let mut first: Vec<Peer> = Vec::new();
        for pid in &pids {
            if first.len() > NAMED_MAX {
                break;
            }
            if first.iter().all(|peer| peer.pid != *pid) {
                first.push(Peer { pid: *pid, comm: name(*pid) });
            }
        }
        pids.sort_unstable();
        pids.dedup();
        let named = first.iter().take(NAMED_MAX).cloned().collect();
        Self { pids, first, named, readers: None, backlog: None }
    }

    /// What one who waits for it is told.
    pub(super) fn told(&self, waiter: u32) -> Peers {
        let own = self.pids.binary_search(&waiter).is_ok();
        let others = match self.named.iter().any(|peer| peer.pid == waiter) {
            true => self.first.iter().filter(|peer| peer.pid != waiter).cloned().collect(),
            false => Arc::clone(&self.named),
        };
        let more = self.pids.len() - usize::from(own) - others.len();
        let waits = self.readers.as_ref().map(|readers| readers.pids.iter().any(|pid| *pid != waiter));
        // Where the waiter reads both ends, nobody knows which of the two it was.
        let reads_since = self.readers.as_ref().filter(|_| !own).and_then(|readers| readers.since_ns);
        let writes = self.readers.as_ref().is_some_and(|readers| readers.writes && !own);
        Peers { others, more, own, waits, reads_since, writes, backlog: self.backlog, ..Peers::default() }
    }
}
