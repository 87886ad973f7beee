//! Opening and closing stalls.

use std::{fmt::Write, time::Duration};

use anyhow::Result;
use tracer_ebpf::abi::EndedWait;

use super::{Watch, account::show_stalls, follow::habit_of};
use crate::{
    class::Class,
    human,
    resolve::Resolved,
    stall::{Closed, Ended, Stall, thread_of},
    verdict,
    wait::{Snapshot, ThreadId, Wait},
};

impl Watch {
    /// Opens the stalls that are due, and brings the ages of the open ones up to date.
    pub(super) fn flag(&mut self, snapshot: &Snapshot) -> Result<()> {
        let mut due = Vec::new();
        for wait in &snapshot.waits {
            if let Some(stall) = self.stalls.get_mut(&wait.thread) {
                stall.wait.age = wait.age;
            } else if let Some(track) = self.tracks.get(&wait.thread)
                && track.looked_ns.is_some()
                && self.is_due(track.class, wait.age, None)
            {
                due.push(wait);
            }
        }
        if due.is_empty() {
            return Ok(());
        }
        let mut resolved = self.resolver.resolve(&due, &mut self.bpf)?;
        let mut pairs: Vec<(&Wait, &mut Resolved)> = due.iter().copied().zip(&mut resolved).collect();
        self.resolver.find_peers(&mut pairs, &snapshot.waits, &mut self.bpf)?;
        for (wait, mut resolved) in due.into_iter().zip(resolved) {
            if let Some(track) = self.tracks.get_mut(&wait.thread) {
                track.remember_last_word(&mut resolved);
            }
            // It may have moved on since it was classed: then there is another wait by now.
            let mut verdict = verdict::judge(wait, &resolved);
            let habit = habit_of(wait, &resolved);
            let patience = habit.as_ref().map(|key| self.state.patience(key));
            if !self.is_due(verdict.class, wait.age, patience) {
                if let Some(track) = self.tracks.get_mut(&wait.thread) {
                    track.class = verdict.class;
                }
                continue;
            }
            if let Some(usual) = habit.and_then(|key| self.state.usual(&key)) {
                let _ = write!(verdict.sentence, "; an answer usually comes within {}", human::age(usual));
            }
            let who = self.resolver.who(wait.thread.process);
            let stall = Stall { wait: wait.clone(), resolved, verdict, who };
            // One that was open when the agent stopped has been announced.
            if !self.state.was_open(&stall.wait) {
                *self.metrics.lock().opened.entry(stall.verdict.class).or_default() += 1;
                self.events.opened(&stall);
            }
            self.stalls.insert(wait.thread, stall);
        }
        Ok(())
    }

    /// Whether a wait of this class and age is to be flagged, `patience` being what its habit asks for.
    fn is_due(&self, class: Class, age: Duration, patience: Option<Duration>) -> bool {
        self.policy
            .threshold(class)
            .is_some_and(|threshold| age >= threshold.max(patience.unwrap_or_default()))
    }

    /// A thread exits: its stall closes at once.
    pub(super) fn exited(&mut self, event: &EndedWait) {
        let thread = thread_of(event);
        let end_ns = event.began_ns + event.duration_ns;
        if let Some(track) = self.tracks.get(&thread) {
            let lasted = Duration::from_nanos(end_ns.saturating_sub(track.began_ns));
            self.close(&thread, Ended::Exited, lasted);
        }
    }

    /// Closes a thread's stall, if it has one.
    pub(super) fn close(&mut self, thread: &ThreadId, ended: Ended, lasted: Duration) {
        let Some(stall) = self.stalls.remove(thread) else { return };
        self.events.closed(&Closed { stall, ended, lasted });
        show_stalls(&mut self.metrics.lock(), &self.stalls);
    }
}
