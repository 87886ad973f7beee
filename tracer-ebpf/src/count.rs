//! What the programs count for themselves: losses above all.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use tracer_ebpf::abi::Counter;

#[btf_map]
static COUNTERS: PerCpuArray<u64, { Counter::COUNT as usize }> = PerCpuArray::new();

/// Adds one to a counter of this CPU.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: a per-CPU element; the program is not interrupted by itself on this CPU.
        unsafe { *value += 1 };
    }
}
