//! What the agent's socket tells of the host, and of waits that it does not flag.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::report::BaselineObject;
use crate::model::{
    class::Class,
    wait::{Suspended, SuspendedThread},
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
}

impl SuspendedObject {
    /// Of a snapshot's.
    pub fn of(suspended: &SuspendedThread) -> Self {
        Self { pid: suspended.thread.process.pid, tid: suspended.thread.tid, by: suspended.by }
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
