//! The JSON of `tracer why`: one object, waits in it as `ps --json` prints them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    json::{WaitObject, in_seconds, seconds},
    target::TargetObject,
};
use crate::{
    assess::inspect::{
        Report,
        chain::Other,
        threads::{Doing, ThreadReport},
    },
    model::baseline::Excuse,
    resolve::process::{HeldPath, ProcessMeta, pods::Pod},
};

/// A report.
#[derive(Serialize)]
pub struct ReportObject<'a> {
    pid: u32,
    /// The thread that was asked about, if it was one.
    tid: Option<u32>,
    comm: &'a str,
    condition: &'static str,
    headline: &'a str,
    who: WhoObject<'a>,
    threads: Vec<ThreadObject<'a>>,
    others: Vec<OtherObject<'a>>,
    /// Processes at the other ends that were too many to look at.
    others_left_out: usize,
    sockets: SocketsObject<'a>,
    next: Vec<AdviceObject<'a>>,
}

#[derive(Serialize)]
struct WhoObject<'a> {
    cmdline: Option<&'a str>,
    uid: Option<u32>,
    user: Option<&'a str>,
    started: Option<String>,
    exe: Option<PlaceObject<'a>>,
    cwd: Option<PlaceObject<'a>>,
    parents: Vec<ParentObject<'a>>,
    cgroup: Option<&'a str>,
    unit: Option<&'a str>,
    container: Option<&'a str>,
    runtime: Option<&'static str>,
    pod: Option<&'a Pod>,
}

#[derive(Serialize)]
struct PlaceObject<'a> {
    path: &'a str,
    deleted: bool,
}

#[derive(Serialize)]
struct ParentObject<'a> {
    pid: u32,
    comm: &'a str,
}

#[derive(Serialize)]
struct ThreadObject<'a> {
    tid: u32,
    comm: &'a str,
    /// `waiting`, `running`, `stopped`, `traced`, `frozen`, `hidden` or `zombie`.
    state: &'static str,
    /// Share of a CPU, where it runs.
    cpu: Option<f64>,
    wait: Option<WaitObject>,
    /// What keeps the agent from flagging that.
    baseline: Option<BaselineObject>,
    /// Functions inside the kernel, innermost first.
    stack: &'a [String],
}

/// How long such waits usually take, where that keeps one from being flagged.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct BaselineObject {
    #[serde(rename = "usual_seconds", with = "in_seconds")]
    usual: Duration,
    #[serde(rename = "threshold_seconds", with = "in_seconds")]
    threshold: Duration,
    #[serde(rename = "flagged_after_seconds", with = "in_seconds")]
    flagged_after: Duration,
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

#[derive(Serialize)]
struct OtherObject<'a> {
    pid: u32,
    tid: Option<u32>,
    comm: &'a str,
    cmdline: Option<&'a str>,
    role: &'static str,
    doing: &'a str,
    circle: bool,
    then: Vec<OtherObject<'a>>,
    /// How many of those were too many to look at.
    then_left_out: usize,
}

#[derive(Serialize)]
struct SocketsObject<'a> {
    states: &'a std::collections::BTreeMap<String, usize>,
    unanswered: Vec<UnansweredObject>,
    left_out: usize,
}

#[derive(Serialize)]
struct UnansweredObject {
    fd: i32,
    age_seconds: f64,
    target: TargetObject,
}

#[derive(Serialize)]
struct AdviceObject<'a> {
    command: &'a str,
    reason: &'a str,
}

impl<'a> ReportObject<'a> {
    /// Of a report.
    pub fn new(report: &'a Report) -> Self {
        Self {
            pid: report.process.pid,
            tid: report.only,
            comm: &report.comm,
            condition: report.condition.label(),
            headline: &report.headline,
            who: who(&report.who),
            threads: report.threads.iter().map(|of| thread(of, &report.who)).collect(),
            others: report.others.iter().map(other).collect(),
            others_left_out: report.others_left_out,
            sockets: SocketsObject {
                states: &report.sockets.states,
                unanswered: report
                    .sockets
                    .unanswered
                    .iter()
                    .map(|request| UnansweredObject {
                        fd: request.fd,
                        age_seconds: seconds(request.since),
                        target: TargetObject::new(&request.resolved.target, &request.resolved.socket),
                    })
                    .collect(),
                left_out: report.sockets.left_out,
            },
            next: report
                .advice
                .iter()
                .map(|advice| AdviceObject { command: &advice.command, reason: &advice.reason })
                .collect(),
        }
    }
}

fn who(who: &ProcessMeta) -> WhoObject<'_> {
    WhoObject {
        cmdline: who.cmdline.as_deref(),
        uid: who.uid,
        user: who.user.as_deref(),
        started: who.started.map(|at| format!("{at:.3}")),
        exe: who.exe.as_ref().map(PlaceObject::new),
        cwd: who.cwd.as_ref().map(PlaceObject::new),
        parents: who.parents.iter().map(|of| ParentObject { pid: of.pid, comm: &of.comm }).collect(),
        cgroup: who.cgroup.as_deref(),
        unit: who.unit.as_deref(),
        container: who.container.as_deref(),
        runtime: who.runtime.map(|runtime| runtime.label()),
        pod: who.pod.as_ref(),
    }
}

impl<'a> PlaceObject<'a> {
    fn new(place: &'a HeldPath) -> Self {
        Self { path: &place.path, deleted: place.deleted }
    }
}

fn thread<'a>(thread: &'a ThreadReport, who: &'a ProcessMeta) -> ThreadObject<'a> {
    let (state, cpu) = match &thread.doing {
        Doing::Waits(_) => ("waiting", None),
        Doing::Runs { cpu } => ("running", Some((cpu * 1000.0).round() / 1000.0)),
        Doing::Stopped(_) => ("stopped", None),
        Doing::Traced(_) => ("traced", None),
        Doing::Frozen(_) => ("frozen", None),
        Doing::Hidden => ("hidden", None),
        Doing::Zombie => ("zombie", None),
    };
    let wait = thread.wait().map(|wait| wait.object(who));
    let baseline = thread.excuse.map(BaselineObject::from);
    ThreadObject { tid: thread.tid, comm: &thread.comm, state, cpu, wait, baseline, stack: &thread.stack }
}

fn other(of: &Other) -> OtherObject<'_> {
    OtherObject {
        pid: of.pid,
        tid: of.tid,
        comm: &of.comm,
        cmdline: of.cmdline.as_deref(),
        role: of.role,
        doing: &of.doing,
        circle: of.circle,
        then: of.then.iter().map(other).collect(),
        then_left_out: of.then_left_out,
    }
}
