//! A system call as its caller made it, and what its arguments say of the wait.

use std::time::Duration;

use crate::{
    model::syscalls::{CallTable, Direction, Operation, Syscall},
    util::linux::{FUTEX_LOCK_PI, FUTEX_LOCK_PI2, FUTEX_PRIVATE, FUTEX_WAIT, futex_command},
};

/// A system call as its caller made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The table `number` is of.
    pub table: CallTable,
    /// Number in its table; `None` for what is no call, and where only the kernel function is known that it sleeps in. Such a
    /// call has no arguments.
    pub number: Option<i32>,
    /// Which call it is.
    pub syscall: Syscall,
    /// Arguments, as in the registers.
    pub args: [u64; 6],
    /// It was interrupted and goes on as `restart_syscall`; call and arguments are the original's.
    pub restarted: bool,
}

impl Call {
    /// Its name, as people and machines read it.
    pub fn name(&self) -> &'static str {
        self.syscall.name()
    }

    /// What it does.
    pub fn operation(&self) -> Operation {
        self.meant().operation()
    }

    /// Which way it moves data; `None`: neither, or both, or there is no fd.
    pub fn direction(&self) -> Option<Direction> {
        self.meant().direction()
    }

    /// The call that it is, or that a call for many is told to make.
    fn meant(&self) -> Syscall {
        self.syscall.of_many(self.args[0])
    }

    /// The arguments of the call that is meant, where registers have them: those of `socketcall` lie in memory. `ipc` has its
    /// pointer behind its numbers (ipc(2)).
    pub fn arguments(&self) -> [u64; 6] {
        let [_, first, second, third, pointer, fifth] = self.args;
        match (self.syscall, self.operation()) {
            (Syscall::Ipc, Operation::Semaphore) => [first, pointer, second, fifth, 0, 0],
            (Syscall::Ipc, _) => [first, pointer, second, third, 0, 0],
            (Syscall::Socketcall, _) => [0; 6],
            _ => self.args,
        }
    }

    /// Whether the fds that it waits on lie in its caller's memory: a set, or the one of a `socketcall`.
    pub fn has_fds_in_memory(&self) -> bool {
        match self.operation() {
            Operation::Poll | Operation::Select => true,
            _ => self.syscall == Syscall::Socketcall && self.meant().fd().is_some(),
        }
    }

    /// Whether what it waits on has to be looked up: it watches a set of fds, or one that no register has.
    pub fn watches_fds(&self) -> bool {
        self.operation() == Operation::Epoll || self.has_fds_in_memory()
    }

    /// Whether it waits for a lock in memory, and not for a condition, by how the C library waits for each. glibc waits for a
    /// mutex with the value 2 (nptl/lowlevellock.h), musl with its top bit set over the owner's id, or over EBUSY where it keeps
    /// no owner (src/thread/pthread_mutex_timedlock.c), both without a time-out.
    pub fn waits_for_memory_lock(&self) -> bool {
        /// `PID_MAX_LIMIT` (include/linux/threads.h).
        const LARGEST_TID: u32 = 1 << 22;
        const CONTENDED: u32 = 0x8000_0000;
        let value = self.args[2] as u32;
        self.operation() == Operation::Futex
            && match (futex_command(self.args[1]), value, self.args[3]) {
                (FUTEX_LOCK_PI | FUTEX_LOCK_PI2, ..) | (FUTEX_WAIT, 2, 0) => true,
                (FUTEX_WAIT, CONTENDED.., 0) => value - CONTENDED <= LARGEST_TID,
                _ => false,
            }
    }

    /// Whether it waits for any signal that has a handler.
    pub fn is_pause(&self) -> bool {
        matches!(self.syscall, Syscall::Pause | Syscall::RtSigsuspend | Syscall::Sigsuspend)
    }

    /// Whether it waits on a word in memory that only threads of its own process use.
    pub fn is_private_futex(&self) -> bool {
        self.operation() == Operation::Futex && self.args[1] & FUTEX_PRIVATE != 0
    }

    /// Whether it waits for a lock on a file. `fcntl` does with `F_SETLKW` and `F_OFD_SETLKW`
    /// (include/uapi/asm-generic/fcntl.h); 14 is the 32-bit `F_SETLKW64`.
    pub fn waits_for_file_lock(&self) -> bool {
        match self.operation() {
            Operation::Lock => true,
            Operation::Fcntl => self.number.is_none() || matches!(self.args[1], 7 | 14 | 38),
            _ => false,
        }
    }

    /// Whether a time-out of its own ends it.
    pub fn is_timed(&self) -> bool {
        self.meant().timeout().is_some_and(|(at, form)| form.is_given(self.arguments()[at]))
    }

    /// Its time-out, where its arguments have it as a number and not in memory.
    pub fn timeout_in_arguments(&self) -> Option<Duration> {
        self.syscall.timeout_in(&self.args)
    }
}
