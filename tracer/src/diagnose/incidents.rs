//! Which waits have one cause? Each is followed over those who are stuck themselves to whom nobody but itself holds up. Pure.
//!
//! A wait is due to one culprit. Where that is a process that is stuck in turn, one of its waits is followed, so that each wait leads to one
//! other at most, and each is visited once. The way ends at a culprit that goes on or cannot be followed, or in a circle.

use hashbrown::{HashMap, HashSet};

use super::culprit::{Blame, CircleMember, Culprit};
use crate::model::wait::ThreadId;

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
    /// Places of its stalls among the waits that were given, ascending.
    pub stalls: Vec<usize>,
}

/// The incidents of these waits, in the order of their first stalls.
pub fn incidents(waits: &[BlamedWait]) -> Vec<Incident> {
    let next = followed(waits);
    let ends = ends(&next);
    let circles = circles(waits, &next, &ends);
    let mut places: HashMap<&Culprit, usize> = HashMap::with_capacity(waits.len());
    let mut found: Vec<Incident> = Vec::new();
    for (at, _) in waits.iter().enumerate().filter(|(_, wait)| wait.is_stall) {
        let (culprit, more, certain) = match ends[at] {
            ChainEnd::At(last) => {
                let Blame { culprit, more, certain } = cause(waits, at, last);
                (culprit, *more, *certain)
            }
            ChainEnd::Circle(first) => (&circles[&first], 0, true),
        };
        let place = *places.entry(culprit).or_insert(found.len());
        if place == found.len() {
            let culprit = culprit.clone();
            found.push(Incident { culprit, more: 0, certain: false, stalls: Vec::new() });
        }
        let incident = &mut found[place];
        incident.more = incident.more.max(more);
        incident.certain |= certain;
        incident.stalls.push(at);
    }
    found
}

/// The circles in which chains end, by the wait that stands for each.
fn circles(waits: &[BlamedWait], next: &[Option<usize>], ends: &[ChainEnd]) -> HashMap<usize, Culprit> {
    let mut circles = HashMap::new();
    for end in ends {
        if let ChainEnd::Circle(first) = *end {
            circles.entry(first).or_insert_with(|| circle(waits, next, first));
        }
    }
    circles
}

/// What a wait is due to, whose way ends at another. A process does not hold itself up by way of its own client: a server waits for the
/// rest of a request, which the client thinks it has sent.
fn cause(waits: &[BlamedWait], at: usize, last: usize) -> &Blame {
    let own = waits[at].thread.process.pid;
    match &waits[last].blame.culprit {
        Culprit::Process { pid, .. } if *pid == own => &waits[at].blame,
        _ => &waits[last].blame,
    }
}

/// For each wait the one that is followed from it, if the one that it is due to is stuck.
fn followed(waits: &[BlamedWait]) -> Vec<Option<usize>> {
    let stuck = || waits.iter().enumerate().filter(|(_, wait)| wait.is_stuck || wait.is_deadlock);
    let all = ByStart::new(stuck());
    let deadlocked = ByStart::new(stuck().filter(|(_, wait)| wait.is_deadlock));
    let are_threads = stuck().filter(|(_, wait)| !wait.thread.is_request());
    let threads: HashMap<u32, usize> = are_threads.map(|(at, wait)| (wait.thread.tid, at)).collect();
    let follow = |wait: &BlamedWait| match &wait.blame.culprit {
        // Which of its own threads it waits for is not known.
        Culprit::Process { pid, .. } if *pid == wait.thread.process.pid => None,
        // A deadlock is not left by another wait of its members.
        Culprit::Process { pid, .. } => {
            let in_deadlock = if wait.is_deadlock { deadlocked.nearest(*pid, wait.began_ns) } else { None };
            in_deadlock.or_else(|| all.nearest(*pid, wait.began_ns))
        }
        Culprit::Thread { tid, .. } => threads.get(tid).copied(),
        _ => None,
    };
    waits.iter().map(follow).collect()
}

/// Waits of processes: pid, when it began, and its place, ascending.
struct ByStart(Vec<(u32, u64, usize)>);

impl ByStart {
    fn new<'a>(waits: impl Iterator<Item = (usize, &'a BlamedWait)>) -> Self {
        let mut waits: Vec<(u32, u64, usize)> =
            waits.map(|(at, wait)| (wait.thread.process.pid, wait.began_ns, at)).collect();
        waits.sort_unstable();
        Self(waits)
    }

    /// The wait of a process that began nearest to this moment and not before it, as far as stamps tell; else its oldest.
    fn nearest(&self, of: u32, to_ns: u64) -> Option<usize> {
        let is_its = |wait: &&(u32, u64, usize)| wait.0 == of;
        let distance = |(_, began_ns, _): &&(u32, u64, usize)| began_ns.abs_diff(to_ns);
        let after = self.0.partition_point(|(pid, began_ns, _)| (*pid, *began_ns) < (of, to_ns));
        let before = after.checked_sub(1).and_then(|before| self.0.get(before));
        let before = before.filter(is_its).filter(|before| distance(before) <= STAMPS_DIFFER_NS);
        let nearest = before.into_iter().chain(self.0.get(after).filter(is_its)).min_by_key(distance);
        let oldest = || self.0.get(self.0.partition_point(|(pid, ..)| *pid < of)).filter(is_its);
        nearest.or_else(oldest).map(|(_, _, at)| *at)
    }
}

/// Where the way from a wait ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChainEnd {
    /// At this wait, which leads to no other.
    At(usize),
    /// In the circle in which this wait stands: of one circle always the same.
    Circle(usize),
}

/// The ends of all ways; each wait is visited once.
fn ends(next: &[Option<usize>]) -> Vec<ChainEnd> {
    let mut ends: Vec<Option<ChainEnd>> = vec![None; next.len()];
    // By which walk a wait was met.
    let mut met: Vec<usize> = vec![usize::MAX; next.len()];
    for start in 0..next.len() {
        let mut way = Vec::new();
        let mut at = start;
        let end = loop {
            if let Some(end) = ends[at] {
                break end;
            }
            if std::mem::replace(&mut met[at], start) == start {
                break ChainEnd::Circle(at);
            }
            way.push(at);
            match next[at] {
                Some(following) => at = following,
                None => break ChainEnd::At(at),
            }
        };
        way.into_iter().for_each(|at| ends[at] = Some(end));
    }
    ends.into_iter().enumerate().map(|(at, end)| end.unwrap_or(ChainEnd::At(at))).collect()
}

/// The circle in which this wait stands: those whom its waits are due to.
fn circle(waits: &[BlamedWait], next: &[Option<usize>], first: usize) -> Culprit {
    let mut members: HashSet<CircleMember> = HashSet::new();
    let mut is_deadlock = true;
    let mut at = first;
    loop {
        is_deadlock &= waits[at].is_deadlock;
        members.extend(match &waits[at].blame.culprit {
            Culprit::Process { pid, comm } => Some(CircleMember { pid: *pid, tid: None, comm: comm.clone() }),
            Culprit::Thread { pid, tid, comm } => {
                Some(CircleMember { pid: *pid, tid: Some(*tid), comm: comm.clone() })
            }
            _ => None,
        });
        match next[at] {
            Some(following) if following != first => at = following,
            _ => break,
        }
    }
    let mut members: Vec<CircleMember> = members.into_iter().collect();
    members.sort_unstable();
    Culprit::Circle { members, is_deadlock }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::{prelude::*, test_runner::RngSeed};

    use super::*;
    use crate::{model::wait::ProcessId, util::growth};

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
        }
    }

    fn deadlocked(wait: BlamedWait) -> BlamedWait {
        BlamedWait { is_deadlock: true, ..wait }
    }

    /// Culprits with the places of their stalls.
    fn found(waits: &[BlamedWait]) -> Vec<(Culprit, Vec<usize>)> {
        incidents(waits).into_iter().map(|incident| (incident.culprit, incident.stalls)).collect()
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
        let proxys =
            |seconds: [u64; 2]| [due(5, 0, seconds[0], process(8)), due(5, 0, seconds[1], process(9))];
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

    prop_compose! {
        /// Few processes and threads, so that chains and circles are usual.
        fn any_wait()(
            pid in 1u32..8, tid in 0u32..4, began in 0u64..6, kind in 0u8..4, on in 1u32..10, of in 1u32..4,
            is_stuck: bool, is_deadlock: bool, is_stall: bool,
        ) -> BlamedWait {
            let culprit = match kind {
                0 | 1 => process(on),
                2 => thread(on, 10 * on + of),
                _ => Culprit::Fifo { path: on.to_string() },
            };
            let tid = if tid == 0 { 0 } else { 10 * pid + tid };
            BlamedWait { is_stuck, is_deadlock, is_stall, ..due(pid, tid, began, culprit) }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), ..ProptestConfig::with_cases(4_000) })]

        #[test]
        fn every_stall_is_in_one_incident(waits in prop::collection::vec(any_wait(), 0..24)) {
            let incidents = incidents(&waits);
            let mut stalls: Vec<usize> = Vec::new();
            let mut culprits = HashSet::new();
            for incident in &incidents {
                prop_assert!(!incident.stalls.is_empty());
                prop_assert!(incident.stalls.is_sorted());
                prop_assert!(culprits.insert(&incident.culprit), "{:?} twice", incident.culprit);
                stalls.extend(&incident.stalls);
            }
            stalls.sort_unstable();
            let expected: Vec<usize> = (0..waits.len()).filter(|at| waits[*at].is_stall).collect();
            prop_assert_eq!(stalls, expected);
        }

        /// Step by step, and with a bound, as somebody would who knows nothing of colours.
        #[test]
        fn each_way_ends_where_a_walk_does(waits in prop::collection::vec(any_wait(), 1..24)) {
            let next = followed(&waits);
            for (at, end) in ends(&next).into_iter().enumerate() {
                let walk: Vec<usize> =
                    std::iter::successors(Some(at), |at| next[*at]).take(waits.len() + 1).collect();
                match end {
                    ChainEnd::At(last) => prop_assert_eq!(walk.last(), Some(&last)),
                    ChainEnd::Circle(first) => {
                        prop_assert!(walk.len() > waits.len() && walk.contains(&first));
                    }
                }
            }
        }

        /// Whom the waits of a circle are due to stand in it.
        #[test]
        fn a_circle_has_its_members(waits in prop::collection::vec(any_wait(), 1..24)) {
            for Incident { culprit, .. } in incidents(&waits) {
                if let Culprit::Circle { members, .. } = culprit {
                    let pids: BTreeSet<u32> = members.iter().map(|member| member.pid).collect();
                    prop_assert!(!pids.is_empty());
                    for pid in pids {
                        prop_assert!(waits.iter().any(|wait| wait.thread.process.pid == pid));
                    }
                }
            }
        }
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
}
