//! The incidents that are open: one culprit and the stalls that wait for it, from when it has the first until it has none. Pure.
//!
//! More may be known of a culprit later: it waits for somebody itself. The incident then goes on with the deeper one, and is the same.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashSet},
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    sync::Arc,
    time::Duration,
};

use hashbrown::HashMap;
use jiff::{Timestamp, Unit};

use crate::{
    assess::stall::Stall,
    model::cgroup::Owner,
    model::wait::ThreadId,
    util::human,
    wire::culprit::{CulpritKind, CulpritObject},
    wire::incident::{AnnouncedIncident, IncidentObject, SharedStackObject},
    wire::stall::StallIncident,
};

/// Of how much time finding them anew may take one part: 0.5 % of a core.
const SHARE: u32 = 200;
/// Functions that tell one place in a program from others.
const PLACE_FRAMES: usize = 3;
/// Places of an incident that are told.
const PLACES_MAX: usize = 3;
/// How long after a start incidents that were open before may be found again, nanoseconds.
const FOUND_WITHIN_NS: u64 = 600_000_000_000;

/// One that is open.
#[derive(Debug)]
struct OpenIncident {
    object: IncidentObject,
    /// When the wait of its oldest stall began, nanoseconds of `CLOCK_MONOTONIC`.
    began_ns: u64,
    /// What its stalls are told of it.
    told: Arc<StallIncident>,
}

/// What has become of incidents.
#[derive(Debug, Default)]
pub struct IncidentChanges {
    /// Have opened.
    pub opened: Vec<IncidentObject>,
    /// Have closed: they have no stall left, or those they had are another's.
    pub closed: Vec<IncidentObject>,
}

/// All that are open.
#[derive(Debug)]
pub struct OpenIncidents {
    open: BTreeMap<u64, OpenIncident>,
    /// To which of them stalls belong.
    of: HashMap<ThreadId, u64>,
    /// Those that were open when the agent last stopped and have not been found again, by the marks of their culprits.
    before: HashMap<u64, AnnouncedIncident>,
    found_until_ns: u64,
    /// Begins the ids of this agent's incidents.
    prefix: String,
    last: u64,
    /// How often stalls had changed when these were last seen.
    seen: Option<u64>,
    /// When they may be seen again, nanoseconds of `CLOCK_MONOTONIC`.
    not_before_ns: u64,
}

/// Stalls of one culprit.
struct Group {
    culprit: CulpritObject,
    stalls: Vec<ThreadId>,
}

impl Group {
    /// What the culprit runs was known before and may not be read each time: the name is a label of metrics.
    fn keep_script(&mut self, before: &CulpritObject) {
        if before.key() == self.culprit.key() && self.culprit.script.is_none() {
            self.culprit.script.clone_from(&before.script);
        }
    }
}

impl OpenIncidents {
    /// None, of an agent that starts now and goes on with what another one has announced.
    pub fn going_on_with(before: Vec<AnnouncedIncident>, now_ns: u64, now: Timestamp) -> Self {
        Self {
            open: BTreeMap::new(),
            of: HashMap::new(),
            before: before.into_iter().map(|before| (mark(&before.culprit), before)).collect(),
            found_until_ns: now_ns + FOUND_WITHIN_NS,
            prefix: now.as_second().to_string(),
            last: 0,
            seen: None,
            not_before_ns: 0,
        }
    }

    /// Whether stalls have changed since they were last seen, and it is time to see what has become of them.
    pub fn are_due(&self, changes: u64, now_ns: u64) -> bool {
        self.seen != Some(changes) && now_ns >= self.not_before_ns
    }

    /// To see them has just taken so long: the more it is, the later they are seen again.
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

    /// The id of the one that a stall belongs to.
    pub fn id_of(&self, stall: &ThreadId) -> Option<&str> {
        Some(self.open.get(self.of.get(stall)?)?.object.id.as_str())
    }

    /// What a stall is told of the one that it belongs to.
    pub fn told(&self, stall: &ThreadId) -> Option<Arc<StallIncident>> {
        Some(Arc::clone(&self.open.get(self.of.get(stall)?)?.told))
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

    /// Takes the stalls that are open now, with the culprit of each; of which there is none, it is alone. `changes` is how often they
    /// have changed so far.
    pub fn see(
        &mut self,
        culprits: HashMap<ThreadId, CulpritObject>,
        stalls: &BTreeMap<ThreadId, Stall>,
        changes: u64,
        now_ns: u64,
    ) -> IncidentChanges {
        self.seen = Some(changes);
        if now_ns > self.found_until_ns {
            self.before.clear();
        }
        let now = Timestamp::now().round(Unit::Millisecond).unwrap_or_default();
        let mut changes = IncidentChanges::default();
        let mut left = std::mem::take(&mut self.open);
        let of = std::mem::take(&mut self.of);
        let by_culprit: HashMap<u64, u64> =
            left.iter().map(|(number, of)| (mark(&of.object.culprit), *number)).collect();
        for mut group in groups(culprits) {
            let same = || by_culprit.get(&mark(&group.culprit)).copied();
            let known =
                most_voted(&group, &left, &of).or_else(same).filter(|number| left.contains_key(number));
            let number = known.unwrap_or_else(|| {
                self.last += 1;
                self.last
            });
            let (id, opened, is_new) = match left.remove(&number) {
                Some(OpenIncident { object, .. }) => {
                    group.keep_script(&object.culprit);
                    (object.id, object.opened, false)
                }
                None => match self.found_again(&group.culprit) {
                    Some(before) => (before.id, before.opened, false),
                    None => (format!("{}-{number}", self.prefix), now, true),
                },
            };
            self.of.extend(group.stalls.iter().map(|stall| (*stall, number)));
            let incident = OpenIncident::new(id, opened, group, stalls);
            if is_new {
                changes.opened.push(incident.at(now_ns));
            }
            self.open.insert(number, incident);
        }
        let closed = left.into_values().map(|left| IncidentObject { closed: Some(now), ..left.at(now_ns) });
        changes.closed.extend(closed);
        changes
    }

    /// The one that was open when the agent last stopped.
    fn found_again(&mut self, culprit: &CulpritObject) -> Option<AnnouncedIncident> {
        self.before.remove(&mark(culprit))
    }
}

impl OpenIncident {
    fn new(id: String, opened: Timestamp, group: Group, stalls: &BTreeMap<ThreadId, Stall>) -> Self {
        let of: Vec<&Stall> = group.stalls.iter().filter_map(|thread| stalls.get(thread)).collect();
        let processes: HashSet<_> = of.iter().map(|stall| stall.wait.thread.process).collect();
        let mut units = BTreeMap::new();
        for home in of.iter().filter_map(|stall| stall.who.container.as_ref().or(stall.who.unit.as_ref())) {
            *units.entry(home.clone()).or_default() += 1;
        }
        let began_ns = of.iter().map(|stall| stall.wait.began_ns).min().unwrap_or_default();
        let culprit = CulpritObject { through: None, ..group.culprit };
        let object = IncidentObject {
            id,
            opened,
            closed: None,
            name: name(&culprit, &of),
            culprit,
            stalls: group.stalls.len(),
            processes: processes.len(),
            units,
            stacks: shared_stacks(&of),
            oldest: Duration::ZERO,
            owner: most_common_owner(&of),
        };
        let told = Arc::new(StallIncident { id: object.id.clone(), name: object.name.clone() });
        Self { object, began_ns, told }
    }

    fn age(&self, now_ns: u64) -> Duration {
        Duration::from_nanos(now_ns.saturating_sub(self.began_ns))
    }

    fn at(&self, now_ns: u64) -> IncidentObject {
        IncidentObject { oldest: self.age(now_ns), ..self.object.clone() }
    }
}

/// A culprit's name; who has nobody to blame but itself is told of by its own.
fn name(culprit: &CulpritObject, stalls: &[&Stall]) -> String {
    match (culprit.kind, stalls) {
        (CulpritKind::Itself, [stall, ..]) => {
            format!("{} (pid {})", human::clean(&stall.wait.comm), stall.wait.thread.process.pid)
        }
        _ => culprit.to_string(),
    }
}

/// The places in their programs in which most of these sleep.
fn shared_stacks(stalls: &[&Stall]) -> Vec<SharedStackObject> {
    let mut places: HashMap<(&str, &[String]), usize> = HashMap::new();
    for stall in stalls.iter().filter(|stall| !stall.stack.is_empty()) {
        let stack = stall.stack.get(..PLACE_FRAMES).unwrap_or(&stall.stack);
        *places.entry((stall.wait.comm.as_str(), stack)).or_default() += 1;
    }
    let mut places: Vec<_> = places.into_iter().collect();
    places.sort_unstable_by_key(|(place, number)| (Reverse(*number), *place));
    let object = |((comm, stack), stalls): ((&str, &[String]), usize)| SharedStackObject {
        comm: comm.to_owned(),
        stack: stack.to_vec(),
        stalls,
    };
    places.into_iter().take(PLACES_MAX).map(object).collect()
}

/// On whose account most of these wait.
fn most_common_owner(stalls: &[&Stall]) -> Option<Owner> {
    let mut owners: HashMap<Result<&Owner, u32>, usize> = HashMap::new();
    for stall in stalls {
        *owners.entry(stall.share()).or_default() += 1;
    }
    let most = owners.into_iter().max_by_key(|(owner, number)| (*number, Reverse(*owner)));
    most.map(|(owner, _)| owner.map_or_else(Owner::User, Owner::clone))
}

/// By culprit, the ones with most stalls first.
fn groups(culprits: HashMap<ThreadId, CulpritObject>) -> Vec<Group> {
    let mut places = HashMap::new();
    let mut groups: Vec<(&CulpritObject, Vec<ThreadId>)> = Vec::new();
    for (thread, culprit) in &culprits {
        let place = *places.entry(culprit.key()).or_insert(groups.len());
        if place == groups.len() {
            groups.push((culprit, Vec::new()));
        }
        groups[place].1.push(*thread);
    }
    let mut groups: Vec<Group> = groups
        .into_iter()
        .map(|(culprit, mut stalls)| {
            stalls.sort_unstable();
            Group { culprit: culprit.clone(), stalls }
        })
        .collect();
    groups.sort_by_cached_key(|group| (Reverse(group.stalls.len()), group.stalls.first().copied()));
    groups
}

/// What tells a culprit from others, as a number.
fn mark(culprit: &CulpritObject) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(culprit.key())
}

/// To which of these incidents most of a group's stalls belonged.
fn most_voted(group: &Group, left: &BTreeMap<u64, OpenIncident>, of: &HashMap<ThreadId, u64>) -> Option<u64> {
    let mut votes: BTreeMap<u64, usize> = BTreeMap::new();
    let belonged = group.stalls.iter().filter_map(|stall| of.get(stall));
    for number in belonged.filter(|number| left.contains_key(number)) {
        *votes.entry(*number).or_default() += 1;
    }
    votes.into_iter().max_by_key(|(number, votes)| (*votes, Reverse(*number))).map(|(number, _)| number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{history::samples::flagged, resolve::process::ProcessMeta};

    fn of(pid: u32) -> CulpritObject {
        CulpritObject {
            pid: Some(pid),
            comm: Some("db".into()),
            ..CulpritObject::of_kind(CulpritKind::Process)
        }
    }

    fn none() -> OpenIncidents {
        OpenIncidents::going_on_with(Vec::new(), 0, Timestamp::UNIX_EPOCH)
    }

    /// Stalls of these processes, each with its culprit.
    fn see(
        incidents: &mut OpenIncidents,
        of_culprits: &[(u32, u32)],
    ) -> (Vec<(String, String, usize)>, Vec<String>) {
        let stalls: BTreeMap<ThreadId, Stall> = of_culprits
            .iter()
            .map(|(pid, _)| flagged(*pid, 10))
            .map(|stall| (stall.wait.thread, stall))
            .collect();
        let culprits = of_culprits.iter().map(|(pid, culprit)| {
            let stall = stalls.values().find(|stall| stall.wait.thread.process.pid == *pid);
            (stall.expect("there is one").wait.thread, of(*culprit))
        });
        let changes = incidents.see(culprits.collect(), &stalls, 1, 100_000_000_000);
        let opened = changes.opened.into_iter().map(|of| (of.id, of.name, of.stalls)).collect();
        (opened, changes.closed.into_iter().map(|of| of.id).collect())
    }

    fn opened(id: &str, pid: u32, stalls: usize) -> (String, String, usize) {
        (id.into(), format!("db (pid {pid})"), stalls)
    }

    #[test]
    fn one_opens_with_its_first_stalls_grows_and_closes_with_its_last() {
        let mut incidents = none();
        assert_eq!(
            see(&mut incidents, &[(1, 9), (2, 9), (3, 8)]),
            (vec![opened("0-1", 9, 2), opened("0-2", 8, 1)], vec![])
        );
        assert_eq!(see(&mut incidents, &[(1, 9), (2, 9), (4, 9), (3, 8)]), (vec![], vec![]));
        incidents.age(100_000_000_000);
        let all = incidents.all();
        assert_eq!(all.iter().map(|of| (of.stalls, of.processes)).collect::<Vec<_>>(), [(3, 3), (1, 1)]);
        assert!(all.iter().all(|of| of.oldest > Duration::ZERO));
        assert_eq!(see(&mut incidents, &[(4, 9)]), (vec![], vec!["0-2".into()]));
        assert_eq!(see(&mut incidents, &[]), (vec![], vec!["0-1".into()]));
        assert_eq!(see(&mut incidents, &[(1, 9)]).0, [opened("0-3", 9, 1)], "it is another one");
    }

    #[test]
    fn one_goes_on_with_a_deeper_culprit_and_takes_in_what_waits_for_it_as_well() {
        let mut incidents = none();
        see(&mut incidents, &[(1, 9), (2, 9), (3, 8)]);
        // It is known now that 9 waits for 8.
        assert_eq!(see(&mut incidents, &[(1, 8), (2, 8), (3, 8), (9, 8)]), (vec![], vec!["0-2".into()]));
        let [left] = &incidents.all()[..] else { panic!("there is one") };
        assert_eq!((left.id.as_str(), left.name.as_str(), left.stalls), ("0-1", "db (pid 8)", 4));
        // Part of it turns out to be another's.
        assert_eq!(
            see(&mut incidents, &[(1, 8), (2, 8), (3, 7), (9, 8)]),
            (vec![opened("0-3", 7, 1)], vec![])
        );
    }

    #[test]
    fn stalls_of_one_program_in_the_same_functions_are_told_together() {
        let in_functions = |pid, stack: &[&str]| Stall {
            stack: stack.iter().map(|name| (*name).to_owned()).collect(),
            ..flagged(pid, 10)
        };
        let mut all: Vec<Stall> =
            (1..21).map(|pid| in_functions(pid, &["recv", "get pool.py:7", "page", "main"])).collect();
        all.push(in_functions(30, &["recv", "get pool.py:7", "page", "other"]));
        all.extend((40..43).map(|pid| in_functions(pid, &[])));
        all.extend((50..54).map(|pid| in_functions(pid, &["f", "g", &format!("h{pid}")])));
        let mut other = in_functions(60, &["recv", "get pool.py:7", "page"]);
        other.wait.comm = "else".into();
        all.push(other);
        let told = shared_stacks(&all.iter().collect::<Vec<_>>());
        let [most, others @ ..] = &told[..] else { panic!("none") };
        assert_eq!((most.stack.join(" "), most.stalls), ("recv get pool.py:7 page".into(), 21));
        assert_eq!(others.iter().map(|of| of.stalls).collect::<Vec<_>>(), [1, 1]);
        assert!(shared_stacks(&[]).is_empty());
    }

    #[test]
    fn what_takes_long_is_done_less_often() {
        let mut incidents = none();
        see(&mut incidents, &[(1, 9)]);
        assert!(!incidents.are_due(1, 0) && incidents.are_due(2, 0));
        incidents.took(Duration::from_millis(10), 5);
        assert!(!incidents.are_due(2, 2_000_000_004) && incidents.are_due(2, 2_000_000_005));
    }

    #[test]
    fn one_is_on_the_account_of_most_who_wait() {
        let stalls = [1, 2, 3].map(|pid| flagged(pid, 10));
        let [mut one, other, third] = stalls;
        one.who = std::sync::Arc::new(ProcessMeta { uid: Some(9), account: None, ..(*one.who).clone() });
        let owner = most_common_owner(&[&one, &other, &third]);
        assert_eq!(owner, Some(other.owner()));
        assert_eq!(most_common_owner(&[&one]), Some(Owner::User(9)));
        assert_eq!(most_common_owner(&[]), None);
    }

    #[test]
    fn after_a_restart_one_is_found_again_for_a_while() {
        let mut incidents = none();
        see(&mut incidents, &[(1, 9), (3, 8)]);
        let kept = serde_json::to_string(&incidents.announced()).expect("JSON");
        let kept = || serde_json::from_str(&kept).expect("JSON");
        let mut again = OpenIncidents::going_on_with(kept(), 0, Timestamp::now());
        assert_eq!(see(&mut again, &[(1, 9)]), (vec![], vec![]));
        assert_eq!(again.announced().len(), 2, "one may be found yet");
        let mut late = OpenIncidents::going_on_with(kept(), 0, Timestamp::now());
        late.found_until_ns = 0;
        assert_eq!(see(&mut late, &[(1, 9)]).0.len(), 1);
    }

    #[test]
    fn thousands_cost_what_they_are() {
        let prepare = |number: usize| {
            let stack = |pid| ["read", "get", &format!("page {pid}")].map(str::to_owned).to_vec();
            let stalls = (0..number as u32).map(|pid| Stall { stack: stack(pid), ..flagged(pid + 1, 10) });
            let stalls: BTreeMap<ThreadId, Stall> = stalls.map(|stall| (stall.wait.thread, stall)).collect();
            let due_to = |apart: u32| -> HashMap<ThreadId, CulpritObject> {
                stalls.keys().map(|thread| (*thread, of(apart + thread.process.pid))).collect()
            };
            (due_to(1_000_000), due_to(2_000_000), stalls)
        };
        crate::util::growth::assert_linear("incidents", prepare, |(before, after, stalls)| {
            let mut incidents = none();
            incidents.see(before, &stalls, 1, 0);
            // Each moves to another culprit.
            assert!(incidents.see(after.clone(), &stalls, 2, 0).opened.is_empty());
            // All close, and as many open.
            incidents.see(HashMap::new(), &stalls, 3, 0);
            incidents.see(after, &stalls, 4, 0);
        });
    }
}
