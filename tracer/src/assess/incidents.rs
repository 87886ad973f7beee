//! Who is to blame for the stalls of a moment? Makes the graph of who waits for whom of what was assessed, with the waits of culprits that
//! nobody asked about, and says for each stall where its chain ends.

use anyhow::Result;
use hashbrown::{HashMap, HashSet};

use super::{
    families::Families,
    pipeline::{Assessment, PeersOf, Pipeline, is_young},
    requests::drop_doubles,
};
use crate::{
    collect::Source,
    diagnose::{
        culprit::{Blame, Culprit, ShownName},
        incidents::{BlamedWait, Incident, IncidentGraph},
    },
    model::{
        class::Level,
        wait::{ByProcess, ThreadId, Wait},
    },
    wire::culprit::{CulpritKind, CulpritObject, PartyObject},
};

/// Links of a chain whose waits are looked up, where nobody asked about them.
const STEPS_MAX: usize = 4;
/// Waits that are looked up on the way.
const WAITS_MAX: usize = 1024;

/// Whether a wait is to be in an incident: it has lasted a while, and worries by itself.
pub fn is_stall(assessment: &Assessment) -> bool {
    !is_young(assessment.wait.age) && assessment.judgement().is_listed()
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
        let direct = match &wait.blame.culprit {
            Culprit::Process { pid, .. } => Some((*pid, None)),
            Culprit::Thread { pid, tid, .. } => Some((*pid, Some(*tid))),
            _ => None,
        };
        let heir = wait.heir.as_ref().map(|heir| (heir.pid, None));
        for (pid, tid) in direct.into_iter().chain(heir) {
            if !pids.insert((pid, tid)) {
                continue;
            }
            let is_meant = |wait: &&&Wait| {
                !is_young(wait.age)
                    && (tid.is_none_or(|tid| wait.thread.tid == tid) || wait.thread.is_request())
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
        let mut blamed = self.blamed(assessments, is_stall, all, &mut families);
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
            blamed.extend(self.blamed(&met, |_| false, all, &mut families));
        }
        let mut culprits = objects(blamed, all);
        families.name_scripts(culprits.values_mut(), self.resolver().reads());
        Ok(culprits)
    }

    /// The same where all that is stuck is among these waits: nothing is looked up.
    pub fn culprits_among(
        &mut self,
        assessments: &[Assessment],
        is_stall: impl Fn(&Assessment) -> bool,
        all: &ByProcess<'_>,
        families: &mut Families,
    ) -> HashMap<ThreadId, CulpritObject> {
        let mut culprits = objects(self.blamed(assessments, is_stall, all, families), all);
        families.name_scripts(culprits.values_mut(), self.resolver().reads());
        culprits
    }

    /// Those of these waits that are stalls, or may be followed from others, with whom they are due to.
    fn blamed(
        &mut self,
        assessments: &[Assessment],
        is_stall: impl Fn(&Assessment) -> bool,
        all: &ByProcess<'_>,
        families: &mut Families,
    ) -> Vec<BlamedWait> {
        let reads = self.resolver().reads();
        let counts = |of: &&Assessment| is_stall(of) || of.level() == Level::Stuck;
        let counted = assessments.iter().filter(counts);
        let judged =
            |of: &Assessment| families.blamed((&of.wait, &of.resolved, of.class), is_stall(of), all, reads);
        counted.map(judged).collect()
    }
}

/// The culprit of each stall.
fn objects(blamed: Vec<BlamedWait>, all: &ByProcess<'_>) -> HashMap<ThreadId, CulpritObject> {
    let mut objects = HashMap::new();
    let mut graph = IncidentGraph::with_capacity(blamed.len());
    blamed.into_iter().for_each(|wait| graph.insert(wait));
    for incident in graph.take_changes().into_iter().filter_map(|change| change.incident) {
        let object = culprit(&incident, all);
        for thread in incident.stalls {
            let through = graph.blame(&thread).and_then(|blame| through(blame, &incident.culprit));
            let heir = graph.heir(&thread).filter(|_| through.is_some());
            let behind = heir.map(|heir| party(heir.pid, None, &heir.comm));
            objects.insert(thread, CulpritObject { through, behind, ..object.clone() });
        }
    }
    objects
}

/// The culprit of an incident as JSON has it; `all` are the host's waits.
pub fn culprit(incident: &Incident, all: &ByProcess<'_>) -> CulpritObject {
    CulpritObject { more: incident.more, probable: !incident.certain, ..object(&incident.culprit, all) }
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
