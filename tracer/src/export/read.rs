//! Reads the agent's stream into the queue, for ever: where the agent is not there, or starts again, what happened meanwhile is asked for.

use std::{
    convert::Infallible,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use jiff::Timestamp;

use super::{
    catch_up::{self, NewEvent},
    queue::EventQueue,
    recent::RecentEvents,
};
use crate::{
    serve::client::{AgentClient, LineStream, Refusal},
    util::human,
    wire::event::StreamLine,
};

/// How long the agent is left alone where it does not answer.
const PAUSE: Duration = Duration::from_secs(2);
/// When what has happened meanwhile is asked for again: by then the agent has written all of it.
const AGAIN_AFTER: Duration = Duration::from_secs(3);
/// And not before so many times as long as the last answer took.
const AGAIN_FACTOR: u32 = 5;
/// How often what is long ago is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(30);

/// Ends only where the queue can no longer be written.
pub fn follow(socket: &Path, queue: &EventQueue) -> Result<Infallible> {
    let mut said = String::new();
    let recent = queue.recent().context("cannot read the queue")?;
    let mut known = ReadSoFar { queue, recent, forgotten: Instant::now() };
    loop {
        let why = match AgentClient::connect(socket) {
            Ok(client) => match client.follow("/v1/events") {
                Ok(stream) => {
                    said.clear();
                    take_all(stream, StreamReader::new(&client, &mut known))?
                }
                Err(error) => format!("{error:#}"),
            },
            Err(Refusal::Denied(why)) => why,
            Err(Refusal::Absent) => format!("no agent listens on {}", socket.display()),
        };
        if why != said {
            human::say(&format!("{why}; trying again"));
            said = why;
        }
        thread::sleep(PAUSE);
    }
}

/// Reads a stream to its end, and says why it ended. From its beginning on nothing is missed; what happened before is asked for.
fn take_all(mut stream: LineStream<'_>, mut reader: StreamReader<'_, '_>) -> Result<String> {
    reader.has_missed()?;
    reader.ask()?;
    loop {
        match stream.next(reader.rest()) {
            Ok(Some(lines)) => reader.keep(&lines)?,
            Ok(None) => return Ok("the agent has ended".to_owned()),
            Err(error) => return Ok(format!("the connection to the agent has ended: {error:#}")),
        }
        if reader.rest() == Some(Duration::ZERO) {
            reader.ask()?;
            reader.question = None;
        }
    }
}

/// What has been read, on disk and in memory.
struct ReadSoFar<'a> {
    queue: &'a EventQueue,
    recent: RecentEvents,
    forgotten: Instant,
}

impl ReadSoFar<'_> {
    /// Puts new events into the queue, and may forget those of long ago.
    fn push(&mut self, events: &[NewEvent], may_forget: bool) -> Result<()> {
        let Some(newest) = events.iter().map(|event| event.at).max() else { return Ok(()) };
        let lines: Vec<&[u8]> = events.iter().map(|event| event.line.as_slice()).collect();
        let mut forget_before = None;
        if may_forget && self.forgotten.elapsed() >= FORGET_AFTER {
            self.forgotten = Instant::now();
            forget_before = Some(self.recent.forget(newest.as_millisecond()));
        }
        let recent = self.recent.take_new();
        self.queue.push(&lines, newest, &recent, forget_before).context("cannot write the queue")
    }
}

/// Whoever reads the stream.
struct StreamReader<'a, 'queue> {
    client: &'a AgentClient,
    known: &'a mut ReadSoFar<'queue>,
    question: Option<Question>,
    /// How long until a question is asked.
    pause: Duration,
}

/// What has happened after this time is to be asked for.
struct Question {
    since: Option<Timestamp>,
    at: Instant,
}

impl<'a, 'queue> StreamReader<'a, 'queue> {
    fn new(client: &'a AgentClient, known: &'a mut ReadSoFar<'queue>) -> Self {
        Self { client, known, question: None, pause: AGAIN_AFTER }
    }

    /// Puts what has come into the queue.
    fn keep(&mut self, lines: &[Vec<u8>]) -> Result<()> {
        let mut new = Vec::new();
        for line in lines {
            match StreamLine::parse(line) {
                Ok(StreamLine::Event(event)) => {
                    if self.known.recent.note(&event) {
                        new.push(NewEvent { at: event.time, line: line.clone() });
                    }
                }
                Ok(StreamLine::Lost(_)) => self.has_missed()?,
                Ok(StreamLine::Unknown) => {}
                Err(error) => {
                    human::say(&format!("the agent has sent something that is not an event: {error}"))
                }
            }
        }
        self.known.push(&new, self.question.is_none())
    }

    /// Something may have happened that has not been read, since the newest event of the queue: it is asked for in a moment.
    fn has_missed(&mut self) -> Result<()> {
        if self.question.is_none() {
            let since = self.known.queue.newest().context("cannot read the queue")?;
            self.question = Some(Question { since, at: Instant::now() + self.pause });
        }
        Ok(())
    }

    /// Asks for it, and will again. What is not answered is missed, and said.
    fn ask(&mut self) -> Result<()> {
        let Some(question) = &mut self.question else { return Ok(()) };
        let begun = Instant::now();
        let (missed, answered) = catch_up::missed(self.client, question.since, &mut self.known.recent);
        self.pause = AGAIN_AFTER.max(begun.elapsed() * AGAIN_FACTOR);
        question.at = Instant::now() + self.pause;
        if let Err(error) = answered {
            human::say(&format!("cannot find out everything that has happened meanwhile: {error:#}"));
        }
        self.known.push(&missed, false)
    }

    /// How long until it is to be asked for.
    fn rest(&self) -> Option<Duration> {
        self.question.as_ref().map(|question| question.at.saturating_duration_since(Instant::now()))
    }
}
