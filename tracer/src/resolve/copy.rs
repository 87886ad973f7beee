//! Which of its two descriptors does a call sleep on that moves data from one to the other? Pure.

use crate::model::{
    file::{FileKind, OpenFile},
    stack::KernelStack,
    syscalls::Direction,
    wait::{FdState, SeenFd, Sleep, Wait},
};

/// What the functions of the kernel are called that a thread waits in for room, wherever it writes to.
const WRITES: &[&str] = &["writ", "send", "wait_memory", "wait_for_space", "opipe"];
/// Those in which it waits for data.
const READS: &[&str] = &["read", "recv", "wait_data", "data_wait", "ipipe", "splice_from_pipe_next"];
/// Locks are taken to read or to write, whichever way data goes.
const LOCKS: &[&str] = &["rwsem_", "down_", "__down_", "percpu_"];

/// The fd after the first that a call with two has.
pub fn second_fd(wait: &Wait) -> Option<i32> {
    let at = wait.call.syscall.fds().nth(1)?;
    Some(wait.call.args[at] as i32)
}

/// Whether the thread sleeps on its second descriptor, and which way data is to go there.
pub fn sleeps_on_second(wait: &Wait, second: &SeenFd, stack: Option<&KernelStack>) -> Option<Direction> {
    let first = wait.call.direction()?;
    let (input, output) = match first {
        Direction::Receive => (&wait.fd_state, &second.state),
        Direction::Send => (&second.state, &wait.fd_state),
    };
    let sleeps = stack.and_then(by_functions).or_else(|| by_files(input, output, wait.sleep))?;
    (sleeps != first).then_some(sleeps)
}

/// By the innermost function that says it.
fn by_functions(stack: &KernelStack) -> Option<Direction> {
    stack.functions().iter().find_map(|function| {
        let has = |words: &[&str]| words.iter().any(|word| function.contains(word));
        match () {
            () if LOCKS.iter().any(|begin| function.starts_with(begin)) => None,
            () if has(WRITES) => Some(Direction::Send),
            () if has(READS) => Some(Direction::Receive),
            () => None,
        }
    })
}

/// By what the files are: a signal ends a wait for another process, and mostly none that is for storage.
fn by_files(input: &FdState, output: &FdState, sleep: Sleep) -> Option<Direction> {
    let is_stored = |state: &FdState| {
        let stored = |file: &OpenFile| matches!(file.kind(), FileKind::Regular | FileKind::BlockDevice);
        state.file().map(stored)
    };
    match (is_stored(input)?, is_stored(output)?, sleep) {
        (true, false, Sleep::Interruptible) | (false, true, Sleep::Uninterruptible) => Some(Direction::Send),
        (true, false, Sleep::Uninterruptible) | (false, true, Sleep::Interruptible) => {
            Some(Direction::Receive)
        }
        (true, true, _) | (false, false, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::verdict::tests::wait,
        model::{file::tests::file, syscalls::Syscall, wait::SocketFacts},
    };

    fn open(kind: FileKind) -> FdState {
        FdState::Open(file(7, kind))
    }

    /// Which way a thread waits that sleeps there, on the second of these files; `None`: on the first.
    fn second(
        syscall: Syscall,
        files: [FileKind; 2],
        sleep: Sleep,
        stack: Option<&str>,
    ) -> Option<Direction> {
        let mut wait = wait(syscall, [3, 4, 5, 0, 0, 0]);
        (wait.fd_state, wait.sleep) = (open(files[0]), sleep);
        let seen = SeenFd {
            thread: wait.thread,
            fd: 5,
            state: open(files[1]),
            socket: SocketFacts::None,
            flow: None,
        };
        sleeps_on_second(&wait, &seen, stack.map(KernelStack::parse).as_ref())
    }

    #[test]
    fn functions_tell_which_side_it_is() {
        use Direction::{Receive, Send};
        use FileKind::{Fifo, Regular, Socket};
        for (syscall, files, stack, expected) in [
            (Syscall::Splice, [Regular, Fifo], "pipe_wait_writable\nsplice_file_to_pipe", Some(Send)),
            (Syscall::Splice, [Regular, Fifo], "pipe_wait\nwait_for_space\ndo_splice", Some(Send)),
            (Syscall::Splice, [Fifo, Fifo], "pipe_wait_writable\nopipe_prep", Some(Send)),
            (Syscall::Splice, [Fifo, Fifo], "pipe_wait_readable\nipipe_prep", None),
            (Syscall::Splice, [Fifo, Socket], "pipe_wait_readable\nsplice_from_pipe_next", None),
            (Syscall::Splice, [Fifo, Socket], "sk_stream_wait_memory\ntcp_sendmsg_locked", Some(Send)),
            (Syscall::Splice, [Socket, Fifo], "sk_wait_data\ntcp_splice_read", None),
            (Syscall::Splice, [Fifo, Regular], "balance_dirty_pages\ngeneric_perform_write", Some(Send)),
            (Syscall::Tee, [Fifo, Fifo], "pipe_wait_writable\nopipe_prep\ndo_tee", Some(Send)),
            (Syscall::Sendfile, [Socket, Regular], "sk_stream_wait_memory\ntcp_sendmsg", None),
            (Syscall::Sendfile, [Socket, Regular], "folio_wait_bit_common\nfilemap_read", Some(Receive)),
            (Syscall::Sendfile, [Fifo, Regular], "pipe_wait_writable\nsplice_file_to_pipe", None),
            (
                Syscall::CopyFileRange,
                [Regular, Regular],
                "request_wait_answer\nfuse_file_write_iter\niter_file_splice_write",
                Some(Send),
            ),
            (
                Syscall::CopyFileRange,
                [Regular, Regular],
                "request_wait_answer\nfuse_read_folio\nfilemap_splice_read",
                None,
            ),
            // The lock is that of the file that is written.
            (
                Syscall::CopyFileRange,
                [Regular, Regular],
                "rwsem_down_read_slowpath\next4_file_write_iter",
                Some(Send),
            ),
        ] {
            let found = second(syscall, files, Sleep::Interruptible, Some(stack));
            assert_eq!(found, expected, "{syscall:?} {stack}");
        }
    }

    #[test]
    fn where_no_function_is_known_the_file_that_can_wait_so_is_it() {
        use FileKind::{Fifo, Regular, Socket};
        let (interruptible, not) = (Sleep::Interruptible, Sleep::Uninterruptible);
        for (syscall, files, sleep, expected) in [
            (Syscall::Splice, [Regular, Fifo], interruptible, Some(Direction::Send)),
            (Syscall::Splice, [Regular, Fifo], not, None),
            (Syscall::Splice, [Fifo, Regular], interruptible, None),
            (Syscall::Sendfile, [Socket, Regular], interruptible, None),
            (Syscall::Sendfile, [Socket, Regular], not, Some(Direction::Receive)),
            (Syscall::Tee, [Fifo, Fifo], interruptible, None),
        ] {
            assert_eq!(second(syscall, files, sleep, None), expected, "{syscall:?} {files:?} {sleep:?}");
            assert_eq!(second(syscall, files, sleep, Some("schedule")), expected, "it says nothing");
        }
    }

    #[test]
    fn only_calls_with_two_descriptors_have_a_second() {
        let of = |syscall| second_fd(&wait(syscall, [3, 4, 5, 6, 0, 0]));
        assert_eq!(of(Syscall::Splice), Some(5));
        assert_eq!(of(Syscall::Sendfile), Some(4));
        assert_eq!(of(Syscall::Read), None);
    }
}
