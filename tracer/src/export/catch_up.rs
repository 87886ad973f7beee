//! What has happened while nobody read the stream: asked of the agent, which keeps stalls and knows its open incidents, and told as the events
//! that were missed. The end of an incident that was missed as well is not known to it any more.

use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;

use super::recent::RecentEvents;
use crate::{
    serve::client::AgentClient,
    wire::{
        event::{ReceivedEvent, StallEvent, What},
        incident::{IncidentEvent, IncidentObject},
        stall::StallObject,
    },
};

/// How much further back than the newest event that is known: what is flagged in one look has one time, and is told of one after the other.
const MARGIN: Duration = Duration::from_secs(60);

/// The events after this time, and a little before, that are not known; with no time, those of all that is open. They are known from now on,
/// also where the agent has not answered everything.
pub fn missed(
    client: &AgentClient,
    since: Option<Timestamp>,
    recent: &mut RecentEvents,
) -> (Vec<NewEvent>, Result<()>) {
    let since = since.map(|since| since - MARGIN);
    let mut search = Search { since, recent, found: Vec::new() };
    let answered = search.ask(client);
    let mut found = search.found;
    found.sort_by_key(|event| event.at);
    (found, answered)
}

/// An event that is to be sent.
pub struct NewEvent {
    /// When.
    pub at: Timestamp,
    /// As the agent writes it.
    pub line: Vec<u8>,
}

/// A search among what the agent knows.
struct Search<'a> {
    since: Option<Timestamp>,
    recent: &'a mut RecentEvents,
    found: Vec<NewEvent>,
}

impl Search<'_> {
    fn ask(&mut self, client: &AgentClient) -> Result<()> {
        self.stalls(&client.get("/v1/stalls")?)?;
        if let Some(since) = self.since {
            self.stalls(&client.get(&format!("/v1/stalls?since={since}"))?)?;
        }
        self.incidents(&client.get("/v1/incidents")?)
    }

    fn is_later(&self, at: Timestamp) -> bool {
        self.since.is_none_or(|since| at > since)
    }

    /// Of an answer with a stall a line, which is not held as a whole.
    fn stalls(&mut self, lines: &[u8]) -> Result<()> {
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let stall: StallObject = serde_json::from_slice(line).context("cannot understand a stall")?;
            let stall = Box::new(stall);
            if self.is_later(stall.opened) {
                let open = StallObject { closed: None, ended: None, ..(*stall).clone() };
                self.add(stall.opened, What::StallOpened(Box::new(open)))?;
            }
            if let Some(closed) = stall.closed.filter(|closed| self.is_later(*closed)) {
                self.add(closed, What::StallClosed(stall))?;
            }
        }
        Ok(())
    }

    fn incidents(&mut self, lines: &[u8]) -> Result<()> {
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let incident: IncidentObject =
                serde_json::from_slice(line).context("cannot understand an incident")?;
            if self.is_later(incident.opened) {
                self.add(incident.opened, What::IncidentOpened(Box::new(incident)))?;
            }
        }
        Ok(())
    }

    fn add(&mut self, at: Timestamp, what: What) -> Result<()> {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let event = ReceivedEvent { time: at, host, what };
        let line = line(&event)?;
        if self.recent.note(&event) {
            self.found.push(NewEvent { at, line });
        }
        Ok(())
    }
}

/// As the agent would have written it.
fn line(event: &ReceivedEvent) -> serde_json::Result<Vec<u8>> {
    let (name, time, host) = (event.what.name(), event.time, event.host.as_str());
    match &event.what {
        What::StallOpened(stall) | What::StallClosed(stall) => serde_json::to_vec(&StallEvent {
            event: name,
            time,
            host,
            lasted: stall.lasted,
            ended: stall.ended.as_deref(),
            note: stall.note.as_deref(),
            peer: stall.peer.as_ref(),
            incident: stall.incident.as_ref(),
            stack: &stall.stack,
            wait: &stall.wait,
        }),
        What::IncidentOpened(incident) | What::IncidentClosed(incident) => {
            serde_json::to_vec(&IncidentEvent { event: name, time, host, incident })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{history::samples::stall, wire::event::StreamLine, wire::lines};

    #[test]
    fn what_was_missed_is_told_once_and_in_order() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let stalls = [stall(1, 100, Some(130)), stall(2, 120, None), stall(3, 50, Some(60))];
        let mut answer = Vec::new();
        stalls.iter().for_each(|stall| lines::write(&mut answer, stall).expect("memory"));
        let mut recent = RecentEvents::default();
        let search = |since, recent: &mut RecentEvents| {
            let mut search = Search { since, recent, found: Vec::new() };
            search.stalls(&answer).expect("stalls");
            search.found
        };
        let mut found = search(Some(at(110)), &mut recent);
        found.sort_by_key(|event| event.at);
        let events = found.iter().map(|found| match StreamLine::parse(&found.line) {
            Ok(StreamLine::Event(event)) => *event,
            other => panic!("{other:?}"),
        });
        let events: Vec<ReceivedEvent> = events.collect();
        let told: Vec<_> = events.iter().map(|event| (event.time.as_second(), event.what.name())).collect();
        assert_eq!(told, [(120, "stall_opened"), (130, "stall_closed")]);
        assert!(events.iter().all(|event| !recent.note(event)), "the stream may have them, too");
        assert!(search(Some(at(110)), &mut recent).is_empty(), "as they are asked for again");
        // What is understood of an answer that breaks off is told.
        let broken = [answer.as_slice(), b"{"].concat();
        let mut recent = RecentEvents::default();
        let mut search_broken = Search { since: None, recent: &mut recent, found: Vec::new() };
        assert!(search_broken.stalls(&broken).is_err() && search_broken.found.len() == 5);
        // Whoever has never read is told of everything.
        assert_eq!(search(None, &mut RecentEvents::default()).len(), 5);
    }
}
