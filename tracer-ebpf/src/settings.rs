//! What tracer tells the programs: constants set before they are loaded, and the few values that change later.

use aya_ebpf::{Global, btf_maps::Array, macros::btf_map};

/// `thread_info` bit that says a thread is in a 32-bit call, 0 where there are none.
#[unsafe(no_mangle)]
pub static COMPAT_MASK: Global<u32> = Global::new(0);

/// `task->flags` bits of threads that never run user code: kernel threads, io_uring and vhost workers.
#[unsafe(no_mangle)]
pub static WORKER_FLAGS: Global<u32> = Global::new(0x0020_0000);

/// `task->flags` bit of a thread held by the version 1 freezer, before Linux 6.1; 0 since, where it is a state.
#[unsafe(no_mangle)]
pub static FROZEN_FLAG: Global<u32> = Global::new(0);

/// 1 where `sched_switch` has the argument `prev_state` (Linux 5.18).
#[unsafe(no_mangle)]
pub static HAS_PREV_STATE: Global<u32> = Global::new(1);

/// Where a thread's saved user registers lie in its kernel stack, before Linux 5.15; 0 where the kernel tells.
#[unsafe(no_mangle)]
pub static STACK_REGS: Global<u32> = Global::new(0);

/// 1 where the saved user registers are laid out as on aarch64, 0 where as on x86-64.
#[unsafe(no_mangle)]
pub static ARM_REGISTERS: Global<u32> = Global::new(0);

/// 1 before Linux 5.11, which has no task storage for these programs: slots then are in a hash keyed by thread id.
#[unsafe(no_mangle)]
pub static HASH_SLOTS: Global<u32> = Global::new(0);

/// 1 where the kernel says by itself which socket a file is, and of what type it is (Linux 5.11).
#[unsafe(no_mangle)]
pub static TYPED_SOCKETS: Global<u32> = Global::new(1);

/// Where in a connection's `struct tcp_sock` the part begins that is copied at once, a multiple of eight.
#[unsafe(no_mangle)]
pub static TCP_BLOCK: Global<u32> = Global::new(0);

/// Bytes of that part.
#[unsafe(no_mangle)]
pub static TCP_BLOCK_LEN: Global<u32> = Global::new(8);

/// 1 while `waits` is attached: the snapshot then makes and reads slots.
#[unsafe(no_mangle)]
pub static WAITS_ON: Global<u32> = Global::new(0);

/// Bytes of a bucket in the table of a ring's requests.
#[unsafe(no_mangle)]
pub static RING_BUCKET: Global<u32> = Global::new(8);

/// Number of `restart_syscall` in this machine's own table.
#[unsafe(no_mangle)]
pub static RESTART_NR: Global<i32> = Global::new(-2);

/// Its number in the 32-bit table.
#[unsafe(no_mangle)]
pub static COMPAT_RESTART_NR: Global<i32> = Global::new(-2);

/// Ended waits shorter than this are counted, not resolved. Nanoseconds.
#[unsafe(no_mangle)]
pub static FLOOR_NS: Global<u64> = Global::new(100_000);

/// Ended waits of this length and more are sent through the ring. Nanoseconds.
#[unsafe(no_mangle)]
pub static REPORT_NS: Global<u64> = Global::new(1_000_000_000);

/// 1: the calls of every process are followed, not only of those in `TRACED`.
#[unsafe(no_mangle)]
pub static TRACE_ALL: Global<u32> = Global::new(0);

/// 1: there may be single threads in `TRACED`, not only processes.
#[unsafe(no_mangle)]
pub static TRACE_THREADS: Global<u32> = Global::new(0);

/// 1: calls that end are counted as ended waits are, for an agent that cannot use `waits`.
#[unsafe(no_mangle)]
pub static COUNT_CALLS: Global<u32> = Global::new(0);

/// Index into [`LIVE`]: `CLOCK_MONOTONIC` minus the scheduler's clock, nanoseconds, two's complement; 0: unknown.
pub const CLOCK_OFFSET: u32 = 0;
/// Index into [`LIVE`]: which of each two histogram maps is written, 0 or 1.
pub const ACTIVE: u32 = 1;

/// Index into [`LIVE`]: how long ago the last bytes of a request must have been sent for `sockets` to tell of it, scheduler ticks.
pub const REQUEST_TICKS: u32 = 2;
/// Index into [`LIVE`]: `sockets` also tells of one in so many of the connections that have been answered, always the same ones; 0: of
/// none.
pub const ANSWERED_ONE_IN: u32 = 3;
/// Index into [`LIVE`]: 1: `sockets` also tells of connections that others have made and on which they have spoken last.
pub const INCOMING: u32 = 4;
/// Index into [`LIVE`]: `sockets` also tells of connections that only the other end has closed, so many scheduler ticks ago; 0: of none.
pub const UNCLOSED_TICKS: u32 = 5;
/// Index into [`LIVE`]: when `answers` was attached, `CLOCK_MONOTONIC`, microseconds.
pub const ATTACHED_US: u32 = 6;

/// Values tracer changes while the programs run.
#[btf_map]
pub static LIVE: Array<u64, 7> = Array::new();

/// A value of [`LIVE`].
#[inline(always)]
pub fn live(index: u32) -> u64 {
    LIVE.get(index).copied().unwrap_or(0)
}

/// Rows of this machine's own syscall table, see [`tracer_ebpf::abi::SyscallRow`].
#[btf_map]
pub static CALLS: Array<u32, { tracer_ebpf::abi::SYSCALLS }> = Array::new();

/// Rows of the 32-bit syscall table.
#[btf_map]
pub static COMPAT_CALLS: Array<u32, { tracer_ebpf::abi::SYSCALLS }> = Array::new();
