//! The looking: what the tracker asks for is read here, in the time that there is.

use std::time::Instant;

use anyhow::Result;

use super::{
    AgentLoop,
    budget::Stage,
    requests::Pass,
    state,
    tracker::{Departures, Evidence},
};
use crate::{
    assess::pipeline::LOOK_AGE_MIN,
    assess::pipeline::{Assessment, Resolution},
    assess::requests::Taken,
    collect::{Source, WantedConnections},
    model::wait::{ByProcess, Snapshot, ThreadId, Wait},
    procfs::Reads,
    util::clock::Now,
};

impl AgentLoop {
    /// Adds the requests of event loops to the waits, after a pass over all sockets where that is due.
    pub(super) fn look_at_requests(&mut self, snapshot: &mut Snapshot) {
        let began = Instant::now();
        if self.requests.pass_is_due(began) {
            // A failure is counted as a pass without an end is.
            let wanted = WantedConnections {
                age: LOOK_AGE_MIN,
                answered_one_in: self.requests.answered_one_in(),
                of_servers: true,
            };
            let found = self.bpf.connections(&wanted).unwrap_or_default();
            self.requests.passed(found, Pass { began, took: began.elapsed(), at: state::now() });
        }
        let again = self.requests.to_refresh(snapshot.monotonic_ns, !self.bpf.kernel.visits_threads());
        if let Ok(seen) = self.bpf.look_up(&again) {
            self.requests.refreshed(&again, seen, snapshot.monotonic_ns);
        }
        self.add_requests(snapshot);
    }

    /// Adds those on whose sockets no thread waits.
    pub(super) fn add_requests(&mut self, snapshot: &mut Snapshot) {
        if self.requests.is_empty() {
            return;
        }
        let mut taken = Taken::of(snapshot);
        taken.sockets.extend(self.tracker.sockets_waited_on());
        snapshot.waits.extend(self.requests.waits(&Now::read(), &taken));
    }

    /// What waits wait on, the first of them as far as there is time.
    pub(super) fn resolve(&mut self, waits: Vec<Wait>) -> Result<Resolution> {
        let time = self.time_for(Stage::Resolve);
        self.pipeline.resolve_within(time, waits, &mut self.bpf)
    }

    /// What has moved on the connections of those who have left their waits, and who of them lives.
    pub(super) fn find_evidence(&mut self, departures: &Departures) -> Evidence {
        let mut reads = Reads::new();
        reads.forgive(departures.woken().iter().copied());
        let lives = |thread: &&ThreadId| reads.thread_lives(&thread.in_kernel());
        let alive = departures.absent().iter().filter(lives).copied().collect();
        // Of what cannot be looked up nothing is known.
        let connections = self.bpf.look_up(departures.connections()).unwrap_or_default();
        Evidence { connections, alive }
    }

    /// The peers of those that earn it, and the circles they stand in. Who stands in one with them comes to them.
    pub(super) fn find_peers(
        &mut self,
        assessments: &mut Vec<Assessment>,
        snapshot: &Snapshot,
    ) -> Result<()> {
        let until = Some(Instant::now() + self.time_for(Stage::Peers));
        let policy = self.tracker.peer_policy(&self.policy);
        let all = ByProcess::new(&snapshot.waits);
        self.pipeline.find_peers(assessments, &all, &mut self.bpf, &policy, until)?;
        let mut met = self.pipeline.find_circles(assessments, &all, &mut self.bpf, until)?;
        met.iter_mut().for_each(|met| self.tracker.date_back(&mut met.wait));
        assessments.append(&mut met);
        Ok(())
    }
}
