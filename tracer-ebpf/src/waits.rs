//! The program `waits`: how long do waits take? Runs at every context switch; a thread that slept inside a call and gets
//! the CPU back has ended its wait.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    btf_maps::{HashMap, PerCpuArray, RingBuf},
    helpers::generated::bpf_ktime_get_ns,
    macros::{btf_map, btf_tracepoint},
    programs::BtfTracePointContext,
};
use tracer_ebpf::abi::{Counter, EndedWait, Histogram, Slot, WaitKey};

use crate::{
    count::count,
    ended,
    file::zero,
    histogram,
    settings::{self, ACTIVE, FLOOR_NS, HAS_PREV_STATE, REPORT_NS},
    slot,
    task::{Task, is_asleep},
};

/// Entries of each histogram map; tracer makes them smaller where `waits` is not used.
const ENTRIES: usize = 8192;

/// Ended waits by key. Two maps: one is written while tracer empties the other.
#[btf_map]
static WAITS_A: HashMap<WaitKey, Histogram, ENTRIES> = HashMap::new();
#[btf_map]
static WAITS_B: HashMap<WaitKey, Histogram, ENTRIES> = HashMap::new();

/// Long ended waits, one by one.
#[btf_map]
static ENDED: RingBuf<EndedWait, { 256 * 1024 }> = RingBuf::new();

/// Room for a record and a fresh histogram.
#[repr(C)]
struct Scratch {
    ended: EndedWait,
    fresh: Histogram,
}

#[btf_map]
static WAITS_SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// Notes the start of `prev`'s sleep and the end of `next`'s.
///
/// `void sched_switch(bool preempt, struct task_struct *prev, struct task_struct *next, unsigned int prev_state)`;
/// before 5.18 without `prev_state`.
///
/// # Minimum kernel version
/// 5.10 (tested).
#[btf_tracepoint(function = "sched_switch")]
pub fn waits(ctx: BtfTracePointContext) -> i32 {
    let prev = Task(ctx.arg::<*const u8>(1));
    let next = Task(ctx.arg::<*const u8>(2));
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    // A thread that is preempted on its way to sleep stays runnable, whatever its state says.
    if ctx.arg::<u64>(0) & 0xff == 0 {
        let state = if HAS_PREV_STATE.load() != 0 { ctx.arg::<u64>(3) as u32 } else { prev.state() };
        if is_asleep(state) && !prev.is_worker() {
            match slot::find(prev) {
                Some(slot) => {
                    // Where the snapshot has put it there, the thread was only about to sleep.
                    if slot.began_ns != 0 && slot.flags == 0 {
                        count(Counter::EndUnseen);
                    }
                    *slot = Slot { began_ns: now, flags: 0 };
                }
                None => slot::missing(prev),
            }
        }
    }
    if !next.is_worker()
        && let Some(slot) = slot::find(next)
        && slot.began_ns != 0
    {
        let began = slot.began_ns;
        slot.began_ns = 0;
        let duration = now.saturating_sub(began);
        if duration < FLOOR_NS.load() {
            count(Counter::ShortWaits);
        } else {
            ended(next, began, duration, slot.flags as u32);
        }
    }
    0
}

/// Counts a wait that has ended, and sends it if it was long.
#[inline(always)]
pub fn ended(task: Task, began_ns: u64, duration_ns: u64, slot_flags: u32) {
    let Some(scratch) = WAITS_SCRATCH.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's element; neither sched_switch nor the end of a call interrupts itself.
    let scratch = unsafe { &mut *scratch };
    let seen = ended::key(task, &mut scratch.ended.key);
    tally(task, scratch, duration_ns);
    if duration_ns >= REPORT_NS.load() {
        let ended = &mut scratch.ended;
        ended::rest(task, seen, ended, began_ns, duration_ns);
        ended.flags |= slot_flags | task.condition(task.state());
        if ENDED.output(&*ended, 0).is_err() {
            count(Counter::RingFull);
        }
    }
}

/// Adds the wait to the histogram of its key.
#[inline(always)]
fn tally(task: Task, scratch: &mut Scratch, duration_ns: u64) {
    let map_b = settings::live(ACTIVE) != 0;
    let key = &scratch.ended.key;
    let find = || if map_b { WAITS_B.get_ptr_mut(key) } else { WAITS_A.get_ptr_mut(key) };
    let entry = match find() {
        Some(entry) => entry,
        None => {
            zero(&mut scratch.fresh);
            task.leader().comm(&mut scratch.fresh.comm);
            // Another CPU may have made the entry meanwhile: then this fails and the look-up finds it.
            let _ = if map_b {
                WAITS_B.insert(key, &scratch.fresh, BPF_NOEXIST.into())
            } else {
                WAITS_A.insert(key, &scratch.fresh, BPF_NOEXIST.into())
            };
            match find() {
                Some(entry) => entry,
                None => return count(Counter::HistogramFull),
            }
        }
    };
    // SAFETY: a map value.
    unsafe { histogram::add(entry, duration_ns) };
    count(Counter::CountedWaits);
}
