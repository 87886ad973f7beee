//! Asking a reader, and what becomes of one that does not answer: it is left behind, and what it read is left alone.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet, VecDeque},
    fmt,
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, retry_on_intr},
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send},
};

use super::{
    ask::{ANSWER_HEAD_BYTES, Head, LONG_BYTES, PART_BYTES, ReadRequest},
    ledger::{AccountName, Ledger, Needs, Refused},
    supervisor::{self, Started},
};
use crate::model::wait::ProcessId;

/// How long a reader may be silent. Reads of `/proc` take microseconds.
const DEADLINE: Duration = Duration::from_millis(100);
/// How often it is given as much again while nothing holds it up but the want of a CPU, on a machine that is overloaded or
/// at a long walk.
const EXTENSIONS_MAX: u32 = 40;
/// While so many answers are still to come, they are let gather for so long: to wake up for each costs more than the reads do.
const GATHER_FROM: usize = 8;
const GATHER_TIME: Duration = Duration::from_micros(50);
/// Questions that are under way at a time.
const WINDOW_MAX: usize = 64;
/// Bytes of questions that are sent at a time: of two such and one long path, a socket takes all, so that to send never waits.
const WINDOW_BYTES_MAX: usize = 16 * 1024;
/// Processes whose owners are remembered.
const OWNERS_MAX: usize = 4096;

/// Why something was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// The kernel's own word.
    Failed(Errno),
    /// It did not come back in time.
    Late,
    /// It was not tried.
    Refused(Refused),
    /// There is no reader: see [`supervisor::is_gone`].
    NoReader,
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unread::Failed(error) => write!(f, "{error}"),
            Unread::Late => write!(f, "the kernel does not answer"),
            Unread::Refused(_) => write!(f, "the kernel did not answer before"),
            Unread::NoReader => write!(f, "the process that reads it has ended"),
        }
    }
}

/// An answer: bytes, and a descriptor if one was asked for.
type ReaderAnswer = (Vec<u8>, Option<OwnedFd>);

/// A question about a process, and what has to be free for its answer.
pub struct ProcessRead {
    /// Whom it is about. Of the host: see [`HOST`].
    pub process: ProcessId,
    /// What it needs.
    pub needs: Needs,
    /// What is asked.
    pub ask: ReadRequest,
}

/// Whom questions about the host's own files are about.
pub const HOST: ProcessId = ProcessId { pid: 0, start_ns: 0 };

/// A reader that did not answer. It is gone when its socket closes.
struct LeftBehind {
    reader: ReaderProcess,
    owner: AccountName,
}

/// What all readers of this program share.
#[derive(Default)]
struct ReaderShared {
    ledger: Ledger,
    left: Vec<LeftBehind>,
    owners: HashMap<ProcessId, AccountName>,
    /// Reads that had no answer as there was no reader, or it ended before.
    unanswered: u64,
}

impl ReaderShared {
    /// Forgets readers that have ended since.
    fn count_left(&mut self) {
        if self.left.is_empty() {
            return;
        }
        let mut fds: Vec<PollFd<'_>> =
            self.left.iter().map(|left| PollFd::new(&left.reader.socket, PollFlags::empty())).collect();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let ended: Vec<bool> = match poll(&mut fds, Some(&now)) {
            Ok(_) => fds.iter().map(|fd| fd.revents().contains(PollFlags::HUP)).collect(),
            Err(_) => return,
        };
        let mut ended = ended.into_iter();
        self.left.retain(|_| !ended.next().unwrap_or(false));
        self.ledger.left_behind(self.left.iter().map(|left| left.owner.clone()));
    }
}

/// A reader, known as tracer's own for as long as this lives.
struct ReaderProcess {
    pid: u32,
    socket: OwnedFd,
}

impl ReaderProcess {
    fn start(lent: Option<BorrowedFd<'_>>) -> Option<Self> {
        let Started { pid, socket } = supervisor::start_reader(lent).ok()?;
        OWN.write().unwrap_or_else(PoisonError::into_inner).insert(pid);
        Some(Self { pid, socket })
    }
}

impl Drop for ReaderProcess {
    fn drop(&mut self) {
        OWN.write().unwrap_or_else(PoisonError::into_inner).remove(&self.pid);
    }
}

/// A reader at work.
struct ReaderConnection {
    reader: ReaderProcess,
    /// Room for what comes: `taken..came` of it has come and has not been taken.
    room: Vec<u8>,
    taken: usize,
    came: usize,
    /// How many answers are to come.
    awaited: usize,
    descriptor: Option<OwnedFd>,
}

/// Process ids of readers of this program that are at work or left behind, and of what starts them.
static OWN: LazyLock<RwLock<HashSet<u32>>> = LazyLock::new(RwLock::default);

/// This process and its helpers, which no look is about.
pub fn own() -> HashSet<u32> {
    let readers = OWN.read().unwrap_or_else(PoisonError::into_inner);
    readers.iter().copied().chain(supervisor::pid()).chain([std::process::id()]).collect()
}

/// Whether a process is one of [`own`].
pub fn is_own(pid: u32) -> bool {
    own().contains(&pid)
}

thread_local! {
    /// The reader of this thread, once it has asked one.
    static CONNECTION: RefCell<Option<ReaderConnection>> = const { RefCell::new(None) };
}

fn take_connection() -> Option<ReaderConnection> {
    CONNECTION.take().or_else(|| ReaderConnection::open(None))
}

fn keep_connection(connection: ReaderConnection) {
    CONNECTION.set(Some(connection));
}

/// Questions on their way to their answers.
struct Asking {
    questions: Vec<ProcessRead>,
    answers: Vec<Option<Result<ReaderAnswer, Unread>>>,
    /// Those that have not been sent yet, by their places.
    open: VecDeque<usize>,
    /// Those that have been, in their order.
    sent: VecDeque<usize>,
}

impl Asking {
    fn new(questions: Vec<ProcessRead>) -> Self {
        let answers = questions.iter().map(|_| None).collect();
        Self { open: (0..questions.len()).collect(), sent: VecDeque::new(), answers, questions }
    }

    fn goes_on(&self) -> bool {
        !self.open.is_empty()
    }

    /// The next that are to be sent, as bytes, so that a reader is never without: a few at a time, which it can take whatever it
    /// hangs in. Those that may not be read have their answer.
    fn next(&mut self, mut may_read: impl FnMut(&ProcessRead) -> Result<(), Refused>) -> Vec<u8> {
        let mut bytes = Vec::new();
        if self.sent.len() > WINDOW_MAX / 2 {
            return bytes;
        }
        while self.sent.len() < WINDOW_MAX
            && bytes.len() < WINDOW_BYTES_MAX
            && let Some(at) = self.open.pop_front()
        {
            let question = &self.questions[at];
            match may_read(question) {
                Ok(()) => {
                    question.ask.encode(&mut bytes);
                    self.sent.push_back(at);
                }
                Err(refused) => self.answers[at] = Some(Err(Unread::Refused(refused))),
            }
        }
        bytes
    }

    /// What was asked behind one that hung is asked again.
    fn ask_again(&mut self) {
        while let Some(at) = self.sent.pop_back() {
            self.open.push_front(at);
        }
    }

    /// There is nobody to ask.
    fn give_up(&mut self) {
        self.open.clear();
    }

    fn answers(self) -> Vec<Result<ReaderAnswer, Unread>> {
        self.answers.into_iter().map(|answer| answer.unwrap_or(Err(Unread::NoReader))).collect()
    }
}

/// Asks the reader of the present thread, and answers within a deadline whatever becomes of it. What is late is known to all
/// of this program's.
pub struct ReaderClient {
    shared: Arc<Mutex<ReaderShared>>,
}

impl ReaderClient {
    /// Costs nothing before it is asked.
    pub fn new() -> Self {
        static OF_ALL: LazyLock<Arc<Mutex<ReaderShared>>> = LazyLock::new(Arc::default);
        Self { shared: Arc::clone(&OF_ALL) }
    }

    fn shared(&self) -> MutexGuard<'_, ReaderShared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads that did not come back in time, so far.
    pub fn abandoned(&self) -> u64 {
        self.shared().ledger.abandoned()
    }

    /// Reads that were not made as too many others had been late, so far.
    pub fn refused(&self) -> u64 {
        self.shared().ledger.refused()
    }

    /// Reads that had no answer as there was no reader, or it ended before, so far.
    pub fn unanswered(&self) -> u64 {
        self.shared().unanswered
    }

    /// Waits of these processes have ended: what hung may have come back with them.
    pub fn forgive(&self, processes: impl Iterator<Item = ProcessId>) {
        let (mut shared, now) = (self.shared(), Instant::now());
        processes.for_each(|process| shared.ledger.forgive(process, now));
    }

    /// Asks one thing.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn ask(&self, question: ProcessRead) -> Result<ReaderAnswer, Unread> {
        self.ask_all(vec![question]).pop().unwrap_or(Err(Unread::NoReader))
    }

    /// Asks several things, in their order. One that hangs costs the others nothing but its deadline.
    pub fn ask_all(&self, questions: Vec<ProcessRead>) -> Vec<Result<ReaderAnswer, Unread>> {
        let mut asking = Asking::new(questions);
        while asking.goes_on() {
            match take_connection() {
                Some(connection) => self.ask_one_reader(&mut asking, connection),
                None => asking.give_up(),
            }
        }
        let answers: Vec<_> = asking.answers();
        let unanswered = answers.iter().filter(|answer| matches!(answer, Err(Unread::NoReader))).count();
        if unanswered > 0 {
            self.shared().unanswered += unanswered as u64;
        }
        answers
    }

    /// Asks a reader until everything has its answer or the reader does not answer any more.
    fn ask_one_reader(&self, asking: &mut Asking, mut connection: ReaderConnection) {
        loop {
            let questions = asking.next(|question| self.may_read(question.process, question.needs));
            let sent = connection.send(questions);
            let Some(at) = asking.sent.pop_front() else { break };
            let question = &asking.questions[at];
            connection.awaited = asking.sent.len() + 1;
            let answer = match sent.and_then(|()| connection.receive()) {
                Ok(answer) => {
                    // It may have come with the bytes of an answer before.
                    let opened = if question.ask.opens() { connection.descriptor.take() } else { None };
                    self.shared().ledger.answered(question.process, question.needs);
                    answer.map(|bytes| (bytes, opened)).map_err(Unread::Failed)
                }
                Err(broken) => {
                    let unread = match broken {
                        Broken::Late => {
                            self.leave(connection, question);
                            Unread::Late
                        }
                        // Killed by somebody else, or the supervisor has gone.
                        Broken::Ended => Unread::NoReader,
                    };
                    asking.answers[at] = Some(Err(unread));
                    asking.ask_again();
                    return;
                }
            };
            asking.answers[at] = Some(answer);
        }
        keep_connection(connection);
    }

    /// Everything that can be read from a descriptor, by a reader that is started for it alone.
    ///
    /// # Errors
    /// Why it was not read.
    pub fn drain(&self, from: BorrowedFd<'_>) -> Result<Vec<u8>, Unread> {
        let question = ProcessRead { process: HOST, needs: Needs::Walk, ask: ReadRequest::Drain };
        self.may_read(question.process, question.needs).map_err(Unread::Refused)?;
        let mut connection = ReaderConnection::open(Some(from)).ok_or(Unread::NoReader)?;
        let mut bytes = Vec::new();
        question.ask.encode(&mut bytes);
        let sent = connection.send(bytes);
        match sent.and_then(|()| connection.receive()) {
            Ok(answer) => answer.map_err(Unread::Failed),
            Err(Broken::Late) => {
                self.leave(connection, &question);
                Err(Unread::Late)
            }
            Err(Broken::Ended) => Err(Unread::NoReader),
        }
    }

    fn may_read(&self, process: ProcessId, needs: Needs) -> Result<(), Refused> {
        let now = Instant::now();
        let mut shared = self.shared();
        shared.count_left();
        let ReaderShared { ledger, owners, .. } = &mut *shared;
        // Who it is is only asked while something is late.
        ledger.may_read(process, needs, now, || self.owner(process, owners))
    }

    /// A reader does not answer.
    fn leave(&self, connection: ReaderConnection, question: &ProcessRead) {
        let mut shared = self.shared();
        let owner = self.owner(question.process, &mut shared.owners);
        shared.ledger.late(question.process, question.needs, owner.clone(), Instant::now());
        supervisor::end_reader(connection.reader.pid);
        shared.left.push(LeftBehind { reader: connection.reader, owner });
        shared.count_left();
    }

    /// Whose a process is, by what can be read of it whatever it hangs in.
    fn owner(&self, process: ProcessId, known: &mut HashMap<ProcessId, AccountName>) -> AccountName {
        if process == HOST {
            return "the host".into();
        }
        if let Some(owner) = known.get(&process) {
            return owner.clone();
        }
        let owner = self.read_owner(process).unwrap_or_default();
        if known.len() >= OWNERS_MAX {
            known.clear();
        }
        known.insert(process, owner.clone());
        owner
    }

    fn read_owner(&self, process: ProcessId) -> Option<AccountName> {
        let mut connection = take_connection()?;
        let file = |name: &str| {
            let mut bytes = Vec::new();
            ReadRequest::File { path: format!("/proc/{}/{name}", process.pid), limit: PART_BYTES }
                .encode(&mut bytes);
            bytes
        };
        connection.awaited = 2;
        connection.send([file("cgroup"), file("status")].concat()).ok()?;
        let mut text = || {
            let bytes = connection.receive().ok()?.ok()?;
            Some(String::from_utf8_lossy(&bytes).into_owned())
        };
        let (cgroup, status) = (text()?, text()?);
        keep_connection(connection);
        Some(super::owner_of(&cgroup, &status))
    }
}

/// Why a reader says nothing more.
#[derive(Clone, Copy)]
enum Broken {
    Late,
    Ended,
}

impl ReaderConnection {
    fn open(lent: Option<BorrowedFd<'_>>) -> Option<Self> {
        Some(Self {
            reader: ReaderProcess::start(lent)?,
            room: Vec::new(),
            taken: 0,
            came: 0,
            awaited: 1,
            descriptor: None,
        })
    }

    fn send(&mut self, questions: Vec<u8>) -> Result<(), Broken> {
        let mut rest = &questions[..];
        while !rest.is_empty() {
            let sent = retry_on_intr(|| send(&self.reader.socket, rest, SendFlags::NOSIGNAL));
            rest = &rest[sent.map_err(|_| Broken::Ended)?..];
        }
        Ok(())
    }

    /// The next answer, or why the kernel has none.
    fn receive(&mut self) -> Result<Result<Vec<u8>, Errno>, Broken> {
        let mut answer = Vec::new();
        loop {
            let head = self.take(ANSWER_HEAD_BYTES)?.try_into().map_err(|_| Broken::Ended)?;
            let (length, last) = match Head::decode(head) {
                Head::Failed(error) => return Ok(Err(error)),
                Head::Last(length) => (length, true),
                Head::Part(length) => (length, false),
            };
            // Only a reader that has been taken over says more than it was asked for.
            if length > PART_BYTES || answer.len() + length > 2 * LONG_BYTES {
                return Err(Broken::Ended);
            }
            answer.extend(self.take(length)?);
            if last {
                return Ok(Ok(answer));
            }
        }
    }

    /// The next so many bytes; waits for them.
    fn take(&mut self, length: usize) -> Result<&[u8], Broken> {
        while self.came < self.taken + length {
            self.receive_some()?;
        }
        let bytes = &self.room[self.taken..self.taken + length];
        self.taken += length;
        Ok(bytes)
    }

    fn receive_some(&mut self) -> Result<(), Broken> {
        self.wait()?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        // The room is cleared once, and not for each answer.
        self.room.copy_within(self.taken..self.came, 0);
        (self.taken, self.came) = (0, self.came - self.taken);
        self.room.resize(self.room.len().max(self.came + PART_BYTES), 0);
        let mut parts = [std::io::IoSliceMut::new(&mut self.room[self.came..])];
        let received = retry_on_intr(|| {
            recvmsg(&self.reader.socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        });
        let received = received.map_or(0, |received| received.bytes);
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptor = descriptors.last();
            }
        }
        self.came += received;
        if received == 0 { Err(Broken::Ended) } else { Ok(()) }
    }

    fn wait(&self) -> Result<(), Broken> {
        if self.awaited >= GATHER_FROM {
            std::thread::sleep(GATHER_TIME);
        }
        let patience = Timespec { tv_sec: 0, tv_nsec: DEADLINE.subsec_nanos().into() };
        for _ in 0..=EXTENSIONS_MAX {
            let mut fds = [PollFd::new(&self.reader.socket, PollFlags::IN)];
            match retry_on_intr(|| poll(&mut fds, Some(&patience))) {
                Ok(0) if !runs(self.reader.pid) => break,
                Ok(0) => {}
                Ok(_) => return Ok(()),
                Err(_) => return Err(Broken::Ended),
            }
        }
        Err(Broken::Late)
    }
}

/// Whether a reader runs, or would if it were given a CPU. It is tracer's own and never executes a program, so that reading
/// this file of it waits for nothing.
fn runs(reader: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{reader}/stat"));
    stat.is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('R')))
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::fd::AsFd};

    use super::*;

    /// One that shares nothing with the others.
    fn apart() -> ReaderClient {
        ReaderClient { shared: Arc::default() }
    }

    fn file(path: &str, process: ProcessId) -> ProcessRead {
        ProcessRead {
            process,
            needs: Needs::Host,
            ask: ReadRequest::File { path: path.into(), limit: LONG_BYTES },
        }
    }

    fn process(pid: u32) -> ProcessId {
        ProcessId { pid, start_ns: 1 }
    }

    /// A descriptor of which nothing can be read for now; readable once the other is written to or dropped.
    fn silent() -> (OwnedFd, OwnedFd) {
        rustix::pipe::pipe().expect("a pipe")
    }

    fn soon(mut is_so: impl FnMut() -> bool) -> bool {
        (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            is_so()
        })
    }

    #[test]
    fn everything_that_can_be_asked_is_answered() {
        let client = apart();
        let pid = std::process::id();
        let ask = |ask| ProcessRead { process: process(pid), needs: Needs::Nothing, ask };
        let path = |name: &str| format!("/proc/{pid}/{name}");
        let text = b"a text in memory\0";
        let address = text.as_ptr() as u64;
        let answers = client.ask_all(vec![
            ask(ReadRequest::File { path: path("comm"), limit: 3 }),
            ask(ReadRequest::Link { path: path("exe") }),
            ask(ReadRequest::Names { path: path("task") }),
            ask(ReadRequest::Links { path: path("ns") }),
            ask(ReadRequest::Stat { path: path("fd/0") }),
            ask(ReadRequest::Memory { pid, address, length: 6 }),
            ask(ReadRequest::Text { pid, address, limit: 100 }),
            ask(ReadRequest::Open { path: path("ns/net") }),
            ask(ReadRequest::File { path: "/proc/4294967295/stat".into(), limit: 1 }),
            ask(ReadRequest::Text { pid, address: 1, limit: 100 }),
        ]);
        let bytes = |at: usize| answers[at].as_ref().expect("an answer").0.clone();
        assert_eq!(bytes(0).len(), 3);
        assert_eq!(bytes(1), std::env::current_exe().expect("this").as_os_str().as_encoded_bytes());
        assert!(bytes(2).ends_with(b"\0"));
        assert!(String::from_utf8_lossy(&bytes(3)).contains("net\0net:["));
        assert!(super::super::ask::FileStat::decode(&bytes(4)).is_some_and(|stat| stat.mode != 0));
        assert_eq!(bytes(5), b"a text");
        assert_eq!(bytes(6), b"a text in memory");
        assert!(answers[7].as_ref().is_ok_and(|(_, descriptor)| descriptor.is_some()));
        assert!(matches!(answers[8], Err(Unread::Failed(Errno::NOENT))));
        assert!(matches!(answers[9], Err(Unread::Failed(Errno::FAULT))));
        let forbidden = client.ask(file("/etc/passwd", process(pid)));
        assert!(matches!(forbidden, Err(Unread::Failed(Errno::PERM))));
    }

    #[test]
    fn one_that_hangs_costs_the_others_nothing() {
        let client = apart();
        let comm = format!("/proc/{}/comm", std::process::id());
        // A page that never comes, as behind a file system whose server is gone.
        let page = Absent::new();
        let memory = |pid| ProcessRead {
            process: process(pid),
            needs: Needs::Memory,
            ask: ReadRequest::Memory { pid: std::process::id(), address: page.address, length: 8 },
        };
        let begun = Instant::now();
        let answers = client.ask_all(vec![file(&comm, process(1)), memory(2), file(&comm, process(3))]);
        assert!(answers[0].is_ok() && answers[2].is_ok());
        assert!(matches!(answers[1], Err(Unread::Late)), "{:?}", answers[1].as_ref().err());
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        assert!(matches!(client.ask(memory(2)), Err(Unread::Refused(Refused::LeftAlone))));
        // The kernel lets go of it: nobody is left behind.
        assert!(soon(|| {
            let mut shared = client.shared();
            shared.count_left();
            shared.left.is_empty()
        }));
        assert_eq!(client.abandoned(), 1);
    }

    #[test]
    fn a_descriptor_that_gives_nothing_is_given_up() {
        let client = apart();
        let (hangs, end) = silent();
        assert_eq!(client.drain(hangs.as_fd()), Err(Unread::Late));
        assert_eq!(client.drain(hangs.as_fd()), Err(Unread::Refused(Refused::LeftAlone)));
        drop(end);
    }

    /// A page of this process's memory that nobody ever provides (userfaultfd(2)).
    struct Absent {
        address: u64,
        _faults: OwnedFd,
    }

    impl Absent {
        fn new() -> Self {
            use std::os::fd::{AsRawFd, FromRawFd};
            const UFFDIO_API: u64 = 0xc018_aa3f;
            const UFFDIO_REGISTER: u64 = 0xc020_aa00;
            // SAFETY: the structures are of the sizes that the requests have; the memory is anonymous and new.
            unsafe {
                let fd = libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC);
                assert!(fd >= 0, "userfaultfd: {}", std::io::Error::last_os_error());
                let faults = OwnedFd::from_raw_fd(fd as i32);
                let mut api = [0xaa_u64, 0, 0];
                assert_eq!(libc::ioctl(faults.as_raw_fd(), UFFDIO_API as _, api.as_mut_ptr()), 0);
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                let page = libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, flags, -1, 0);
                assert_ne!(page, libc::MAP_FAILED);
                let mut register = [page as u64, 4096, 1, 0];
                assert_eq!(libc::ioctl(faults.as_raw_fd(), UFFDIO_REGISTER as _, register.as_mut_ptr()), 0);
                Self { address: page as u64, _faults: faults }
            }
        }
    }

    #[test]
    fn what_a_descriptor_gives_comes_whole() {
        let client = apart();
        let (reader, writer) = silent();
        let bytes: Vec<u8> = (0..3 * PART_BYTES).map(|at| at as u8).collect();
        let (answer, ()) = std::thread::scope(|scope| {
            let all = &bytes;
            let write = scope.spawn(move || std::fs::File::from(writer).write_all(all).expect("writes"));
            (client.drain(reader.as_fd()), write.join().expect("ends"))
        });
        assert!(answer.is_ok_and(|came| came == bytes));
    }

    #[test]
    fn readers_are_known_as_tracers_own() {
        let client = apart();
        assert!(client.ask(file("/proc/locks", HOST)).is_ok());
        let pid = CONNECTION.with_borrow(|kept| kept.as_ref().expect("it is kept").reader.pid);
        assert!(is_own(pid) && is_own(std::process::id()) && !is_own(1));
        assert!(is_own(supervisor::pid().expect("it runs")));
        CONNECTION.take();
        assert!(!is_own(pid));
    }
}
