//! What can be lost, as a table: the one place where a loss is named. The metric's label, docs/METRICS.md, the alerts' severity
//! and the sentence on standard error come from it.

use anyhow::Result;
use tracer_ebpf::abi::Counter;

use crate::{kernel::load::Kernel, util::human};

/// What a loss costs: the documentation and the alerts are held against it.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// A message or a record of a stall: somebody is to be told.
    Message,
    /// Statistics.
    Statistics,
}

#[cfg(test)]
impl Cost {
    /// Severity of the alert.
    pub fn severity(self) -> &'static str {
        match self {
            Cost::Message => "warning",
            Cost::Statistics => "info",
        }
    }
}

macro_rules! losses {
    ($($name:ident = $reason:literal, $cost:ident, $counter:expr, $means:literal;)+) => {
        /// Something that could not be recorded.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Loss {
            $(#[doc = $means] $name,)+
        }

        impl Loss {
            /// Every one, by reason.
            pub const ALL: &[Loss] = &[$(Loss::$name),+];

            /// Its name: `reason` in metrics.
            pub fn reason(self) -> &'static str {
                match self { $(Loss::$name => $reason),+ }
            }

            /// What it costs.
            #[cfg(test)]
            pub fn cost(self) -> Cost {
                match self { $(Loss::$name => Cost::$cost),+ }
            }

            /// Where the kernel programs count it; `None` if it is counted in user space.
            fn counter(self) -> Option<Counter> {
                match self { $(Loss::$name => $counter),+ }
            }

            /// What it means, in sentences.
            #[cfg(test)]
            pub fn means(self) -> &'static str {
                match self { $(Loss::$name => $means),+ }
            }
        }
    };
}

losses! {
    AnswersFull = "answers_full", Statistics, Some(Counter::AnswersFull),
        "An answer was not counted because there were more than 4,096 pairs of program and service in one interval, or no memory \
         (`response_times` only).";
    CallsFull = "calls_full", Statistics, Some(Counter::CallsFull),
        "A call was not followed because too many were in progress (`--probes calls` only).";
    EndUnseen = "end_unseen", Statistics, Some(Counter::EndUnseen),
        "A wait was not timed because the kernel did not report that the thread got the CPU back. Some virtual machines hide \
         context switches from threads of their own.";
    EventsUnread = "events_unread", Message, None,
        "An event was dropped because nobody read standard output, or the journal did not take it.";
    HistogramFull = "histogram_full", Statistics, Some(Counter::HistogramFull),
        "An ended wait was not counted because there were more than 8,192 kinds of them in one interval.";
    HistoryUnwritten = "history_unwritten", Message, None,
        "The start or end of a stall, or a minute's worst waits, could not be written to the history, usually because the disk is \
         full. Stalls are written later if possible, minutes are not.";
    HookFailed = "hook_failed", Message, None,
        "`on_stall` or `on_incident` failed twice for one event.";
    HookNotRun = "hook_not_run", Message, None,
        "`on_stall` or `on_incident` was not run for an event because there were too many.";
    LookCut = "look_cut", Statistics, None,
        "A wait that was due to be examined or flagged was not reached. A look may spend half of the interval on this, and at \
         least half a second. The wait comes first in the next look.";
    LookFailed = "look_failed", Statistics, None,
        "A whole look at the host failed, usually because descriptors had run out. The next look makes up for it.";
    ReadFailed = "read_failed", Statistics, Some(Counter::ReadFailed),
        "A kernel pointer on the way to a wait's target could not be read, so the target is unknown.";
    ReadsAbandoned = "reads_abandoned", Statistics, None,
        "A read of another process did not return in time, because of a page that never arrives or a lock that a hanging process \
         holds. That process is left alone for a while.";
    RequestsMissed = "requests_missed", Statistics, None,
        "A walk over all sockets did not finish, or more than 4,096 connections were waiting for an answer. The oldest of each user are \
         followed.";
    RingFull = "ring_full", Statistics, Some(Counter::RingFull),
        "The end of a long wait was not reported because the agent had no CPU for some time. The next snapshot finds that it has \
         ended.";
    RunsSkipped = "runs_skipped", Statistics, None,
        "The kernel skipped a program that was already running on that CPU.";
    SlotFailed = "slot_failed", Statistics, Some(Counter::SlotFailed),
        "The kernel had no memory for a thread's slot, usually because the agent's control group was full. Only snapshots see the \
         thread's waits until one of them has made the slot.";
    SlotMissing = "slot_missing", Statistics, Some(Counter::SlotMissing),
        "A thread went to sleep before it had a slot, so its first wait was not timed.";
    StateUnsaved = "state_unsaved", Message, None,
        "Baselines and announced stalls could not be written, or an earlier write has not returned. After a restart, stalls may be \
         announced again.";
}

impl Loss {
    /// That it has happened so often, for standard error.
    pub fn sentence(self, times: u64) -> String {
        format!("{} lost: {}", human::count(times as usize, "record"), self.reason())
    }
}

/// What the kernel programs have lost, so far.
pub fn of_programs(kernel: &Kernel) -> Result<Vec<(Loss, u64)>> {
    let counters = Loss::ALL.iter().filter_map(|loss| Some((*loss, loss.counter()?)));
    counters.map(|(loss, counter)| Ok((loss, kernel.counter(counter)?))).collect()
}

/// The same as one number.
pub fn number_of_programs(kernel: &Kernel) -> Result<u64> {
    Ok(of_programs(kernel)?.into_iter().map(|(_, number)| number).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_in_order_and_each_has_a_name_and_a_counter_of_its_own() {
        let reasons: Vec<_> = Loss::ALL.iter().map(|loss| loss.reason()).collect();
        assert!(reasons.is_sorted_by(|a, b| a < b), "{reasons:?}");
        let counters: Vec<_> = Loss::ALL.iter().filter_map(|loss| loss.counter()).collect();
        assert!((1..counters.len()).all(|at| !counters[..at].contains(&counters[at])), "{counters:?}");
        // Two of the programs' counters are of waits.
        assert_eq!(counters.len(), Counter::COUNT as usize - 2);
    }

    /// The rules name the reasons of one severity; the other's is for all others.
    #[test]
    fn the_alerts_are_as_severe_as_the_table_says() {
        let rules = include_str!("../../../deploy/prometheus/tracer.rules.yml");
        let listed = rules.split_once("tracer_lost_events_total{reason=~\"").expect("an alert").1;
        let mut listed: Vec<_> = listed.split_once('"').expect("a list").0.split('|').collect();
        listed.sort_unstable();
        let messages = Loss::ALL.iter().filter(|loss| loss.cost() == Cost::Message);
        assert_eq!(listed, messages.map(|loss| loss.reason()).collect::<Vec<_>>());
    }

    #[test]
    fn a_loss_is_said_in_one_line() {
        assert_eq!(Loss::RingFull.sentence(1), "1 record lost: ring_full");
        assert_eq!(Loss::RunsSkipped.sentence(2), "2 records lost: runs_skipped");
    }
}
