//! The tracker against a world that is made up: threads that read, poll, sleep elsewhere, run, are held and end, on connections on
//! which bytes come or not.

mod answers;
mod decisions;
mod elsewhere;
mod ends;
mod looks;

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
