//! The series of open stalls: of too many, the oldest of each owner.

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use hashbrown::HashMap;

use super::state::State;
use crate::{
    assess::stall::Stall, model::cgroup::Owner, model::class::Class, model::wait::ThreadId, util::fair,
};

/// Series of open stalls at most.
pub const STALL_SERIES: usize = 200;

/// An open stall's labels and age.
pub struct StallSeries {
    /// Values of the labels of `tracer_stall_seconds`.
    pub labels: [String; 12],
    /// Its age.
    pub age: Duration,
}

impl StallSeries {
    fn of(stall: &Stall) -> Self {
        let (local, remote) = stall.resolved.target.addresses();
        let pod = stall.who.pod.as_ref();
        let container = pod.and_then(|pod| pod.container.clone()).or_else(|| stall.who.container.clone());
        let or_empty = |text: &Option<String>| text.clone().unwrap_or_default();
        Self {
            labels: [
                stall.wait.thread.process.pid.to_string(),
                stall.wait.thread.tid.to_string(),
                stall.wait.comm.to_string(),
                or_empty(&stall.who.unit),
                or_empty(&pod.and_then(|pod| pod.namespace.clone())),
                pod.map(|pod| pod.label().to_owned()).unwrap_or_default(),
                or_empty(&container),
                stall.wait.call.name().to_owned(),
                stall.resolved.fd.map(|fd| fd.to_string()).unwrap_or_default(),
                stall.verdict.class.label().to_owned(),
                local,
                remote,
            ],
            age: stall.wait.age,
        }
    }
}

impl State {
    /// Takes the stalls that are open now.
    pub(super) fn show_stalls(&mut self, stalls: &BTreeMap<ThreadId, Stall>) {
        // Thousands do not fit into a processor's cache: each is gone through once.
        let mut open: HashMap<Class, u64> = HashMap::new();
        let mut shown: Vec<(Duration, Result<&Owner, u32>, &Stall)> = Vec::with_capacity(stalls.len());
        for stall in stalls.values() {
            *open.entry(stall.verdict.class).or_default() += 1;
            shown.push((stall.wait.age, stall.share(), stall));
        }
        shown.sort_by_key(|(age, ..)| Reverse(*age));
        let shown = fair::keep(shown, STALL_SERIES, |(_, share, _)| *share);
        self.open_stalls = open;
        self.without_series = stalls.len() - shown.len();
        // Labels are made of those only that have a series.
        self.stalls = shown.into_iter().map(|(.., stall)| StallSeries::of(stall)).collect();
    }
}
