//! The JSON of stall events: what the agent prints, hands to `on_stall` and streams.

use std::time::Duration;

use serde::Serialize;

use super::json::{WaitObject, in_seconds};

/// A stall has opened or closed.
#[derive(Serialize)]
pub struct StallEvent<'a> {
    /// `stall_opened` or `stall_closed`.
    pub event: &'static str,
    /// How long it has lasted.
    #[serde(rename = "stall_seconds", with = "in_seconds")]
    pub lasted: Duration,
    /// How it ended; null while it lasts.
    pub ended: Option<&'a str>,
    /// What the configuration says of such waits.
    pub note: Option<&'a str>,
    /// Where in its program the thread sleeps, the innermost function first; empty where that was not read.
    pub stack: &'a [String],
    /// The wait.
    pub wait: &'a WaitObject,
}
