//! The way from a snapshot to judged waits, the same for everybody: resolve, classify, find the peers of those that earn it, and the
//! circles they stand in, and say it in a sentence. What is remembered between two looks lies around it: [`overview`](super::overview), the agent's tracker.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::batches::Batches;
use crate::{
    collect::Source,
    diagnose::progress::{Collected, date, date_back_to_peer},
    diagnose::sentence::sentence,
    diagnose::verdict::{Verdict, classify, peers_decide},
    model::class::{Class, Judgement, Level},
    model::syscalls::Operation,
    model::wait::{ByProcess, Snapshot, Wait},
    resolve::{Resolved, Resolver, process::ProcessMeta},
    util::clock::{boottime_ns, monotonic_ns},
    wire::json::WaitObject,
};

/// A younger wait is classed by what the kernel's record says alone, which is a matter of nanoseconds.
pub const LOOK_AGE_MIN: Duration = Duration::from_secs(1);

/// Whether a wait of this age comes and goes, as those of every busy program do: nothing is looked up for it.
pub fn is_young(age: Duration) -> bool {
    age < LOOK_AGE_MIN
}

/// Whether the present sleep may be one of many: short polls again and again, or a read that was interrupted.
pub fn may_be_older(wait: &Wait) -> bool {
    let goes_on = wait.call.direction().is_some() || wait.call.operation() == Operation::Connect;
    wait.call.watches_fds() || wait.socket.tcp().is_some() && goes_on
}

/// A snapshot in which a wait of that age is told from a shorter one, also where the source cannot say when
/// a sleep began: what is the same after a second look is at least that old.
pub fn snapshot(source: &mut dyn Source, age: Duration) -> Result<Snapshot> {
    let snapshot = source.snapshot()?;
    if snapshot.dated || age.is_zero() {
        return Ok(snapshot);
    }
    std::thread::sleep(age.min(Duration::from_secs(1)));
    source.snapshot()
}

/// A wait with everything that was found out about it.
#[derive(Clone, Debug)]
pub struct Assessment {
    /// The wait, dated back to its last progress.
    pub wait: Wait,
    /// What it waits on.
    pub resolved: Resolved,
    /// What it waits for, by the evidence there is so far.
    pub class: Class,
}

impl Assessment {
    /// How much it worries.
    pub fn level(&self) -> Level {
        self.judgement().level()
    }

    /// How much it worries by now. What nobody can leave does at once; anything else may be over in a moment, as
    /// when a page is read.
    pub fn concern(&self) -> Level {
        match (self.is_deadlock(), is_young(self.wait.age)) {
            (true, _) => Level::Stuck,
            (false, true) => Level::Idle,
            (false, false) => self.level(),
        }
    }

    /// What it is judged to be.
    pub fn judgement(&self) -> Judgement {
        Judgement { class: self.class, is_deadlock: self.is_deadlock() }
    }

    /// Whether it stands in a circle that nobody can leave.
    pub fn is_deadlock(&self) -> bool {
        self.resolved.is_deadlock()
    }

    /// Why, for people.
    pub fn sentence(&self) -> String {
        sentence(self.class, &self.wait, &self.resolved)
    }

    /// The class with its sentence.
    pub fn verdict(&self) -> Verdict {
        Verdict { class: self.class, sentence: self.sentence() }
    }

    /// As JSON has it.
    pub fn object(&self, who: &ProcessMeta) -> WaitObject {
        WaitObject::new(&self.wait, &self.resolved, &self.verdict(), who)
    }
}

/// Which waits earn the expensive walk: who is at the other end is found by going through all open files of the host.
pub trait PeerPolicy {
    /// Whether this one does; its class is what it is without peers.
    fn needs_peers(&self, assessment: &Assessment) -> bool;
}

/// The policy of whoever shows waits: those of this level or a worse one, of this age or older.
#[derive(Clone, Copy, Debug)]
pub struct PeersOf {
    /// The least worrying level.
    pub up_to: Level,
    /// Younger ones do without.
    pub min_age: Duration,
}

impl PeersOf {
    /// All waits.
    pub const ALL: Self = Self { up_to: Level::Idle, min_age: Duration::ZERO };
    /// Those that worry, or may worry once their peers are known.
    pub const NOT_IDLE: Self = Self { up_to: Level::Doubtful, min_age: Duration::ZERO };
}

impl PeerPolicy for PeersOf {
    fn needs_peers(&self, assessment: &Assessment) -> bool {
        let may_worry = peers_decide(assessment.class) && self.up_to == Level::Doubtful;
        // What the other end does may tell that short polls are old.
        let is_one_of_many = assessment.class == Class::Dialog && assessment.resolved.timeout.is_some();
        (assessment.level() <= self.up_to || may_worry)
            && (assessment.wait.age >= self.min_age || is_one_of_many)
    }
}

/// Waits of which some were resolved in the time there was.
#[derive(Debug, Default)]
pub struct Resolution {
    /// The first of them.
    pub assessments: Vec<Assessment>,
    /// Those that were not reached.
    pub missed: Vec<Wait>,
}

/// The stages of the way, with what is known of processes.
pub struct Pipeline {
    resolver: Resolver,
}

impl Pipeline {
    /// One that knows no process yet.
    pub fn new() -> Self {
        Self { resolver: Resolver::new() }
    }

    /// Who waits and what is read of it.
    pub fn resolver(&mut self) -> &mut Resolver {
        &mut self.resolver
    }

    /// The whole way, for waits in their order; `all` are the host's waits of the same moment.
    pub fn assess(
        &mut self,
        waits: Vec<Wait>,
        all: &ByProcess<'_>,
        source: &mut dyn Source,
        policy: &impl PeerPolicy,
    ) -> Result<Vec<Assessment>> {
        let mut assessments = self.resolve(waits, source)?;
        self.find_peers(&mut assessments, all, source, policy, None)?;
        self.find_circles(&mut assessments, all, source, None)?;
        Ok(assessments)
    }

    /// Finds out what waits wait on, and classes them.
    pub fn resolve(&mut self, waits: Vec<Wait>, source: &mut dyn Source) -> Result<Vec<Assessment>> {
        let (boottime_ns, after_ns) = (boottime_ns(), monotonic_ns());
        let resolved = self.resolver.resolve(&waits.iter().collect::<Vec<_>>(), source)?;
        let between = Collected { after_ns, before_ns: monotonic_ns() };
        let is_of_snapshot = source.looks_up_as_of_snapshot();
        let assess = |(mut wait, resolved): (Wait, Resolved)| {
            let collected = if is_of_snapshot { Collected::at(wait.seen_ns()) } else { between };
            date(&mut wait, &resolved, collected, boottime_ns);
            let class = classify(&wait, &resolved);
            Assessment { wait, resolved, class }
        };
        Ok(waits.into_iter().zip(resolved).map(assess).collect())
    }

    /// The same for as many of them, from the first on, as there is time for.
    pub fn resolve_within(
        &mut self,
        time: Duration,
        mut waits: Vec<Wait>,
        source: &mut dyn Source,
    ) -> Result<Resolution> {
        let mut batches = Batches::new(time);
        let mut assessments = Vec::with_capacity(waits.len());
        loop {
            let number = batches.next(waits.len());
            if number == 0 {
                return Ok(Resolution { assessments, missed: waits });
            }
            let later = waits.split_off(number);
            let begun = Instant::now();
            assessments.extend(self.resolve(waits, source)?);
            batches.took(number, begun.elapsed());
            waits = later;
        }
    }

    /// Finds out who is at the other ends of those that the policy names, and classes these anew. Those that are not
    /// reached `until` then are left without; the first few are always reached.
    pub fn find_peers(
        &mut self,
        assessments: &mut [Assessment],
        all: &ByProcess<'_>,
        source: &mut dyn Source,
        policy: &impl PeerPolicy,
        until: Option<Instant>,
    ) -> Result<()> {
        let mut asked: Vec<&mut Assessment> =
            assessments.iter_mut().filter(|assessment| policy.needs_peers(assessment)).collect();
        let mut pairs: Vec<(&Wait, &mut Resolved)> =
            asked.iter_mut().map(|assessment| (&assessment.wait, &mut assessment.resolved)).collect();
        self.resolver.find_peers(&mut pairs, all, source, until)?;
        for assessment in asked {
            date_back_to_peer(&mut assessment.wait, &assessment.resolved);
            assessment.class = classify(&assessment.wait, &assessment.resolved);
        }
        Ok(())
    }

    /// As JSON has them, in their order. Who their processes are is read together.
    pub fn objects(&mut self, assessments: &[Assessment]) -> Vec<WaitObject> {
        self.resolver.read_processes(assessments.iter().map(|assessment| assessment.wait.thread.process));
        let object =
            |assessment: &Assessment| assessment.object(&self.resolver.who(assessment.wait.thread.process));
        assessments.iter().map(object).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::verdict::tests::{on, tcp, wait},
        model::syscalls::Syscall,
    };

    #[test]
    fn the_walk_is_earned_by_level_and_age() {
        let of = |class, seconds| {
            let wait = Wait { age: Duration::from_secs(seconds), ..wait(Syscall::Read, [3, 0, 0, 0, 0, 0]) };
            Assessment { wait, resolved: on(Syscall::Read, tcp()), class }
        };
        let old = PeersOf { min_age: Duration::from_secs(5), ..PeersOf::NOT_IDLE };
        for (class, seconds, all, not_idle, not_idle_and_old) in [
            (Class::Reply, 5, true, true, true),
            (Class::Reply, 4, true, true, false),
            (Class::Pipe, 5, true, true, true),
            (Class::Futex, 5, true, true, true),
            (Class::Futex, 4, true, true, false),
            (Class::Timer, 5, true, false, false),
        ] {
            let needs =
                [PeersOf::ALL, PeersOf::NOT_IDLE, old].map(|policy| policy.needs_peers(&of(class, seconds)));
            assert_eq!(needs, [all, not_idle, not_idle_and_old], "{class:?} {seconds}");
        }
    }

    #[test]
    fn a_second_old_is_old_enough() {
        assert!(is_young(Duration::from_millis(999)));
        assert!(!is_young(LOOK_AGE_MIN));
    }
}
