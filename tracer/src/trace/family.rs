//! Which processes descend from which, and whether one still makes calls: as `/proc` shows them now.

use std::collections::{HashMap, HashSet};

use crate::{
    model::wait::ProcessId,
    procfs::{Reads, by_pid},
};

/// Processes that descend from these, and are none of them.
pub fn descendants(of: &HashSet<u32>) -> HashSet<u32> {
    let mut reads = Reads::new();
    let pids = reads.processes().unwrap_or_default().into_iter();
    let parents: HashMap<u32, u32> =
        pids.filter_map(|pid| Some((pid, reads.stat(by_pid(pid))?.parent))).collect();
    below(of, &parents)
}

/// Pure: the parent of each process is known. Each is looked at once, however deep it is.
fn below(of: &HashSet<u32>, parents: &HashMap<u32, u32>) -> HashSet<u32> {
    let mut known: HashMap<u32, bool> = of.iter().map(|pid| (*pid, true)).collect();
    for pid in parents.keys() {
        let mut line = Vec::new();
        let mut next = *pid;
        let descends = loop {
            if let Some(descends) = known.get(&next) {
                break *descends;
            }
            // A process may go while it is read, and its id be another's: of a ring of parents none descends.
            known.insert(next, false);
            line.push(next);
            match parents.get(&next) {
                Some(parent) => next = *parent,
                None => break false,
            }
        };
        known.extend(line.into_iter().map(|pid| (pid, descends)));
    }
    parents.keys().filter(|pid| !of.contains(pid) && known[pid]).copied().collect()
}

/// Which processes are known to descend from those asked for, and which are known not to.
#[derive(Default)]
pub struct Descendants {
    known: HashMap<ProcessId, bool>,
    /// Those that do, by pid: how many.
    members: HashMap<u32, usize>,
}

impl Descendants {
    /// Whether a process is one; `None`: not known yet.
    pub fn get(&self, process: &ProcessId) -> Option<bool> {
        self.known.get(process).copied()
    }

    /// Whether a process with this id is one.
    pub fn has(&self, pid: u32) -> bool {
        self.members.contains_key(&pid)
    }

    /// It is one, or not.
    pub fn insert(&mut self, process: ProcessId, member: bool) {
        self.remove(&process);
        self.known.insert(process, member);
        if member {
            *self.members.entry(process.pid).or_default() += 1;
        }
    }

    /// Forgets it.
    pub fn remove(&mut self, process: &ProcessId) {
        if self.known.remove(process) == Some(true)
            && let Some(number) = self.members.get_mut(&process.pid)
        {
            *number -= 1;
            if *number == 0 {
                self.members.remove(&process.pid);
            }
        }
    }

    /// All that are known.
    pub fn all(&self) -> impl Iterator<Item = (&ProcessId, bool)> {
        self.known.iter().map(|(process, member)| (process, *member))
    }
}

/// Whether a process makes calls. A zombie makes none, unless only its first thread has ended.
pub fn lives(pid: u32) -> bool {
    Reads::new().stat(by_pid(pid)).is_some_and(|stat| stat.lives())
}

/// The same of this very process, whose id may be another's by now.
pub fn is_alive(process: ProcessId) -> bool {
    Reads::new().lives(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descendants_are_found_at_any_depth() {
        let parents = HashMap::from([(1, 0), (5, 1), (6, 5), (7, 6), (8, 1), (20, 21), (21, 20)]);
        assert_eq!(below(&HashSet::from([5]), &parents), HashSet::from([6, 7]));
        assert_eq!(below(&HashSet::from([7, 8]), &parents), HashSet::new());
    }

    /// Each is the child of the one before.
    #[test]
    fn a_long_line_is_walked_once() {
        let line = |number: usize| (1..=number as u32).map(|pid| (pid, pid - 1)).collect();
        crate::util::growth::assert_linear("a line of processes", line, |parents: HashMap<u32, u32>| {
            assert_eq!(below(&HashSet::from([1]), &parents).len(), parents.len() - 1);
        });
    }

    #[test]
    fn a_member_is_one_until_it_is_forgotten() {
        let of = |pid, start_ns| ProcessId { pid, start_ns };
        let mut family = Descendants::default();
        family.insert(of(5, 1), true);
        family.insert(of(5, 2), true);
        family.insert(of(6, 1), false);
        assert_eq!(
            (family.get(&of(5, 1)), family.get(&of(6, 1)), family.get(&of(7, 1))),
            (Some(true), Some(false), None)
        );
        family.remove(&of(5, 1));
        assert!(family.has(5) && !family.has(6), "another process has that id");
        family.insert(of(5, 2), false);
        assert!(!family.has(5));
        family.remove(&of(6, 1));
        assert_eq!(family.all().count(), 1);
    }
}
