//! The queue of events that have not been sent: in a database on disk, so that they survive a restart. Bounded: where there is no room, the oldest
//! give way, and are counted until that has been told.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, backends::FileBackend,
};

use super::recent::{Identity, RecentEvents};
use crate::util::{
    human,
    regular::{self, Links},
};

/// Events by their number, each as the agent wrote it.
const EVENTS: TableDefinition<u64, &[u8]> = TableDefinition::new("events");
/// Single numbers by name.
const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("numbers");
/// What events of the last minutes are about, and when each happened, milliseconds of Unix time.
const RECENT: TableDefinition<Identity, i64> = TableDefinition::new("recent");
/// Of [`NUMBERS`]: events that were lost, and that nobody has been told of.
const LOST: &str = "lost";
/// Of [`NUMBERS`]: the time of the newest event, milliseconds of Unix time.
const NEWEST: &str = "newest";

/// Memory for the database, bytes.
const CACHE_BYTES: usize = 4 * 1024 * 1024;
/// How long an empty queue is waited for at a time.
const WAIT: Duration = Duration::from_secs(2);
/// Bytes of events that are read at once; one event is, however long. As a request they have about twice as many, and a proxy before a receiver
/// may take a megabyte only.
const READ_BYTES_MAX: usize = 256 * 1024;

/// The queue.
pub struct EventQueue {
    database: Database,
    bytes_max: u64,
    size: Mutex<QueueSize>,
    grown: Condvar,
}

/// What is in it.
struct QueueSize {
    bytes: u64,
    next: u64,
    /// The newest event that is being sent, which does not give way any more.
    sending: Option<u64>,
}

impl EventQueue {
    /// The one in this directory, which is made if it is not there. A damaged one is put aside.
    pub fn open(dir: &Path, bytes_max: u64) -> Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(dir)
            .with_context(|| format!("cannot make the directory {}", dir.display()))?;
        let path = dir.join("export.redb");
        let database = match create(&path) {
            Ok(database) => database,
            Err(DatabaseError::DatabaseAlreadyOpen) => {
                bail!("another tracer export keeps its queue in {}", dir.display())
            }
            Err(error) if is_damage(&error) => put_aside(&path, &error)?,
            Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
        };
        let mut size = QueueSize { bytes: 0, next: 0, sending: None };
        let write = database.begin_write()?;
        {
            let events = write.open_table(EVENTS)?;
            write.open_table(NUMBERS)?;
            write.open_table(RECENT)?;
            for event in events.iter()? {
                let (number, line) = event?;
                size.bytes += line.value().len() as u64;
                size.next = number.value() + 1;
            }
        }
        write.commit()?;
        Ok(Self { database, bytes_max, size: Mutex::new(size), grown: Condvar::new() })
    }

    /// Adds events, as lines without their ends, and notes the time of the newest and what they are about; what events before another time were
    /// about is forgotten.
    pub fn push(
        &self,
        lines: &[&[u8]],
        newest: Timestamp,
        recent: &[(Identity, i64)],
        forget_before_ms: Option<i64>,
    ) -> Result<()> {
        let mut size = self.size.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut bytes, mut next, mut lost) = (size.bytes, size.next, 0);
        let write = self.database.begin_write()?;
        {
            let mut events = write.open_table(EVENTS)?;
            for line in lines {
                events.insert(next, *line)?;
                next += 1;
                bytes += line.len() as u64;
            }
            // Those that are being sent stay: they have been received, as far as anybody knows.
            let first = size.sending.map_or(0, |sending| sending + 1);
            while bytes > self.bytes_max {
                let Some(oldest) = events.range(first..)?.next().transpose()? else { break };
                let (number, length) = (oldest.0.value(), oldest.1.value().len() as u64);
                drop(oldest);
                events.remove(number)?;
                bytes -= length;
                lost += 1;
            }
            let mut known = write.open_table(RECENT)?;
            for (identity, at_ms) in recent {
                known.insert(identity, at_ms)?;
            }
            if let Some(before_ms) = forget_before_ms {
                known.retain(|_, at_ms| at_ms >= before_ms)?;
            }
            let mut numbers = write.open_table(NUMBERS)?;
            let millisecond = u64::try_from(newest.as_millisecond()).unwrap_or(0);
            // A clock that was ahead, and has been set right, leaves no time that is still to come.
            let now = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
            let known = numbers.get(NEWEST)?.map_or(0, |known| known.value());
            let known = if known > now { 0 } else { known };
            numbers.insert(NEWEST, millisecond.max(known))?;
            if lost > 0 {
                let before = numbers.get(LOST)?.map_or(0, |lost| lost.value());
                numbers.insert(LOST, before + lost)?;
            }
        }
        write.commit()?;
        (size.bytes, size.next) = (bytes, next);
        self.grown.notify_all();
        if lost > 0 {
            let events = human::count(usize::try_from(lost).unwrap_or(usize::MAX), "event");
            human::say(&format!("the queue is full: lost the oldest, {events}"));
        }
        Ok(())
    }

    /// Events of the last minutes, sent or not.
    pub fn recent(&self) -> Result<RecentEvents> {
        let known = self.database.begin_read()?.open_table(RECENT)?;
        let known = known.iter()?.map(|known| {
            let (identity, at_ms) = known?;
            Ok((identity.value(), at_ms.value()))
        });
        Ok(RecentEvents::of(known.collect::<std::result::Result<Vec<_>, redb::StorageError>>()?))
    }

    /// The oldest, so many at most, with their numbers. They stay until they are removed.
    pub fn first(&self, most: usize) -> Result<Vec<(u64, Vec<u8>)>> {
        let mut size = self.size.lock().unwrap_or_else(PoisonError::into_inner);
        let events = self.database.begin_read()?.open_table(EVENTS)?;
        let (mut found, mut bytes) = (Vec::new(), 0);
        for event in events.iter()?.take(most) {
            let (number, line) = event?;
            bytes += line.value().len();
            if bytes > READ_BYTES_MAX && !found.is_empty() {
                break;
            }
            found.push((number.value(), line.value().to_vec()));
        }
        size.sending = found.last().map(|(number, _)| *number);
        Ok(found)
    }

    /// Removes those up to this number; so many of them are lost.
    pub fn remove(&self, last: u64, lost: u64) -> Result<()> {
        let mut size = self.size.lock().unwrap_or_else(PoisonError::into_inner);
        let mut removed = 0;
        let write = self.database.begin_write()?;
        {
            let mut events = write.open_table(EVENTS)?;
            events.retain_in(..=last, |_, line| {
                removed += line.len() as u64;
                false
            })?;
            if lost > 0 {
                let mut numbers = write.open_table(NUMBERS)?;
                let before = numbers.get(LOST)?.map_or(0, |lost| lost.value());
                numbers.insert(LOST, before + lost)?;
            }
        }
        write.commit()?;
        size.bytes = size.bytes.saturating_sub(removed);
        size.sending = None;
        Ok(())
    }

    /// Waits until there may be something in it.
    pub fn wait(&self) {
        let size = self.size.lock().unwrap_or_else(PoisonError::into_inner);
        // Whether it grew, or it is time to look what else there is.
        let _ = self.grown.wait_timeout_while(size, WAIT, |size| size.bytes == 0);
    }

    /// How many events are lost that nobody has been told of.
    pub fn lost(&self) -> Result<u64> {
        self.number(LOST).map(|number| number.unwrap_or(0))
    }

    /// So many of them have been told of.
    pub fn told_of(&self, lost: u64) -> Result<()> {
        if lost == 0 {
            return Ok(());
        }
        let write = self.database.begin_write()?;
        {
            let mut numbers = write.open_table(NUMBERS)?;
            let before = numbers.get(LOST)?.map_or(0, |lost| lost.value());
            numbers.insert(LOST, before.saturating_sub(lost))?;
        }
        Ok(write.commit()?)
    }

    /// The time of the newest event that was ever in it.
    pub fn newest(&self) -> Result<Option<Timestamp>> {
        let number = self.number(NEWEST)?;
        Ok(number.and_then(|ms| Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()))
    }

    fn number(&self, name: &str) -> Result<Option<u64>> {
        let numbers = self.database.begin_read()?.open_table(NUMBERS)?;
        Ok(numbers.get(name)?.map(|number| number.value()))
    }
}

fn create(path: &Path) -> std::result::Result<Database, DatabaseError> {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = regular::open(path, &mut options, Links::Refused)
        .map_err(|error| DatabaseError::Storage(redb::StorageError::Io(error)))?;
    redb::Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(FileBackend::new(file)?)
}

/// Everything else may pass.
fn is_damage(error: &DatabaseError) -> bool {
    match error {
        DatabaseError::Storage(redb::StorageError::Corrupted(_)) | DatabaseError::RepairAborted => true,
        DatabaseError::Storage(redb::StorageError::Io(error)) => error.kind() == ErrorKind::InvalidData,
        _ => false,
    }
}

/// Begins a new queue in the place of one that cannot be read.
fn put_aside(path: &Path, why: &DatabaseError) -> Result<Database> {
    let aside: PathBuf = path.with_extension("damaged");
    fs::rename(path, &aside).with_context(|| format!("cannot put {} aside", path.display()))?;
    human::say(&format!("{} is damaged ({why}): it is now {}", path.display(), aside.display()));
    create(path).with_context(|| format!("cannot open {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A queue in a directory of its own, which is removed in the end.
    struct Tried(PathBuf);

    impl Tried {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("tracer-queue-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            Self(dir)
        }

        fn open(&self, bytes_max: u64) -> EventQueue {
            EventQueue::open(&self.0, bytes_max).expect("a queue")
        }
    }

    impl Drop for Tried {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn push(queue: &EventQueue, of: impl IntoIterator<Item = u8>, newest: Timestamp) {
        let lines: Vec<[u8; 10]> = of.into_iter().map(|byte| [byte; 10]).collect();
        let lines: Vec<&[u8]> = lines.iter().map(<[u8; 10]>::as_slice).collect();
        queue.push(&lines, newest, &[], None).expect("writes");
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn events_stay_in_their_order_until_they_are_removed() {
        let tried = Tried::new("order");
        {
            let queue = tried.open(1000);
            assert!(queue.newest().expect("reads").is_none() && queue.first(9).expect("reads").is_empty());
            push(&queue, 1..=3, at(100));
            push(&queue, 4..=5, at(90));
        }
        let queue = tried.open(1000);
        assert_eq!(queue.newest().expect("reads"), Some(at(100)));
        let first = queue.first(2).expect("reads");
        assert_eq!(first.iter().map(|(_, line)| line[0]).collect::<Vec<_>>(), [1, 2]);
        queue.remove(first[1].0, 0).expect("writes");
        let rest = queue.first(9).expect("reads");
        assert_eq!(rest.iter().map(|(_, line)| line[0]).collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!(queue.lost().expect("reads"), 0);
    }

    #[test]
    fn a_time_that_is_still_to_come_is_not_the_newest_for_ever() {
        let tried = Tried::new("clock");
        let queue = tried.open(1000);
        push(&queue, [1], at(Timestamp::now().as_second() + 3600));
        push(&queue, [2], at(100));
        assert_eq!(queue.newest().expect("reads"), Some(at(100)));
    }

    #[test]
    fn the_oldest_give_way_and_are_counted_but_not_what_is_being_sent() {
        let tried = Tried::new("full");
        let queue = tried.open(50);
        push(&queue, 1..=5, at(1));
        let sending = queue.first(2).expect("reads");
        push(&queue, 6..=8, at(2));
        assert_eq!(queue.lost().expect("reads"), 3);
        queue.remove(sending[1].0, 1).expect("writes");
        assert_eq!(queue.lost().expect("reads"), 4);
        let rest = queue.first(9).expect("reads");
        assert_eq!(rest.iter().map(|(_, line)| line[0]).collect::<Vec<_>>(), [6, 7, 8]);
        queue.told_of(4).expect("writes");
        assert_eq!(tried_again(queue, &tried), (0, 3));
    }

    /// Losses and events after a restart.
    fn tried_again(queue: EventQueue, tried: &Tried) -> (u64, usize) {
        drop(queue);
        let queue = tried.open(50);
        (queue.lost().expect("reads"), queue.first(9).expect("reads").len())
    }

    #[test]
    fn one_queue_has_one_keeper_and_a_damaged_one_is_put_aside() {
        let tried = Tried::new("damaged");
        let queue = tried.open(50);
        let second = EventQueue::open(&tried.0, 50).err().expect("it is kept by somebody").to_string();
        assert!(second.starts_with("another tracer export"), "{second}");
        drop(queue);
        fs::write(tried.0.join("export.redb"), vec![7; 5000]).expect("writes");
        push(&tried.open(50), [1], at(1));
        assert!(tried.0.join("export.damaged").exists());
    }
}
