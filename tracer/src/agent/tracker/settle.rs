//! What became of waits that are over? Their stalls close, and an answer is a sample for a baseline, once for each connection. A stall
//! on a connection on which nothing has moved stays open for a while: its thread may come back.

use std::time::Duration;

use hashbrown::{HashMap, HashSet};

use super::{
    Away, Departures, Tracker,
    apply::{Departure, Left},
    track::{Progress, Track},
    tries::{FailedTry, Replaced, Service},
};
use crate::{
    agent::baselines::SAMPLE_MIN,
    assess::client::Client,
    assess::stall::{Closed, Ended},
    model::class::Class,
    model::wait::{ProcessId, SeenFd, ThreadId},
};

/// What was found out about departures.
#[derive(Debug, Default)]
pub struct Evidence {
    /// Descriptors; those that are not found are not there.
    pub connections: Vec<SeenFd>,
    /// Threads that live.
    pub alive: HashSet<ThreadId>,
}

/// What follows from a departure.
#[derive(Debug)]
pub enum Transition {
    /// A stall has ended.
    Closed(Box<Closed>),
    /// A client got its answer.
    Answered(Answer),
}

/// An answer that somebody waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whose wait it has ended.
    pub process: ProcessId,
    /// The same, as a baseline knows it.
    pub client: Client,
    /// How long it took.
    pub lasted: Duration,
}

/// What is gathered of all departures.
struct Settlement<'a> {
    now_ns: u64,
    seen: HashMap<(ThreadId, i32), &'a SeenFd>,
    closed: Vec<Closed>,
    /// By connection: its process, and the inode of its socket. Many threads may have waited for one answer.
    answers: HashMap<(ProcessId, Option<u64>), Answer>,
}

impl Settlement<'_> {
    /// What has moved on a track's connection.
    fn progress(&self, thread: ThreadId, track: &Track) -> Progress {
        let seen = track.fd.and_then(|fd| self.seen.get(&(thread, fd)));
        seen.map_or(Progress::Unknown, |seen| track.progress(&seen.state, &seen.socket))
    }

    /// Whom a wait has asked in vain, if its end was that: its own time-out, or the end of a connection that was never made.
    fn failed(&self, thread: ThreadId, track: &Track, left: Left) -> Option<Service> {
        let service = track.tried.clone()?;
        let seen = track.fd.and_then(|fd| self.seen.get(&(thread, fd)));
        let is_there =
            seen.is_some_and(|seen| seen.state.inode().is_some() && seen.state.inode() == track.inode);
        let timed_out = track.has_timed_out(left.since(self.now_ns));
        let is_over = match (&service, track.judgement.class) {
            // It has been made, or goes on.
            (Service::Tcp(_), _) if is_there => false,
            (Service::Tcp(_), Class::Connect) => true,
            _ => timed_out,
        };
        is_over.then_some(service)
    }

    /// A client may have got its answer.
    fn answered(&mut self, process: ProcessId, track: &Track, progress: Progress, lasted: Duration) {
        let Some(client) = track.client.as_ref().filter(|_| progress == Progress::Received) else { return };
        if lasted < SAMPLE_MIN {
            return;
        }
        let answer = Answer { process, client: client.clone(), lasted };
        let longest = self.answers.entry((process, track.inode)).or_insert_with(|| answer.clone());
        if longest.lasted < lasted {
            *longest = answer;
        }
    }
}

impl Tracker {
    /// What became of departures, by what was found out about them. Brings the ages of open stalls up to date.
    pub fn settle(&mut self, departures: Departures, evidence: &Evidence) -> Vec<Transition> {
        let Departures { now_ns, left, away, .. } = departures;
        let seen = evidence.connections.iter().map(|seen| ((seen.thread, seen.fd), seen)).collect();
        let mut settlement = Settlement { now_ns, seen, closed: Vec::new(), answers: HashMap::new() };
        for departure in left {
            self.depart(departure, evidence, &mut settlement);
        }
        for thread in away {
            self.leave_behind(thread, evidence, &mut settlement);
        }
        self.give_up(evidence, &mut settlement);
        let between: HashMap<ThreadId, u64> = self
            .tries
            .all()
            .filter(|failed| failed.track.is_flagged)
            .map(|failed| (failed.thread, failed.track.began_ns))
            .collect();
        let began = |thread: &ThreadId| {
            let away = self.away.get(thread).map(|away| &away.track);
            let track = away.or(self.waits.get(thread)).map(|track| track.began_ns);
            between.get(thread).copied().or(track)
        };
        self.stalls.age(now_ns, began);
        let closed = settlement.closed.into_iter().map(|closed| Transition::Closed(Box::new(closed)));
        closed.chain(settlement.answers.into_values().map(Transition::Answered)).collect()
    }

    /// A thread has left its wait.
    fn depart(&mut self, departure: Departure, evidence: &Evidence, settlement: &mut Settlement<'_>) {
        let lasted = departure.lasted(settlement.now_ns);
        let Departure { thread, mut track, left, progress } = departure;
        let is_alive = left != Left::Absent || evidence.alive.contains(&thread);
        if left == Left::Absent && track.is_flagged && is_alive && track.may_go_on() {
            self.waits.insert(thread, track);
            return;
        }
        let progress = progress.unwrap_or_else(|| settlement.progress(thread, &track));
        let leaves = matches!(left, Left::Leaves(_));
        let may_try_again = progress != Progress::Received
            && (!track.is_flagged
                || is_alive && !leaves
                || evidence.alive.contains(&ThreadId::leader(thread.process)));
        if let Some(service) = settlement.failed(thread, &track, left).filter(|_| may_try_again) {
            let failed = FailedTry { thread, ended_ns: track.ended_ns(left.since(settlement.now_ns)), track };
            match self.tries.failed(service, failed) {
                Replaced::Nothing => {}
                Replaced::GoesOn { from, to } => self.stalls.pass_on(&from, to),
                Replaced::GivenUp(before) => self.close_try(*before, evidence, settlement),
            }
            return;
        }
        if track.is_flagged && progress == Progress::Unmoved && !leaves {
            let since_ns = track.away_since_ns.unwrap_or(settlement.now_ns);
            self.away.insert(thread, Away { track, since_ns });
            return;
        }
        settlement.answered(thread.process, &track, progress, lasted);
        if track.is_flagged {
            let ended = if leaves || !is_alive { Ended::Exited } else { Ended::Resumed };
            settlement.closed.extend(self.stalls.close(&thread, ended, lasted));
        }
    }

    /// Nobody has gone on with some of the tries that have ended in vain.
    fn give_up(&mut self, evidence: &Evidence, settlement: &mut Settlement<'_>) {
        let lives = |failed: &FailedTry| evidence.alive.contains(&ThreadId::leader(failed.thread.process));
        for failed in self.tries.given_up(settlement.now_ns, lives) {
            self.close_try(failed, evidence, settlement);
        }
    }

    fn close_try(&mut self, failed: FailedTry, evidence: &Evidence, settlement: &mut Settlement<'_>) {
        let FailedTry { thread, track, ended_ns } = failed;
        if !track.is_flagged {
            return;
        }
        let is_alive =
            self.waits.contains_key(&thread) || evidence.alive.contains(&ThreadId::leader(thread.process));
        let ended = if is_alive { Ended::Resumed } else { Ended::Exited };
        settlement.closed.extend(self.stalls.close(&thread, ended, track.lasted(ended_ns)));
    }

    /// A thread that was elsewhere before is not back: it will not come back to the connection it was at if a byte has moved on
    /// it, it is gone, or the thread has been elsewhere for long.
    fn leave_behind(&mut self, thread: ThreadId, evidence: &Evidence, settlement: &mut Settlement<'_>) {
        let Some(away) = self.away.get(&thread) else { return };
        let progress = settlement.progress(thread, &away.track);
        if progress == Progress::Unmoved && !away.is_over(settlement.now_ns) {
            return;
        }
        let Some(Away { track, .. }) = self.away.remove(&thread) else { return };
        let lasted = track.lasted(settlement.now_ns);
        settlement.answered(thread.process, &track, progress, lasted);
        let is_alive = self.waits.contains_key(&thread) || evidence.alive.contains(&thread);
        let ended = if is_alive { Ended::Resumed } else { Ended::Exited };
        settlement.closed.extend(self.stalls.close(&thread, ended, lasted));
    }
}
