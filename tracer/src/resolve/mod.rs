//! What a wait waits on and who waits: everything that is read from `/proc` after a snapshot.

pub mod fd;
pub mod guard;
pub mod path;
pub mod process;
pub mod target;

use std::{collections::HashMap, sync::Arc};

use self::{guard::Guard, process::Who, target::Target};
use crate::wait::{ProcessId, Wait};

/// Looks waits up, with a cache by process identity.
pub struct Resolver {
    guard: Guard,
    processes: HashMap<ProcessId, Arc<Who>>,
}

impl Resolver {
    /// An empty cache.
    pub fn new() -> Self {
        Self { guard: Guard::new(), processes: HashMap::new() }
    }

    /// What the wait waits on. Costs at most a few reads of `/proc`, and never more than the guard's deadline.
    pub fn target(&mut self, wait: &Wait) -> Target {
        target::of(wait, &mut self.guard)
    }

    /// What the wait waits on by the kernel's record alone: no names, no `/proc`. Enough for most classes.
    pub fn sketch(wait: &Wait) -> Target {
        target::sketch(wait)
    }

    /// Who waits; read once for each process.
    pub fn who(&mut self, process: ProcessId) -> Arc<Who> {
        if let Some(who) = self.processes.get(&process) {
            return Arc::clone(who);
        }
        let who = Arc::new(process::read(process, &mut self.guard));
        self.processes.insert(process, Arc::clone(&who));
        who
    }

    /// Forgets processes that no longer matter.
    pub fn retain(&mut self, keep: impl Fn(&ProcessId) -> bool) {
        self.processes.retain(|process, _| keep(process));
    }

    /// Reads that did not come back in time, so far.
    pub fn abandoned(&self) -> u64 {
        self.guard.abandoned()
    }
}
