//! The slot of each thread: when it went to sleep. Task storage, so it goes with the thread.
//!
//! A slot is made where allocation is safe (at fork and in the snapshot), never in sched_switch, which runs under the
//! run-queue lock.
//!
//! Linux 5.10 has no task storage for tracing programs. There tracer loads `SLOTS` as a hash keyed by thread id, a slot
//! is made in the same places, and a third program removes it when its thread ends.

use aya_ebpf::{
    bindings::{
        BPF_ANY, BPF_F_NO_PREALLOC, BPF_LOCAL_STORAGE_GET_F_CREATE, bpf_map_type::BPF_MAP_TYPE_TASK_STORAGE,
    },
    helpers::generated::{
        bpf_map_delete_elem, bpf_map_lookup_elem, bpf_map_update_elem, bpf_task_storage_get,
    },
    macros::{btf_map, btf_tracepoint},
    programs::BtfTracePointContext,
};
use aya_log_ebpf::debug;
use tracer_ebpf::abi::{Counter, Slot};

use crate::{count::count, settings::HASH_SLOTS, task::Task};

/// A task-storage map as the loader's BTF wants it described; aya has no type for it.
#[repr(C)]
struct TaskStorage<T> {
    r#type: *const [i32; BPF_MAP_TYPE_TASK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; BPF_F_NO_PREALLOC as usize],
}

// SAFETY: the pointers only describe the map in BTF; nothing dereferences them.
unsafe impl<T> Sync for TaskStorage<T> {}

#[btf_map]
static SLOTS: TaskStorage<Slot> = TaskStorage {
    r#type: core::ptr::null(),
    key: core::ptr::null(),
    value: core::ptr::null(),
    max_entries: core::ptr::null(),
    map_flags: core::ptr::null(),
};

#[inline(always)]
fn map() -> *mut core::ffi::c_void {
    let map: *const TaskStorage<Slot> = &SLOTS;
    map.cast_mut().cast()
}

#[inline(always)]
fn storage(task: Task, flags: u64) -> Option<&'static mut Slot> {
    // SAFETY: the map is a task storage of Slot, `task` a typed pointer; the slot lives as long as the thread, which
    // is the one being switched or visited.
    unsafe {
        bpf_task_storage_get(map(), task.0.cast_mut().cast(), core::ptr::null_mut(), flags)
            .cast::<Slot>()
            .as_mut()
    }
}

#[inline(always)]
fn entry(tid: u32) -> Option<&'static mut Slot> {
    // SAFETY: the map is a hash of Slot by thread id; an entry's memory is not given back while a program runs.
    unsafe { bpf_map_lookup_elem(map(), (&raw const tid).cast()).cast::<Slot>().as_mut() }
}

/// Puts an empty slot into the hash.
#[inline(always)]
fn put(tid: u32) {
    let slot = Slot { began_ns: 0, flags: 0 };
    // SAFETY: as above; the key and the value outlive the call. Where there is no room, the look-up finds nothing.
    unsafe {
        bpf_map_update_elem(map(), (&raw const tid).cast(), (&raw const slot).cast(), BPF_ANY.into());
    }
}

/// The thread's slot, if it has one.
#[inline(always)]
pub fn find(task: Task) -> Option<&'static mut Slot> {
    if HASH_SLOTS.load() == 0 { storage(task, 0) } else { entry(task.tid()) }
}

/// The thread's slot, made if it has none.
#[inline(always)]
pub fn find_or_make(task: Task) -> Option<&'static mut Slot> {
    let slot = if HASH_SLOTS.load() == 0 {
        storage(task, BPF_LOCAL_STORAGE_GET_F_CREATE.into())
    } else {
        match entry(task.tid()) {
            Some(slot) => Some(slot),
            // Its slot was removed and nothing would remove another.
            None if task.is_exiting() => return None,
            None => {
                put(task.tid());
                entry(task.tid())
            }
        }
    };
    if slot.is_none() {
        count(Counter::SlotFailed);
    }
    slot
}

/// The start in a slot as it is now, not as it was read before.
#[inline(always)]
pub fn began(slot: &Slot) -> u64 {
    // SAFETY: a reference is valid for reads.
    unsafe { core::ptr::read_volatile(&raw const slot.began_ns) }
}

/// Counts a thread that went to sleep without a slot; in its last moments it rightly has none where slots are in a hash.
#[inline(always)]
pub fn missing(task: Task) {
    if HASH_SLOTS.load() == 0 || !task.is_exiting() {
        count(Counter::SlotMissing);
    }
}

/// Gives every new thread its slot.
///
/// `void task_newtask(struct task_struct *task, unsigned long clone_flags)` (`u64` since 6.17)
///
/// # Minimum kernel version
/// 5.5, as all programs on typed tracepoints.
#[btf_tracepoint(function = "task_newtask")]
pub fn newtask(ctx: BtfTracePointContext) -> i32 {
    let task = Task(ctx.arg::<*const u8>(0));
    if HASH_SLOTS.load() != 0 && !task.is_worker() {
        // Whoever had the id before may have left one.
        put(task.tid());
    }
    if !task.is_worker() && find_or_make(task).is_none() {
        debug!(&ctx, "no slot for new thread {}: its waits will be missing", task.tid());
    }
    0
}

/// Removes the slot of a thread that ends; loaded only where slots are in a hash.
///
/// `void sched_process_exit(struct task_struct *p)`
///
/// # Minimum kernel version
/// 5.5, as above.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn exited(ctx: BtfTracePointContext) -> i32 {
    let tid = Task(ctx.arg::<*const u8>(0)).tid();
    // SAFETY: the map is a hash here; the key outlives the call. A kernel thread has no slot, and that is no matter.
    unsafe { bpf_map_delete_elem(map(), (&raw const tid).cast()) };
    0
}
