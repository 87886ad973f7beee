//! What is thrown away: what is older than is kept, and of what is too much the oldest of whoever has most.

use std::{
    collections::HashSet,
    fs,
    hash::{BuildHasher, RandomState},
};

use jiff::Timestamp;
use redb::{ReadableTable, ReadableTableMetadata, Table, WriteTransaction};

use super::{FromDatabase, MINUTES, Result, STALLS, Store, milliseconds};
use crate::{
    util::fair,
    wire::stall::{end, owner},
};

impl Store {
    /// Throws away what is older than is kept, and of what is too much the oldest minutes, and the oldest stalls of whoever has
    /// most. A stall is as old as its end; one that is open is not thrown away.
    pub fn prune(&self, now: Timestamp) -> Result<()> {
        let oldest = now.checked_sub(self.limits.age).unwrap_or(Timestamp::UNIX_EPOCH);
        let size = fs::metadata(&self.path).map_or(0, |file| file.len());
        self.write(|transaction| {
            // Half of the file may be free pages by now, so what is in use decides.
            let excess = size > self.limits.bytes && in_use(transaction)? > self.limits.bytes / 2;
            let mut minutes = transaction.open_table(MINUTES)?;
            let mut stalls = transaction.open_table(STALLS)?;
            minutes.retain_in(..oldest.as_second().max(0) as u64, |_, _| false)?;
            stalls.retain_in(..(milliseconds(oldest), 0, 0), |_, row| {
                end(row).is_none_or(|end| end >= oldest)
            })?;
            if excess {
                // A tenth of the minutes; of the stalls too, once there are no more minutes than a day's.
                let tenth = minutes.len()? / 10 + 1;
                for _ in 0..tenth {
                    minutes.pop_first()?;
                }
                if minutes.len()? < 1440 {
                    let most = (stalls.len()? - stalls.len()? / 10).saturating_sub(1) as usize;
                    let goes = too_many(&stalls, most)?;
                    stalls.retain(|key, _| !goes.contains(&key))?;
                }
            }
            Ok(())
        })
    }
}

/// Bytes of pages in use. It looks at each of them.
pub(super) fn in_use(transaction: &WriteTransaction) -> FromDatabase<u64> {
    let stats = transaction.stats()?;
    // Its "fragmented" bytes are all that is free, too.
    Ok(stats.allocated_pages() * stats.page_size() as u64)
}

/// A stall's key.
type StallKey = (u64, u32, u32);

/// Which stalls go so that so many are left, if as many have ended: the oldest of whoever has most.
fn too_many(stalls: &Table<'_, StallKey, &[u8]>, most: usize) -> FromDatabase<HashSet<StallKey>> {
    let hasher = RandomState::new();
    let mut ended: Vec<(StallKey, u64)> = Vec::new();
    let mut open = 0;
    for row in stalls.iter()?.rev() {
        let (key, row) = row?;
        match end(row.value()) {
            Some(_) => ended.push((key.value(), hasher.hash_one(owner(row.value())))),
            None => open += 1,
        }
    }
    let mut goes: HashSet<StallKey> = ended.iter().map(|(key, _)| *key).collect();
    for (key, _) in fair::keep(ended, most.saturating_sub(open), |(_, owner)| *owner) {
        goes.remove(&key);
    }
    Ok(goes)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        config::Limits,
        history::samples::{damage_pages, stall},
        history::store::StallId,
        history::store::file::Opened,
        history::store::tests::{DAY, Tried, at},
    };

    #[test]
    fn a_stall_is_as_old_as_its_end_and_an_open_one_is_kept() {
        let limits = Limits { age: Duration::from_secs(8 * DAY as u64), bytes: u64::MAX };
        let tried = Tried::new("age", limits);
        for stall in [
            stall(1, 0, None),
            stall(2, DAY, Some(2 * DAY)),
            stall(3, 2 * DAY, Some(29 * DAY)),
            stall(4, 25 * DAY, Some(26 * DAY)),
        ] {
            tried.put(&stall);
        }
        let wait = stall(5, 0, None).wait;
        tried.store.put(&[], Some((at(DAY), std::slice::from_ref(&wait)))).expect("written");
        tried.store.put(&[], Some((at(29 * DAY), &[wait]))).expect("written");
        tried.store.prune(at(30 * DAY)).expect("pruned");
        assert_eq!(tried.pids(), [1, 3, 4]);
        let kept = |seconds| tried.store.waits_at(at(seconds)).expect("read").at;
        assert_eq!((kept(DAY + 1), kept(29 * DAY + 1)), (None, Some(at(29 * DAY))));
    }

    #[test]
    fn what_is_too_much_goes_but_not_what_is_open() {
        let limits = Limits { age: Duration::from_secs(365 * DAY as u64), bytes: 1024 * 1024 };
        let tried = Tried::new("bytes", limits);
        let open = (1..=40).map(|pid| stall(pid, i64::from(pid), None));
        let closed = (41..=2000).map(|pid| stall(pid, i64::from(pid), Some(3000)));
        let rows: Vec<_> = open.chain(closed).map(|stall| (StallId::of(&stall), stall)).collect();
        tried.store.put(&rows, None).expect("written");
        for _ in 0..60 {
            tried.store.prune(at(DAY)).expect("pruned");
        }
        let mut in_use = 0;
        let look = |transaction: &WriteTransaction| {
            in_use = super::in_use(transaction)?;
            Ok(())
        };
        tried.store.write(look).expect("read");
        let pids = tried.pids();
        // No more than has to.
        assert!((256..=512).contains(&(in_use / 1024)), "{in_use} bytes, {} stalls", pids.len());
        assert!((1..=40).all(|pid| pids.contains(&pid)), "{pids:?}");
        assert!(pids.contains(&2000), "the youngest stays: {pids:?}");
    }

    /// One user's stalls come and go by the thousand: the few of another, which are older, stay.
    #[test]
    fn of_too_many_those_go_of_whoever_has_most() {
        let limits = Limits { age: Duration::from_secs(365 * DAY as u64), bytes: 1024 * 1024 };
        let tried = Tried::new("shares", limits);
        let rows = (1..=2000).map(|pid| {
            let mut stall = stall(pid, i64::from(pid), Some(3000));
            stall.wait.uid = Some(if pid <= 20 { 0 } else { 33 });
            (StallId::of(&stall), stall)
        });
        tried.store.put(&rows.collect::<Vec<_>>(), None).expect("written");
        for _ in 0..60 {
            tried.store.prune(at(DAY)).expect("pruned");
        }
        let pids = tried.pids();
        assert!((21..1500).contains(&pids.len()), "{}", pids.len());
        assert!((1..=20).all(|pid| pids.contains(&pid)) && pids.contains(&2000), "{pids:?}");
    }

    /// What is in use is counted page by page. One that makes no sense must not keep what is too much from going for ever.
    #[test]
    fn a_damaged_minute_does_not_keep_what_is_too_much() {
        let tried = Tried::new("pruned", Limits { age: Duration::MAX, bytes: 1 });
        let waits = vec![stall(5, 0, None).wait; 5];
        for minute in 0..100 {
            tried.store.put(&[], Some((at(0x1234_5678 + minute * 60), &waits))).expect("written");
        }
        *tried.store.lock() = Opened::Lost;
        let file = tried.dir.join("history.redb");
        assert!(damage_pages(&file, &(0x1234_5678_u64 + 50 * 60).to_le_bytes()) > 0);
        tried.put(&stall(1, 0, None));
        let prune = || tried.store.prune(at(0x1234_5678));
        prune().expect_err("a page of it makes no sense");
        prune().expect("pruned");
        assert!(file.with_extension("damaged").exists());
    }
}
