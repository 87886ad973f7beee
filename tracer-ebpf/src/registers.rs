//! The program `registers`: what do the user registers of these threads hold while they sleep? For the functions that led there.

use core::ffi::c_void;

use aya_ebpf::{
    btf_maps::{HashMap, PerCpuArray},
    helpers::generated::bpf_probe_read_kernel,
    macros::btf_map,
};
use tracer_ebpf::abi::{CALL_COMPAT, KIND_REGISTERS, REGISTER_WORDS, RegisterRecord};

use crate::{call::registers_of, iter::Context, offsets::*, settings, task::is_asleep};

/// Words of x86-64's registers: nothing is behind them.
const X86_WORDS: usize = 21;

/// The threads asked for.
#[btf_map]
static ASKED_REGISTERS: HashMap<u32, u32, 1024> = HashMap::new();

#[btf_map]
static REGISTER_SCRATCH: PerCpuArray<RegisterRecord, 1> = PerCpuArray::new();

/// Writes a record for each thread in `ASKED_REGISTERS` that sleeps.
///
/// # Minimum kernel version
/// 5.8, which brings iterators; 5.10 is tested.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub extern "C" fn registers(ctx: *mut c_void) -> i32 {
    let ctx = Context(ctx);
    let task = ctx.task();
    if task.0.is_null() {
        return 0;
    }
    let tid = task.tid();
    // SAFETY: tracer changes the map only between passes.
    if unsafe { ASKED_REGISTERS.get(tid) }.is_none() || !is_asleep(task.state()) || task.is_worker() {
        return 0;
    }
    let Some(record) = REGISTER_SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's element, and nothing else runs this program on this CPU meanwhile.
    let record = unsafe { &mut *record };
    record.kind = KIND_REGISTERS;
    record.size = size_of::<RegisterRecord>() as u32;
    record.tid = tid;
    record.flags = 0;
    if TASK_COMPAT.exists() && task.compat_word() & settings::COMPAT_MASK.load() != 0 {
        record.flags = CALL_COMPAT;
    }
    record.thread_start_ns = task.start_ns();
    record.nvcsw = task.nvcsw();
    record.nivcsw = task.nivcsw();
    record.thread_pointer = 0;
    if TASK_TLS.exists() {
        // SAFETY: a typed task, and fields.rs gives its field, eight bytes wide.
        record.thread_pointer = unsafe { TASK_TLS.load(task.0) };
    }
    let words = if settings::ARM_REGISTERS.load() != 0 { REGISTER_WORDS } else { X86_WORDS };
    // SAFETY: the helper checks the source and fills so much of the array, with zeros if it fails.
    let failed = unsafe {
        bpf_probe_read_kernel(
            record.registers.as_mut_ptr().cast(),
            (words * size_of::<u64>()) as u32,
            registers_of(task).cast(),
        )
    };
    if failed == 0 {
        ctx.write(record);
    }
    0
}
