//! Stall events as JSON lines on standard output. A reader that does not read costs events, which are counted, and
//! never holds the agent up.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, SyncSender},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::sync::broadcast;

use crate::{
    assess::stall::{Closed, Stall, StallObject},
    history::{History, Kept},
    hook::{Losses, Runner},
    wire::json::{WaitObject, in_seconds},
};

/// Lines that may wait for the reader.
const QUEUE: usize = 4096;

/// One event of the contract.
#[derive(Serialize)]
struct Event<'a> {
    event: &'static str,
    #[serde(with = "in_seconds")]
    stall_seconds: Duration,
    ended: Option<&'a str>,
    note: Option<&'a str>,
    wait: &'a WaitObject,
}

/// Readers of `/v1/events` may be so many lines behind.
const BEHIND: usize = 256;

/// Writes events on a thread of its own, and hands them to whoever listens.
pub struct Events {
    lines: SyncSender<String>,
    listeners: broadcast::Sender<Arc<str>>,
    history: Option<Arc<History>>,
    hook: Option<Runner>,
    lost: Arc<AtomicU64>,
}

impl Events {
    /// Starts the thread.
    pub fn start(history: Option<Arc<History>>, hook: Option<Runner>) -> Result<Self> {
        let (lines, queue) = mpsc::sync_channel::<String>(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let failed = Arc::clone(&lost);
        thread::Builder::new()
            .name("events".into())
            .spawn(move || {
                for line in queue {
                    let mut out = io::stdout().lock();
                    if out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_err() {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
            .context("cannot start the thread that writes events")?;
        Ok(Self { lines, listeners: broadcast::Sender::new(BEHIND), history, hook, lost })
    }

    /// Where events can be listened to.
    pub fn listeners(&self) -> broadcast::Sender<Arc<str>> {
        self.listeners.clone()
    }

    /// Events nobody got.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// What the history could not keep.
    pub fn unwritten(&self) -> u64 {
        self.history.as_ref().map_or(0, |history| history.lost())
    }

    /// Stalls that `on_stall` was not told of.
    pub fn untold(&self) -> Losses {
        self.hook.as_ref().map(Runner::losses).unwrap_or_default()
    }

    /// A stall has opened.
    pub fn opened(&self, stall: &Stall) {
        self.send("stall_opened", StallObject::open(stall));
    }

    /// A stall has closed.
    pub fn closed(&self, closed: &Closed) {
        self.send("stall_closed", StallObject::closed(closed));
    }

    /// A stall that was open when the agent stopped still is: nobody is told again.
    pub fn found_again(&self, stall: &Stall) {
        if let Some(history) = &self.history {
            history.keep(Kept::FoundAgain(Box::new(StallObject::open(stall))));
        }
    }

    fn send(&self, name: &'static str, stall: StallObject) {
        let event = Event {
            event: name,
            stall_seconds: stall.lasted,
            ended: stall.ended.as_deref(),
            note: stall.note.as_deref(),
            wait: &stall.wait,
        };
        let line = serde_json::to_string(&event).map(|line| line + "\n").unwrap_or_default();
        // Nobody need be listening.
        let _ = self.listeners.send(line.as_str().into());
        if let Some(hook) = self.hook.as_ref().filter(|_| stall.closed.is_none()) {
            hook.tell(stall.wait.owner(), &line);
        }
        if self.lines.try_send(line).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(history) = &self.history {
            history.keep(Kept::Stall(Box::new(stall)));
        }
    }
}
