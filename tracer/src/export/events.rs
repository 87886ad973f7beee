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

use super::json::{WaitObject, seconds};
use crate::stall::{Closed, Ended, Stall};

/// Lines that may wait for the reader.
const QUEUE: usize = 4096;

/// One event of the contract.
#[derive(Serialize)]
struct Event<'a> {
    event: &'static str,
    stall_seconds: f64,
    ended: Option<&'static str>,
    note: Option<&'a str>,
    wait: WaitObject<'a>,
}

/// Writes events on a thread of its own.
pub struct Events {
    lines: SyncSender<String>,
    lost: Arc<AtomicU64>,
}

impl Events {
    /// Starts the thread.
    pub fn start() -> Result<Self> {
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
        Ok(Self { lines, lost })
    }

    /// Events nobody got.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// A stall has opened.
    pub fn opened(&self, stall: &Stall) {
        self.send("stall_opened", stall, stall.wait.age, None);
    }

    /// A stall has closed.
    pub fn closed(&self, closed: &Closed) {
        self.send("stall_closed", &closed.stall, closed.lasted, Some(closed.ended));
    }

    fn send(&self, event: &'static str, stall: &Stall, lasted: Duration, ended: Option<Ended>) {
        let wait = WaitObject::new(&stall.wait, &stall.resolved, &stall.verdict, &stall.who);
        let (note, ended) = (stall.note.as_deref(), ended.map(Ended::label));
        let event = Event { event, stall_seconds: seconds(lasted), ended, note, wait };
        let sent = serde_json::to_string(&event).ok().and_then(|line| self.lines.try_send(line + "\n").ok());
        if sent.is_none() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}
