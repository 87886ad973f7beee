//! Which roles wait for a System V semaphore? Another process has taken it, and lives or has ended. The test removes the set, whose id
//! is in the report: nothing else does.

use crate::report::{Report, woke};
use crate::{Call, sys};

/// A set of two semaphores, both 1. The second is the lock.
fn set() -> i32 {
    // SAFETY: no pointers.
    let set = unsafe { libc::semget(libc::IPC_PRIVATE, 2, 0o600) };
    sys::must(set.into(), "semget");
    for number in 0..2 {
        // SAFETY: SETVAL takes a number.
        sys::must(unsafe { libc::semctl(set, number, libc::SETVAL, 1) }.into(), "semctl");
    }
    set
}

/// What takes the lock; the other one need only be free, which it is.
fn operations() -> [libc::sembuf; 3] {
    let operation = |number, by| libc::sembuf { sem_num: number, sem_op: by, sem_flg: 0 };
    [operation(0, -1), operation(1, -1), operation(0, 1)]
}

fn take(set: i32) -> i64 {
    let mut operations = operations();
    // SAFETY: the operations outlive the call.
    unsafe { libc::syscall(libc::SYS_semop, set, operations.as_mut_ptr(), operations.len()) }
}

/// Its holder lives.
pub(crate) fn semop(call: &Call) {
    let set = set();
    let holder = sys::peer(&[], || {
        sys::must(take(set), "semop");
    });
    until_taken(set);
    Report::new(call.role, "semop").with("set", set).with("holder", holder).print();
    woke(take(set))
}

/// Its holder lives, and it is waited for as a 32-bit program does: by `ipc`.
#[cfg(target_arch = "x86_64")]
pub(crate) fn i386_semop(call: &Call) {
    use crate::pipes;
    /// arch/x86/entry/syscalls/syscall_32.tbl, include/uapi/linux/ipc.h.
    const I386_IPC: i64 = 117;
    const SEMOP: i64 = 1;
    pipes::need_32_bit_calls(call);
    let set = set();
    let holder = sys::peer(&[], || {
        sys::must(take(set), "semop");
    });
    until_taken(set);
    let page = pipes::low_page();
    let operations = operations();
    // SAFETY: the page is large enough and aligned for them.
    unsafe { page.cast::<[libc::sembuf; 3]>().write(operations) };
    let address = i64::try_from(page.expose_provenance()).expect("below 4 GiB");
    Report::new(call.role, "ipc").with("set", set).with("holder", holder).print();
    // SAFETY: the operations are on a page below 4 GiB that stays mapped.
    woke(unsafe { pipes::int80(I386_IPC, [SEMOP, set.into(), operations.len() as i64, 0, address]) })
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn i386_semop(call: &Call) {
    crate::report::unsupported(call.role, "int 0x80 is x86's");
}

/// Its holder has ended and has not given it back.
pub(crate) fn semop_left(call: &Call) {
    let set = set();
    let holder = sys::peer(&[], || {
        sys::must(take(set), "semop");
        std::process::exit(0);
    });
    // SAFETY: the status is not asked for.
    let reaped = unsafe { libc::waitpid(holder, std::ptr::null_mut(), 0) };
    assert_eq!(reaped, holder);
    Report::new(call.role, "semop").with("set", set).with("holder", holder).print();
    woke(take(set))
}

fn until_taken(set: i32) {
    // SAFETY: GETVAL takes nothing.
    while sys::must(unsafe { libc::semctl(set, 1, libc::GETVAL) }.into(), "semctl") != 0 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
