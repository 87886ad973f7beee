//! From sleep to sleep: which of them are one wait? Pure: values in, decisions out.
//!
//! A thread that wakes and waits again for the same thing, with nothing moved in between, has waited all the time: a
//! poll with a time-out made again and again, a call that a signal, a stop or the freezer interrupted, a connection that it
//! comes back to after a sleep or a look elsewhere.

use std::time::Duration;

use super::{
    closing,
    tries::{self, Service},
};
use crate::{
    assess::client::Client,
    assess::pipeline::Assessment,
    config::Config,
    diagnose::progress::{STAMPS_DIFFER_NS, moved_ns},
    diagnose::verdict::classify,
    model::baseline::Excuse,
    model::class::{Class, Judgement},
    model::syscalls::{Direction, Syscall},
    model::tcp::{LastSender, ProgressCounters},
    model::wait::{EndedSleep, FdState, SocketFacts, Wait},
    resolve::{Resolved, Resolver},
};

/// How much sooner than its time-out a call may come back: the kernel rounds up, our clocks are read apart.
const TIMEOUT_SLACK: Duration = Duration::from_millis(5);

/// In how many looks in a row whoever has a lock may be at work before those behind are flagged: it is passed on in a moment, but on a
/// machine that is overloaded whose turn it is may want for a CPU.
const PUT_OFF_MAX: u8 = 2;

/// What is remembered of the wait that a thread is in.
#[derive(Clone, Debug)]
pub struct Track {
    syscall: Syscall,
    args: [u64; 6],
    /// Start of the wait: of its first sleep, or earlier by the connection's own stamps.
    pub began_ns: u64,
    /// Start of the latest sleep.
    pub sleep_began_ns: u64,
    /// Class at the last look.
    pub judgement: Judgement,
    /// When it was last looked at, `None` for never.
    pub looked_ns: Option<u64>,
    /// The other end was looked up at the last look.
    pub peers_resolved: bool,
    /// A rule or its baseline keeps it from being flagged until it is this old: until then it is not asked about again.
    pub suppressed_until: Duration,
    /// Its baseline, if that is what keeps it from being flagged.
    pub excuse: Option<Excuse>,
    /// Its stall is open.
    pub is_flagged: bool,
    /// How often in a row it could have been flagged, but for a lock whose holder was at work.
    unsettled_looks: u8,
    /// It is about the end of the thread itself.
    pub is_leaving: bool,
    /// Since when its thread has been elsewhere, if that is back only perhaps, nanoseconds of `CLOCK_MONOTONIC`.
    pub away_since_ns: Option<u64>,
    /// Inode of the one fd it waits on, if it is known.
    pub inode: Option<u64>,
    /// That fd.
    pub fd: Option<i32>,
    /// It was found in a set the call watches.
    set: bool,
    /// Number of the snapshot that last showed it.
    pub seen: u64,
    /// Who asks there, if its length may be a sample for a baseline.
    pub client: Option<Client>,
    /// Progress of that fd's connection.
    pub progress: Option<ProgressCounters>,
    /// Processes any of which could end it, if there are several, by the last look at its peers.
    pub ends: Box<[u32]>,
    /// Whom it asks, if nothing has come back: its thread may give up and try again.
    pub tried: Option<Service>,
    timeout: Option<Duration>,
    /// Who spoke last on the connection, and the progress and bytes sent when that was seen.
    last_sender: Option<(LastSender, ProgressCounters, u64)>,
    /// When the sleep ended as the kernel saw it, nanoseconds of `CLOCK_MONOTONIC`.
    end_ns: Option<u64>,
    /// A signal woke it, or it is held: the same call may go on.
    interrupted: bool,
    /// That has happened before in this wait.
    interrupted_before: bool,
    /// When the call began whose sleep this is, or goes on, nanoseconds of `CLOCK_MONOTONIC`: what is left of one that was
    /// interrupted ends when all of its time-out has passed.
    call_began_ns: u64,
    /// Snapshots in a row that did not show it waiting.
    ran: u8,
}

/// What has moved on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing.
    Unmoved,
    /// Bytes came.
    Received,
    /// Something else, or that is not to be seen.
    Unknown,
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
        let (inode, progress) = seen(&wait.fd_state, &wait.socket);
        let resolved = Resolver::by_record_alone(wait);
        let class = classify(wait, &resolved);
        Self {
            syscall: wait.call.syscall,
            args: wait.call.args,
            began_ns: wait.began_ns,
            sleep_began_ns: wait.sleep_began_ns,
            judgement: class.into(),
            looked_ns: None,
            peers_resolved: false,
            suppressed_until: Duration::ZERO,
            excuse: None,
            is_flagged: false,
            unsettled_looks: 0,
            is_leaving: wait.is_leaving(),
            away_since_ns: None,
            inode,
            fd: wait.fd,
            set: false,
            seen: 0,
            client: None,
            progress,
            ends: Box::default(),
            tried: Service::tried_by(&resolved, class),
            timeout: wait.socket.timeout(wait.call.direction() != Some(Direction::Receive)),
            last_sender: None,
            end_ns: None,
            interrupted: false,
            interrupted_before: false,
            call_began_ns: wait.sleep_began_ns,
            ran: 0,
        }
    }

    /// Whether it is the same call again, whatever its time-out.
    pub fn same_call(&self, wait: &Wait) -> bool {
        let sets = Some(self.syscall).filter(|syscall| syscall.operation().watches_fds());
        let timeout = sets.and_then(Syscall::timeout).map(|(at, _)| at);
        let same = |at: usize| timeout == Some(at) || self.args[at] == wait.call.args[at];
        self.syscall == wait.call.syscall && (0..self.args.len()).all(same)
    }

    /// What a sleep is to this track; changes nothing.
    pub fn step(&self, wait: &Wait) -> Step {
        if wait.sleep_began_ns == self.sleep_began_ns {
            return Step::Same;
        }
        let (inode, progress) = seen(&wait.fd_state, &wait.socket);
        match (self.progress, progress) {
            // Whatever the call, and whatever came between: a byte that has moved ends it.
            (Some(before), Some(now)) => {
                return if before == now && inode == self.inode { Step::GoesOn } else { Step::New };
            }
            (Some(_), None) => {
                let set = wait.call.watches_fds();
                let may_be_it = self.same_call(wait) || set && self.looked_ns.is_some();
                return if may_be_it { Step::Unsure } else { Step::New };
            }
            (None, _) => {}
        }
        if !self.same_call(wait) {
            return Step::New;
        }
        if self.interrupted || self.interrupted_before {
            return Step::GoesOn;
        }
        let apart = Duration::from_nanos(wait.sleep_began_ns.saturating_sub(self.call_began_ns));
        match self.timeout {
            Some(timeout) if !timeout.is_zero() && apart + TIMEOUT_SLACK >= timeout => Step::GoesOn,
            _ => Step::New,
        }
    }

    /// What has moved on the connection since it was last looked at, by what its fd is now.
    pub fn progress(&self, file: &FdState, socket: &SocketFacts) -> Progress {
        match (self.progress, seen(file, socket)) {
            (Some(before), (inode, Some(now))) if inode == self.inode => match now.received_since(&before) {
                0 if now == before => Progress::Unmoved,
                0 => Progress::Unknown,
                _ => Progress::Received,
            },
            _ => Progress::Unknown,
        }
    }

    /// Another sleep of the same wait.
    pub fn go_on(&mut self, wait: &Wait) {
        let interrupted = std::mem::take(&mut self.interrupted);
        self.interrupted_before |= interrupted;
        if !interrupted {
            self.call_began_ns = wait.sleep_began_ns;
        }
        (self.syscall, self.args) = (wait.call.syscall, wait.call.args);
        self.timeout = wait.call.timeout_in_arguments().or(self.timeout);
        self.sleep_began_ns = wait.sleep_began_ns;
        self.ran = 0;
        self.end_ns = None;
        self.away_since_ns = None;
    }

    /// The same wait goes on in another call, maybe another thread's.
    pub fn begin_anew(&mut self, wait: &Wait) {
        (self.interrupted, self.interrupted_before) = (false, false);
        self.go_on(wait);
        (self.inode, self.progress) = seen(&wait.fd_state, &wait.socket);
        (self.fd, self.looked_ns) = (wait.fd, None);
    }

    /// Something has moved on the one connection that it waits on, though it may have slept: since then it waits for what it waits for
    /// now. False: nothing has moved, or that is not to be seen.
    pub fn begin_after(&mut self, wait: &Wait, resolved: &Resolved) -> bool {
        let moved_ns = moved_ns(wait, resolved, wait.seen_ns()).filter(|_| !self.is_flagged);
        let has_moved = moved_ns.is_some_and(|moved_ns| moved_ns > self.began_ns + STAMPS_DIFFER_NS);
        if has_moved {
            self.began_ns = moved_ns.unwrap_or(self.began_ns);
        }
        has_moved
    }

    /// Takes what was found out about the wait.
    pub fn looked(&mut self, assessment: &Assessment, now_ns: u64) {
        let Assessment { wait, resolved, class } = assessment;
        self.tried = Service::tried_by(resolved, *class);
        (self.inode, self.progress) = seen(&resolved.file, &resolved.socket);
        (self.fd, self.set) = (resolved.fd, wait.fd != resolved.fd);
        self.timeout = resolved.timeout;
        self.client = Client::of(wait, resolved);
        let judgement = assessment.judgement();
        if self.judgement != judgement {
            self.forget_decision();
        }
        self.judgement = judgement;
        self.peers_resolved = resolved.peers.is_some();
        self.ends = closing::ends(assessment);
        self.looked_ns = Some(now_ns);
        self.began_ns = wait.began_ns;
    }

    /// Whether it may have to be flagged at this age: its rules and its baseline are asked only then.
    pub fn may_be_flagged(&self, age: Duration, policy: &Config) -> bool {
        let is_old = || policy.least_of(self.judgement).is_some_and(|least| age >= least);
        self.looked_ns.is_some() && age >= self.suppressed_until && is_old()
    }

    /// Whether it is not to be flagged yet: the lock that it waits for may change hands just now. Asked once for each look.
    pub fn is_put_off(&mut self, resolved: &Resolved) -> bool {
        let unsettled = resolved.peers.as_ref().is_some_and(|peers| peers.unsettled);
        self.unsettled_looks = if unsettled { self.unsettled_looks.saturating_add(1) } else { 0 };
        (1..=PUT_OFF_MAX).contains(&self.unsettled_looks)
    }

    /// What kept it from being flagged does not count any more.
    pub fn forget_decision(&mut self) {
        (self.suppressed_until, self.excuse) = (Duration::ZERO, None);
    }

    /// Keeps the first thing known of who spoke last: while no byte moves it stays true, though a keepalive may hide it.
    pub fn remember_last_sender(&mut self, resolved: &mut Resolved) {
        let SocketFacts::Tcp(facts) = &resolved.socket else { return };
        let (Some(progress), Some(activity)) = (ProgressCounters::of(facts), &facts.activity) else { return };
        let sent = activity.bytes_sent_once();
        match self.last_sender {
            Some((sender, at, before))
                if at == progress && before == sent && sender != LastSender::Unknown =>
            {
                resolved.last_sender = Some(sender);
            }
            _ => self.last_sender = resolved.last_sender.map(|sender| (sender, progress, sent)),
        }
    }

    /// Whether its last call ran to its own time-out, if its sleep ended then or when the kernel said.
    pub fn has_timed_out(&self, ended_ns: u64) -> bool {
        let ended_ns = self.end_ns.unwrap_or(ended_ns);
        let lasted = Duration::from_nanos(ended_ns.saturating_sub(self.call_began_ns));
        self.timeout.is_some_and(|timeout| !timeout.is_zero() && lasted + TIMEOUT_SLACK >= timeout)
    }

    /// When its last sleep ended: by the kernel's word, else with its time-out, or then.
    pub fn ended_ns(&self, until_ns: u64) -> u64 {
        let timeout_ns = self.timeout.map_or(u64::MAX, |timeout| timeout.as_nanos() as u64);
        self.end_ns.unwrap_or(until_ns.min(self.call_began_ns.saturating_add(timeout_ns)))
    }

    /// Its last sleep, if the kernel has said when it ended.
    pub fn slept(&self) -> Option<(u64, u64)> {
        self.end_ns.map(|end_ns| (self.sleep_began_ns, end_ns))
    }

    /// Whether a wait that was looked up is the next try at the same, by the same thread: nothing else can have come in between.
    pub fn is_tried_again_by(&self, next: &Assessment) -> bool {
        let service = Service::tried_by(&next.resolved, next.class);
        let began_ns = next.wait.began_ns;
        // Who connects has no time-out, mostly, and would use a connection before making the next.
        self.tried.is_some()
            && self.tried == service
            && self.inode != next.resolved.file.inode()
            && tries::at_once(self.ended_ns(began_ns), began_ns)
            && (self.judgement.class == Class::Connect || self.has_timed_out(began_ns))
    }

    /// How long it has lasted, by the kernel's word or else until then.
    pub fn lasted(&self, until_ns: u64) -> Duration {
        Duration::from_nanos(self.end_ns.unwrap_or(until_ns).saturating_sub(self.began_ns))
    }

    /// A sleep of its thread has ended, as the kernel saw it. True if the thread is exiting.
    pub fn ended(&mut self, sleep: &EndedSleep) -> bool {
        // A later sleep than the one seen may have come and gone between two snapshots.
        if sleep.began_ns < self.sleep_began_ns {
            return false;
        }
        // The first end counts: later sleeps are another wait's until a snapshot says otherwise.
        if sleep.began_ns == self.sleep_began_ns {
            self.end_ns = Some(sleep.ended_ns);
            match sleep.signalled {
                true => self.interrupted |= !sleep.exiting,
                // What it slept for has come: the call that was interrupted once is over.
                false => (self.interrupted, self.interrupted_before) = (false, false),
            }
        }
        sleep.exiting
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
fn seen(file: &FdState, socket: &SocketFacts) -> (Option<u64>, Option<ProgressCounters>) {
    let progress = match socket {
        SocketFacts::Tcp(facts) => ProgressCounters::of(facts),
        SocketFacts::Unix(_) | SocketFacts::Udp(_) | SocketFacts::None => None,
    };
    (file.inode(), progress)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::verdict::tests::{on, tcp, wait},
        model::target::Target,
        model::tcp::tests::facts,
        resolve::peers::Peers,
    };

    const SECOND: u64 = 1_000_000_000;

    fn file(inode: u64) -> FdState {
        FdState::Open(crate::model::file::tests::file(inode, crate::model::file::FileKind::Anonymous))
    }

    /// A read on a connection with so many bytes received.
    fn read(sleep_began_ns: u64, received: u64) -> Wait {
        Wait {
            began_ns: sleep_began_ns,
            sleep_began_ns,
            fd_state: file(7),
            socket: SocketFacts::Tcp(Box::new(facts(100, received))),
            ..wait(Syscall::Read, [3, 0, 0, 0, 0, 0])
        }
    }

    fn poll(sleep_began_ns: u64) -> Wait {
        Wait {
            began_ns: sleep_began_ns,
            sleep_began_ns,
            fd: None,
            ..wait(Syscall::Poll, [0xabc, 1, 1000, 0, 0, 0])
        }
    }

    fn resolved(received: u64, timeout: Option<Duration>) -> Resolved {
        let mut resolved = on(Syscall::Poll, tcp());
        (resolved.file, resolved.socket) = (file(7), SocketFacts::Tcp(Box::new(facts(100, received))));
        resolved.timeout = timeout;
        resolved
    }

    fn looked(wait: Wait, resolved: Resolved, class: Class) -> Track {
        let mut track = Track::new(&wait);
        track.looked(&Assessment { wait, resolved, class }, SECOND);
        track
    }

    /// The end of a sleep that nothing else is said of.
    fn ended(began_ns: u64, lasted_ns: u64) -> EndedSleep {
        let thread = read(began_ns, 0).thread;
        EndedSleep { thread, began_ns, ended_ns: began_ns + lasted_ns, exiting: false, signalled: false }
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

    /// It has a timer, and a connection on which it asked four seconds ago; an answer to something before came a second earlier.
    #[test]
    fn an_event_loop_that_asks_has_not_waited_since_it_rests() {
        let mut track = looked(poll(SECOND), on(Syscall::Poll, Target::Epoll { watched: 2 }), Class::Events);
        (2..100).for_each(|second| track.go_on(&poll(second * SECOND)));
        assert_eq!(track.began_ns, SECOND);
        let mut waits = resolved(0, None);
        waits.direction = Some(Direction::Receive);
        let now = Wait { age: Duration::from_secs(1), ..poll(99 * SECOND) };
        track.begin_after(&now, &waits);
        assert_eq!(track.began_ns, SECOND, "nothing ever came: it may be a try of many");
        let ago = |seconds| Some(Duration::from_secs(seconds));
        let asked = facts(100, 50).with_activity(|of| (of.sent, of.received) = (ago(4), ago(5)));
        waits.socket = SocketFacts::Tcp(Box::new(asked));
        track.begin_after(&now, &waits);
        assert_eq!(track.began_ns, 96 * SECOND);
    }

    #[test]
    fn polls_of_a_connection_are_looked_up_to_know() {
        let track = looked(poll(SECOND), resolved(50, None), Class::Reply);
        assert_eq!(track.step(&poll(2 * SECOND)), Step::Unsure);
        for (inode, socket, progress) in [
            (7, SocketFacts::Tcp(Box::new(facts(100, 50))), Progress::Unmoved),
            (7, SocketFacts::Tcp(Box::new(facts(100, 51))), Progress::Received),
            (7, SocketFacts::Tcp(Box::new(facts(101, 50))), Progress::Unknown),
            (8, SocketFacts::Tcp(Box::new(facts(100, 50))), Progress::Unknown),
            (8, SocketFacts::Tcp(Box::new(facts(100, 51))), Progress::Unknown),
            (7, SocketFacts::None, Progress::Unknown),
        ] {
            assert_eq!(track.progress(&file(inode), &socket), progress, "{inode} {socket:?}");
        }
    }

    #[test]
    fn polls_of_anything_else_go_on_after_their_time_out() {
        let mut pipe = on(Syscall::Poll, crate::model::target::Target::Pipe { inode: 7 });
        pipe.timeout = Some(Duration::from_secs(1));
        let track = looked(poll(SECOND), pipe, Class::Pipe);
        assert_eq!(track.step(&poll(2 * SECOND + 1)), Step::GoesOn);
        assert_eq!(track.step(&poll(SECOND + 300_000_000)), Step::New, "it was woken before its time");
    }

    #[test]
    fn another_time_out_or_another_call_is_the_same_wait_where_nothing_moved() {
        let other =
            |syscall, args, at| Wait { began_ns: at, sleep_began_ns: at, fd: None, ..wait(syscall, args) };
        let track = looked(read(SECOND, 50), resolved(50, None), Class::Reply);
        assert_eq!(track.step(&other(Syscall::Poll, [0xabc, 1, 700, 0, 0, 0], 2 * SECOND)), Step::Unsure);
        assert_eq!(track.step(&other(Syscall::EpollWait, [5, 0xdef, 9, 20, 0, 0], 2 * SECOND)), Step::Unsure);
        assert_eq!(track.step(&other(Syscall::Nanosleep, [0; 6], 2 * SECOND)), Step::New);
        let recv = Wait {
            fd_state: file(7),
            socket: SocketFacts::Tcp(Box::new(facts(100, 50))),
            ..other(Syscall::Recvfrom, [3, 9, 8, 0, 0, 0], 2 * SECOND)
        };
        assert_eq!(track.step(&recv), Step::GoesOn);
        // Where there are no counters, the call must be the same and have run to its end, whose length may change.
        let mut unix = on(Syscall::Poll, crate::model::target::Target::Pipe { inode: 7 });
        unix.timeout = Some(Duration::from_millis(1000));
        let mut track = looked(poll(SECOND), unix, Class::Pipe);
        let shorter = other(Syscall::Poll, [0xabc, 1, 700, 0, 0, 0], 2 * SECOND);
        assert_eq!(track.step(&shorter), Step::GoesOn);
        track.go_on(&shorter);
        assert_eq!(track.step(&poll(2 * SECOND + 710_000_000)), Step::GoesOn);
        assert_eq!(track.step(&poll(2 * SECOND + 600_000_000)), Step::New, "it was woken before its time");
    }

    #[test]
    fn a_signal_or_a_stop_lets_the_same_call_go_on() {
        let mut track = Track::new(&Wait { socket: SocketFacts::None, ..read(SECOND, 0) });
        assert!(!track.ended(&EndedSleep { signalled: true, ..ended(SECOND, 5) }));
        let again = |at| Wait { socket: SocketFacts::None, ..read(at, 0) };
        assert_eq!(track.step(&again(2 * SECOND)), Step::GoesOn);
        track.go_on(&again(2 * SECOND));
        // The kernel reports long sleeps only: a short one after the first ends without an event.
        assert_eq!(track.step(&again(3 * SECOND)), Step::GoesOn);
        let other = Wait { socket: SocketFacts::None, ..wait(Syscall::Write, [1, 0, 0, 0, 0, 0]) };
        assert_eq!(track.step(&Wait { sleep_began_ns: 9, ..other }), Step::New);
        let mut held = Track::new(&again(SECOND));
        assert_eq!(held.step(&again(2 * SECOND)), Step::New);
        held.hold();
        assert_eq!(held.step(&again(2 * SECOND)), Step::GoesOn);
        assert!((0..3).all(|_| held.may_go_on()), "it may wait for a CPU");
        assert!(!held.may_go_on(), "not for ever");
    }

    #[test]
    fn an_end_of_its_own_ends_a_call_that_was_interrupted_before() {
        let sleep = |at| Wait { socket: SocketFacts::None, ..read(at, 0) };
        let mut track = Track::new(&sleep(SECOND));
        track.ended(&EndedSleep { signalled: true, ..ended(SECOND, 5) });
        track.go_on(&sleep(2 * SECOND));
        track.ended(&ended(2 * SECOND, 5));
        assert_eq!(track.step(&sleep(3 * SECOND)), Step::New);
    }

    /// A poll is interrupted, goes on, and comes back when its time is over: the next one is the same stall.
    #[test]
    fn the_rest_of_an_interrupted_call_ends_by_its_own_timeout() {
        let after = |end: u64| {
            let sleep = |at| {
                let mut wait = Wait { socket: SocketFacts::None, ..read(at, 0) };
                (wait.call.syscall, wait.call.args) = (Syscall::Poll, [0x7000, 1, 30_000, 0, 0, 0]);
                wait
            };
            let mut track = Track::new(&sleep(SECOND));
            track.timeout = Some(Duration::from_secs(30));
            track.ended(&EndedSleep { signalled: true, ..ended(SECOND, 20) });
            let rest = sleep(21 * SECOND);
            assert_eq!(track.step(&rest), Step::GoesOn);
            track.go_on(&rest);
            track.ended(&ended(21 * SECOND, end - 21));
            track.step(&sleep(end * SECOND))
        };
        assert_eq!(after(31), Step::GoesOn);
        assert_eq!(after(25), Step::New, "something came");
    }

    #[test]
    fn a_byte_ends_a_wait_that_was_interrupted_too() {
        let mut track = Track::new(&read(SECOND, 0));
        track.hold();
        assert_eq!(track.step(&read(2 * SECOND, 0)), Step::GoesOn);
        track.go_on(&read(2 * SECOND, 0));
        assert_eq!(track.step(&read(3 * SECOND, 0)), Step::GoesOn);
        assert_eq!(track.step(&read(3 * SECOND, 1)), Step::New);
    }

    #[test]
    fn the_kernels_own_end_is_the_end() {
        let mut track = Track::new(&read(SECOND, 0));
        assert!(!track.ended(&ended(SECOND - 1, 5)), "an earlier sleep");
        assert_eq!(track.lasted(3 * SECOND), Duration::from_secs(2));
        assert!(track.ended(&EndedSleep { exiting: true, ..ended(SECOND, 5) }));
        assert_eq!(track.lasted(3 * SECOND), Duration::from_nanos(5));
    }

    /// Two looks in a row, and not for ever.
    #[test]
    fn a_lock_whose_holder_is_at_work_is_put_off() {
        let of = |unsettled| Resolved {
            peers: Some(Peers { unsettled, ..Peers::default() }),
            ..on(Syscall::Flock, Target::None)
        };
        let mut track = Track::new(&wait(Syscall::Flock, [3, 0, 0, 0, 0, 0]));
        let looks = [true, true, true, true, false, true, false];
        let put_off = looks.map(|unsettled| track.is_put_off(&of(unsettled)));
        assert_eq!(put_off, [true, true, false, false, false, true, false]);
        assert!(!track.is_put_off(&on(Syscall::Flock, Target::None)), "nothing is known of who has it");
    }
}
