//! The file that the agent keeps over a restart.

use std::net::SocketAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::cgroup::Owner;

/// The file. Earlier ones have `habits` instead, by name and port alone: who trained them is not known, so they are left behind.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct StateFile {
    /// Whose they are, and the waits that made them.
    #[serde(default)]
    pub baselines: Vec<(BaselineKey, Vec<Sample>)>,
    /// Stalls that have been announced and are open.
    pub stalls: Vec<Announced>,
    /// How often they had changed by then.
    #[serde(skip)]
    pub changes: u64,
}

/// Whose baseline: this program of this user, with this service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BaselineKey {
    /// On whose account it runs.
    pub owner: Owner,
    /// Its real user: cron's unit has programs of many.
    pub uid: u32,
    /// Path of its executable; the name of its thread where that is not known.
    pub program: String,
    /// The peer's address with its port.
    pub remote: SocketAddr,
}

/// A wait that an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// How long it lasted.
    pub seconds: f64,
    /// When it ended, seconds of Unix time.
    pub at: u64,
}

/// What is kept over a restart of a stall that is open.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Announced {
    /// Its process.
    pub pid: u32,
    /// When that started, nanoseconds since boot.
    pub process_start_ns: u64,
    /// Its thread.
    pub tid: u32,
    /// When that started, nanoseconds since boot.
    pub thread_start_ns: u64,
    /// When the wait began, nanoseconds of `CLOCK_MONOTONIC`.
    pub began_ns: u64,
    /// When it was announced; earlier versions did not keep it.
    #[serde(default)]
    pub opened: Option<Timestamp>,
}
