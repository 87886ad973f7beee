//! What opens, goes on and closes, step by step; and that it adds up.

use proptest::{prelude::*, test_runner::RngSeed};

use super::*;
use crate::{
    diagnose::culprit::{Blame, Culprit},
    diagnose::incidents::{BlamedWait, IncidentGraph},
    history::samples::flagged,
    wire::culprit::CulpritKind,
};

/// Incidents with what they are found by.
struct World {
    incidents: OpenIncidents,
    graph: IncidentGraph,
    stalls: BTreeMap<ThreadId, Stall>,
}

impl World {
    fn new() -> Self {
        Self::of(OpenIncidents::going_on_with(Vec::new(), 0, Timestamp::UNIX_EPOCH))
    }

    fn of(incidents: OpenIncidents) -> Self {
        Self { incidents, graph: IncidentGraph::default(), stalls: BTreeMap::new() }
    }

    /// There are these stalls now, each due to the process with a pid.
    fn stall(&mut self, stalls: impl IntoIterator<Item = (Stall, u32)>) {
        std::mem::take(&mut self.stalls).keys().for_each(|thread| self.graph.remove(thread));
        for (stall, pid) in stalls {
            let thread = stall.wait.thread;
            self.graph.insert(BlamedWait {
                thread,
                began_ns: 1,
                is_stuck: false,
                is_deadlock: false,
                is_stall: true,
                blame: Blame { culprit: Culprit::Process { pid, comm: "db".into() }, more: 0, certain: true },
                heir: None,
            });
            self.stalls.insert(thread, stall);
        }
    }

    /// Finds what has become of them.
    fn see(
        &mut self,
        number: u64,
        is_settled: bool,
        culprit: impl FnMut(&Incident) -> (CulpritObject, bool),
    ) -> IncidentChanges {
        self.incidents.unnamed().iter().for_each(|culprit| self.graph.mark_changed(*culprit));
        let changes = self.graph.take_changes();
        let found = FoundIncidents { changes, stalls: &self.stalls, number, is_settled };
        self.incidents.see(found, culprit, 100_000_000_000)
    }

    /// There are stalls of these processes now, each with its culprit: what becomes of incidents.
    fn changes(&mut self, of_culprits: &[(u32, u32)]) -> IncidentChanges {
        self.stall(of_culprits.iter().map(|(pid, culprit)| (flagged(*pid, 10), *culprit)));
        self.see(1, true, culprit)
    }

    /// Which open and which close.
    fn open(&mut self, of_culprits: &[(u32, u32)]) -> (Vec<(String, String, usize)>, Vec<String>) {
        let changes = self.changes(of_culprits);
        let opened = changes.opened.into_iter().map(|of| (of.id, of.name, of.stalls)).collect();
        (opened, changes.closed.into_iter().map(|of| of.id).collect())
    }
}

fn of(pid: u32) -> CulpritObject {
    CulpritObject { pid: Some(pid), comm: Some("db".into()), ..CulpritObject::of_kind(CulpritKind::Process) }
}

fn culprit(incident: &Incident) -> (CulpritObject, bool) {
    let Culprit::Process { pid, .. } = incident.culprit else { panic!("a process") };
    (of(pid), true)
}

fn opened(id: &str, pid: u32, stalls: usize) -> (String, String, usize) {
    (id.into(), format!("db (pid {pid})"), stalls)
}

#[test]
fn one_opens_with_its_first_stalls_grows_and_closes_with_its_last() {
    let mut world = World::new();
    assert_eq!(
        world.open(&[(1, 9), (2, 9), (3, 8)]),
        (vec![opened("0-1", 9, 2), opened("0-2", 8, 1)], vec![])
    );
    assert_eq!(world.open(&[(1, 9), (2, 9), (4, 9), (3, 8)]), (vec![], vec![]));
    world.incidents.age(100_000_000_000);
    let all = world.incidents.all();
    assert_eq!(all.iter().map(|of| (of.stalls, of.processes)).collect::<Vec<_>>(), [(3, 3), (1, 1)]);
    assert!(all.iter().all(|of| of.oldest > Duration::ZERO));
    assert_eq!(world.open(&[(4, 9)]), (vec![], vec!["0-2".into()]));
    assert_eq!(world.open(&[]), (vec![], vec!["0-1".into()]));
    assert_eq!(world.open(&[(1, 9)]).0, [opened("0-3", 9, 1)], "it is another one");
}

#[test]
fn one_goes_on_with_a_deeper_culprit_and_takes_in_what_waits_for_it_as_well() {
    let mut world = World::new();
    world.open(&[(1, 9), (2, 9), (3, 8)]);
    // It is known now that 9 waits for 8.
    assert_eq!(world.open(&[(1, 8), (2, 8), (3, 8), (9, 8)]), (vec![], vec!["0-2".into()]));
    let [left] = &world.incidents.all()[..] else { panic!("there is one") };
    assert_eq!((left.id.as_str(), left.name.as_str(), left.stalls), ("0-1", "db (pid 8)", 4));
    // Part of it turns out to be another's.
    assert_eq!(world.open(&[(1, 8), (2, 8), (3, 7), (9, 8)]), (vec![opened("0-3", 7, 1)], vec![]));
}

/// Thousands of stalls may have ended of which the graph hears some at a time.
#[test]
fn one_closes_with_its_last_stall_though_the_graph_may_not_know_yet() {
    let mut world = World::new();
    world.open(&[(1, 9), (2, 9), (3, 8)]);
    // 1 and 2 have ended, and are due to another one by now.
    world.stall([(flagged(1, 10), 7), (flagged(2, 10), 7), (flagged(3, 10), 8)]);
    world.stalls.retain(|thread, _| thread.process.pid == 3);
    let closed = |changes: IncidentChanges| changes.closed.into_iter().map(|of| of.id).collect::<Vec<_>>();
    assert_eq!(closed(world.see(2, false, culprit)), ["0-1"]);
    assert!(closed(world.changes(&[(3, 8)])).is_empty());
    assert_eq!(world.incidents.all().len(), 1);
}

#[test]
fn what_takes_long_is_done_less_often() {
    let mut world = World::new();
    world.open(&[(1, 9)]);
    assert!(!world.incidents.are_due(1, 0) && world.incidents.are_due(2, 0));
    world.incidents.took(Duration::from_millis(10), 5);
    let later = 5 + 10_000_000 * u64::from(SHARE);
    assert!(!world.incidents.are_due(2, later - 1) && world.incidents.are_due(2, later));
}

#[test]
fn after_a_restart_one_is_found_again_for_a_while() {
    let mut world = World::new();
    world.open(&[(1, 9), (3, 8)]);
    let kept = serde_json::to_string(&world.incidents.announced()).expect("JSON");
    let kept = || serde_json::from_str(&kept).expect("JSON");
    let mut again = World::of(OpenIncidents::going_on_with(kept(), 0, Timestamp::now()));
    assert_eq!(again.open(&[(1, 9)]), (vec![], vec![]));
    assert_eq!(again.incidents.announced().len(), 2, "one may be found yet");
    let mut late = World::of(OpenIncidents::going_on_with(kept(), 0, Timestamp::now()));
    late.incidents.found_until_ns = 0;
    assert_eq!(late.open(&[(1, 9)]).0.len(), 1);
}

#[test]
fn who_is_told_are_stalls_that_have_come_or_whose_incident_has_another_name() {
    let mut world = World::new();
    let mut told = |of_culprits: &[(u32, u32)]| {
        let told = world.changes(of_culprits).told;
        let told = told.into_iter().map(|(thread, told)| format!("{} {}", thread.process.pid, told.name));
        let mut told: Vec<String> = told.collect();
        told.sort();
        told
    };
    assert_eq!(told(&[(1, 9), (2, 9), (3, 8)]), ["1 db (pid 9)", "2 db (pid 9)", "3 db (pid 8)"]);
    assert!(told(&[(1, 9), (2, 9), (3, 8)]).is_empty());
    assert_eq!(told(&[(1, 9), (2, 9), (3, 8), (4, 9)]), ["4 db (pid 9)"]);
    assert!(told(&[(1, 9), (3, 8)]).is_empty());
    assert_eq!(told(&[(1, 7), (3, 8)]), ["1 db (pid 7)"]);
    assert_eq!(told(&[(1, 8), (3, 7)]), ["1 db (pid 8)", "3 db (pid 7)"]);
}

#[test]
fn what_could_not_be_read_is_asked_again() {
    let mut world = World::new();
    world.stall([(flagged(1, 10), 9)]);
    world.see(1, false, culprit);
    assert!(world.incidents.are_due(1, 0), "nothing has changed, and something is left to ask");
    world.see(1, true, culprit);
    assert!(!world.incidents.are_due(1, 0));
    world.stall([(flagged(1, 10), 8)]);
    world.see(2, true, |of| (culprit(of).0, false));
    assert!(world.incidents.are_due(2, 1), "the culprit's own name is not known yet");
    let mut asked = 0;
    for _ in 0..2 {
        world.see(2, true, |of: &Incident| {
            asked += 1;
            (CulpritObject { script: Some("a.py".into()), ..culprit(of).0 }, true)
        });
    }
    assert_eq!((asked, world.incidents.all()[0].name.as_str()), (1, "db a.py (pid 8)"));
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), ..ProptestConfig::with_cases(1_000) })]

    /// Found step by step they are what they would be if found at once, and every stall knows its own.
    #[test]
    fn what_is_kept_agrees_with_what_is_there(
        steps in prop::collection::vec(prop::collection::btree_map(1u32..12, 20u32..25, 0..10), 1..8),
    ) {
        let mut world = World::new();
        let mut told: HashMap<ThreadId, String> = HashMap::new();
        let mut open = BTreeSet::new();
        for step in steps {
            let of_culprits: Vec<(u32, u32)> = step.into_iter().collect();
            let changes = world.changes(&of_culprits);
            open.extend(changes.opened.into_iter().map(|of| of.id));
            changes.closed.iter().for_each(|of| assert!(open.remove(&of.id), "{} was not open", of.id));
            told.extend(changes.told.into_iter().map(|(thread, told)| (thread, told.name.clone())));
            let incidents = &world.incidents;
            let all: BTreeSet<String> = incidents.all().iter().map(|of| of.id.clone()).collect();
            prop_assert_eq!(&all, &open);
            prop_assert_eq!(incidents.of.len(), of_culprits.len());
            prop_assert_eq!(incidents.by_culprit.len(), incidents.open.len());
            for (pid, culprit) in &of_culprits {
                let thread = flagged(*pid, 10).wait.thread;
                let name = format!("db (pid {culprit})");
                prop_assert_eq!(&told[&thread], &name);
                let incident = &incidents.open[&incidents.of[&thread]].object;
                prop_assert_eq!(&incident.name, &name);
                let stalls = of_culprits.iter().filter(|(_, of)| of == culprit).count();
                prop_assert_eq!(incident.stalls, stalls);
            }
        }
    }
}

#[test]
fn thousands_cost_what_they_are() {
    let prepare = |number: usize| {
        let stack = |pid| ["read", "get", &format!("page {pid}")].map(str::to_owned).to_vec();
        let stalls = (0..number as u32).map(|pid| Stall { stack: stack(pid), ..flagged(pid + 1, 10) });
        (World::new(), stalls.collect::<Vec<Stall>>())
    };
    crate::util::growth::assert_linear("incidents", prepare, |(mut world, stalls)| {
        let due_to =
            |apart: u32| stalls.iter().map(move |stall| (stall.clone(), apart + stall.wait.thread.tid));
        world.stall(due_to(1_000_000));
        assert_eq!(world.see(1, true, culprit).opened.len(), stalls.len());
        // Each moves to another culprit.
        world.stall(due_to(2_000_000));
        assert_eq!(world.see(2, true, culprit).opened.len(), 0);
        // All close, and as many open.
        world.stall([]);
        assert_eq!(world.see(3, true, culprit).closed.len(), stalls.len());
        world.stall(due_to(3_000_000));
        assert_eq!(world.see(4, true, culprit).opened.len(), stalls.len());
    });
}

/// What one among thousands costs does not grow with them.
#[test]
fn one_among_thousands_costs_what_it_is() {
    let prepare = |number: usize| {
        let mut world = World::new();
        let stalls: Vec<Stall> = (0..number as u32).map(|pid| flagged(pid + 1, 10)).collect();
        world.stall(stalls.iter().map(|stall| (stall.clone(), 1_000_000 + stall.wait.thread.tid)));
        world.see(1, true, culprit);
        (world, stalls)
    };
    crate::util::growth::assert_linear("ones of many", prepare, |(mut world, stalls)| {
        for stall in stalls {
            world.graph.remove(&stall.wait.thread);
            assert_eq!(world.see(2, true, culprit).closed.len(), 1);
        }
    });
}
