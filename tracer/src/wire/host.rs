//! What the agent's socket tells of the host, and of waits that it does not flag.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::report::BaselineObject;
use crate::model::{
    class::Class,
    wait::{StopSignal, Suspended, SuspendedThread, ThreadId},
};

/// What the agent is and does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostObject {
    /// Version of the agent.
    pub version: String,
    /// What makes its snapshots.
    pub source: String,
    /// How often it looks.
    pub interval_seconds: f64,
    /// Waits by class.
    pub waiting: BTreeMap<Class, usize>,
    /// Threads that are stopped, traced or frozen.
    pub held: Vec<SuspendedObject>,
    /// Waits that have ended since it started.
    pub waits_total: u64,
    /// What it could not record since it started.
    pub lost_total: u64,
}

/// A thread that does not wait although it looks asleep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuspendedObject {
    /// Its process.
    pub pid: u32,
    /// Itself.
    pub tid: u32,
    /// Why.
    pub by: Suspended,
    /// It is a job in the background that needs its terminal, and would be stopped again at once.
    #[serde(default)]
    pub needs_terminal: bool,
}

impl SuspendedObject {
    /// Of a snapshot's.
    pub fn of(suspended: &SuspendedThread) -> Self {
        let ThreadId { process, tid, .. } = suspended.thread;
        let needs_terminal = suspended.signal.is_some_and(StopSignal::is_for_background);
        Self { pid: process.pid, tid, by: suspended.by, needs_terminal }
    }
}

/// A wait that is not flagged, since answers usually take so long.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ExcusedObject {
    /// Its thread.
    pub tid: u32,
    /// How long they take.
    #[serde(flatten)]
    pub baseline: BaselineObject,
}
