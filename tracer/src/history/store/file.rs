//! The file of the database: opened, written, read, and put aside where it is damaged. redb commits as a whole or not at all, so a process
//! that is killed while it writes leaves what it had committed. A disk may still damage the file: redb has no checksums it
//! looks at while it reads, and panics at a page that makes no sense. Such a file is put aside, and a new one begun.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::PermissionsExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use redb::{
    Builder, Database, ReadOnlyDatabase, ReadTransaction, ReadableDatabase, TableError, WriteTransaction,
    backends::FileBackend,
};

use super::{FromDatabase, Result, Rows, Store, rows};
use crate::{
    config::Limits,
    history::damage::{self, is_damage},
    history::error::HistoryError,
    util::human,
    util::regular::{self, Links},
};

/// Memory for pages of the file, bytes.
const CACHE_BYTES: usize = 512 * 1024;

pub(super) enum Opened {
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
    pub(super) fn put_aside(&self, opened: &mut Opened, error: &redb::Error) -> Result<()> {
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

    pub(super) fn lock(&self) -> MutexGuard<'_, Opened> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Open, also if it was not yet or was given up after an error. A damaged file is put aside.
    pub(super) fn opened(&self) -> Result<MutexGuard<'_, Opened>> {
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

    pub(super) fn write(&self, work: impl FnOnce(&WriteTransaction) -> FromDatabase<()>) -> Result<()> {
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

    pub(super) fn begin_read(&self) -> Result<ReadTransaction> {
        let begun = match &*self.opened()? {
            Opened::Written(database) => caught(|| Ok(database.begin_read()?)),
            Opened::Read(database) => caught(|| Ok(database.begin_read()?)),
            Opened::Lost => return Err(HistoryError::Lost),
        };
        begun.map_err(|error| failed("read", &self.path, error))
    }

    pub(super) fn look<T>(&self, work: impl FnOnce(&ReadTransaction) -> FromDatabase<T>) -> Result<T> {
        let transaction = self.begin_read()?;
        caught(move || work(&transaction)).map_err(|error| failed("read", &self.path, error))
    }

    /// Looks for what is to be gone on with. Of a file so damaged that it cannot be read that is nothing, and it is put aside.
    pub(super) fn look_to_go_on<T: Default>(
        &self,
        work: impl FnOnce(&ReadTransaction) -> FromDatabase<T>,
    ) -> Result<T> {
        self.look(work).or_else(|error| {
            let Some(damage) = error.damage() else { return Err(error) };
            self.put_aside(&mut self.lock(), damage)?;
            Ok(T::default())
        })
    }
}

pub(super) fn failed(attempt: &'static str, path: &Path, error: redb::Error) -> HistoryError {
    HistoryError::Database { attempt, path: path.to_owned(), error: Box::new(error) }
}

/// A panic of redb's is damage of the file.
pub(super) fn caught<T>(work: impl FnOnce() -> FromDatabase<T>) -> FromDatabase<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref().copied()).unwrap_or("a page makes no sense");
        Err(redb::Error::Corrupted(said.to_owned()))
    })
}

pub(super) fn open(path: &Path) -> std::result::Result<Database, redb::DatabaseError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let file = regular::open(path, &mut options, Links::Followed)?;
    // Names of processes and of their peers are nobody else's business.
    let _ = file.set_permissions(fs::Permissions::from_mode(0o600));
    Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(FileBackend::new(file)?)
}

pub(super) fn open_to_read(path: &Path) -> std::result::Result<ReadOnlyDatabase, redb::DatabaseError> {
    let file = regular::open(path, OpenOptions::new().read(true), Links::Followed)?;
    Builder::new().open_read_only_with_backend(FileBackend::new(file)?)
}

/// A table that nobody has written yet is not there.
pub(super) fn there<T>(table: std::result::Result<T, TableError>) -> FromDatabase<Option<T>> {
    match table {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        history::samples::stall,
        history::store::StallId,
        history::store::tests::{Tried, at},
    };

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
