//! When is now, and when was that? The realtime clock in nanoseconds, and tracer's RFC 3339 stamps read back.

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds in a second.
pub const SECOND_NS: i128 = 1_000_000_000;

/// Nanoseconds in a day.
pub const DAY_NS: i128 = 86_400 * SECOND_NS;

/// The realtime clock, in nanoseconds since 1970: the clock of `since` and of the waiters' `realtime_ns`.
pub fn realtime_ns() -> i128 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is after 1970");
    i128::try_from(now.as_nanos()).expect("nanoseconds of this era fit")
}

/// From one moment to another, in seconds.
pub fn seconds_between(begin_ns: i128, end_ns: i128) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a difference of two moments of one test is small")]
    let ns = (end_ns - begin_ns) as f64;
    ns / 1e9
}

/// Reads a moment as tracer prints it in `since`; panics on anything but RFC 3339 in UTC.
pub fn parse_rfc3339_ns(stamp: &str) -> i128 {
    assert!(stamp.ends_with('Z'), "`since` is to be RFC 3339 in UTC, not {stamp:?}");
    match stamp.parse::<jiff::Timestamp>() {
        Ok(moment) => moment.as_nanosecond(),
        Err(e) => panic!("`since` is to be RFC 3339, not {stamp:?}: {e}"),
    }
}
