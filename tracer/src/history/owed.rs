//! Which stalls are still to be written? The latest row of each: what failed on a full disk is tried again, the endings first, since
//! a stall whose end is missing would stay open for ever.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::store::StallId;
use crate::wire::stall::StallObject;

/// Rows that may be owed.
const OWED_MAX: usize = 4096;

/// What is to be written.
#[derive(Debug, Default)]
pub struct Owed {
    rows: BTreeMap<StallId, StallObject>,
    /// Which of them are whose.
    shares: HashMap<String, Share>,
}

/// What is owed of one owner's.
#[derive(Debug, Default)]
struct Share {
    /// Stalls that have not ended.
    open: BTreeSet<StallId>,
    /// Those that have.
    closed: BTreeSet<StallId>,
}

impl Share {
    fn number(&self) -> usize {
        self.open.len() + self.closed.len()
    }
}

impl Owed {
    /// Owes this row instead of an earlier one of the same stall. Of too many, one goes of whoever has most: the oldest whose stall
    /// is still open, as its end will tell all of it.
    pub fn add(&mut self, id: StallId, stall: StallObject) {
        let (owner, closed) = (stall.wait.owner().to_string(), stall.closed.is_some());
        if let Some(earlier) = self.rows.insert(id, stall) {
            self.gone(&id, &earlier);
        }
        let share = self.shares.entry(owner).or_default();
        if closed {
            share.closed.insert(id)
        } else {
            share.open.insert(id)
        };
        if self.rows.len() > OWED_MAX
            && let Some(most) = self.shares.values().max_by_key(|share| share.number())
            && let Some(gives_way) = most.open.first().or(most.closed.first()).copied()
            && let Some(row) = self.rows.remove(&gives_way)
        {
            self.gone(&gives_way, &row);
        }
    }

    fn gone(&mut self, id: &StallId, row: &StallObject) {
        let owner = row.wait.owner().to_string();
        if let Some(share) = self.shares.get_mut(&owner) {
            share.open.remove(id);
            share.closed.remove(id);
            if share.number() == 0 {
                self.shares.remove(&owner);
            }
        }
    }

    /// Nothing is owed.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Writes the endings, then the rest; what was written is owed no longer.
    pub fn settle<E>(
        &mut self,
        mut write: impl FnMut(&[(StallId, StallObject)]) -> Result<(), E>,
    ) -> Result<(), E> {
        for closed in [true, false] {
            let rows: Vec<_> =
                self.rows.iter().filter(|(_, stall)| stall.closed.is_some() == closed).collect();
            let rows: Vec<_> = rows.into_iter().map(|(id, stall)| (*id, stall.clone())).collect();
            if !rows.is_empty() {
                write(&rows)?;
                for (id, row) in &rows {
                    self.rows.remove(id);
                    self.gone(id, row);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::samples::stall, *};

    #[test]
    fn endings_are_written_first_and_what_failed_is_owed_still() {
        let mut owed = Owed::default();
        let (first, second) = (stall(1, 0, None), stall(2, 5, Some(8)));
        owed.add(StallId::of(&first), first);
        owed.add(StallId::of(&second), second);
        let mut written = Vec::new();
        let full = owed.settle(|rows| {
            written.extend(rows.iter().map(|(_, stall)| stall.wait.pid));
            if written == [2] { Ok(()) } else { Err("full") }
        });
        assert_eq!((full, written), (Err("full"), vec![2, 1]));
        // Meanwhile it has ended: there is one row of it.
        let ended = stall(1, 0, Some(9));
        owed.add(StallId::of(&ended), ended);
        let mut rows = Vec::new();
        owed.settle(|more| {
            rows.extend(more.iter().map(|(_, stall)| (stall.wait.pid, stall.closed.is_some())));
            Ok::<_, ()>(())
        })
        .expect("written");
        assert_eq!(rows, [(1, true)]);
        assert!(owed.is_empty());
    }

    /// One user's stalls end without number; what another's is owed stays.
    #[test]
    fn whoever_has_most_gives_way() {
        let mut owed = Owed::default();
        let mut add = |uid: u32, pid: u32| {
            let mut stall = stall(pid, i64::from(pid), Some(100_000));
            stall.wait.uid = Some(uid);
            owed.add(StallId::of(&stall), stall);
        };
        (1..=10).for_each(|pid| add(0, pid));
        (11..=2 * OWED_MAX as u32).for_each(|pid| add(33, pid));
        assert_eq!(
            (owed.rows.len(), owed.shares["user 0"].number(), owed.shares["user 33"].number()),
            (OWED_MAX, 10, OWED_MAX - 10)
        );
        owed.settle(|_| Ok::<_, ()>(())).expect("written");
        assert!(owed.is_empty() && owed.shares.is_empty());
    }

    #[test]
    fn of_too_many_the_open_ones_go() {
        let mut owed = Owed::default();
        for pid in 1..=OWED_MAX as u32 {
            let stall = stall(pid, i64::from(pid), (pid % 2 == 1).then_some(100_000));
            owed.add(StallId::of(&stall), stall);
        }
        for pid in OWED_MAX as u32 + 1..=2 * OWED_MAX as u32 {
            let stall = stall(pid, i64::from(pid), Some(100_000));
            owed.add(StallId::of(&stall), stall);
        }
        assert_eq!(owed.rows.len(), OWED_MAX);
        assert!(owed.rows.values().all(|stall| stall.closed.is_some()));
    }
}
