//! The programs `call_…`: when does a call of a chosen process or thread begin and end, and what does it return? Attached only while
//! `tracer trace` runs, or where the agent cannot use `waits`: at the entry and exit of all calls, by fentry or tracepoint,
//! or at those of the functions that serve calls that block.

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_ANY,
    btf_maps::{HashMap, PerCpuArray, RingBuf},
    helpers::generated::{bpf_get_current_pid_tgid, bpf_get_current_task_btf, bpf_ktime_get_ns},
    macros::{btf_map, btf_tracepoint, fentry, fexit, kprobe, kretprobe},
    programs::{BtfTracePointContext, FEntryContext, FExitContext, ProbeContext, RetProbeContext},
};
use tracer_ebpf::abi::{Counter, EndedCall, FOLLOWED_PROCESS, FOLLOWED_THREAD};

use crate::{
    count::count,
    ended,
    offsets::REGS_RESULT,
    settings::{COUNT_CALLS, FLOOR_NS, REPORT_NS, TRACE_ALL, TRACE_THREADS},
    task::Task,
    waits,
};

/// Whose calls are followed: processes and single threads, by id. Which an id is, the value says.
#[btf_map]
static TRACED: HashMap<u32, u32, 4096> = HashMap::new();

/// When calls began that have not ended, by thread id.
#[btf_map]
static BEGUN: HashMap<u32, u64, 65536> = HashMap::new();

/// Calls that have ended and took a while.
#[btf_map]
static CALL_ENDS: RingBuf<EndedCall, { 256 * 1024 }> = RingBuf::new();

#[btf_map]
static CALLS_SCRATCH: PerCpuArray<EndedCall, 1> = PerCpuArray::new();

/// Process and thread that run.
#[inline(always)]
fn current() -> (u32, u32) {
    // SAFETY: a helper without arguments.
    let both = unsafe { bpf_get_current_pid_tgid() };
    ((both >> 32) as u32, both as u32)
}

/// Whether a thread is followed, with its process or alone.
#[inline(always)]
fn is_traced(tgid: u32, tid: u32) -> bool {
    TRACE_ALL.load() != 0 || is_chosen(tgid, tid)
}

/// The same where not all are.
#[inline(always)]
fn is_chosen(tgid: u32, tid: u32) -> bool {
    // SAFETY: the value is not read.
    unsafe { TRACED.get(tgid) }.is_some() || is_alone(tid)
}

/// Whether a thread is followed without its process. Costs nothing where only processes were chosen: the verifier drops it.
#[inline(always)]
fn is_alone(tid: u32) -> bool {
    // SAFETY: a value is written once, with its entry.
    TRACE_THREADS.load() != 0 && unsafe { TRACED.get(tid) }.is_some_and(|value| *value == FOLLOWED_THREAD)
}

/// Follows a process.
#[inline(always)]
fn trace(tgid: u32) {
    if TRACED.insert(tgid, FOLLOWED_PROCESS, BPF_ANY.into()).is_err() {
        count(Counter::CallsFull);
    }
}

/// Follows a thread no longer that is followed alone.
#[inline(always)]
fn forget(tid: u32) {
    if is_alone(tid) {
        // It is there.
        let _ = TRACED.remove(tid);
    }
}

#[inline(always)]
fn enter() {
    let (tgid, tid) = current();
    if is_traced(tgid, tid) {
        // SAFETY: a helper without arguments.
        let now = unsafe { bpf_ktime_get_ns() };
        if BEGUN.insert(tid, now, BPF_ANY.into()).is_err() {
            count(Counter::CallsFull);
        }
    }
}

#[inline(always)]
fn exit(result: i64) {
    let (tgid, tid) = current();
    if !is_traced(tgid, tid) {
        return;
    }
    // SAFETY: only this thread writes its own entry.
    let Some(began_ns) = (unsafe { BEGUN.get(tid) }).copied() else { return };
    // It is there.
    let _ = BEGUN.remove(tid);
    // SAFETY: a helper without arguments.
    let duration_ns = unsafe { bpf_ktime_get_ns() }.saturating_sub(began_ns);
    // SAFETY: the helper returns a typed pointer to the running thread.
    let task = Task(unsafe { bpf_get_current_task_btf() }.cast::<u8>().cast_const());
    if COUNT_CALLS.load() != 0 {
        if duration_ns < FLOOR_NS.load() {
            count(Counter::ShortWaits);
        } else {
            waits::ended(task, began_ns, duration_ns, 0);
        }
        return;
    }
    if duration_ns < REPORT_NS.load() {
        return;
    }
    let Some(scratch) = CALLS_SCRATCH.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's element; the kernel does not run one of these programs twice at a time on a CPU.
    let record = unsafe { &mut *scratch };
    let seen = ended::key(task, &mut record.call.key);
    ended::rest(task, seen, &mut record.call, began_ns, duration_ns);
    record.result = result;
    record.pointed_len = seen.call.pointed(&mut record.pointed);
    if CALL_ENDS.output(&*record, 0).is_err() {
        count(Counter::RingFull);
    }
}

/// `void sys_enter(struct pt_regs *regs, long id)`
///
/// # Minimum kernel version
/// 5.11, which tells tracing programs the running thread as a typed pointer.
#[btf_tracepoint(function = "sys_enter")]
pub fn call_enter(_: BtfTracePointContext) -> i32 {
    enter();
    0
}

/// `void sys_exit(struct pt_regs *regs, long ret)`
///
/// # Minimum kernel version
/// 5.11, as above.
#[btf_tracepoint(function = "sys_exit")]
pub fn call_exit(ctx: BtfTracePointContext) -> i32 {
    let result = ctx.arg::<i64>(1);
    exit(result);
    0
}

/// At the entry of the function that hands each call of a 64-bit process out. Linux on x86-64 has it since 6.9, and since
/// its versions of 2024 in the older series.
///
/// `long x64_sys_call(const struct pt_regs *regs, unsigned int nr)`
///
/// # Minimum kernel version
/// 5.11, as above.
#[fentry(function = "x64_sys_call")]
pub fn call_enter_fentry(_: FEntryContext) -> i32 {
    enter();
    0
}

/// At its return.
///
/// # Minimum kernel version
/// 5.11, as above.
#[fexit(function = "x64_sys_call")]
pub fn call_exit_fexit(ctx: FExitContext) -> i32 {
    // After the function's own two arguments.
    let result = ctx.arg::<i64>(2);
    exit(result);
    0
}

/// At the entry of a function that serves one system call.
///
/// # Minimum kernel version
/// 5.11, as above; the kernel must have kprobes.
#[kprobe]
pub fn call_enter_kprobe(_: ProbeContext) -> u32 {
    enter();
    0
}

/// At its return.
///
/// # Minimum kernel version
/// 5.11, as above; the kernel must have kprobes.
#[kretprobe]
pub fn call_exit_kprobe(ctx: RetProbeContext) -> u32 {
    let mut result = 0i64;
    // Not by the context's own accessor, which knows the machine it was compiled for.
    REGS_RESULT.read(ctx.as_ptr().cast::<u8>().cast_const(), &mut result);
    exit(result);
    0
}

/// A child process of a followed process or thread is followed. A new thread is in no call yet, and nobody has chosen it,
/// whatever whoever had its id before has left: a thread that runs another program takes the id of its process's first
/// thread, and leaves its own.
///
/// `void task_newtask(struct task_struct *task, unsigned long clone_flags)`
///
/// # Minimum kernel version
/// 5.5, as all programs on typed tracepoints.
#[btf_tracepoint(function = "task_newtask")]
pub fn call_fork(ctx: BtfTracePointContext) -> i32 {
    let task = Task(ctx.arg::<*const u8>(0));
    let ((parent, thread), child) = (current(), task.tgid());
    // What is not there need not be removed.
    let _ = BEGUN.remove(task.tid());
    forget(task.tid());
    if child != parent && is_chosen(parent, thread) {
        trace(child);
    }
    0
}

/// A thread that runs another program is the only one left of its process. If it was followed alone, the process is followed
/// from now on, whose id it has taken.
///
/// `void sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`
///
/// # Minimum kernel version
/// 5.5, as above.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn call_exec(ctx: BtfTracePointContext) -> i32 {
    let (task, was) = (Task(ctx.arg::<*const u8>(0)), ctx.arg::<u32>(1));
    if is_alone(was) {
        forget(was);
        trace(task.tgid());
    }
    0
}

/// A thread that ends leaves nothing behind, the last one of a process not its process either. The first one may end long
/// before the others.
///
/// `void sched_process_exit(struct task_struct *p)`
///
/// # Minimum kernel version
/// 5.5, as above.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn call_gone(ctx: BtfTracePointContext) -> i32 {
    let task = Task(ctx.arg::<*const u8>(0));
    // What is not there need not be removed.
    let _ = BEGUN.remove(task.tid());
    forget(task.tid());
    if task.threads_left() == 0 {
        let _ = TRACED.remove(task.tgid());
    }
    0
}
