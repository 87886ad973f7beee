//! All waits of a moment, and those of one process among them.

use std::{cell::OnceCell, time::Duration};

use hashbrown::HashMap;

use super::{Wait, ids::ThreadId, suspended::SuspendedThread};
use crate::util::clock::Now;

/// All waits on the host at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When it was taken, nanoseconds of `CLOCK_MONOTONIC`.
    pub monotonic_ns: u64,
    /// What made it: `bpf` or `proc`.
    pub source: &'static str,
    /// How long it took.
    pub duration: Duration,
    /// The waits, in no order.
    pub waits: Vec<Wait>,
    /// Threads that are suspended, in no order.
    pub suspended: Vec<SuspendedThread>,
    /// Ages do not only count from the source's first look.
    pub dated: bool,
    /// Waits whose call is known by the kernel function they sleep in only.
    pub guessed: usize,
    /// Threads that sleep, and whose call this user may not see.
    pub hidden: Vec<ThreadId>,
}

impl Snapshot {
    /// One with nothing in it yet.
    pub fn empty(now: &Now, source: &'static str) -> Self {
        Self {
            monotonic_ns: now.monotonic_ns,
            source,
            duration: Duration::ZERO,
            waits: Vec::new(),
            suspended: Vec::new(),
            dated: true,
            guessed: 0,
            hidden: Vec::new(),
        }
    }
}

/// The waits of a moment by process. The index is made when it is first asked, once.
pub struct ByProcess<'a> {
    waits: &'a [Wait],
    index: OnceCell<HashMap<u32, Vec<&'a Wait>>>,
}

impl<'a> ByProcess<'a> {
    /// Of these waits.
    pub fn new(waits: &'a [Wait]) -> Self {
        Self { waits, index: OnceCell::new() }
    }

    /// The waits of a process, in their order.
    pub fn of(&self, pid: u32) -> &[&'a Wait] {
        let index = self.index.get_or_init(|| {
            let mut index: HashMap<u32, Vec<&Wait>> = HashMap::new();
            for wait in self.waits {
                index.entry(wait.thread.process.pid).or_default().push(wait);
            }
            index
        });
        index.get(&pid).map_or(&[], Vec::as_slice)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &'a Wait> {
        self.waits.iter()
    }

    /// How many of them there are for which this holds.
    pub fn count(&self, holds: impl Fn(&Wait) -> bool) -> usize {
        self.waits.iter().filter(|wait| holds(wait)).count()
    }
}
