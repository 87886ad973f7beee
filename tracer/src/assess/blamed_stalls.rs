//! Who is to blame for each of the agent's open stalls? Found once, when a stall has opened: what was read of processes then may be hung or
//! gone at the next look, and thousands of stalls are not asked about again because another one has opened.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
};

use hashbrown::HashSet;

use super::{families::Families, stall::Stall};
use crate::{
    diagnose::incidents::{BlamedWait, IncidentGraph},
    model::wait::{ByProcess, ThreadId},
    procfs::Reads,
};

/// Stalls that are asked about in one look; the others have to wait for the next. When a service is back, thousands end at once.
const CHANGED_MAX: usize = 750;

/// The open stalls, each with whom it is due to.
#[derive(Default)]
pub struct BlamedStalls {
    /// They.
    pub graph: IncidentGraph,
    /// Those that have changed and were not asked about yet, in their order.
    pending: VecDeque<ThreadId>,
    /// Those of which not everything could be read in time.
    unsettled: HashSet<ThreadId>,
}

impl BlamedStalls {
    /// Takes the stalls that are open now, of which those of these threads have opened or closed. Asks about those, and again about those of
    /// which too little was known. `all` are the host's waits.
    pub fn update(
        &mut self,
        changed: Vec<ThreadId>,
        stalls: &BTreeMap<ThreadId, Stall>,
        all: &ByProcess<'_>,
        families: &mut Families,
        reads: &mut Reads,
    ) {
        self.pending.extend(changed);
        let next = self.pending.len().min(CHANGED_MAX);
        let mut changed: HashSet<ThreadId> = self.pending.drain(..next).collect();
        changed.extend(mem::take(&mut self.unsettled));
        for thread in changed {
            let Some(Stall { wait, resolved, verdict, .. }) = stalls.get(&thread) else {
                self.graph.remove(&thread);
                continue;
            };
            let (blamed, is_whole) =
                families.whole(|families| families.blamed((wait, resolved, verdict.class), true, all, reads));
            if !is_whole {
                self.unsettled.insert(thread);
            }
            // Another thread may go on with a wait.
            self.graph.insert(BlamedWait { thread, ..blamed });
        }
    }

    /// Whether everything is known of them that there is to know.
    pub fn are_settled(&self) -> bool {
        self.pending.is_empty() && self.unsettled.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::culprit::Culprit,
        history::samples::flagged,
        model::class::Class,
        resolve::peers::{Peer, Peers},
        wire::culprit::{CulpritKind, CulpritObject},
    };

    /// Takes these stalls, of which those of these threads have changed: whom each is due to.
    fn update(
        blamed: &mut BlamedStalls,
        changed: &[ThreadId],
        stalls: &[(ThreadId, Stall)],
    ) -> Vec<Option<Culprit>> {
        let stalls: BTreeMap<ThreadId, Stall> = stalls.iter().cloned().collect();
        blamed.update(
            changed.to_vec(),
            &stalls,
            &ByProcess::new(&[]),
            &mut Families::default(),
            &mut Reads::new(),
        );
        assert!(blamed.are_settled());
        stalls.keys().map(|thread| Some(blamed.graph.blame(thread)?.culprit.clone())).collect()
    }

    #[test]
    fn each_stall_is_asked_about_once_and_a_later_one_of_its_thread_anew() {
        let thread = |pid| flagged(pid, 10).wait.thread;
        let stall = |pid| (thread(pid), flagged(pid, 10));
        let orphan = |pid| {
            let (thread, mut stall) = stall(pid);
            stall.verdict.class = Class::Orphan;
            (thread, stall)
        };
        let itself = |pid| Some(Culprit::Itself(thread(pid)));
        let mut blamed = BlamedStalls::default();
        let first = update(&mut blamed, &[3, 5, 7].map(thread), &[stall(3), stall(5), stall(7)]);
        assert!(first.iter().all(|culprit| matches!(culprit, Some(Culprit::Remote { .. }))));
        // One has come, one has gone, and of the others another one is open by now.
        let next = update(&mut blamed, &[1, 5, 7].map(thread), &[orphan(1), orphan(3), orphan(7)]);
        assert_eq!(next, [itself(1), first[0].clone(), itself(7)]);
        assert!(blamed.graph.blame(&thread(5)).is_none());
    }

    #[test]
    fn a_wait_that_another_thread_goes_on_with_is_that_ones() {
        let stall = flagged(7, 10);
        let (thread, other) = (stall.wait.thread, ThreadId { tid: 99, ..stall.wait.thread });
        let mut blamed = BlamedStalls::default();
        update(&mut blamed, &[thread], &[(thread, stall.clone())]);
        update(&mut blamed, &[thread, other], &[(other, stall)]);
        let changes = blamed.graph.take_changes();
        assert_eq!(changes[0].incident.as_ref().map(|of| &of.stalls[..]), Some(&[other][..]));
    }

    /// Which of two processes is meant depends on whose children they are.
    #[test]
    fn what_could_not_be_read_in_time_is_asked_again() {
        let (mut families, mut reads) = (Families::default(), Reads::new());
        let nobody = (5_000_000..).map(|pid| CulpritObject {
            pid: Some(pid),
            comm: Some("python3".into()),
            ..CulpritObject::of_kind(CulpritKind::Process)
        });
        for mut culprit in nobody {
            let ((), is_whole) = families.whole(|families| families.name_scripts([&mut culprit], &mut reads));
            if !is_whole {
                break;
            }
        }
        let mut stall = flagged(7, 10);
        let others = [5_000_001, 5_000_002].map(|pid| Peer { pid, comm: "peer".into() });
        stall.resolved.peers = Some(Peers { others: others.to_vec().into(), ..Peers::default() });
        let stalls = BTreeMap::from([(stall.wait.thread, stall)]);
        let mut blamed = BlamedStalls::default();
        blamed.update(
            stalls.keys().copied().collect(),
            &stalls,
            &ByProcess::new(&[]),
            &mut families,
            &mut reads,
        );
        assert!(!blamed.are_settled());
        families.again();
        blamed.update(Vec::new(), &stalls, &ByProcess::new(&[]), &mut families, &mut reads);
        assert!(blamed.are_settled());
    }

    #[test]
    fn thousands_are_asked_about_some_at_a_time() {
        let threads = |pids: std::ops::Range<u32>| pids.map(|pid| flagged(pid, 10).wait.thread);
        let last = CHANGED_MAX as u32 + 5;
        let stalls: BTreeMap<ThreadId, Stall> =
            threads(0..last).zip((0..last).map(|pid| flagged(pid, 10))).collect();
        let mut blamed = BlamedStalls::default();
        let mut look = |changed: Vec<ThreadId>, stalls: &BTreeMap<ThreadId, Stall>| {
            blamed.update(changed, stalls, &ByProcess::new(&[]), &mut Families::default(), &mut Reads::new());
            let known = threads(0..last).filter(|thread| blamed.graph.blame(thread).is_some()).count();
            (known, blamed.are_settled())
        };
        assert_eq!(look(threads(0..last).collect(), &stalls), (CHANGED_MAX, false));
        assert_eq!(look(Vec::new(), &stalls), (CHANGED_MAX + 5, true));
        let none = BTreeMap::new();
        assert_eq!(look(threads(0..last).collect(), &none), (last as usize - CHANGED_MAX, false));
        assert_eq!(look(Vec::new(), &none), (0, true));
    }
}
