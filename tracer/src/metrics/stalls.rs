//! The series of open stalls and incidents: of too many stalls, the oldest of each owner; of too many incidents, those of most stalls of each owner.

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use hashbrown::HashMap;

use super::state::State;
use crate::{
    assess::stall::Stall, model::cgroup::Owner, model::class::Class, model::wait::ThreadId, util::fair,
    wire::culprit::CulpritKind, wire::incident::IncidentObject,
};

/// Series of open stalls at most.
pub const STALL_SERIES: usize = 200;

/// Series of open incidents at most.
pub const INCIDENT_SERIES: usize = 50;

/// An open incident's labels, age and size.
pub struct IncidentSeries {
    /// Values of the labels of `tracer_incident_seconds`.
    pub labels: [String; 5],
    /// How long its oldest stall has lasted.
    pub oldest: Duration,
    /// How many stalls it has.
    pub stalls: usize,
}

impl IncidentSeries {
    fn of(incident: &IncidentObject) -> Self {
        let culprit = &incident.culprit;
        let or_empty = |text: &Option<String>| text.clone().unwrap_or_default();
        Self {
            labels: [
                incident.id.clone(),
                incident.name.clone(),
                culprit.pid.map(|pid| pid.to_string()).unwrap_or_default(),
                or_empty(&culprit.comm),
                or_empty(&culprit.address.clone().filter(|_| culprit.kind == CulpritKind::Remote)),
            ],
            oldest: incident.oldest,
            stalls: incident.stalls,
        }
    }
}

/// An open stall's labels and age.
pub struct StallSeries {
    /// Values of the labels of `tracer_stall_seconds`.
    pub labels: [String; 13],
    /// Its age.
    pub age: Duration,
}

impl StallSeries {
    fn of(stall: &Stall, incident: Option<&str>) -> Self {
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
                incident.unwrap_or_default().to_owned(),
            ],
            age: stall.wait.age,
        }
    }
}

impl State {
    /// Takes the incidents that are open now.
    pub(super) fn show_incidents(&mut self, incidents: &[&IncidentObject]) {
        let mut shown = incidents.to_vec();
        shown.sort_by_key(|incident| (Reverse(incident.stalls), incident.opened));
        let shown = fair::keep(shown, INCIDENT_SERIES, |incident| incident.owner.as_ref());
        self.incidents = shown.into_iter().map(IncidentSeries::of).collect();
        self.open_incidents = incidents.len();
    }

    /// Takes the stalls that are open now.
    pub(super) fn show_stalls<'a>(
        &mut self,
        stalls: &BTreeMap<ThreadId, Stall>,
        incident_of: &dyn Fn(&ThreadId) -> Option<&'a str>,
    ) {
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
        self.stalls = shown
            .into_iter()
            .map(|(.., stall)| StallSeries::of(stall, incident_of(&stall.wait.thread)))
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::wire::culprit::CulpritObject;

    /// Of a user, with so many stalls.
    fn incident(uid: u32, number: usize, stalls: usize) -> IncidentObject {
        IncidentObject {
            id: format!("{uid}-{number}"),
            opened: Timestamp::UNIX_EPOCH,
            closed: None,
            name: "x".into(),
            culprit: CulpritObject::of_kind(CulpritKind::Itself),
            stalls,
            processes: 1,
            units: BTreeMap::new(),
            stacks: Vec::new(),
            oldest: Duration::ZERO,
            owner: Some(Owner::User(uid)),
        }
    }

    #[test]
    fn a_user_with_many_incidents_leaves_room_for_another() {
        let mut all: Vec<_> = (0..2 * INCIDENT_SERIES).map(|number| incident(7, number, 10)).collect();
        all.push(incident(8, 0, 1));
        let mut state = State::default();
        state.show_incidents(&all.iter().collect::<Vec<_>>());
        assert_eq!((state.incidents.len(), state.open_incidents), (INCIDENT_SERIES, all.len()));
        assert!(state.incidents.iter().any(|series| series.labels[0] == "8-0"));
    }
}
