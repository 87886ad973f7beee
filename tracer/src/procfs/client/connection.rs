//! A reader at work: what is sent to it, what comes back, and for how long that is waited for. Knows which processes are tracer's own.

use std::{
    cell::RefCell,
    collections::HashSet,
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
    sync::{LazyLock, PoisonError, RwLock},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, retry_on_intr},
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send},
};

use crate::{
    procfs::ask::{ANSWER_HEAD_BYTES, Head, LONG_BYTES, PART_BYTES},
    procfs::supervisor::{self, Started},
};

/// How long a reader may be silent. Reads of `/proc` take microseconds.
pub(super) const DEADLINE: Duration = Duration::from_millis(100);
/// How often it is given as much again while nothing holds it up but the want of a CPU, on a machine that is overloaded or
/// at a long walk.
const EXTENSIONS_MAX: u32 = 40;
/// While so many answers are still to come, they are let gather for so long: to wake up for each costs more than the reads do.
const GATHER_FROM: usize = 8;
const GATHER_TIME: Duration = Duration::from_micros(50);

/// A reader, known as tracer's own for as long as this lives.
pub(super) struct ReaderProcess {
    pub(super) pid: u32,
    pub(super) socket: OwnedFd,
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
pub(super) struct ReaderConnection {
    pub(super) reader: ReaderProcess,
    /// Room for what comes: `taken..came` of it has come and has not been taken.
    pub(super) room: Vec<u8>,
    pub(super) taken: usize,
    pub(super) came: usize,
    /// How many answers are to come.
    pub(super) awaited: usize,
    pub(super) descriptor: Option<OwnedFd>,
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
    pub(super) static CONNECTION: RefCell<Option<ReaderConnection>> = const { RefCell::new(None) };
}

pub(super) fn take_connection() -> Option<ReaderConnection> {
    CONNECTION.take().or_else(|| ReaderConnection::open(None))
}

pub(super) fn keep_connection(connection: ReaderConnection) {
    CONNECTION.set(Some(connection));
}

/// Why a reader says nothing more.
#[derive(Clone, Copy)]
pub(super) enum Broken {
    Late,
    Ended,
}

impl ReaderConnection {
    pub(super) fn open(lent: Option<BorrowedFd<'_>>) -> Option<Self> {
        Some(Self {
            reader: ReaderProcess::start(lent)?,
            room: Vec::new(),
            taken: 0,
            came: 0,
            awaited: 1,
            descriptor: None,
        })
    }

    pub(super) fn send(&mut self, questions: Vec<u8>) -> Result<(), Broken> {
        let mut rest = &questions[..];
        while !rest.is_empty() {
            let sent = retry_on_intr(|| send(&self.reader.socket, rest, SendFlags::NOSIGNAL));
            rest = &rest[sent.map_err(|_| Broken::Ended)?..];
        }
        Ok(())
    }

    /// The next answer, or why the kernel has none.
    pub(super) fn receive(&mut self) -> Result<Result<Vec<u8>, Errno>, Broken> {
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
