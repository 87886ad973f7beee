//! Calls of this very process, whose memory tests know: what is found of one.

use crate::{
    diagnose::verdict::tests,
    model::{
        syscalls::{CallTable, Syscall},
        wait::Wait,
    },
    procfs::{Reads, by_pid, stat},
};

/// What `find` finds if this process's first thread is in this call, with these arguments. That thread waits for the tests, and wakes
/// when one of them ends: then it is found again, since nothing is said of a call that has ended meanwhile.
pub fn in_own_call<T>(
    syscall: Syscall,
    table: CallTable,
    args: [u64; 6],
    mut find: impl FnMut(&Wait, &mut Reads) -> T,
) -> T {
    let me = by_pid(std::process::id());
    let switches = || {
        let status = Reads::new().text(me, &format!("task/{}/status", me.pid)).expect("its own");
        stat::status(&status).expect("parses").1
    };
    let mut wait = tests::wait(syscall, args);
    (wait.thread.process, wait.thread.tid, wait.call.table) = (me, me.pid, table);
    loop {
        wait.switches = switches();
        let found = find(&wait, &mut Reads::new());
        if switches() == wait.switches {
            return found;
        }
    }
}
