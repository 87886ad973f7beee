//! Who is to blame for the stalls of a moment? Makes the graph of who waits for whom of what was assessed, with the waits of culprits that
//! nobody asked about, and says for each stall where its chain ends.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Result;
use hashbrown::{HashMap, HashSet};

use super::{
    pipeline::{Assessment, PeersOf, Pipeline, is_young},
    requests::drop_doubles,
    stall::Stall,
};
use crate::{
    collect::Source,
    diagnose::{
        culprit::{Blame, Culprit, ShownName, blame},
        incidents::{BlamedWait, incidents},
    },
    model::{
        class::{Class, Level},
        script::{is_interpreter, script},
        wait::{ByProcess, ThreadId, Wait},
    },
    procfs::{Reads, by_pid},
    resolve::{Resolved, process},
    wire::culprit::{CulpritKind, CulpritObject, PartyObject},
};

/// Links of a chain whose waits are looked up, where nobody asked about them.
const STEPS_MAX: usize = 4;
/// Waits that are looked up on the way.
const WAITS_MAX: usize = 1024;
/// Processes whose parents are read, or whose names are.
const PROCESSES_MAX: usize = 256;
/// For how long what was read holds.
const HOLDS: Duration = Duration::from_secs(60);
/// How long that may take: of a process that hangs, not even these can be read.
const READING_MAX: Duration = Duration::from_millis(100);

/// Whether a wait is to be in an incident: it has lasted a while, and worries by itself.
pub fn is_stall(assessment: &Assessment) -> bool {
    !is_young(assessment.wait.age) && (assessment.class.is_listed() || assessment.is_deadlock())
}

/// What is read of processes, of each once.
#[derive(Default)]
pub struct Families {
    parents: HashMap<u32, Option<u32>>,
    names: HashMap<u32, Option<String>>,
    /// What interpreters run.
    scripts: HashMap<u32, Option<String>>,
    /// What reading them has taken.
    took: Duration,
    /// When the first of them may have been read.
    since: Option<Instant>,
}

impl Families {
    /// The same for another look: what has been read holds for a minute, or until it is as much as may be read at once. Another process
    /// may have the pid by then.
    fn again(&mut self) {
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
        if self.has_read_enough() {
            return false;
        }
        let begun = Instant::now();
        let read = reads.stat(by_pid(pid)).map(|stat| stat.parent);
        self.took += begun.elapsed();
        self.parents.insert(pid, read);
        read == Some(parent)
    }

    fn has_read_enough(&self) -> bool {
        self.parents.len() + self.names.len() + self.scripts.len() >= PROCESSES_MAX
            || self.took >= READING_MAX
    }

    /// Names the process of a thread that waits for its own process: the thread has a name of its own.
    fn name(&mut self, culprit: &mut Culprit, waiter: ThreadId, reads: &mut Reads) {
        let Culprit::Process { pid, comm } = culprit else { return };
        if *pid != waiter.process.pid || waiter.tid == *pid {
            return;
        }
        if !self.names.contains_key(pid) && !self.has_read_enough() {
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
        if !self.scripts.contains_key(&pid) && !self.has_read_enough() {
            let begun = Instant::now();
            let cmdline = process::read_cmdline(by_pid(pid), reads);
            self.took += begun.elapsed();
            self.scripts.insert(pid, cmdline.and_then(|cmdline| script(comm, &cmdline)));
        }
        self.scripts.get(&pid).cloned().flatten()
    }

    /// Says of interpreters what they run.
    fn name_scripts(&mut self, culprits: &mut HashMap<ThreadId, CulpritObject>, reads: &mut Reads) {
        for culprit in culprits.values_mut() {
            if let CulpritObject { kind: CulpritKind::Process, pid: Some(pid), comm: Some(comm), .. } =
                culprit
            {
                culprit.script = self.script(*pid, comm, reads);
            }
            for party in culprit.through.iter_mut().chain(&mut culprit.members) {
                if party.tid.is_none() {
                    party.script = self.script(party.pid, &party.comm, reads);
                }
            }
        }
    }

    fn blamed(
        &mut self,
        (wait, resolved, class): (&Wait, &Resolved, Class),
        is_stall: bool,
        reads: &mut Reads,
    ) -> BlamedWait {
        let waiter = wait.thread.process.pid;
        let mut is_child = |pid| self.is_child(pid, waiter, reads);
        let mut blame = blame(wait, resolved, class, &mut is_child);
        self.name(&mut blame.culprit, wait.thread, reads);
        BlamedWait {
            thread: wait.thread,
            began_ns: wait.began_ns,
            is_stuck: class.level() == Level::Stuck,
            is_deadlock: resolved.peers.as_ref().is_some_and(|peers| peers.circle),
            is_stall,
            blame,
        }
    }
}

/// The waits of culprits that were not looked up yet: no more than `room`.
fn unknown_waits(
    blamed: &[BlamedWait],
    known: &mut HashSet<ThreadId>,
    all: &ByProcess<'_>,
    room: usize,
) -> Vec<Wait> {
    let mut found = Vec::new();
    let mut pids = HashSet::new();
    for wait in blamed {
        let (pid, tid) = match &wait.blame.culprit {
            Culprit::Process { pid, .. } => (*pid, None),
            Culprit::Thread { pid, tid, .. } => (*pid, Some(*tid)),
            _ => continue,
        };
        if !pids.insert((pid, tid)) {
            continue;
        }
        let is_meant = |wait: &&&Wait| {
            !is_young(wait.age) && (tid.is_none_or(|tid| wait.thread.tid == tid) || wait.thread.is_request())
        };
        for wait in all.of(pid).iter().filter(is_meant) {
            if found.len() >= room {
                return found;
            }
            if known.insert(wait.thread) {
                found.push((*wait).clone());
            }
        }
    }
    found
}

impl Pipeline {
    /// Who is to blame for those of these waits that `is_stall` says are stalls, by who waits. Of culprits whose own waits are not among
    /// them what the moment has is looked up; `all` are the host's waits of that.
    ///
    /// # Errors
    /// The source cannot be asked.
    pub fn culprits(
        &mut self,
        assessments: &[Assessment],
        is_stall: impl Fn(&Assessment) -> bool,
        all: &ByProcess<'_>,
        source: &mut dyn Source,
    ) -> Result<HashMap<ThreadId, CulpritObject>> {
        let mut families = Families::default();
        let mut blamed = self.blamed(assessments, is_stall, &mut families);
        if !blamed.iter().any(|wait| wait.is_stall) {
            return Ok(HashMap::new());
        }
        let mut known: HashSet<ThreadId> = assessments.iter().map(|of| of.wait.thread).collect();
        let (mut looked_up, mut since) = (0, 0);
        for _ in 0..STEPS_MAX {
            let waits = unknown_waits(&blamed[since..], &mut known, all, WAITS_MAX - looked_up);
            if waits.is_empty() {
                break;
            }
            (looked_up, since) = (looked_up + waits.len(), blamed.len());
            let mut met = self.assess(waits, all, source, &PeersOf::NOT_IDLE)?;
            drop_doubles(&mut met);
            blamed.extend(self.blamed(&met, |_| false, &mut families));
        }
        let mut culprits = objects(&blamed, all);
        families.name_scripts(&mut culprits, self.resolver().reads());
        Ok(culprits)
    }

    /// The same where all that is stuck is among these waits: nothing is looked up.
    pub fn culprits_among(
        &mut self,
        assessments: &[Assessment],
        is_stall: impl Fn(&Assessment) -> bool,
        all: &ByProcess<'_>,
    ) -> HashMap<ThreadId, CulpritObject> {
        objects(&self.blamed(assessments, is_stall, &mut Families::default()), all)
    }

    /// Those of these waits that are stalls, or may be followed from others, with whom they are due to.
    fn blamed(
        &mut self,
        assessments: &[Assessment],
        is_stall: impl Fn(&Assessment) -> bool,
        families: &mut Families,
    ) -> Vec<BlamedWait> {
        let reads = self.resolver().reads();
        let counts = |of: &&Assessment| is_stall(of) || of.level() == Level::Stuck || of.is_deadlock();
        let counted = assessments.iter().filter(counts);
        let judged =
            |of: &Assessment| families.blamed((&of.wait, &of.resolved, of.class), is_stall(of), reads);
        counted.map(judged).collect()
    }

    /// Who is to blame for each of these stalls; `all` are the host's waits, `families` what is known from the last time.
    pub fn culprits_of_stalls(
        &mut self,
        stalls: &BTreeMap<ThreadId, Stall>,
        all: &ByProcess<'_>,
        families: &mut Families,
    ) -> HashMap<ThreadId, CulpritObject> {
        let reads = self.resolver().reads();
        families.again();
        let blamed: Vec<BlamedWait> = stalls
            .values()
            .map(|Stall { wait, resolved, verdict, .. }| {
                families.blamed((wait, resolved, verdict.class), true, reads)
            })
            .collect();
        let mut culprits = objects(&blamed, all);
        families.name_scripts(&mut culprits, self.resolver().reads());
        culprits
    }
}

/// The culprit of each stall.
fn objects(blamed: &[BlamedWait], all: &ByProcess<'_>) -> HashMap<ThreadId, CulpritObject> {
    let mut objects = HashMap::new();
    for incident in incidents(blamed) {
        let object = CulpritObject {
            more: incident.more,
            probable: !incident.certain,
            ..object(&incident.culprit, all)
        };
        for at in incident.stalls {
            let BlamedWait { thread, blame, .. } = &blamed[at];
            let through = through(blame, &incident.culprit);
            objects.insert(*thread, CulpritObject { through, ..object.clone() });
        }
    }
    objects
}

/// Whom a wait is due to itself, where that is not where its chain ends.
fn through(blame: &Blame, end: &Culprit) -> Option<PartyObject> {
    match &blame.culprit {
        culprit if culprit == end => None,
        Culprit::Process { pid, comm } => Some(party(*pid, None, comm)),
        Culprit::Thread { pid, tid, comm } => Some(party(*pid, Some(*tid), comm)),
        _ => None,
    }
}

/// A culprit as JSON has it.
fn object(culprit: &Culprit, all: &ByProcess<'_>) -> CulpritObject {
    let of = CulpritObject::of_kind;
    let at = |kind, path: &str| CulpritObject { path: Some(path.into()), ..of(kind) };
    let start_ticks = |pid| all.of(pid).first().and_then(|wait| wait.thread.process.start_ticks());
    match culprit {
        Culprit::Process { pid, comm } => CulpritObject {
            pid: Some(*pid),
            comm: Some(comm.0.clone()),
            start_ticks: start_ticks(*pid),
            ..of(CulpritKind::Process)
        },
        Culprit::Thread { pid, tid, comm } => CulpritObject {
            pid: Some(*pid),
            tid: Some(*tid),
            comm: Some(comm.0.clone()),
            start_ticks: start_ticks(*pid),
            ..of(CulpritKind::Thread)
        },
        Culprit::Remote { protocol, ip, port, netns } => CulpritObject {
            protocol: Some((*protocol).into()),
            address: Some(match port {
                Some(port) => std::net::SocketAddr::new(*ip, *port).to_string(),
                None => ip.to_string(),
            }),
            netns: *netns,
            ..of(CulpritKind::Remote)
        },
        Culprit::FileSystem { place, server, .. } => {
            CulpritObject { server: Some(server.clone()), ..at(CulpritKind::FileSystem, place) }
        }
        Culprit::Storage { place, source } => {
            CulpritObject { server: Some(source.clone()), ..at(CulpritKind::Storage, place) }
        }
        Culprit::Frozen { place } => at(CulpritKind::Frozen, place),
        Culprit::Device { path } => at(CulpritKind::Device, path),
        Culprit::FileLock { path } => at(CulpritKind::FileLock, path),
        Culprit::Fifo { path } => at(CulpritKind::Fifo, path),
        Culprit::UnixSocket { path } => at(CulpritKind::Socket, path),
        Culprit::MemoryLock { pid, comm, address } => CulpritObject {
            pid: Some(*pid),
            comm: Some(comm.0.clone()),
            address: Some(format!("{address:#x}")),
            ..of(CulpritKind::MemoryLock)
        },
        Culprit::Semaphores { set } => CulpritObject { id: Some(*set), ..of(CulpritKind::Semaphores) },
        Culprit::MessageQueue { id } => CulpritObject { id: Some(*id), ..of(CulpritKind::MessageQueue) },
        Culprit::Circle { members, is_deadlock } => CulpritObject {
            members: members.iter().map(|member| party(member.pid, member.tid, &member.comm)).collect(),
            ..of(if *is_deadlock { CulpritKind::Deadlock } else { CulpritKind::Circle })
        },
        Culprit::Itself(thread) => {
            let tid = (!thread.is_request()).then_some(thread.tid);
            CulpritObject { pid: Some(thread.process.pid), tid, ..of(CulpritKind::Itself) }
        }
    }
}

fn party(pid: u32, tid: Option<u32>, comm: &ShownName) -> PartyObject {
    PartyObject { pid, tid, comm: comm.0.clone(), script: None }
}
