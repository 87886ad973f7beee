//! Which process and which thread, for ever.

use crate::util::clock::{self};

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

/// Who waits, for ever: a thread, or a process on one of its connections, where it has asked and no thread of it waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ThreadId {
    /// The process it belongs to.
    pub process: ProcessId,
    /// Thread id in the host's PID namespace; 0 for a connection.
    pub tid: u32,
    /// When it started, nanoseconds of `CLOCK_BOOTTIME`; for a connection the inode of its socket.
    pub start_ns: u64,
}

impl ThreadId {
    /// The first thread of a process, which is there as long as the process.
    pub fn leader(process: ProcessId) -> Self {
        Self { process, tid: process.pid, start_ns: process.start_ns }
    }

    /// A process on one of its connections, by the inode of that one's socket.
    pub fn of_request(process: ProcessId, inode: u64) -> Self {
        Self { process, tid: 0, start_ns: inode }
    }

    /// Whether it is no thread: see [`of_request`](Self::of_request).
    pub fn is_request(&self) -> bool {
        self.tid == 0
    }

    /// The thread whose descriptors are the ones meant, and which lives as long.
    pub fn in_kernel(self) -> Self {
        if self.is_request() { Self::leader(self.process) } else { self }
    }
}
