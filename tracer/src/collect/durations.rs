//! How long the waits of each process took that have ended meanwhile, by the power of two.

use std::collections::HashMap;

use super::ended::EndedWaits;
use crate::{
    model::{histogram::BUCKETS, wait::ProcessId},
    procfs::Reads,
    wire::durations::Durations,
};

/// Processes that are kept.
const PROCESSES_MAX: usize = 10_000;
/// So many newcomers are refused before room is made for them again.
const REFUSED_MAX: usize = 100;

/// Of all processes.
#[derive(Debug, Default)]
pub struct AllDurations {
    of: HashMap<ProcessId, Durations>,
    /// Processes there was no room for.
    refused: usize,
}

impl AllDurations {
    /// Adds waits that have ended.
    pub fn add(&mut self, ended: &EndedWaits) {
        let process = ended.process;
        if self.of.len() >= PROCESSES_MAX && !self.of.contains_key(&process) {
            // Finding the dead costs a look at each of all: not for every newcomer.
            if self.refused.is_multiple_of(REFUSED_MAX) {
                let mut reads = Reads::new();
                self.of.retain(|process, _| reads.exists(*process));
            }
            self.refused += 1;
            if self.of.len() >= PROCESSES_MAX {
                return;
            }
        }
        let of = self
            .of
            .entry(process)
            .or_insert_with(|| Durations { comm: ended.comm.to_string(), buckets: [0; BUCKETS] });
        for (sum, more) in of.buckets.iter_mut().zip(ended.histogram.buckets) {
            *sum += more;
        }
    }

    /// Of the process with this id and start; without a start, of the one that has the id now: the youngest that had it.
    pub fn of(&self, pid: u32, start_ticks: Option<u64>) -> Option<&Durations> {
        let is = |process: &ProcessId| {
            process.pid == pid && start_ticks.is_none_or(|start| process.start_ticks() == Some(start))
        };
        let named = self.of.iter().filter(|(process, _)| is(process));
        named.max_by_key(|(process, _)| process.start_ns).map(|(_, durations)| durations)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{histogram::WaitHistogram, syscalls::Syscall};

    fn add(all: &mut AllDurations, pid: u32, start_ns: u64, buckets: [u64; BUCKETS]) {
        let process = ProcessId { pid, start_ns };
        let histogram = WaitHistogram { count: 1, sum_ns: 1, buckets };
        all.add(&EndedWaits { process, comm: "".into(), syscall: Syscall::Read, file: None, histogram });
    }

    #[test]
    fn a_start_tells_apart_who_has_had_an_id() {
        let mut all = AllDurations::default();
        for second in [5, 7] {
            add(&mut all, 10, second * 1_000_000_000, [second; BUCKETS]);
        }
        let second = |start| all.of(10, start).map(|of| of.buckets[0]);
        let ticks = |second: u64| ProcessId { pid: 10, start_ns: second * 1_000_000_000 }.start_ticks();
        assert_eq!(
            [second(None), second(ticks(5)), second(ticks(7)), second(ticks(6))],
            [Some(7), Some(5), Some(7), None]
        );
    }

    #[test]
    fn the_dead_make_room_for_newcomers() {
        let add = |all: &mut AllDurations, pid: u32| add(all, pid, 1, [1; BUCKETS]);
        let mut all = AllDurations::default();
        let own = std::process::id();
        add(&mut all, own);
        // No process has such ids.
        for pid in 1..=3 * PROCESSES_MAX as u32 {
            add(&mut all, 1 << 22 | pid);
        }
        add(&mut all, 1);
        assert!(all.of(1, None).is_some() && all.of(own, None).is_some(), "the living are kept");
        assert!(all.of.len() <= PROCESSES_MAX);
    }
}
