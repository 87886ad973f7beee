//! How soon does the agent look again? Pure. Looks cost more the more there is to look at: where they would take too much of a
//! core, they are made less often.

use std::{collections::VecDeque, mem, time::Duration};

/// Of how much time a look may take one part: 0.9 % of a core.
const SHARE: u32 = 110;
/// Who asks for shorter intervals than this pays for as many more looks.
const REFERENCE: Duration = Duration::from_secs(1);
/// How much longer than what was asked for it gets at most, whatever looks cost.
const STRETCH_MAX: f64 = 3.0;
/// Looks of which the mean counts, without the most expensive one: the first one is, and one that finds a crowd.
const LOOKS: usize = 8;
/// Looks after which it begins: the first ones read what the next ones know.
const FEW: usize = 5;

/// Time between the beginnings of two looks.
#[derive(Debug)]
pub struct Pace {
    /// Where looks are cheap.
    asked: Duration,
    /// What the last ones took of a CPU, the oldest one first.
    costs: VecDeque<Duration>,
    /// What was answered last.
    now: Duration,
}

impl Pace {
    /// One that is `interval` as long as looks are cheap.
    pub fn new(interval: Duration) -> Self {
        Self { asked: interval, costs: VecDeque::with_capacity(LOOKS), now: interval }
    }

    /// What it is now.
    pub fn interval(&self) -> Duration {
        self.now
    }

    /// What it is after a look that took so much of a CPU. One that was `cut` short is made up for soon.
    pub fn after(&mut self, cost: Duration, cut: bool) -> Duration {
        if self.costs.len() == LOOKS {
            self.costs.pop_front();
        }
        self.costs.push_back(if cut { Duration::ZERO } else { cost });
        if self.costs.len() <= FEW {
            return self.now;
        }
        let most = self.costs.iter().max().copied().unwrap_or_default();
        let mean = (self.costs.iter().sum::<Duration>() - most) / (self.costs.len() as u32 - 1);
        let stretch = (mean * SHARE).as_secs_f64() / self.asked.max(REFERENCE).as_secs_f64();
        self.now = self.asked.mul_f64(stretch.clamp(1.0, STRETCH_MAX));
        self.now
    }
}

/// Measures what a thread takes of a CPU.
pub struct Meter(Duration);

impl Meter {
    /// Begins, for the thread that calls it.
    pub fn start() -> Self {
        Self(thread_time())
    }

    /// What that thread has taken since the beginning, or since it was last asked.
    pub fn lap(&mut self) -> Duration {
        let now = thread_time();
        now.saturating_sub(mem::replace(&mut self.0, now))
    }
}

fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// The intervals, in milliseconds, after looks of so many milliseconds.
    fn paces(interval: Duration, looks: &[(u64, bool)]) -> Vec<u128> {
        let mut pace = Pace::new(interval);
        looks.iter().map(|(cost, cut)| pace.after(Duration::from_millis(*cost), *cut).as_millis()).collect()
    }

    #[test]
    fn cheap_looks_are_made_as_often_as_asked() {
        assert_eq!(paces(SECOND, &[(9, false); 20]), [1000; 20]);
        assert_eq!(paces(SECOND / 10, &[(1, false); 20]), [100; 20]);
    }

    #[test]
    fn expensive_ones_are_made_less_often_once_several_were() {
        let paces_of = |cost| paces(SECOND, &[(cost, false); 10]);
        assert_eq!(paces_of(20)[..8], [1000, 1000, 1000, 1000, 1000, 2200, 2200, 2200]);
        // The first look at many costs most.
        let mut looks = [(14, false); 7];
        looks[0] = (500, false);
        assert_eq!(paces(SECOND, &looks), [1000, 1000, 1000, 1000, 1000, 1540, 1540]);
        // A crowd that comes later is paced by and by.
        let mut looks = vec![(2, false); 20];
        looks.extend([(500, false), (20, false), (20, false), (20, false), (20, false)]);
        assert_eq!(paces(SECOND, &looks)[18..], [1000, 1000, 1000, 1000, 1000, 1068, 1351]);
    }

    #[test]
    fn it_is_three_times_what_was_asked_for_at_most() {
        let at_last = |interval| *paces(interval, &[(5_000, false); 8]).last().expect("some");
        assert_eq!([at_last(SECOND), at_last(10 * SECOND), at_last(SECOND / 10)], [3000, 30_000, 300]);
    }

    /// A look of 20 ms each 100 ms is what was asked for; at one each ten seconds it costs nothing.
    #[test]
    fn what_is_too_much_goes_by_what_was_asked_for() {
        let at_last = |interval| *paces(interval, &[(20, false); 8]).last().expect("some");
        assert_eq!([at_last(SECOND), at_last(SECOND / 10), at_last(10 * SECOND)], [2200, 220, 10_000]);
    }

    #[test]
    fn what_was_cut_short_is_gone_on_with_soon() {
        assert_eq!(paces(SECOND, &[(400, true); 20]), [1000; 20]);
    }

    #[test]
    fn a_thread_that_computes_takes_time_and_one_that_sleeps_does_not() {
        let mut meter = Meter::start();
        std::thread::sleep(Duration::from_millis(30));
        assert!(meter.lap() < Duration::from_millis(20));
        let mut sum = 0_u64;
        while thread_time() < meter.0 + Duration::from_millis(2) {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(meter.lap() >= Duration::from_millis(2), "{sum}");
    }
}
