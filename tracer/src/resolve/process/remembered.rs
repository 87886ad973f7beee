//! Who waits, remembered for a minute. Reads ahead for many at once.

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroU64,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{ProcessMeta, read, read_cmdline, read_home, wanted};
use crate::{
    model::wait::{ProcessId, Wait},
    procfs::Wanted,
    resolve::{READ_AHEAD, Resolver},
};

/// For how long it is known who a process is: it may write a title, go elsewhere, lose its parent, or not have been readable.
const KNOWN: Duration = Duration::from_secs(60);

impl Resolver {
    /// Who waits; read once a minute for each process.
    pub fn who(&mut self, process: ProcessId) -> Arc<ProcessMeta> {
        if let Some((read, who)) = self.processes.get(&process)
            && read.elapsed() < KNOWN
        {
            return Arc::clone(who);
        }
        let who = Arc::new(read(process, &mut self.reads, &mut self.ancestors));
        self.processes.insert(process, (Instant::now(), Arc::clone(&who)));
        who
    }

    /// Reads what units and containers the processes of these waits belong to, all together: of each all that a line of a table
    /// shows. Where the source tells who is in the same cgroups, these are read once.
    pub fn read_workloads<'w>(
        &mut self,
        waits: impl Iterator<Item = &'w Wait>,
    ) -> HashMap<ProcessId, Arc<ProcessMeta>> {
        let mut homes = HashMap::new();
        let mut left = by_cgroups(waits);
        while !left.is_empty() {
            let mut unread = Vec::new();
            for mut some in in_chunks(left) {
                let first = |group: &Vec<ProcessId>| Some((*group.last()?, Wanted::File("cgroup".into())));
                self.reads.ahead(some.iter().filter_map(first));
                for group in &mut some {
                    let home = group.last().and_then(|process| read_home(*process, &mut self.reads));
                    match home.map(Arc::new) {
                        Some(home) => {
                            homes.extend(group.drain(..).map(|process| (process, Arc::clone(&home))));
                        }
                        // It has gone, or hangs: the next one is asked.
                        None => homes.extend(group.pop().map(|process| (process, Arc::default()))),
                    }
                }
                unread.extend(some.into_iter().filter(|group| !group.is_empty()));
            }
            left = unread;
        }
        self.reads.forget_ahead();
        homes
    }

    /// Reads the command lines of these, all together; of those that have one.
    pub fn read_cmdlines(&mut self, processes: &HashSet<ProcessId>) -> HashMap<ProcessId, String> {
        let mut cmdlines = HashMap::new();
        let processes: Vec<ProcessId> = processes.iter().copied().collect();
        for some in processes.chunks(READ_AHEAD) {
            self.reads.ahead(some.iter().map(|process| (*process, Wanted::File("cmdline".into()))));
            let read = |process: &ProcessId| Some((*process, read_cmdline(*process, &mut self.reads)?));
            cmdlines.extend(some.iter().filter_map(read));
        }
        self.reads.forget_ahead();
        cmdlines
    }

    /// Reads who these are, all together, so that [`who`](Self::who) knows them.
    pub fn read_processes(&mut self, processes: impl Iterator<Item = ProcessId>) {
        let is_known =
            |process: &ProcessId| self.processes.get(process).is_some_and(|(read, _)| read.elapsed() < KNOWN);
        let new: HashSet<ProcessId> = processes.filter(|process| !is_known(process)).collect();
        let new: Vec<ProcessId> = new.into_iter().collect();
        for some in new.chunks(READ_AHEAD) {
            let wanted = some.iter().flat_map(|process| wanted().map(|wanted| (*process, wanted)));
            self.reads.ahead(wanted);
            some.iter().for_each(|process| drop(self.who(*process)));
        }
        self.reads.forget_ahead();
    }

    /// Forgets processes that no longer matter.
    pub fn retain(&mut self, keep: impl Fn(&ProcessId) -> bool) {
        self.processes.retain(|process, _| keep(process));
        self.ancestors.forget();
    }
}

/// The processes of these waits, each once: those that are known to be in the same cgroups together, any other one alone.
fn by_cgroups<'w>(waits: impl Iterator<Item = &'w Wait>) -> Vec<Vec<ProcessId>> {
    let mut groups: Vec<Vec<ProcessId>> = Vec::new();
    let mut known: HashMap<NonZeroU64, usize> = HashMap::new();
    let mut seen = HashSet::new();
    for wait in waits.filter(|wait| seen.insert(wait.thread.process)) {
        let process = wait.thread.process;
        let at = wait.cgroups.map_or(groups.len(), |cgroups| *known.entry(cgroups).or_insert(groups.len()));
        match groups.get_mut(at) {
            Some(group) => group.push(process),
            None => groups.push(vec![process]),
        }
    }
    groups
}

/// So many at a time as are read ahead.
fn in_chunks<T>(mut all: Vec<T>) -> impl Iterator<Item = Vec<T>> {
    std::iter::from_fn(move || {
        let some = all.split_off(all.len().saturating_sub(READ_AHEAD));
        (!some.is_empty()).then_some(some)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{diagnose::verdict::tests, model::syscalls::Syscall, procfs::by_pid};

    fn wait(pid: u32, cgroups: u64) -> Wait {
        let mut wait = tests::wait(Syscall::Read, [3, 0, 0, 0, 0, 0]);
        wait.thread.process = by_pid(pid);
        Wait { cgroups: NonZeroU64::new(cgroups), ..wait }
    }

    #[test]
    fn who_is_in_the_same_cgroups_is_asked_for_once() {
        let waits = [wait(1, 0), wait(2, 9), wait(3, 0), wait(4, 9), wait(2, 9), wait(5, 8), wait(1, 0)];
        let pids: Vec<Vec<u32>> = by_cgroups(waits.iter())
            .into_iter()
            .map(|group| group.into_iter().map(|process| process.pid).collect())
            .collect();
        assert_eq!(pids, [vec![1], vec![2, 4], vec![3], vec![5]]);
    }

    /// One that has gone is at home nowhere; another one of the same cgroups, which lives, is asked.
    #[test]
    fn who_has_gone_does_not_answer_for_others() {
        let (me, gone) = (std::process::id(), 1 << 22 | 5);
        let mut resolver = Resolver::new();
        for waits in [[wait(me, 7), wait(gone, 7)], [wait(gone, 7), wait(me, 7)]] {
            let homes = resolver.read_workloads(waits.iter());
            assert!(homes[&by_pid(me)].cgroup.is_some(), "{homes:?}");
            assert_eq!(homes.len(), 2);
        }
        let alone = [wait(gone, 0)];
        assert_eq!(resolver.read_workloads(alone.iter())[&by_pid(gone)].cgroup, None);
    }
}
