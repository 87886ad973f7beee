//! How much time has each part of a look? Pure. A look must end, however much there is to look at.

use std::time::Duration;

/// The least time that a look may take for what it looks up.
const LOOK_TIME_MIN: Duration = Duration::from_millis(500);

/// The parts of a look that take long. Each ends after so many shares of the time; what one leaves, the next ones have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// What waits wait on.
    Resolve = 2,
    /// Who is at their other ends.
    Peers = 4,
    /// Who those are that may be stalls, and what rules and baselines say of them.
    Decide = 5,
}

impl Stage {
    const SHARES: u32 = Self::Decide as u32;
}

/// How much longer a stage may take: a look takes half of the interval, and half a second at the least. However late it is, a stage
/// has half a share.
pub fn time_for(stage: Stage, interval: Duration, spent: Duration) -> Duration {
    let share = (interval / 2).max(LOOK_TIME_MIN) / Stage::SHARES;
    (share * stage as u32).saturating_sub(spent).max(share / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_stage_has_what_the_ones_before_have_left() {
        let time = |stage, spent| time_for(stage, SECOND, Duration::from_millis(spent)).as_millis();
        assert_eq!((time(Stage::Resolve, 0), time(Stage::Decide, 0)), (200, 500));
        assert_eq!((time(Stage::Peers, 100), time(Stage::Peers, 900)), (300, 50));
        assert_eq!(time_for(Stage::Decide, 10 * SECOND, Duration::ZERO), 5 * SECOND);
    }
}
