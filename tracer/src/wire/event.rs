//! The JSON of stall events: what the agent prints, hands to `on_stall` and streams.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::{
    json::{WaitObject, in_seconds},
    stall::{StallIncident, StallPeer},
};

/// A stall has opened or closed.
#[derive(Serialize)]
pub struct StallEvent<'a> {
    /// `stall_opened` or `stall_closed`.
    pub event: &'static str,
    /// When.
    pub time: Timestamp,
    /// Name of this host.
    pub host: &'a str,
    /// How long it has lasted.
    #[serde(rename = "stall_seconds", with = "in_seconds")]
    pub lasted: Duration,
    /// How it ended; null while it lasts.
    pub ended: Option<&'a str>,
    /// What the configuration says of such waits.
    pub note: Option<&'a str>,
    /// Whom it waits for; null if that is not known.
    pub peer: Option<&'a StallPeer>,
    /// The incident that it belongs to; null before that is known, as in `stall_opened`.
    pub incident: Option<&'a StallIncident>,
    /// Where in its program the thread sleeps, the innermost function first; empty where that was not read.
    pub stack: &'a [String],
    /// The wait.
    pub wait: &'a WaitObject,
}
