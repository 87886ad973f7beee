//! Which processes descend from which, and whether one still makes calls: as `/proc` shows them now.

use std::collections::{HashMap, HashSet};

use crate::{
    procfs::{Reads, by_pid},
    wait::ProcessId,
};

/// Processes that descend from these, and are none of them.
pub fn descendants(of: &HashSet<u32>) -> HashSet<u32> {
    let mut reads = Reads::new();
    let pids = reads.processes().unwrap_or_default().into_iter();
    let parents: HashMap<u32, u32> =
        pids.filter_map(|pid| Some((pid, reads.stat(by_pid(pid))?.parent))).collect();
    below(of, &parents)
}

/// Pure: the parent of each process is known.
fn below(of: &HashSet<u32>, parents: &HashMap<u32, u32>) -> HashSet<u32> {
    let descends = |pid: &u32| {
        // A process may go while it is read, and its id be another's: a ring of parents is no matter.
        let line = std::iter::successors(parents.get(pid), |parent| parents.get(*parent));
        line.take(parents.len()).any(|parent| of.contains(parent))
    };
    parents.keys().filter(|pid| !of.contains(pid)).filter(|pid| descends(pid)).copied().collect()
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
}
