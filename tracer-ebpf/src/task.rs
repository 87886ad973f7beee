//! Reading `task_struct`, through typed pointers only.

use tracer_ebpf::abi::{
    COMM_LEN, PF_EXITING, THREAD_EXITING, THREAD_FAIR, THREAD_FROZEN, THREAD_PTRACED, THREAD_SIGNALLED,
    THREAD_STOPPED,
};

use crate::{offsets::*, settings};

// Bits of task->__state (include/linux/sched.h).
const TASK_INTERRUPTIBLE: u32 = 0x1;
const TASK_UNINTERRUPTIBLE: u32 = 0x2;
const TASK_STOPPED: u32 = 0x4;
const TASK_TRACED: u32 = 0x8;
/// Since Linux 6.1; not used before.
const TASK_FROZEN: u32 = 0x8000;
/// Bits of task->jobctl: the thread sits, or is about to, in the trap of its cgroup's version 2 freezer.
const JOBCTL_TRAP_FREEZE: u64 = 1 << 23;
/// Bits of task->jobctl: a stop, a ptrace trap or the freezer is due.
const JOBCTL_PENDING: u64 = 1 << 17 | 1 << 19 | 1 << 20 | JOBCTL_TRAP_FREEZE;
/// signal_struct.flags: the whole process is exiting.
const SIGNAL_GROUP_EXIT: u32 = 0x4;
const SIGKILL_BIT: u64 = 1 << 8;

/// Whether a state is a sleep that a wait can be (S or D).
#[inline(always)]
pub fn is_asleep(state: u32) -> bool {
    state & (TASK_INTERRUPTIBLE | TASK_UNINTERRUPTIBLE) != 0
}

/// A thread, as a pointer whose type the verifier knows.
#[derive(Clone, Copy)]
pub struct Task(pub *const u8);

macro_rules! getters {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $offset:ident;)+) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(self) -> $type {
            // SAFETY: a Task is only made of typed pointers, and fields.rs gives the field of this type.
            unsafe { $offset.load(self.0) }
        }
    )+};
}

impl Task {
    getters! {
        state: u32 = TASK_STATE;
        task_flags: u32 = TASK_FLAGS;
        tgid: u32 = TASK_TGID;
        tid: u32 = TASK_PID;
        start_ns: u64 = TASK_START;
        nvcsw: u64 = TASK_NVCSW;
        nivcsw: u64 = TASK_NIVCSW;
        jobctl: u64 = TASK_JOBCTL;
        /// When the thread last got the CPU, on the scheduler's clock.
        arrival_ns: u64 = TASK_ARRIVAL;
        restart_fn: u64 = TASK_RESTART_FN;
        compat_word: u32 = TASK_COMPAT;
    }

    /// The lowest address of its kernel stack.
    #[inline(always)]
    pub fn stack(self) -> *const u8 {
        // SAFETY: as in the getters. The kernel's pointer is one to void: the verifier takes it for a number.
        unsafe { TASK_STACK.load(self.0) }
    }

    /// Whether it is on its way out.
    #[inline(always)]
    pub fn is_exiting(self) -> bool {
        self.task_flags() & PF_EXITING != 0
    }

    /// How many threads of its process are not on their way out.
    #[inline(always)]
    pub fn threads_left(self) -> u32 {
        // SAFETY: as in the getters.
        unsafe { SIGNAL_LIVE.load(TASK_SIGNAL.load::<*const u8>(self.0)) }
    }

    /// The first thread of the process.
    #[inline(always)]
    pub fn leader(self) -> Task {
        // SAFETY: as in the getters; the load gives a typed pointer again.
        Task(unsafe { TASK_LEADER.load(self.0) })
    }

    /// Where its set of cgroups is; zero where the kernel has none.
    #[inline(always)]
    pub fn cgroups(self) -> u64 {
        if !TASK_CGROUPS.exists() {
            return 0;
        }
        // SAFETY: as in the getters.
        unsafe { TASK_CGROUPS.load(self.0) }
    }

    /// User of the thread.
    #[inline(always)]
    pub fn uid(self) -> u32 {
        // SAFETY: as in the getters.
        unsafe { CRED_UID.load(TASK_CRED.load::<*const u8>(self.0)) }
    }

    /// The thread's name, copied to `to`.
    #[inline(always)]
    pub fn comm(self, to: &mut [u8; COMM_LEN]) -> bool {
        TASK_COMM.read(self.0, to)
    }

    /// How long the thread ran since it was last picked, by the fair class's account. Nanoseconds.
    #[inline(always)]
    pub fn ran_ns(self) -> u64 {
        // SAFETY: as in the getters.
        let (total, before): (u64, u64) = unsafe { (TASK_EXEC.load(self.0), TASK_PREV_EXEC.load(self.0)) };
        total.wrapping_sub(before)
    }

    /// Kernel threads, and kernel workers that look like threads of a process.
    #[inline(always)]
    pub fn is_worker(self) -> bool {
        self.task_flags() & settings::WORKER_FLAGS.load() != 0
    }

    /// The `THREAD_*` bits.
    #[inline(always)]
    pub fn condition(self, state: u32) -> u32 {
        let mut bits = 0;
        if state & TASK_STOPPED != 0 {
            bits |= THREAD_STOPPED;
        }
        if state & TASK_TRACED != 0 {
            bits |= THREAD_PTRACED;
        }
        let flags = self.task_flags();
        if state & TASK_FROZEN != 0
            || flags & settings::FROZEN_FLAG.load() != 0
            || self.jobctl() & JOBCTL_TRAP_FREEZE != 0
        {
            bits |= THREAD_FROZEN;
        }
        // SAFETY: as in the getters.
        let (pending, shared, group): (u64, u64, u32) = unsafe {
            let signal = TASK_SIGNAL.load::<*const u8>(self.0);
            (TASK_PENDING.load(self.0), SIGNAL_PENDING.load(signal), SIGNAL_FLAGS.load(signal))
        };
        if pending | shared != 0 || self.jobctl() & JOBCTL_PENDING != 0 {
            bits |= THREAD_SIGNALLED;
        }
        if flags & PF_EXITING != 0 || pending & SIGKILL_BIT != 0 || group & SIGNAL_GROUP_EXIT != 0 {
            bits |= THREAD_EXITING;
        }
        // SAFETY: as in the getters.
        let policy: u32 = unsafe { TASK_POLICY.load(self.0) };
        // SCHED_NORMAL, SCHED_BATCH and SCHED_IDLE.
        if policy == 0 || policy == 3 || policy == 5 {
            bits |= THREAD_FAIR;
        }
        bits
    }
}
