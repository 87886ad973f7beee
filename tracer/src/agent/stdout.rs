//! Events as JSON lines on standard output. A reader that does not read costs events, which are counted, and
//! never holds the agent up.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, SyncSender},
    },
    thread,
};

use anyhow::{Context, Result};

use crate::{
    assess::sink::{IncidentNotice, Notice, Sink},
    collect::losses::Loss,
};

/// Lines that may wait for the reader.
const QUEUE_MAX: usize = 4096;

/// Writes events on a thread of its own.
pub struct Stdout {
    lines: SyncSender<String>,
    lost: Arc<AtomicU64>,
}

impl Stdout {
    /// Starts the thread.
    pub fn start() -> Result<Self> {
        let (lines, queue) = mpsc::sync_channel::<String>(QUEUE_MAX);
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

    fn write(&self, line: &str) {
        if self.lines.try_send(line.to_owned()).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Sink for Stdout {
    fn stall_opened(&mut self, notice: &Notice) {
        self.write(notice.line());
    }

    fn stall_closed(&mut self, notice: &Notice) {
        self.write(notice.line());
    }

    fn incident_opened(&mut self, notice: &IncidentNotice) {
        self.write(notice.line());
    }

    fn incident_closed(&mut self, notice: &IncidentNotice) {
        self.write(notice.line());
    }

    fn losses(&mut self) -> Vec<(Loss, u64)> {
        vec![(Loss::EventsUnread, self.lost.load(Ordering::Relaxed))]
    }
}
