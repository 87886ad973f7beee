//! Asking a reader, and what becomes of one that does not answer: it is left behind, and what it read is left alone.
//!
//! Part of `procfs`, layer 2, and uses what that may use. Here is who may ask what; `asking` says which questions go out next, and
//! `connection` what passes between this program and a reader.

mod asking;
mod connection;

pub use self::connection::{is_own, own};

use std::{
    collections::HashMap,
    fmt,
    os::fd::{BorrowedFd, OwnedFd},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use self::{
    asking::Asking,
    connection::{Broken, ReaderConnection, ReaderProcess, keep_connection, take_connection},
};
use super::{
    ask::{PART_BYTES, ReadRequest},
    ledger::{AccountName, Ledger, Needs, Refused},
    supervisor,
};
use crate::model::wait::ProcessId;

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

#[cfg(test)]
mod tests;
