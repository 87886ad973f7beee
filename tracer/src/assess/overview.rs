//! All waits of the host again and again, at the cost of what has changed: a wait that goes on is looked up anew only now and
//! then. What `top` and the socket show.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use anyhow::Result;

use super::{
    families::Families,
    incidents::is_stall,
    pipeline::{Assessment, LOOK_AGE_MIN, PeersOf, Pipeline, is_young, may_be_older},
    requests::drop_doubles,
};
use crate::{
    collect::Source,
    diagnose::progress::{Collected, date},
    diagnose::verdict::classify,
    model::class::{Class, Judgement, Level},
    model::target::Target,
    model::wait::{ByProcess, ProcessId, Snapshot, ThreadId, Wait},
    resolve::{Resolved, Resolver},
    util::clock::{boottime_ns, monotonic_ns},
    wire::json::WaitObject,
};

/// What could not be read is read again after so long.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// The pipeline, with what it found out about waits that go on.
pub struct OverviewCache {
    pipeline: Pipeline,
    /// What is known of the processes of culprits.
    families: Families,
    known: HashMap<ThreadId, Known>,
}

/// A wait that was looked up.
struct Known {
    switches: u64,
    /// How old it was then: what it waits on is looked up again when it is half as old again.
    age: Duration,
    /// When that was, nanoseconds of `CLOCK_MONOTONIC`.
    at_ns: u64,
    resolved: Resolved,
    class: Class,
}

/// All waits of a moment.
#[derive(Clone, Debug, Default)]
pub struct Overview {
    /// Those that are shown, in no order.
    pub waits: Vec<WaitObject>,
    /// How many there are of each class, shown or not.
    pub classes: BTreeMap<Class, usize>,
}

impl Overview {
    /// Takes back that a wait was counted.
    fn counts_no_more(&mut self, class: Class) {
        if let Some(number) = self.classes.get_mut(&class) {
            *number -= 1;
        }
    }

    /// Counts a wait; whether it is of the level or a worse one, and shown as well. So are all that stand in a deadlock, which some of
    /// them only rest in.
    fn shows(&mut self, class: Class, resolved: &Resolved, up_to: Level) -> bool {
        *self.classes.entry(class).or_default() += 1;
        Judgement { class, is_deadlock: resolved.is_deadlock() }.level() <= up_to
    }
}

impl OverviewCache {
    /// One that has seen nothing yet.
    pub fn new() -> Self {
        Self { pipeline: Pipeline::new(), families: Families::default(), known: HashMap::new() }
    }

    /// The waits of a snapshot that are `wanted`; those that worry less than `up_to` are only counted.
    pub fn see(
        &mut self,
        snapshot: &Snapshot,
        source: &mut dyn Source,
        up_to: Level,
        wanted: impl Fn(&Wait) -> bool,
    ) -> Result<Overview> {
        let (now_ns, boottime_ns) = (monotonic_ns(), boottime_ns());
        let mut overview = Overview::default();
        let (mut shown, mut fresh) = (Vec::new(), Vec::new());
        for wait in snapshot.waits.iter().filter(|wait| wanted(wait)) {
            match self.known.get(&wait.thread) {
                Some(known) if known.is_of(wait) => {
                    if overview.shows(known.class, &known.resolved, up_to) {
                        shown.push(known.assessment(wait, now_ns, boottime_ns));
                    }
                }
                _ if is_young(wait.asleep()) && !may_be_older(wait) => {
                    let resolved = Resolver::by_record_alone(wait);
                    let class = classify(wait, &resolved);
                    if overview.shows(class, &resolved, up_to) {
                        shown.push(Assessment { wait: wait.clone(), resolved, class });
                    }
                }
                _ => fresh.push(wait.clone()),
            }
        }
        let all = ByProcess::new(&snapshot.waits);
        for assessment in self.pipeline.assess(fresh, &all, source, &PeersOf::NOT_IDLE)? {
            self.known.insert(assessment.wait.thread, Known::new(&assessment, now_ns));
            if overview.shows(assessment.class, &assessment.resolved, up_to) {
                shown.push(assessment);
            }
        }
        for double in drop_doubles(&mut shown) {
            overview.counts_no_more(double.class);
        }
        self.families.again();
        let mut culprits = self.pipeline.culprits_among(&shown, is_stall, &all, &mut self.families);
        overview.waits = self.pipeline.objects(&shown);
        for (of, wait) in shown.iter().zip(&mut overview.waits) {
            wait.culprit = culprits.remove(&of.wait.thread).map(Box::new);
        }
        self.forget_others(snapshot);
        Ok(overview)
    }

    /// Threads that do not wait any more.
    fn forget_others(&mut self, snapshot: &Snapshot) {
        let alive: HashSet<ThreadId> = snapshot.waits.iter().map(|wait| wait.thread).collect();
        self.known.retain(|thread, _| alive.contains(thread));
        let processes: HashSet<ProcessId> = alive.iter().map(|thread| thread.process).collect();
        self.pipeline.resolver().retain(|process| processes.contains(process));
    }
}

impl Known {
    fn new(Assessment { wait, resolved, class }: &Assessment, at_ns: u64) -> Self {
        let age = wait.asleep().max(LOOK_AGE_MIN);
        Self { switches: wait.switches, age, at_ns, resolved: resolved.clone(), class: *class }
    }

    /// Whether it still tells what that wait waits on. What could not be read then may be readable a moment later.
    fn is_of(&self, wait: &Wait) -> bool {
        let until = match self.resolved.target {
            Target::Unreadable { .. } => (self.age + READ_AGAIN_AFTER).min(self.age * 3 / 2),
            _ => self.age * 3 / 2,
        };
        self.switches == wait.switches && wait.asleep() < until
    }

    /// As of now, nothing having moved meanwhile.
    fn assessment(&self, wait: &Wait, now_ns: u64, boottime_ns: u64) -> Assessment {
        let (mut wait, mut resolved) = (wait.clone(), self.resolved.clone());
        resolved.grow_older(Duration::from_nanos(now_ns.saturating_sub(self.at_ns)));
        date(&mut wait, &resolved, Collected::at(now_ns), boottime_ns);
        Assessment { wait, resolved, class: self.class }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::verdict::tests::{on, tcp, wait},
        model::syscalls::Syscall,
        resolve::peers::Peers,
    };

    #[test]
    fn what_is_known_holds_while_the_sleep_lasts_and_until_it_is_half_as_old_again() {
        let at = |seconds, switches| Wait {
            age: Duration::from_secs(seconds),
            switches,
            ..wait(Syscall::Read, [3, 0, 0, 0, 0, 0])
        };
        let known = |seconds| {
            let assessment =
                Assessment { wait: at(seconds, 7), resolved: on(Syscall::Read, tcp()), class: Class::Reply };
            Known::new(&assessment, 0)
        };
        assert!(known(20).is_of(&at(29, 7)));
        assert!(!known(20).is_of(&at(30, 7)));
        assert!(!known(20).is_of(&at(21, 8)), "another sleep");
        assert!(!known(0).is_of(&at(2, 7)), "a young one is taken for a second old");
        let unread = on(Syscall::Read, Target::Unreadable { reason: "it hangs".into() });
        let known = Known::new(&Assessment { wait: at(20, 7), resolved: unread, class: Class::Other }, 0);
        assert!(known.is_of(&at(21, 7)) && !known.is_of(&at(22, 7)), "it is tried again");
    }

    #[test]
    fn what_worries_less_is_only_counted() {
        let mut overview = Overview::default();
        let shown =
            [(Class::Reply, Level::Doubtful), (Class::Futex, Level::Doubtful), (Class::Futex, Level::Idle)]
                .map(|(class, up_to)| overview.shows(class, &on(Syscall::Read, tcp()), up_to));
        assert_eq!(shown, [true, false, true]);
        assert_eq!(overview.classes, BTreeMap::from([(Class::Reply, 1), (Class::Futex, 2)]));
        // Who rests in a deadlock is part of it.
        let circle = Peers { circle: true, ..Peers::default() };
        let resolved = Resolved { peers: Some(circle), ..on(Syscall::Wait4, Target::None) };
        assert!(overview.shows(Class::Child, &resolved, Level::Doubtful));
    }
}
