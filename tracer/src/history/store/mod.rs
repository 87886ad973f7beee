//! The database: stalls by when they opened, minutes by when they were.
//!
//! Part of `history`, layer 5, and uses what that may use. Here is what is kept and asked for; `file` opens the database, writes and
//! reads it, and puts a damaged one aside; `prune` says what goes.

mod file;
mod prune;

use std::{collections::HashMap, io::Read, path::PathBuf, sync::Mutex};

use flate2::{Compression, read::DeflateDecoder, write::DeflateEncoder};
use jiff::{SignedDuration, Timestamp};
use redb::{ReadTransaction, ReadableTable, TableDefinition};

use self::file::{Opened, there};
use super::error::HistoryError;
use crate::{
    config::Limits,
    model::wait::may_be_same_start,
    wire::json::{WaitObject, Waiter},
    wire::lines,
    wire::stall::{Past, StallObject},
};

/// By milliseconds of Unix time at the opening, process, thread: JSON.
const STALLS: TableDefinition<'_, (u64, u32, u32), &[u8]> = TableDefinition::new("stalls");
/// By seconds of Unix time: deflated JSON lines.
const MINUTES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("minutes");
/// Nobody asks for more of a minute that is older than this before the moment they ask for.
const MINUTE_GAP_MAX: SignedDuration = SignedDuration::from_secs(150);
/// A minute is never larger, bytes of JSON: more would not be ours.
const MINUTE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Of anything that is asked of the history.
type Result<T> = std::result::Result<T, HistoryError>;
/// Of what the database is asked.
type FromDatabase<T> = std::result::Result<T, redb::Error>;

/// What a stall is kept under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StallId(u64, u32, u32);

impl StallId {
    /// Of a stall that is new.
    pub fn of(stall: &StallObject) -> Self {
        // Requests of one process may be flagged together: an fd is not as large as this, and neither is the id of a thread.
        let request = stall.wait.waiter().2.map(|fd| 1 << 31 | fd.unsigned_abs());
        Self(milliseconds(stall.opened), stall.wait.pid, request.unwrap_or(stall.wait.tid))
    }

    fn key(self) -> (u64, u32, u32) {
        (self.0, self.1, self.2)
    }
}

/// The database, open.
pub struct Store {
    database: Mutex<Opened>,
    path: PathBuf,
    limits: Limits,
}

impl Store {
    /// Writes stalls, and the waits of a moment.
    pub fn put(
        &self,
        stalls: &[(StallId, StallObject)],
        minute: Option<(Timestamp, &[WaitObject])>,
    ) -> Result<()> {
        let stalls: Vec<_> = stalls
            .iter()
            .map(|(id, stall)| Ok((id.key(), serde_json::to_vec(stall)?)))
            .collect::<Result<_>>()?;
        let minute = minute.map(|(at, waits)| Ok::<_, HistoryError>((at, pack(waits)?))).transpose()?;
        self.write(|transaction| {
            let mut table = transaction.open_table(STALLS)?;
            for (key, bytes) in &stalls {
                table.insert(key, bytes.as_slice())?;
            }
            let mut table = transaction.open_table(MINUTES)?;
            if let Some((at, bytes)) = &minute {
                table.insert(at.as_second().max(0) as u64, bytes.as_slice())?;
            }
            Ok(())
        })
    }

    /// What waited at a moment: the minute before it, and the stalls that were open then.
    pub fn waits_at(&self, at: Timestamp) -> Result<Past> {
        let minute = self.look(|transaction| {
            let Some(minutes) = there(transaction.open_table(MINUTES))? else { return Ok(None) };
            let last = minutes.range(..=at.as_second().max(0) as u64)?.next_back().transpose()?;
            Ok(last.map(|(key, bytes)| (key.value(), bytes.value().to_vec())))
        })?;
        let mut past = Past { at: None, waits: Vec::new() };
        if let Some((key, bytes)) = minute {
            let seen = Timestamp::from_second(key as i64)?;
            if at.duration_since(seen) <= MINUTE_GAP_MAX {
                past = Past { at: Some(seen), waits: unpack(&bytes)? };
            }
        }
        let mut there: HashMap<Waiter, Option<u64>> =
            past.waits.iter().map(|wait| (wait.waiter(), wait.start_ticks)).collect();
        for stall in self.stalls_since(at)? {
            let open = stall.opened <= at && stall.closed.is_none_or(|closed| closed > at);
            let seen = there.get(&stall.wait.waiter());
            if open && !seen.is_some_and(|start| may_be_same_start(*start, stall.wait.start_ticks)) {
                there.insert(stall.wait.waiter(), stall.wait.start_ticks);
                let age = at.duration_since(stall.wait.since).try_into().unwrap_or_default();
                past.waits.push(WaitObject { age, ..stall.wait });
            }
        }
        Ok(past)
    }

    /// Stalls that were open after a moment, the oldest first. Those that are open still have lasted until now. What cannot be
    /// read is left out.
    pub fn stalls_since(&self, since: Timestamp) -> Result<Vec<StallObject>> {
        let mut stalls = self.look(rows)?.stalls;
        stalls.retain(|stall| stall.closed.is_none_or(|closed| closed >= since));
        Ok(stalls)
    }

    /// Stalls without an end, the oldest first.
    pub fn open_stalls(&self) -> Result<Vec<(StallId, StallObject)>> {
        let mut stalls = self.look_to_go_on(rows)?.stalls;
        stalls.retain(|stall| stall.closed.is_none());
        Ok(stalls.into_iter().map(|stall| (StallId::of(&stall), stall)).collect())
    }

    /// What an agent goes on with: stalls without an end, and when the one before it last wrote.
    pub fn left(&self) -> Result<Predecessor> {
        // The stalls first: if the other cannot be read, the file is put aside, and they are written to the new one.
        let open = self.open_stalls()?;
        let alive = self.look_to_go_on(last_row)?.and_then(moment);
        if self.open_stalls()?.len() < open.len() {
            self.put(&open, None)?;
        }
        Ok(Predecessor { open, alive })
    }

    /// When it was last written: a minute, or a stall that opened.
    pub fn last_alive(&self) -> Result<Option<Timestamp>> {
        Ok(self.look(last_row)?.and_then(moment))
    }
}

/// What an agent has left for the next one.
pub struct Predecessor {
    /// Stalls without an end.
    pub open: Vec<(StallId, StallObject)>,
    /// When it last wrote.
    pub alive: Option<Timestamp>,
}

/// All stalls, the oldest first.
#[derive(Default)]
struct Rows {
    stalls: Vec<StallObject>,
    /// How many rows are damaged, or of another version of tracer's.
    unread: usize,
}

fn rows(transaction: &ReadTransaction) -> FromDatabase<Rows> {
    let mut rows = Rows::default();
    let Some(table) = there(transaction.open_table(STALLS))? else { return Ok(rows) };
    for row in table.iter()? {
        let (_, bytes) = row?;
        let Ok(mut stall) = serde_json::from_slice::<StallObject>(bytes.value()) else {
            rows.unread += 1;
            continue;
        };
        if stall.closed.is_none() {
            let now = Timestamp::now();
            stall.lasted = now.duration_since(stall.wait.since).try_into().unwrap_or(stall.lasted);
        }
        rows.stalls.push(stall);
    }
    Ok(rows)
}

/// Milliseconds of Unix time of the last row.
fn last_row(transaction: &ReadTransaction) -> FromDatabase<Option<u64>> {
    let mut last = None;
    if let Some(table) = there(transaction.open_table(MINUTES))? {
        last = table.last()?.map(|(key, _)| key.value().saturating_mul(1000));
    }
    if let Some(table) = there(transaction.open_table(STALLS))? {
        last = last.max(table.last()?.map(|(key, _)| key.value().0));
    }
    Ok(last)
}

fn moment(milliseconds: u64) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(milliseconds).ok()?).ok()
}

fn milliseconds(at: Timestamp) -> u64 {
    at.as_millisecond().max(0) as u64
}

fn pack(waits: &[WaitObject]) -> Result<Vec<u8>> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    for wait in waits {
        lines::write(&mut encoder, wait)?;
    }
    Ok(encoder.finish()?)
}

fn unpack(bytes: &[u8]) -> Result<Vec<WaitObject>> {
    let mut text = Vec::new();
    DeflateDecoder::new(bytes).take(MINUTE_BYTES_MAX).read_to_end(&mut text)?;
    Ok(lines::read(&text)?)
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;
    use crate::{history::samples::stall, wire::stall::end};

    pub const DAY: i64 = 86_400;

    /// A store in memory's file system, and its directory, which goes with it.
    pub struct Tried {
        pub store: Store,
        pub dir: PathBuf,
    }

    impl Tried {
        pub fn new(name: &str, limits: Limits) -> Self {
            let dir = std::env::temp_dir().join(format!("tracer-store-{}-{name}", std::process::id()));
            Self { store: Store::open(&dir.join("history.redb"), limits).expect("a directory of ours"), dir }
        }

        pub fn put(&self, stall: &StallObject) {
            self.store.put(&[(StallId::of(stall), stall.clone())], None).expect("written");
        }

        pub fn pids(&self) -> Vec<u32> {
            let stalls = self.store.stalls_since(Timestamp::UNIX_EPOCH).expect("read");
            stalls.iter().map(|stall| stall.wait.pid).collect()
        }
    }

    impl Drop for Tried {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }

    /// A look may flag several requests of one process.
    #[test]
    fn requests_of_one_moment_are_kept_apart() {
        let request = |fd| {
            let mut stall = stall(7, 1_000, None);
            (stall.wait.tid, stall.wait.fd) = (0, Some(fd));
            StallId::of(&stall)
        };
        let thread = StallId::of(&stall(7, 1_000, None));
        assert!(request(3) != request(4) && request(3) != thread);
        assert_eq!(request(3), request(3));
    }

    pub fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("a moment")
    }

    #[test]
    fn what_was_open_at_a_moment_is_there_although_no_minute_was_kept() {
        let tried = Tried::new("moment", Limits { age: Duration::MAX, bytes: u64::MAX });
        tried.put(&stall(1, 100, Some(200)));
        let past = |seconds| tried.store.waits_at(at(seconds)).expect("read");
        let pids = |past: &Past| past.waits.iter().map(|wait| wait.pid).collect::<Vec<_>>();
        assert_eq!((past(150).at, pids(&past(150))), (None, vec![1]));
        assert_eq!((pids(&past(99)), pids(&past(200))), (vec![], vec![]));
        tried.store.put(&[], Some((at(140), &[stall(2, 0, None).wait]))).expect("written");
        assert_eq!((past(150).at, pids(&past(150))), (Some(at(140)), vec![2, 1]));
    }

    /// A row of another version's, without an end.
    #[test]
    fn a_row_that_cannot_be_read_is_no_open_stall() {
        let closed = |row: &str| end(row.as_bytes());
        assert_eq!(closed(r#"{"closed":null}"#), Some(Timestamp::UNIX_EPOCH));
        assert_eq!(closed("{"), Some(Timestamp::UNIX_EPOCH));
        assert_eq!(closed(r#"{"closed":"1970-01-01T00:00:09Z"}"#), Some(at(9)));
        assert_eq!(end(&serde_json::to_vec(&stall(1, 0, None)).expect("JSON")), None);
    }
}
