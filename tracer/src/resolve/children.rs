//! Which children does a thread wait for? The one it names, or all of its process's.

use crate::{
    model::{
        syscalls::{Operation, Syscall},
        wait::{ProcessId, Wait},
    },
    procfs::Reads,
};

/// Their process ids; none where they are not to be seen: of a debugger, those that it traces are no children.
pub fn of(wait: &Wait, reads: &mut Reads) -> Vec<u32> {
    let mut all = self::all(wait.thread.process, reads);
    if let Some(named) = named(wait).filter(|named| all.contains(named)) {
        all = vec![named];
    }
    all
}

/// All children of a process.
pub fn all(process: ProcessId, reads: &mut Reads) -> Vec<u32> {
    reads
        .numbers(process, "task")
        .into_iter()
        .filter_map(|tid| reads.text(process, &format!("task/{tid}/children")))
        .flat_map(|text| {
            text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()
        })
        .collect()
}

/// Whether it may be this child that a thread waits for.
pub fn may_be(wait: &Wait, child: u32) -> bool {
    // Zero and what is negative names a group, or any.
    wait.call.operation() == Operation::Child
        && named(wait).is_none_or(|named| named == child || named.cast_signed() <= 0)
}

/// The child that the call names.
fn named(wait: &Wait) -> Option<u32> {
    const P_PID: u64 = 1;
    let args = &wait.call.args;
    match wait.call.syscall {
        Syscall::Wait4 | Syscall::Waitpid => Some(args[0] as u32),
        Syscall::Waitid if args[0] == P_PID => Some(args[1] as u32),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::{diagnose::verdict::tests::wait, procfs::by_pid};

    #[test]
    fn a_child_that_is_named_is_the_one() {
        let mut children: Vec<_> = (0..2)
            .map(|_| Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("cat"))
            .collect();
        let [first, second] = [children[0].id(), children[1].id()];
        let any = u64::from(u32::MAX);
        for (syscall, args, named) in [
            (Syscall::Wait4, [u64::from(second), 0, 0, 0, 0, 0], Some(second)),
            (Syscall::Wait4, [any, 0, 0, 0, 0, 0], None),
            (Syscall::Waitid, [1, u64::from(second), 0, 0, 0, 0], Some(second)),
            (Syscall::Waitid, [0, u64::from(first), 0, 0, 0, 0], None),
            (Syscall::Vfork, [0; 6], None),
        ] {
            let mut wait = wait(syscall, args);
            wait.thread.process = by_pid(std::process::id());
            assert!(may_be(&wait, second));
            assert_eq!(may_be(&wait, 1), named.is_none(), "{syscall:?}");
            let found = of(&wait, &mut Reads::new());
            match named {
                Some(named) => assert_eq!(found, [named], "{syscall:?}"),
                None => assert!(found.contains(&first) && found.contains(&second), "{syscall:?}: {found:?}"),
            }
        }
        for child in &mut children {
            drop(child.stdin.take());
            child.wait().expect("it ends");
        }
    }
}
