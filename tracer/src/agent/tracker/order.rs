//! In what order are waits looked up? Pure. A look must end, however much there is to look at: what it does not reach comes first
//! the next time.

use std::{cmp::Reverse, time::Duration};

/// Why a wait is to be looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It may have to be flagged.
    MayBeStall,
    /// It was never looked up before.
    New,
    /// It has lasted much longer than at the last look.
    Again,
}

/// How urgent that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Urgency {
    /// Whose it is: the user.
    pub owner: u32,
    /// Why.
    pub reason: Reason,
    /// For how many looks in a row it was due and not reached.
    pub missed: u32,
    /// How long it has been since it was looked up, or since it began.
    pub since: Duration,
}

/// Puts things in order, the most urgent first. Users take turns, and of each user the reasons do; the one comes first that was missed
/// most often, then the one that has been there longest. So nobody is kept waiting by another's many, nor for ever.
pub fn in_order<T>(mut things: Vec<(Urgency, T)>) -> Vec<T> {
    let queue = |urgency: &Urgency| (urgency.owner, urgency.reason);
    let place = |urgency: &Urgency| Reverse((urgency.missed, urgency.since));
    things.sort_by_key(|(urgency, _)| (queue(urgency), place(urgency)));
    let mut turns = Vec::with_capacity(things.len());
    let (mut last, mut turn) = (None, 0);
    for (urgency, thing) in things {
        turn = if last.replace(queue(&urgency)) == Some(queue(&urgency)) { turn + 1 } else { 0 };
        turns.push((turn, urgency, thing));
    }
    turns.sort_by_key(|(turn, urgency, _)| (*turn, urgency.reason, place(urgency)));
    turns.into_iter().map(|(.., thing)| thing).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn urgency(owner: u32, reason: Reason, missed: u32, seconds: u64) -> Urgency {
        Urgency { owner, reason, missed, since: SECOND * seconds as u32 }
    }

    /// Where in the list those are that come first, second, and so on.
    fn order(of: &[Urgency]) -> Vec<usize> {
        in_order(of.iter().copied().zip(0..).collect())
    }

    #[test]
    fn the_longest_missed_and_the_oldest_come_first() {
        assert_eq!(order(&[]), [] as [usize; 0]);
        let of = [(0, 10), (0, 30), (2, 5), (1, 90)];
        assert_eq!(
            order(&of.map(|(missed, seconds)| urgency(0, Reason::Again, missed, seconds))),
            [2, 3, 1, 0]
        );
    }

    #[test]
    fn reasons_take_turns() {
        let of = [
            (Reason::Again, 50),
            (Reason::New, 1),
            (Reason::New, 2),
            (Reason::Again, 60),
            (Reason::MayBeStall, 1),
        ];
        assert_eq!(order(&of.map(|(reason, seconds)| urgency(0, reason, 0, seconds))), [4, 2, 3, 1, 0]);
    }

    #[test]
    fn one_users_thousands_do_not_keep_another_waiting() {
        let mut of: Vec<Urgency> = (0..5000).map(|at| urgency(65534, Reason::New, 3, 100 + at)).collect();
        of.push(urgency(0, Reason::New, 0, 1));
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
            let mut of: Vec<Urgency> =
                missed.iter().map(|missed| urgency(0, Reason::Again, *missed, 10)).collect();
            of.extend((0..300).map(|at| urgency(0, Reason::New, 0, (look * 7 + at) as u64)));
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
            let reason = |at: u64| if at.is_multiple_of(3) { Reason::New } else { Reason::Again };
            (0..number as u64).map(|at| urgency(at as u32 % 7, reason(at), 0, at * 31 % 997)).collect()
        };
        crate::util::growth::assert_linear("due waits", many, |of: Vec<Urgency>| {
            assert_eq!(order(&of).len(), of.len());
        });
    }
}
