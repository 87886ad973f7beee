//! Atomic addition: the compiler has none for this target (it offers them only with compare-and-swap), the kernel has
//! had the instruction from the start.

use core::arch::asm;

/// Adds to a number other CPUs add to as well.
///
/// # Safety
/// `to` points into a map value.
#[inline(always)]
pub unsafe fn add_u64(to: *mut u64, value: u64) {
    // SAFETY: BPF_XADD on eight bytes; the verifier checks the address.
    unsafe { asm!("lock *(u64 *)({to} + 0) += {value}", to = in(reg) to, value = in(reg) value) }
}

/// Adds to a number other CPUs add to as well.
///
/// # Safety
/// `to` points into a map value.
#[inline(always)]
pub unsafe fn add_u32(to: *mut u32, value: u32) {
    // SAFETY: BPF_XADD on four bytes; the verifier checks the address.
    unsafe { asm!("lock *(u32 *)({to} + 0) += {value}", to = in(reg) to, value = in(reg) u64::from(value)) }
}
