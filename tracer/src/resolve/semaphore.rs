//! Which System V semaphore does a process wait for, and who changed it last? The kernel keeps that process beside each (semctl(2),
//! `GETPID`): of one that is used as a lock, it is the one that has the lock.

use crate::{
    model::syscalls::Operation,
    model::wait::Wait,
    procfs::{Reads, by_pid},
};

/// Operations of one call that are looked at.
const OPERATIONS_MAX: usize = 32;
/// Of `struct sembuf` (include/uapi/linux/sem.h): number, operation and flags, 16 bits each.
const SEMBUF_BYTES: usize = 6;

/// The semaphore that keeps a process waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Semaphore {
    /// Its set.
    pub set: i32,
    /// Its number in the set.
    pub number: u16,
    /// The process that changed it last; `None`: none yet, or none that is to be seen from here.
    pub changed_by: Option<u32>,
    /// That process still makes calls.
    pub lives: bool,
}

/// The semaphore `wait` is for; `None` where there is no telling, as of a process with semaphores of its own (an IPC namespace).
pub fn look(wait: &Wait, reads: &mut Reads) -> Option<Semaphore> {
    if wait.call.operation() != Operation::Semaphore {
        return None;
    }
    let (process, args) = (wait.thread.process, wait.call.arguments());
    let mut namespace = |process| reads.link(process, "ns/ipc").ok();
    if namespace(by_pid(std::process::id()))? != namespace(process)? {
        return None;
    }
    let length = usize::try_from(args[2]).ok()?.min(OPERATIONS_MAX) * SEMBUF_BYTES;
    let operations = reads.memory(process, args[1], length)?;
    if !reads.still_in(wait) {
        return None;
    }
    // The kernel takes the lower half of the register.
    let set = args[0] as u32 as i32;
    let number = blocking(&operations, |number| control(set, number, libc::GETVAL))?;
    let changed_by = control(set, number, libc::GETPID)?.try_into().ok().filter(|pid| *pid != 0);
    let lives = changed_by.is_some_and(|pid: u32| reads.stat(by_pid(pid)).is_some_and(|stat| stat.lives()));
    Some(Semaphore { set, number, changed_by, lives })
}

/// The number of the semaphore in the first operation that cannot be done: all are done at once, or none.
fn blocking(operations: &[u8], value: impl Fn(u16) -> Option<i32>) -> Option<u16> {
    operations.chunks_exact(SEMBUF_BYTES).find_map(|bytes| {
        let number = u16::from_ne_bytes([bytes[0], bytes[1]]);
        let operation = i32::from(i16::from_ne_bytes([bytes[2], bytes[3]]));
        let value = value(number)?;
        let waits = if operation == 0 { value != 0 } else { value + operation < 0 };
        waits.then_some(number)
    })
}

fn control(set: i32, number: u16, command: libc::c_int) -> Option<i32> {
    // SAFETY: these two commands take numbers, and touch no memory.
    let answer = unsafe { libc::semctl(set, number.into(), command) };
    (answer >= 0).then_some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_operation_that_cannot_be_done_is_what_it_waits_for() {
        let values = |number: u16| [3, 0, 1].get(usize::from(number)).copied();
        for (operations, expected) in [
            (&[(0, -1), (1, -1)][..], Some(1)),
            (&[(0, -4)], Some(0)),
            (&[(2, 0)], Some(2)),
            (&[(1, 0), (0, -3), (2, -1)], None),
            (&[(1, 5), (7, -1)], None),
            (&[], None),
        ] {
            let of = |(number, operation): &(u16, i16)| {
                [number.to_ne_bytes(), operation.to_ne_bytes(), [0, 0]].concat()
            };
            let bytes: Vec<u8> = operations.iter().flat_map(of).collect();
            assert_eq!(blocking(&bytes, values), expected, "{operations:?}");
        }
        assert_eq!(blocking(&[1, 2, 3], values), None);
    }

    #[test]
    fn there_is_no_such_set() {
        assert_eq!(control(-1, 0, libc::GETPID), None);
    }
}
