//! How long the waits of each process took that have ended meanwhile, by the power of two.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use tracer_ebpf::abi::{BUCKETS, Histogram, WaitKey};

use crate::{collect::bpf::text, wait::ProcessId};

/// Processes that are kept.
const MOST: usize = 10_000;

/// Of one process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Durations {
    /// Name of the process.
    pub comm: String,
    /// Waits by duration: the first bucket has those shorter than 2 to the power of `FIRST_BUCKET_LOG2` µs, each next one
    /// those shorter than twice that, the last one all that were longer.
    pub buckets: [u64; BUCKETS],
}

/// Of all processes.
#[derive(Debug, Default)]
pub struct AllDurations(HashMap<ProcessId, Durations>);

impl AllDurations {
    /// Adds waits that have ended.
    pub fn add(&mut self, key: &WaitKey, histogram: &Histogram) {
        let process = ProcessId { pid: key.tgid, start_ns: key.process_start_ns };
        if self.0.len() >= MOST && !self.0.contains_key(&process) {
            return;
        }
        let of = self
            .0
            .entry(process)
            .or_insert_with(|| Durations { comm: text(&histogram.comm), buckets: [0; BUCKETS] });
        for (sum, more) in of.buckets.iter_mut().zip(histogram.buckets) {
            *sum += u64::from(more);
        }
    }

    /// Of the process that has this id now: the youngest that had it.
    pub fn of(&self, pid: u32) -> Option<&Durations> {
        let named = self.0.iter().filter(|(process, _)| process.pid == pid);
        named.max_by_key(|(process, _)| process.start_ns).map(|(_, durations)| durations)
    }
}
