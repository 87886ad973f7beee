//! The life of stalls: when a wait is flagged, when that ends, and what does not end it. Pure: values in, events out.
//!
//! A stall is open from the moment its wait passes the threshold of its class until the thread gets on. Being stopped,
//! traced or frozen, and a signal that lets the call go on, neither end it nor start it anew.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hashbrown::HashMap;
use tracer_ebpf::abi::{EndedWait, THREAD_EXITING, THREAD_SIGNALLED};

use crate::{
    resolve::{Resolved, process::Who},
    verdict::{Class, Level, Verdict},
    wait::{SocketFacts, ThreadId, Wait},
};

/// How long each class may last.
#[derive(Clone, Copy, Debug, Default)]
pub struct Policy {
    /// Replaces the threshold of every class that means stuck.
    pub stuck: Option<Duration>,
}

impl Policy {
    /// The threshold of a class; `None`: never flagged.
    pub fn threshold(&self, class: Class) -> Option<Duration> {
        match (class.level(), self.stuck) {
            (Level::Stuck, Some(threshold)) => Some(threshold),
            _ => class.threshold(),
        }
    }

    /// The least threshold of all: younger waits need not be looked at.
    pub fn least(&self) -> Duration {
        Class::ALL.iter().filter_map(|class| self.threshold(*class)).min().unwrap_or(Duration::MAX)
    }
}

/// How a stall ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The thread got on.
    Resumed,
    /// The thread is gone.
    Exited,
}

impl Ended {
    /// Its name in events.
    pub fn label(self) -> &'static str {
        match self {
            Ended::Resumed => "resumed",
            Ended::Exited => "exited",
        }
    }
}

/// An open stall.
#[derive(Clone, Debug)]
pub struct Stall {
    /// The wait it began with, its age kept up to date.
    pub wait: Wait,
    /// What it waits on.
    pub resolved: Resolved,
    /// Why it is one.
    pub verdict: Verdict,
    /// Who waits.
    pub who: Arc<Who>,
    /// Start of the sleep the thread is in now: later than the wait's after an interruption. Nanoseconds of
    /// `CLOCK_MONOTONIC`.
    sleep_began_ns: u64,
    /// The sleep ended in a way that may not be the end of the call: how, and the age then.
    doubtful_end: Option<(Ended, Duration)>,
    /// A signal has separated its sleeps before: the next one may end without the kernel saying so, if it was short.
    interrupted: bool,
    /// The last snapshot found the thread running after such an end.
    ran: bool,
}

impl Stall {
    /// A stall that opens now.
    pub fn new(wait: Wait, resolved: Resolved, verdict: Verdict, who: Arc<Who>) -> Self {
        let sleep_began_ns = wait.began_ns;
        Self {
            wait,
            resolved,
            verdict,
            who,
            sleep_began_ns,
            doubtful_end: None,
            interrupted: false,
            ran: false,
        }
    }

    /// Whether a later sleep is the same stall: the same call with the same arguments, after a signal or with nothing
    /// moved on the connection.
    fn goes_on_in(&self, wait: &Wait) -> bool {
        self.wait.call.name == wait.call.name
            && self.wait.call.args == wait.call.args
            && self.wait.fd == wait.fd
            && (self.interrupted || self.doubtful_end.is_some() || self.nothing_moved(wait))
    }

    /// Whether a TCP connection shows no progress since the stall opened: nothing received, nothing acknowledged.
    fn nothing_moved(&self, wait: &Wait) -> bool {
        match (&self.wait.socket, &wait.socket) {
            (SocketFacts::Tcp(before), SocketFacts::Tcp(now)) => {
                before.raw.bytes_received == now.raw.bytes_received
                    && before.raw.bytes_acked == now.raw.bytes_acked
            }
            _ => false,
        }
    }

    /// Goes on in a later sleep.
    fn go_on(&mut self, began_ns: u64, age: Duration) {
        self.interrupted |= self.doubtful_end.take().is_some();
        self.ran = false;
        self.sleep_began_ns = began_ns;
        self.wait.age = age;
    }
}

/// What becomes of a thread that a snapshot does not show waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// It is held: stopped, traced, frozen.
    Held,
    /// It runs.
    Runs,
    /// It is gone.
    Gone,
}

/// A stall that has ended.
#[derive(Clone, Debug)]
pub struct Closed {
    /// As it was.
    pub stall: Stall,
    /// How it ended.
    pub ended: Ended,
    /// How long it lasted.
    pub lasted: Duration,
}

/// All open stalls.
#[derive(Default)]
pub struct Stalls {
    open: BTreeMap<ThreadId, Stall>,
}

impl Stalls {
    /// The open ones, by thread.
    pub fn open(&self) -> impl Iterator<Item = &Stall> {
        self.open.values()
    }

    /// Whether this thread's present wait is flagged already.
    pub fn has(&self, thread: &ThreadId) -> bool {
        self.open.contains_key(thread)
    }

    /// Opens a stall.
    pub fn insert(&mut self, stall: Stall) {
        self.open.insert(stall.wait.thread, stall);
    }

    /// A wait has ended, as the kernel saw it.
    pub fn ended(&mut self, event: &EndedWait) -> Option<Closed> {
        let thread = thread_of(event);
        let stall = self.open.get_mut(&thread)?;
        if stall.sleep_began_ns != event.began_ns {
            return None;
        }
        let end_ns = event.began_ns + event.duration_ns;
        let lasted = Duration::from_nanos(end_ns.saturating_sub(stall.wait.began_ns));
        if event.flags & THREAD_EXITING == 0 && event.flags & THREAD_SIGNALLED != 0 {
            stall.doubtful_end = Some((Ended::Resumed, lasted));
            return None;
        }
        let ended = if event.flags & THREAD_EXITING != 0 { Ended::Exited } else { Ended::Resumed };
        self.open.remove(&thread).map(|stall| Closed { stall, ended, lasted })
    }

    /// Holds the open stalls against a snapshot. `absent` says what became of a thread it does not show.
    pub fn review(
        &mut self,
        waits: &HashMap<ThreadId, &Wait>,
        now_ns: u64,
        absent: impl Fn(&ThreadId) -> Absent,
    ) -> Vec<Closed> {
        let mut ends: Vec<(ThreadId, Ended, Duration)> = Vec::new();
        for (thread, stall) in &mut self.open {
            let age = Duration::from_nanos(now_ns.saturating_sub(stall.wait.began_ns));
            match waits.get(thread) {
                Some(wait) if wait.began_ns == stall.sleep_began_ns => stall.wait.age = age,
                Some(wait) if stall.goes_on_in(wait) => stall.go_on(wait.began_ns, age),
                Some(wait) => {
                    let until = Duration::from_nanos(wait.began_ns.saturating_sub(stall.wait.began_ns));
                    let (ended, lasted) = stall.doubtful_end.unwrap_or((Ended::Resumed, until));
                    ends.push((*thread, ended, lasted));
                }
                None => match absent(thread) {
                    Absent::Held => {
                        // However it came to be held, the call may go on after.
                        stall.doubtful_end.get_or_insert((Ended::Resumed, age));
                        stall.wait.age = age;
                    }
                    Absent::Gone => {
                        ends.push((*thread, Ended::Exited, stall.doubtful_end.map_or(age, |(_, age)| age)))
                    }
                    // After a signal it may only wait for a CPU to go on: one look more.
                    Absent::Runs if stall.doubtful_end.is_some() && !stall.ran => stall.ran = true,
                    Absent::Runs => {
                        let (ended, lasted) = stall.doubtful_end.unwrap_or((Ended::Resumed, age));
                        ends.push((*thread, ended, lasted));
                    }
                },
            }
        }
        ends.into_iter()
            .filter_map(|(thread, ended, lasted)| {
                self.open.remove(&thread).map(|stall| Closed { stall, ended, lasted })
            })
            .collect()
    }
}

/// The thread an event is of.
pub fn thread_of(event: &EndedWait) -> ThreadId {
    ThreadId {
        process: crate::wait::ProcessId { pid: event.key.tgid, start_ns: event.key.process_start_ns },
        tid: event.tid,
        start_ns: event.thread_start_ns,
    }
}

#[cfg(test)]
mod tests {
    use tracer_ebpf::abi::{File, WaitKey};

    use super::*;
    use crate::verdict::{judge, tests as samples};

    fn began(began_ns: u64) -> Wait {
        Wait { began_ns, ..samples::wait("read", [3, 0, 1, 0, 0, 0]) }
    }

    fn stalls(began_ns: u64) -> Stalls {
        let wait = began(began_ns);
        let target = samples::on("read", samples::tcp());
        let verdict = judge(&wait, &target);
        let mut stalls = Stalls::default();
        stalls.insert(Stall::new(wait, target, verdict, Arc::new(Who::default())));
        stalls
    }

    fn event(began_ns: u64, duration_ns: u64, flags: u32) -> EndedWait {
        let wait = began(began_ns);
        let file = File {
            inode: 0,
            local: [0; 16],
            remote: [0; 16],
            local_port: 0,
            remote_port: 0,
            mode: 0,
            family: 0,
            dev: 0,
            rdev: 0,
            protocol: 0,
            sock_type: 0,
            reserved: 0,
        };
        let process = wait.thread.process;
        EndedWait {
            key: WaitKey {
                process_start_ns: process.start_ns,
                tgid: process.pid,
                nr: 0,
                flags: 0,
                fd: 3,
                file,
            },
            tid: wait.thread.tid,
            flags,
            thread_start_ns: wait.thread.start_ns,
            began_ns,
            duration_ns,
            args: wait.call.args,
            comm: [0; 16],
        }
    }

    fn review(stalls: &mut Stalls, wait: Option<&Wait>, now_ns: u64, absent: Absent) -> Vec<Closed> {
        let waits = wait.map(|wait| (wait.thread, wait)).into_iter().collect();
        stalls.review(&waits, now_ns, |_| absent)
    }

    #[test]
    fn the_threshold_replaces_that_of_stuck_classes_only() {
        let policy = Policy { stuck: Some(Duration::from_secs(2)) };
        assert_eq!(policy.threshold(Class::Reply), Some(Duration::from_secs(2)));
        assert_eq!(policy.threshold(Class::Quiet), Some(Duration::from_secs(600)));
        assert_eq!(policy.threshold(Class::Pipe), None);
        assert_eq!(policy.threshold(Class::Listen), None);
        assert_eq!(policy.least(), Duration::from_secs(2));
        assert_eq!(Policy::default().least(), Duration::from_secs(30));
    }

    #[test]
    fn an_ended_wait_closes_with_its_true_length() {
        let closed = stalls(1_000).ended(&event(1_000, 5_000_000_000, 0)).expect("closes");
        assert_eq!((closed.ended, closed.lasted), (Ended::Resumed, Duration::from_secs(5)));
        let closed =
            stalls(1_000).ended(&event(1_000, 5, THREAD_EXITING | THREAD_SIGNALLED)).expect("closes");
        assert_eq!(closed.ended, Ended::Exited);
    }

    #[test]
    fn another_wait_of_the_thread_closes_nothing() {
        let mut stalls = stalls(1_000);
        assert!(stalls.ended(&event(999, 5, 0)).is_none());
        let mut other = event(1_000, 5, 0);
        other.thread_start_ns += 1;
        assert!(stalls.ended(&other).is_none(), "a reused id is another thread");
        assert_eq!(stalls.open().count(), 1);
    }

    #[test]
    fn the_same_sleep_goes_on_and_ages() {
        let mut stalls = stalls(1_000);
        assert!(review(&mut stalls, Some(&began(1_000)), 7_000_001_000, Absent::Runs).is_empty());
        assert_eq!(stalls.open().next().map(|stall| stall.wait.age), Some(Duration::from_secs(7)));
    }

    #[test]
    fn a_signal_that_lets_the_call_go_on_keeps_the_stall() {
        let mut stalls = stalls(1_000);
        assert!(stalls.ended(&event(1_000, 4_000, THREAD_SIGNALLED)).is_none());
        assert!(review(&mut stalls, Some(&began(6_000)), 9_000, Absent::Runs).is_empty());
        // Its age still runs from the first sleep, and the second sleep's end closes it.
        let closed = stalls.ended(&event(6_000, 4_000, 0)).expect("closes");
        assert_eq!(closed.lasted, Duration::from_nanos(9_000));
    }

    #[test]
    fn many_short_interruptions_are_one_stall() {
        let mut stalls = stalls(1_000);
        assert!(stalls.ended(&event(1_000, 4_000, THREAD_SIGNALLED)).is_none());
        // The kernel reports long sleeps only: the short ones after the first end without an event.
        for (began_at, now) in [(6_000, 7_000), (8_000, 9_000), (10_000, 11_000)] {
            assert!(review(&mut stalls, None, began_at - 500, Absent::Held).is_empty());
            assert!(review(&mut stalls, Some(&began(began_at)), now, Absent::Runs).is_empty());
        }
        assert!(review(&mut stalls, None, 12_000, Absent::Held).is_empty());
        assert!(review(&mut stalls, None, 13_000, Absent::Runs).is_empty(), "it may wait for a CPU");
        let closed = review(&mut stalls, None, 14_000, Absent::Runs);
        assert_eq!(closed.first().map(|closed| closed.lasted), Some(Duration::from_nanos(11_000)));
    }

    #[test]
    fn a_signal_that_ends_the_call_closes_it_with_the_age_it_had() {
        let mut stalls = stalls(1_000);
        assert!(stalls.ended(&event(1_000, 4_000, THREAD_SIGNALLED)).is_none());
        let other = Wait { began_ns: 6_000, ..samples::wait("write", [1, 0, 0, 0, 0, 0]) };
        let closed = review(&mut stalls, Some(&other), 9_000, Absent::Runs);
        assert_eq!(closed.first().map(|closed| closed.lasted), Some(Duration::from_nanos(4_000)));
    }

    #[test]
    fn being_held_suspends() {
        let mut stalls = stalls(1_000);
        assert!(stalls.ended(&event(1_000, 4_000, THREAD_SIGNALLED)).is_none());
        for now in [6_000, 7_000, 8_000] {
            assert!(review(&mut stalls, None, now, Absent::Held).is_empty());
        }
        assert!(review(&mut stalls, Some(&began(8_500)), 9_000, Absent::Runs).is_empty());
        assert_eq!(stalls.open().count(), 1);
    }

    #[test]
    fn without_the_kernels_event_a_snapshot_tells() {
        for (absent, ended) in [(Absent::Gone, Ended::Exited), (Absent::Runs, Ended::Resumed)] {
            let closed = review(&mut stalls(1_000), None, 9_000, absent);
            assert_eq!(closed.first().map(|closed| closed.ended), Some(ended));
        }
        let closed = review(&mut stalls(1_000), Some(&began(5_000)), 9_000, Absent::Runs);
        assert_eq!(closed.first().map(|closed| closed.lasted), Some(Duration::from_nanos(4_000)));
    }
}
