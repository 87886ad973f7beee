//! Does work grow as what it is about does? For tests. It measures the processor time of its thread, of which only the growth counts.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How many of something.
const SIZES: [usize; 3] = [1_000, 2_000, 4_000];
/// What four times as many may cost: sorting them a little more than four times as much, each with each other sixteen times.
const FOURFOLD_COST_MAX: f64 = 9.0;
/// And what twice as many may: each with each other four times as much. A step, as where one walk becomes two, is no growth.
const TWOFOLD_COST_MAX: f64 = 3.2;
/// The best of so many counts: other work on the machine only adds.
const TRIES: usize = 7;
/// What looks like growth is measured so often: other tests take large inputs out of the caches, and small ones not.
const ROUNDS: usize = 4;

/// Panics if the work grows faster than its size; `prepare` makes what `work` is about.
pub fn assert_linear<T>(what: &str, prepare: impl Fn(usize) -> T, mut work: impl FnMut(T)) {
    let mut times = [Duration::MAX; SIZES.len()];
    let mut growth = f64::INFINITY;
    for _ in 0..ROUNDS {
        for (size, best) in SIZES.into_iter().zip(&mut times) {
            for _ in 0..TRIES {
                let input = prepare(size);
                let begun = own_time();
                work(input);
                *best = (*best).min(own_time() - begun);
            }
        }
        growth = times[2].as_secs_f64() / times[0].as_secs_f64().max(1e-6);
        let last = times[2].as_secs_f64() / times[1].as_secs_f64().max(1e-6);
        if growth <= FOURFOLD_COST_MAX || last <= TWOFOLD_COST_MAX {
            return;
        }
    }
    panic!("{what}: {SIZES:?} of them take {times:?}, {growth:.1} times as much for four times as many");
}

/// Runs `check` with each size: for what can be counted.
pub fn at_each_size(check: impl FnMut(usize)) {
    SIZES.into_iter().for_each(check);
}

/// Processor time of this thread.
fn own_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[test]
fn growth_is_told_from_size() {
    let each = |size: usize| (0..size as u64).collect::<Vec<_>>();
    let sum = |numbers: Vec<u64>| _ = std::hint::black_box(numbers.iter().map(|n| n * n).sum::<u64>());
    assert_linear("once for each", each, sum);
    let pairs = || {
        assert_linear("each with each", each, |numbers| {
            _ = std::hint::black_box(numbers.iter().filter(|n| numbers.contains(&(**n + 1))).count());
        });
    };
    // What disturbs the small ones only makes growth look smaller.
    assert!((0..3).any(|_| std::panic::catch_unwind(pairs).is_err()));
}
