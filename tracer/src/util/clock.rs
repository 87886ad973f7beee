//! The clocks: wall time for people, `CLOCK_MONOTONIC` for arithmetic, read together.

use std::time::Duration;

use jiff::Timestamp;

/// The two clocks, read together.
pub struct Now {
    /// By the wall clock.
    pub wall: Timestamp,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub monotonic_ns: u64,
}

impl Now {
    /// Reads them.
    pub fn read() -> Self {
        Self { wall: Timestamp::now(), monotonic_ns: monotonic_ns() }
    }

    /// The wall-clock time of a moment of `CLOCK_MONOTONIC`, by today's wall clock.
    pub fn wall_at(&self, monotonic_ns: u64) -> Timestamp {
        let ago = self.monotonic_ns as i64 - monotonic_ns as i64;
        self.wall.checked_sub(jiff::SignedDuration::from_nanos(ago)).unwrap_or(self.wall)
    }
}

/// Nanoseconds of `CLOCK_BOOTTIME`, on which processes are born.
pub fn boottime_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The same in clock ticks, rounded down, as `/proc` shows them.
pub fn ticks(ns: u64) -> u64 {
    let hz = u128::from(rustix::param::clock_ticks_per_second());
    (u128::from(ns) * hz / 1_000_000_000) as u64
}

/// The wall-clock time of a moment of `CLOCK_BOOTTIME`, to the millisecond, by today's wall clock: had it been set since
/// then, what it showed at that moment was wrong.
pub fn wall_at_boottime(moment_ns: u64) -> Timestamp {
    let read_both = || {
        let before = boottime_ns();
        (Timestamp::now(), before, boottime_ns() - before)
    };
    // Being held up between the two clocks would show as a difference between them: the best of two readings.
    let (first, second) = (read_both(), read_both());
    let (wall, now_ns, _) = if first.2 <= second.2 { first } else { second };
    let ago = now_ns as i64 - moment_ns as i64;
    let moment = wall.checked_sub(jiff::SignedDuration::from_nanos(ago)).unwrap_or(wall);
    moment.round(jiff::Unit::Millisecond).unwrap_or(moment)
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// CPU time of this process.
pub fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}
