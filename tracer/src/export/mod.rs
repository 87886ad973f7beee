//! `tracer export`: hands the agent's events to an OpenTelemetry Collector. A process of its own, as the agent connects to nobody: it reads the
//! agent's stream, keeps every event in a queue on disk, and sends them in their order. What the receiver has not taken is sent again; what there
//! is no room for, and what it refuses, is counted, and told as an event of its own.
//!
//! Layer 6: a command of its own, which asks the agent and makes its events OTLP.

mod catch_up;
mod queue;
mod read;
mod receiver;
mod recent;

use std::{process, sync::Arc, thread, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;

use self::{
    queue::EventQueue,
    receiver::{OtlpReceiver, PostAnswer},
};
use crate::{
    config::export::Export,
    util::human,
    wire::{
        event::{ReceivedEvent, StreamLine},
        otlp,
    },
};

/// Events of a request at most.
const BATCH: usize = 512;
/// How long the receiver is left alone after it has failed, for the first time; each time twice as long.
const PAUSE: Duration = Duration::from_secs(1);
/// At most.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Reads and sends for as long as the process lives.
pub fn run(args: &Export) -> Result<()> {
    let receiver = OtlpReceiver::new(&args.otlp, &args.headers()?)?;
    let queue = Arc::new(EventQueue::open(&args.queue_dir, args.queue_max)?);
    let (kept_in, socket) = (queue.clone(), args.socket.clone());
    let read = move || {
        // Without a queue nothing is left to do: whoever keeps this process starts it again, and what happens meanwhile is asked for then.
        let Err(error) = read::follow(&socket, &kept_in);
        human::say(&format!("{error:#}"));
        process::exit(1);
    };
    thread::Builder::new().name("reader".into()).spawn(read).context("cannot start a thread")?;
    let mut sender = EventSender { queue: &queue, receiver, spans: args.spans, pause: PAUSE, failing: false };
    loop {
        sender.send_next()?;
    }
}

/// Sends what is in the queue.
struct EventSender<'a> {
    queue: &'a EventQueue,
    receiver: OtlpReceiver,
    spans: bool,
    pause: Duration,
    failing: bool,
}

impl EventSender<'_> {
    /// The oldest events of the queue, once there are any: until the receiver has taken or refused them.
    fn send_next(&mut self) -> Result<()> {
        let batch = self.queue.first(BATCH)?;
        let Some((last, _)) = batch.last() else {
            self.queue.wait();
            return Ok(());
        };
        let last = *last;
        let events: Vec<ReceivedEvent> = batch.iter().filter_map(|(_, line)| parse(line)).collect();
        let lost = self.queue.lost()?;
        let mut refused = (batch.len() - events.len()) as u64;
        if !events.is_empty() {
            let logs = serde_json::to_vec(&otlp::logs(&events, lost, Timestamp::now()))?;
            let told = self.send("/v1/logs", logs, events.len() as u64);
            refused += told;
            if let Some(traces) = otlp::traces(&events).filter(|_| self.spans) {
                // Of what is refused here, the event has been told of.
                self.send("/v1/traces", serde_json::to_vec(&traces)?, 0);
            }
            if told == 0 {
                self.queue.told_of(lost)?;
            }
        }
        self.queue.remove(last, refused)
    }

    /// Sends until the receiver takes it, or refuses it; how many of so many events it has refused.
    fn send(&mut self, path: &str, body: Vec<u8>, events: u64) -> u64 {
        let body = bytes::Bytes::from(body);
        loop {
            match self.receiver.post(path, body.clone()) {
                PostAnswer::Taken(answer) => {
                    self.pause = PAUSE;
                    if std::mem::take(&mut self.failing) {
                        human::say(&format!("sending events to {} again", self.receiver));
                    }
                    let (refused, why) = otlp::rejected(&answer);
                    if refused > 0 {
                        human::say(&format!("{} has refused {refused} records: {why}", self.receiver));
                    }
                    return refused.min(events);
                }
                PostAnswer::Refused(why) => {
                    human::say(&format!("{} has refused events, which are lost: {why}", self.receiver));
                    return events;
                }
                PostAnswer::Later(after, why) => {
                    if !std::mem::replace(&mut self.failing, true) {
                        human::say(&format!("cannot send events to {}: {why}; keeping them", self.receiver));
                    }
                    thread::sleep(after.unwrap_or(self.pause).min(PAUSE_MAX));
                    self.pause = (self.pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }
}

/// The event of a line of the queue; one that an older or newer version has left may be unknown.
fn parse(line: &[u8]) -> Option<ReceivedEvent> {
    match StreamLine::parse(line) {
        Ok(StreamLine::Event(event)) => Some(*event),
        _ => None,
    }
}

/// A base address as the specification has it: the paths of signals are added to it.
fn checked(url: &str) -> Result<hyper::Uri> {
    ensure!(
        !url.contains('@'),
        "an address with a user or a password is not supported: put them into --headers-file, as Authorization"
    );
    let uri: hyper::Uri =
        url.trim_end_matches('/').parse().with_context(|| format!("{url} is not an address"))?;
    match uri.scheme_str() {
        Some("http") if uri.host().is_some() => Ok(uri),
        Some("https") => bail!(
            "{url}: tracer does not speak TLS: send to a Collector on this host or in its network over http://, and let that forward events"
        ),
        _ => bail!("{url} is not an address like http://127.0.0.1:4318"),
    }
}
