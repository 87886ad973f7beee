//! Who used a System V message queue last? The kernel keeps that beside each (msgctl(2), `IPC_STAT`).

use crate::{
    model::{syscalls::Operation, wait::Wait},
    procfs::{Reads, by_pid},
};

/// The process that did last with a queue what would end this wait: took a message where it is full, put one where it is empty. `None`:
/// none yet, or none that lives or is to be seen from here.
pub fn last_user(wait: &Wait, reads: &mut Reads) -> Option<u32> {
    let operation = wait.call.operation();
    // POSIX queues are files.
    if !matches!(operation, Operation::SendMessage | Operation::ReceiveMessage) || wait.fd.is_some() {
        return None;
    }
    let id = wait.call.arguments()[0] as u32 as i32;
    let mut namespace = |process| reads.link(process, "ns/ipc").ok();
    if namespace(by_pid(std::process::id()))? != namespace(wait.thread.process)? {
        return None;
    }
    let state = state(id)?;
    let pid = if operation == Operation::SendMessage { state.msg_lrpid } else { state.msg_lspid };
    let pid = u32::try_from(pid).ok().filter(|pid| *pid != 0)?;
    reads.stat(by_pid(pid)).is_some_and(|stat| stat.lives()).then_some(pid)
}

fn state(id: i32) -> Option<libc::msqid_ds> {
    // SAFETY: an all-zero msqid_ds is one.
    let mut state: libc::msqid_ds = unsafe { std::mem::zeroed() };
    // SAFETY: the command fills the struct, which outlives the call.
    let answer = unsafe { libc::msgctl(id, libc::IPC_STAT, &raw mut state) };
    (answer == 0).then_some(state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{diagnose::verdict::tests::wait, model::syscalls::Syscall};

    #[test]
    fn who_used_a_queue_last_is_told_by_what_they_did() {
        // SAFETY: makes a queue of its own.
        let id = unsafe { libc::msgget(libc::IPC_PRIVATE, 0o600) };
        assert!(id >= 0, "{}", std::io::Error::last_os_error());
        let (mut reads, me) = (Reads::new(), by_pid(std::process::id()));
        let mut user = |syscall| {
            let mut wait = wait(syscall, [id as u64, 0, 0, 0, 0, 0]);
            (wait.thread.process, wait.fd) = (me, None);
            last_user(&wait, &mut reads)
        };
        assert_eq!((user(Syscall::Msgsnd), user(Syscall::Msgrcv)), (None, None));
        let message = [1_u64, 0];
        // SAFETY: a type and eight bytes, which outlive the call.
        assert_eq!(unsafe { libc::msgsnd(id, message.as_ptr().cast(), 8, 0) }, 0);
        assert_eq!((user(Syscall::Msgsnd), user(Syscall::Msgrcv)), (None, Some(me.pid)));
        // SAFETY: takes the queue away.
        unsafe { libc::msgctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
        assert_eq!(user(Syscall::Msgrcv), None);
    }
}
