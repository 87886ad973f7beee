//! The JSON of `tracer why`: one object, waits in it as `ps --json` prints them.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    json::{WaitObject, in_seconds},
    stack::UserStackObject,
    target::TargetObject,
};
use crate::model::{baseline::Excuse, pod::Pod};

/// Everything about one process.
#[derive(Serialize)]
pub struct ReportObject<'a> {
    /// The process.
    pub pid: u32,
    /// The thread that was asked about, if it was one.
    pub tid: Option<u32>,
    /// Name of the process.
    pub comm: &'a str,
    /// What it is, in a word.
    pub condition: &'static str,
    /// The same in a sentence.
    pub headline: &'a str,
    /// Who it is.
    pub who: WhoObject<'a>,
    /// Its threads.
    pub threads: Vec<ThreadObject<'a>>,
    /// Processes that it waits for, or that have a part in its waits.
    pub others: Vec<OtherObject<'a>>,
    /// Processes at the other ends that were too many to look at.
    pub others_left_out: usize,
    /// The stuck waits of other processes that are due to it, at the end of whatever chain; null if there are none.
    pub holds_up: Option<HeldUpObject>,
    /// Its connections.
    pub sockets: SocketsObject<'a>,
    /// What to do next.
    pub next: Vec<AdviceObject<'a>>,
}

/// Waits that are due to a process.
#[derive(Serialize)]
pub struct HeldUpObject {
    /// How many.
    pub waits: usize,
    /// Of which processes, ascending.
    pub pids: Vec<u32>,
    /// The age of the oldest.
    pub oldest_seconds: f64,
}

/// Who a process is.
#[derive(Serialize)]
pub struct WhoObject<'a> {
    /// Its command line.
    pub cmdline: Option<&'a str>,
    /// Its user.
    pub uid: Option<u32>,
    /// That user's name.
    pub user: Option<&'a str>,
    /// When it started.
    pub started: Option<String>,
    /// Its executable.
    pub exe: Option<PlaceObject<'a>>,
    /// Its working directory.
    pub cwd: Option<PlaceObject<'a>>,
    /// Its parent, that one's parent, and so on.
    pub parents: Vec<ParentObject<'a>>,
    /// Path of its cgroup.
    pub cgroup: Option<&'a str>,
    /// Its systemd unit.
    pub unit: Option<&'a str>,
    /// Its container's id.
    pub container: Option<&'a str>,
    /// What runs the container.
    pub runtime: Option<&'static str>,
    /// Its Kubernetes pod.
    pub pod: Option<&'a Pod>,
}

/// A file that a process holds.
#[derive(Serialize)]
pub struct PlaceObject<'a> {
    /// Its path.
    pub path: &'a str,
    /// Whether it has been deleted.
    pub deleted: bool,
}

/// An ancestor of a process.
#[derive(Serialize)]
pub struct ParentObject<'a> {
    /// The process.
    pub pid: u32,
    /// Its name.
    pub comm: &'a str,
}

/// A thread, and what it is doing.
#[derive(Serialize)]
pub struct ThreadObject<'a> {
    /// The thread.
    pub tid: u32,
    /// Its name.
    pub comm: &'a str,
    /// `waiting`, `running`, `stopped`, `traced`, `frozen`, `hidden` or `zombie`.
    pub state: &'static str,
    /// Share of a CPU, where it runs.
    pub cpu: Option<f64>,
    /// Its wait, where it waits.
    pub wait: Option<WaitObject>,
    /// What keeps the agent from flagging that.
    pub baseline: Option<BaselineObject>,
    /// Functions inside the kernel, innermost first.
    pub stack: &'a [String],
    /// Where in its program it sleeps; null where that was not read.
    pub user_stack: Option<UserStackObject<'a>>,
}

/// How long such waits usually take, where that keeps one from being flagged.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct BaselineObject {
    /// How long such waits usually take.
    #[serde(rename = "usual_seconds", with = "in_seconds")]
    pub usual: Duration,
    /// The threshold that would hold without it.
    #[serde(rename = "threshold_seconds", with = "in_seconds")]
    pub threshold: Duration,
    /// The age at which such a wait is flagged all the same.
    #[serde(rename = "flagged_after_seconds", with = "in_seconds")]
    pub flagged_after: Duration,
}

impl From<Excuse> for BaselineObject {
    fn from(Excuse { usual, from: threshold, until: flagged_after }: Excuse) -> Self {
        Self { usual, threshold, flagged_after }
    }
}

impl From<BaselineObject> for Excuse {
    fn from(BaselineObject { usual, threshold, flagged_after }: BaselineObject) -> Self {
        Self { usual, from: threshold, until: flagged_after }
    }
}

/// A process with a part in a wait.
#[derive(Serialize)]
pub struct OtherObject<'a> {
    /// The process.
    pub pid: u32,
    /// The thread, if it is known.
    pub tid: Option<u32>,
    /// Its name.
    pub comm: &'a str,
    /// Its command line.
    pub cmdline: Option<&'a str>,
    /// What part it has.
    pub role: &'static str,
    /// What it is doing, in words.
    pub doing: &'a str,
    /// Whether it waits for the first one in turn.
    pub circle: bool,
    /// Those that it waits for.
    pub then: Vec<OtherObject<'a>>,
    /// How many of those were too many to look at.
    pub then_left_out: usize,
}

/// The connections of a process.
#[derive(Serialize)]
pub struct SocketsObject<'a> {
    /// How many there are in each state.
    pub states: &'a BTreeMap<String, usize>,
    /// Those on which it has asked and not been answered.
    pub unanswered: Vec<UnansweredObject>,
    /// Those on which what has come since may be session tickets of TLS, and no answer.
    pub perhaps_unanswered: Vec<UnansweredObject>,
    /// Those that others have sent it and that it has not answered.
    pub owed: Vec<UnansweredObject>,
    /// Those that the other end closed a minute ago or more and it has not, if there are any.
    pub unclosed: Option<UnclosedObject>,
    /// How many of its connections were not looked into.
    pub left_out: usize,
    /// Queues in which something waits, the longest first.
    pub queued: Vec<QueuedObject>,
}

/// A queue in which something waits: connections that nobody has accepted, datagrams that nobody has read.
#[derive(Serialize)]
pub struct QueuedObject {
    /// Its socket's descriptor.
    pub fd: i32,
    /// `connections` or `datagrams`.
    pub waiting: &'static str,
    /// How many there are.
    pub number: u32,
    /// How many the process has asked for; the kernel takes one more.
    pub limit: Option<u32>,
    /// Its socket.
    pub target: TargetObject,
}

/// Connections that the other end has closed and the process has not.
#[derive(Serialize)]
pub struct UnclosedObject {
    /// How many there are.
    pub number: usize,
    /// How long ago the first of them was closed, seconds.
    pub oldest_seconds: f64,
}

/// A request without an answer.
#[derive(Serialize)]
pub struct UnansweredObject {
    /// Its connection's descriptor.
    pub fd: i32,
    /// How long ago it was sent, or received.
    pub age_seconds: f64,
    /// Its connection.
    pub target: TargetObject,
}

/// What to do next.
#[derive(Serialize)]
pub struct AdviceObject<'a> {
    /// What to run.
    pub command: &'a str,
    /// What it shows or does.
    pub reason: &'a str,
}
