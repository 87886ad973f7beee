//! The last hours: each stall, and each minute's worst waits, in a database of the agent's own. It is written by a thread of its
//! own, at most twice a second; what cannot be kept, on a full disk for instance, is counted, and stalls are tried again. Whatever is
//! bounded is shared between owners.
//!
//! Layer 5: a sink, which uses what lies below.

mod damage;
mod error;
mod owed;
#[cfg(test)]
pub mod samples;
mod store;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use anyhow::{Context, Result};
use jiff::Timestamp;

use self::writer::Writer;
pub use self::{error::HistoryError, store::Store};
use crate::{
    assess::shared::Shared,
    assess::sink::{Notice, Sink},
    collect::losses::Loss,
    config::Limits,
    util::fair::{self, Room},
    wire::stall::{Past, StallObject},
};

/// Things that may wait to be written: where there are more, whoever's stalls are most gives way.
const WAITING_MAX: Room = Room { all: 4096, of_one: 4096 };

/// The agent's history: what is to be kept goes in, what was kept comes out.
pub struct History {
    kept: fair::Sender<String, Box<StallObject>>,
    lost: Arc<AtomicU64>,
    unheard: Arc<AtomicBool>,
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
        let (kept, queue) = fair::channel(WAITING_MAX);
        let (lost, unheard) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let writer = Writer::new(&store, shared, &lost, &unheard)?;
        thread::Builder::new()
            .name("history".into())
            .spawn(move || writer.run(&queue))
            .context("cannot start the thread that keeps the history")?;
        Ok(Arc::new(Self { kept, lost, unheard, store }))
    }

    /// Keeps it, or counts that it could not.
    fn keep(&self, stall: &StallObject) {
        if self.kept.send(stall.wait.owner().to_string(), Box::new(stall.clone())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
            self.unheard.store(true, Ordering::Release);
        }
    }

    /// What waited at a moment.
    pub fn waits_at(&self, at: Timestamp) -> Result<Past, HistoryError> {
        self.store.waits_at(at)
    }

    /// Stalls that were open after a moment, the oldest first.
    pub fn stalls_since(&self, since: Timestamp) -> Result<Vec<StallObject>, HistoryError> {
        self.store.stalls_since(since)
    }
}

impl Sink for Arc<History> {
    fn stall_opened(&mut self, notice: &Notice) {
        self.keep(&notice.stall);
    }

    fn stall_found_again(&mut self, notice: &Notice) {
        self.keep(&notice.stall);
    }

    fn stall_closed(&mut self, notice: &Notice) {
        self.keep(&notice.stall);
    }

    fn losses(&mut self) -> Vec<(Loss, u64)> {
        vec![(Loss::HistoryUnwritten, self.lost.load(Ordering::Relaxed))]
    }
}

/// Opens the database of an agent with this state directory, or makes it.
pub fn open(state_dir: &Path, limits: Limits) -> Result<Store, HistoryError> {
    Store::open(&file(state_dir), limits)
}

/// The database of an agent that does not answer, for this reason.
pub fn left(state_dir: &Path, why_no_agent: String) -> Result<HistoryReader> {
    Store::read(&file(state_dir)).map(HistoryReader).context(why_no_agent)
}

/// Reads what an agent has left. What was open when it last wrote has lasted until then, as far as is known.
pub struct HistoryReader(Store);

impl HistoryReader {
    /// What waited at a moment.
    pub fn waits_at(&self, at: Timestamp) -> Result<Past, HistoryError> {
        self.0.waits_at(at)
    }

    /// Stalls that were open after a moment, the oldest first.
    pub fn stalls_since(&self, since: Timestamp) -> Result<Vec<StallObject>, HistoryError> {
        let mut stalls = self.0.stalls_since(since)?;
        let Some(alive) = self.0.last_alive()? else { return Ok(stalls) };
        for stall in stalls.iter_mut().filter(|stall| stall.closed.is_none()) {
            let until = alive.max(stall.opened);
            stall.lasted = until.duration_since(stall.wait.since).try_into().unwrap_or(stall.lasted);
        }
        Ok(stalls)
    }

    /// When the agent last wrote.
    pub fn last_alive(&self) -> Result<Option<Timestamp>, HistoryError> {
        self.0.last_alive()
    }
}
