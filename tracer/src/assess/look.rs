//! One look at the host without a memory of earlier ones: waits with their targets, true ages and verdicts. What
//! `ps` and `why` show.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use anyhow::Result;

use crate::{
    collect::Source,
    diagnose::progress::date_back,
    diagnose::verdict::{self, Verdict},
    model::class::{Class, Level},
    model::syscalls::{Way, way},
    model::wait::{ByProcess, ProcessId, Snapshot, SocketFacts, ThreadId, Wait},
    resolve::{Resolved, Resolver, epoll::is_epoll, poll::is_set},
    util::clock::{boottime_ns, monotonic_ns},
    wire::json::WaitObject,
};

/// A wait with everything that was found out about it.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The wait, dated back to its last progress.
    pub wait: Wait,
    /// What it waits on.
    pub resolved: Resolved,
    /// What to think of it.
    pub verdict: Verdict,
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

/// Whether the present sleep may be one of many: short polls again and again, or a read that was interrupted.
pub fn may_be_older(wait: &Wait) -> bool {
    is_set(wait.call.name)
        || is_epoll(wait.call.name)
        || matches!(wait.socket, SocketFacts::Tcp(_)) && way(wait.call.name) == Way::In
}

/// Judges waits, in their order; `all` are the host's waits of the same moment. Who is at the other end, which costs a
/// walk over all open files, is looked up for those that `weigh` names.
pub fn judge(
    mut waits: Vec<Wait>,
    all: &ByProcess<'_>,
    resolver: &mut Resolver,
    source: &mut dyn Source,
    weigh: impl Fn(&Wait, Class) -> bool,
) -> Result<Vec<Judged>> {
    let (now, boottime) = (monotonic_ns(), boottime_ns());
    let mut resolved = resolver.resolve(&waits.iter().collect::<Vec<_>>(), source)?;
    let mut weighed = Vec::with_capacity(waits.len());
    for (wait, resolved) in waits.iter_mut().zip(&resolved) {
        date_back(wait, resolved, now, boottime);
        weighed.push(weigh(wait, verdict::classify(wait, resolved)));
    }
    let mut pairs: Vec<(&Wait, &mut Resolved)> = waits
        .iter()
        .zip(&mut resolved)
        .zip(&weighed)
        .filter(|(_, weighed)| **weighed)
        .map(|(pair, _)| pair)
        .collect();
    resolver.find_peers(&mut pairs, all, source, None)?;
    Ok(waits
        .into_iter()
        .zip(resolved)
        .map(|(wait, resolved)| {
            let verdict = verdict::judge(&wait, &resolved);
            Judged { wait, resolved, verdict }
        })
        .collect())
}

/// Looks again and again, at the cost of what has changed: a wait that goes on is looked up anew only now and then.
pub struct Lookout {
    resolver: Resolver,
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
pub struct Sight {
    /// Those that are shown, in no order.
    pub waits: Vec<WaitObject>,
    /// How many there are of each class, shown or not.
    pub classes: BTreeMap<Class, usize>,
}

impl Lookout {
    /// A younger wait is not looked into.
    const YOUNG: Duration = Duration::from_secs(1);

    /// One that has seen nothing yet.
    pub fn new() -> Self {
        Self { resolver: Resolver::new(), known: HashMap::new() }
    }

    /// The waits of a snapshot that are `wanted`; idle ones are only counted unless `idle`.
    pub fn see(
        &mut self,
        snapshot: &Snapshot,
        source: &mut dyn Source,
        idle: bool,
        wanted: impl Fn(&Wait) -> bool,
    ) -> Result<Sight> {
        let now = (monotonic_ns(), boottime_ns());
        let mut sight = Sight::default();
        let mut fresh: Vec<Wait> = Vec::new();
        for wait in snapshot.waits.iter().filter(|wait| wanted(wait)) {
            match self.known.get(&wait.thread) {
                Some(known) if known.switches == wait.switches && wait.asleep() < known.age * 3 / 2 => {
                    if shown(&mut sight, known.class, idle) {
                        let (mut wait, mut resolved) = (wait.clone(), known.resolved.clone());
                        resolved.grow_older(Duration::from_nanos(now.0.saturating_sub(known.at_ns)));
                        date_back(&mut wait, &resolved, now.0, now.1);
                        sight.waits.push(object(&mut self.resolver, &wait, &resolved, known.class));
                    }
                }
                _ if wait.asleep() < Self::YOUNG && !may_be_older(wait) => {
                    let resolved = Resolver::sketch(wait);
                    let class = verdict::classify(wait, &resolved);
                    if shown(&mut sight, class, idle) {
                        sight.waits.push(object(&mut self.resolver, wait, &resolved, class));
                    }
                }
                _ => fresh.push(wait.clone()),
            }
        }
        let weigh = |_: &Wait, class: Class| class.level() != Level::Idle;
        let judged = judge(fresh, &ByProcess::new(&snapshot.waits), &mut self.resolver, source, weigh)?;
        let is_shown = |judged: &&Judged| idle || judged.verdict.class.level() != Level::Idle;
        self.resolver.meet(judged.iter().filter(is_shown).map(|judged| judged.wait.thread.process));
        for Judged { wait, resolved, verdict } in judged {
            let class = verdict.class;
            if shown(&mut sight, class, idle) {
                let who = self.resolver.who(wait.thread.process);
                sight.waits.push(WaitObject::new(&wait, &resolved, &verdict, &who));
            }
            let age = wait.asleep().max(Self::YOUNG);
            self.known
                .insert(wait.thread, Known { switches: wait.switches, age, at_ns: now.0, resolved, class });
        }
        let alive: HashSet<ThreadId> = snapshot.waits.iter().map(|wait| wait.thread).collect();
        self.known.retain(|thread, _| alive.contains(thread));
        let processes: HashSet<ProcessId> = alive.iter().map(|thread| thread.process).collect();
        self.resolver.retain(|process| processes.contains(process));
        Ok(sight)
    }
}

/// Counts a wait; whether it is shown as well.
fn shown(sight: &mut Sight, class: Class, idle: bool) -> bool {
    *sight.classes.entry(class).or_default() += 1;
    idle || class.level() != Level::Idle
}

fn object(resolver: &mut Resolver, wait: &Wait, resolved: &Resolved, class: Class) -> WaitObject {
    let who = resolver.who(wait.thread.process);
    let sentence = crate::diagnose::sentence::sentence(class, wait, resolved);
    WaitObject::new(wait, resolved, &Verdict { class, sentence }, &who)
}
