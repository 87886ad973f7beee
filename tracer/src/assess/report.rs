//! The page of `why`, as the object that machines read.

use crate::{
    assess::inspect::{
        Report,
        chain::Other,
        sockets::{QueuedSocket, Unanswered},
        threads::{Doing, ThreadReport},
    },
    model::backlog::{Backlog, QueueKind},
    model::wait::SocketFacts,
    resolve::process::{HeldPath, ProcessMeta},
    wire::json::seconds,
    wire::report::{
        AdviceObject, BaselineObject, HeldUpObject, OtherObject, ParentObject, PlaceObject, QueuedObject,
        ReportObject, SocketsObject, ThreadObject, UnansweredObject, UnclosedObject, WhoObject,
    },
    wire::stack::UserStackObject,
    wire::target::TargetObject,
};

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
            holds_up: report.held_up.as_ref().map(|held_up| HeldUpObject {
                waits: held_up.waits,
                pids: held_up.pids.iter().copied().collect(),
                oldest_seconds: seconds(held_up.oldest),
            }),
            sockets: SocketsObject {
                states: &report.sockets.states,
                unanswered: report.sockets.unanswered.iter().map(request_object).collect(),
                perhaps_unanswered: report.sockets.perhaps_unanswered.iter().map(request_object).collect(),
                owed: report.sockets.owed.iter().map(request_object).collect(),
                unclosed: report.sockets.unclosed.as_ref().map(|unclosed| UnclosedObject {
                    number: unclosed.fds.len(),
                    oldest_seconds: seconds(unclosed.oldest),
                }),
                left_out: report.sockets.left_out,
                queued: report.sockets.queued.iter().map(queued_object).collect(),
            },
            next: report
                .advice
                .iter()
                .map(|advice| AdviceObject { command: &advice.command, reason: &advice.reason })
                .collect(),
        }
    }
}

fn queued_object(queued: &QueuedSocket) -> QueuedObject {
    let Backlog { waiting, number, limit } = queued.backlog;
    let waiting = match waiting {
        QueueKind::Connections => "connections",
        QueueKind::Datagrams => "datagrams",
    };
    let target = TargetObject::new(&queued.target, &SocketFacts::None);
    QueuedObject { fd: queued.fd, waiting, number, limit, target }
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
    let user_stack = thread.user_stack.as_ref().map(UserStackObject::from);
    let (tid, comm, stack) = (thread.tid, &thread.comm, &thread.stack);
    ThreadObject { tid, comm, state, cpu, wait, baseline, stack, user_stack }
}

fn request_object(request: &Unanswered) -> UnansweredObject {
    UnansweredObject {
        fd: request.fd,
        age_seconds: seconds(request.since),
        target: TargetObject::new(&request.resolved.target, &request.resolved.socket),
    }
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
