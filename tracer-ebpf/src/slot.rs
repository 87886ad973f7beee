//! The slot of each thread: when it went to sleep. Task storage, so it goes with the thread.
//!
//! A slot is made where allocation is safe (at fork and in the snapshot), never in sched_switch, which runs under the
//! run-queue lock.

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_LOCAL_STORAGE_GET_F_CREATE, bpf_map_type::BPF_MAP_TYPE_TASK_STORAGE},
    helpers::generated::bpf_task_storage_get,
    macros::{btf_map, btf_tracepoint},
    programs::BtfTracePointContext,
};
use aya_log_ebpf::debug;
use tracer_ebpf::abi::{Counter, Slot};

use crate::{count::count, task::Task};

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
fn get(task: Task, flags: u64) -> Option<&'static mut Slot> {
    let map: *const TaskStorage<Slot> = &SLOTS;
    // SAFETY: the map is a task storage of Slot, `task` a typed pointer; the slot lives as long as the thread, which
    // is the one being switched or visited.
    unsafe {
        bpf_task_storage_get(map.cast_mut().cast(), task.0.cast_mut().cast(), core::ptr::null_mut(), flags)
            .cast::<Slot>()
            .as_mut()
    }
}

/// The thread's slot, if it has one.
#[inline(always)]
pub fn find(task: Task) -> Option<&'static mut Slot> {
    get(task, 0)
}

/// The thread's slot, made if it has none.
#[inline(always)]
pub fn find_or_make(task: Task) -> Option<&'static mut Slot> {
    let slot = get(task, BPF_LOCAL_STORAGE_GET_F_CREATE.into());
    if slot.is_none() {
        count(Counter::SlotFailed);
    }
    slot
}

/// Gives every new thread its slot.
///
/// `void task_newtask(struct task_struct *task, unsigned long clone_flags)` (`u64` since 6.17)
///
/// # Minimum kernel version
/// 5.11, which has task storage for tracing programs.
#[btf_tracepoint(function = "task_newtask")]
pub fn newtask(ctx: BtfTracePointContext) -> i32 {
    let task = Task(ctx.arg::<*const u8>(0));
    if !task.is_worker() && find_or_make(task).is_none() {
        debug!(&ctx, "no slot for new thread {}: its waits will be missing", task.tid());
    }
    0
}
