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
