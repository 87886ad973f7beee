//! Which waits stand in a circle that nobody can leave? Whom each is for is followed until that is known, all that are met on the way
//! in one step.

use std::time::Instant;

use anyhow::Result;

use hashbrown::{HashMap, HashSet};

use super::pipeline::{Assessment, PeerPolicy, Pipeline, is_young};
use crate::{
    collect::Source,
    diagnose::{
        graph::{Needed, WaitGraph},
        needs::{Party, needs},
        verdict::classify,
    },
    model::{
        class::Class,
        syscalls::Direction,
        wait::{ByProcess, ProcessId, Wait},
    },
    procfs::Reads,
    resolve::{
        children,
        futex::FutexWord,
        python::{self, Sought},
    },
};

/// Links of a chain that are followed.
const STEPS_MAX: usize = 8;
/// Waits that are met on the way.
const WAITS_MAX: usize = 4096;
/// Threads of a process that is followed: of one with more, some thread is taken to act.
const THREADS_MAX: usize = 256;

/// Processes and threads of a circle that are looked into.
const READ_MAX: usize = 16;

/// Whether a wait may be a link of a circle: what it waits for lies with other threads or processes of this host, which are known.
fn may_be_link(wait: &Wait) -> bool {
    !is_young(wait.age) && wait.may_be_for_others()
}

/// The peers of whoever is met on the way are looked up.
struct Met;

impl PeerPolicy for Met {
    fn needs_peers(&self, assessment: &Assessment) -> bool {
        may_be_link(&assessment.wait)
    }
}

/// A search that is under way.
#[derive(Default)]
struct CircleSearch {
    graph: WaitGraph<Party>,
    /// Waits that were met on the way, by thread.
    met: HashMap<u32, Assessment>,
    /// Who is needed and was not followed yet.
    open: Vec<Party>,
    /// Who was.
    followed: HashSet<Party>,
    /// Threads whose waits are known, or have been asked for.
    asked: HashSet<u32>,
    /// Processes that another one waits for, and neither for a word in memory nor for what they say.
    awaited: HashSet<u32>,
}

impl CircleSearch {
    /// Begins with those whose peers are known.
    fn new(given: &[Assessment]) -> Self {
        let mut search = Self::default();
        for assessment in given.iter().filter(|given| may_be_link(&given.wait)) {
            if search.link(assessment) {
                search.asked.insert(assessment.wait.thread.tid);
            }
        }
        search
    }

    /// Adds a wait, if it is known whom it needs.
    fn link(&mut self, assessment: &Assessment) -> bool {
        let Some(needs) = needs(&assessment.wait, &assessment.resolved) else { return false };
        self.open.extend(needs.whom());
        // Who reads what a process may say waits for it no more than a log does, and who waits for any of several for none of them.
        let reads = assessment.resolved.direction == Some(Direction::Receive);
        if let (false, false, [one]) = (assessment.class == Class::Futex, reads, needs.whom()) {
            self.awaited.extend(Some(one.pid).filter(|pid| *pid != assessment.wait.thread.process.pid));
        }
        self.graph.add(Party::of(&assessment.wait), needs);
        true
    }

    /// The waits of those that are to be followed next, as far as they are not known.
    fn next(&mut self, all: &ByProcess<'_>, reads: &mut Reads) -> Vec<Wait> {
        let mut next: Vec<Wait> = Vec::new();
        for party in std::mem::take(&mut self.open) {
            if self.met.len() + next.len() >= WAITS_MAX || !self.followed.insert(party) {
                continue;
            }
            let waits = all.of(party.pid);
            if party.tid.is_none() {
                if can_act(waits, reads) {
                    continue;
                }
                let threads = waits.iter().map(|wait| Party::of(wait)).collect();
                self.graph.add(party, Needed::AnyOf(threads));
            }
            let is_meant = |wait: &&&Wait| party.tid.is_none_or(|tid| wait.thread.tid == tid);
            for wait in waits.iter().filter(is_meant) {
                if may_be_link(wait) && self.asked.insert(wait.thread.tid) {
                    next.push((*wait).clone());
                }
            }
        }
        next
    }

    fn take(&mut self, met: Vec<Assessment>) {
        for assessment in met {
            self.link(&assessment);
            self.met.insert(assessment.wait.thread.tid, assessment);
        }
    }

    /// Marks those that stand in a circle, if it is one that worries. Those that were met on the way come back.
    fn finish(mut self, given: &mut [Assessment], all: &ByProcess<'_>, reads: &mut Reads) -> Vec<Assessment> {
        let circles = self.graph.circles();
        let in_circle: HashSet<u32> = circles.iter().flatten().filter_map(|party| party.tid).collect();
        if in_circle.is_empty() {
            return Vec::new();
        }
        let awaited = std::mem::take(&mut self.awaited);
        let of_given = given.iter_mut().map(|given| (given.wait.thread.tid, given));
        let mut given: HashMap<u32, &mut Assessment> =
            of_given.filter(|(tid, _)| in_circle.contains(tid)).collect();
        let mut found = Vec::new();
        for circle in circles {
            let tids: Vec<u32> = circle.iter().filter_map(|party| party.tid).collect();
            let members: Vec<&Assessment> = tids
                .iter()
                .filter_map(|tid| self.met.get(tid).or_else(|| given.get(tid).map(|given| &**given)))
                .collect();
            let worries = worries(&members, &awaited, all, reads)
                || members.iter().any(|member| self.is_beside_gone(member));
            if !worries || !members.iter().all(|member| reads.still_in(&member.wait)) {
                continue;
            }
            for tid in tids {
                let met = self.met.remove(&tid).map(marked);
                match (given.get_mut(&tid), met) {
                    (Some(given), met) => {
                        let peers = met.and_then(|met| met.resolved.peers);
                        given.resolved.peers = peers.or_else(|| given.resolved.peers.take());
                        mark(given);
                    }
                    (None, met) => found.extend(met),
                }
            }
        }
        found
    }

    /// Whether one with whom a thread shares the memory that it waits on wants a lock whose holder has gone: so may its own have.
    fn is_beside_gone(&self, member: &Assessment) -> bool {
        let needs = self.graph.needs(Party::of(&member.wait));
        let others = needs.into_iter().flat_map(|needs| needs.whom());
        let others = others.filter(|other| other.pid != member.wait.thread.process.pid);
        let mut threads = others.filter_map(|other| self.graph.needs(*other)).flat_map(|needs| needs.whom());
        threads.any(|thread| self.graph.needs(*thread).is_some_and(|needs| needs.whom().is_empty()))
    }
}

/// Whether a circle is more than processes at rest. Threads that wait for conditions in memory, with nobody left to bring one about, never
/// go on; but if nobody waits for their processes, and none of them is known to want a lock, that may be meant.
fn worries(members: &[&Assessment], awaited: &HashSet<u32>, all: &ByProcess<'_>, reads: &mut Reads) -> bool {
    if members.iter().any(|member| !may_rest(member)) {
        return true;
    }
    let is_awaited = |process: ProcessId, reads: &mut Reads| {
        if awaited.contains(&process.pid) {
            return true;
        }
        let Some(stat) = reads.stat(process) else { return false };
        // Who waits for any of several waits for none in particular.
        let mut is_for_it = |wait: &&&Wait| {
            let is_old = !is_young(wait.age) && children::may_be(wait, process.pid);
            is_old && children::of(wait, reads) == [process.pid]
        };
        all.of(stat.parent).iter().any(|wait| is_for_it(&wait))
    };
    // A program whose functions can be seen says itself whether it rests.
    let sought: Vec<Sought> =
        members.iter().take(READ_MAX).filter_map(|member| sought(member, reads)).collect();
    if !sought.is_empty() {
        return never_meant(&sought, members.len());
    }
    let processes: HashSet<ProcessId> = members.iter().map(|member| member.wait.thread.process).collect();
    processes.into_iter().take(READ_MAX).any(|process| is_awaited(process, reads))
}

/// Whether it cannot be meant that so many threads wait for each other, of which some are seen to seek this: a lock, or all of them the
/// results of tasks that nobody is left to do.
fn never_meant(sought: &[Sought], threads: usize) -> bool {
    let all_for_results = sought.len() == threads && sought.iter().all(|sought| *sought == Sought::Result);
    sought.contains(&Sought::Lock) || all_for_results
}

/// What a thread of an interpreter's seeks; `None`: that is not to be told.
fn sought(member: &Assessment, reads: &mut Reads) -> Option<Sought> {
    let word = member.resolved.peers.as_ref().and_then(|peers| peers.futex.as_ref());
    let thread = member.wait.thread;
    let is_semaphore = word == Some(&FutexWord::Semaphore);
    is_semaphore.then(|| python::sought(thread.process, thread.tid, reads)).flatten()
}

/// Whether a wait may be how a healthy thread rests: on a condition in memory.
fn may_rest(member: &Assessment) -> bool {
    let word = member.resolved.peers.as_ref().and_then(|peers| peers.futex.as_ref());
    member.class == Class::Futex && word != Some(&FutexWord::MayBeLock)
}

fn mark(assessment: &mut Assessment) {
    if let Some(peers) = &mut assessment.resolved.peers {
        peers.circle = true;
    }
    assessment.class = classify(&assessment.wait, &assessment.resolved);
}

fn marked(mut assessment: Assessment) -> Assessment {
    mark(&mut assessment);
    assessment
}

/// Whether some thread of a process can act, or cannot be followed.
fn can_act(waits: &[&Wait], reads: &mut Reads) -> bool {
    let Some(first) = waits.first() else { return true };
    if waits.len() > THREADS_MAX || !waits.iter().all(|wait| may_be_link(wait)) {
        return true;
    }
    let status = reads.text(first.thread.process, "status").unwrap_or_default();
    let threads = status.lines().find_map(|line| line.strip_prefix("Threads:"));
    threads.and_then(|threads| threads.trim().parse().ok()) != Some(waits.len())
}

impl Pipeline {
    /// Finds the circles in which some of these waits stand and which nobody can leave, and classes their waits anew; the peers of those
    /// that may be in one have been found before. Waits of others that stand in them come back. Those that are not followed `until` then
    /// are taken to go on.
    ///
    /// # Errors
    /// The source cannot be asked.
    pub fn find_circles(
        &mut self,
        assessments: &mut [Assessment],
        all: &ByProcess<'_>,
        source: &mut dyn Source,
        until: Option<Instant>,
    ) -> Result<Vec<Assessment>> {
        let mut search = CircleSearch::new(assessments);
        for _ in 0..STEPS_MAX {
            let waits = search.next(all, self.resolver().reads());
            if waits.is_empty() || until.is_some_and(|until| Instant::now() >= until) {
                break;
            }
            let mut met = self.resolve(waits, source)?;
            self.find_peers(&mut met, all, source, &Met, until)?;
            search.take(met);
        }
        Ok(search.finish(assessments, all, self.resolver().reads()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_wait_for_results_alone_are_not_at_rest() {
        use Sought::{Event, Lock, Result};
        for (sought, threads, expected) in [
            (&[Lock, Lock][..], 2, true),
            (&[Lock, Event], 3, true),
            (&[Event, Event], 2, false),
            (&[Result, Result], 2, true),
            // One that rests may have been left so; of others nobody knows.
            (&[Result, Event], 2, false),
            (&[Result, Result], 3, false),
        ] {
            assert_eq!(never_meant(sought, threads), expected, "{sought:?} of {threads}");
        }
    }
}
