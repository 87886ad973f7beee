//! Which system call a sleeping thread is in: number, table, arguments and fd, from its saved user registers.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_probe_read_user, bpf_task_pt_regs};
use tracer_ebpf::abi::{
    CALL_COMPAT, CLOCKS, POINTED, ROW_ADDRESS, ROW_FD, ROW_POLLED, SYSCALLS, SyscallRow, leaving,
};

use crate::{offsets::*, settings, task::Task};

/// The bit of a number that says it is of the x32 table, which is the native one with other layouts.
const X32: i32 = 0x4000_0000;

/// Bytes of a `struct pollfd` (include/uapi/asm-generic/poll.h).
const POLLFD: u64 = 8;

/// A system call as its caller made it.
#[derive(Clone, Copy)]
pub struct Call {
    /// Number in its table; negative: the thread is in none, one of `NR_*`.
    pub nr: i32,
    /// `CALL_COMPAT` or zero.
    pub flags: u32,
    /// The fd argument, or -1.
    pub fd: i32,
    row: SyscallRow,
    regs: *const u8,
}

impl Call {
    /// The call `task` is in.
    #[inline(always)]
    pub fn of(task: Task) -> Self {
        let regs = registers_of(task);
        let nr: i32 = register(regs, &REGS_NR);
        let compat = TASK_COMPAT.exists() && task.compat_word() & settings::COMPAT_MASK.load() != 0;
        let nr = if compat || nr < 0 { nr } else { nr & !X32 };
        let nr = match leaving(task.task_flags()) {
            0 => nr,
            instead => instead,
        };
        let mut call = Call { nr, flags: if compat { CALL_COMPAT } else { 0 }, fd: -1, row: 0, regs };
        if nr >= 0 && (nr as u32) < SYSCALLS as u32 {
            let row =
                if compat { settings::COMPAT_CALLS.get(nr as u32) } else { settings::CALLS.get(nr as u32) };
            call.row = row.copied().unwrap_or(0);
            match call.row & ROW_FD {
                0 => {}
                1 => call.fd = call.arg0() as i32,
                2 => call.fd = call.arg1() as i32,
                3 => call.fd = call.arg2() as i32,
                5 => call.fd = call.arg4() as i32,
                _ => {}
            }
        }
        call
    }

    /// Whether it goes on with a call that was interrupted.
    #[inline(always)]
    pub fn is_restart(self) -> bool {
        let restart =
            if self.flags & CALL_COMPAT != 0 { &settings::COMPAT_RESTART_NR } else { &settings::RESTART_NR };
        self.nr == restart.load()
    }

    /// Whether its first argument may be the number of a clock.
    #[inline(always)]
    pub fn is_of_clock(self) -> bool {
        self.arg0() < CLOCKS
    }

    /// Copies what its arguments point to, for the thread that runs; how many bytes that is.
    #[inline(always)]
    pub fn pointed(self, to: &mut [u8; POINTED]) -> u32 {
        let (at, len) = match self.row & !ROW_FD {
            ROW_ADDRESS => (self.arg1(), self.arg2()),
            ROW_POLLED => (self.arg0(), self.arg1().saturating_mul(POLLFD)),
            _ => return 0,
        };
        let len = if len < POINTED as u64 { len as u32 } else { POINTED as u32 };
        // SAFETY: the helper checks the source and writes `len` bytes, which is at most what there is room for.
        let failed = unsafe { bpf_probe_read_user(to.as_mut_ptr().cast(), len, at as *const c_void) } != 0;
        if failed { 0 } else { len }
    }

    /// Copies the six arguments.
    #[inline(always)]
    pub fn args(self, to: &mut [u64; 6]) {
        to[0] = self.arg0();
        to[1] = self.arg1();
        to[2] = self.arg2();
        to[3] = self.arg(&REGS_ARG3, &REGS_COMPAT_ARG3);
        to[4] = self.arg4();
        to[5] = self.arg(&REGS_ARG5, &REGS_COMPAT_ARG5);
    }

    /// Its fourth argument.
    #[inline(always)]
    pub fn fourth(self) -> u64 {
        self.arg(&REGS_ARG3, &REGS_COMPAT_ARG3)
    }

    #[inline(always)]
    fn arg0(self) -> u64 {
        self.arg(&REGS_ARG0, &REGS_COMPAT_ARG0)
    }

    #[inline(always)]
    fn arg1(self) -> u64 {
        self.arg(&REGS_ARG1, &REGS_COMPAT_ARG1)
    }

    #[inline(always)]
    fn arg2(self) -> u64 {
        self.arg(&REGS_ARG2, &REGS_COMPAT_ARG2)
    }

    #[inline(always)]
    fn arg4(self) -> u64 {
        self.arg(&REGS_ARG4, &REGS_COMPAT_ARG4)
    }

    #[inline(always)]
    fn arg(self, native: &Offset, compat: &Offset) -> u64 {
        if self.flags & CALL_COMPAT != 0 {
            register::<u64>(self.regs, compat) & 0xffff_ffff
        } else {
            register(self.regs, native)
        }
    }
}

/// The thread's `struct pt_regs`. The verifier never sees the way that is not taken, nor whether the kernel has its
/// helper.
#[inline(always)]
pub fn registers_of(task: Task) -> *const u8 {
    if settings::STACK_REGS.load() == 0 {
        // SAFETY: a typed task pointer, as the helper wants; it returns a typed pointer.
        unsafe { bpf_task_pt_regs(task.0.cast_mut().cast()) as *const u8 }
    } else {
        task.stack().wrapping_add(settings::STACK_REGS.load() as usize)
    }
}

/// A field of them.
#[inline(always)]
fn register<T: Copy + Default>(regs: *const u8, field: &Offset) -> T {
    if settings::STACK_REGS.load() == 0 {
        // SAFETY: `regs` is a typed pt_regs, and fields.rs gives its fields: registers, eight bytes wide.
        unsafe { field.load(regs) }
    } else {
        let mut value = T::default();
        // A stack that has gone reads as zeros, like a typed pointer.
        field.read(regs, &mut value);
        value
    }
}
