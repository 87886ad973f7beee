//! Which waits that may be stalls are, and who is told of what became of stalls and answers?

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::{
    AgentLoop,
    budget::Stage,
    incidents::FoundIncidents,
    open_stalls::Opening,
    pace::Meter,
    tracker::{Answer, Terms, Transition},
};
use crate::{
    agent::state::AgentState,
    assess::client::Client,
    assess::pipeline::Assessment,
    assess::stall::Closed,
    config::Config,
    config::Subject,
    diagnose::silence::{Silence, silence},
    model::cgroup::Owner,
    model::class::Class,
    model::target::Target,
    model::wait::{ByProcess, Snapshot},
    resolve::process::ProcessMeta,
    wire::state::BaselineKey,
};

/// Waits whose processes are read together, before it is asked whether there is time for more.
const MET_AT_ONCE: usize = 32;

impl AgentLoop {
    /// Opens those that are stalls, as many as there is time for. How many were not reached.
    pub(super) fn open_stalls(&mut self, due: Vec<Assessment>) -> usize {
        let until = Instant::now() + self.time_for(Stage::Decide);
        self.stall_stacks.begin_look(due.iter().map(|assessment| assessment.wait.thread));
        let number = due.len();
        let mut due = due.into_iter();
        while due.len() > 0 && (due.len() == number || Instant::now() < until) {
            let some: Vec<Assessment> = due.by_ref().take(MET_AT_ONCE).collect();
            let processes = some.iter().map(|assessment| assessment.wait.thread.process);
            self.pipeline.resolver().read_processes(processes);
            some.into_iter().for_each(|assessment| self.decide(assessment));
        }
        due.len()
    }

    fn decide(&mut self, assessment: Assessment) {
        let who = self.pipeline.resolver().who(assessment.wait.thread.process);
        let mut terms = terms(&assessment, &who, &self.policy, &self.state);
        if self.tracker.opens(&assessment.wait, &terms) {
            let owner = who.account.clone().unwrap_or(Owner::User(who.uid.unwrap_or(assessment.wait.uid)));
            terms.stack = self.stall_stacks.read(&assessment.wait, owner, &mut self.bpf);
        }
        match self.tracker.decide(assessment, terms, who, Timestamp::now()) {
            Some(Opening::New(stall)) => self.sinks.stall_opened(stall),
            Some(Opening::FoundAgain(stall)) => self.sinks.stall_found_again(stall),
            None => {}
        }
    }

    /// Finds whom the stalls are due to, where they have changed, and tells of what has opened and closed.
    pub(super) fn find_incidents(&mut self, snapshot: &Snapshot) {
        let now_ns = snapshot.monotonic_ns;
        if !self.incidents.are_due(self.tracker.open_stalls().changes(), now_ns) {
            return;
        }
        let mut meter = Meter::start();
        let changed = self.tracker.take_changed_stalls();
        let (open, all) = (self.tracker.open_stalls(), ByProcess::new(&snapshot.waits));
        let reads = self.pipeline.resolver().reads();
        self.families.again();
        self.blamed.update(changed, open.all(), &all, &mut self.families, reads);
        self.incidents.unnamed().iter().for_each(|culprit| self.blamed.graph.mark_changed(*culprit));
        let found = FoundIncidents {
            changes: self.blamed.graph.take_changes(),
            stalls: open.all(),
            number: open.changes(),
            is_settled: self.blamed.are_settled(),
        };
        let changes =
            self.incidents.see(found, |incident| self.families.culprit(incident, &all, reads), now_ns);
        self.tracker.tell_stalls(changes.told);
        self.incidents.took(meter.lap(), now_ns);
        changes.opened.into_iter().for_each(|incident| self.sinks.incident_opened(incident));
        changes.closed.into_iter().for_each(|incident| self.sinks.incident_closed(incident));
    }

    /// Tells whom it concerns.
    pub(super) fn publish(&mut self, transitions: Vec<Transition>) {
        for transition in transitions {
            match transition {
                Transition::Closed(closed) => self.closed(&closed),
                Transition::Answered(answer) => self.learn(&answer),
            }
        }
    }

    pub(super) fn closed(&mut self, closed: &Closed) {
        self.sinks.stall_closed(closed);
    }

    /// How long an answer took is a sample for its baseline. Who has gone meanwhile is not known any more.
    fn learn(&mut self, Answer { process, client, lasted }: &Answer) {
        let who = self.pipeline.resolver().who(*process);
        if who.started.is_some() {
            self.state.learn(&BaselineKey::of(client, &who), *lasted);
        }
    }
}

/// What rules and baselines say of a wait.
fn terms(assessment: &Assessment, who: &ProcessMeta, policy: &Config, state: &AgentState) -> Terms {
    let decision = policy.decide(&subject(assessment, who));
    let client = Client::of(&assessment.wait, &assessment.resolved).filter(|_| !decision.by_rule);
    let key = client.map(|client| BaselineKey::of(&client, who));
    let usual = key.as_ref().and_then(|key| state.usual(key));
    let threshold = match decision.threshold {
        Some(threshold) if !decision.by_rule && usual.is_none() => {
            Some(at_the_earliest(assessment, threshold, decision.is_set))
        }
        threshold => threshold,
    };
    let excuse = key.as_ref().zip(threshold);
    Terms {
        threshold,
        excuse: excuse.and_then(|(key, threshold)| state.excuse(key, threshold)),
        usual,
        note: decision.note.map(str::to_owned),
        stack: Vec::new(),
    }
}

/// How old a wait must be to be flagged, of a program that has not been seen to be answered there. One that has subscribed to something and
/// never missed anything waits for ever; whether it is that is asked again each time so much has passed. Where somebody has set the threshold
/// of the class, only a server that is seen to have nothing to say makes it one.
fn at_the_earliest(
    Assessment { wait, resolved, class }: &Assessment,
    threshold: Duration,
    is_set: bool,
) -> Duration {
    let may_be_subscription = *class == Class::Quiet
        && match silence(resolved) {
            Silence::AtRest => true,
            Silence::Unknown => !is_set,
            Silence::CutOff | Silence::Mutual => false,
        };
    if may_be_subscription { wait.age.max(threshold) + threshold } else { threshold }
}

/// What the rules see of a wait.
fn subject<'a>(assessment: &'a Assessment, who: &'a ProcessMeta) -> Subject<'a> {
    let Assessment { wait, resolved, .. } = assessment;
    let (local, remote) = resolved.target.socket_addresses();
    Subject {
        comm: &wait.comm,
        unit: who.unit.as_deref(),
        container: who.container.as_deref(),
        uid: who.uid.unwrap_or(wait.uid),
        user: who.user.as_deref(),
        syscall: wait.call.syscall,
        judgement: assessment.judgement(),
        local,
        remote,
        path: match &resolved.target {
            Target::Unix { path, .. } => path.as_deref(),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::verdict::tests::{on, peers, tcp, wait},
        model::{syscalls::Syscall, wait::Wait},
        resolve::Resolved,
    };

    #[test]
    fn a_subscription_is_asked_about_again_and_never_old_enough() {
        let seconds = Duration::from_secs;
        for (class, age, serves, is_set, expected) in [
            (Class::Quiet, 5, Some(true), false, 1_200),
            (Class::Quiet, 600, Some(true), false, 1_200),
            (Class::Quiet, 7_000, Some(true), true, 7_600),
            (Class::Quiet, 7_000, None, false, 7_600),
            // Nobody knows, and a threshold for that has been asked for.
            (Class::Quiet, 7_000, None, true, 600),
            // Its server does something else: an answer has been cut off.
            (Class::Quiet, 600, Some(false), false, 600),
            (Class::Request, 600, Some(true), false, 600),
        ] {
            let wait = Wait { age: seconds(age), ..wait(Syscall::Read, [3, 0, 0, 0, 0, 0]) };
            let resolved = Resolved { peers: peers(1, false, false, serves), ..on(Syscall::Read, tcp()) };
            let found = at_the_earliest(&Assessment { wait, resolved, class }, seconds(600), is_set);
            assert_eq!(found, seconds(expected), "{class:?} {age} {serves:?} {is_set}");
        }
    }
}
