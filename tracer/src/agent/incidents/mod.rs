//! The incidents that are open: one culprit and the stalls that wait for it, from when it has the first until it has none. Pure.
//!
//! More may be known of a culprit later: it waits for somebody itself. The incident then goes on with the deeper one, and is the same.
//! What is said of one is only made anew where its culprit or its stalls have changed.

#[cfg(test)]
mod tests;
mod totals;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    sync::Arc,
    time::Duration,
};

use hashbrown::HashMap;
use jiff::{Timestamp, Unit};

use self::totals::incident_of;
use crate::{
    assess::stall::{Stall, StallIdentity},
    diagnose::incidents::{CulpritNumber, Incident, IncidentChange},
    model::wait::ThreadId,
    wire::culprit::CulpritObject,
    wire::incident::{AnnouncedIncident, IncidentObject},
    wire::stall::StallIncident,
};

/// Of how much time finding what has become of them may take one part: 2 % of a core. It is done at each look as long as fewer than a
/// thousand stalls a second come and go.
const SHARE: u32 = 50;
/// How long after a start incidents that were open before may be found again, nanoseconds.
const FOUND_WITHIN_NS: u64 = 600_000_000_000;

/// One that is open.
#[derive(Debug)]
struct OpenIncident {
    object: IncidentObject,
    /// Who is to blame.
    culprit: CulpritNumber,
    /// Its stalls, ascending.
    stalls: Vec<StallIdentity>,
    /// When the wait of its oldest stall began, nanoseconds of `CLOCK_MONOTONIC`.
    began_ns: u64,
    /// What its stalls are told of it.
    told: Arc<StallIncident>,
}

/// What was found of the stalls that are open.
pub struct FoundIncidents<'a> {
    /// What has become of their culprits since the last time.
    pub changes: Vec<IncidentChange>,
    /// All of them.
    pub stalls: &'a BTreeMap<ThreadId, Stall>,
    /// How often they have changed so far.
    pub number: u64,
    /// Everything was read that tells who is to blame.
    pub is_settled: bool,
}

/// What has become of incidents.
#[derive(Debug, Default)]
pub struct IncidentChanges {
    /// Have opened.
    pub opened: Vec<IncidentObject>,
    /// Have closed: they have no stall left, or those they had are another's.
    pub closed: Vec<IncidentObject>,
    /// What stalls are to be told of the incidents that they belong to now.
    pub told: Vec<(ThreadId, Arc<StallIncident>)>,
}

/// All that are open.
#[derive(Debug)]
pub struct OpenIncidents {
    open: BTreeMap<u64, OpenIncident>,
    by_culprit: HashMap<CulpritNumber, u64>,
    /// To which of them stalls belong.
    of: HashMap<ThreadId, u64>,
    /// Those that were open when the agent last stopped and have not been found again, by the marks of their culprits.
    before: HashMap<u64, AnnouncedIncident>,
    found_until_ns: u64,
    /// Begins the ids of this agent's incidents.
    prefix: String,
    last: u64,
    /// Culprits of which not all was read that there is.
    unnamed: Vec<CulpritNumber>,
    /// How often stalls had changed when that was last done, if nothing was left to ask.
    seen: Option<u64>,
    /// When they may be found again, nanoseconds of `CLOCK_MONOTONIC`.
    not_before_ns: u64,
}

/// An incident that is new, or not as it was.
struct Changed {
    culprit: CulpritNumber,
    incident: Incident,
}

impl OpenIncidents {
    /// None, of an agent that starts now and goes on with what another one has announced.
    pub fn going_on_with(before: Vec<AnnouncedIncident>, now_ns: u64, now: Timestamp) -> Self {
        Self {
            open: BTreeMap::new(),
            by_culprit: HashMap::new(),
            of: HashMap::new(),
            before: before.into_iter().map(|before| (mark(&before.culprit), before)).collect(),
            found_until_ns: now_ns + FOUND_WITHIN_NS,
            prefix: now.as_second().to_string(),
            last: 0,
            unnamed: Vec::new(),
            seen: None,
            not_before_ns: 0,
        }
    }

    /// Whether stalls have changed since these were last found, and it is time to find them anew.
    pub fn are_due(&self, changes: u64, now_ns: u64) -> bool {
        self.seen != Some(changes) && now_ns >= self.not_before_ns
    }

    /// To find them has just taken so long: the more it is, the later that is done again.
    pub fn took(&mut self, took: Duration, now_ns: u64) {
        self.not_before_ns = now_ns + (took * SHARE).as_nanos() as u64;
    }

    /// Brings their ages up to date.
    pub fn age(&mut self, now_ns: u64) {
        self.open.values_mut().for_each(|incident| incident.object.oldest = incident.age(now_ns));
    }

    /// All of them.
    pub fn all(&self) -> Vec<&IncidentObject> {
        self.open.values().map(|incident| &incident.object).collect()
    }

    /// All of them as they are at this moment, nanoseconds of `CLOCK_MONOTONIC`.
    pub fn at(&self, now_ns: u64) -> Vec<IncidentObject> {
        self.open.values().map(|incident| incident.at(now_ns)).collect()
    }

    /// The id of the one that a stall belongs to.
    pub fn id_of(&self, stall: &ThreadId) -> Option<&str> {
        Some(self.open.get(self.of.get(stall)?)?.object.id.as_str())
    }

    /// What is to be kept over a restart.
    pub fn announced(&self) -> Vec<AnnouncedIncident> {
        let open = self.open.values().map(|OpenIncident { object, .. }| AnnouncedIncident {
            id: object.id.clone(),
            opened: object.opened,
            culprit: object.culprit.clone(),
        });
        open.chain(self.before.values().cloned()).collect()
    }

    /// Culprits of which more may be read.
    pub fn unnamed(&self) -> &[CulpritNumber] {
        &self.unnamed
    }

    /// Takes what was found of the stalls that are open now. `culprit` makes an incident's culprit as JSON has it, and says whether all
    /// that there is was read of it.
    pub fn see(
        &mut self,
        found: FoundIncidents<'_>,
        mut culprit: impl FnMut(&Incident) -> (CulpritObject, bool),
        now_ns: u64,
    ) -> IncidentChanges {
        if now_ns > self.found_until_ns {
            self.before.clear();
        }
        let now = Timestamp::now().round(Unit::Millisecond).unwrap_or_default();
        let mut changes = IncidentChanges::default();
        self.unnamed.clear();
        let (changed, mut closed) = self.sorted(found.changes);
        for (changed, number) in changed {
            let of = IncidentStalls::of(&changed.incident, found.stalls);
            if of.ids.is_empty() {
                // All have ended, which the graph has not heard of yet.
                closed.extend(number);
                continue;
            }
            let (object, is_named) = culprit(&changed.incident);
            if !is_named {
                self.unnamed.push(changed.culprit);
            }
            let before = number.and_then(|number| Some((number, self.open.remove(&number)?)));
            let (number, incident, known) = match before {
                Some((number, before)) => {
                    self.forget_culprit(&before, number);
                    self.leave(&before.stalls, &of.ids, number);
                    let (incident, known) = before.renewed(changed.culprit, object, of);
                    (number, incident, known)
                }
                None => {
                    let (number, incident, is_new) = self.begun(changed.culprit, object, of, now);
                    if is_new {
                        changes.opened.push(incident.at(now_ns));
                    }
                    (number, incident, Vec::new())
                }
            };
            for StallIdentity { thread, .. } in not_among(&incident.stalls, &known) {
                self.of.insert(thread, number);
                changes.told.push((thread, Arc::clone(&incident.told)));
            }
            self.by_culprit.insert(incident.culprit, number);
            self.open.insert(number, incident);
        }
        for number in closed {
            if let Some(open) = self.open.remove(&number) {
                self.forget_culprit(&open, number);
                self.leave(&open.stalls, &[], number);
                changes.closed.push(IncidentObject { closed: Some(now), ..open.at(now_ns) });
            }
        }
        let is_complete = found.is_settled && self.unnamed.is_empty();
        self.seen = is_complete.then_some(found.number);
        changes
    }

    /// One that is new, or was open when the agent last stopped.
    fn begun(
        &mut self,
        culprit: CulpritNumber,
        object: CulpritObject,
        of: IncidentStalls<'_>,
        now: Timestamp,
    ) -> (u64, OpenIncident, bool) {
        self.last += 1;
        let (id, opened, is_new) = match self.before.remove(&mark(&object)) {
            Some(before) => (before.id, before.opened, false),
            None => (format!("{}-{}", self.prefix, self.last), now, true),
        };
        let object = incident_of(id, opened, object, &of.stalls);
        let told = told(&object);
        (self.last, OpenIncident::new(object, culprit, told, of), is_new)
    }

    /// Which incidents have changed, each with the open one that goes on as it, those with most stalls first; and which have closed.
    fn sorted(&self, changes: Vec<IncidentChange>) -> (Vec<(Changed, Option<u64>)>, BTreeSet<u64>) {
        let mut left: BTreeSet<u64> =
            changes.iter().filter_map(|change| self.by_culprit.get(&change.number)).copied().collect();
        let changed = changes.into_iter().filter_map(|IncidentChange { number, incident }| {
            Some(Changed { culprit: number, incident: incident? })
        });
        let mut changed: Vec<Changed> = changed.collect();
        changed.sort_by_key(|Changed { incident: Incident { stalls, .. }, .. }| {
            (Reverse(stalls.len()), stalls.first().copied())
        });
        let with_number = |changed: Changed| {
            let number = self.goes_on(&changed, &left);
            number.map(|number| left.remove(&number));
            (changed, number)
        };
        (changed.into_iter().map(with_number).collect(), left)
    }

    /// Which of those that are left this one is: to which most of its stalls belonged, else whose culprit is the same.
    fn goes_on(&self, changed: &Changed, left: &BTreeSet<u64>) -> Option<u64> {
        let mut votes: BTreeMap<u64, usize> = BTreeMap::new();
        let belonged = changed.incident.stalls.iter().filter_map(|thread| self.of.get(thread));
        for number in belonged.filter(|number| left.contains(number)) {
            *votes.entry(*number).or_default() += 1;
        }
        let most = votes.into_iter().max_by_key(|(number, votes)| (*votes, Reverse(*number)));
        let same = || self.by_culprit.get(&changed.culprit).copied().filter(|number| left.contains(number));
        most.map(|(number, _)| number).or_else(same)
    }

    /// Those of these stalls that are not among the others do not belong to this incident any more.
    fn leave(&mut self, stalls: &[StallIdentity], others: &[StallIdentity], number: u64) {
        for StallIdentity { thread, .. } in not_among(stalls, others) {
            if self.of.get(&thread) == Some(&number) {
                self.of.remove(&thread);
            }
        }
    }

    fn forget_culprit(&mut self, incident: &OpenIncident, number: u64) {
        if self.by_culprit.get(&incident.culprit) == Some(&number) {
            self.by_culprit.remove(&incident.culprit);
        }
    }
}

/// The stalls of an incident.
struct IncidentStalls<'a> {
    ids: Vec<StallIdentity>,
    stalls: Vec<&'a Stall>,
}

impl<'a> IncidentStalls<'a> {
    fn of(incident: &Incident, all: &'a BTreeMap<ThreadId, Stall>) -> Self {
        let number = incident.stalls.len();
        let (mut ids, mut stalls) = (Vec::with_capacity(number), Vec::with_capacity(number));
        for thread in &incident.stalls {
            if let Some(stall) = all.get(thread) {
                ids.push(StallIdentity { thread: *thread, opened: stall.opened });
                stalls.push(stall);
            }
        }
        Self { ids, stalls }
    }
}

impl OpenIncident {
    fn new(
        object: IncidentObject,
        culprit: CulpritNumber,
        told: Arc<StallIncident>,
        IncidentStalls { ids, stalls }: IncidentStalls<'_>,
    ) -> Self {
        let began_ns = stalls.iter().map(|stall| stall.wait.began_ns).min().unwrap_or_default();
        Self { object, culprit, stalls: ids, began_ns, told }
    }

    /// The same as it is now, and those of its stalls that have been told so.
    fn renewed(
        self,
        culprit: CulpritNumber,
        object: CulpritObject,
        of: IncidentStalls<'_>,
    ) -> (Self, Vec<StallIdentity>) {
        let object = keep_script(object, &self.object.culprit);
        let object = incident_of(self.object.id, self.object.opened, object, &of.stalls);
        let (told, known) = match self.told.name == object.name {
            true => (self.told, self.stalls),
            false => (told(&object), Vec::new()),
        };
        (Self::new(object, culprit, told, of), known)
    }

    fn age(&self, now_ns: u64) -> Duration {
        Duration::from_nanos(now_ns.saturating_sub(self.began_ns))
    }

    fn at(&self, now_ns: u64) -> IncidentObject {
        IncidentObject { oldest: self.age(now_ns), ..self.object.clone() }
    }
}

/// Those of these that are not among the others; both ascend.
fn not_among(stalls: &[StallIdentity], others: &[StallIdentity]) -> impl Iterator<Item = StallIdentity> {
    let mut others = others.iter().peekable();
    stalls.iter().copied().filter(move |stall| {
        while others.next_if(|other| *other < stall).is_some() {}
        others.peek() != Some(&stall)
    })
}

fn told(object: &IncidentObject) -> Arc<StallIncident> {
    Arc::new(StallIncident { id: object.id.clone(), name: object.name.clone() })
}

/// What the culprit runs was known before and may not be read each time: the name is a label of metrics.
fn keep_script(culprit: CulpritObject, before: &CulpritObject) -> CulpritObject {
    let script =
        culprit.script.clone().or_else(|| before.script.clone().filter(|_| before.key() == culprit.key()));
    CulpritObject { script, ..culprit }
}

/// What tells a culprit from others, as a number.
fn mark(culprit: &CulpritObject) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(culprit.key())
}
