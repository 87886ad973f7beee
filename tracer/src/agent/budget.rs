//! In what order is what is due looked at, and how much of it in one look? Pure.
//!
//! A look must end, however much there is to look at. What it does not reach is counted, and comes first the next time.

use std::{cmp::Reverse, time::Duration};

/// The least time that a look may take for what it looks up.
const LEAST: Duration = Duration::from_millis(500);

/// The parts of a look that take long. Each ends by its share of the time; what one leaves, the next ones have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// What waits wait on.
    Resolve = 1,
    /// Who is at their other ends.
    Peers,
    /// The same two of those that are to be flagged, and who they are.
    ResolveDue,
    PeersDue,
    Flag,
}

impl Stage {
    const NUMBER: u32 = Self::Flag as u32;
}

/// How much longer a stage may take: a look takes half of the interval, and half a second at the least. However late it is, a stage
/// has half of its share.
pub fn time_for(stage: Stage, interval: Duration, spent: Duration) -> Duration {
    let share = (interval / 2).max(LEAST) / Stage::NUMBER;
    (share * stage as u32).saturating_sub(spent).max(share / 2)
}

/// A wait that is due to be looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Whose it is: the user.
    pub owner: u32,
    /// It was never looked up before.
    pub new: bool,
    /// For how many looks in a row it was due and not reached.
    pub missed: u32,
    /// How long it has been since it was looked up, or since it began.
    pub since: Duration,
}

/// In what order they are looked up. Users take turns, and of each user new waits with those that were looked up before; the one comes
/// first that was missed most often, then the one that has been there longest. So nobody is kept waiting by another's many, nor for ever.
pub fn order(due: &[Due]) -> Vec<usize> {
    let queue = |at: usize| (due[at].owner, due[at].new);
    let urgency = |at: usize| Reverse((due[at].missed, due[at].since));
    let mut all: Vec<usize> = (0..due.len()).collect();
    all.sort_by_key(|at| (queue(*at), urgency(*at)));
    let mut turns = Vec::with_capacity(due.len());
    let mut turn = 0;
    for (place, at) in all.iter().enumerate() {
        turn = if place > 0 && queue(all[place - 1]) == queue(*at) { turn + 1 } else { 0 };
        turns.push((turn, !due[*at].new, urgency(*at), *at));
    }
    turns.sort_unstable();
    turns.into_iter().map(|(.., at)| at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn due(owner: u32, new: bool, missed: u32, seconds: u64) -> Due {
        Due { owner, new, missed, since: SECOND * seconds as u32 }
    }

    #[test]
    fn the_longest_missed_and_the_oldest_come_first() {
        assert_eq!(order(&[]), [] as [usize; 0]);
        let of = [due(0, false, 0, 10), due(0, false, 0, 30), due(0, false, 2, 5), due(0, false, 1, 90)];
        assert_eq!(order(&of), [2, 3, 1, 0]);
    }

    #[test]
    fn new_waits_and_old_ones_take_turns() {
        let of = [due(0, false, 0, 50), due(0, true, 0, 1), due(0, true, 0, 2), due(0, false, 0, 60)];
        assert_eq!(order(&of), [2, 3, 1, 0]);
    }

    #[test]
    fn one_users_thousands_do_not_keep_another_waiting() {
        let mut of: Vec<Due> = (0..5000).map(|at| due(65534, true, 3, 100 + at)).collect();
        of.push(due(0, true, 0, 1));
        let place = order(&of).iter().position(|at| *at == 5000);
        assert!(place < Some(2), "{place:?}");
    }

    /// Of 300 waits that are always due, 40 a look, each is looked up every eighth look, whatever else comes.
    #[test]
    fn nobody_starves() {
        const LOOKS: usize = 64;
        let mut missed = vec![0; 300];
        let mut most = 0;
        for look in 0..LOOKS {
            // Another 300 each look that nobody has seen before, of the same user.
            let mut of: Vec<Due> = missed.iter().map(|missed| due(0, false, *missed, 10)).collect();
            of.extend((0..300).map(|at| due(0, true, 0, (look * 7 + at) as u64)));
            missed.iter_mut().for_each(|missed| *missed += 1);
            for at in order(&of).into_iter().take(80).filter(|at| *at < 300) {
                missed[at] = 0;
            }
            most = most.max(missed.iter().copied().max().unwrap_or(0));
        }
        assert!(most <= 8, "{most} looks");
    }

    #[test]
    fn waits_are_put_in_order_in_no_more_than_it_takes_to_sort_them() {
        let many = |number: usize| {
            (0..number as u64).map(|at| due(at as u32 % 7, at % 3 == 0, 0, at * 31 % 997)).collect()
        };
        crate::util::growth::assert_linear("due waits", many, |due: Vec<Due>| {
            assert_eq!(order(&due).len(), due.len())
        });
    }

    #[test]
    fn a_stage_has_what_the_ones_before_have_left() {
        let time = |stage, spent| time_for(stage, SECOND, Duration::from_millis(spent)).as_millis();
        assert_eq!((time(Stage::Resolve, 0), time(Stage::Flag, 0)), (100, 500));
        assert_eq!((time(Stage::Peers, 100), time(Stage::Peers, 900)), (100, 50));
        assert_eq!(time_for(Stage::Flag, 10 * SECOND, Duration::ZERO), 5 * SECOND);
    }
}
