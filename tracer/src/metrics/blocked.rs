//! The account of one series of `tracer_blocked_seconds_total`: a counter of time that is still being spent. Pure.

/// Looks after which time that has left an account is that of waits whose end was not counted. An end is counted a look after
/// it at the latest.
const GONE_AFTER_LOOKS: u8 = 3;

/// Time spent waiting in one series.
#[derive(Clone, Debug, Default)]
pub struct Blocked {
    /// Of waits that have ended, nanoseconds.
    pub ended_ns: u64,
    /// Of waits that last, nanoseconds, as of the last snapshot.
    pub open_ns: u64,
    /// Of waits that have gone without an end that was counted here: it was lost, or has gone to another series.
    gone_ns: u64,
    /// The most ever shown: a counter never falls.
    pub shown_ns: u64,
    /// For how many looks the account has been below that.
    below: u8,
    /// Whose process it is of, if a look has seen that one waiting.
    pub user: Option<u32>,
    /// Series that were begun before it.
    pub order: u64,
    /// When its process was last seen to wait or to have waited; `None` since the last look.
    pub used_ns: Option<u64>,
}

impl Blocked {
    /// Adds another account to this one.
    pub fn take_over(&mut self, other: &Blocked) {
        self.ended_ns += other.ended_ns;
        self.open_ns += other.open_ns;
        self.gone_ns += other.gone_ns;
    }

    /// Moves the counter up. Where time that has left it may return, it is waited for.
    pub fn settle(&mut self, may_return: bool) {
        let sum = self.ended_ns + self.open_ns + self.gone_ns;
        self.below = if sum < self.shown_ns && !may_return { self.below + 1 } else { 0 };
        if self.below == GONE_AFTER_LOOKS {
            self.gone_ns += self.shown_ns - sum;
            self.below = 0;
        }
        self.shown_ns = self.shown_ns.max(sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is shown after looks that find so much open.
    fn shown(open: &[u64], may_return: bool) -> Vec<u64> {
        let mut series = Blocked::default();
        let look = |open: &u64| {
            series.open_ns = *open;
            series.settle(may_return);
            series.shown_ns
        };
        open.iter().map(look).collect()
    }

    /// Its end was lost, or its series was full and has room now: what comes next counts soon, not when it is as much.
    #[test]
    fn time_of_a_wait_that_has_gone_without_an_end_is_kept() {
        assert_eq!(shown(&[3600, 0, 1, 2, 3, 4], false), [3600, 3600, 3600, 3600, 3601, 3602]);
    }

    #[test]
    fn what_is_frozen_in_its_sleep_wakes_in_the_same_sleep() {
        assert_eq!(shown(&[3600, 0, 0, 0, 0, 3605], true), [3600, 3600, 3600, 3600, 3600, 3605]);
    }

    /// The kernel's map is emptied before a snapshot is taken: an end between the two is counted a look later.
    #[test]
    fn an_end_that_comes_late_counts_once() {
        let mut series = Blocked { open_ns: 3600, ..Blocked::default() };
        series.settle(false);
        series.open_ns = 0;
        series.settle(false);
        series.ended_ns = 3600;
        series.settle(false);
        assert_eq!((series.shown_ns, series.gone_ns), (3600, 0));
    }
}
