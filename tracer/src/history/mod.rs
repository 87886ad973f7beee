//! The last hours: each stall, and each minute's worst waits, in a database of the agent's own. It is written by a thread of its
//! own, at most twice a second; what cannot be kept, on a full disk for instance, is counted, and stalls are tried again.

mod moment;
mod owed;
#[cfg(test)]
mod samples;
mod store;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

pub use self::{moment::parse as moment, store::Store};
use self::{owed::Owed, store::Id};
use crate::{
    class::Level,
    client::Refusal,
    collect::shared::Shared,
    export::{events::StallObject, json::WaitObject},
    human,
    look::{self, Judged},
    resolve::Resolver,
};

/// Things that may wait to be written.
const QUEUE: usize = 1024;
/// What comes within this is written at once.
const BATCH: Duration = Duration::from_millis(500);
/// How often the worst waits are kept.
const MINUTE: Duration = Duration::from_secs(60);
/// So many of them.
const WORST: usize = 100;
/// After an error, it is not tried again for this long.
const PAUSE: Duration = Duration::from_secs(10);
/// Stalls that were open when the agent stopped and are not found again within this have ended meanwhile.
const GRACE: Duration = Duration::from_secs(90);
/// How far apart two agents may date the same wait.
const SAME: SignedDuration = SignedDuration::from_secs(2);

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Nothing older.
    pub age: Duration,
    /// Bytes on disk, about.
    pub bytes: u64,
}

/// Something to keep.
#[derive(Debug)]
pub enum Kept {
    /// A stall that has opened or closed.
    Stall(Box<StallObject>),
    /// One that was open when the agent stopped, and still is.
    FoundAgain(Box<StallObject>),
}

/// The waits of a moment that is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Past {
    /// When they were seen; null if nothing is known of the minute before the moment.
    pub at: Option<Timestamp>,
    /// The worst of them, and the stalls that were open at the moment asked for.
    pub waits: Vec<WaitObject>,
}

/// The agent's history: what is to be kept goes in, what was kept comes out.
pub struct History {
    kept: SyncSender<Kept>,
    lost: Arc<AtomicU64>,
    store: Arc<Store>,
}

/// Where the database is, of an agent with this state directory.
pub fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("history.redb")
}

impl History {
    /// Starts the thread that writes.
    pub fn start(store: Store, shared: Shared) -> Result<Arc<Self>> {
        let store = Arc::new(store);
        let (kept, queue) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            store: Arc::clone(&store),
            shared,
            open: HashMap::new(),
            owed: Owed::default(),
            before: store.open_stalls()?,
            alive: store.last_alive()?,
            started: Instant::now(),
            lost: Arc::clone(&lost),
            failed: None,
        };
        thread::Builder::new()
            .name("history".into())
            .spawn(move || writer.run(&queue))
            .context("cannot start the thread that keeps the history")?;
        Ok(Arc::new(Self { kept, lost, store }))
    }

    /// Keeps it, or counts that it could not.
    pub fn keep(&self, kept: Kept) {
        if self.kept.try_send(kept).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What could not be kept, so far.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// What waited at a moment.
    pub fn waits_at(&self, at: Timestamp) -> Result<Past> {
        self.store.waits_at(at)
    }

    /// Stalls that were open after a moment, the oldest first.
    pub fn stalls_since(&self, since: Timestamp) -> Result<Vec<StallObject>> {
        self.store.stalls_since(since)
    }
}

/// Opens the database of an agent with this state directory, or makes it.
pub fn open(state_dir: &Path, limits: Limits) -> Result<Store> {
    Store::open(&file(state_dir), limits)
}

/// The database of an agent that does not answer, for this reason.
pub fn left(state_dir: &Path, refusal: Refusal) -> Result<Reader> {
    Store::read(&file(state_dir)).map(Reader).map_err(|error| match refusal {
        Refusal::Denied(why) => error.context(why),
        Refusal::Absent => error.context("no agent runs, and none has left a history"),
    })
}

/// Reads what an agent has left. What was open when it last wrote has lasted until then, as far as is known.
pub struct Reader(Store);

impl Reader {
    /// What waited at a moment.
    pub fn waits_at(&self, at: Timestamp) -> Result<Past> {
        self.0.waits_at(at)
    }

    /// Stalls that were open after a moment, the oldest first.
    pub fn stalls_since(&self, since: Timestamp) -> Result<Vec<StallObject>> {
        let mut stalls = self.0.stalls_since(since)?;
        let Some(alive) = self.0.last_alive()? else { return Ok(stalls) };
        for stall in stalls.iter_mut().filter(|stall| stall.closed.is_none()) {
            let until = alive.max(stall.opened);
            stall.lasted = until.duration_since(stall.wait.since).try_into().unwrap_or(stall.lasted);
        }
        Ok(stalls)
    }

    /// When the agent last wrote.
    pub fn last_alive(&self) -> Result<Option<Timestamp>> {
        self.0.last_alive()
    }
}

struct Writer {
    store: Arc<Store>,
    shared: Shared,
    /// Open stalls by process and thread.
    open: HashMap<(u32, u32), Id>,
    /// What is not written yet.
    owed: Owed,
    /// Stalls that were open when the agent last stopped and were not found again yet.
    before: Vec<(Id, StallObject)>,
    /// When the agent last wrote before it started.
    alive: Option<Timestamp>,
    started: Instant,
    lost: Arc<AtomicU64>,
    failed: Option<Instant>,
}

impl Writer {
    fn run(mut self, queue: &Receiver<Kept>) {
        let mut minute = Instant::now() + MINUTE;
        loop {
            // With something owed it does not wait for the next stall.
            let next = match self.failed {
                Some(failed) if !self.owed.is_empty() => minute.min(failed + PAUSE),
                _ => minute,
            };
            match queue.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(kept) => {
                    self.owe(kept);
                    let mut number = 1;
                    let end = Instant::now() + BATCH;
                    // Until the time is up, or nobody is left to send.
                    while let Ok(kept) = queue.recv_timeout(end.saturating_duration_since(Instant::now())) {
                        self.owe(kept);
                        number += 1;
                    }
                    self.try_to(number, |_| Ok(()));
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() < minute => self.try_to(0, |_| Ok(())),
                Err(RecvTimeoutError::Timeout) => {
                    minute = Instant::now() + MINUTE;
                    self.keep_minute();
                }
                Err(RecvTimeoutError::Disconnected) => {
                    // The agent ends: once more, whenever it failed.
                    self.failed = None;
                    self.try_to(0, |_| Ok(()));
                    return;
                }
            }
        }
    }

    fn owe(&mut self, kept: Kept) {
        let (id, stall) = self.place(kept);
        self.owed.add(id, stall);
    }

    /// Under which id a stall is kept.
    fn place(&mut self, kept: Kept) -> (Id, StallObject) {
        match kept {
            Kept::Stall(mut stall) => {
                let thread = (stall.wait.pid, stall.wait.tid);
                match self.open.get(&thread) {
                    Some(id) => stall.opened = id.opened(),
                    None => drop(self.open.insert(thread, Id::of(&stall))),
                }
                let id = self.open[&thread];
                if stall.closed.is_some() {
                    self.open.remove(&thread);
                }
                (id, *stall)
            }
            Kept::FoundAgain(mut stall) => {
                let thread = (stall.wait.pid, stall.wait.tid);
                let same = |(_, before): &(Id, StallObject)| {
                    (before.wait.pid, before.wait.tid) == thread
                        && before.wait.since.duration_since(stall.wait.since).abs() <= SAME
                };
                let id = match self.before.iter().position(same) {
                    Some(at) => self.before.swap_remove(at).0,
                    None => Id::of(&stall),
                };
                stall.opened = id.opened();
                self.open.insert(thread, id);
                (id, *stall)
            }
        }
    }

    /// Keeps the worst waits of this minute, throws away what is too old, and closes stalls that ended while no agent ran.
    fn keep_minute(&mut self) {
        let mut number = 1;
        if self.started.elapsed() >= GRACE {
            for (id, mut stall) in self.before.drain(..) {
                let closed = self.alive.unwrap_or(stall.opened).max(stall.opened);
                (stall.closed, stall.ended) = (Some(closed), Some("unknown".into()));
                stall.lasted = closed.duration_since(stall.wait.since).try_into().unwrap_or(stall.lasted);
                self.owed.add(id, stall);
                number += 1;
            }
        }
        match worst(&mut self.shared) {
            Ok(waits) => self.try_to(number, |store| {
                store.put(&[], Some((Timestamp::now(), &waits)))?;
                store.prune(Timestamp::now())
            }),
            // The agent ends.
            Err(_) => drop(self.lost.fetch_add(number, Ordering::Relaxed)),
        }
    }

    /// Writes what is owed, and something more. So many rows of it are new: they are counted if they cannot be written now,
    /// though stalls will be tried again.
    fn try_to(&mut self, number: u64, more: impl FnOnce(&Store) -> Result<()>) {
        if self.failed.is_some_and(|failed| failed.elapsed() < PAUSE) {
            self.lost.fetch_add(number, Ordering::Relaxed);
            return;
        }
        match self.owed.settle(|rows| self.store.put(rows, None)).and_then(|()| more(&self.store)) {
            Ok(()) => self.failed = None,
            Err(error) => {
                self.lost.fetch_add(number, Ordering::Relaxed);
                // Once for each time that it begins to fail.
                if self.failed.replace(Instant::now()).is_none() {
                    human::say(&format!("{error:#}; the history has a gap"));
                }
            }
        }
    }
}

/// The worst waits of now.
fn worst(shared: &mut Shared) -> Result<Vec<WaitObject>> {
    let (snapshot, worst) = shared.worst(WORST)?;
    let waits = worst.into_iter().map(|at| snapshot.waits[at].clone()).collect();
    let mut resolver = Resolver::new();
    let judged = look::judge(waits, &snapshot.waits, &mut resolver, shared, |_, _| true)?;
    let worries = judged.into_iter().filter(|judged| judged.verdict.class.level() != Level::Idle);
    Ok(worries
        .map(|Judged { wait, resolved, verdict }| {
            let who = resolver.who(wait.thread.process);
            WaitObject::new(&wait, &resolved, &verdict, &who)
        })
        .collect())
}
