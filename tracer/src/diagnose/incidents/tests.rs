//! The graph against a walk by somebody who knows nothing of it, on random waits that come and go.

use std::collections::BTreeMap;

use proptest::{prelude::*, test_runner::RngSeed};

use super::*;
use crate::util::growth;

fn process(pid: u32) -> Culprit {
    Culprit::Process { pid, comm: format!("p{pid}").as_str().into() }
}

fn thread(pid: u32, tid: u32) -> Culprit {
    Culprit::Thread { pid, tid, comm: format!("t{tid}").as_str().into() }
}

fn due(pid: u32, tid: u32, began_s: u64, culprit: Culprit) -> BlamedWait {
    let thread = ThreadId { process: ProcessId { pid, start_ns: 1 }, tid, start_ns: 1 };
    BlamedWait {
        thread,
        began_ns: began_s * 1_000_000_000,
        is_stuck: true,
        is_deadlock: false,
        is_stall: true,
        blame: Blame { culprit, more: 0, certain: true },
        heir: None,
    }
}

fn heir(pid: u32) -> CircleMember {
    CircleMember { pid, tid: None, comm: format!("p{pid}").as_str().into() }
}

fn deadlocked(wait: BlamedWait) -> BlamedWait {
    BlamedWait { is_deadlock: true, ..wait }
}

/// The incidents of these waits, by their first stalls. Several of a process are on connections of their own.
fn incidents(waits: &[BlamedWait]) -> Vec<Incident> {
    let mut graph = IncidentGraph::default();
    for (at, wait) in waits.iter().enumerate() {
        graph.insert(BlamedWait { thread: at_place(wait, at), ..wait.clone() });
    }
    let changes = graph.take_changes().into_iter();
    let mut incidents: Vec<Incident> = changes.filter_map(|change| change.incident).collect();
    incidents.sort_by_key(|incident| incident.stalls.iter().map(|thread| thread.start_ns).min());
    incidents
}

fn at_place(wait: &BlamedWait, at: usize) -> ThreadId {
    ThreadId { start_ns: at as u64, ..wait.thread }
}

/// Culprits with the places of their stalls.
fn found(waits: &[BlamedWait]) -> Vec<(Culprit, Vec<usize>)> {
    let places = |incident: &Incident| {
        let mut places: Vec<usize> = incident.stalls.iter().map(|thread| thread.start_ns as usize).collect();
        places.sort_unstable();
        places
    };
    incidents(waits).into_iter().map(|incident| (incident.culprit.clone(), places(&incident))).collect()
}

fn circle_of(members: &[(u32, Option<u32>, &str)], is_deadlock: bool) -> Culprit {
    let member = |(pid, tid, comm): &(u32, Option<u32>, &str)| CircleMember {
        pid: *pid,
        tid: *tid,
        comm: (*comm).into(),
    };
    Culprit::Circle { members: members.iter().map(member).collect(), is_deadlock }
}

#[test]
fn a_chain_ends_at_who_waits_for_nobody() {
    // Two clients of a proxy, its two requests, and a client of the service itself.
    let waits = [
        due(1, 1, 10, process(5)),
        due(2, 2, 20, process(5)),
        due(5, 0, 10, process(9)),
        due(5, 0, 20, process(9)),
        due(3, 3, 1, process(9)),
    ];
    assert_eq!(found(&waits), [(process(9), vec![0, 1, 2, 3, 4])]);
}

#[test]
fn a_proxy_asks_because_it_was_asked() {
    let proxys = |seconds: [u64; 2]| [due(5, 0, seconds[0], process(8)), due(5, 0, seconds[1], process(9))];
    for (began, seconds, culprit) in [
        (10, [10, 20], 8),
        (15, [10, 20], 9),
        (20, [10, 20], 9),
        // Both were there before: the older has held the process up for longer.
        (30, [20, 10], 9),
        (30, [10, 20], 8),
    ] {
        let [first, second] = proxys(seconds);
        let waits = [due(1, 1, began, process(5)), first, second];
        let incidents = found(&waits);
        let of_client = incidents.iter().find(|(_, stalls)| stalls.contains(&0)).expect("it is in one");
        assert_eq!(of_client.0, process(culprit), "{began} {seconds:?}");
    }
    let nearest = [due(1, 1, 10, process(5)), due(5, 0, 9, process(8)), due(5, 0, 11, process(9))];
    assert_eq!(found(&nearest)[0], (process(9), vec![0, 2]), "a second before is too early");
    // The stamps of two connections are not that exact.
    let mut waits = [due(1, 1, 10, process(5)), due(5, 0, 10, process(8)), due(5, 0, 11, process(9))];
    waits[1].began_ns -= 3_000_000;
    assert_eq!(found(&waits)[0], (process(8), vec![0, 1]));
}

#[test]
fn who_rests_is_the_culprit_and_its_idle_waits_are_not_followed() {
    let idle = BlamedWait { is_stuck: false, is_stall: false, ..due(9, 9, 1, process(4)) };
    assert_eq!(found(&[due(1, 1, 2, process(9)), idle]), [(process(9), vec![0])]);
}

#[test]
fn what_is_only_followed_is_in_no_incident() {
    let proxys = BlamedWait { is_stall: false, ..due(5, 0, 2, process(9)) };
    assert_eq!(found(&[due(1, 1, 2, process(5)), proxys]), [(process(9), vec![0])]);
}

/// The client waits for its answer, and the server, in doubt, for the rest of the request.
#[test]
fn a_server_is_not_held_up_by_itself() {
    let servers = BlamedWait { is_stuck: false, ..due(9, 9, 1, process(5)) };
    let waits = [due(5, 0, 1, process(9)), due(1, 1, 1, process(5)), servers];
    assert_eq!(found(&waits), [(process(9), vec![0, 1]), (process(5), vec![2])]);
}

#[test]
fn the_holder_of_a_lock_is_followed_by_its_thread() {
    // Thread 12 holds what 11 wants, and waits for a server; what 13 waits for does not matter.
    let waits = [due(1, 11, 1, thread(1, 12)), due(1, 12, 1, process(9)), due(1, 13, 1, process(8))];
    assert_eq!(found(&waits), [(process(9), vec![0, 1]), (process(8), vec![2])]);
}

#[test]
fn a_circle_is_one_culprit_of_all_that_leads_to_it() {
    let flocks = [
        deadlocked(due(7, 7, 1, process(9))),
        deadlocked(due(9, 9, 2, process(7))),
        due(1, 1, 3, process(7)),
    ];
    let deadlock = circle_of(&[(7, None, "p7"), (9, None, "p9")], true);
    assert_eq!(found(&flocks), [(deadlock, vec![0, 1, 2])]);

    let mutexes = [deadlocked(due(1, 11, 1, thread(1, 12))), deadlocked(due(1, 12, 1, thread(1, 11)))];
    let deadlock = circle_of(&[(1, Some(11), "t11"), (1, Some(12), "t12")], true);
    assert_eq!(found(&mutexes), [(deadlock, vec![0, 1])]);

    // Who waits for each other by connections may have threads that go on.
    let asked = [due(7, 7, 1, process(9)), due(9, 9, 2, process(7))];
    let circle = circle_of(&[(7, None, "p7"), (9, None, "p9")], false);
    assert_eq!(found(&asked), [(circle, vec![0, 1])]);
}

/// A process in a deadlock has another wait, which is no way out of it.
#[test]
fn a_deadlock_is_not_left_by_another_wait_of_its_members() {
    let waits = [
        deadlocked(due(7, 7, 1, process(9))),
        due(9, 91, 1, process(4)),
        deadlocked(due(9, 92, 2, process(7))),
    ];
    let deadlock = circle_of(&[(7, None, "p7"), (9, None, "p9")], true);
    assert_eq!(found(&waits), [(deadlock, vec![0, 2]), (process(4), vec![1])]);
}

#[test]
fn threads_that_wait_for_their_own_process_do_not_wait_for_each_other() {
    let waits = [due(1, 11, 1, process(1)), due(1, 12, 1, process(1)), due(2, 2, 1, process(1))];
    assert_eq!(found(&waits), [(process(1), vec![0, 1, 2])]);
}

#[test]
fn how_many_more_may_be_to_blame_is_the_most_of_its_stalls() {
    let mut waits = [due(1, 1, 1, process(9)), due(2, 2, 1, process(9))];
    waits[0].blame = Blame { more: 3, certain: false, ..waits[0].blame.clone() };
    let incidents = incidents(&waits);
    assert_eq!((incidents[0].more, incidents[0].certain), (3, true));
}

/// A job waits for the lock of another, a shell that waits for its child, which waits for a service.
#[test]
fn who_waits_for_a_stuck_child_is_held_up_by_whom_that_waits_for() {
    let job = BlamedWait { heir: Some(heir(3)), ..due(1, 1, 5, process(2)) };
    let childs = due(3, 3, 1, process(9));
    assert_eq!(found(&[job.clone(), childs.clone()]), [(process(9), vec![0, 1])]);
    // One that only rests is not named in the place of its parent.
    let rests = BlamedWait { is_stuck: false, is_stall: false, ..childs };
    assert_eq!(found(&[job, rests]), [(process(2), vec![0])]);
}

/// What the way from a wait leads to, step by step.
fn next<'a>(wait: &BlamedWait, waits: &'a BTreeMap<ThreadId, BlamedWait>) -> Option<&'a BlamedWait> {
    let stuck = || waits.values().filter(|other| other.is_stuck || other.is_deadlock);
    let nearest = |pid: u32, only_deadlocks: bool| {
        let of = stuck().filter(|other| other.thread.process.pid == pid);
        let mut of: Vec<&BlamedWait> = of.filter(|other| !only_deadlocks || other.is_deadlock).collect();
        of.sort_by_key(|other| (other.began_ns, other.thread));
        let (earlier, later): (Vec<&BlamedWait>, Vec<&BlamedWait>) =
            of.iter().partition(|other| other.began_ns < wait.began_ns);
        let distance = |other: &&BlamedWait| other.began_ns.abs_diff(wait.began_ns);
        let just_before = earlier.last().copied().filter(|other| distance(other) <= STAMPS_DIFFER_NS);
        let nearest = just_before.into_iter().chain(later.first().copied()).min_by_key(distance);
        nearest.or(of.first().copied())
    };
    let own = wait.thread.process.pid;
    let direct = match &wait.blame.culprit {
        Culprit::Process { pid, .. } if *pid == own => None,
        Culprit::Process { pid, .. } => {
            let in_deadlock = if wait.is_deadlock { nearest(*pid, true) } else { None };
            in_deadlock.or_else(|| nearest(*pid, false))
        }
        Culprit::Thread { tid, .. } => {
            stuck().find(|other| other.thread.tid == *tid && !other.thread.is_request())
        }
        _ => None,
    };
    let heir = wait.heir.as_ref().filter(|heir| heir.pid != own);
    direct.or_else(|| nearest(heir?.pid, false))
}

/// Whom a wait is due to, by walking on until there is nowhere to go, or as far as there are waits.
fn walked(wait: &BlamedWait, waits: &BTreeMap<ThreadId, BlamedWait>) -> Blame {
    let walk: Vec<&BlamedWait> =
        std::iter::successors(Some(wait), |wait| next(wait, waits)).take(waits.len() + 1).collect();
    if walk.len() <= waits.len() {
        let last = &walk[walk.len() - 1].blame;
        return match &last.culprit {
            Culprit::Process { pid, .. } if *pid == wait.thread.process.pid => wait.blame.clone(),
            _ => last.clone(),
        };
    }
    let first = walk[walk.len() - 1];
    let mut circle = vec![first];
    let rest = std::iter::successors(next(first, waits), |wait| next(wait, waits));
    circle.extend(rest.take_while(|wait| wait.thread != first.thread));
    let leads_to_heir = |wait: &BlamedWait| {
        let next = next(wait, waits).map(|next| next.thread.process.pid);
        wait.heir.clone().filter(|heir| Some(heir.pid) == next)
    };
    let member = |wait: &&BlamedWait| match &wait.blame.culprit {
        _ if leads_to_heir(wait).is_some() => leads_to_heir(wait).expect("it was there"),
        Culprit::Process { pid, comm } => CircleMember { pid: *pid, tid: None, comm: comm.clone() },
        Culprit::Thread { pid, tid, comm } => CircleMember { pid: *pid, tid: Some(*tid), comm: comm.clone() },
        other => panic!("{other:?} in a circle"),
    };
    let members: BTreeSet<CircleMember> = circle.iter().map(member).collect();
    let is_deadlock = circle.iter().all(|wait| wait.is_deadlock);
    let culprit = Culprit::Circle { members: members.into_iter().collect(), is_deadlock };
    Blame { culprit, more: 0, certain: true }
}

/// The incidents of these waits, each wait followed by itself.
fn expected(waits: &BTreeMap<ThreadId, BlamedWait>) -> Vec<Incident> {
    let mut incidents: Vec<Incident> = Vec::new();
    for wait in waits.values().filter(|wait| wait.is_stall) {
        let Blame { culprit, more, certain } = walked(wait, waits);
        match incidents.iter_mut().find(|incident| incident.culprit == culprit) {
            Some(incident) => {
                incident.stalls.push(wait.thread);
                incident.more = incident.more.max(more);
                incident.certain |= certain;
            }
            None => incidents.push(Incident { culprit, more, certain, stalls: vec![wait.thread] }),
        }
    }
    incidents
}

prop_compose! {
    /// Few processes and threads, so that chains and circles are usual.
    fn any_wait()(
        pid in 1u32..8, tid in 0u32..4, began in 0u64..6, kind in 0u8..4, on in 1u32..10, of in 1u32..4,
        connection in 0u64..3, more in 0usize..3, certain: bool,
        is_stuck: bool, is_deadlock: bool, is_stall: bool, of_child in 0u32..16,
    ) -> BlamedWait {
        let culprit = match kind {
            0 | 1 => process(on),
            2 => thread(on, 10 * on + of),
            _ => Culprit::Fifo { path: on.to_string() },
        };
        let tid = if tid == 0 { 0 } else { 10 * pid + tid };
        let mut wait = due(pid, tid, began, culprit);
        wait.thread.start_ns = if tid == 0 { connection } else { 1 };
        let blame = Blame { more, certain, ..wait.blame };
        let heir = (1..8).contains(&of_child).then(|| heir(of_child));
        BlamedWait { is_stuck, is_deadlock, is_stall, blame, heir, ..wait }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), ..ProptestConfig::with_cases(1_500) })]

    /// Waits come, go and are replaced, some at a time: what is told of them each time adds up to what is there.
    #[test]
    fn what_changes_adds_up_to_what_a_walk_from_each_wait_finds(
        steps in prop::collection::vec(
            (prop::collection::vec(any_wait(), 0..8), prop::collection::vec(0usize..24, 0..6)),
            1..6,
        ),
    ) {
        let mut graph = IncidentGraph::default();
        let mut waits: BTreeMap<ThreadId, BlamedWait> = BTreeMap::new();
        let mut told: BTreeMap<CulpritNumber, Incident> = BTreeMap::new();
        for (come, go) in steps {
            for place in go {
                if let Some(thread) = waits.keys().nth(place).copied() {
                    waits.remove(&thread);
                    graph.remove(&thread);
                }
            }
            for wait in come {
                graph.insert(wait.clone());
                waits.insert(wait.thread, wait);
            }
            for IncidentChange { number, incident } in graph.take_changes() {
                match incident {
                    Some(incident) => told.insert(number, incident),
                    None => told.remove(&number),
                };
            }
            let mut told: Vec<Incident> = told.values().cloned().collect();
            told.sort_by_key(|incident| incident.stalls[0]);
            prop_assert_eq!(told, expected(&waits));
            prop_assert!(graph.take_changes().is_empty(), "nothing has changed since");
        }
        waits.keys().for_each(|thread| graph.remove(thread));
        prop_assert!(graph.take_changes().iter().all(|change| change.incident.is_none()));
        let IncidentGraph { nodes, stuck, deadlocked, threads, due_to, groups, numbers, .. } = graph;
        prop_assert!(nodes.is_empty() && stuck.0.is_empty() && deadlocked.0.is_empty() && threads.is_empty());
        prop_assert!(due_to.is_empty() && groups.is_empty() && numbers.is_empty());
    }
}

/// Each that comes or goes costs the same, however many others there are.
#[test]
fn one_among_many_costs_what_it_is() {
    let prepare = |number: usize| {
        let mut graph = IncidentGraph::default();
        for at in 0..number as u32 {
            graph.insert(due(100 + at, 100 + at, 1, process(1_000_000 + at)));
        }
        graph.take_changes();
        (graph, number as u32)
    };
    growth::assert_linear("ones of many", prepare, |(mut graph, number)| {
        for at in 0..number {
            let thread = due(100 + at, 100 + at, 1, process(9)).thread;
            graph.remove(&thread);
            assert_eq!(graph.take_changes().len(), 1);
            graph.insert(due(100 + at, 100 + at, 1, process(1_000_000 + at)));
            assert_eq!(graph.take_changes().len(), 1);
        }
    });
}

#[test]
fn incidents_are_found_in_linear_time() {
    let on_one = |number: usize| -> Vec<BlamedWait> {
        (0..number as u32).map(|at| due(100 + at, 100 + at, 1, process(9))).collect()
    };
    let on_many = |number: usize| -> Vec<BlamedWait> {
        (0..number as u32).map(|at| due(100 + at, 100 + at, 1, process(1_000_000 + at))).collect()
    };
    // Each waits for the next.
    let chain = |number: usize| -> Vec<BlamedWait> {
        (0..number as u32).map(|at| due(100 + at, 100 + at, 1, process(101 + at))).collect()
    };
    // All clients of a proxy, and all of its requests.
    let proxy = |number: usize| -> Vec<BlamedWait> {
        let clients = (0..number as u32).map(|at| due(100 + at, 100 + at, u64::from(at), process(5)));
        clients.chain((0..number as u32).map(|at| due(5, 0, u64::from(at), process(9)))).collect()
    };
    growth::at_each_size(|number| {
        assert_eq!(incidents(&on_one(number)).len(), 1);
        assert_eq!(incidents(&on_many(number)).len(), number);
        assert_eq!(incidents(&chain(number)).len(), 1);
        assert_eq!(incidents(&proxy(number))[0].stalls.len(), 2 * number);
    });
    growth::assert_linear("on one culprit", on_one, |waits| assert_eq!(incidents(&waits).len(), 1));
    growth::assert_linear("on many", on_many, |waits| assert!(incidents(&waits).len() > 1));
    growth::assert_linear("a chain", chain, |waits| assert_eq!(incidents(&waits).len(), 1));
    growth::assert_linear("a proxy", proxy, |waits| assert_eq!(incidents(&waits).len(), 1));
}
