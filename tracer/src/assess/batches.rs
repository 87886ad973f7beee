//! How many waits to look up at once, so that a look ends in time? Pure.

use std::time::Duration;

/// Waits that are looked up at once, at the least and at the most.
const BATCH_MIN: usize = 32;
const BATCH_MAX: usize = 1024;

/// Time to look waits up, batch by batch.
#[derive(Debug)]
pub struct Batches {
    left: Duration,
    next: usize,
}

impl Batches {
    /// So much of it.
    pub fn new(time: Duration) -> Self {
        Self { left: time, next: BATCH_MIN }
    }

    /// How many of so many to look up next; none when the time is up. The first batch is always looked up.
    pub fn next(&self, left: usize) -> usize {
        self.next.min(left)
    }

    /// Looking so many up has taken so long: the next batch is for a quarter of the time that is left.
    pub fn took(&mut self, number: usize, time: Duration) {
        self.left = self.left.saturating_sub(time);
        let each = (time / u32::try_from(number).unwrap_or(u32::MAX).max(1)).max(Duration::from_nanos(1));
        let fit = (self.left / 4).as_nanos() / each.as_nanos();
        self.next = match self.left.is_zero() {
            true => 0,
            false => usize::try_from(fit).unwrap_or(usize::MAX).clamp(BATCH_MIN, BATCH_MAX),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn time_ends_and_the_first_batch_is_always_looked_up() {
        let looked_up = |time: Duration, each: Duration| {
            let mut batches = Batches::new(time);
            let (mut number, mut took) = (0, Duration::ZERO);
            loop {
                let batch = batches.next(100_000 - number);
                if batch == 0 {
                    return (number, took);
                }
                let time = each * batch as u32;
                batches.took(batch, time);
                (number, took) = (number + batch, took + time);
            }
        };
        assert_eq!(looked_up(SECOND, Duration::ZERO).0, 100_000, "what costs nothing is all done");
        let (number, took) = looked_up(SECOND, Duration::from_millis(1));
        assert!((900..=1032).contains(&number) && took <= SECOND + 32 * Duration::from_millis(1));
        assert_eq!(looked_up(SECOND, Duration::from_millis(100)).0, BATCH_MIN, "reads that hang");
        assert_eq!(looked_up(Duration::ZERO, SECOND).0, BATCH_MIN);
    }
}
