//! Which waits have one cause? Each is followed over those who are stuck themselves to whom nobody but itself holds up. Pure.
//!
//! A wait is due to one culprit. Where that is a process that is stuck in turn, one of its waits is followed, so that each wait leads to one
//! other at most. The way ends at a culprit that goes on or cannot be followed, or in a circle.
//!
//! Waits come and go by ones while thousands stay: only those are followed anew whose way leads by one that has come or gone.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    mem,
    ops::Bound::{Excluded, Included, Unbounded},
};

use hashbrown::{HashMap, HashSet};

use super::culprit::{Blame, CircleMember, Culprit};
use crate::model::wait::{ProcessId, ThreadId};

/// A process asks because it was asked: its own wait begins no earlier than that of who asked, as far as the stamps of two connections can
/// tell. A tick of the slowest kernel and a bit.
const STAMPS_DIFFER_NS: u64 = 20_000_000;

/// A wait, with whom it is due to.
#[derive(Clone, Debug)]
pub struct BlamedWait {
    /// Who waits.
    pub thread: ThreadId,
    /// Since when, nanoseconds of `CLOCK_MONOTONIC`.
    pub began_ns: u64,
    /// Whether who waits for its process waits for this, as for any wait that is stuck.
    pub is_stuck: bool,
    /// Whether it stands in a circle that nobody can leave.
    pub is_deadlock: bool,
    /// Whether it is to be in an incident; others are only followed.
    pub is_stall: bool,
    /// To whom it is due.
    pub blame: Blame,
    /// The process for which that one waits as its only child, and does nothing else: it is followed where it is stuck.
    pub heir: Option<CircleMember>,
}

impl BlamedWait {
    /// The heir, by its pid. Nobody is followed to itself.
    fn heir_pid(&self) -> Option<u32> {
        self.heir.as_ref().map(|heir| heir.pid).filter(|pid| *pid != self.thread.process.pid)
    }

    /// Who may be followed from it.
    fn parties(&self) -> impl Iterator<Item = ChainParty> {
        self.heir_pid().map(ChainParty::Process).into_iter().chain(ChainParty::of(self))
    }
}

/// A culprit and all that waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// Where all ways end.
    pub culprit: Culprit,
    /// How many others it may be as well.
    pub more: usize,
    /// It is known that it is they; otherwise it is only likely.
    pub certain: bool,
    /// Its stalls, ascending.
    pub stalls: Vec<ThreadId>,
}

/// The number of a culprit while anything waits for it.
pub type CulpritNumber = u64;

/// What has become of a culprit: the incident that it is now, or none any more.
#[derive(Debug, PartialEq, Eq)]
pub struct IncidentChange {
    /// Which one.
    pub number: CulpritNumber,
    /// As it is now.
    pub incident: Option<Incident>,
}

/// Whom waits may be followed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ChainParty {
    Process(u32),
    Thread(u32),
}

impl ChainParty {
    /// Whom a wait is due to, if that one may wait itself.
    fn of(wait: &BlamedWait) -> Option<Self> {
        match &wait.blame.culprit {
            // Which of its own threads it waits for is not known.
            Culprit::Process { pid, .. } if *pid == wait.thread.process.pid => None,
            Culprit::Process { pid, .. } => Some(ChainParty::Process(*pid)),
            Culprit::Thread { tid, .. } => Some(ChainParty::Thread(*tid)),
            _ => None,
        }
    }
}

/// Where the way from a wait ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChainEnd {
    /// At this wait, which leads to no other.
    At(ThreadId),
    /// In the circle in which this wait stands: of one circle always the same.
    Circle(ThreadId),
}

/// A wait in the graph.
#[derive(Debug)]
struct Node {
    wait: BlamedWait,
    /// The one that it leads to.
    next: Option<ThreadId>,
    /// Those that lead to it.
    before: HashSet<ThreadId>,
    /// Where its way ends, once that is known.
    end: Option<ChainEnd>,
    /// The culprit in whose incident it is.
    number: Option<CulpritNumber>,
    /// The last walk that has come by.
    met: u64,
}

/// A culprit with its stalls.
#[derive(Debug)]
struct Group {
    culprit: Culprit,
    stalls: BTreeSet<ThreadId>,
}

/// Waits, each with whom it is due to, and the incidents that they are.
#[derive(Debug, Default)]
pub struct IncidentGraph {
    nodes: HashMap<ThreadId, Node>,
    stuck: ByStart,
    deadlocked: ByStart,
    /// Threads that are stuck, by their ids.
    threads: HashMap<u32, ThreadId>,
    /// Who waits for whom.
    due_to: HashMap<ChainParty, HashSet<ThreadId>>,
    groups: HashMap<CulpritNumber, Group>,
    numbers: HashMap<Culprit, CulpritNumber>,
    last: CulpritNumber,
    walks: u64,
    /// Those who have begun or ceased to wait since the last time: who waits for them leads elsewhere by now.
    touched: HashSet<ChainParty>,
    /// Waits that are new since then.
    new: Vec<ThreadId>,
    /// Culprits whose stalls are not what they were.
    changed: HashSet<CulpritNumber>,
}

impl IncidentGraph {
    /// One with room for so many waits.
    pub fn with_capacity(waits: usize) -> Self {
        Self { nodes: HashMap::with_capacity(waits), ..Self::default() }
    }

    /// Adds a wait, or puts it in the place of the one that its thread had.
    pub fn insert(&mut self, wait: BlamedWait) {
        self.remove(&wait.thread);
        let thread = wait.thread;
        self.touch(&wait, true);
        for party in wait.parties() {
            self.due_to.entry(party).or_default().insert(thread);
        }
        let node = Node { wait, next: None, before: HashSet::new(), end: None, number: None, met: 0 };
        self.nodes.insert(thread, node);
        self.new.push(thread);
    }

    /// Takes away the wait of a thread, if it has one.
    pub fn remove(&mut self, thread: &ThreadId) {
        let Some(Node { wait, next, before, number, .. }) = self.nodes.remove(thread) else { return };
        for thread in before {
            if let Some(before) = self.nodes.get_mut(&thread) {
                (before.next, before.end) = (None, None);
            }
        }
        self.touch(&wait, false);
        for party in wait.parties() {
            let Some(due) = self.due_to.get_mut(&party) else { continue };
            due.remove(thread);
            if due.is_empty() {
                self.due_to.remove(&party);
            }
        }
        if let Some(next) = next.and_then(|next| self.nodes.get_mut(&next)) {
            next.before.remove(thread);
        }
        self.leave(number, thread);
    }

    /// A stuck wait has come or gone.
    fn touch(&mut self, wait: &BlamedWait, is_new: bool) {
        if !(wait.is_stuck || wait.is_deadlock) {
            return;
        }
        let ThreadId { process: ProcessId { pid, .. }, tid, .. } = wait.thread;
        self.stuck.set(wait, is_new);
        if wait.is_deadlock {
            self.deadlocked.set(wait, is_new);
        }
        self.touched.insert(ChainParty::Process(pid));
        if wait.thread.is_request() {
            return;
        }
        self.touched.insert(ChainParty::Thread(tid));
        if is_new {
            self.threads.insert(tid, wait.thread);
        } else if self.threads.get(&tid) == Some(&wait.thread) {
            self.threads.remove(&tid);
        }
    }

    /// A stall is in this incident no more.
    fn leave(&mut self, number: Option<CulpritNumber>, thread: &ThreadId) {
        let Some(number) = number else { return };
        if let Some(group) = self.groups.get_mut(&number) {
            group.stalls.remove(thread);
        }
        self.changed.insert(number);
    }

    /// Tells of this culprit once more, though nothing may have changed.
    pub fn mark_changed(&mut self, number: CulpritNumber) {
        self.changed.insert(number);
    }

    /// To whom a thread's wait is due itself.
    pub fn blame(&self, thread: &ThreadId) -> Option<&Blame> {
        self.nodes.get(thread).map(|node| &node.wait.blame)
    }

    /// The child, or child's child, of whom a thread waits for, by way of which it is followed.
    pub fn heir(&self, thread: &ThreadId) -> Option<&CircleMember> {
        let node = self.nodes.get(thread)?;
        let next = node.next?.process.pid;
        node.wait.heir.as_ref().filter(|heir| heir.pid == next)
    }

    /// What has become of incidents since the last time, by the numbers of their culprits.
    pub fn take_changes(&mut self) -> Vec<IncidentChange> {
        let affected = self.affected();
        for thread in &affected {
            self.find_end(*thread);
        }
        let mut circles = HashMap::new();
        for thread in affected {
            self.assign(thread, &mut circles);
        }
        let mut changed: Vec<CulpritNumber> = mem::take(&mut self.changed).into_iter().collect();
        changed.sort_unstable();
        changed.into_iter().map(|number| IncidentChange { number, incident: self.incident(number) }).collect()
    }

    /// Leads those on whose next one may be another by now, and says of which waits the end is not known any more.
    fn affected(&mut self) -> Vec<ThreadId> {
        let mut may_turn = mem::take(&mut self.new);
        for party in mem::take(&mut self.touched) {
            may_turn.extend(self.due_to.get(&party).into_iter().flatten());
        }
        let visit = self.begin_walk();
        let mut way = Vec::with_capacity(may_turn.len());
        for thread in may_turn {
            let Some(node) = self.nodes.get_mut(&thread) else { continue };
            if mem::replace(&mut node.met, visit) == visit {
                continue;
            }
            let Some(node) = self.nodes.get(&thread) else { continue };
            let (before, next) = (node.next, self.follow(&node.wait));
            // One that is new, or whose next one has gone, has no end yet.
            if before != next || node.end.is_none() {
                self.lead(thread, before, next);
                way.push(thread);
            }
        }
        // All that lead there.
        let visit = self.begin_walk();
        let mut affected = Vec::with_capacity(way.len());
        while let Some(thread) = way.pop() {
            if let Some(node) = self.nodes.get_mut(&thread)
                && mem::replace(&mut node.met, visit) != visit
            {
                node.end = None;
                affected.push(thread);
                way.extend(&node.before);
            }
        }
        affected.sort_unstable();
        affected
    }

    /// A number that no node has met yet.
    fn begin_walk(&mut self) -> u64 {
        self.walks += 1;
        self.walks
    }

    /// The wait that is followed from this one, if the one that it is due to is stuck.
    fn follow(&self, wait: &BlamedWait) -> Option<ThreadId> {
        let direct = match ChainParty::of(wait) {
            // A deadlock is not left by another wait of its members.
            Some(ChainParty::Process(pid)) => {
                let in_deadlock =
                    if wait.is_deadlock { self.deadlocked.nearest(pid, wait.began_ns) } else { None };
                in_deadlock.or_else(|| self.stuck.nearest(pid, wait.began_ns))
            }
            Some(ChainParty::Thread(tid)) => self.threads.get(&tid).copied(),
            None => None,
        };
        direct.or_else(|| self.stuck.nearest(wait.heir_pid()?, wait.began_ns))
    }

    fn lead(&mut self, thread: ThreadId, before: Option<ThreadId>, next: Option<ThreadId>) {
        if before == next {
            return;
        }
        if let Some(before) = before.and_then(|before| self.nodes.get_mut(&before)) {
            before.before.remove(&thread);
        }
        if let Some(next) = next.and_then(|next| self.nodes.get_mut(&next)) {
            next.before.insert(thread);
        }
        if let Some(node) = self.nodes.get_mut(&thread) {
            node.next = next;
        }
    }

    /// Finds where the way from a wait ends, and with it the end of all on the way: each is visited once.
    fn find_end(&mut self, start: ThreadId) {
        let walk = self.begin_walk();
        let mut way = Vec::new();
        let mut at = start;
        let end = loop {
            let Some(node) = self.nodes.get_mut(&at) else { return };
            if let Some(end) = node.end {
                break end;
            }
            if mem::replace(&mut node.met, walk) == walk {
                let circle =
                    way.iter().position(|on_way| *on_way == at).map_or(&way[..], |from| &way[from..]);
                break ChainEnd::Circle(circle.iter().copied().min().unwrap_or(at));
            }
            way.push(at);
            match node.next {
                Some(next) => at = next,
                None => break ChainEnd::At(at),
            }
        };
        for thread in way {
            if let Some(node) = self.nodes.get_mut(&thread) {
                node.end = Some(end);
            }
        }
    }

    /// Puts a stall into the incident of its culprit. `circles` are those that have been met.
    fn assign(&mut self, thread: ThreadId, circles: &mut HashMap<ThreadId, CulpritNumber>) {
        let Some(node) = self.nodes.get(&thread) else { return };
        let before = node.number;
        let number = match node.end {
            Some(_) if !node.wait.is_stall => None,
            None => None,
            Some(ChainEnd::Circle(first)) => Some(match circles.get(&first) {
                Some(number) => *number,
                None => {
                    let number = self.number(&self.circle(first));
                    circles.insert(first, number);
                    number
                }
            }),
            Some(ChainEnd::At(last)) => {
                let culprit = &self.cause(node, last).culprit;
                Some(match self.numbers.get(culprit) {
                    Some(number) => *number,
                    None => self.number(&culprit.clone()),
                })
            }
        };
        if before != number {
            self.leave(before, &thread);
        }
        // How sure it is may have changed even where the culprit has not.
        if let Some(number) = number {
            self.changed.insert(number);
            if let Some(group) = self.groups.get_mut(&number) {
                group.stalls.insert(thread);
            }
        }
        if let Some(node) = self.nodes.get_mut(&thread) {
            node.number = number;
        }
    }

    /// A culprit's number, which it has from now on.
    fn number(&mut self, culprit: &Culprit) -> CulpritNumber {
        if let Some(number) = self.numbers.get(culprit) {
            return *number;
        }
        self.last += 1;
        self.numbers.insert(culprit.clone(), self.last);
        self.groups.insert(self.last, Group { culprit: culprit.clone(), stalls: BTreeSet::new() });
        self.last
    }

    /// What a wait is due to, whose way ends at another. A process does not hold itself up by way of its own client: a server waits for
    /// the rest of a request, which the client thinks it has sent.
    fn cause<'a>(&'a self, node: &'a Node, last: ThreadId) -> &'a Blame {
        let own = node.wait.thread.process.pid;
        let blame = self.nodes.get(&last).map_or(&node.wait.blame, |last| &last.wait.blame);
        match &blame.culprit {
            Culprit::Process { pid, .. } if *pid == own => &node.wait.blame,
            _ => blame,
        }
    }

    /// The circle in which this wait stands: those whom its waits are due to.
    fn circle(&self, first: ThreadId) -> Culprit {
        let mut members: BTreeSet<CircleMember> = BTreeSet::new();
        let mut is_deadlock = true;
        let mut at = Some(first);
        while let Some(node) = at.and_then(|at| self.nodes.get(&at)) {
            is_deadlock &= node.wait.is_deadlock;
            let due = match &node.wait.blame.culprit {
                Culprit::Process { pid, comm } => {
                    Some(CircleMember { pid: *pid, tid: None, comm: comm.clone() })
                }
                Culprit::Thread { pid, tid, comm } => {
                    Some(CircleMember { pid: *pid, tid: Some(*tid), comm: comm.clone() })
                }
                _ => None,
            };
            // Its parent only waits for it.
            members.extend(self.heir(&node.wait.thread).cloned().or(due));
            at = node.next.filter(|next| *next != first);
        }
        Culprit::Circle { members: members.into_iter().collect(), is_deadlock }
    }

    /// The incident of a culprit; one for which nobody waits any more is forgotten.
    fn incident(&mut self, number: CulpritNumber) -> Option<Incident> {
        let group = self.groups.get(&number)?;
        if group.stalls.is_empty() {
            self.numbers.remove(&group.culprit);
            self.groups.remove(&number);
            return None;
        }
        let stalls: Vec<ThreadId> = group.stalls.iter().copied().collect();
        let mut incident = Incident { culprit: group.culprit.clone(), more: 0, certain: false, stalls };
        for node in incident.stalls.iter().filter_map(|thread| self.nodes.get(thread)) {
            match node.end {
                Some(ChainEnd::At(last)) => {
                    let blame = self.cause(node, last);
                    incident.more = incident.more.max(blame.more);
                    incident.certain |= blame.certain;
                }
                _ => incident.certain = true,
            }
        }
        Some(incident)
    }
}

/// Waits of processes: pid, when it began, and who waits.
#[derive(Debug, Default)]
struct ByStart(BTreeSet<(u32, u64, ThreadId)>);

impl ByStart {
    fn set(&mut self, wait: &BlamedWait, is_there: bool) {
        let key = (wait.thread.process.pid, wait.began_ns, wait.thread);
        match is_there {
            true => self.0.insert(key),
            false => self.0.remove(&key),
        };
    }

    /// The wait of a process that began nearest to this moment and not before it, as far as stamps tell; else its oldest.
    fn nearest(&self, of: u32, to_ns: u64) -> Option<ThreadId> {
        let is_its = |wait: &&(u32, u64, ThreadId)| wait.0 == of;
        let distance = |(_, began_ns, _): &&(u32, u64, ThreadId)| began_ns.abs_diff(to_ns);
        let least = ThreadId { process: ProcessId { pid: 0, start_ns: 0 }, tid: 0, start_ns: 0 };
        let moment = (of, to_ns, least);
        let after = self.0.range((Included(moment), Unbounded)).next().filter(is_its);
        let before = self.0.range((Unbounded, Excluded(moment))).next_back().filter(is_its);
        let before = before.filter(|before| distance(before) <= STAMPS_DIFFER_NS);
        let nearest = before.into_iter().chain(after).min_by_key(distance);
        let oldest = || self.0.range((Included((of, 0, least)), Unbounded)).next().filter(is_its);
        nearest.or_else(oldest).map(|(.., thread)| *thread)
    }
}
