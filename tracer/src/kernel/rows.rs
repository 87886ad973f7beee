//! What the kernel programs know of each call: which argument its fd is, and what of its arguments' memory they keep.

use tracer_ebpf::abi::{ROW_ADDRESS, ROW_POLLED, SYSCALLS, SyscallRow};

use crate::model::syscalls::{CallTable, Operation, Syscall};

/// A row for each number of a table.
pub fn rows(table: CallTable) -> [SyscallRow; SYSCALLS] {
    std::array::from_fn(|number| row(Syscall::of(table, number as i32)))
}

fn row(syscall: Syscall) -> SyscallRow {
    let pointed = match syscall.operation() {
        Operation::Connect => ROW_ADDRESS,
        Operation::Poll => ROW_POLLED,
        _ => 0,
    };
    syscall.fd().map_or(0, |at| at as SyscallRow + 1) | pointed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_what_their_calls_have() {
        let native = |number: libc::c_long| rows(CallTable::Native)[number as usize];
        assert_eq!(native(libc::SYS_read), 1);
        assert_eq!(native(libc::SYS_connect), 1 | ROW_ADDRESS);
        assert_eq!(native(libc::SYS_ppoll), ROW_POLLED);
        assert_eq!(native(libc::SYS_futex), 0);
        assert_eq!(native(libc::SYS_getpid), 0);
        assert_eq!(rows(CallTable::Native)[SYSCALLS - 1], 0, "no call has it");
        // Three is read in the 32-bit table of either machine.
        assert_eq!(rows(CallTable::Compat)[3], 1);
    }
}
