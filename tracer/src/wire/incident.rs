//! The JSON of incidents: a culprit and everything that waits for it.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{culprit::CulpritObject, json::in_seconds};
use crate::{model::cgroup::Owner, util::human};

/// An incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IncidentObject {
    /// Its id, which no other incident of this host has.
    pub id: String,
    /// When it was opened.
    pub opened: Timestamp,
    /// When it was closed; null while it lasts.
    pub closed: Option<Timestamp>,
    /// Who is to blame, as people are told.
    pub name: String,
    /// Who is to blame.
    pub culprit: CulpritObject,
    /// How many stalls it has; of a closed one, had last.
    pub stalls: usize,
    /// Of how many processes.
    pub processes: usize,
    /// Of how many of each unit or container; users' own are not here.
    pub units: BTreeMap<String, usize>,
    /// Where in their programs most of them sleep, as far as that was read: the places with most first, three at most.
    #[serde(default)]
    pub stacks: Vec<SharedStackObject>,
    /// How long the oldest of them has lasted.
    #[serde(rename = "oldest_seconds", with = "in_seconds")]
    pub oldest: Duration,
    /// On whose account most of them wait, who so takes a share of what is bounded. Not written.
    #[serde(skip)]
    pub owner: Option<Owner>,
}

impl IncidentObject {
    /// What has happened, in a sentence: it has opened, or closed.
    pub fn headline(&self) -> String {
        let (name, what) = (human::clean(&self.name), human::waits_of(self.stalls, self.processes));
        match self.closed {
            None => format!("{name} holds up {what}"),
            Some(_) => format!("{name} no longer holds up anybody; it held up {what}"),
        }
    }
}

/// A place in a program in which the threads of stalls sleep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedStackObject {
    /// The program's name.
    pub comm: String,
    /// The functions that all of them are in, the innermost first: three at most.
    pub stack: Vec<String>,
    /// How many stalls.
    pub stalls: usize,
}

/// An incident has opened or closed.
#[derive(Serialize)]
pub struct IncidentEvent<'a> {
    /// `incident_opened` or `incident_closed`.
    pub event: &'static str,
    /// When.
    pub time: Timestamp,
    /// Name of this host.
    pub host: &'a str,
    /// The incident.
    pub incident: &'a IncidentObject,
}

/// What is kept over a restart of an incident that is open.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnnouncedIncident {
    /// Its id.
    pub id: String,
    /// When it was opened.
    pub opened: Timestamp,
    /// Who is to blame.
    pub culprit: CulpritObject,
}
