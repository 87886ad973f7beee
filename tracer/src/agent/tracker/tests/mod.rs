//! The tracker against a world that is made up: threads that read, poll, sleep elsewhere, run, are held and end, on connections on
//! which bytes come or not.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::{
    agent::baselines::SAMPLE_MIN,
    agent::open_stalls::Opening,
    assess::pipeline::{Assessment, PeerPolicy, Resolution},
    config::Config,
    diagnose::verdict::{
        classify,
        tests::{on, tcp, wait},
    },
    model::file::{FileKind, tests::file},
    model::syscalls::Syscall,
    model::target::Target,
    model::tcp::tests::facts,
    model::wait::{
        EndedSleep, FdState, ProcessId, SeenFd, Snapshot, SocketFacts, Suspended, SuspendedThread,
    },
    resolve::{Resolved, Resolver, peers::Peers},
    util::clock::Now,
};

const SECOND: u64 = 1_000_000_000;
/// That of a reply.
const THRESHOLD: Duration = Duration::from_secs(30);
/// How long a thread may be elsewhere.
const AWAY_MAX: u64 = 60 * SECOND;
/// Within how many ticks it is noticed that a thread is elsewhere: one that a signal woke may run for three.
const NOTICED_WITHIN: u64 = 5 * TICK_MAX * SECOND;
/// The longest tick, seconds.
const TICK_MAX: u64 = 15;
/// The descriptor of every thread's connection.
const FD: i32 = 3;
/// That of another one.
const OTHER_FD: i32 = 4;

/// What a thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// It reads its connection.
    Reads,
    /// It polls it.
    Polls,
    /// It sleeps for a while.
    Naps,
    /// It runs.
    Runs,
    /// It is stopped in a read.
    Held,
    /// It is on its way out.
    Leaves,
    /// It polls another connection.
    PollsAnother,
}

/// What happens to a thread before a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// Nothing.
    Stay,
    /// It begins to do something, as far as it does something else; a read or a poll it begins anew.
    Begin(Doing),
    /// It gets an answer, and goes on as before.
    Answer,
    /// It ends, and another one comes that has its ids.
    End,
}

/// A thread with its connection, and the truth about both.
#[derive(Clone, Debug)]
struct Thread {
    id: ThreadId,
    /// The inode of its connection's socket.
    inode: u64,
    /// It is none, but a pipe.
    is_pipe: bool,
    /// It writes to it, where it reads otherwise.
    writes: bool,
    /// What its connection looks like, where that is not a connection.
    target: Option<Target>,
    doing: Doing,
    sleep_began_ns: u64,
    received: u64,
    /// Bytes that came on the other connection.
    other_received: u64,
    /// Since when nothing has moved while it was there.
    silent_since_ns: u64,
    /// Since when it has done nothing but read, with nothing moved; `None` for one that does something else.
    reads_since_ns: Option<u64>,
    /// When it was last known to be at its connection, or held there.
    seen_at_connection_ns: u64,
    answers: u64,
}

impl Thread {
    fn new(pid: u32, born_ns: u64) -> Self {
        let process = ProcessId { pid, start_ns: born_ns };
        Self {
            id: ThreadId { process, tid: pid, start_ns: born_ns },
            inode: pid.into(),
            is_pipe: false,
            writes: false,
            target: None,
            doing: Doing::Reads,
            sleep_began_ns: born_ns,
            received: 0,
            other_received: 0,
            silent_since_ns: born_ns,
            reads_since_ns: Some(born_ns),
            seen_at_connection_ns: born_ns,
            answers: 0,
        }
    }

    /// What one of its descriptors is.
    fn seen(&self, fd: i32) -> Option<SeenFd> {
        let (state, socket) = match fd {
            FD => (self.file(), self.socket()),
            OTHER_FD => {
                let inode = self.inode + 1_000_000;
                let socket = SocketFacts::Tcp(Box::new(facts(100, self.other_received)));
                (FdState::Open(file(inode, FileKind::Socket)), socket)
            }
            _ => return None,
        };
        Some(SeenFd { thread: self.id, fd, state, socket, flow: None })
    }

    fn file(&self) -> FdState {
        FdState::Open(file(self.inode, FileKind::Socket))
    }

    fn socket(&self) -> SocketFacts {
        match self.is_pipe {
            true => SocketFacts::None,
            false => SocketFacts::Tcp(Box::new(facts(100, self.received))),
        }
    }

    fn begin(&mut self, doing: Doing, now_ns: u64) {
        self.doing = doing;
        self.sleep_began_ns = now_ns;
        self.reads_since_ns = match doing {
            Doing::Reads => self.reads_since_ns.or(Some(now_ns)),
            _ => None,
        };
    }

    fn answer(&mut self, now_ns: u64) {
        self.received += 1;
        self.answers += 1;
        self.silent_since_ns = now_ns;
        self.reads_since_ns = self.reads_since_ns.map(|_| now_ns);
        if matches!(self.doing, Doing::Reads | Doing::Polls) {
            self.sleep_began_ns = now_ns;
        }
    }

    /// Its wait in a snapshot, if it waits.
    fn wait(&self, now_ns: u64) -> Option<Wait> {
        let at_connection = |syscall| Wait {
            fd_state: self.file(),
            socket: self.socket(),
            ..wait(syscall, [3, 0, 0, 0, 0, 0])
        };
        let wait = match self.doing {
            Doing::Reads => at_connection(Syscall::Read),
            Doing::Polls => Wait { fd: None, ..wait(Syscall::Poll, [0xabc, 1, 1000, 0, 0, 0]) },
            Doing::PollsAnother => Wait { fd: None, ..wait(Syscall::Poll, [0xdef, 1, 1000, 0, 0, 0]) },
            Doing::Naps => Wait { fd: None, ..wait(Syscall::Nanosleep, [0; 6]) },
            Doing::Leaves => {
                let mut wait = Wait { fd: None, ..wait(Syscall::Exit, [0; 6]) };
                wait.call.number = None;
                wait
            }
            Doing::Runs | Doing::Held => return None,
        };
        let age = Duration::from_nanos(now_ns - self.sleep_began_ns);
        let (began_ns, sleep_began_ns) = (self.sleep_began_ns, self.sleep_began_ns);
        Some(Wait { thread: self.id, age, began_ns, sleep_began_ns, ..wait })
    }

    /// The end of its sleep, of which nothing else is said.
    fn end(&self, now_ns: u64) -> EndedSleep {
        let (thread, began_ns) = (self.id, self.sleep_began_ns);
        EndedSleep { thread, began_ns, ended_ns: now_ns, exiting: false, signalled: false }
    }
}

/// What a look finds out about a wait.
fn look(wait: Wait, thread: &Thread) -> Assessment {
    let fd = match thread.doing {
        Doing::Reads | Doing::Polls => FD,
        Doing::PollsAnother => OTHER_FD,
        _ => -1,
    };
    let resolved = match thread.seen(fd) {
        Some(SeenFd { state: file, socket, .. }) => {
            let syscall = if thread.writes { Syscall::Write } else { Syscall::Read };
            Resolved { fd: Some(fd), file, socket, ..on(syscall, thread.target.clone().unwrap_or_else(tcp)) }
        }
        None => Resolver::by_record_alone(&wait),
    };
    let class = classify(&wait, &resolved);
    Assessment { wait, resolved, class }
}

/// What has happened in a tick.
#[derive(Debug, Default)]
struct Told {
    requests: Vec<ThreadId>,
    due: Vec<ThreadId>,
    opened: Vec<ThreadId>,
    closed: Vec<Closed>,
    answers: Vec<Answer>,
}

struct World {
    tracker: Tracker,
    policy: Config,
    terms: Terms,
    now_ns: u64,
    threads: Vec<Thread>,
}

impl World {
    fn new(threads: u32) -> Self {
        let now_ns = 1000 * SECOND;
        let threads = (1..=threads).map(|pid| Thread::new(pid, now_ns)).collect();
        let terms = Terms { threshold: Some(THRESHOLD), ..Terms::default() };
        Self { tracker: Tracker::default(), policy: Config::default(), terms, now_ns, threads }
    }

    fn of(&self, id: ThreadId) -> Option<&Thread> {
        self.threads.iter().find(|thread| thread.id == id)
    }

    /// Lets something happen, and says whether the kernel tells of the sleep that it ends.
    fn act(&mut self, at: usize, act: Act, is_told: bool) -> Option<Closed> {
        let now_ns = self.now_ns;
        let thread = &mut self.threads[at];
        let before = thread.clone();
        let sleep = match act {
            Act::Stay => return None,
            Act::Begin(doing) => {
                let again = matches!(doing, Doing::Reads | Doing::Polls | Doing::Leaves);
                // Only who reads is stopped.
                if doing == thread.doing && !again || doing == Doing::Held && thread.doing != Doing::Reads {
                    return None;
                }
                let interrupted =
                    doing == Doing::Held || (doing, thread.doing) == (Doing::Reads, Doing::Reads);
                thread.begin(doing, now_ns);
                EndedSleep { signalled: interrupted, ..before.end(now_ns) }
            }
            Act::Answer => {
                thread.answer(now_ns);
                if !matches!(thread.doing, Doing::Reads | Doing::Polls) {
                    return None;
                }
                before.end(now_ns)
            }
            Act::End => {
                *thread = Thread::new(thread.id.process.pid, now_ns);
                EndedSleep { exiting: true, ..before.end(now_ns) }
            }
        };
        let sleeps = !matches!(before.doing, Doing::Runs | Doing::Held);
        (is_told && sleeps).then(|| self.tracker.ended(&sleep)).flatten()
    }

    fn snapshot(&self) -> Snapshot {
        let now = Now { wall: Timestamp::UNIX_EPOCH, monotonic_ns: self.now_ns };
        let mut snapshot = Snapshot::empty(&now, "bpf");
        snapshot.waits = self.threads.iter().filter_map(|thread| thread.wait(self.now_ns)).collect();
        let held = self.threads.iter().filter(|thread| thread.doing == Doing::Held);
        snapshot.suspended = held
            .map(|thread| SuspendedThread { thread: thread.id, by: Suspended::Stopped, signal: None })
            .collect();
        snapshot
    }

    /// A tick of the agent's loop; threads that are `missed` are not reached by the look.
    fn tick(&mut self, missed: &[bool]) -> Told {
        let now_ns = self.now_ns;
        let mut snapshot = self.snapshot();
        let mut looked = Resolution::default();
        let mut told = Told::default();
        for wait in self.tracker.observe(&snapshot, &self.policy) {
            told.requests.push(wait.thread);
            let at = self.threads.iter().position(|thread| thread.id == wait.thread).expect("it waits");
            match missed.get(at) {
                Some(true) => looked.missed.push(wait),
                _ => looked.assessments.push(look(wait, &self.threads[at])),
            }
        }
        let departures = self.tracker.apply(&mut snapshot, &mut looked);
        let seen = departures.connections().iter().filter_map(|(id, fd)| self.of(*id)?.seen(*fd));
        let alive = departures.absent().iter().filter(|id| self.of(**id).is_some()).copied();
        let evidence = Evidence { connections: seen.collect(), alive: alive.collect() };
        for transition in self.tracker.settle(departures, &evidence) {
            match transition {
                Transition::Closed(closed) => told.closed.push(*closed),
                Transition::Answered(answer) => told.answers.push(answer),
            }
        }
        for assessment in &mut looked.assessments {
            if self.tracker.peer_policy(&self.policy).needs_peers(assessment) {
                assessment.resolved.peers = Some(Peers::default());
            }
        }
        for assessment in self.tracker.due(looked.assessments, &self.policy, now_ns) {
            told.due.push(assessment.wait.thread);
            assert!(assessment.resolved.peers.is_some(), "{assessment:?}");
            let terms = self.terms.clone();
            let opened = self.tracker.decide(assessment, terms, Arc::default(), Timestamp::UNIX_EPOCH);
            told.opened.extend(opened.map(|opening| match opening {
                Opening::New(stall) | Opening::FoundAgain(stall) => stall.wait.thread,
            }));
        }
        told
    }

    /// A tick after so many seconds, and after something has happened to the first thread.
    fn after(&mut self, seconds: u64, act: Act) -> Told {
        self.now_ns += seconds * SECOND;
        let closed = self.act(0, act, false);
        let mut told = self.tick(&[]);
        told.closed.extend(closed);
        told
    }

    /// With the first thread's stall open.
    fn stalled(threads: u32) -> Self {
        let mut world = Self::new(threads);
        world.after(2, Act::Stay);
        let opened = world.after(30, Act::Stay).opened;
        assert!(opened.contains(&world.threads[0].id), "{opened:?}");
        world
    }
}

/// What the truth says of what was told, tick after tick.
#[derive(Default)]
struct Checks {
    /// Open stalls: when they began, and how many bytes had come then.
    open: HashMap<ThreadId, (u64, u64)>,
    samples: HashMap<u32, u64>,
    answers: HashMap<u32, u64>,
}

impl Checks {
    fn closed(&mut self, closed: &Closed, world: &World) -> Result<(), TestCaseError> {
        let id = closed.stall.wait.thread;
        let (began_ns, received) = self.open.remove(&id).ok_or_else(|| fail("closed, and not open", id))?;
        prop_assert!(closed.lasted >= THRESHOLD, "{:?}", closed.lasted);
        prop_assert!(closed.lasted.as_nanos() as u64 <= world.now_ns - began_ns, "{:?}", closed.lasted);
        let Some(thread) = world.of(id) else {
            prop_assert_eq!(closed.ended, Ended::Exited);
            return Ok(());
        };
        prop_assert_eq!(closed.ended, Ended::Resumed);
        let given_up = world.now_ns - thread.seen_at_connection_ns >= AWAY_MAX;
        prop_assert!(thread.received > received || given_up, "closed, though it goes on: {thread:?}");
        Ok(())
    }

    fn told(&mut self, told: &Told, world: &World) -> Result<(), TestCaseError> {
        for closed in &told.closed {
            self.closed(closed, world)?;
        }
        for id in &told.opened {
            let thread = world.of(*id).ok_or_else(|| fail("opened, and gone", *id))?;
            let stall = &world.tracker.stalls()[id];
            let silent = Duration::from_nanos(world.now_ns - thread.silent_since_ns);
            prop_assert!(
                (THRESHOLD..=silent).contains(&stall.wait.age),
                "{:?} of {silent:?}",
                stall.wait.age
            );
            prop_assert!(matches!(thread.doing, Doing::Reads | Doing::Polls), "{thread:?}");
            let began_ns = world.now_ns - stall.wait.age.as_nanos() as u64;
            let before = self.open.insert(*id, (began_ns, thread.received));
            prop_assert!(before.is_none(), "opened twice: {thread:?}");
        }
        for answer in &told.answers {
            *self.samples.entry(answer.process.pid).or_default() += 1;
            prop_assert!(answer.lasted >= SAMPLE_MIN);
        }
        Ok(())
    }

    fn world(&self, world: &World, missed: &[bool]) -> Result<(), TestCaseError> {
        let open: Vec<ThreadId> = world.tracker.stalls().keys().copied().collect();
        prop_assert!(open.len() == self.open.len() && open.iter().all(|id| self.open.contains_key(id)));
        for (id, (began_ns, received)) in &self.open {
            let age = world.tracker.stalls()[id].wait.age.as_nanos() as u64;
            prop_assert_eq!(age, world.now_ns - began_ns, "it ages with the clock");
            let thread = world.of(*id).ok_or_else(|| fail("open, and gone", *id))?;
            let tells = matches!(thread.doing, Doing::Reads | Doing::Naps);
            prop_assert!(!tells || thread.received == *received, "open, though answered: {thread:?}");
        }
        for (at, thread) in world.threads.iter().enumerate() {
            let elsewhere = matches!(thread.doing, Doing::Naps | Doing::Runs);
            let gone_for = world.now_ns - thread.seen_at_connection_ns;
            let is_over = elsewhere && gone_for > AWAY_MAX + NOTICED_WITHIN;
            prop_assert!(!is_over || !open.contains(&thread.id), "open, and given up: {thread:?}");
            let reads = thread.reads_since_ns.map_or(0, |since_ns| world.now_ns - since_ns);
            let is_due = reads >= THRESHOLD.as_nanos() as u64 && !missed[at];
            prop_assert!(!is_due || open.contains(&thread.id), "not flagged: {thread:?}");
            let pid = thread.id.process.pid;
            let samples = self.samples.get(&pid).copied().unwrap_or(0);
            let answers = self.answers.get(&pid).copied().unwrap_or(0);
            prop_assert!(samples <= answers, "{samples} samples of {answers} answers");
        }
        Ok(())
    }
}

fn fail(what: &str, id: ThreadId) -> TestCaseError {
    TestCaseError::fail(format!("{what}: {id:?}"))
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        12 => Just(Act::Stay),
        4 => Just(Act::Begin(Doing::Reads)),
        3 => Just(Act::Begin(Doing::Polls)),
        2 => Just(Act::Begin(Doing::Naps)),
        1 => Just(Act::Begin(Doing::Runs)),
        1 => Just(Act::Begin(Doing::Held)),
        2 => Just(Act::Answer),
        1 => Just(Act::End),
    ]
}

/// What happens to each of the threads: what, whether the kernel tells of it, and whether the look misses it.
fn acts() -> impl Strategy<Value = (u64, [(Act, bool, bool); 3])> {
    (1..=TICK_MAX, prop::array::uniform3((act(), any::<bool>(), prop::bool::weighted(0.2))))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(1), ..ProptestConfig::with_cases(500) })]
    #[test]
    fn a_stall_opens_once_at_its_threshold_and_closes_once(ticks in prop::collection::vec(acts(), 1..60)) {
        let (mut world, mut checks) = (World::new(3), Checks::default());
        world.tick(&[]);
        for (seconds, acts) in ticks {
            world.now_ns += seconds * SECOND;
            for (at, (act, is_told, _)) in acts.into_iter().enumerate() {
                let pid = world.threads[at].id.process.pid;
                *checks.answers.entry(pid).or_default() += u64::from(act == Act::Answer);
                if let Some(closed) = world.act(at, act, is_told) {
                    checks.closed(&closed, &world)?;
                }
            }
            let missed = acts.map(|(.., is_missed)| is_missed);
            let told = world.tick(&missed);
            checks.told(&told, &world)?;
            checks.world(&world, &missed)?;
            let now_ns = world.now_ns;
            for (thread, is_missed) in world.threads.iter_mut().zip(missed) {
                let is_polled = thread.doing == Doing::Polls && !is_missed;
                if is_polled || matches!(thread.doing, Doing::Reads | Doing::Held) {
                    thread.seen_at_connection_ns = now_ns;
                }
            }
        }
    }
}

/// How a stall ended, and after how many seconds.
fn ends(told: &Told) -> Vec<(Ended, u64)> {
    told.closed.iter().map(|closed| (closed.ended, closed.lasted.as_secs())).collect()
}

#[test]
fn what_is_young_costs_nothing_and_what_is_old_is_looked_up_when_it_is_half_as_old_again() {
    let mut world = World::new(1);
    world.act(0, Act::Begin(Doing::Naps), false);
    let looked_at = |second: &u64| {
        world.now_ns = (1000 + second) * SECOND;
        !world.tick(&[]).requests.is_empty()
    };
    assert_eq!((0..100).filter(looked_at).collect::<Vec<u64>>(), [1, 11, 21, 32, 48, 72]);
}

/// It is looked up once, and again when it may be a stall.
#[test]
fn a_file_keeps_its_name() {
    let mut world = World::new(1);
    let looked_at = |second: &u64| {
        world.now_ns = (1000 + second) * SECOND;
        let mut snapshot = world.snapshot();
        let file = file(1, FileKind::Regular);
        for wait in &mut snapshot.waits {
            (wait.fd_state, wait.socket) = (FdState::Open(file), SocketFacts::None);
        }
        let mut looked = Resolution::default();
        for wait in world.tracker.observe(&snapshot, &world.policy) {
            let resolved = Resolver::by_record_alone(&wait);
            looked.assessments.push(Assessment { resolved, wait, class: Class::Disk });
        }
        let is_looked_at = !looked.assessments.is_empty();
        world.tracker.apply(&mut snapshot, &mut looked);
        world.tracker.due(looked.assessments, &world.policy, world.now_ns);
        is_looked_at
    };
    assert_eq!((0..31).filter(looked_at).collect::<Vec<u64>>(), [1, 30]);
}

#[test]
fn short_polls_of_one_silent_connection_are_one_stall() {
    let mut world = World::new(1);
    let opened = (1..=60).find(|_| !world.after(1, Act::Begin(Doing::Polls)).opened.is_empty());
    assert!(opened.is_some_and(|second| (30..=32).contains(&second)), "{opened:?}");
    let told: Vec<Told> = (0..30).map(|_| world.after(1, Act::Begin(Doing::Polls))).collect();
    assert!(told.iter().all(|told| told.opened.is_empty() && told.closed.is_empty()));
    assert_eq!(ends(&world.after(1, Act::Answer)).len(), 1);
}

/// It is answered while it sleeps elsewhere, and comes back with a call of which has to be looked up what it is about.
#[test]
fn one_hang_is_one_sample() {
    let mut world = World::stalled(1);
    assert!(world.after(5, Act::Begin(Doing::Naps)).closed.is_empty());
    world.threads[0].received += 1;
    let told = world.after(5, Act::Begin(Doing::Polls));
    let lasted: Vec<u64> = told.answers.iter().map(|answer| answer.lasted.as_secs()).collect();
    assert_eq!((ends(&told), lasted), (vec![(Ended::Resumed, 42)], vec![42]));
    let later: Vec<Told> = (0..9).map(|_| world.after(1, Act::Begin(Doing::Polls))).collect();
    assert!(later.iter().all(|told| told.closed.is_empty() && told.answers.is_empty()), "{later:?}");
}

/// As threads that wait on one epoll set: all of them wake.
#[test]
fn one_answer_that_many_waited_for_is_one_sample() {
    let mut world = World::new(3);
    for at in [0, 1] {
        world.threads[at].id.process = ProcessId { pid: 1, start_ns: 1 };
        world.threads[at].inode = 1;
    }
    world.threads[1].begin(Doing::Naps, world.now_ns);
    world.after(4, Act::Stay);
    world.act(1, Act::Begin(Doing::Reads), false);
    world.after(6, Act::Stay);
    world.now_ns += 10 * SECOND;
    for at in 0..3 {
        world.act(at, Act::Answer, false);
    }
    let mut answers = world.tick(&[]).answers;
    answers.sort_by_key(|answer| answer.process);
    let told: Vec<(u32, u64)> =
        answers.iter().map(|answer| (answer.process.pid, answer.lasted.as_secs())).collect();
    assert_eq!(told, [(1, 20), (3, 20)], "the longest of each connection");
}

#[test]
fn a_quick_answer_is_no_sample() {
    let mut world = World::new(1);
    world.after(2, Act::Stay);
    world.after(1, Act::Answer);
    world.now_ns += SECOND / 2;
    let quick = world.after(0, Act::Answer);
    assert!(quick.answers.is_empty(), "{quick:?}");
}

#[test]
fn who_was_elsewhere_comes_back_to_the_same_stall() {
    let mut world = World::stalled(1);
    for _ in 0..3 {
        assert!(world.after(10, Act::Begin(Doing::Naps)).closed.is_empty());
        assert!(world.after(10, Act::Begin(Doing::Reads)).opened.is_empty());
    }
    let stall = world.tracker.stalls().values().next().expect("it is open");
    assert_eq!(stall.wait.age.as_secs(), 92);
    assert_eq!(ends(&world.after(1, Act::Answer)), [(Ended::Resumed, 93)]);
}

#[test]
fn who_does_not_come_back_has_given_up_after_a_minute() {
    let mut world = World::stalled(1);
    assert!(world.after(5, Act::Begin(Doing::Naps)).closed.is_empty());
    assert!(world.after(60, Act::Stay).closed.is_empty());
    assert_eq!(ends(&world.after(1, Act::Stay)), [(Ended::Resumed, 98)]);
    assert!(world.tracker.away.is_empty());
}

#[test]
fn who_runs_is_elsewhere() {
    let mut world = World::stalled(1);
    assert!(world.after(1, Act::Begin(Doing::Runs)).closed.is_empty());
    assert!(world.after(60, Act::Stay).closed.is_empty());
    assert_eq!(ends(&world.after(1, Act::Stay)), [(Ended::Resumed, 94)]);
}

/// A look that does not reach it says nothing of where it is.
#[test]
fn who_may_be_back_has_not_come_back() {
    let mut world = World::stalled(1);
    world.after(5, Act::Begin(Doing::Naps));
    world.now_ns += 30 * SECOND;
    world.act(0, Act::Begin(Doing::Polls), false);
    assert!(world.tick(&[true]).closed.is_empty());
    assert!(world.after(5, Act::Begin(Doing::Naps)).closed.is_empty());
    assert_eq!(world.after(26, Act::Stay).closed.len(), 1, "it has been elsewhere for 61 seconds");
}

/// Nobody waits for an answer there, and it comes back all the same.
#[test]
fn who_sends_may_be_elsewhere_too() {
    let mut world = World::new(1);
    world.threads[0].writes = true;
    world.after(2, Act::Stay);
    assert_eq!(world.after(30, Act::Stay).opened.len(), 1);
    assert!(world.after(5, Act::Begin(Doing::Naps)).closed.is_empty());
    assert!(world.after(5, Act::Begin(Doing::Reads)).closed.is_empty());
    let told = world.after(5, Act::Answer);
    assert_eq!((told.closed.len(), told.answers.len()), (1, 0));
}

/// A thread on its way out does not come back, from the connection or from elsewhere.
#[test]
fn who_leaves_the_process_has_left_the_connection() {
    let mut world = World::stalled(1);
    assert_eq!(ends(&world.after(3, Act::Begin(Doing::Leaves))), [(Ended::Exited, 35)]);
    let mut world = World::stalled(1);
    world.after(3, Act::Begin(Doing::Naps));
    assert_eq!(ends(&world.after(4, Act::Begin(Doing::Leaves))), [(Ended::Exited, 39)]);
    assert!(world.after(1, Act::Stay).closed.is_empty());
}

#[test]
fn the_kernels_word_ends_a_stall_at_once() {
    let mut world = World::stalled(1);
    world.now_ns += 8 * SECOND;
    let ended = world.act(0, Act::End, true).map(|closed| (closed.ended, closed.lasted.as_secs()));
    assert_eq!(ended, Some((Ended::Exited, 40)));
    assert!(world.tick(&[]).closed.is_empty());
    assert!(world.tracker.away.is_empty() && world.tracker.stalls().is_empty());
}

/// It has ended by the kernel's word, and can still be seen for a moment.
#[test]
fn who_exits_does_not_come_back() {
    let mut world = World::stalled(1);
    let event = EndedSleep { exiting: true, ..world.threads[0].end(world.now_ns) };
    assert!(world.tracker.ended(&event).is_some());
    let told = world.after(1, Act::Begin(Doing::Runs));
    assert!(told.closed.is_empty() && world.tracker.away.is_empty());
}

#[test]
fn another_sleep_of_the_same_ids_is_another_threads() {
    let world = World::stalled(1);
    let Thread { id, .. } = world.threads[0];
    for other in [
        ThreadId { start_ns: id.start_ns + 1, ..id },
        ThreadId { process: ProcessId { start_ns: id.process.start_ns + 1, ..id.process }, ..id },
    ] {
        let mut wait = world.threads[0].wait(world.now_ns).expect("it reads");
        let Standing { class, .. } = world.tracker.standing(&wait.thread, wait.age);
        assert_eq!(class, Class::Reply);
        wait.thread = other;
        assert_eq!(world.tracker.standing(&wait.thread, wait.age).class, Class::Other);
    }
}

#[test]
fn what_a_rule_allows_for_ever_is_not_asked_about_again_until_rules_change() {
    let mut world = World::new(1);
    world.terms = Terms::default();
    world.after(2, Act::Stay);
    let told = world.after(30, Act::Stay);
    assert_eq!((told.due.len(), told.opened.len()), (1, 0));
    assert!((0..100).all(|_| world.after(9, Act::Stay).due.is_empty()));
    world.tracker.forget_decisions();
    world.terms = Terms { threshold: Some(THRESHOLD), note: Some("why".into()), ..Terms::default() };
    assert_eq!(world.after(1, Act::Stay).opened.len(), 1);
    let notes: Vec<_> = world.tracker.stalls().values().map(|stall| stall.note.as_deref()).collect();
    assert_eq!(notes, [Some("why")]);
}

#[test]
fn what_was_decided_of_one_class_is_not_of_another() {
    let mut world = World::new(1);
    world.terms = Terms::default();
    world.after(2, Act::Stay);
    assert_eq!(world.after(30, Act::Stay).due.len(), 1);
    world.threads[0].writes = true;
    assert_eq!(world.after(30, Act::Stay).due.len(), 1);
    assert!(world.after(30, Act::Stay).due.is_empty());
}

/// What it waits on may look harmless by now: the stall is open.
#[test]
fn a_stall_is_looked_after_whatever_its_class() {
    let mut world = World::new(1);
    let opened = (1..=60).find(|_| !world.after(1, Act::Begin(Doing::Polls)).opened.is_empty());
    assert!(opened.is_some());
    world.threads[0].target = Some(Target::Timerfd);
    assert!(world.after(1, Act::Begin(Doing::Polls)).closed.is_empty());
    assert_eq!(world.after(1, Act::Answer).closed.len(), 1);
}

#[test]
fn a_baseline_excuses_until_it_does_not() {
    let mut world = World::new(1);
    let [usual, from, until] = [15, 30, 45].map(Duration::from_secs);
    let excuse = Excuse { usual, from, until };
    world.terms = Terms { threshold: Some(THRESHOLD), excuse: Some(excuse), usual: Some(usual), note: None };
    world.after(2, Act::Stay);
    assert!(world.after(30, Act::Stay).opened.is_empty());
    let id = world.threads[0].id;
    let is_excused = |world: &World| world.tracker.standing(&id, Duration::from_secs(32)).is_excused;
    assert!(is_excused(&world));
    assert_eq!(world.tracker.excuses(1, world.now_ns), [(id, excuse)]);
    assert_eq!(world.tracker.excuses(2, world.now_ns), []);
    assert!(world.after(12, Act::Stay).due.is_empty());
    assert_eq!(world.after(1, Act::Stay).opened, [id]);
    assert!(!is_excused(&world), "it is flagged");
    let stall = world.tracker.stalls().values().next().expect("it is open");
    assert!(
        stall.verdict.sentence.ends_with("; an answer usually comes within 15s"),
        "{}",
        stall.verdict.sentence
    );
}

#[test]
fn what_was_not_reached_is_counted_and_comes_first() {
    let mut world = World::new(3);
    world.now_ns += 2 * SECOND;
    world.tick(&[false, true, true]);
    assert_eq!(world.tracker.missed(), 2);
    world.now_ns += SECOND;
    let told = world.tick(&[false, false, true]);
    assert_eq!(told.requests, [world.threads[1].id, world.threads[2].id]);
    world.threads.push(Thread::new(4, world.now_ns - 20 * SECOND));
    world.now_ns += SECOND;
    let told = world.tick(&[]);
    assert_eq!(told.requests, [world.threads[2].id, world.threads[3].id], "it was missed twice");
    assert_eq!(world.tracker.missed(), 0);
}

/// A pipe may be an orphan, which only its peers tell. Until they are known it is neither flagged nor forgotten.
#[test]
fn what_lacks_its_peers_is_missed() {
    let mut world = World::new(1);
    let mut tick = |seconds: u64, finds_peers: bool| {
        world.now_ns += seconds * SECOND;
        let mut snapshot = world.snapshot();
        let mut looked = Resolution::default();
        for wait in world.tracker.observe(&snapshot, &world.policy) {
            let resolved = on(Syscall::Read, Target::Pipe { inode: 7 });
            looked.assessments.push(Assessment { wait, resolved, class: Class::Pipe });
        }
        world.tracker.apply(&mut snapshot, &mut looked);
        let needs = looked
            .assessments
            .iter()
            .filter(|a| world.tracker.peer_policy(&world.policy).needs_peers(a))
            .count();
        for assessment in looked.assessments.iter_mut().filter(|_| finds_peers) {
            let peers = Peers { own: true, alone: true, ..Peers::default() };
            (assessment.resolved.peers, assessment.class) = (Some(peers), Class::Orphan);
        }
        let due = world.tracker.due(looked.assessments, &world.policy, world.now_ns).len();
        (needs, due, world.tracker.missed())
    };
    assert_eq!(tick(2, false), (0, 0, 0), "it is too young to ask");
    assert_eq!(tick(30, false), (1, 0, 1));
    assert_eq!(tick(1, true), (1, 1, 0));
}

/// A pipe counts no bytes: that a stop interrupted the call is why it goes on.
#[test]
fn a_stop_is_no_end() {
    let mut world = World::new(1);
    world.threads[0].is_pipe = true;
    world.after(10, Act::Stay);
    world.after(1, Act::Begin(Doing::Held));
    world.after(1, Act::Begin(Doing::Reads));
    let age = |world: &mut World| {
        let mut snapshot = world.snapshot();
        world.tracker.date_back(&mut snapshot.waits[0]);
        snapshot.waits[0].age.as_secs()
    };
    assert_eq!(age(&mut world), 12);
    world.after(10, Act::Stay);
    world.after(1, Act::Begin(Doing::Runs));
    world.after(1, Act::Begin(Doing::Reads));
    assert_eq!(age(&mut world), 0, "it ran");
}

/// Whether anything has moved is not known: its wait is neither called older than its sleep nor thought to be over.
#[test]
fn what_was_not_reached_is_no_older_than_its_sleep() {
    let mut world = World::new(1);
    let age_after = |world: &mut World, act, missed: bool| {
        world.now_ns += 5 * SECOND;
        world.act(0, act, false);
        let mut snapshot = world.snapshot();
        let mut looked = Resolution::default();
        for wait in world.tracker.observe(&snapshot, &world.policy) {
            match missed {
                true => looked.missed.push(wait),
                false => looked.assessments.push(look(wait, &world.threads[0])),
            }
        }
        world.tracker.apply(&mut snapshot, &mut looked);
        world.tracker.due(looked.assessments, &world.policy, world.now_ns);
        snapshot.waits[0].age.as_secs()
    };
    age_after(&mut world, Act::Begin(Doing::Polls), false);
    assert_eq!(age_after(&mut world, Act::Stay, false), 5);
    assert_eq!(age_after(&mut world, Act::Begin(Doing::Polls), true), 0);
    assert_eq!(age_after(&mut world, Act::Begin(Doing::Polls), false), 15);
}

/// What it polls meanwhile is looked up once, not in each look for its sake.
#[test]
fn who_is_known_to_be_elsewhere_is_not_looked_for() {
    let mut world = World::stalled(1);
    world.after(5, Act::Begin(Doing::PollsAnother));
    let requests: Vec<usize> = (0..9).map(|_| world.after(1, Act::Stay).requests.len()).collect();
    assert_eq!(requests, [0; 9]);
    assert_eq!(world.tracker.stalls().len(), 1);
    assert!(world.after(1, Act::Begin(Doing::Polls)).closed.is_empty());
    assert!(world.tracker.away.is_empty(), "it is back");
}

/// It got an answer on another connection before it came back to the one that its stall is about.
#[test]
fn an_answer_from_elsewhere_is_a_sample_too() {
    let mut world = World::stalled(1);
    world.after(5, Act::Begin(Doing::PollsAnother));
    world.after(9, Act::Stay);
    world.threads[0].other_received += 1;
    let told = world.after(1, Act::Begin(Doing::Reads));
    let lasted: Vec<u64> = told.answers.iter().map(|answer| answer.lasted.as_secs()).collect();
    assert_eq!((ends(&told), lasted), (vec![], vec![10]));
    assert_eq!(world.tracker.stalls().len(), 1);
}

/// Its stall is about its own end, and it has got on.
#[test]
fn a_stall_about_the_end_itself_is_not_closed_by_it() {
    let mut world = World::new(1);
    world.act(0, Act::Begin(Doing::Leaves), false);
    world.after(2, Act::Stay);
    assert_eq!(world.after(600, Act::Stay).opened.len(), 1);
    assert!(world.after(1, Act::Stay).closed.is_empty());
    assert_eq!(ends(&world.after(1, Act::Begin(Doing::Leaves))), [(Ended::Resumed, 604)]);
}

#[test]
fn departures_are_settled_in_no_more_than_their_number() {
    let many = |number: usize| {
        let mut world = World::new(number as u32);
        world.after(2, Act::Stay);
        for at in 0..number {
            world.now_ns += u64::from(at == 0) * 5 * SECOND;
            world.act(at, if at % 2 == 0 { Act::Answer } else { Act::Begin(Doing::Reads) }, false);
        }
        world
    };
    crate::util::growth::assert_linear("waits that are over", many, |mut world: World| {
        let mut snapshot = world.snapshot();
        let departures = world.tracker.apply(&mut snapshot, &mut Resolution::default());
        let told = world.tracker.settle(departures, &Evidence::default());
        assert_eq!(told.len(), world.threads.len() / 2);
    });
}
