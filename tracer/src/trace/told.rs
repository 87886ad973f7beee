//! A call that was told to wait, until its end is told. Pure.

use std::time::Duration;

use crate::{resolve::Resolved, wait::Wait};

/// A call that was told to wait.
pub struct Told {
    /// As it was seen last.
    pub wait: Wait,
    /// What it waits on.
    pub resolved: Resolved,
    /// At the last look it was not there any more: its end, if it is not in the ring yet, is about to be.
    pub missed: bool,
}

/// What a look sees of a thread that was told to wait.
#[derive(Clone, Copy)]
pub enum Seen {
    /// It waits: how many context switches it has made, and how long it has been asleep.
    Asleep { switches: u64, asleep: Duration },
    /// It runs, or is about to.
    Awake,
    /// There is no such thread any more.
    Gone,
}

/// Who else tells of ends.
#[derive(Clone, Copy)]
pub enum Teller {
    /// Programs at the exit of calls.
    Calls,
    /// A program at context switches. All that it saw until so long ago has been printed.
    Waits { taken: Duration },
}

/// What is to be done about one that was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It waits, or its end will be seen.
    Keep,
    /// Its end will not be told, and need not be.
    Forget,
    /// It has ended, and nobody else tells.
    End,
}

impl Told {
    /// Has it ended without being seen to? A page fault is no call, so no program sees it return; and some kernels hide a
    /// context switch now and then.
    pub fn next(&mut self, seen: Seen, teller: Teller) -> Next {
        let is_gone = match (seen, teller) {
            (Seen::Asleep { .. }, _) => false,
            (Seen::Awake, Teller::Calls) => true,
            (Seen::Awake, Teller::Waits { .. }) => false,
            (Seen::Gone, _) => true,
        };
        let twice = std::mem::replace(&mut self.missed, is_gone) && is_gone;
        match (seen, teller) {
            (Seen::Asleep { switches, .. }, _) if switches == self.wait.switches => Next::Keep,
            (_, Teller::Calls) if self.wait.call.number < 0 => Next::End,
            (_, Teller::Calls) => {
                if twice {
                    Next::Forget
                } else {
                    Next::Keep
                }
            }
            // The sleep before was over when the last end was taken.
            (Seen::Asleep { asleep, .. }, Teller::Waits { taken }) if asleep > taken => Next::End,
            (Seen::Gone, Teller::Waits { .. }) if twice => Next::End,
            (_, Teller::Waits { .. }) => Next::Keep,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        resolve::target::Target,
        syscalls::Way,
        wait::{ProcessId, ThreadId},
    };

    const TAKEN: Duration = Duration::from_millis(5);

    /// In its third sleep.
    fn told(number: i32) -> Told {
        let thread = ThreadId { process: ProcessId { pid: 7, start_ns: 1 }, tid: 7, start_ns: 1 };
        let mut wait = Wait::reading(thread, 3);
        wait.switches = 3;
        wait.call.number = number;
        Told { wait, resolved: Resolved::new(Some(3), Target::None, Way::In), missed: false }
    }

    fn asleep(switches: u64, ms: u64) -> Seen {
        Seen::Asleep { switches, asleep: Duration::from_millis(ms) }
    }

    #[test]
    fn what_waits_is_kept() {
        for teller in [Teller::Calls, Teller::Waits { taken: TAKEN }] {
            assert_eq!(told(0).next(asleep(3, 900), teller), Next::Keep);
        }
    }

    #[test]
    fn a_hidden_switch_ends_with_the_next_sleep_or_the_thread() {
        let waits = Teller::Waits { taken: TAKEN };
        assert_eq!(told(0).next(asleep(4, 900), waits), Next::End);
        assert_eq!(told(0).next(asleep(4, 2), waits), Next::Keep, "its end may be in the ring");
        let mut told = told(0);
        assert_eq!(told.next(Seen::Gone, waits), Next::Keep, "its end may be in the ring");
        assert_eq!(told.next(Seen::Gone, waits), Next::End);
    }

    #[test]
    fn who_is_awake_may_not_have_got_the_cpu_yet() {
        let mut told = told(0);
        for _ in 0..5 {
            assert_eq!(told.next(Seen::Awake, Teller::Waits { taken: TAKEN }), Next::Keep);
        }
    }

    #[test]
    fn calls_are_seen_to_return_and_page_faults_are_not() {
        assert_eq!(told(0).next(asleep(4, 900), Teller::Calls), Next::Keep, "the same call, perhaps");
        assert_eq!(told(-1).next(asleep(4, 900), Teller::Calls), Next::End);
        assert_eq!(told(-1).next(Seen::Awake, Teller::Calls), Next::End);
        let mut told = told(0);
        assert_eq!(told.next(Seen::Awake, Teller::Calls), Next::Keep);
        assert_eq!(told.next(Seen::Awake, Teller::Calls), Next::Forget);
    }
}
