//! What has to be read of processes to say who is to blame: whose child one is, and what its program is called. Of each once, and of no
//! more than a look has time for.

use std::time::{Duration, Instant};

use hashbrown::HashMap;

use super::incidents::culprit;
use crate::{
    diagnose::{
        culprit::{CircleMember, Culprit, ShownName, blame},
        incidents::{BlamedWait, Incident},
    },
    model::{
        class::{Class, Level},
        script::{is_interpreter, script},
        syscalls::Operation,
        wait::{ByProcess, ThreadId, Wait},
    },
    procfs::{Reads, by_pid},
    resolve::{Resolved, children, process},
    wire::culprit::{CulpritKind, CulpritObject},
};

/// Processes whose parents are read, or whose names are.
const PROCESSES_MAX: usize = 256;
/// How far children of children are followed.
const GENERATIONS_MAX: usize = 8;
/// For how long what was read holds.
const HOLDS: Duration = Duration::from_secs(60);
/// How long that may take: of a process that hangs, not even these can be read.
const READING_MAX: Duration = Duration::from_millis(100);

/// What is read of processes, of each once.
#[derive(Default)]
pub struct Families {
    parents: HashMap<u32, Option<u32>>,
    names: HashMap<u32, Option<String>>,
    /// What interpreters run.
    scripts: HashMap<u32, Option<String>>,
    /// The only children of processes with one thread.
    only_children: HashMap<u32, Option<CircleMember>>,
    /// What reading them has taken.
    took: Duration,
    /// When the first of them may have been read.
    since: Option<Instant>,
    /// How often something was not read, as that had been enough.
    missed: u64,
}

impl Families {
    /// The same for another look: what has been read holds for a minute, or until it is as much as may be read at once. Another process
    /// may have the pid by then.
    pub fn again(&mut self) {
        if self.has_read_enough() || self.since.is_some_and(|since| since.elapsed() >= HOLDS) {
            *self = Self::default();
        }
        self.took = Duration::ZERO;
        self.since.get_or_insert_with(Instant::now);
    }

    /// Whether a process is a child of the other. Those beyond what is read are taken for none.
    fn is_child(&mut self, pid: u32, parent: u32, reads: &mut Reads) -> bool {
        if let Some(known) = self.parents.get(&pid) {
            return *known == Some(parent);
        }
        if !self.may_read() {
            return false;
        }
        let begun = Instant::now();
        let read = reads.stat(by_pid(pid)).map(|stat| stat.parent);
        self.took += begun.elapsed();
        self.parents.insert(pid, read);
        read == Some(parent)
    }

    /// What `read` gives, and whether it has read all that it wanted, or as much as it ever may: of what was not read for others it may
    /// read more another time.
    pub fn whole<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> (T, bool) {
        let (missed, is_alone) = (self.missed, self.number() == 0 && self.took.is_zero());
        let told = read(self);
        (told, self.missed == missed || is_alone)
    }

    /// How many things were read.
    fn number(&self) -> usize {
        self.parents.len() + self.names.len() + self.scripts.len() + self.only_children.len()
    }

    fn may_read(&mut self) -> bool {
        let may = !self.has_read_enough();
        self.missed += u64::from(!may);
        may
    }

    fn has_read_enough(&self) -> bool {
        self.number() >= PROCESSES_MAX || self.took >= READING_MAX
    }

    /// Names the process of a thread that waits for its own process: the thread has a name of its own.
    fn name(&mut self, culprit: &mut Culprit, waiter: ThreadId, reads: &mut Reads) {
        let Culprit::Process { pid, comm } = culprit else { return };
        if *pid != waiter.process.pid || waiter.tid == *pid {
            return;
        }
        if !self.names.contains_key(pid) && self.may_read() {
            let begun = Instant::now();
            self.names.insert(*pid, reads.comm(waiter.process));
            self.took += begun.elapsed();
        }
        if let Some(Some(name)) = self.names.get(pid) {
            *comm = ShownName(name.clone());
        }
    }

    /// What the interpreter with this pid and name runs, where that is known or may be read.
    fn script(&mut self, pid: u32, comm: &str, reads: &mut Reads) -> Option<String> {
        if !is_interpreter(comm) {
            return None;
        }
        if !self.scripts.contains_key(&pid) && self.may_read() {
            let begun = Instant::now();
            let cmdline = process::read_cmdline(by_pid(pid), reads);
            self.took += begun.elapsed();
            self.scripts.insert(pid, cmdline.and_then(|cmdline| script(comm, &cmdline)));
        }
        self.scripts.get(&pid).cloned().flatten()
    }

    /// Says of interpreters among these culprits what they run.
    pub fn name_scripts<'a>(
        &mut self,
        culprits: impl IntoIterator<Item = &'a mut CulpritObject>,
        reads: &mut Reads,
    ) {
        for culprit in culprits {
            if let CulpritObject { kind: CulpritKind::Process, pid: Some(pid), comm: Some(comm), .. } =
                culprit
            {
                culprit.script = self.script(*pid, comm, reads);
            }
            for party in culprit.through.iter_mut().chain(&mut culprit.behind).chain(&mut culprit.members) {
                if party.tid.is_none() {
                    party.script = self.script(party.pid, &party.comm, reads);
                }
            }
        }
    }

    /// An incident's culprit as JSON has it, and whether all was read of it; `all` are the host's waits.
    pub fn culprit(
        &mut self,
        incident: &Incident,
        all: &ByProcess<'_>,
        reads: &mut Reads,
    ) -> (CulpritObject, bool) {
        self.whole(|families| {
            let mut object = culprit(incident, all);
            families.name_scripts([&mut object], reads);
            object
        })
    }

    /// For whom a process waits that does nothing but wait for its only child, or for whom that child does so in turn. Not where it began
    /// to well after the `wait` for it did: a script has had other children meanwhile.
    fn heir(
        &mut self,
        pid: u32,
        wait: &Wait,
        all: &ByProcess<'_>,
        reads: &mut Reads,
    ) -> Option<CircleMember> {
        let mut heir: Option<CircleMember> = None;
        for _ in 0..GENERATIONS_MAX {
            let at = heir.as_ref().map_or(pid, |heir| heir.pid);
            let [only] = all.of(at) else { break };
            let for_most_of_it = || {
                let asked = (only.began_ns + only.age.as_nanos() as u64).saturating_sub(wait.began_ns);
                only.age.as_nanos() * 10 >= u128::from(asked) * 9
            };
            if only.call.operation() != Operation::Child || !for_most_of_it() {
                break;
            }
            match self.only_child(only, reads) {
                Some(child) => heir = Some(child),
                None => break,
            }
        }
        heir
    }

    fn only_child(&mut self, wait: &Wait, reads: &mut Reads) -> Option<CircleMember> {
        let process = wait.thread.process;
        if !self.only_children.contains_key(&process.pid) && self.may_read() {
            let begun = Instant::now();
            let is_alone = reads.stat(process).is_some_and(|stat| stat.threads == 1);
            let children = if is_alone { children::of(wait, reads) } else { Vec::new() };
            let named = |pid: u32, reads: &mut Reads| {
                Some(CircleMember { pid, tid: None, comm: reads.comm(by_pid(pid))?.as_str().into() })
            };
            let only = match children[..] {
                [pid] => named(pid, reads),
                _ => None,
            };
            self.took += begun.elapsed();
            self.only_children.insert(process.pid, only);
        }
        self.only_children.get(&process.pid).cloned().flatten()
    }

    /// Who is to blame for a wait; `all` are the host's.
    pub fn blamed(
        &mut self,
        (wait, resolved, class): (&Wait, &Resolved, Class),
        is_stall: bool,
        all: &ByProcess<'_>,
        reads: &mut Reads,
    ) -> BlamedWait {
        let waiter = wait.thread.process.pid;
        let mut is_child = |pid| self.is_child(pid, waiter, reads);
        let mut blame = blame(wait, resolved, class, &mut is_child);
        self.name(&mut blame.culprit, wait.thread, reads);
        let heir = match &blame.culprit {
            Culprit::Process { pid, .. } if *pid != waiter => self.heir(*pid, wait, all, reads),
            _ => None,
        };
        BlamedWait {
            thread: wait.thread,
            began_ns: wait.began_ns,
            is_stuck: class.level() == Level::Stuck,
            is_deadlock: resolved.is_deadlock(),
            is_stall,
            blame,
            heir,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::culprit::PartyObject;

    /// Processes of which more would have to be read than ever may be are not asked about for ever.
    #[test]
    fn what_is_too_much_by_itself_is_as_whole_as_it_gets() {
        let member = |pid| PartyObject { pid, tid: None, comm: "python3".into(), script: None };
        let members: Vec<PartyObject> = (5_000_000..).take(PROCESSES_MAX + 1).map(member).collect();
        let many = CulpritObject { members, ..CulpritObject::of_kind(CulpritKind::Deadlock) };
        let (mut families, mut reads) = (Families::default(), Reads::new());
        let mut is_whole = |families: &mut Families| {
            families.whole(|families| families.name_scripts([&mut many.clone()], &mut reads)).1
        };
        assert!(is_whole(&mut families));
        families.again();
        families.scripts.insert(1, None);
        assert!(!is_whole(&mut families), "others came first");
        families.again();
        assert!(is_whole(&mut families));
    }
}
