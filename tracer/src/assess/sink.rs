//! Where what the agent finds goes: one trait. The agent's loop has a list of sinks and knows none of them by name.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use compact_str::CompactString;
use jiff::{Timestamp, Unit};

use super::{
    blind::Cause,
    stall::{Closed, Stall, Standing},
};
use crate::{
    collect::{
        ended::{Answers, EndedWaits},
        losses::Loss,
    },
    model::file::Endpoint,
    model::request::RequestNumbers,
    model::wait::{Snapshot, ThreadId, Wait},
    resolve::process::ProcessMeta,
    wire::event::StallEvent,
    wire::incident::{IncidentEvent, IncidentObject},
    wire::stall::StallObject,
};

/// Something that is told what the agent finds. It may not wait for whoever reads it: the loop does nothing else meanwhile.
pub trait Sink: Send {
    /// A stall has opened.
    fn stall_opened(&mut self, _notice: &Notice) {}

    /// A stall that was open when the agent stopped still is: its opening has been told of.
    fn stall_found_again(&mut self, _notice: &Notice) {}

    /// A stall has closed.
    fn stall_closed(&mut self, _notice: &Notice) {}

    /// An incident has opened.
    fn incident_opened(&mut self, _notice: &IncidentNotice) {}

    /// An incident has closed.
    fn incident_closed(&mut self, _notice: &IncidentNotice) {}

    /// Waits have ended since the last look.
    fn waits_ended(&mut self, _waits: &EndedWaits) {}

    /// Answers of a service have been read since the last look.
    fn answers_read(&mut self, _answers: &Answers) {}

    /// What has been lost so far: numbers that only grow. What is not among them is as it was.
    fn lost(&mut self, _losses: &[(Loss, u64)]) {}

    /// A look has ended.
    fn look_ended(&mut self, _look: &Look<'_>) {}

    /// What this sink itself has lost so far. Asked for at each look.
    fn losses(&mut self) -> Vec<(Loss, u64)> {
        Vec::new()
    }
}

/// Connections of a program that are alike.
#[derive(Clone, Debug)]
pub struct OfService {
    /// Its name, what is known of it, and the address of its own that they have in common, if they are told apart by that; `None`: all
    /// that there was no room for.
    pub owner: Option<(CompactString, Arc<ProcessMeta>, Option<Endpoint>)>,
    /// How many there are.
    pub number: usize,
    /// For how long the oldest has been so.
    pub oldest: Duration,
}

/// What a look has found.
pub struct Look<'a> {
    /// All that waits.
    pub snapshot: &'a Snapshot,
    /// What is known of each of its waits.
    pub standing: &'a dyn Fn(&Wait) -> Standing,
    /// The stalls that are open now.
    pub stalls: &'a BTreeMap<ThreadId, Stall>,
    /// The incidents that are.
    pub incidents: &'a [&'a IncidentObject],
    /// The id of the one that a stall belongs to.
    pub incident_of: &'a dyn Fn(&ThreadId) -> Option<&'a str>,
    /// What has kept it from seeing everything.
    pub blinded_by: &'a [Cause],
    /// How long after the one before it was due.
    pub interval: Duration,
    /// Requests of event loops.
    pub requests: RequestNumbers,
    /// Connections on which services have been asked and have not answered.
    pub incoming: &'a [OfService],
    /// Connections that only the other end has closed.
    pub unclosed: &'a [OfService],
    /// Waits count as ended once their call has returned, which may be long after the thread was asleep.
    pub ends_by_calls: bool,
}

/// A stall as sinks are told of it, made once for all of them.
pub struct Notice {
    name: &'static str,
    /// The stall.
    pub stall: StallObject,
    line: OnceCell<String>,
}

impl Notice {
    fn opened(stall: &Stall) -> Self {
        Self { name: "stall_opened", stall: StallObject::open(stall), line: OnceCell::new() }
    }

    fn closed(closed: &Closed) -> Self {
        Self { name: "stall_closed", stall: StallObject::closed(closed), line: OnceCell::new() }
    }

    /// The event of the contract, a line of JSON.
    pub fn line(&self) -> &str {
        self.line.get_or_init(|| {
            let host = rustix::system::uname();
            let event = StallEvent {
                event: self.name,
                time: Timestamp::now().round(Unit::Millisecond).unwrap_or_default(),
                host: &host.nodename().to_string_lossy(),
                lasted: self.stall.lasted,
                ended: self.stall.ended.as_deref(),
                note: self.stall.note.as_deref(),
                peer: self.stall.peer.as_ref(),
                incident: self.stall.incident.as_ref(),
                stack: &self.stall.stack,
                wait: &self.stall.wait,
            };
            serde_json::to_string(&event).map(|line| line + "\n").unwrap_or_default()
        })
    }
}

/// An incident as sinks are told of it, made once for all of them.
pub struct IncidentNotice {
    /// The incident.
    pub incident: IncidentObject,
    line: String,
}

impl IncidentNotice {
    fn new(event: &'static str, incident: IncidentObject) -> Self {
        let time = Timestamp::now().round(Unit::Millisecond).unwrap_or_default();
        let name = rustix::system::uname();
        let host = name.nodename().to_string_lossy();
        let event = IncidentEvent { event, time, host: &host, incident: &incident };
        let line = serde_json::to_string(&event).map(|line| line + "\n").unwrap_or_default();
        Self { incident, line }
    }

    /// The event of the contract, a line of JSON.
    pub fn line(&self) -> &str {
        &self.line
    }
}

/// All sinks of an agent.
#[derive(Default)]
pub struct Sinks(Vec<Box<dyn Sink>>);

impl Sinks {
    /// Adds one.
    pub fn and(mut self, sink: impl Sink + 'static) -> Self {
        self.0.push(Box::new(sink));
        self
    }

    /// Adds one, if there is one.
    pub fn and_if(self, sink: Option<impl Sink + 'static>) -> Self {
        match sink {
            Some(sink) => self.and(sink),
            None => self,
        }
    }

    /// A stall has opened.
    pub fn stall_opened(&mut self, stall: &Stall) {
        let notice = Notice::opened(stall);
        self.0.iter_mut().for_each(|sink| sink.stall_opened(&notice));
    }

    /// A stall that was open when the agent stopped still is.
    pub fn stall_found_again(&mut self, stall: &Stall) {
        let notice = Notice::opened(stall);
        self.0.iter_mut().for_each(|sink| sink.stall_found_again(&notice));
    }

    /// A stall has closed.
    pub fn stall_closed(&mut self, closed: &Closed) {
        let notice = Notice::closed(closed);
        self.0.iter_mut().for_each(|sink| sink.stall_closed(&notice));
    }

    /// An incident has opened.
    pub fn incident_opened(&mut self, incident: IncidentObject) {
        let notice = IncidentNotice::new("incident_opened", incident);
        self.0.iter_mut().for_each(|sink| sink.incident_opened(&notice));
    }

    /// An incident has closed.
    pub fn incident_closed(&mut self, incident: IncidentObject) {
        let notice = IncidentNotice::new("incident_closed", incident);
        self.0.iter_mut().for_each(|sink| sink.incident_closed(&notice));
    }

    /// Waits have ended.
    pub fn waits_ended(&mut self, waits: &EndedWaits) {
        self.0.iter_mut().for_each(|sink| sink.waits_ended(waits));
    }

    /// Answers have been read.
    pub fn answers_read(&mut self, answers: &Answers) {
        self.0.iter_mut().for_each(|sink| sink.answers_read(answers));
    }

    /// What has been lost so far.
    pub fn lost(&mut self, losses: &[(Loss, u64)]) {
        self.0.iter_mut().for_each(|sink| sink.lost(losses));
    }

    /// A look has ended.
    pub fn look_ended(&mut self, look: &Look<'_>) {
        self.0.iter_mut().for_each(|sink| sink.look_ended(look));
    }

    /// What all of them have lost so far.
    pub fn losses(&mut self) -> Vec<(Loss, u64)> {
        let mut all: HashMap<Loss, u64> = HashMap::new();
        for (loss, number) in self.0.iter_mut().flat_map(|sink| sink.losses()) {
            *all.entry(loss).or_default() += number;
        }
        all.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, Mutex},
        time::Duration,
    };

    use super::*;
    use crate::{assess::stall::Ended, history::samples::flagged};

    /// Writes down what it is told, and loses as many.
    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<String>>>);

    impl Seen {
        fn add(&self, what: &str, notice: &Notice) {
            self.0.lock().expect("whole").push(format!("{what} {}", notice.line()));
        }
    }

    impl Sink for Seen {
        fn stall_opened(&mut self, notice: &Notice) {
            self.add("opened", notice);
        }

        fn stall_found_again(&mut self, notice: &Notice) {
            self.add("found again", notice);
        }

        fn stall_closed(&mut self, notice: &Notice) {
            self.add("closed", notice);
        }

        fn losses(&mut self) -> Vec<(Loss, u64)> {
            vec![(Loss::EventsUnread, self.0.lock().expect("whole").len() as u64)]
        }
    }

    #[test]
    fn each_sink_is_told_the_same() {
        let seen = [Seen::default(), Seen::default()];
        let mut sinks =
            Sinks::default().and(seen[0].clone()).and_if(Some(seen[1].clone())).and_if(None::<Seen>);
        let stall = flagged(7, 10);
        sinks.stall_opened(&stall);
        sinks.stall_found_again(&stall);
        sinks.stall_closed(&Closed { stall, ended: Ended::Exited, lasted: Duration::from_millis(61_500) });
        let told = seen.map(|seen| seen.0.lock().expect("whole").clone());
        assert_eq!(told[0], told[1]);
        assert!(
            told[0].iter().all(|line| line.contains(r#"","time":"20"#) && line.contains(r#"Z","host":""#))
        );
        // Without time and host, which differ.
        let begin = |line: &String| {
            let begin = line.split("\"wait\"").next().unwrap_or_default();
            let (event, rest) = begin.split_once(r#","time""#).unwrap_or_default();
            let (_, rest) = rest.split_once(r#","stall_seconds""#).unwrap_or_default();
            format!("{event},…{rest}")
        };
        let about = r#""note":null,"peer":{"pid":null,"comm":null,"address":"10.0.0.2:443"},"incident":null,"stack":[],"#;
        assert_eq!(
            told[0].iter().map(begin).collect::<Vec<_>>(),
            [
                format!(r#"opened {{"event":"stall_opened",…:60.0,"ended":null,{about}"#),
                format!(r#"found again {{"event":"stall_opened",…:60.0,"ended":null,{about}"#),
                format!(r#"closed {{"event":"stall_closed",…:61.5,"ended":"exited",{about}"#),
            ]
        );
        assert!(told[0].iter().all(|line| line.ends_with("}}\n") && line.matches('\n').count() == 1));
        assert_eq!(sinks.losses(), [(Loss::EventsUnread, 6)]);
    }
}
