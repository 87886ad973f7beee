//! The JSON of events: what the agent prints, hands to `on_stall` and streams, and how a reader of the stream gets it.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    incident::IncidentObject,
    json::{WaitObject, in_seconds},
    stall::{StallIncident, StallObject, StallPeer},
};

/// A stall has opened or closed.
#[derive(Serialize)]
pub struct StallEvent<'a> {
    /// `stall_opened` or `stall_closed`.
    pub event: &'static str,
    /// When.
    pub time: Timestamp,
    /// Name of this host.
    pub host: &'a str,
    /// How long it has lasted.
    #[serde(rename = "stall_seconds", with = "in_seconds")]
    pub lasted: Duration,
    /// How it ended; null while it lasts.
    pub ended: Option<&'a str>,
    /// What the configuration says of such waits.
    pub note: Option<&'a str>,
    /// Whom it waits for; null if that is not known.
    pub peer: Option<&'a StallPeer>,
    /// The incident that it belongs to; null before that is known, as in `stall_opened`.
    pub incident: Option<&'a StallIncident>,
    /// Where in its program the thread sleeps, the innermost function first; empty where that was not read.
    pub stack: &'a [String],
    /// The wait.
    pub wait: &'a WaitObject,
}

/// An event as a reader of the stream gets it.
#[derive(Clone, Debug, PartialEq)]
pub struct ReceivedEvent {
    /// When.
    pub time: Timestamp,
    /// Name of the agent's host.
    pub host: String,
    /// What has happened.
    pub what: What,
}

/// What has happened.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// A stall has opened.
    StallOpened(Box<StallObject>),
    /// A stall has closed.
    StallClosed(Box<StallObject>),
    /// An incident has opened.
    IncidentOpened(Box<IncidentObject>),
    /// An incident has closed.
    IncidentClosed(Box<IncidentObject>),
}

impl What {
    /// The event's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::StallOpened(_) => "stall_opened",
            Self::StallClosed(_) => "stall_closed",
            Self::IncidentOpened(_) => "incident_opened",
            Self::IncidentClosed(_) => "incident_closed",
        }
    }
}

/// A line of the stream.
#[derive(Debug, PartialEq)]
pub enum StreamLine {
    /// An event.
    Event(Box<ReceivedEvent>),
    /// The reader was too slow: so many events are not in the stream.
    Lost(u64),
    /// An event of a kind that this version does not know.
    Unknown,
}

impl StreamLine {
    /// One without its end.
    ///
    /// # Errors
    /// It is no event.
    pub fn parse(line: &[u8]) -> serde_json::Result<Self> {
        #[derive(Deserialize)]
        #[serde(tag = "event", rename_all = "snake_case")]
        enum TaggedLine {
            StallOpened(Box<StallLine>),
            StallClosed(Box<StallLine>),
            IncidentOpened(IncidentLine),
            IncidentClosed(IncidentLine),
            EventsLost {
                count: u64,
            },
            #[serde(other)]
            Unknown,
        }
        let event = |time, host, what| Self::Event(Box::new(ReceivedEvent { time, host, what }));
        Ok(match serde_json::from_slice(line)? {
            TaggedLine::StallOpened(line) => {
                event(line.time, line.host.clone(), What::StallOpened(line.stall(false)))
            }
            TaggedLine::StallClosed(line) => {
                event(line.time, line.host.clone(), What::StallClosed(line.stall(true)))
            }
            TaggedLine::IncidentOpened(line) => {
                event(line.time, line.host, What::IncidentOpened(line.incident))
            }
            TaggedLine::IncidentClosed(line) => {
                event(line.time, line.host, What::IncidentClosed(line.incident))
            }
            TaggedLine::EventsLost { count } => Self::Lost(count),
            TaggedLine::Unknown => Self::Unknown,
        })
    }
}

/// [`StallEvent`] as it is read.
#[derive(Deserialize)]
struct StallLine {
    time: Timestamp,
    host: String,
    #[serde(rename = "stall_seconds", with = "in_seconds")]
    lasted: Duration,
    ended: Option<String>,
    note: Option<String>,
    peer: Option<StallPeer>,
    incident: Option<StallIncident>,
    #[serde(default)]
    stack: Vec<String>,
    wait: WaitObject,
}

impl StallLine {
    /// When one that has closed was flagged is not in the event: it is taken for flagged when its wait began.
    fn stall(self: Box<Self>, is_closed: bool) -> Box<StallObject> {
        let opened = if is_closed { self.time - self.lasted } else { self.time };
        Box::new(StallObject {
            opened,
            closed: is_closed.then_some(self.time),
            ended: self.ended.map(Into::into),
            lasted: self.lasted,
            note: self.note,
            incident: self.incident,
            peer: self.peer,
            stack: self.stack,
            wait: self.wait,
        })
    }
}

/// [`IncidentEvent`](super::incident::IncidentEvent) as it is read.
#[derive(Deserialize)]
struct IncidentLine {
    time: Timestamp,
    host: String,
    incident: Box<IncidentObject>,
}
