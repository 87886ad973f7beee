//! What sinks are told beside stalls: what has ended, what a look has found, what was lost.

use std::time::Duration;

use anyhow::Result;
use hashbrown::HashSet;

use super::{
    AgentLoop, FORGET_DURATIONS_AFTER,
    requests::services::{ServiceConnections, ServiceTable},
};
use crate::{
    assess::blind::Cause,
    assess::sink::{Look, OfService},
    collect::ended::Drained,
    collect::losses::{self, Loss},
    model::wait::{ProcessId, Snapshot, Wait},
    procfs::Reads,
    resolve::Resolver,
};

/// Snapshots between two looks at how many runs of the programs the kernel has skipped.
const SKIPPED_EVERY: u64 = 10;

impl AgentLoop {
    /// Tells of what has ended since the last time, one by one as they come out of the kernel's map: thousands are not held at a
    /// time.
    pub(super) fn count_ended(&mut self) -> Result<()> {
        if self.durations_asked.elapsed() > FORGET_DURATIONS_AFTER {
            self.durations = None;
        }
        self.bpf.drain_ended(|ended| {
            let ended = match ended {
                Drained::Waits(waits) => waits,
                Drained::Answers(answers) => return self.sinks.answers_read(&answers),
            };
            if self.canary.as_ref().is_some_and(|canary| canary.is(ended.process)) {
                return;
            }
            if let Some(durations) = &mut self.durations {
                durations.add(&ended);
            }
            self.sinks.waits_ended(&ended);
        })
    }

    /// Tells of the look that has just ended.
    pub(super) fn report(&mut self, snapshot: &Snapshot) -> Result<()> {
        let waiting: HashSet<ProcessId> = snapshot.waits.iter().map(|wait| wait.thread.process).collect();
        let services = [self.requests.incoming(), self.requests.unclosed()];
        let named: HashSet<ProcessId> =
            services.iter().flat_map(|of| of.services.iter().map(|of| of.process)).collect();
        let resolver = self.pipeline.resolver();
        resolver.retain(|process| waiting.contains(process) || named.contains(process));
        let [incoming, unclosed] = services.map(|of| told(of, resolver, snapshot.monotonic_ns));
        let losses = self.losses()?;
        self.sinks.lost(&losses);
        let blinded_by = self.blinded_by(snapshot.monotonic_ns);
        self.incidents.age(snapshot.monotonic_ns);
        self.sinks.look_ended(&Look {
            snapshot,
            standing: &|wait: &Wait| self.tracker.standing(&wait.thread, wait.age),
            stalls: self.tracker.stalls(),
            incidents: &self.incidents.all(),
            incident_of: &|stall| self.incidents.id_of(stall),
            blinded_by: &blinded_by,
            interval: self.pace.interval(),
            requests: self.requests.numbers(),
            incoming: &incoming,
            unclosed: &unclosed,
            ends_by_calls: !self.bpf.kernel.sees_sleeps_end(),
        });
        Ok(())
    }

    /// What anybody has lost so far.
    fn losses(&mut self) -> Result<Vec<(Loss, u64)>> {
        let mut losses = losses::of_programs(&self.bpf.kernel)?;
        // Costs a file for each descriptor.
        if self.number % SKIPPED_EVERY == 1 {
            losses.push((Loss::RunsSkipped, self.bpf.kernel.skipped()));
        }
        losses.extend([
            (Loss::LookCut, self.cut),
            (Loss::LookFailed, self.failed),
            (Loss::RequestsMissed, self.requests.missed()),
            (Loss::ReadsAbandoned, Reads::new().abandoned()),
            (Loss::StateUnsaved, self.state.unsaved()),
        ]);
        losses.extend(self.sinks.losses());
        Ok(losses)
    }

    /// What has kept this look from seeing everything.
    fn blinded_by(&mut self, now_ns: u64) -> Vec<Cause> {
        let (refused, unanswered) = (Reads::new().refused(), Reads::new().unanswered());
        let causes = [
            // One process that hangs is left alone, and is no reason not to see the others.
            (Cause::Reads, refused > self.refused),
            (Cause::Readers, unanswered > self.unanswered),
            (Cause::Peers, self.pipeline.resolver().has_missed_peers()),
            (Cause::LookCut, self.cuts),
            (Cause::Canary, self.misses_canary(now_ns)),
        ];
        (self.refused, self.unanswered) = (refused, unanswered);
        causes.into_iter().filter(|(_, is_one)| *is_one).map(|(cause, _)| cause).collect()
    }
}

/// Connections of programs, with what is known of these, and ages as of this moment.
fn told(services: &ServiceTable, resolver: &mut Resolver, now_ns: u64) -> Vec<OfService> {
    let ServiceTable { services, others, others_since_ns } = services;
    let age = |since_ns: u64| Duration::from_nanos(now_ns.saturating_sub(since_ns));
    let of_service = |of: &ServiceConnections| OfService {
        owner: Some((of.comm.clone(), resolver.who(of.process), of.local)),
        number: of.number,
        oldest: age(of.since_ns),
    };
    let others =
        others_since_ns.map(|since_ns| OfService { owner: None, number: *others, oldest: age(since_ns) });
    services.iter().map(of_service).chain(others).collect()
}
