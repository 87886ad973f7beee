//! The program `snapshot`: what is waiting now? One record per thread that sleeps inside a call, written through the
//! iterator's own file, so nothing is lost however many threads there are.

use core::ffi::c_void;

use aya_ebpf::{
    btf_maps::PerCpuArray,
    helpers::generated::{bpf_get_current_task, bpf_jiffies64, bpf_ktime_get_ns},
    macros::btf_map,
};
use tracer_ebpf::abi::{
    Counter, Header, KIND_HEADER, KIND_THREAD, READ_FAILED, TAIL_NONE, THREAD_FAIR, THREAD_FROZEN,
    THREAD_PTRACED, THREAD_STOPPED, ThreadRecord, WAIT_DERIVED,
};

use crate::{
    call::Call,
    count::count,
    file::{self, OpenFiles, Tails, zero},
    iter::Context,
    offsets::*,
    settings::{self, CLOCK_OFFSET, WAITS_ON},
    slot,
    task::{Task, is_asleep},
};

/// Room for one record; the stack has 512 bytes.
#[repr(C)]
struct Scratch {
    thread: ThreadRecord,
    tails: Tails,
}

#[btf_map]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// Writes a record for a thread that waits, or is stopped, traced or frozen.
///
/// # Minimum kernel version
/// 5.10 (tested); iterators as such are 5.8.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub extern "C" fn snapshot(ctx: *mut c_void) -> i32 {
    let ctx = Context(ctx);
    if ctx.number() == 0 {
        header(&ctx);
    }
    let task = ctx.task();
    if task.0.is_null() || task.is_worker() {
        return 0;
    }
    let state = task.state();
    let condition = task.condition(state);
    let mut began_ns = 0;
    let mut flags = condition;
    if WAITS_ON.load() != 0
        && let Some(slot) = slot::find_or_make(task)
    {
        if slot.began_ns == 0 && is_asleep(state) {
            adopt(task, condition, slot);
        }
        began_ns = slot.began_ns;
        flags |= slot.flags as u32;
    }
    if !is_asleep(state) && condition & (THREAD_STOPPED | THREAD_PTRACED | THREAD_FROZEN) == 0 {
        return 0;
    }
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's element, and nothing else runs this program on this CPU meanwhile.
    let scratch = unsafe { &mut *scratch };
    let record = &mut scratch.thread;
    // Every other field is written below.
    zero(&mut record.file);
    record.fd_state = 0;
    // The kernel's verifier looks through all types for each pointer that is read from a thread, each time that it comes by: they are read
    // before paths part.
    let (leader, uid, files) = (task.leader(), task.uid(), OpenFiles::of(task));
    let (process_start_ns, cgroups) = (leader.start_ns(), leader.cgroups());
    let call = Call::of(task);
    record.kind = KIND_THREAD;
    record.size = size_of::<ThreadRecord>() as u32;
    record.tgid = task.tgid();
    record.tid = task.tid();
    record.uid = uid;
    record.state = state;
    record.process_start_ns = process_start_ns;
    record.thread_start_ns = task.start_ns();
    record.nr = call.nr;
    record.fd = call.fd;
    record.jobctl = task.jobctl() as u32;
    call.args(&mut record.args);
    record.arrival_ns = task.arrival_ns();
    record.ran_ns = task.ran_ns();
    record.began_ns = began_ns;
    record.nvcsw = task.nvcsw();
    record.nivcsw = task.nivcsw();
    record.restart_fn = task.restart_fn();
    record.cgroups = cgroups;
    let mut failed = task.comm(&mut record.comm);
    flags |= call.flags;
    let mut tail = TAIL_NONE;
    if call.fd >= 0 {
        let found = files.find(call.fd, &mut record.file);
        record.file.mount = file::mount(&found, &record.file);
        record.fd_state = found.state;
        let (kind, unread) = file::facts(&found, &record.file, &mut scratch.tails);
        tail = kind;
        failed |= found.failed | unread;
    }
    if failed {
        flags |= READ_FAILED;
        count(Counter::ReadFailed);
    }
    record.tail = tail;
    record.flags = flags;
    ctx.write_with_tail(&scratch.thread, tail, &scratch.tails);
    0
}

/// Writes the clocks, so that user space can turn the scheduler's time into ordinary time.
#[inline(always)]
fn header(ctx: &Context) {
    // SAFETY: helpers without arguments.
    let (current, monotonic_ns, jiffies) =
        unsafe { (bpf_get_current_task() as *const u8, bpf_ktime_get_ns(), bpf_jiffies64()) };
    let mut header =
        Header { kind: KIND_HEADER, size: size_of::<Header>() as u32, monotonic_ns, arrival_ns: 0, jiffies };
    TASK_ARRIVAL.read(current, &mut header.arrival_ns);
    ctx.write(&header);
}

/// Gives a wait that began before `waits` was attached its start, from the scheduler's record.
#[inline(always)]
fn adopt(task: Task, condition: u32, slot: &mut tracer_ebpf::abi::Slot) {
    let offset = settings::live(CLOCK_OFFSET);
    if offset == 0 {
        return;
    }
    let arrival = task.arrival_ns();
    let mut began = arrival.wrapping_add(offset);
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if condition & THREAD_FAIR != 0 {
        let ran = task.ran_ns();
        if ran < now.wrapping_sub(began) {
            began = began.wrapping_add(ran);
        }
    }
    // This program may be held up anywhere, while the thread goes on, on another CPU: what `waits` has written meanwhile stays.
    if slot::began(slot) != 0 {
        return;
    }
    slot.flags = WAIT_DERIVED.into();
    slot.began_ns = began;
    // It may have woken, too: a start must not stay behind on a thread that runs.
    if (task.arrival_ns() != arrival || !is_asleep(task.state())) && slot::began(slot) == began {
        slot.began_ns = 0;
    }
}
