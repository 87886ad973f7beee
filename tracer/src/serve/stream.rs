//! Events for whoever listens on the socket: `/v1/events`.

use std::sync::Arc;

use tokio::sync::broadcast::{Receiver, Sender};

use crate::assess::sink::{IncidentNotice, Notice, Sink};

/// Readers may be so many lines behind.
const LINES_BEHIND_MAX: usize = 256;

/// Where events can be listened to: cheap to clone.
#[derive(Clone)]
pub struct Stream(Sender<Arc<str>>);

impl Stream {
    /// Nobody listens yet.
    pub fn new() -> Self {
        Self(Sender::new(LINES_BEHIND_MAX))
    }

    /// Events from now on, a line each.
    pub fn listen(&self) -> Receiver<Arc<str>> {
        self.0.subscribe()
    }

    fn send(&self, line: &str) {
        // Nobody need be listening.
        let _ = self.0.send(line.into());
    }
}

impl Sink for Stream {
    fn stall_opened(&mut self, notice: &Notice) {
        self.send(notice.line());
    }

    fn stall_closed(&mut self, notice: &Notice) {
        self.send(notice.line());
    }
    fn incident_opened(&mut self, notice: &IncidentNotice) {
        self.send(notice.line());
    }

    fn incident_closed(&mut self, notice: &IncidentNotice) {
        self.send(notice.line());
    }
}
