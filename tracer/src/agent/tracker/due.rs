//! Which waits may be stalls, and which of these are? Rules and baselines have the last word.

use std::{fmt::Write, sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{
    Tracker,
    order::{Reason, Urgency, in_order},
};
use crate::{
    agent::open_stalls::Opening,
    assess::pipeline::{Assessment, PeerPolicy},
    assess::stall::Stall,
    config::Config,
    diagnose::verdict::may_close_circle,
    model::baseline::Excuse,
    model::wait::{ThreadId, Wait},
    resolve::process::ProcessMeta,
    util::human,
};

/// What rules and baselines say of one wait, and what is told of it if it is a stall.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// How long it may last before it is flagged; `None`: for ever.
    pub threshold: Option<Duration>,
    /// Its baseline, if that allows more.
    pub excuse: Option<Excuse>,
    /// How long an answer usually takes.
    pub usual: Option<Duration>,
    /// What people are told beside the verdict.
    pub note: Option<String>,
    /// Where in its program the thread sleeps, if that was read.
    pub stack: Vec<String>,
}

impl Terms {
    /// How old the wait must be to be flagged.
    fn flagged_at(&self) -> Duration {
        self.excuse.map(|excuse| excuse.until).or(self.threshold).unwrap_or(Duration::MAX)
    }
}

/// The agent's policy: the peers of what may be a stall, and of what only they, or who waits for whom, tell from one.
pub struct DuePeers<'a> {
    tracker: &'a Tracker,
    policy: &'a Config,
}

impl PeerPolicy for DuePeers<'_> {
    fn needs_peers(&self, assessment: &Assessment) -> bool {
        may_close_circle(assessment.class) && assessment.wait.age >= self.policy.least()
            || self.tracker.may_be_stall(assessment, self.policy)
    }
}

impl Tracker {
    /// Which of the waits that were looked up need their peers.
    pub fn peer_policy<'a>(&'a self, policy: &'a Config) -> DuePeers<'a> {
        DuePeers { tracker: self, policy }
    }

    fn may_be_stall(&self, assessment: &Assessment, policy: &Config) -> bool {
        let wait = &assessment.wait;
        let track = self.waits.get(&wait.thread);
        // What was decided of another class does not hold any more.
        let decided = track.filter(|track| track.judgement == assessment.judgement());
        wait.age >= decided.map_or(Duration::ZERO, |track| track.suppressed_until)
            && policy.least_of(assessment.judgement()).is_some_and(|least| wait.age >= least)
            && !self.stalls.has(&wait.thread)
    }

    /// Takes what was found out about waits. Those that may be stalls, in the order in which they are to be decided.
    pub fn due(&mut self, assessments: Vec<Assessment>, policy: &Config, now_ns: u64) -> Vec<Assessment> {
        let mut due = Vec::new();
        for assessment in assessments {
            let lacks_peers =
                assessment.resolved.peers.is_none() && self.peer_policy(policy).needs_peers(&assessment);
            self.looked(&assessment, policy, now_ns);
            if lacks_peers {
                self.miss(assessment.wait.thread);
            } else if self.may_be_stall(&assessment, policy) && !self.is_put_off(&assessment) {
                let Assessment { wait, .. } = &assessment;
                let (owner, reason, since) = (wait.uid, Reason::MayBeStall, wait.age);
                due.push((Urgency { owner, reason, missed: 0, since }, assessment));
            }
        }
        self.missed.retain(|_, missed| missed.snapshot == self.snapshots);
        // Those that have been due for longest first: one that was not reached the last time is older than most.
        in_order(due)
    }

    fn is_put_off(&mut self, Assessment { wait, resolved, .. }: &Assessment) -> bool {
        self.waits.get_mut(&wait.thread).is_some_and(|track| track.is_put_off(resolved))
    }

    fn looked(&mut self, assessment: &Assessment, policy: &Config, now_ns: u64) {
        let thread = assessment.wait.thread;
        let Some(track) = self.waits.get_mut(&thread) else { return };
        track.looked(assessment, now_ns);
        let at_rest = policy.least_of(assessment.judgement()).is_none();
        self.short_sleepers.looked(&thread, now_ns, at_rest, policy.least());
    }

    /// Whether a wait that may be a stall is to be opened as one, which it is not yet.
    pub fn opens(&self, wait: &Wait, terms: &Terms) -> bool {
        wait.age >= terms.flagged_at() && !self.stalls.has(&wait.thread)
    }

    /// Decides about a wait that may be a stall: opens it, or says until when it is none.
    pub fn decide(
        &mut self,
        assessment: Assessment,
        terms: Terms,
        who: Arc<ProcessMeta>,
        now: Timestamp,
    ) -> Option<Opening<'_>> {
        let thread = assessment.wait.thread;
        let track = self.waits.get_mut(&thread)?;
        let flagged_at = terms.flagged_at();
        if assessment.wait.age < flagged_at {
            (track.suppressed_until, track.excuse) = (flagged_at, terms.excuse);
            return None;
        }
        track.is_flagged = true;
        // It was flagged as a request before the thread was seen to wait for it.
        let request = track.inode.map(|inode| ThreadId::of_request(thread.process, inode));
        if let Some(request) = request.filter(|request| *request != thread && self.stalls.has(request)) {
            self.stalls.pass_on(&request, thread);
            return None;
        }
        let mut verdict = assessment.verdict();
        if let Some(usual) = terms.usual {
            let _ = write!(verdict.sentence, "; an answer usually comes within {}", human::age(usual));
        }
        let Assessment { wait, resolved, .. } = assessment;
        let Terms { note, stack, .. } = terms;
        let stall = Stall { wait, resolved, verdict, opened: now, who, note, incident: None, stack };
        Some(self.stalls.open(stall))
    }
}
