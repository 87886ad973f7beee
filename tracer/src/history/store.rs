//! The database: stalls by when they opened, minutes by when they were. redb commits as a whole or not at all, so a process
//! that is killed while it writes leaves what it had committed. A disk may still damage the file: redb has no checksums it
//! looks at while it reads, and panics at a page that makes no sense. Such a file is put aside, and a new one begun.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, OpenOptions},
    hash::{BuildHasher, RandomState},
    io::Read,
    os::unix::fs::PermissionsExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use flate2::{Compression, read::DeflateDecoder, write::DeflateEncoder};
use jiff::{SignedDuration, Timestamp};
use redb::{
    Builder, Database, ReadOnlyDatabase, ReadTransaction, ReadableDatabase, ReadableTable,
    ReadableTableMetadata, Table, TableDefinition, TableError, WriteTransaction, backends::FileBackend,
};

use super::{
    damage::{self, is_damage},
    error::HistoryError,
};
use crate::{
    config::Limits,
    model::wait::may_be_same_start,
    util::fair,
    util::human,
    util::regular::{self, Links},
    wire::json::WaitObject,
    wire::lines,
    wire::stall::{Past, StallObject, end, owner},
};

/// By milliseconds of Unix time at the opening, process, thread: JSON.
const STALLS: TableDefinition<'_, (u64, u32, u32), &[u8]> = TableDefinition::new("stalls");
/// By seconds of Unix time: deflated JSON lines.
const MINUTES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("minutes");
/// Memory for pages of the file, bytes.
const CACHE_BYTES: usize = 512 * 1024;
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
        Self(milliseconds(stall.opened), stall.wait.pid, stall.wait.tid)
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

enum Opened {
    Written(Database),
    Read(ReadOnlyDatabase),
    /// It could not be opened again after an error.
    Lost,
}

impl Store {
    /// Opens the file, or makes it. A damaged one is put aside: its agent must start all the same.
    pub fn open(path: &Path, limits: Limits) -> Result<Self> {
        if let Some(dir) = path.parent() {
            let attempt = || format!("make {}", dir.display());
            fs::create_dir_all(dir).map_err(|error| HistoryError::File { attempt: attempt(), error })?;
        }
        let store = Self { database: Mutex::new(Opened::Lost), path: path.to_owned(), limits };
        drop(store.opened()?);
        // What is to be gone on with must be readable; a damaged minute is found when it is too old.
        if let Ok(Rows { unread: number @ 1.., .. }) = store.look_to_go_on(rows) {
            let number = human::count(number, "stall");
            human::say(&format!("{}: skipping {number} that cannot be read", path.display()));
        }
        Ok(store)
    }

    /// Puts a damaged file aside, and begins a new one.
    fn put_aside(&self, opened: &mut Opened, error: &redb::Error) -> Result<()> {
        // Closing it writes to it.
        let _ = catch_unwind(AssertUnwindSafe(|| *opened = Opened::Lost));
        damage::put_aside(&self.path, error)?;
        let made = open(&self.path).map_err(|error| failed("make", &self.path, error.into()))?;
        *opened = Opened::Written(made);
        Ok(())
    }

    /// Opens the file to read it only.
    pub fn read(path: &Path) -> Result<Self> {
        let database = match caught(|| Ok(open_to_read(path)?)) {
            Ok(database) => Opened::Read(database),
            // An agent that was killed has left it to be mended.
            Err(redb::Error::RepairAborted) => {
                let mended = caught(|| Ok(open(path)?));
                Opened::Written(mended.map_err(|error| failed("mend", path, error))?)
            }
            Err(error) => return Err(failed("read", path, error)),
        };
        let limits = Limits { age: std::time::Duration::MAX, bytes: u64::MAX };
        Ok(Self { database: Mutex::new(database), path: path.to_owned(), limits })
    }

    fn lock(&self) -> MutexGuard<'_, Opened> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Open, also if it was not yet or was given up after an error. A damaged file is put aside.
    fn opened(&self) -> Result<MutexGuard<'_, Opened>> {
        let mut opened = self.lock();
        if let Opened::Lost = &*opened {
            match caught(|| Ok(open(&self.path)?)) {
                Ok(database) => *opened = Opened::Written(database),
                Err(redb::Error::DatabaseAlreadyOpen) => {
                    return Err(HistoryError::Taken(self.path.clone()));
                }
                Err(error) if is_damage(&error) => self.put_aside(&mut opened, &error)?,
                Err(error) => return Err(failed("open", &self.path, error)),
            }
        }
        Ok(opened)
    }

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

    fn write(&self, work: impl FnOnce(&WriteTransaction) -> FromDatabase<()>) -> Result<()> {
        let mut opened = self.opened()?;
        let Opened::Written(database) = &*opened else { return Err(HistoryError::ReadOnly) };
        let result = caught(|| {
            let mut transaction = database.begin_write()?;
            // Opening the file after a crash then takes no time.
            transaction.set_quick_repair(true);
            work(&transaction)?;
            transaction.commit()?;
            Ok(())
        });
        result.or_else(|error| {
            if is_damage(&error) {
                self.put_aside(&mut opened, &error)?;
            } else {
                // After an error of the disk nothing more can be written through this handle.
                *opened = Opened::Lost;
            }
            Err(failed("write", &self.path, error))
        })
    }

    fn begin_read(&self) -> Result<ReadTransaction> {
        let begun = match &*self.opened()? {
            Opened::Written(database) => caught(|| Ok(database.begin_read()?)),
            Opened::Read(database) => caught(|| Ok(database.begin_read()?)),
            Opened::Lost => return Err(HistoryError::Lost),
        };
        begun.map_err(|error| failed("read", &self.path, error))
    }

    fn look<T>(&self, work: impl FnOnce(&ReadTransaction) -> FromDatabase<T>) -> Result<T> {
        let transaction = self.begin_read()?;
        caught(move || work(&transaction)).map_err(|error| failed("read", &self.path, error))
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
        let thread = |wait: &WaitObject| (wait.pid, wait.tid);
        let mut there: HashMap<(u32, u32), Option<u64>> =
            past.waits.iter().map(|wait| (thread(wait), wait.start_ticks)).collect();
        for stall in self.stalls_since(at)? {
            let open = stall.opened <= at && stall.closed.is_none_or(|closed| closed > at);
            let seen = there.get(&thread(&stall.wait));
            if open && !seen.is_some_and(|start| may_be_same_start(*start, stall.wait.start_ticks)) {
                there.insert(thread(&stall.wait), stall.wait.start_ticks);
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

    /// Looks for what is to be gone on with. Of a file so damaged that it cannot be read that is nothing, and it is put aside.
    fn look_to_go_on<T: Default>(&self, work: impl FnOnce(&ReadTransaction) -> FromDatabase<T>) -> Result<T> {
        self.look(work).or_else(|error| {
            let Some(damage) = error.damage() else { return Err(error) };
            self.put_aside(&mut self.lock(), damage)?;
            Ok(T::default())
        })
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

/// Bytes of pages in use. It looks at each of them.
fn in_use(transaction: &WriteTransaction) -> FromDatabase<u64> {
    let stats = transaction.stats()?;
    // Its "fragmented" bytes are all that is free, too.
    Ok(stats.allocated_pages() * stats.page_size() as u64)
}

fn failed(attempt: &'static str, path: &Path, error: redb::Error) -> HistoryError {
    HistoryError::Database { attempt, path: path.to_owned(), error: Box::new(error) }
}

/// A panic of redb's is damage of the file.
fn caught<T>(work: impl FnOnce() -> FromDatabase<T>) -> FromDatabase<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref().copied()).unwrap_or("a page makes no sense");
        Err(redb::Error::Corrupted(said.to_owned()))
    })
}

fn open(path: &Path) -> std::result::Result<Database, redb::DatabaseError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let file = regular::open(path, &mut options, Links::Followed)?;
    // Names of processes and of their peers are nobody else's business.
    let _ = file.set_permissions(fs::Permissions::from_mode(0o600));
    Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(FileBackend::new(file)?)
}

fn open_to_read(path: &Path) -> std::result::Result<ReadOnlyDatabase, redb::DatabaseError> {
    let file = regular::open(path, OpenOptions::new().read(true), Links::Followed)?;
    Builder::new().open_read_only_with_backend(FileBackend::new(file)?)
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

/// A table that nobody has written yet is not there.
fn there<T>(table: std::result::Result<T, TableError>) -> FromDatabase<Option<T>> {
    match table {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
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
    use std::time::Duration;

    use super::{
        super::samples::{damage_pages, stall},
        *,
    };

    const DAY: i64 = 86_400;

    /// A store in memory's file system, and its directory, which goes with it.
    struct Tried {
        store: Store,
        dir: PathBuf,
    }

    impl Tried {
        fn new(name: &str, limits: Limits) -> Self {
            let dir = std::env::temp_dir().join(format!("tracer-store-{}-{name}", std::process::id()));
            Self { store: Store::open(&dir.join("history.redb"), limits).expect("a directory of ours"), dir }
        }

        fn put(&self, stall: &StallObject) {
            self.store.put(&[(StallId::of(stall), stall.clone())], None).expect("written");
        }

        fn pids(&self) -> Vec<u32> {
            let stalls = self.store.stalls_since(Timestamp::UNIX_EPOCH).expect("read");
            stalls.iter().map(|stall| stall.wait.pid).collect()
        }
    }

    impl Drop for Tried {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("a moment")
    }

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
    /// Pages that a disk has lost, bits that it has turned, a file that is cut off: nothing of it keeps an agent from starting,
    /// or from keeping what is new.
    #[test]
    fn a_damaged_file_is_read_or_put_aside() {
        let all = || Limits { age: Duration::MAX, bytes: u64::MAX };
        let tried = Tried::new("damage", all());
        let closed = |pid: u32| (!pid.is_multiple_of(3)).then_some(3000);
        let rows: Vec<_> = (1..=150).map(|pid| stall(pid, i64::from(pid), closed(pid))).collect();
        let rows: Vec<_> = rows.into_iter().map(|stall| (StallId::of(&stall), stall)).collect();
        for (minute, rows) in (0..).zip(rows.chunks(10)) {
            let waits = vec![stall(5, 0, None).wait; 20];
            tried.store.put(rows, Some((at(minute * 60), &waits))).expect("written");
        }
        *tried.store.lock() = Opened::Lost;
        let file = tried.dir.join("history.redb");
        let good = fs::read(&file).expect("ours");
        let mut seed = 1_u64;
        let mut random = move |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed as usize % below
        };
        let mut put_aside = 0;
        for round in 0..100 {
            let mut bytes = good.clone();
            let place = random(bytes.len());
            match random(4) {
                0 => bytes[place] ^= 1 << random(8),
                1 => bytes[place & !4095..].iter_mut().take(4096).for_each(|byte| *byte = 0),
                2 => bytes[place..].iter_mut().take(64).for_each(|byte| *byte = random(256) as u8),
                _ => bytes.truncate(place),
            }
            fs::remove_dir_all(&tried.dir).expect("ours");
            fs::create_dir_all(&tried.dir).expect("ours");
            fs::write(&file, &bytes).expect("ours");
            // By one who only asks, as after an agent.
            let _ = Store::read(&file).and_then(|store| store.stalls_since(at(0)));
            // Each second time there is too much: each page in use is looked at.
            let limits = if round % 2 == 0 { all() } else { Limits { bytes: 0, ..all() } };
            let store = Store::open(&file, limits).expect("it starts");
            store.left().expect("read");
            let fresh = stall(5000, 90_000, None);
            let write = || store.put(&[(StallId::of(&fresh), fresh.clone())], Some((at(90_000), &[])));
            // What is found while it is written is lost; not so what comes after.
            write().or_else(|_| write()).expect("written");
            let prune = || store.prune(at(90_000));
            prune().or_else(|_| prune()).expect("pruned");
            write().expect("written");
            let kept = store.stalls_since(at(0)).expect("read");
            assert!(kept.iter().any(|stall| stall.wait.pid == 5000));
            let _ = store.waits_at(at(600));
            put_aside += u32::from(file.with_extension("damaged").exists());
        }
        assert!((10..90).contains(&put_aside), "{put_aside}");
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

    /// As after an error of the disk's, which also has damaged it.
    #[test]
    fn one_that_is_found_damaged_when_it_is_opened_again_is_put_aside() {
        let tried = Tried::new("again", Limits { age: Duration::MAX, bytes: u64::MAX });
        tried.put(&stall(1, 0, None));
        for aside in ["damaged", "damaged-2"] {
            *tried.store.lock() = Opened::Lost;
            let file = tried.dir.join("history.redb");
            fs::write(&file, vec![0x5a; 64 * 1024]).expect("ours");
            tried.put(&stall(2, 0, None));
            assert_eq!(tried.pids(), [2]);
            assert!(file.with_extension(aside).exists());
        }
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

    #[test]
    fn of_damaged_files_the_two_largest_are_kept() {
        let tried = Tried::new("aside", Limits { age: Duration::MAX, bytes: u64::MAX });
        let file = tried.dir.join("history.redb");
        for (size, kept) in [(64, [64, 0]), (8, [64, 8]), (16, [64, 16]), (4, [64, 16])] {
            *tried.store.lock() = Opened::Lost;
            fs::write(&file, vec![0x5a; size * 1024]).expect("ours");
            tried.put(&stall(2, 0, None));
            let size = |ending| fs::metadata(file.with_extension(ending)).map_or(0, |file| file.len() / 1024);
            assert_eq!(damage::ASIDE_SUFFIXES.map(size), kept);
        }
        assert_eq!(fs::read_dir(&tried.dir).expect("ours").count(), 3);
    }
}
