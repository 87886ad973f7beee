//! Which waits of a snapshot must be looked up now? What is young costs nothing beyond the snapshot.

use std::time::Duration;

use hashbrown::{HashMap, HashSet};

use super::{
    Away, Tracker,
    apply::back,
    order::{Reason, Urgency, in_order},
    track::{Step, Track},
};
use crate::{
    assess::pipeline::is_young,
    config::Config,
    diagnose::{progress::unmoved, verdict::may_close_circle},
    model::file::FileKind,
    model::wait::{FdState, Snapshot, ThreadId, Wait},
};

/// A wait is looked at again when it is half as old again as at the last look, at the earliest after this.
const LOOK_AGAIN_MIN: Duration = Duration::from_secs(10);

impl Tracker {
    /// The waits that must be looked up, the most urgent first.
    pub fn observe(&mut self, snapshot: &Snapshot, policy: &Config) -> Vec<Wait> {
        let now_ns = snapshot.monotonic_ns;
        let may_have_closed = self.may_have_closed(snapshot, policy);
        let again: HashSet<ThreadId> = may_have_closed.into_iter().map(|wait| wait.thread).collect();
        let mut requests = Vec::new();
        for wait in &snapshot.waits {
            let reason = self.reason_to_look(wait, policy, now_ns);
            if let Some(reason) = reason.or_else(|| again.contains(&wait.thread).then_some(Reason::Again)) {
                requests.push((self.urgency(wait, reason, now_ns), wait.clone()));
            }
        }
        in_order(requests)
    }

    /// Why a wait must be looked up now, if it must.
    fn reason_to_look(&mut self, wait: &Wait, policy: &Config, now_ns: u64) -> Option<Reason> {
        let known = known(&self.waits, &self.away, wait);
        let again = known.is_some_and(|(track, _)| track.same_call(wait));
        let mut has_turn = || {
            let is_set = wait.call.watches_fds();
            is_set && self.short_sleepers.is_due(wait.thread, again, now_ns, policy.least())
        };
        let is_missed = self.missed.contains_key(&wait.thread);
        let Some((track, step)) = known.filter(|(_, step)| *step != Step::New) else {
            let old = !is_young(wait.age.max(unmoved(wait)));
            return (is_missed || old || has_turn()).then_some(Reason::New);
        };
        let age = Duration::from_nanos(now_ns.saturating_sub(track.began_ns));
        let has_stall = || self.stalls.has(&wait.thread);
        if track.may_be_flagged(age, policy) && !has_stall() {
            return Some(Reason::MayBeStall);
        }
        let is_due = is_missed
            || match (step, track.looked_ns) {
                // Where it cannot be stuck, what has moved may be found out later.
                (Step::Unsure, _) => has_turn() || policy.least_of(track.judgement).is_some() || has_stall(),
                (_, None) => !is_young(age) || has_turn(),
                (_, Some(looked_ns)) => {
                    let may_be_stuck = may_close_circle(track.judgement.class) && !track.peers_resolved;
                    // What a file is called does not change while a thread sleeps on it.
                    let pause = if names_a_file(wait) { age } else { age / 3 };
                    let since_look = Duration::from_nanos(now_ns.saturating_sub(looked_ns));
                    since_look >= LOOK_AGAIN_MIN.max(pause) || may_be_stuck && age >= policy.least()
                }
            };
        let reason = if track.looked_ns.is_none() { Reason::New } else { Reason::Again };
        is_due.then_some(reason)
    }

    fn urgency(&self, wait: &Wait, reason: Reason, now_ns: u64) -> Urgency {
        let looked_ns = self.waits.get(&wait.thread).and_then(|track| track.looked_ns);
        Urgency {
            owner: wait.uid,
            reason,
            missed: self.missed.get(&wait.thread).map_or(0, |missed| missed.times),
            since: Duration::from_nanos(now_ns.saturating_sub(looked_ns.unwrap_or(wait.began_ns))),
        }
    }
}

/// What is remembered of a wait's thread, and what its present sleep is to that. A thread that may be back at the connection
/// that its stall is about is what it was there.
fn known<'a>(
    waits: &'a HashMap<ThreadId, Track>,
    away: &'a HashMap<ThreadId, Away>,
    wait: &Wait,
) -> Option<(&'a Track, Step)> {
    back(waits, away, wait).or_else(|| waits.get(&wait.thread).map(|track| (track, track.step(wait))))
}

/// Whether a wait is on a file, of which nothing but its name is to be looked up.
fn names_a_file(wait: &Wait) -> bool {
    matches!(&wait.fd_state, FdState::Open(file) if file.kind() == FileKind::Regular)
}
