//! Durations by the power of two, in a map that several CPUs write.

use tracer_ebpf::abi::{BUCKETS, FIRST_BUCKET_LOG2, Histogram};

use crate::atomic::{add_u32, add_u64};

/// Adds a duration.
///
/// # Safety
/// `to` is a value of a map, which all touch with atomic additions only.
#[inline(always)]
pub unsafe fn add(to: *mut Histogram, duration_ns: u64) {
    let bucket = bucket(duration_ns);
    // SAFETY: as the caller says; the bucket is one of them.
    unsafe {
        add_u64(&raw mut (*to).count, 1);
        add_u64(&raw mut (*to).sum_ns, duration_ns);
        add_u32((&raw mut (*to).buckets).cast::<u32>().add(bucket), 1);
    }
}

/// The first bucket whose bound the duration is below.
#[inline(always)]
fn bucket(duration_ns: u64) -> usize {
    let us = duration_ns / 1000;
    let bits = 64 - us.leading_zeros();
    let bucket = bits.saturating_sub(FIRST_BUCKET_LOG2) as usize;
    if bucket < BUCKETS { bucket } else { BUCKETS - 1 }
}
