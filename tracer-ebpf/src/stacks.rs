//! The program `stacks`: which functions of the kernel do these threads sleep in? For waits that call and target do not explain.

use core::ffi::c_void;

use aya_ebpf::{
    btf_maps::{HashMap, PerCpuArray},
    helpers::generated::bpf_get_task_stack,
    macros::btf_map,
};
use tracer_ebpf::abi::{KIND_STACK, STACK_DEPTH, StackRecord};

use crate::{
    iter::Context,
    offsets::*,
    task::{Task, is_asleep},
};

/// The threads asked for.
#[btf_map]
static ASKED_STACKS: HashMap<u32, u32, 1024> = HashMap::new();

/// Room for a record and what it is made of.
#[repr(C)]
struct Scratch {
    record: StackRecord,
    addresses: [u64; STACK_DEPTH],
}

#[btf_map]
static STACK_SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// Writes a record for each thread in `ASKED_STACKS` that sleeps.
///
/// # Minimum kernel version
/// 5.9, which lets iterators call `bpf_get_task_stack` and print functions; 5.10 is tested.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub extern "C" fn stacks(ctx: *mut c_void) -> i32 {
    let ctx = Context(ctx);
    let task = ctx.task();
    if task.0.is_null() {
        return 0;
    }
    let tid = task.tid();
    // SAFETY: tracer changes the map only between passes.
    if unsafe { ASKED_STACKS.get(tid) }.is_none() || !is_asleep(task.state()) {
        return 0;
    }
    let Some(scratch) = STACK_SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's element, and nothing else runs this program on this CPU meanwhile.
    let Scratch { record, addresses } = unsafe { &mut *scratch };
    record.kind = KIND_STACK;
    record.size = size_of::<StackRecord>() as u32;
    record.tid = tid;
    find_holder(task, record);
    record.thread_start_ns = task.start_ns();
    record.nvcsw = task.nvcsw();
    record.nivcsw = task.nivcsw();
    // SAFETY: a typed pointer, and a buffer of the size that is named, of which the kernel clears what it does not fill.
    unsafe {
        bpf_get_task_stack(
            task.0.cast_mut().cast(),
            addresses.as_mut_ptr().cast(),
            size_of::<[u64; STACK_DEPTH]>() as u32,
            0,
        );
    }
    ctx.write(record);
    for address in addresses.iter_mut() {
        if *address == 0 {
            break;
        }
        ctx.write_function(address);
    }
    ctx.write(&0u8);
    0
}

/// Tells whether a thread sleeps on a lock, and who holds it, if that is known. Two low bits say what kind of lock it is
/// (include/linux/hung_task.h); low bits of an owner are flags.
#[inline(always)]
fn find_holder(task: Task, record: &mut StackRecord) {
    const KIND: u64 = 3;
    const MUTEX: u64 = 0;
    const SEMAPHORE: u64 = 1;
    const READERS: u64 = 1;
    const FLAGS: u64 = 7;
    (record.holder, record.locked, record.reserved) = (0, 0, 0);
    if !TASK_BLOCKER.exists() || !MUTEX_OWNER.exists() || !RWSEM_OWNER.exists() {
        return;
    }
    // SAFETY: a typed task, and fields.rs gives its field.
    let blocker: u64 = unsafe { TASK_BLOCKER.load(task.0) };
    let (lock, kind) = ((blocker & !KIND) as *const u8, blocker & KIND);
    if lock.is_null() {
        return;
    }
    record.locked = 1;
    let mut owner = 0u64;
    if kind == MUTEX {
        MUTEX_OWNER.read(lock, &mut owner);
    } else if kind != SEMAPHORE {
        RWSEM_OWNER.read(lock, &mut owner);
        // Of those who share it the kernel keeps the last that came, who may have left.
        if owner & READERS != 0 {
            owner = 0;
        }
    }
    if owner & !FLAGS != 0 {
        TASK_PID.read((owner & !FLAGS) as *const u8, &mut record.holder);
    }
}
