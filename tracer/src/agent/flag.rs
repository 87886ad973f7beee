//! Opening and closing stalls.

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use anyhow::Result;
use jiff::Timestamp;
use tracer_ebpf::abi::EndedWait;

use super::{
    Watch,
    budget::{Due, Stage, order},
};
use crate::{
    agent::baselines::BaselineKey,
    agent::track::Track,
    assess::client::Client,
    assess::stall::{Closed, Ended, Stall, thread_of},
    config::Subject,
    diagnose::verdict,
    model::class::Class,
    model::wait::{ByProcess, Snapshot, ThreadId, Wait},
    resolve::{Resolved, peers::AT_LEAST, process::Who, target::Target},
    util::human,
};

impl Watch {
    /// Opens the stalls that are due, and brings the ages of the open ones up to date. Says how many that may be due were not reached.
    pub(super) fn flag(&mut self, snapshot: &Snapshot) -> Result<usize> {
        let mut due = Vec::new();
        for wait in &snapshot.waits {
            if let Some(stall) = self.stalls.get_mut(&wait.thread) {
                if !self.tracks.is_away(&wait.thread) {
                    stall.wait.age = wait.age;
                }
            } else if let Some(track) = self.tracks.get(&wait.thread)
                && track.looked_ns.is_some()
                && self.may_be_due(track, wait.age)
            {
                due.push(wait);
            }
        }
        if due.is_empty() {
            return Ok(0);
        }
        // Those that have been due for longest first: one that was not reached the last time is older than most.
        let since = |wait: &&Wait| Due { owner: wait.uid, new: false, missed: 0, since: wait.age };
        let turns = order(&due.iter().map(since).collect::<Vec<_>>());
        let due: Vec<&Wait> = turns.into_iter().map(|at| due[at]).collect();
        let mut resolved = self.resolve_in_time(&due, Stage::ResolveDue)?;
        let mut pairs: Vec<(&Wait, &mut Resolved)> = due.iter().copied().zip(&mut resolved).collect();
        let until = Instant::now() + self.time_for(Stage::PeersDue);
        self.resolver.find_peers(&mut pairs, &ByProcess::new(&snapshot.waits), &mut self.bpf, Some(until))?;
        let until = Instant::now() + self.time_for(Stage::Flag);
        let mut reached = 0;
        for (wait, mut resolved) in due.iter().copied().zip(resolved) {
            if resolved.peers.is_none() || reached >= AT_LEAST && Instant::now() >= until {
                break;
            }
            if reached.is_multiple_of(AT_LEAST) {
                let next = due[reached..].iter().take(AT_LEAST);
                self.resolver.meet(next.map(|wait| wait.thread.process));
            }
            reached += 1;
            if let Some(track) = self.tracks.get_mut(&wait.thread) {
                track.remember_last_word(&mut resolved);
            }
            // It may have moved on since it was classed: then there is another wait by now.
            let mut verdict = verdict::judge(wait, &resolved);
            let who = self.resolver.who(wait.thread.process);
            let decision = self.policy.decide(&subject(wait, &resolved, verdict.class, &who));
            let client = Client::of(wait, &resolved).filter(|_| !decision.by_rule);
            let baseline = client.map(|client| BaselineKey::of(&client, &who));
            let excuse = baseline
                .as_ref()
                .zip(decision.threshold)
                .and_then(|(key, threshold)| self.state.excuse(key, threshold));
            let due = excuse.map(|excuse| excuse.until).or(decision.threshold).unwrap_or(Duration::MAX);
            if wait.age < due {
                if let Some(track) = self.tracks.get_mut(&wait.thread) {
                    (track.class, track.suppressed_until, track.excuse) = (verdict.class, due, excuse);
                }
                continue;
            }
            if let Some(usual) = baseline.and_then(|key| self.state.usual(&key)) {
                let _ = write!(verdict.sentence, "; an answer usually comes within {}", human::age(usual));
            }
            let note = decision.note.map(str::to_owned);
            let opened = Timestamp::now();
            let stall = Stall { wait: wait.clone(), resolved, verdict, opened, who, note };
            // One that was open when the agent stopped has been announced.
            if self.state.was_open(&stall.wait) {
                self.sinks.found_again(&stall);
            } else {
                *self.metrics.lock().opened.entry(stall.verdict.class).or_default() += 1;
                self.sinks.opened(&stall);
            }
            self.stalls.insert(wait.thread, stall);
        }
        Ok(due.len() - reached)
    }

    /// Whether a wait may have to be flagged: the rules and its baseline are asked only then.
    fn may_be_due(&self, track: &Track, age: Duration) -> bool {
        age >= track.suppressed_until && self.policy.least_of(track.class).is_some_and(|least| age >= least)
    }

    /// A thread exits: its stall closes at once.
    pub(super) fn exited(&mut self, event: &EndedWait) {
        let thread = thread_of(event);
        let end_ns = event.began_ns + event.duration_ns;
        let away = self.tracks.not_away(&thread).map(|away| away.track);
        if let Some(track) = away.as_ref().or(self.tracks.get(&thread)) {
            let lasted = Duration::from_nanos(end_ns.saturating_sub(track.began_ns));
            self.close(&thread, Ended::Exited, lasted);
        }
    }

    /// Closes a thread's stall, if it has one.
    pub(super) fn close(&mut self, thread: &ThreadId, ended: Ended, lasted: Duration) {
        let Some(stall) = self.stalls.remove(thread) else { return };
        self.sinks.closed(&Closed { stall, ended, lasted });
    }
}

/// What the rules see of a wait.
fn subject<'a>(wait: &'a Wait, resolved: &'a Resolved, class: Class, who: &'a Who) -> Subject<'a> {
    let (local, remote) = resolved.target.socket_addresses();
    Subject {
        comm: &wait.comm,
        unit: who.unit.as_deref(),
        container: who.container.as_deref(),
        uid: who.uid.unwrap_or(wait.uid),
        user: who.user.as_deref(),
        syscall: wait.call.syscall,
        class,
        local,
        remote,
        path: match &resolved.target {
            Target::Unix { path, .. } => path.as_deref(),
            _ => None,
        },
    }
}
