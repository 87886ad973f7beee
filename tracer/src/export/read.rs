//! Reads the agent's stream into the queue, for ever: where the agent is not there, or starts again, what happened meanwhile is asked for.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use jiff::Timestamp;

use super::{catch_up::CatchUp, queue::EventQueue};
use crate::{
    serve::client::{AgentClient, LineStream, Refusal},
    util::human,
    wire::event::StreamLine,
};

/// How long the agent is left alone where it does not answer.
const PAUSE: Duration = Duration::from_secs(2);

/// When what has happened meanwhile is asked for a second time: by then the agent has written all of it.
const AGAIN_AFTER: Duration = Duration::from_secs(3);

/// Ends only where the queue can no longer be written.
pub fn follow(socket: &Path, queue: &EventQueue) -> Result<()> {
    let mut said = String::new();
    loop {
        let why = match AgentClient::connect(socket) {
            Ok(client) => match client.follow("/v1/events") {
                Ok(stream) => {
                    said.clear();
                    take_all(stream, StreamReader { client: &client, queue, catch_up: None })?
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
fn take_all(mut stream: LineStream<'_>, mut reader: StreamReader<'_>) -> Result<String> {
    reader.begin_to_catch_up()?;
    loop {
        match stream.next(reader.rest()) {
            Ok(Some(lines)) => reader.keep(&lines)?,
            Ok(None) => return Ok("the agent has ended".to_owned()),
            Err(error) => return Ok(format!("the agent does not answer any more: {error:#}")),
        }
        if reader.rest() == Some(Duration::ZERO) {
            reader.ask()?;
            reader.catch_up = None;
        }
    }
}

/// Whoever reads the stream.
struct StreamReader<'a> {
    client: &'a AgentClient,
    queue: &'a EventQueue,
    /// What is caught up on, and when it is asked for again.
    catch_up: Option<(CatchUp, Instant)>,
}

impl StreamReader<'_> {
    /// Puts what has come into the queue.
    fn keep(&mut self, lines: &[Vec<u8>]) -> Result<()> {
        let (mut kept, mut newest) = (Vec::new(), Timestamp::UNIX_EPOCH);
        for line in lines {
            match StreamLine::parse(line) {
                Ok(StreamLine::Event(event)) => {
                    if self.catch_up.as_mut().is_none_or(|(catch_up, _)| catch_up.is_new(&event)) {
                        newest = newest.max(event.time);
                        kept.push(line.clone());
                    }
                }
                Ok(StreamLine::Lost(_)) => {
                    self.push(&mut kept, newest)?;
                    self.begin_to_catch_up()?;
                }
                Ok(StreamLine::Unknown) => {}
                Err(error) => human::say(&format!("the agent has sent what is no event: {error}")),
            }
        }
        self.push(&mut kept, newest)
    }

    fn push(&self, lines: &mut Vec<Vec<u8>>, newest: Timestamp) -> Result<()> {
        if !lines.is_empty() {
            self.queue.push(lines, newest).context("cannot write the queue")?;
            lines.clear();
        }
        Ok(())
    }

    /// Asks for what has happened since the newest event of the queue, now and again later.
    fn begin_to_catch_up(&mut self) -> Result<()> {
        let since = self.queue.newest().context("cannot read the queue")?;
        self.catch_up = Some((CatchUp::since(since), Instant::now() + AGAIN_AFTER));
        self.ask()
    }

    /// What is not answered is missed, and said.
    fn ask(&mut self) -> Result<()> {
        let Some((catch_up, _)) = &mut self.catch_up else { return Ok(()) };
        match catch_up.ask(self.client) {
            Ok((mut lines, newest)) => self.push(&mut lines, newest),
            Err(error) => {
                human::say(&format!("what has happened meanwhile is not known: {error:#}"));
                Ok(())
            }
        }
    }

    /// How long until it is asked for again.
    fn rest(&self) -> Option<Duration> {
        self.catch_up.as_ref().map(|(_, again)| again.saturating_duration_since(Instant::now()))
    }
}
