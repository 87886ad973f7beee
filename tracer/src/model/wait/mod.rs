//! The domain types everything after `collect` speaks: a wait, the snapshot it is part of, and who it is.
//!
//! Part of `model`, layer 0: uses nothing of tracer but the rest of `model` and `util`. Here is the wait itself; `ids` says who it is, `call`
//! which system call, `fd` what is known of its file or socket, `suspended` what only looks like a wait, `snapshot` all of a moment.

mod call;
mod fd;
mod ids;
mod snapshot;
mod suspended;

pub use self::{
    call::Call,
    fd::{FdState, OutputFlow, Queued, RingRequest, SeenFd, SocketFacts, UdpFacts, UnixFacts},
    ids::{ProcessId, ThreadId, may_be_same_start},
    snapshot::{ByProcess, Snapshot},
    suspended::{StopSignal, Suspended, SuspendedThread},
};

use std::{
    num::{NonZeroU32, NonZeroU64},
    time::Duration,
};

use compact_str::CompactString;
use jiff::Timestamp;

use super::{file::FileKind, syscalls::Operation};

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
    /// When the present sleep began, likewise: later than the wait where the thread woke in between and nothing had moved, earlier
    /// where something moved while it slept. Tells one sleep from the next.
    pub sleep_began_ns: u64,
    /// Context switches of the thread so far: unchanged between two snapshots means the same sleep.
    pub switches: u64,
    /// Which set of cgroups its process is in, where the source tells: at one look, processes with the same number are in the same
    /// cgroups.
    pub cgroups: Option<NonZeroU64>,
    /// The id of the mount that the fd's file is on, where the source tells.
    pub mount: Option<NonZeroU32>,
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

    /// Dates the wait forward: something has moved since its sleep began, and what it waits for now it waits for since then.
    pub fn date_forward(&mut self, began_ns: u64) {
        let Some(later) = began_ns.checked_sub(self.began_ns).filter(|later| *later > 0) else { return };
        let later = Duration::from_nanos(later).min(self.age);
        self.began_ns += later.as_nanos() as u64;
        self.age -= later;
        self.since = self.since.checked_add(later).unwrap_or(self.since);
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
        !self.exact && self.began_ns == self.sleep_began_ns
    }

    /// How long the present sleep has lasted.
    pub fn asleep(&self) -> Duration {
        Duration::from_nanos(self.seen_ns().saturating_sub(self.sleep_began_ns))
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
