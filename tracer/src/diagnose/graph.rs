//! Who waits for whom: who can never go on, and who stands in a circle that nobody can leave? Pure.
//!
//! A node waits for any of some others, or for all of them. Whoever is not in the graph can act, and so can, one after another, all
//! whose needs are met by those who can. The rest never will: among them are the circles, and those who only wait behind one.

use std::hash::Hash;

use hashbrown::HashMap;

/// Whom a node needs so that it can go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Needed<N> {
    /// Any of these. Of nobody: it never goes on.
    AnyOf(Vec<N>),
    /// Each of these.
    AllOf(Vec<N>),
}

impl<N> Needed<N> {
    /// Those that are needed, any or all of them.
    pub fn whom(&self) -> &[N] {
        match self {
            Needed::AnyOf(whom) | Needed::AllOf(whom) => whom,
        }
    }
}

/// Nodes that wait, each with its needs.
pub struct WaitGraph<N> {
    nodes: Vec<N>,
    needs: Vec<Needed<N>>,
    places: HashMap<N, usize>,
}

impl<N> Default for WaitGraph<N> {
    /// One in which nobody waits.
    fn default() -> Self {
        Self { nodes: Vec::new(), needs: Vec::new(), places: HashMap::new() }
    }
}

impl<N: Copy + Eq + Hash> WaitGraph<N> {
    /// Adds a node that waits. Of a node that is added again the first needs count.
    pub fn add(&mut self, node: N, needs: Needed<N>) {
        if self.places.contains_key(&node) {
            return;
        }
        self.places.insert(node, self.nodes.len());
        self.nodes.push(node);
        self.needs.push(needs);
    }

    /// Whether this node is there already.
    pub fn has(&self, node: N) -> bool {
        self.places.contains_key(&node)
    }

    /// Whom a node needs, if it waits.
    pub fn needs(&self, node: N) -> Option<&Needed<N>> {
        self.places.get(&node).map(|place| &self.needs[*place])
    }

    /// Circles that nobody can leave: each node of one waits for another of it, or for itself, and can never go on. Those who wait
    /// behind a circle are in none.
    pub fn circles(&self) -> Vec<Vec<N>> {
        let goes_on = self.going_on();
        let next: Vec<Vec<usize>> = (0..self.nodes.len())
            .map(|node| match goes_on[node] {
                true => Vec::new(),
                false => self.places_of(node).filter(|next| !goes_on[*next]).collect(),
            })
            .collect();
        let components = components(&next);
        let is_circle =
            |component: &Vec<usize>| component.len() > 1 || next[component[0]].contains(&component[0]);
        let named = |component: Vec<usize>| component.into_iter().map(|place| self.nodes[place]).collect();
        components.into_iter().filter(is_circle).map(named).collect()
    }

    /// Where in the graph those are that a node needs; others can act.
    fn places_of(&self, node: usize) -> impl Iterator<Item = usize> {
        self.needs[node].whom().iter().filter_map(|whom| self.places.get(whom).copied())
    }

    /// For each node, whether it will go on.
    fn going_on(&self) -> Vec<bool> {
        // How many more of those that each node needs have to go on first.
        let mut missing: Vec<usize> = Vec::with_capacity(self.nodes.len());
        let mut needed_by: Vec<Vec<usize>> = vec![Vec::new(); self.nodes.len()];
        for (node, needs) in self.needs.iter().enumerate() {
            self.places_of(node).for_each(|needed| needed_by[needed].push(node));
            missing.push(match needs {
                Needed::AllOf(_) => self.places_of(node).count(),
                Needed::AnyOf(whom) => usize::from(whom.iter().all(|whom| self.has(*whom))),
            });
        }
        let mut goes_on: Vec<bool> = missing.iter().map(|missing| *missing == 0).collect();
        let mut next: Vec<usize> = (0..self.nodes.len()).filter(|node| goes_on[*node]).collect();
        while let Some(node) = next.pop() {
            for waiter in &needed_by[node] {
                missing[*waiter] = missing[*waiter].saturating_sub(1);
                if missing[*waiter] == 0 && !std::mem::replace(&mut goes_on[*waiter], true) {
                    next.push(*waiter);
                }
            }
        }
        goes_on
    }
}

/// The strongly connected components of a graph of numbered nodes, each with those that follow it (Tarjan's algorithm, without recursion:
/// a chain may be as long as there are threads).
fn components(next: &[Vec<usize>]) -> Vec<Vec<usize>> {
    const UNSEEN: usize = usize::MAX;
    let mut number = vec![UNSEEN; next.len()];
    let mut lowest = vec![0; next.len()];
    let mut is_open = vec![false; next.len()];
    let (mut seen, mut open, mut found) = (0, Vec::new(), Vec::new());
    for root in 0..next.len() {
        if number[root] != UNSEEN {
            continue;
        }
        // Nodes on the way down, each with how many of those that follow it have been visited.
        let mut way = vec![(root, 0)];
        while let Some((node, visited)) = way.pop() {
            if visited == 0 {
                (number[node], lowest[node], is_open[node]) = (seen, seen, true);
                seen += 1;
                open.push(node);
            }
            if let Some(follower) = next[node].get(visited) {
                way.push((node, visited + 1));
                if number[*follower] == UNSEEN {
                    way.push((*follower, 0));
                } else if is_open[*follower] {
                    lowest[node] = lowest[node].min(number[*follower]);
                }
                continue;
            }
            if let Some((before, _)) = way.last() {
                lowest[*before] = lowest[*before].min(lowest[node]);
            }
            if lowest[node] == number[node] {
                let begin = open.iter().rposition(|open| *open == node).unwrap_or(0);
                let component = open.split_off(begin);
                component.iter().for_each(|node| is_open[*node] = false);
                found.push(component);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};

    use proptest::prelude::*;

    use super::*;

    type Waits = Vec<(u8, Needed<u8>)>;

    fn graph(waits: &[(u8, Needed<u8>)]) -> WaitGraph<u8> {
        let mut graph = WaitGraph::default();
        waits.iter().for_each(|(node, needs)| graph.add(*node, needs.clone()));
        graph
    }

    fn any_of<const N: usize>(whom: [u8; N]) -> Needed<u8> {
        Needed::AnyOf(whom.to_vec())
    }

    fn all_of<const N: usize>(whom: [u8; N]) -> Needed<u8> {
        Needed::AllOf(whom.to_vec())
    }

    impl WaitGraph<u8> {
        /// Those who can never go on.
        fn blocked(&self) -> HashSet<u8> {
            let nodes = self.nodes.iter().zip(self.going_on());
            nodes.filter(|(_, goes_on)| !goes_on).map(|(node, _)| *node).collect()
        }
    }

    fn sorted(circles: Vec<Vec<u8>>) -> BTreeSet<Vec<u8>> {
        let sort = |mut circle: Vec<u8>| {
            circle.sort_unstable();
            circle
        };
        circles.into_iter().map(sort).collect()
    }

    #[test]
    fn a_way_out_is_found_and_so_is_that_there_is_none() {
        for (waits, blocked, circles) in [
            // Each for the other.
            (vec![(1, any_of([2])), (2, any_of([1]))], vec![1, 2], vec![vec![1, 2]]),
            // Another may help one of them.
            (vec![(1, any_of([2])), (2, any_of([1, 9]))], vec![], vec![]),
            // Another cannot help, since all are needed.
            (vec![(1, any_of([2])), (2, all_of([1, 9]))], vec![1, 2], vec![vec![1, 2]]),
            // Behind a circle.
            (vec![(1, any_of([2])), (2, any_of([1])), (3, any_of([1]))], vec![1, 2, 3], vec![vec![1, 2]]),
            // Itself.
            (vec![(1, all_of([1]))], vec![1], vec![vec![1]]),
            (vec![(1, any_of([1, 2]))], vec![], vec![]),
            // Somebody who can act.
            (vec![(1, any_of([2])), (3, all_of([2, 4]))], vec![], vec![]),
            // Nobody: for ever, and no circle.
            (vec![(1, any_of([])), (2, any_of([1]))], vec![1, 2], vec![]),
            (vec![(1, all_of([]))], vec![], vec![]),
            // The same one twice.
            (vec![(1, any_of([2, 2])), (2, all_of([1, 1]))], vec![1, 2], vec![vec![1, 2]]),
            (vec![(1, all_of([2, 2])), (2, any_of([9]))], vec![], vec![]),
            // Two circles, one of which hangs on the other.
            (
                vec![(1, any_of([2])), (2, any_of([1])), (3, any_of([4])), (4, any_of([3, 1]))],
                vec![1, 2, 3, 4],
                vec![vec![1, 2], vec![3, 4]],
            ),
            // Three in a row, and a process whose other thread works.
            (vec![(1, any_of([2])), (2, any_of([3])), (3, any_of([1]))], vec![1, 2, 3], vec![vec![1, 2, 3]]),
            (vec![(1, any_of([2])), (2, any_of([3, 8])), (3, any_of([1]))], vec![], vec![]),
        ] {
            let graph = graph(&waits);
            assert_eq!(graph.blocked(), blocked.into_iter().collect(), "{waits:?}");
            assert_eq!(sorted(graph.circles()), circles.into_iter().collect(), "{waits:?}");
        }
    }

    #[test]
    fn what_was_said_first_counts() {
        let mut graph = graph(&[(1, any_of([2]))]);
        graph.add(1, any_of([]));
        assert_eq!(graph.needs(1), Some(&any_of([2])));
        assert!(graph.has(1) && !graph.has(2) && graph.needs(2).is_none());
        assert_eq!(graph.blocked(), HashSet::new());
    }

    prop_compose! {
        fn any_needs()(all in any::<bool>(), whom in prop::collection::vec(0u8..14, 0..4)) -> Needed<u8> {
            if all { Needed::AllOf(whom) } else { Needed::AnyOf(whom) }
        }
    }

    /// Ten nodes may wait; the four above can always act. Most graphs of so many have both circles and ways out.
    fn any_waits() -> impl Strategy<Value = Waits> {
        prop::collection::btree_map(0u8..10, any_needs(), 0..10).prop_map(|waits| waits.into_iter().collect())
    }

    /// Lets them go on, one at a time, in an order by chance, until none can.
    fn play(waits: &Waits, order: &[u8]) -> HashSet<u8> {
        let mut waiting: HashMap<u8, &Needed<u8>> =
            waits.iter().map(|(node, needs)| (*node, needs)).collect();
        loop {
            let can_go = |node: &&u8| match waiting.get(*node) {
                Some(Needed::AnyOf(whom)) => whom.iter().any(|whom| !waiting.contains_key(whom)),
                Some(Needed::AllOf(whom)) => whom.iter().all(|whom| !waiting.contains_key(whom)),
                None => false,
            };
            let Some(node) = order.iter().find(can_go).copied() else { break };
            waiting.remove(&node);
        }
        waiting.into_keys().collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { rng_seed: prop::test_runner::RngSeed::Fixed(1), ..ProptestConfig::with_cases(4_000) })]

        #[test]
        fn in_whatever_order_they_go_on_the_same_never_do(
            waits in any_waits(), order in Just((0u8..10).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            prop_assert_eq!(graph(&waits).blocked(), play(&waits, &order));
        }

        /// By who reaches whom, step by step, among those who never go on.
        #[test]
        fn a_circle_is_who_comes_back_to_itself(waits in any_waits()) {
            let graph = graph(&waits);
            let blocked = graph.blocked();
            let follow = |from: &BTreeSet<u8>| -> BTreeSet<u8> {
                let next = from.iter().filter_map(|node| graph.needs(*node)).flat_map(|needs| needs.whom());
                next.copied().filter(|node| blocked.contains(node)).collect()
            };
            let reached = |node: u8| {
                let mut reached = follow(&BTreeSet::from([node]));
                for _ in 0..10 {
                    let further = follow(&reached);
                    reached.extend(further);
                }
                reached
            };
            let circle = |node: &u8| {
                let reached_from = reached(*node);
                reached_from.contains(node).then(|| {
                    reached_from.into_iter().filter(|other| reached(*other).contains(node)).collect::<Vec<u8>>()
                })
            };
            let expected: BTreeSet<Vec<u8>> = blocked.iter().filter_map(circle).collect();
            prop_assert_eq!(sorted(graph.circles()), expected);
        }

        /// Whoever can act, or has a time-out, makes nobody's hope smaller.
        #[test]
        fn who_leaves_blocks_nobody(waits in any_waits(), leaves in 0u8..10) {
            let fewer: Waits = waits.iter().filter(|(node, _)| *node != leaves).cloned().collect();
            prop_assert!(graph(&fewer).blocked().is_subset(&graph(&waits).blocked()));
        }
    }

    #[test]
    fn graphs_are_searched_in_linear_time() {
        let ring = |number: usize| {
            let mut graph = WaitGraph::default();
            for node in 0..number {
                graph.add(node, Needed::AnyOf(vec![(node + 1) % number, (node + 7) % number]));
            }
            graph
        };
        crate::util::growth::at_each_size(|number| {
            let circles = ring(number).circles();
            assert_eq!(circles.iter().map(Vec::len).collect::<Vec<_>>(), [number]);
        });
        crate::util::growth::assert_linear("a ring", ring, |graph| assert_eq!(graph.circles().len(), 1));
        // Of a chain of chains each is free once the one before is.
        let chain = |number: usize| {
            let mut graph = WaitGraph::default();
            (0..number).for_each(|node| graph.add(node, Needed::AllOf(vec![node + 1, node + 2])));
            graph
        };
        crate::util::growth::assert_linear("a chain", chain, |graph| {
            assert!(graph.going_on().into_iter().all(|goes_on| goes_on))
        });
    }
}
