//! Is the right table of system calls used? 32-bit calls have other numbers, a page fault has none.

use crate::aged::{old_row, old_waiter};

/// Number 3 is `read` in the i386 table and `close` in the x86-64 one.
#[test]
fn a_32_bit_call_has_its_own_name() {
    if old_waiter("i386-read").is_none() {
        return;
    }
    let row = old_row("i386-read");
    assert_eq!(row["target"]["kind"], "pipe", "{row:#}");
    assert_eq!(row["target"]["inode"], crate::aged::waiter("i386-read").line()["inode"], "{row:#}");
}

#[test]
fn a_thread_asleep_in_a_page_fault_is_shown() {
    if old_waiter("page-fault").is_none() {
        return;
    }
    let row = old_row("page-fault");
    assert!(row["fd"].is_null(), "{row:#}");
    // A userfaultfd's fault sleeps interruptibly, a dead mapping's does not: the class may differ, but neither is idle.
    assert_ne!(row["level"], "idle", "{row:#}");
}
