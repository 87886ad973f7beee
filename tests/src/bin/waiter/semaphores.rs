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

/// Takes the lock; the other one need only be free, which it is.
fn take(set: i32) -> i64 {
    let operation = |number, by| libc::sembuf { sem_num: number, sem_op: by, sem_flg: 0 };
    let mut operations = [operation(0, -1), operation(1, -1), operation(0, 1)];
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
