//! What has happened while nobody read the stream: asked of the agent, which keeps stalls and knows its open incidents, and told as the events
//! that were missed. The end of an incident that was missed as well is not known to it any more.

use std::{collections::HashMap, time::Duration};

use anyhow::Result;
use jiff::Timestamp;

use crate::{
    serve::client::AgentClient,
    wire::{
        event::{ReceivedEvent, StallEvent, What},
        incident::{IncidentEvent, IncidentObject},
        stall::StallObject,
    },
};

/// By how much the times of an event and of what the agent keeps of it may differ.
const SAME: Duration = Duration::from_secs(1);

/// What is caught up on, and which events are known: the stream has some of them as well.
pub struct CatchUp {
    since: Option<Timestamp>,
    known: HashMap<EventKey, Vec<Timestamp>>,
}

/// What an event is about.
#[derive(PartialEq, Eq, Hash)]
enum EventKey {
    Stall { is_closed: bool, pid: u32, tid: u32, fd: Option<i32>, start_ticks: Option<u64> },
    Incident { is_closed: bool, id: String },
}

impl EventKey {
    fn of_stall(stall: &StallObject, is_closed: bool) -> Self {
        let wait = &stall.wait;
        // A thread has one stall at a time, a process as many as it has requests.
        let fd = wait.fd.filter(|_| wait.tid == 0);
        Self::Stall { is_closed, pid: wait.pid, tid: wait.tid, fd, start_ticks: wait.start_ticks }
    }

    fn of(what: &What) -> Self {
        match what {
            What::StallOpened(stall) => Self::of_stall(stall, false),
            What::StallClosed(stall) => Self::of_stall(stall, true),
            What::IncidentOpened(incident) => Self::Incident { is_closed: false, id: incident.id.clone() },
            What::IncidentClosed(incident) => Self::Incident { is_closed: true, id: incident.id.clone() },
        }
    }
}

/// Lines, and the time of the newest.
type MissedEvents = (Vec<Vec<u8>>, Timestamp);

impl CatchUp {
    /// On what has happened since this time; with no time, on what is open.
    pub fn since(since: Option<Timestamp>) -> Self {
        Self { since, known: HashMap::new() }
    }

    /// What the agent knows of that, in its order, without what is known. It keeps stalls that are over with a delay, and what it has told of may
    /// not be in its answers for a moment: so it is asked twice.
    pub fn ask(&mut self, client: &AgentClient) -> Result<MissedEvents> {
        let mut stalls: Vec<StallObject> = client.objects("/v1/stalls")?;
        let since = self.since.unwrap_or_else(Timestamp::now);
        stalls.extend(client.objects::<StallObject>(&format!("/v1/stalls?since={since}"))?);
        self.missed(&stalls, &client.objects::<IncidentObject>("/v1/incidents")?)
    }

    /// Whether an event of the stream is a new one; it is known from now on.
    pub fn is_new(&mut self, event: &ReceivedEvent) -> bool {
        self.note(EventKey::of(&event.what), event.time)
    }

    fn note(&mut self, key: EventKey, at: Timestamp) -> bool {
        let known = self.known.entry(key).or_default();
        let is_new = known.iter().all(|known| known.duration_since(at).unsigned_abs() >= SAME);
        if is_new {
            known.push(at);
        }
        is_new
    }

    fn missed(&mut self, stalls: &[StallObject], incidents: &[IncidentObject]) -> Result<MissedEvents> {
        let name = rustix::system::uname();
        let host = name.nodename().to_string_lossy();
        let since = self.since;
        let is_later = |at: &Timestamp| since.is_none_or(|since| *at > since);
        let mut found: Vec<(Timestamp, Vec<u8>)> = Vec::new();
        for stall in stalls {
            let event = |event, time, ended| StallEvent {
                event,
                time,
                host: &host,
                lasted: stall.lasted,
                ended,
                note: stall.note.as_deref(),
                peer: stall.peer.as_ref(),
                incident: stall.incident.as_ref(),
                stack: &stall.stack,
                wait: &stall.wait,
            };
            let opened = stall.opened;
            if is_later(&opened) && self.note(EventKey::of_stall(stall, false), opened) {
                found.push((opened, serde_json::to_vec(&event("stall_opened", opened, None))?));
            }
            if let Some(closed) = stall.closed.filter(is_later)
                && self.note(EventKey::of_stall(stall, true), closed)
            {
                let event = event("stall_closed", closed, stall.ended.as_deref());
                found.push((closed, serde_json::to_vec(&event)?));
            }
        }
        for incident in incidents.iter().filter(|incident| is_later(&incident.opened)) {
            let (time, key) =
                (incident.opened, EventKey::Incident { is_closed: false, id: incident.id.clone() });
            if self.note(key, time) {
                let event = IncidentEvent { event: "incident_opened", time, host: &host, incident };
                found.push((time, serde_json::to_vec(&event)?));
            }
        }
        found.sort_by_key(|(at, _)| *at);
        let newest = found.last().map_or(Timestamp::UNIX_EPOCH, |(at, _)| *at);
        Ok((found.into_iter().map(|(_, line)| line).collect(), newest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{history::samples::stall, wire::event::StreamLine};

    #[test]
    fn what_was_missed_is_told_once_and_in_order() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let stalls = [stall(1, 100, Some(130)), stall(2, 120, None), stall(3, 50, Some(60))];
        let mut catch_up = CatchUp::since(Some(at(110)));
        let (lines, newest) = catch_up.missed(&stalls, &[]).expect("events");
        let events: Vec<ReceivedEvent> = lines
            .iter()
            .map(|line| match StreamLine::parse(line) {
                Ok(StreamLine::Event(event)) => *event,
                other => panic!("{other:?}"),
            })
            .collect();
        let told: Vec<(i64, bool)> = events
            .iter()
            .map(|event| (event.time.as_second(), matches!(event.what, What::StallClosed(_))))
            .collect();
        assert_eq!((told, newest), (vec![(120, false), (130, true)], at(130)));
        assert!(events.iter().all(|event| !catch_up.is_new(event)), "the stream may have them, too");
        assert!(catch_up.missed(&stalls, &[]).expect("events").0.is_empty(), "as they are asked for again");
        let again = ReceivedEvent { time: at(125), ..events[0].clone() };
        assert!(catch_up.is_new(&again), "another stall of the same thread");
        // Whoever has never read is told of what is open.
        let (lines, _) = CatchUp::since(None).missed(&stalls[1..2], &[]).expect("events");
        assert_eq!(lines.len(), 1);
    }
}
