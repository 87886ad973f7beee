//! Numbers of the kernel's interface that several folders need, and libc lacks or has in another width.

/// A task of the kernel's own (`flags` of a task, include/linux/sched.h).
pub const PF_KTHREAD: u32 = 0x0020_0000;
/// A worker of io_uring's.
pub const PF_IO_WORKER: u32 = 0x10;
/// A kernel thread that a process has cloned, as vhost's. The bit had another meaning before Linux 6.4, whose clone arguments name it.
pub const PF_USER_WORKER: u32 = 0x4000;
/// Frozen. A flag until Linux 6.1, a state since; the bit was used for something else then.
pub const PF_FROZEN: u32 = 0x0001_0000;

/// Waits while the word has the value.
pub const FUTEX_WAIT: u64 = libc::FUTEX_WAIT as u64;
/// The same, for a set of wakers; its time-out is a moment.
pub const FUTEX_WAIT_BITSET: u64 = libc::FUTEX_WAIT_BITSET as u64;
/// The time-out is by the clock of the day.
pub const FUTEX_CLOCK_REALTIME: u64 = libc::FUTEX_CLOCK_REALTIME as u64;
/// The word is looked for in its own process only.
pub const FUTEX_PRIVATE: u64 = libc::FUTEX_PRIVATE_FLAG as u64;
/// Takes a lock whose owner inherits the waiter's priority.
pub const FUTEX_LOCK_PI: u64 = libc::FUTEX_LOCK_PI as u64;
/// The same, by another clock (Linux 5.14).
pub const FUTEX_LOCK_PI2: u64 = libc::FUTEX_LOCK_PI2 as u64;

/// What a futex call does: its second argument without `FUTEX_PRIVATE_FLAG` and `FUTEX_CLOCK_REALTIME`.
pub fn futex_command(operation: u64) -> u64 {
    operation & 0x7f
}
