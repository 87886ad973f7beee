//! The domain types everything after `collect` speaks: a wait, the snapshot it is part of, and who it is.

use std::{cell::OnceCell, collections::HashMap, time::Duration};

use compact_str::CompactString;
use jiff::Timestamp;

use crate::{
    model::{
        backlog::Backlog,
        file::{FileKind, OpenFile},
        syscalls::{CallTable, Direction, Operation, Syscall},
        target::Interest,
        tcp::TcpFacts,
    },
    util::clock::{self, Now},
    util::linux::{FUTEX_LOCK_PI, FUTEX_LOCK_PI2, FUTEX_PRIVATE, FUTEX_WAIT, futex_command},
};

/// Which process, for ever: a pid alone is reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId {
    /// Process id in the host's PID namespace.
    pub pid: u32,
    /// When it started, nanoseconds of `CLOCK_BOOTTIME`.
    pub start_ns: u64,
}

impl ProcessId {
    /// When it started, clock ticks since boot, as `/proc/PID/stat` shows it; `None`: it hangs so that this was not seen.
    pub fn start_ticks(self) -> Option<u64> {
        (self.start_ns > 0).then(|| clock::ticks(self.start_ns))
    }
}

/// Whether these may be starts of one process: where one is not known, the ids decide.
pub fn may_be_same_start(start: Option<u64>, other: Option<u64>) -> bool {
    start.is_none() || other.is_none() || start == other
}

/// Which thread, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ThreadId {
    /// The process it belongs to.
    pub process: ProcessId,
    /// Thread id in the host's PID namespace.
    pub tid: u32,
    /// When it started, nanoseconds of `CLOCK_BOOTTIME`.
    pub start_ns: u64,
}

/// How a waiting thread sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleep {
    /// State S: a signal wakes it.
    Interruptible,
    /// State D: a signal does not wake it, or only a fatal one.
    Uninterruptible,
}

impl Sleep {
    /// The letter `ps` and `/proc/PID/stat` use.
    pub fn letter(self) -> &'static str {
        match self {
            Sleep::Interruptible => "S",
            Sleep::Uninterruptible => "D",
        }
    }
}

/// A system call as its caller made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The table `number` is of.
    pub table: CallTable,
    /// Number in its table; `None` for what is no call, and where only the kernel function is known that it sleeps in. Such a
    /// call has no arguments.
    pub number: Option<i32>,
    /// Which call it is.
    pub syscall: Syscall,
    /// Arguments, as in the registers.
    pub args: [u64; 6],
    /// It was interrupted and goes on as `restart_syscall`; call and arguments are the original's.
    pub restarted: bool,
}

impl Call {
    /// Its name, as people and machines read it.
    pub fn name(&self) -> &'static str {
        self.syscall.name()
    }

    /// What it does.
    pub fn operation(&self) -> Operation {
        self.meant().operation()
    }

    /// Which way it moves data; `None`: neither, or both, or there is no fd.
    pub fn direction(&self) -> Option<Direction> {
        self.meant().direction()
    }

    /// The call that it is, or that a call for many is told to make.
    fn meant(&self) -> Syscall {
        self.syscall.of_many(self.args[0])
    }

    /// The arguments of the call that is meant, where registers have them: those of `socketcall` lie in memory. `ipc` has its
    /// pointer behind its numbers (ipc(2)).
    pub fn arguments(&self) -> [u64; 6] {
        let [_, first, second, third, pointer, fifth] = self.args;
        match (self.syscall, self.operation()) {
            (Syscall::Ipc, Operation::Semaphore) => [first, pointer, second, fifth, 0, 0],
            (Syscall::Ipc, _) => [first, pointer, second, third, 0, 0],
            (Syscall::Socketcall, _) => [0; 6],
            _ => self.args,
        }
    }

    /// Whether the fds that it waits on lie in its caller's memory: a set, or the one of a `socketcall`.
    pub fn has_fds_in_memory(&self) -> bool {
        match self.operation() {
            Operation::Poll | Operation::Select => true,
            _ => self.syscall == Syscall::Socketcall && self.meant().fd().is_some(),
        }
    }

    /// Whether what it waits on has to be looked up: it watches a set of fds, or one that no register has.
    pub fn watches_fds(&self) -> bool {
        self.operation() == Operation::Epoll || self.has_fds_in_memory()
    }

    /// Whether it waits for a lock in memory, and not for a condition, by how the C library waits for each. glibc waits for a
    /// mutex with the value 2 (nptl/lowlevellock.h), musl with its top bit set over the owner's id, or over EBUSY where it keeps
    /// no owner (src/thread/pthread_mutex_timedlock.c), both without a time-out.
    pub fn waits_for_memory_lock(&self) -> bool {
        /// `PID_MAX_LIMIT` (include/linux/threads.h).
        const LARGEST_TID: u32 = 1 << 22;
        const CONTENDED: u32 = 0x8000_0000;
        let value = self.args[2] as u32;
        self.operation() == Operation::Futex
            && match (futex_command(self.args[1]), value, self.args[3]) {
                (FUTEX_LOCK_PI | FUTEX_LOCK_PI2, ..) | (FUTEX_WAIT, 2, 0) => true,
                (FUTEX_WAIT, CONTENDED.., 0) => value - CONTENDED <= LARGEST_TID,
                _ => false,
            }
    }

    /// Whether it waits for any signal that has a handler.
    pub fn is_pause(&self) -> bool {
        matches!(self.syscall, Syscall::Pause | Syscall::RtSigsuspend | Syscall::Sigsuspend)
    }

    /// Whether it waits on a word in memory that only threads of its own process use.
    pub fn is_private_futex(&self) -> bool {
        self.operation() == Operation::Futex && self.args[1] & FUTEX_PRIVATE != 0
    }

    /// Whether it waits for a lock on a file. `fcntl` does with `F_SETLKW` and `F_OFD_SETLKW`
    /// (include/uapi/asm-generic/fcntl.h); 14 is the 32-bit `F_SETLKW64`.
    pub fn waits_for_file_lock(&self) -> bool {
        match self.operation() {
            Operation::Lock => true,
            Operation::Fcntl => self.number.is_none() || matches!(self.args[1], 7 | 14 | 38),
            _ => false,
        }
    }

    /// Whether a time-out of its own ends it.
    pub fn is_timed(&self) -> bool {
        self.meant().timeout().is_some_and(|(at, form)| form.is_given(self.arguments()[at]))
    }

    /// Its time-out, where its arguments have it as a number and not in memory.
    pub fn timeout_in_arguments(&self) -> Option<Duration> {
        self.syscall.timeout_in(&self.args)
    }
}

/// What the kernel's record says about the fd a call waits on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FdState {
    /// The call has no fd.
    None,
    /// Open, with what its file is.
    Open(OpenFile),
    /// The call's fd was not open when it was looked up.
    Absent,
    /// The source does not see into the kernel: `/proc/PID/fd` has to say.
    Unknown,
}

impl FdState {
    /// The file, if it is known.
    pub fn file(&self) -> Option<&OpenFile> {
        match self {
            FdState::Open(file) => Some(file),
            FdState::None | FdState::Absent | FdState::Unknown => None,
        }
    }

    /// Inode number of the file, if it is known.
    pub fn inode(&self) -> Option<u64> {
        self.file().map(|file| file.inode)
    }
}

/// What lies unread in the queue of a unix socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Queued {
    /// Nothing.
    #[default]
    Nothing,
    /// So many messages.
    Messages(u32),
    /// Bytes, in nobody knows how many messages.
    Bytes,
}

/// The two ends of a unix socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnixFacts {
    /// Address of this end; an abstract one begins with `@`.
    pub path: Option<String>,
    /// Address of the peer.
    pub peer_path: Option<String>,
    /// Inode of the peer's socket.
    pub peer_inode: Option<u64>,
    /// Process that made the peer's end.
    pub peer_pid: Option<u32>,
    /// What we sent that lies unread in the peer's queue.
    pub unread: Queued,
    /// How many messages the peer's queue takes, where that is bounded by their number.
    pub peer_limit: Option<u32>,
    /// It is connected, and nobody has accepted the connection yet.
    pub unaccepted: bool,
    /// What waits in its own queue, where that is a listener's, or one of datagrams.
    pub backlog: Option<Backlog>,
    /// `SO_RCVTIMEO`, if it is set and that is seen.
    pub receive_timeout: Option<Duration>,
    /// `SO_SNDTIMEO`, likewise.
    pub send_timeout: Option<Duration>,
}

/// What a UDP socket keeps of itself: no time, and no counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpFacts {
    /// Its program has received a datagram on it.
    pub has_received: bool,
    /// `SO_RCVTIMEO`, if set.
    pub receive_timeout: Option<Duration>,
    /// `SO_SNDTIMEO`, if set.
    pub send_timeout: Option<Duration>,
}

/// What a source saw of the socket behind the fd. The facts lie apart: most of a host's waits have none, and all waits are moved at
/// each look.
#[derive(Clone, Debug, PartialEq)]
pub enum SocketFacts {
    /// Nothing, or not a socket with facts.
    None,
    /// A TCP connection.
    Tcp(Box<TcpFacts>),
    /// A unix socket.
    Unix(Box<UnixFacts>),
    /// A UDP socket.
    Udp(UdpFacts),
}

impl SocketFacts {
    /// The socket's own time-out for who sends, or for who receives, if it is set and that is seen.
    pub fn timeout(&self, sends: bool) -> Option<Duration> {
        let (receive, send) = match self {
            SocketFacts::Tcp(facts) => return facts.timeout(sends),
            SocketFacts::Unix(facts) => (facts.receive_timeout, facts.send_timeout),
            SocketFacts::Udp(facts) => (facts.receive_timeout, facts.send_timeout),
            SocketFacts::None => return None,
        };
        if sends { send } else { receive }
    }

    /// What was seen of a TCP connection.
    pub fn tcp(&self) -> Option<&TcpFacts> {
        match self {
            SocketFacts::Tcp(facts) => Some(facts),
            SocketFacts::Unix(_) | SocketFacts::Udp(_) | SocketFacts::None => None,
        }
    }

    /// What was seen of a unix socket.
    pub fn unix(&self) -> Option<&UnixFacts> {
        match self {
            SocketFacts::Unix(facts) => Some(facts),
            SocketFacts::Tcp(_) | SocketFacts::Udp(_) | SocketFacts::None => None,
        }
    }

    /// What waits in its queue, where that is a listener's, or one of datagrams.
    pub fn backlog(&self) -> Option<Backlog> {
        match self {
            SocketFacts::Tcp(facts) => facts.backlog,
            SocketFacts::Unix(facts) => facts.backlog,
            SocketFacts::Udp(_) | SocketFacts::None => None,
        }
    }
}

/// An fd that was looked up.
#[derive(Clone, Debug, PartialEq)]
pub struct SeenFd {
    /// Whose.
    pub thread: ThreadId,
    /// Its number.
    pub fd: i32,
    /// What it is.
    pub state: FdState,
    /// What the source saw of the socket.
    pub socket: SocketFacts,
    /// Of a terminal, whether its output goes on. `None`: not a terminal, or not to be seen.
    pub flow: Option<OutputFlow>,
}

/// A request of io_uring that a thread waits for.
#[derive(Clone, Debug, PartialEq)]
pub struct RingRequest {
    /// Whose.
    pub thread: ThreadId,
    /// The fd that it is on; `None`: a file that is registered with the ring.
    pub fd: Option<i32>,
    /// What it wants of it.
    pub interest: Interest,
    /// What the file is.
    pub state: FdState,
    /// What the source saw of the socket.
    pub socket: SocketFacts,
}

/// Whether what is written to a terminal leaves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputFlow {
    /// It does, as far as somebody reads it.
    Runs,
    /// It was stopped, by Ctrl-S or by tcflow(3).
    Stopped,
}

/// A thread asleep inside one system call.
#[derive(Clone, Debug, PartialEq)]
pub struct Wait {
    /// Which thread.
    pub thread: ThreadId,
    /// Name of the thread; of at most 15 bytes, so that it is kept in place.
    pub comm: CompactString,
    /// User of the thread.
    pub uid: u32,
    /// How it sleeps.
    pub sleep: Sleep,
    /// The call it is in.
    pub call: Call,
    /// The fd that matters.
    pub fd: Option<i32>,
    /// What the source saw of that fd.
    pub fd_state: FdState,
    /// What the source saw of the socket.
    pub socket: SocketFacts,
    /// How long it has lasted.
    pub age: Duration,
    /// Its start was seen; otherwise it is derived, and may be a lower bound ([`Wait::is_lower_bound`]).
    pub exact: bool,
    /// When it began.
    pub since: Timestamp,
    /// When it began, nanoseconds of `CLOCK_MONOTONIC`.
    pub began_ns: u64,
    /// When the present sleep began, likewise: later than the wait where the thread woke in between and nothing had
    /// moved. Tells one sleep from the next.
    pub sleep_began_ns: u64,
    /// Context switches of the thread so far: unchanged between two snapshots means the same sleep.
    pub switches: u64,
}

/// A sleep that has ended, as the kernel saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedSleep {
    /// Whose.
    pub thread: ThreadId,
    /// When it began, nanoseconds of `CLOCK_MONOTONIC`.
    pub began_ns: u64,
    /// When it ended, likewise.
    pub ended_ns: u64,
    /// Its thread or its process is on its way out.
    pub exiting: bool,
    /// A signal woke it: its call may go on where it was.
    pub signalled: bool,
}

/// Why a thread that looks asleep in its call is not waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspended {
    /// By a stop signal.
    Stopped,
    /// By a debugger.
    Traced,
    /// By the freezer of its cgroup.
    Frozen,
}

impl Suspended {
    /// Every one of them.
    pub const ALL: [Suspended; 3] = [Suspended::Stopped, Suspended::Traced, Suspended::Frozen];

    /// Its name in output.
    pub fn label(self) -> &'static str {
        match self {
            Suspended::Stopped => "stopped",
            Suspended::Traced => "traced",
            Suspended::Frozen => "frozen",
        }
    }
}

/// A thread that is stopped, traced or frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuspendedThread {
    /// Which thread.
    pub thread: ThreadId,
    /// By what.
    pub by: Suspended,
    /// The signal that stopped it; `None`: none did, or the source does not say which.
    pub signal: Option<StopSignal>,
}

/// The signals that stop a process (signal(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopSignal {
    /// SIGSTOP: somebody sent it.
    Stop,
    /// SIGTSTP: Ctrl-Z at its terminal.
    Suspend,
    /// SIGTTIN: it read its terminal from the background.
    BackgroundRead,
    /// SIGTTOU: it wrote to its terminal, or changed it, from the background.
    BackgroundWrite,
}

impl StopSignal {
    /// By its number.
    pub fn of(number: i32) -> Option<Self> {
        match number {
            libc::SIGSTOP => Some(Self::Stop),
            libc::SIGTSTP => Some(Self::Suspend),
            libc::SIGTTIN => Some(Self::BackgroundRead),
            libc::SIGTTOU => Some(Self::BackgroundWrite),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "SIGSTOP",
            Self::Suspend => "SIGTSTP",
            Self::BackgroundRead => "SIGTTIN",
            Self::BackgroundWrite => "SIGTTOU",
        }
    }

    /// Whether its terminal stopped it, as it is not in the foreground: it stops again when it goes on there.
    pub fn is_for_background(self) -> bool {
        matches!(self, Self::BackgroundRead | Self::BackgroundWrite)
    }
}

/// A thread in one sleep of its.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sleeper {
    /// The thread.
    pub thread: ThreadId,
    /// Its context switches so far: more mean another sleep.
    pub switches: u64,
}

impl Wait {
    /// Who sleeps, and which of its sleeps it is.
    pub fn sleeper(&self) -> Sleeper {
        Sleeper { thread: self.thread, switches: self.switches }
    }

    /// Whether nobody but other threads or processes of this host may end it, as far as its call says: it has no time-out, and is for a
    /// child, a lock, a word in memory, or on a pipe or socket.
    pub fn may_be_for_others(&self) -> bool {
        if self.call.is_timed() {
            return false;
        }
        match self.call.operation() {
            Operation::Child | Operation::Lock | Operation::Futex | Operation::Poll | Operation::Select => {
                true
            }
            Operation::Fcntl => self.call.waits_for_file_lock(),
            _ => match &self.fd_state {
                FdState::Open(file) => matches!(file.kind(), FileKind::Fifo | FileKind::Socket),
                // By `/proc` alone it is known once it is resolved.
                FdState::Unknown => true,
                FdState::None | FdState::Absent => false,
            },
        }
    }

    /// Dates the wait back: it has lasted longer than the present sleep.
    pub fn date_back(&mut self, began_ns: u64) {
        let Some(earlier) = self.began_ns.checked_sub(began_ns).filter(|earlier| *earlier > 0) else {
            return;
        };
        self.began_ns = began_ns;
        self.age += Duration::from_nanos(earlier);
        self.since =
            self.since.checked_sub(jiff::SignedDuration::from_nanos(earlier as i64)).unwrap_or(self.since);
        self.exact = false;
    }

    /// Whether its thread is on its way out, and makes no call any more.
    pub fn is_leaving(&self) -> bool {
        self.call.number.is_none() && self.call.operation() == Operation::Exit
    }

    /// When it was seen, nanoseconds of `CLOCK_MONOTONIC`.
    pub fn seen_ns(&self) -> u64 {
        self.began_ns.saturating_add(self.age.as_nanos() as u64)
    }

    /// Whether it may have begun before `since`: its start was not seen, and no connection's own stamps say when it was, which is as
    /// good as seen.
    pub fn is_lower_bound(&self) -> bool {
        !self.exact && self.began_ns >= self.sleep_began_ns
    }

    /// How long the present sleep has lasted.
    pub fn asleep(&self) -> Duration {
        self.age.saturating_sub(Duration::from_nanos(self.sleep_began_ns - self.began_ns))
    }
}

/// All waits on the host at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When it was taken, nanoseconds of `CLOCK_MONOTONIC`.
    pub monotonic_ns: u64,
    /// What made it: `bpf` or `proc`.
    pub source: &'static str,
    /// How long it took.
    pub duration: Duration,
    /// The waits, in no order.
    pub waits: Vec<Wait>,
    /// Threads that are suspended, in no order.
    pub suspended: Vec<SuspendedThread>,
    /// Ages do not only count from the source's first look.
    pub dated: bool,
    /// Waits whose call is known by the kernel function they sleep in only.
    pub guessed: usize,
    /// Threads that sleep, and whose call this user may not see.
    pub hidden: Vec<ThreadId>,
}

impl Snapshot {
    /// One with nothing in it yet.
    pub fn empty(now: &Now, source: &'static str) -> Self {
        Self {
            monotonic_ns: now.monotonic_ns,
            source,
            duration: Duration::ZERO,
            waits: Vec::new(),
            suspended: Vec::new(),
            dated: true,
            guessed: 0,
            hidden: Vec::new(),
        }
    }
}

/// The waits of a moment by process. The index is made when it is first asked, once.
pub struct ByProcess<'a> {
    waits: &'a [Wait],
    index: OnceCell<HashMap<u32, Vec<&'a Wait>>>,
}

impl<'a> ByProcess<'a> {
    /// Of these waits.
    pub fn new(waits: &'a [Wait]) -> Self {
        Self { waits, index: OnceCell::new() }
    }

    /// The waits of a process, in their order.
    pub fn of(&self, pid: u32) -> &[&'a Wait] {
        let index = self.index.get_or_init(|| {
            let mut index: HashMap<u32, Vec<&Wait>> = HashMap::new();
            for wait in self.waits {
                index.entry(wait.thread.process.pid).or_default().push(wait);
            }
            index
        });
        index.get(&pid).map_or(&[], Vec::as_slice)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &'a Wait> {
        self.waits.iter()
    }

    /// How many of them there are for which this holds.
    pub fn count(&self, holds: impl Fn(&Wait) -> bool) -> usize {
        self.waits.iter().filter(|wait| holds(wait)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All waits of the host are made, sorted and moved at each look: with thousands of them, that is most of what a look costs.
    #[test]
    fn a_wait_stays_small() {
        for (name, size, most) in [
            ("Wait", size_of::<Wait>(), 320),
            ("SocketFacts", size_of::<SocketFacts>(), 64),
            ("FdState", size_of::<FdState>(), 64),
            ("Call", size_of::<Call>(), 72),
        ] {
            assert!(size <= most, "{name} takes {size} bytes, more than {most}");
        }
    }
}
