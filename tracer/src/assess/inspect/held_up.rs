//! Whom does a process hold up, and where does the chain of its own wait end? By the waits of the whole host, as `ps` finds it.

use std::{cmp::Reverse, collections::BTreeSet, time::Duration};

use anyhow::Result;

use crate::{
    assess::{
        incidents::is_stall,
        pipeline::{PeersOf, Pipeline, is_young},
        requests,
    },
    collect::Source,
    model::{
        class::Level,
        script::script,
        wait::{ByProcess, ProcessId, Wait},
    },
    util::human,
    wire::culprit::{CulpritKind, CulpritObject, program_name},
};

/// Waits of the host that are looked at, the oldest.
const WAITS_MAX: usize = 2048;
/// Of those that are held up, how many are named.
const NAMED_MAX: usize = 3;

/// Those that are stuck because of a process.
#[derive(Debug)]
pub struct HeldUp {
    /// How many waits.
    pub waits: usize,
    /// Of which processes.
    pub pids: BTreeSet<u32>,
    /// The age of the oldest.
    pub oldest: Duration,
    /// Some of these processes by name, those first that have waited longest.
    pub named: Vec<String>,
}

impl HeldUp {
    /// `It holds up 5 processes, the oldest wait for 41s: python3 client.py (pid 7) and 4 more.`
    pub fn sentence(&self) -> String {
        let waits = human::waits_of(self.waits, self.pids.len());
        let more = match self.pids.len() - self.named.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let age = human::age(self.oldest);
        let since = if self.waits == 1 { format!("for {age}") } else { format!("the oldest for {age}") };
        format!("It holds up {waits}, {since}: {}{more}.", self.named.join(", "))
    }
}

/// What the waits of the host say of a process.
#[derive(Debug, Default)]
pub struct PlaceInChains {
    /// Whom it holds up.
    pub held_up: Option<HeldUp>,
    /// Who is to blame for its oldest stuck wait, where that is not whom it waits for itself.
    pub end: Option<CulpritObject>,
}

/// Of a process, or of one thread of it.
///
/// # Errors
/// The source cannot be asked.
pub fn of(
    process: ProcessId,
    only: Option<u32>,
    all: &ByProcess<'_>,
    pipeline: &mut Pipeline,
    source: &mut dyn Source,
) -> Result<PlaceInChains> {
    let mut waits: Vec<Wait> = all.iter().filter(|wait| !is_young(wait.age)).cloned().collect();
    waits.sort_by_key(|wait| Reverse(wait.age));
    waits.truncate(WAITS_MAX);
    let mut assessments = pipeline.assess(waits, all, source, &PeersOf::NOT_IDLE)?;
    requests::drop_doubles(&mut assessments);
    let culprits = pipeline.culprits(&assessments, is_stall, all, source)?;
    let mut stuck: Vec<_> = assessments
        .iter()
        .filter(|of| of.concern() == Level::Stuck)
        .filter_map(|of| Some((of, culprits.get(&of.wait.thread)?)))
        .collect();
    stuck.sort_by_key(|(of, _)| Reverse(of.wait.age));
    let is_own =
        |wait: &Wait| wait.thread.process.pid == process.pid && only.is_none_or(|tid| wait.thread.tid == tid);
    let end = stuck.iter().find(|(of, _)| is_own(&of.wait)).map(|(_, culprit)| *culprit);
    let end = end.filter(|culprit| {
        let is_circle = matches!(culprit.kind, CulpritKind::Deadlock | CulpritKind::Circle);
        culprit.through.is_some() && !is_circle
    });
    let is_due = |culprit: &CulpritObject| match culprit.kind {
        CulpritKind::Process => culprit.pid == Some(process.pid),
        CulpritKind::Thread => {
            culprit.pid == Some(process.pid) && only.is_none_or(|tid| culprit.tid == Some(tid))
        }
        _ => false,
    };
    stuck.retain(|(of, culprit)| of.wait.thread.process.pid != process.pid && is_due(culprit));
    let held_up = stuck.first().map(|(oldest, _)| {
        let mut pids = BTreeSet::new();
        let mut named = Vec::new();
        for (of, _) in &stuck {
            let process = of.wait.thread.process;
            if pids.insert(process.pid) && named.len() < NAMED_MAX {
                let who = pipeline.resolver().who(process);
                let runs = who.cmdline.as_deref().and_then(|cmdline| script(&of.wait.comm, cmdline));
                named.push(format!("{} (pid {})", program_name(&of.wait.comm, runs.as_deref()), process.pid));
            }
        }
        HeldUp { waits: stuck.len(), pids, oldest: oldest.wait.age, named }
    });
    Ok(PlaceInChains { held_up, end: end.cloned() })
}
