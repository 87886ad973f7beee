//! Which stalls are still to be written? The latest row of each: what failed on a full disk is tried again, the endings first, since
//! a stall whose end is missing would stay open for ever.

use std::collections::BTreeMap;

use super::store::Id;
use crate::export::events::StallObject;

/// Rows that may be owed.
const MOST: usize = 4096;

/// What is to be written.
#[derive(Debug, Default)]
pub struct Owed {
    /// Stalls that have ended.
    closed: BTreeMap<Id, StallObject>,
    /// Those that have not.
    open: BTreeMap<Id, StallObject>,
}

impl Owed {
    /// Owes this row instead of an earlier one of the same stall. Of too many, the oldest goes whose stall is still open: its end
    /// will tell all of it.
    pub fn add(&mut self, id: Id, stall: StallObject) {
        self.closed.remove(&id);
        self.open.remove(&id);
        let rows = if stall.closed.is_some() { &mut self.closed } else { &mut self.open };
        rows.insert(id, stall);
        if self.closed.len() + self.open.len() > MOST && self.open.pop_first().is_none() {
            self.closed.pop_first();
        }
    }

    /// Nothing is owed.
    pub fn is_empty(&self) -> bool {
        self.closed.is_empty() && self.open.is_empty()
    }

    /// Writes the endings, then the rest; what was written is owed no longer.
    pub fn settle<E>(
        &mut self,
        mut write: impl FnMut(&[(Id, StallObject)]) -> Result<(), E>,
    ) -> Result<(), E> {
        for owed in [&mut self.closed, &mut self.open] {
            let rows: Vec<_> = owed.iter().map(|(id, stall)| (*id, stall.clone())).collect();
            if !rows.is_empty() {
                write(&rows)?;
                owed.clear();
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
        owed.add(Id::of(&first), first);
        owed.add(Id::of(&second), second);
        let mut written = Vec::new();
        let full = owed.settle(|rows| {
            written.extend(rows.iter().map(|(_, stall)| stall.wait.pid));
            if written == [2] { Ok(()) } else { Err("full") }
        });
        assert_eq!((full, written), (Err("full"), vec![2, 1]));
        // Meanwhile it has ended: there is one row of it.
        let ended = stall(1, 0, Some(9));
        owed.add(Id::of(&ended), ended);
        let mut rows = Vec::new();
        owed.settle(|more| {
            rows.extend(more.iter().map(|(_, stall)| (stall.wait.pid, stall.closed.is_some())));
            Ok::<_, ()>(())
        })
        .expect("written");
        assert_eq!(rows, [(1, true)]);
        assert!(owed.is_empty());
    }

    #[test]
    fn of_too_many_the_open_ones_go() {
        let mut owed = Owed::default();
        for pid in 1..=MOST as u32 {
            let stall = stall(pid, i64::from(pid), (pid % 2 == 1).then_some(100_000));
            owed.add(Id::of(&stall), stall);
        }
        for pid in MOST as u32 + 1..=2 * MOST as u32 {
            let stall = stall(pid, i64::from(pid), Some(100_000));
            owed.add(Id::of(&stall), stall);
        }
        assert_eq!((owed.closed.len(), owed.open.len()), (MOST, 0));
    }
}
