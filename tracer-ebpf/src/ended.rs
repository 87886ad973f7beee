//! What is told of a wait or call that has ended: who, in which call, on which file.

use tracer_ebpf::abi::{CALL_CLOCK, Counter, EndedWait, READ_FAILED, WaitKey};

use crate::{
    call::Call,
    count::count,
    file::{OpenFiles, zero},
    task::Task,
};

/// The call that ended, and flags of what was found out about it.
#[derive(Clone, Copy)]
pub struct Seen {
    /// The call.
    pub call: Call,
    flags: u32,
}

/// Fills in what it is counted under.
#[inline(always)]
pub fn key(task: Task, key: &mut WaitKey) -> Seen {
    zero(key);
    let call = Call::of(task);
    key.process_start_ns = task.leader().start_ns();
    key.tgid = task.tgid();
    key.nr = call.nr;
    key.flags = call.flags;
    key.fd = call.fd;
    if call.is_restart() {
        key.restart_fn = task.restart_fn();
        if call.is_of_clock() {
            key.flags |= CALL_CLOCK;
        }
    }
    let mut flags = call.flags;
    if call.fd >= 0 && OpenFiles::of(task).find(call.fd, &mut key.file).failed {
        flags |= READ_FAILED;
        count(Counter::ReadFailed);
    }
    Seen { call, flags }
}

/// Fills in the rest, for one that is told by itself; its flags are the call's.
#[inline(always)]
pub fn rest(task: Task, seen: Seen, ended: &mut EndedWait, began_ns: u64, duration_ns: u64) {
    ended.tid = task.tid();
    ended.flags = seen.flags;
    ended.thread_start_ns = task.start_ns();
    ended.began_ns = began_ns;
    ended.duration_ns = duration_ns;
    seen.call.args(&mut ended.args);
    task.comm(&mut ended.comm);
}
