//! The stalls that are open: the one memory of them, and of those that were open when the agent last stopped. Pure.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hashbrown::HashMap;

use crate::{
    assess::stall::{Closed, Ended, Stall},
    model::wait::{ProcessId, ThreadId},
    wire::stall::StallIncident,
    wire::state::Announced,
};

/// How far apart two agents may date the same wait: a derived start is off by how long a thread takes to get the CPU. A
/// stall has lasted longer, so another wait of the thread cannot have begun so close to it.
const SAME_WAIT_WITHIN_NS: u64 = 2_000_000_000;
/// How long after a start stalls that were open before may be found again, nanoseconds.
const FOUND_WITHIN_NS: u64 = 600_000_000_000;

impl Announced {
    /// Of a thread's stall, which may have been another thread's before.
    fn of((thread, stall): (&ThreadId, &Stall)) -> Self {
        Self {
            pid: thread.process.pid,
            process_start_ns: thread.process.start_ns,
            tid: thread.tid,
            thread_start_ns: thread.start_ns,
            began_ns: stall.wait.began_ns,
            opened: Some(stall.opened),
        }
    }

    fn thread(&self) -> ThreadId {
        ThreadId {
            process: ProcessId { pid: self.pid, start_ns: self.process_start_ns },
            tid: self.tid,
            start_ns: self.thread_start_ns,
        }
    }

    /// Whether a stall is this very one.
    fn is(&self, stall: &Stall) -> bool {
        self.began_ns.abs_diff(stall.wait.began_ns) <= SAME_WAIT_WITHIN_NS
    }
}

/// A stall that has been opened.
#[derive(Debug)]
pub enum Opening<'a> {
    /// Nobody has been told of it.
    New(&'a Stall),
    /// It was open when the agent last stopped, and has been announced then.
    FoundAgain(&'a Stall),
}

/// All that are open, by thread.
#[derive(Debug, Default)]
pub struct OpenStalls {
    stalls: BTreeMap<ThreadId, Stall>,
    /// Those that were open when the agent last stopped and have not been found again.
    before: HashMap<ThreadId, Announced>,
    /// Until when they may be, nanoseconds of `CLOCK_MONOTONIC`.
    found_until_ns: u64,
    /// How often what is to be kept has changed.
    changes: u64,
    /// Whose have opened or closed since somebody last asked.
    changed: Vec<ThreadId>,
}

impl OpenStalls {
    /// None, of an agent that starts now and goes on with what another one has announced.
    pub fn going_on_with(before: Vec<Announced>, now_ns: u64) -> Self {
        Self {
            before: before.into_iter().map(|announced| (announced.thread(), announced)).collect(),
            found_until_ns: now_ns + FOUND_WITHIN_NS,
            ..Self::default()
        }
    }

    /// All of them.
    pub fn all(&self) -> &BTreeMap<ThreadId, Stall> {
        &self.stalls
    }

    /// Tells these of the incidents that they belong to.
    pub fn tell(&mut self, incidents: Vec<(ThreadId, Arc<StallIncident>)>) {
        for (thread, incident) in incidents {
            if let Some(stall) = self.stalls.get_mut(&thread) {
                stall.incident = Some(incident);
            }
        }
    }

    /// How often what is to be kept over a restart has changed so far.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Whose have opened or closed since the last time.
    pub fn take_changed(&mut self) -> Vec<ThreadId> {
        std::mem::take(&mut self.changed)
    }

    /// What is to be kept over a restart: also those that have not been found again yet, should it come soon after the last one.
    pub fn announced(&self) -> Vec<Announced> {
        self.stalls.iter().map(Announced::of).chain(self.before.values().cloned()).collect()
    }

    /// Whether a thread has one.
    pub fn has(&self, thread: &ThreadId) -> bool {
        self.stalls.contains_key(thread)
    }

    /// Opens one. If it has been announced before, it has been open since then.
    pub fn open(&mut self, mut stall: Stall) -> Opening<'_> {
        let thread = stall.wait.thread;
        self.count_change(thread);
        let before = self.before.remove(&thread).filter(|before| before.is(&stall));
        if let Some(opened) = before.as_ref().and_then(|before| before.opened) {
            stall.opened = opened;
        }
        let stall = self.stalls.entry(thread).insert_entry(stall).into_mut();
        if before.is_some() { Opening::FoundAgain(stall) } else { Opening::New(stall) }
    }

    /// Another thread goes on with one's wait.
    pub fn pass_on(&mut self, from: &ThreadId, to: ThreadId) {
        if let Some(stall) = self.stalls.remove(from) {
            self.stalls.insert(to, stall);
            self.count_change(*from);
            self.changed.push(to);
        }
    }

    /// Closes a thread's, if it has one.
    pub fn close(&mut self, thread: &ThreadId, ended: Ended, lasted: Duration) -> Option<Closed> {
        let stall = self.stalls.remove(thread)?;
        self.count_change(*thread);
        Some(Closed { stall, ended, lasted })
    }

    fn count_change(&mut self, thread: ThreadId) {
        self.changes += 1;
        self.changed.push(thread);
    }

    /// Brings their ages up to date, by when the waits of their threads began.
    pub fn age(&mut self, now_ns: u64, began_ns: impl Fn(&ThreadId) -> Option<u64>) {
        if now_ns > self.found_until_ns && !self.before.is_empty() {
            self.before.clear();
            self.changes += 1;
        }
        for (thread, stall) in &mut self.stalls {
            if let Some(began_ns) = began_ns(thread) {
                stall.wait.age = Duration::from_nanos(now_ns.saturating_sub(began_ns));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::history::samples::flagged;

    /// An agent that has opened this stall has stopped, and the next one starts at this moment.
    fn restarted(stall: &Stall, now_ns: u64) -> OpenStalls {
        let mut open = OpenStalls::default();
        assert!(matches!(open.open(stall.clone()), Opening::New(_)));
        let kept = serde_json::to_string(&open.announced()).expect("JSON");
        OpenStalls::going_on_with(serde_json::from_str(&kept).expect("JSON"), now_ns)
    }

    #[test]
    fn what_has_been_announced_is_not_announced_again_and_is_open_since_then() {
        let stall = flagged(7, 10);
        let later = Stall { opened: Timestamp::now(), ..stall.clone() };
        let mut open = restarted(&stall, 0);
        let Opening::FoundAgain(found) = open.open(later.clone()) else { panic!("it is new") };
        assert_eq!(found.opened, stall.opened);
        // It ends, and the thread stalls anew.
        assert!(open.close(&stall.wait.thread, Ended::Resumed, Duration::ZERO).is_some());
        assert!(matches!(open.open(later.clone()), Opening::New(new) if new.opened == later.opened));
        assert_eq!(open.changes(), 3);
    }

    #[test]
    fn two_restarts_in_a_row_announce_nothing_again() {
        let (found, missing) = (flagged(7, 10), flagged(8, 10));
        let mut open = OpenStalls::default();
        open.open(found.clone());
        open.open(missing.clone());
        let mut open = OpenStalls::going_on_with(open.announced(), 0);
        open.open(found.clone());
        let mut open = OpenStalls::going_on_with(open.announced(), 0);
        for stall in [found, missing] {
            assert!(matches!(open.open(stall), Opening::FoundAgain(_)));
        }
    }

    #[test]
    fn another_wait_and_another_process_are_new() {
        let mut stall = flagged(7, 10);
        stall.wait.began_ns = 100 * SAME_WAIT_WITHIN_NS;
        let others: [fn(&mut Stall); 4] = [
            |stall| stall.wait.began_ns += SAME_WAIT_WITHIN_NS + 1,
            |stall| stall.wait.thread.process.start_ns += 1,
            |stall| stall.wait.thread.start_ns += 1,
            |stall| stall.wait.thread.tid += 1,
        ];
        for change in others {
            let mut other = stall.clone();
            change(&mut other);
            assert!(matches!(restarted(&stall, 0).open(other), Opening::New(_)));
        }
        stall.wait.began_ns += SAME_WAIT_WITHIN_NS;
        let mut open = restarted(&stall, 0);
        stall.wait.began_ns -= SAME_WAIT_WITHIN_NS;
        assert!(matches!(open.open(stall), Opening::FoundAgain(_)));
    }

    #[test]
    fn after_a_while_nothing_is_found_again() {
        let stall = flagged(7, 10);
        for (after, is_new) in [(FOUND_WITHIN_NS, false), (FOUND_WITHIN_NS + 1, true)] {
            let mut open = restarted(&stall, 5);
            open.age(5 + after, |_| None);
            assert_eq!(matches!(open.open(stall.clone()), Opening::New(_)), is_new);
        }
    }

    #[test]
    fn what_another_thread_goes_on_with_is_found_again_as_its_own() {
        let stall = flagged(7, 10);
        let other = ThreadId { tid: stall.wait.thread.tid + 1, ..stall.wait.thread };
        let mut open = OpenStalls::default();
        open.open(stall.clone());
        open.pass_on(&stall.wait.thread, other);
        assert!(open.has(&other) && !open.has(&stall.wait.thread));
        let mut again = stall.clone();
        again.wait.thread = other;
        let mut later = OpenStalls::going_on_with(open.announced(), 0);
        assert!(matches!(later.open(again), Opening::FoundAgain(_)));
        assert!(
            open.close(&other, Ended::Resumed, Duration::ZERO)
                .is_some_and(|closed| closed.stall.wait == stall.wait)
        );
    }

    /// As an earlier version has written it.
    #[test]
    fn one_without_its_opening_is_found_again_all_the_same() {
        let stall = flagged(7, 10);
        let kept = serde_json::to_value(Announced::of((&stall.wait.thread, &stall))).expect("JSON");
        let mut kept = kept.as_object().expect("an object").clone();
        assert!(kept.remove("opened").is_some());
        let before = serde_json::from_value(kept.into()).expect("it is read");
        let mut open = OpenStalls::going_on_with(vec![before], 0);
        assert!(matches!(open.open(stall), Opening::FoundAgain(_)));
    }
}
