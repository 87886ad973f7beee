//! Stalls: when a wait is flagged, and what an open and a closed one are. Pure.
//!
//! A stall is open from the moment its wait passes its threshold until the thread gets on; `track` says when that is.

use std::{sync::Arc, time::Duration};

use jiff::{Timestamp, Unit};

use crate::{
    diagnose::verdict::Verdict,
    model::cgroup::Owner,
    model::class::Judgement,
    model::wait::{ThreadId, Wait},
    resolve::{Resolved, process::ProcessMeta},
    wire::json::WaitObject,
    wire::stall::{StallIncident, StallObject, StallPeer},
};

/// What is known of a wait between two looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What it is judged to be.
    pub judgement: Judgement,
    /// Its baseline is what keeps it from being flagged.
    pub is_excused: bool,
}

/// How a stall ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The thread got on.
    Resumed,
    /// The thread is gone.
    Exited,
}

impl Ended {
    /// Its name in events.
    pub fn label(self) -> &'static str {
        match self {
            Ended::Resumed => "resumed",
            Ended::Exited => "exited",
        }
    }
}

/// An open stall.
#[derive(Clone, Debug)]
pub struct Stall {
    /// The wait, its age kept up to date.
    pub wait: Wait,
    /// What it waits on.
    pub resolved: Resolved,
    /// Why it is one.
    pub verdict: Verdict,
    /// When it was flagged.
    pub opened: Timestamp,
    /// Who waits.
    pub who: Arc<ProcessMeta>,
    /// What the configuration says of such waits.
    pub note: Option<String>,
    /// The incident that it belongs to, once that is known.
    pub incident: Option<Arc<StallIncident>>,
    /// Where in its program the thread sleeps, the innermost function first; empty where that was not read.
    pub stack: Vec<String>,
}

impl Stall {
    /// Whose share of what is bounded it takes.
    pub fn owner(&self) -> Owner {
        self.share().map_or_else(Owner::User, Owner::clone)
    }

    /// The same without a copy: an owner, or else a user.
    pub fn share(&self) -> Result<&Owner, u32> {
        self.who.account.as_ref().ok_or(self.who.uid.unwrap_or(self.wait.uid))
    }
}

/// What tells a stall from all others, also from a later one of the same thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StallIdentity {
    /// Who waits, or goes on with the wait of another thread.
    pub thread: ThreadId,
    /// When it was flagged.
    pub opened: Timestamp,
}

/// A stall that has ended.
#[derive(Clone, Debug)]
pub struct Closed {
    /// As it was.
    pub stall: Stall,
    /// How it ended.
    pub ended: Ended,
    /// How long it lasted.
    pub lasted: Duration,
}

impl StallObject {
    /// Of an open one.
    pub fn open(stall: &Stall) -> Self {
        let wait = WaitObject::new(&stall.wait, &stall.resolved, &stall.verdict, &stall.who);
        let (lasted, note, stack) = (stall.wait.age, stall.note.clone(), stall.stack.clone());
        let incident = stall.incident.as_deref().cloned();
        let peer = peer(&stall.resolved, &wait);
        Self { opened: stall.opened, closed: None, ended: None, lasted, note, incident, peer, stack, wait }
    }

    /// Of one that has just ended.
    pub fn closed(closed: &Closed) -> Self {
        let ended = Some(closed.ended.label().into());
        let at = Timestamp::now().round(Unit::Millisecond).ok();
        Self { closed: at, ended, lasted: closed.lasted, ..Self::open(&closed.stall) }
    }
}

/// Whom it waits for, as far as that is known.
fn peer(resolved: &Resolved, wait: &WaitObject) -> Option<StallPeer> {
    let process = resolved.peers.as_ref().and_then(|peers| peers.others.first());
    let address =
        wait.target.peers().into_iter().find_map(|(address, path)| {
            address.map(|address| address.to_string()).or(path.map(str::to_owned))
        });
    (process.is_some() || address.is_some()).then(|| StallPeer {
        pid: process.map(|process| process.pid),
        comm: process.map(|process| process.comm.clone()),
        address,
    })
}
