//! How long waits took that have ended, counted by powers of two.

/// Buckets of a [`WaitHistogram`]: each counts waits that were shorter than its bound, the last one the rest.
pub const BUCKETS: usize = 32;

/// Bound of bucket 0 as a power of two, µs.
pub const FIRST_BUCKET_LOG2: u32 = 7;

/// Waits by duration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitHistogram {
    /// Waits counted.
    pub count: u64,
    /// Sum of their durations, nanoseconds.
    pub sum_ns: u64,
    /// Waits by bucket, not cumulative.
    pub buckets: [u64; BUCKETS],
}

/// The bound of a bucket, microseconds.
pub fn bound_us(bucket: usize) -> u64 {
    1 << (bucket as u32 + FIRST_BUCKET_LOG2)
}
