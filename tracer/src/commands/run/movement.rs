//! Does a command still get anywhere? By what its processes have used: who waits uses nothing, but for a heartbeat now and then. Pure.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// What processes have used since they began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Time on processors.
    pub cpu: Duration,
    /// Bytes read and written, be it from memory or by sockets.
    pub bytes: u64,
}

/// Less than this share of a processor is a heartbeat: a hundredth.
const CPU_SHARE: u32 = 100;
/// Less than so many bytes a second are.
const BYTES_A_SECOND: f64 = 32.0;

/// What they had used at moments of the time that counts.
#[derive(Debug)]
pub struct Movement {
    window: Duration,
    seen: VecDeque<(Instant, Used)>,
}

impl Movement {
    /// Over so long.
    pub fn within(window: Duration) -> Self {
        Self { window, seen: VecDeque::new() }
    }

    /// Takes what they have used by now. What has ended and was not waited for is missing: nothing is used backwards.
    pub fn add(&mut self, at: Instant, used: Used) {
        let most = self.seen.back().map_or(used, |(_, before)| Used {
            cpu: used.cpu.max(before.cpu),
            bytes: used.bytes.max(before.bytes),
        });
        self.seen.push_back((at, most));
        // The first of them is as old as the window, or older.
        while self.seen.get(1).is_some_and(|(then, _)| at.duration_since(*then) >= self.window) {
            self.seen.pop_front();
        }
    }

    /// Whether nothing has moved for the whole of the time that counts.
    pub fn is_still(&self, now: Instant) -> bool {
        self.rests_for(self.window, now)
    }

    /// Whether something has moved lately: in the last quarter of that time.
    pub fn is_at_work(&self, now: Instant) -> bool {
        !self.rests_for(self.window / 4, now)
    }

    /// Whether nothing has moved for so long.
    fn rests_for(&self, time: Duration, now: Instant) -> bool {
        let at_begin = self.seen.iter().rev().find(|(then, _)| now.duration_since(*then) >= time);
        let (Some((then, before)), Some((_, after))) = (at_begin, self.seen.back()) else { return false };
        let time = now.duration_since(*then);
        after.cpu.saturating_sub(before.cpu) < time / CPU_SHARE
            && ((after.bytes - before.bytes) as f64) < time.as_secs_f64() * BYTES_A_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether it is still after each of these seconds, in which so many milliseconds and bytes are used.
    fn still(seconds: &[(u64, u64)], window: u64) -> Vec<bool> {
        let (began, mut used) = (Instant::now(), Used::default());
        let mut movement = Movement::within(Duration::from_secs(window));
        movement.add(began, used);
        let mut after = |(second, (cpu, bytes)): (u64, &(u64, u64))| {
            used.cpu += Duration::from_millis(*cpu);
            used.bytes += bytes;
            let now = began + Duration::from_secs(second);
            movement.add(now, used);
            movement.is_still(now)
        };
        (1..).zip(seconds).map(&mut after).collect()
    }

    #[test]
    fn who_uses_nothing_for_long_enough_is_still() {
        assert_eq!(still(&[(0, 0); 4], 3), [false, false, true, true]);
        assert_eq!(still(&[(500, 0), (0, 0), (0, 0), (0, 0)], 3), [false, false, false, true]);
        assert_eq!(still(&[(0, 0), (0, 0), (0, 0), (500, 0)], 3), [false, false, true, false]);
        assert_eq!(still(&[(0, 500); 4], 3), [false; 4], "it writes");
    }

    #[test]
    fn who_rests_for_a_quarter_of_it_is_not_at_work() {
        let (began, mut movement) = (Instant::now(), Movement::within(Duration::from_secs(8)));
        let mut at = |second, cpu| {
            let now = began + Duration::from_secs(second);
            movement.add(now, Used { cpu: Duration::from_secs(cpu), bytes: 0 });
            (movement.is_at_work(now), movement.is_still(now))
        };
        assert_eq!([at(0, 0), at(1, 1), at(2, 1), at(3, 1)].map(|of| of.0), [true, true, true, false]);
        assert_eq!(at(8, 1), (false, false), "a second of it was used");
        assert_eq!(at(10, 1), (false, true));
    }

    #[test]
    fn a_heartbeat_is_no_movement() {
        assert_eq!(still(&[(2, 8); 4], 3), [false, false, true, true]);
    }

    #[test]
    fn what_ended_without_being_waited_for_does_not_count_backwards() {
        let now = Instant::now();
        let mut movement = Movement::within(Duration::from_secs(1));
        let used = |cpu| Used { cpu: Duration::from_secs(cpu), bytes: 0 };
        movement.add(now, used(9));
        movement.add(now + Duration::from_secs(1), used(1));
        assert!(movement.is_still(now + Duration::from_secs(1)));
    }
}
