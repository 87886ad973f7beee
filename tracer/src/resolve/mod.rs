//! What a wait waits on and who waits: everything that is read from `/proc` after a snapshot.

pub mod fd;
pub mod guard;
pub mod memory;
pub mod path;
pub mod poll;
pub mod process;
pub mod target;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use anyhow::Result;

use self::{
    guard::Guard,
    poll::Interest,
    process::Who,
    target::{Target, WatchedFd},
};
use crate::{
    collect::Source,
    syscalls::{Way, way},
    wait::{ProcessId, SeenFd, ThreadId, Wait},
};

/// What a wait waits on.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// The fd that matters, if one does.
    pub fd: Option<i32>,
    /// What it is.
    pub target: Target,
    /// Which way data is to go.
    pub way: Way,
}

/// Looks waits up, with a cache of who processes are.
pub struct Resolver {
    guard: Guard,
    processes: HashMap<ProcessId, Arc<Who>>,
}

impl Resolver {
    /// An empty cache.
    pub fn new() -> Self {
        Self { guard: Guard::new(), processes: HashMap::new() }
    }

    /// What waits wait on, in their order. Costs a few reads of `/proc` each, never more than the guard's deadline.
    pub fn resolve(&mut self, waits: &[&Wait], source: &mut dyn Source) -> Result<Vec<Resolved>> {
        let mut sets = self.read_sets(waits, source)?;
        Ok(waits
            .iter()
            .map(|wait| match sets.remove(&wait.thread) {
                Some(watched) => choose(wait, watched),
                None => Resolved {
                    fd: wait.fd.or_else(|| target::pidfd(wait)),
                    target: target::of(wait, &mut self.guard),
                    way: way(wait.call.name),
                },
            })
            .collect())
    }

    /// What a wait waits on by the kernel's record alone: no names, no `/proc`. Enough for most classes.
    pub fn sketch(wait: &Wait) -> Resolved {
        Resolved { fd: wait.fd, target: target::sketch(wait), way: way(wait.call.name) }
    }

    /// The fds that threads in poll and select watch. The sockets among them are looked up together.
    fn read_sets(
        &mut self,
        waits: &[&Wait],
        source: &mut dyn Source,
    ) -> Result<HashMap<ThreadId, Vec<WatchedFd>>> {
        let mut sets: HashMap<ThreadId, (&Wait, BTreeMap<i32, Interest>)> = HashMap::new();
        for wait in waits.iter().filter(|wait| poll::is_set(wait.call.name)) {
            if let Some(set) = poll::read(wait, &mut self.guard) {
                sets.insert(wait.thread, (wait, set));
            }
        }
        let mut asked: Vec<(ThreadId, i32)> = Vec::new();
        for (thread, (_, set)) in sets.iter().filter(|(_, (_, set))| set.len() <= poll::FEW) {
            asked.extend(set.keys().map(|fd| (*thread, *fd)));
        }
        let seen = source.look_up(&asked)?;
        let mut watched: HashMap<ThreadId, Vec<WatchedFd>> =
            sets.keys().map(|thread| (*thread, Vec::new())).collect();
        for SeenFd { thread, fd, state, socket } in &seen {
            let (Some((wait, set)), Some(list)) = (sets.get(thread), watched.get_mut(thread)) else {
                continue;
            };
            let interest = set.get(fd).copied().unwrap_or_default();
            // As if the thread waited on this fd alone.
            let name = if interest.way() == Way::Out { "write" } else { "read" };
            let call = crate::wait::Call { name, ..wait.call };
            let alone =
                Wait { call, fd: Some(*fd), fd_state: *state, socket: socket.clone(), ..(*wait).clone() };
            list.push(WatchedFd { fd: *fd, interest, target: target::of(&alone, &mut self.guard) });
        }
        for (thread, (_, set)) in sets {
            // What was too many to look up, or was not found, is a number only.
            let list = watched.entry(thread).or_default();
            let found: Vec<i32> = list.iter().map(|watched| watched.fd).collect();
            let unknown = set.into_iter().filter(|(fd, _)| !found.contains(fd));
            let target = Target::Unreadable { reason: "not looked up" };
            list.extend(unknown.map(|(fd, interest)| WatchedFd { fd, interest, target: target.clone() }));
        }
        Ok(watched)
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

/// The one fd of a set that matters, if the others only wake the thread up; else all of them.
fn choose(wait: &Wait, mut watched: Vec<WatchedFd>) -> Resolved {
    watched.sort_by_key(|watched| watched.fd);
    let pid = wait.thread.process.pid;
    if watched.len() <= poll::FEW {
        let pipes = watched.iter().any(|fd| matches!(fd.target, Target::Pipe { .. })) && watched.len() > 1;
        let own_pipes = if pipes { poll::own_pipes(pid) } else { Vec::new() };
        let mut real = watched.iter().filter(|fd| !poll::is_wake_up(&fd.target, pid, &own_pipes));
        if let (Some(one), None) = (real.next(), real.next()) {
            return Resolved { fd: Some(one.fd), target: one.target.clone(), way: one.interest.way() };
        }
        if let [one] = &watched[..] {
            return Resolved { fd: Some(one.fd), target: one.target.clone(), way: one.interest.way() };
        }
    }
    Resolved { fd: None, target: Target::Fds { watched }, way: Way::Other }
}
