//! The file that the agent keeps over a restart.

use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::incident::AnnouncedIncident;
use crate::model::cgroup::Owner;

/// The file. Earlier ones have `habits` instead, by name and port alone: who trained them is not known, so they are left behind.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct StateFile {
    /// Whose they are, and the waits that made them.
    #[serde(default)]
    pub baselines: Vec<(BaselineKey, Vec<Sample>)>,
    /// How connections of programs to services go on.
    #[serde(default)]
    pub manners: Vec<(AskedService, Manners)>,
    /// Stalls that have been announced and are open.
    pub stalls: Vec<Announced>,
    /// Incidents that have.
    #[serde(default)]
    pub incidents: Vec<AnnouncedIncident>,
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

/// A program of a user and a service that it asks. Whoever can choose the name of a program has that user's rights anyway.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AskedService {
    /// Its real user.
    pub uid: u32,
    /// Its name.
    pub comm: String,
    /// Where the service is; `None`: anywhere.
    pub address: Option<IpAddr>,
    /// At which port.
    pub port: u16,
}

/// How connections of a program to a service go on: how often was what seen?
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Manners {
    /// Without an answer for a second, and answered before more was said.
    pub answered: u32,
    /// More was said though the peer had got all that there was, and had not answered.
    pub talked: u32,
    /// At rest, with the service's word as the last.
    pub rested: u32,
    /// What had followed an answer at once was the last word for a second, and then the program said more.
    #[serde(default)]
    pub reused: u32,
    /// The two longest times that the program talked until something came, seconds; 0: none.
    pub silences: [f64; 2],
    /// When it was last learned of, seconds of Unix time.
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
