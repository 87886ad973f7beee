//! A call that was reported to wait, until its end is reported. Pure.

use std::time::Duration;

use crate::{model::wait::Wait, resolve::Resolved};

/// A call that was reported to wait.
pub struct ReportedWait {
    /// As it was seen last.
    pub wait: Wait,
    /// What it waits on.
    pub resolved: Resolved,
    /// At the last look it was not there any more: its end, if it is not in the ring yet, is about to be.
    pub missed: bool,
}

/// What a look sees of a thread that was reported to wait.
#[derive(Clone, Copy)]
pub enum Seen<'a> {
    /// It waits.
    Asleep(&'a Wait),
    /// It runs, or is about to.
    Awake,
    /// There is no such thread any more.
    Gone,
}

/// How ends are reported.
#[derive(Clone, Copy)]
pub struct EndReports {
    /// By programs at the exit of calls, not at context switches.
    pub by_calls: bool,
    /// All that were seen until so long ago have been taken.
    pub taken: Duration,
    /// No more will be.
    pub last: bool,
}

/// What is to be done about one that was reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It waits, or its end will be seen.
    Keep,
    /// Its end will not be reported, and need not be.
    Forget,
    /// It has ended, and nobody else reports it.
    End,
}

impl ReportedWait {
    /// Has it ended without being seen to? A page fault is no call, so no program sees it return; some kernels hide a context
    /// switch now and then, or skip a program; and a ring may be full.
    pub fn next(&mut self, seen: Seen, ends: EndReports) -> Next {
        let away = match seen {
            Seen::Asleep(_) => false,
            Seen::Awake => ends.by_calls,
            Seen::Gone => true,
        };
        // By then its end would have been taken.
        let twice = std::mem::replace(&mut self.missed, away) && away || ends.last;
        match seen {
            Seen::Asleep(wait) if wait.switches == self.wait.switches => Next::Keep,
            _ if ends.by_calls && self.wait.call.number.is_none() => Next::End,
            // What came before was over when ends were taken last. A call may sleep more than once.
            Seen::Asleep(wait) if wait.asleep() > ends.taken && !(ends.by_calls && self.may_be(wait)) => {
                Next::End
            }
            Seen::Gone if twice => Next::End,
            Seen::Awake if ends.by_calls && twice => Next::Forget,
            _ => Next::Keep,
        }
    }

    fn may_be(&self, wait: &Wait) -> bool {
        (self.wait.call.syscall, self.wait.call.args) == (wait.call.syscall, wait.call.args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::verdict::tests as samples,
        model::syscalls::{Direction, Syscall},
        model::target::Target,
        model::wait::{ProcessId, ThreadId},
    };

    const CALLS: EndReports = EndReports { by_calls: true, taken: Duration::from_millis(5), last: false };
    const WAITS: EndReports = EndReports { by_calls: false, ..CALLS };

    /// In its third sleep, for 300 ms.
    fn reported(number: Option<i32>) -> ReportedWait {
        ReportedWait {
            wait: asleep(number, 3, 300),
            resolved: Resolved::new(Some(3), Target::None, Some(Direction::Receive)),
            missed: false,
        }
    }

    fn asleep(number: Option<i32>, switches: u64, ms: u64) -> Wait {
        let thread = ThreadId { process: ProcessId { pid: 7, start_ns: 1 }, tid: 7, start_ns: 1 };
        let mut wait = samples::wait(Syscall::Read, [3, 0, 0, 0, 0, 0]);
        wait.call.number = number;
        Wait { thread, switches, age: Duration::from_millis(ms), ..wait }
    }

    #[test]
    fn what_waits_is_kept() {
        for ends in [CALLS, WAITS] {
            assert_eq!(reported(Some(0)).next(Seen::Asleep(&asleep(Some(0), 3, 900)), ends), Next::Keep);
        }
    }

    #[test]
    fn a_hidden_switch_ends_with_the_next_sleep() {
        assert_eq!(reported(Some(0)).next(Seen::Asleep(&asleep(Some(0), 4, 900)), WAITS), Next::End);
        assert_eq!(
            reported(Some(0)).next(Seen::Asleep(&asleep(Some(0), 4, 2)), WAITS),
            Next::Keep,
            "it may be in the ring"
        );
    }

    #[test]
    fn a_lost_end_comes_with_another_call() {
        let mut other = asleep(Some(0), 4, 900);
        assert_eq!(reported(Some(0)).next(Seen::Asleep(&other), CALLS), Next::Keep, "the same call, perhaps");
        other.call.args[0] = 9;
        assert_eq!(reported(Some(0)).next(Seen::Asleep(&other), CALLS), Next::End);
        other.age = Duration::from_millis(2);
        assert_eq!(reported(Some(0)).next(Seen::Asleep(&other), CALLS), Next::Keep, "it may be in the ring");
    }

    #[test]
    fn the_end_of_a_thread_is_the_end() {
        for ends in [CALLS, WAITS] {
            let mut told = reported(Some(0));
            assert_eq!(told.next(Seen::Gone, ends), Next::Keep, "it may be in the ring");
            assert_eq!(told.next(Seen::Gone, ends), Next::End);
            let last = EndReports { last: true, ..ends };
            assert_eq!(super::tests::reported(Some(0)).next(Seen::Gone, last), Next::End);
        }
    }

    #[test]
    fn who_is_awake_may_not_have_got_the_cpu_yet() {
        let mut told = reported(Some(0));
        for _ in 0..5 {
            assert_eq!(told.next(Seen::Awake, WAITS), Next::Keep);
        }
    }

    #[test]
    fn calls_are_seen_to_return_and_page_faults_are_not() {
        assert_eq!(reported(None).next(Seen::Asleep(&asleep(None, 4, 900)), CALLS), Next::End);
        assert_eq!(reported(None).next(Seen::Awake, CALLS), Next::End);
        let mut told = reported(Some(0));
        assert_eq!(told.next(Seen::Awake, CALLS), Next::Keep);
        assert_eq!(told.next(Seen::Awake, CALLS), Next::Forget);
    }
}
