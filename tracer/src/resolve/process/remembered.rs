//! Who waits, remembered for a minute. Reads ahead for many at once.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{ProcessMeta, read, read_home, wanted};
use crate::{
    model::wait::ProcessId,
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

    /// Reads what units and containers these belong to, all together: of each all that a line of a table shows.
    pub fn read_workloads(
        &mut self,
        processes: impl Iterator<Item = ProcessId>,
    ) -> HashMap<ProcessId, ProcessMeta> {
        let processes: HashSet<ProcessId> = processes.collect();
        let processes: Vec<ProcessId> = processes.into_iter().collect();
        let mut homes = HashMap::with_capacity(processes.len());
        for some in processes.chunks(READ_AHEAD) {
            let wanted = some.iter().map(|process| (*process, Wanted::File("cgroup".into())));
            self.reads.ahead(wanted);
            homes.extend(some.iter().map(|process| (*process, read_home(*process, &mut self.reads))));
        }
        self.reads.forget_ahead();
        homes
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
