//! Stalls: when a wait is flagged, and what an open and a closed one are. Pure.
//!
//! A stall is open from the moment its wait passes its threshold until the thread gets on; `track` says when that is.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tracer_ebpf::abi::EndedWait;

use crate::{
    diagnose::verdict::Verdict,
    model::wait::{ThreadId, Wait},
    resolve::{
        Resolved,
        process::{Who, cgroup::Owner},
    },
};

/// How long each class may last: what the configuration says.
pub use crate::config::Config as Policy;

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
    pub who: Arc<Who>,
    /// What the configuration says of such waits.
    pub note: Option<String>,
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

/// The thread an event is of.
pub fn thread_of(event: &EndedWait) -> ThreadId {
    ThreadId {
        process: crate::model::wait::ProcessId { pid: event.key.tgid, start_ns: event.key.process_start_ns },
        tid: event.tid,
        start_ns: event.thread_start_ns,
    }
}
