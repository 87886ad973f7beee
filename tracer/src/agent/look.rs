//! The looking: what the tracker asks for is read here, in the time that there is.

use std::time::Instant;

use anyhow::Result;

use super::{
    AgentLoop,
    budget::Stage,
    tracker::{Departures, Evidence},
};
use crate::{
    assess::pipeline::{Assessment, Resolution},
    collect::Source,
    model::wait::{ByProcess, Snapshot, Wait},
    procfs::Reads,
};

impl AgentLoop {
    /// What waits wait on, the first of them as far as there is time.
    pub(super) fn resolve(&mut self, waits: Vec<Wait>, now_ns: u64) -> Result<Resolution> {
        let time = self.time_for(Stage::Resolve);
        self.pipeline.resolve_within(time, waits, now_ns, &mut self.bpf)
    }

    /// What has moved on the connections of those who have left their waits, and who of them lives.
    pub(super) fn find_evidence(&mut self, departures: &Departures) -> Evidence {
        let mut reads = Reads::new();
        reads.forgive(departures.woken().iter().copied());
        let alive = departures.absent().iter().filter(|thread| reads.thread_lives(thread)).copied().collect();
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
