//! Stalls and past waits, as the agent's socket serves them and the history keeps them.

use std::{borrow::Cow, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::json::{WaitObject, in_seconds, to_the_millisecond};
use crate::{model::cgroup::Owner, util::human};

/// A stall as the agent's socket serves it and the history keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StallObject {
    /// When it was flagged.
    #[serde(serialize_with = "to_the_millisecond")]
    pub opened: Timestamp,
    /// When it ended; null while it lasts.
    pub closed: Option<Timestamp>,
    /// `resumed` or `exited`; `unknown` if the agent did not run when it ended.
    pub ended: Option<Cow<'static, str>>,
    /// How long it has lasted.
    #[serde(rename = "stall_seconds", with = "in_seconds")]
    pub lasted: Duration,
    /// What the configuration says of such waits.
    pub note: Option<String>,
    /// The incident that it belongs to, or belonged to last. Left out before the agent has found that out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incident: Option<StallIncident>,
    /// Whom it waits for; null if that is not known.
    #[serde(default)]
    pub peer: Option<StallPeer>,
    /// Where in its program the thread sleeps, the innermost function first; empty where that was not read.
    #[serde(default)]
    pub stack: Vec<String>,
    /// The wait.
    pub wait: WaitObject,
}

impl StallObject {
    /// What has happened, in a sentence: it was flagged, or is over.
    pub fn headline(&self) -> String {
        let wait = &self.wait;
        let who = format!("{} (pid {})", human::clean(&wait.comm), wait.pid);
        match &self.ended {
            None => format!("{who}: {}", wait.verdict.as_deref().map(human::clean).unwrap_or_default()),
            Some(ended) => format!("{who}: the stall is over after {}, {ended}", human::age(self.lasted)),
        }
    }
}

/// Whom a stall waits for: what is known of the other end. One of them at least is not null.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StallPeer {
    /// Its process, if that is on this host.
    pub pid: Option<u32>,
    /// The name of that.
    pub comm: Option<String>,
    /// Its address, or the path of its socket.
    pub address: Option<String>,
}

/// The incident of a stall.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StallIncident {
    /// Its id.
    pub id: String,
    /// Who is to blame, as people are told.
    pub name: String,
}

/// The waits of a moment that is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Past {
    /// When they were seen; null if nothing is known of the minute before the moment.
    pub at: Option<Timestamp>,
    /// The worst of them, and the stalls that were open at the moment asked for.
    pub waits: Vec<WaitObject>,
}

/// Whose a stall is that has been kept, as bytes of JSON; what cannot be read is nobody's.
pub fn owner(kept: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct StoredWait {
        wait: Whose,
    }
    #[derive(Deserialize)]
    struct Whose {
        uid: Option<u32>,
        cgroup: Option<String>,
    }
    let StoredWait { wait } = serde_json::from_slice(kept).ok()?;
    let Whose { uid, cgroup } = &wait;
    Some(Owner::at(cgroup.as_deref(), uid.unwrap_or_default()).to_string())
}

/// When a stall ended that has been kept, as bytes of JSON, if it has. What cannot be read ended long ago, also if it has no end.
pub fn end(kept: &[u8]) -> Option<Timestamp> {
    #[derive(Deserialize)]
    struct StoredEnd {
        closed: Option<Timestamp>,
    }
    match serde_json::from_slice(kept) {
        Ok(StoredEnd { closed: Some(closed) }) => Some(closed),
        Ok(StoredEnd { closed: None }) if serde_json::from_slice::<StallObject>(kept).is_ok() => None,
        _ => Some(Timestamp::UNIX_EPOCH),
    }
}
