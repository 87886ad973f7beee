//! From sleep to sleep: which of them are one wait? Pure: values in, decisions out.
//!
//! A thread that wakes and waits again for the same thing, with nothing moved in between, has waited all the time: a
//! poll with a time-out made again and again, a call that a signal, a stop or the freezer interrupted.

use std::{sync::Arc, time::Duration};

use hashbrown::HashMap;
use tracer_ebpf::abi::{EndedWait, THREAD_EXITING, THREAD_SIGNALLED};

use crate::{
    class::Class,
    habit,
    progress::{LastWord, Mark},
    resolve::Resolved,
    stall::thread_of,
    wait::{FdState, SocketFacts, ThreadId, Wait},
};

/// How much sooner than its time-out a call may come back: the kernel rounds up, our clocks are read apart.
const TIMEOUT_SLACK: Duration = Duration::from_millis(5);

/// The last end of a sleep, as the kernel saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// When, nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// The thread was exiting.
    pub exiting: bool,
}

/// What is remembered of a waiting thread from one snapshot to the next.
#[derive(Clone, Debug)]
pub struct Track {
    name: &'static str,
    args: [u64; 6],
    /// Start of the wait: of its first sleep, or earlier by the connection's own stamps.
    pub began_ns: u64,
    /// Start of the latest sleep.
    pub sleep_began_ns: u64,
    /// Class at the last look.
    pub class: Class,
    /// When it was last looked at, `None` for never.
    pub looked_ns: Option<u64>,
    /// The other end was looked up at the last look.
    pub weighed: bool,
    /// A rule or its habit lets it be until it is this old: until then it is not asked about again.
    pub let_be: Duration,
    /// Inode of the one fd it waits on, if it is known.
    inode: u64,
    /// That fd.
    pub fd: Option<i32>,
    /// It was found in a set the call watches.
    set: bool,
    /// Number of the snapshot that last showed it.
    pub seen: u64,
    /// Under what its length is remembered as a habit.
    pub habit: Option<Arc<habit::Key>>,
    /// Progress of that fd's connection.
    pub mark: Option<Mark>,
    timeout: Option<Duration>,
    /// Who spoke last on the connection, and the progress and bytes sent when that was seen.
    last_word: Option<(LastWord, Mark, u64)>,
    end: Option<End>,
    /// A signal woke it, or it is held: the same call may go on.
    interrupted: bool,
    /// That has happened before in this wait.
    interrupted_before: bool,
    /// Snapshots in a row that did not show it waiting.
    ran: u8,
}

/// What a sleep is to what is remembered of its thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The very same sleep.
    Same,
    /// Another sleep of the same wait.
    GoesOn,
    /// Another wait.
    New,
    /// The same set of fds again: what has moved on it has to be looked up.
    Unsure,
}

impl Track {
    /// Of a wait that is seen for the first time.
    pub fn new(wait: &Wait) -> Self {
        let (inode, mark) = seen(&wait.fd_state, &wait.socket);
        Self {
            name: wait.call.name,
            args: wait.call.args,
            began_ns: wait.began_ns,
            sleep_began_ns: wait.sleep_began_ns,
            class: Class::Other,
            looked_ns: None,
            weighed: false,
            let_be: Duration::ZERO,
            inode,
            fd: wait.fd,
            set: false,
            seen: 0,
            habit: None,
            mark,
            timeout: None,
            last_word: None,
            end: None,
            interrupted: false,
            interrupted_before: false,
            ran: 0,
        }
    }

    /// Whether it is the same call again.
    pub fn same_call(&self, wait: &Wait) -> bool {
        self.name == wait.call.name && self.args == wait.call.args
    }

    /// What a sleep is to this track; changes nothing.
    pub fn step(&self, wait: &Wait) -> Step {
        if wait.sleep_began_ns == self.sleep_began_ns {
            return Step::Same;
        }
        if !self.same_call(wait) {
            return Step::New;
        }
        let (inode, mark) = seen(&wait.fd_state, &wait.socket);
        match (self.mark, mark) {
            // Whatever came between: a byte that has moved ends it.
            (Some(before), Some(now)) if !self.set => {
                if before == now && inode == self.inode {
                    Step::GoesOn
                } else {
                    Step::New
                }
            }
            (Some(_), _) => Step::Unsure,
            _ if self.interrupted || self.interrupted_before => Step::GoesOn,
            (None, _) => {
                let apart = Duration::from_nanos(wait.sleep_began_ns.saturating_sub(self.sleep_began_ns));
                match self.timeout {
                    Some(timeout) if !timeout.is_zero() && apart + TIMEOUT_SLACK >= timeout => Step::GoesOn,
                    _ => Step::New,
                }
            }
        }
    }

    /// Whether a set that was looked up again shows the same connection with nothing moved.
    pub fn nothing_moved(&self, resolved: &Resolved) -> bool {
        let (inode, mark) = seen(&resolved.file, &resolved.socket);
        mark.is_some() && mark == self.mark && inode == self.inode
    }

    /// Bytes that came on the connection since, if it is still the same one.
    pub fn received(&self, file: &FdState, socket: &SocketFacts) -> u64 {
        match (self.mark, seen(file, socket)) {
            (Some(before), (inode, Some(now))) if inode == self.inode => now.received_since(&before),
            _ => 0,
        }
    }

    /// Another sleep of the same wait.
    pub fn go_on(&mut self, sleep_began_ns: u64) {
        self.interrupted_before |= std::mem::take(&mut self.interrupted);
        self.sleep_began_ns = sleep_began_ns;
        self.ran = 0;
        self.end = None;
    }

    /// Takes what was found out about the wait.
    pub fn looked(&mut self, wait: &Wait, resolved: &Resolved, class: Class, now_ns: u64) {
        let (inode, mark) = seen(&resolved.file, &resolved.socket);
        (self.inode, self.mark) = (inode, mark);
        (self.fd, self.set) = (resolved.fd, wait.fd != resolved.fd);
        self.timeout = resolved.timeout;
        if self.class != class {
            self.let_be = Duration::ZERO;
        }
        self.class = class;
        self.weighed = resolved.peers.is_some();
        self.looked_ns = Some(now_ns);
        self.began_ns = wait.began_ns;
    }

    /// Keeps the first thing known of who spoke last: while no byte moves it stays true, though a keepalive may hide it.
    pub fn remember_last_word(&mut self, resolved: &mut Resolved) {
        let SocketFacts::Tcp(facts) = &resolved.socket else { return };
        let (mark, sent) =
            (Mark::of(facts), facts.raw.bytes_sent - facts.raw.bytes_retrans.min(facts.raw.bytes_sent));
        match self.last_word {
            Some((word, at, before)) if at == mark && before == sent && word != LastWord::Unknown => {
                resolved.last_word = Some(word);
            }
            _ => self.last_word = resolved.last_word.map(|word| (word, mark, sent)),
        }
    }

    /// When the wait ended, as far as the kernel said; else `otherwise`.
    pub fn end_ns(&self, otherwise: u64) -> u64 {
        self.end.map_or(otherwise, |end| end.at_ns)
    }

    /// The thread is held now: when it is let go, the same call may go on.
    pub fn hold(&mut self) {
        self.interrupted = true;
    }

    /// Whether a thread found running may yet go on with the same wait: asked once for each snapshot. One that a signal
    /// woke goes back into its call, though on a machine that is overloaded it may want for a CPU for seconds.
    pub fn may_go_on(&mut self) -> bool {
        self.ran = self.ran.saturating_add(1);
        let most = match self.interrupted || self.interrupted_before {
            true => 3,
            false => u8::from(self.timeout.is_some() || self.set),
        };
        self.ran <= most
    }
}

/// Inode and progress of an fd.
fn seen(file: &FdState, socket: &SocketFacts) -> (u64, Option<Mark>) {
    let inode = match file {
        FdState::Open(file) => file.inode,
        _ => 0,
    };
    match socket {
        SocketFacts::Tcp(facts) => (inode, Some(Mark::of(facts))),
        _ => (inode, None),
    }
}

/// All that is remembered, by thread.
#[derive(Default)]
pub struct Tracks(HashMap<ThreadId, Track>);

impl Tracks {
    /// Of a thread.
    pub fn get(&self, thread: &ThreadId) -> Option<&Track> {
        self.0.get(thread)
    }

    /// Of a thread, to change.
    pub fn get_mut(&mut self, thread: &ThreadId) -> Option<&mut Track> {
        self.0.get_mut(thread)
    }

    /// The rules have changed: what they said of a wait does not hold any more.
    pub fn judge_anew(&mut self) {
        self.0.values_mut().for_each(|track| track.let_be = Duration::ZERO);
    }

    /// Begins to follow, or begins anew.
    pub fn insert(&mut self, wait: &Wait) -> &mut Track {
        let track = Track::new(wait);
        self.0.entry(wait.thread).insert(track).into_mut()
    }

    /// Takes out the tracks that `gone` names.
    pub fn take(&mut self, mut gone: impl FnMut(&ThreadId, &mut Track) -> bool) -> Vec<(ThreadId, Track)> {
        self.0.extract_if(|thread, track| gone(thread, track)).collect()
    }

    /// A sleep has ended, as the kernel saw it. True if its thread is exiting.
    pub fn ended(&mut self, event: &EndedWait) -> bool {
        let Some(track) = self.0.get_mut(&thread_of(event)) else { return false };
        // A later sleep than the one seen may have come and gone between two snapshots.
        if event.began_ns < track.sleep_began_ns {
            return false;
        }
        let exiting = event.flags & THREAD_EXITING != 0;
        // The first end counts: later sleeps are another wait's until a snapshot says otherwise.
        if event.began_ns == track.sleep_began_ns {
            track.end = Some(End { at_ns: event.began_ns + event.duration_ns, exiting });
            track.interrupted |= !exiting && event.flags & THREAD_SIGNALLED != 0;
        }
        exiting
    }
}

#[cfg(test)]
mod tests {
    use tracer_ebpf::abi::{File, WaitKey};

    use super::*;
    use crate::{
        progress::tests::facts,
        verdict::tests::{on, tcp, wait},
    };

    const SECOND: u64 = 1_000_000_000;

    fn file(inode: u64) -> FdState {
        FdState::Open(File { inode, ..File::EMPTY })
    }

    /// A read on a connection with so many bytes received.
    fn read(sleep_began_ns: u64, received: u64) -> Wait {
        Wait {
            began_ns: sleep_began_ns,
            sleep_began_ns,
            fd_state: file(7),
            socket: SocketFacts::Tcp(facts(100, received)),
            ..wait("read", [3, 0, 0, 0, 0, 0])
        }
    }

    fn poll(sleep_began_ns: u64) -> Wait {
        Wait { began_ns: sleep_began_ns, sleep_began_ns, fd: None, ..wait("poll", [0xabc, 1, 1000, 0, 0, 0]) }
    }

    fn resolved(received: u64, timeout: Option<Duration>) -> Resolved {
        let mut resolved = on("poll", tcp());
        (resolved.file, resolved.socket) = (file(7), SocketFacts::Tcp(facts(100, received)));
        resolved.timeout = timeout;
        resolved
    }

    fn event(sleep_began_ns: u64, duration_ns: u64, flags: u32) -> EndedWait {
        let wait = read(sleep_began_ns, 0);
        let process = wait.thread.process;
        let key = WaitKey {
            process_start_ns: process.start_ns,
            tgid: process.pid,
            nr: 0,
            flags: 0,
            fd: 3,
            restart_fn: 0,
            file: File::EMPTY,
        };
        EndedWait {
            key,
            tid: wait.thread.tid,
            flags,
            thread_start_ns: wait.thread.start_ns,
            began_ns: sleep_began_ns,
            duration_ns,
            args: wait.call.args,
            comm: [0; 16],
        }
    }

    #[test]
    fn a_read_that_wakes_without_a_byte_goes_on_and_one_byte_ends_it() {
        let track = Track::new(&read(SECOND, 50));
        assert_eq!(track.step(&read(SECOND, 50)), Step::Same);
        assert_eq!(track.step(&read(9 * SECOND, 50)), Step::GoesOn);
        assert_eq!(track.step(&read(9 * SECOND, 51)), Step::New);
        let mut other = read(9 * SECOND, 50);
        other.fd_state = file(8);
        assert_eq!(track.step(&other), Step::New, "another connection under the same number");
    }

    #[test]
    fn polls_of_a_connection_are_looked_up_to_know() {
        let mut track = Track::new(&poll(SECOND));
        track.looked(&poll(SECOND), &resolved(50, None), Class::Reply, SECOND);
        assert_eq!(track.step(&poll(2 * SECOND)), Step::Unsure);
        assert!(track.nothing_moved(&resolved(50, None)));
        assert!(!track.nothing_moved(&resolved(51, None)));
        assert_eq!(track.received(&file(7), &SocketFacts::Tcp(facts(100, 51))), 1);
        assert_eq!(track.received(&file(8), &SocketFacts::Tcp(facts(100, 51))), 0);
    }

    #[test]
    fn polls_of_anything_else_go_on_after_their_time_out() {
        let mut track = Track::new(&poll(SECOND));
        let mut pipe = on("poll", crate::resolve::target::Target::Pipe { inode: 7 });
        pipe.timeout = Some(Duration::from_secs(1));
        track.looked(&poll(SECOND), &pipe, Class::Pipe, SECOND);
        assert_eq!(track.step(&poll(2 * SECOND + 1)), Step::GoesOn);
        assert_eq!(track.step(&poll(SECOND + 300_000_000)), Step::New, "it was woken before its time");
    }

    #[test]
    fn a_signal_or_a_stop_lets_the_same_call_go_on() {
        let mut tracks = Tracks::default();
        let first = Wait { socket: SocketFacts::None, ..read(SECOND, 0) };
        tracks.insert(&first);
        assert!(!tracks.ended(&event(SECOND, 5, THREAD_SIGNALLED)));
        let track = tracks.get_mut(&first.thread).expect("is followed");
        let again = |at| Wait { socket: SocketFacts::None, ..read(at, 0) };
        assert_eq!(track.step(&again(2 * SECOND)), Step::GoesOn);
        track.go_on(2 * SECOND);
        // The kernel reports long sleeps only: a short one after the first ends without an event.
        assert_eq!(track.step(&again(3 * SECOND)), Step::GoesOn);
        let other = Wait { socket: SocketFacts::None, ..wait("write", [1, 0, 0, 0, 0, 0]) };
        assert_eq!(track.step(&Wait { sleep_began_ns: 9, ..other }), Step::New);
        let mut held = Track::new(&again(SECOND));
        assert_eq!(held.step(&again(2 * SECOND)), Step::New);
        held.hold();
        assert_eq!(held.step(&again(2 * SECOND)), Step::GoesOn);
        assert!((0..3).all(|_| held.may_go_on()), "it may wait for a CPU");
        assert!(!held.may_go_on(), "not for ever");
    }

    #[test]
    fn a_byte_ends_a_wait_that_was_interrupted_too() {
        let mut track = Track::new(&read(SECOND, 0));
        track.hold();
        assert_eq!(track.step(&read(2 * SECOND, 0)), Step::GoesOn);
        track.go_on(2 * SECOND);
        assert_eq!(track.step(&read(3 * SECOND, 0)), Step::GoesOn);
        assert_eq!(track.step(&read(3 * SECOND, 1)), Step::New);
    }

    #[test]
    fn the_kernels_own_end_is_the_end() {
        let mut tracks = Tracks::default();
        tracks.insert(&read(SECOND, 0));
        assert!(!tracks.ended(&event(SECOND - 1, 5, 0)), "an earlier sleep");
        let thread = read(SECOND, 0).thread;
        assert_eq!(tracks.get(&thread).map(|track| track.end_ns(99)), Some(99));
        let mut other = event(SECOND, 5, 0);
        other.thread_start_ns += 1;
        assert!(!tracks.ended(&other), "a reused id is another thread");
        assert!(tracks.ended(&event(SECOND, 5, THREAD_EXITING)));
        assert_eq!(tracks.get(&thread).map(|track| track.end_ns(99)), Some(SECOND + 5));
    }
}
