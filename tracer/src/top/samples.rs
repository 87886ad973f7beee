//! Waits and frames for the tests of the view.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;

use super::source::{Frame, When};
use crate::{
    diagnose::verdict::tests as samples,
    model::class::Class,
    model::syscalls::{Direction, Syscall},
    model::target::Target,
    resolve::{Resolved, process::ProcessMeta},
    wire::json::WaitObject,
};

/// A wait of a process with one thread, so many seconds old.
pub fn wait(pid: u32, comm: &str, class: Class, seconds: u64) -> WaitObject {
    let mut wait = samples::wait(Syscall::Recvfrom, [13, 0, 0, 0, 0, 0]);
    (wait.thread.process.pid, wait.thread.tid) = (pid, pid);
    (wait.comm, wait.age) = (comm.into(), Duration::from_secs(seconds));
    let target = match class {
        Class::Timer => Target::None,
        Class::Pipe => Target::Pipe { inode: 7 },
        Class::Events => Target::Epoll { watched: 3 },
        _ => samples::tcp(),
    };
    let mut resolved = Resolved::new(Some(13), target, Some(Direction::Receive));
    if class == Class::Timer {
        (resolved.fd, wait.call.syscall) = (None, Syscall::ClockNanosleep);
    }
    WaitObject::brief(&wait, &resolved, class, &ProcessMeta::default())
}

/// A host with these waits.
pub fn frame(waits: Vec<WaitObject>) -> Frame {
    let mut classes = BTreeMap::new();
    for class in waits.iter().filter_map(|wait| wait.class) {
        *classes.entry(class).or_default() += 1;
    }
    Frame {
        when: When::Now,
        hidden: 0,
        classes,
        at: Timestamp::UNIX_EPOCH,
        source: "bpf",
        why_not_better: None,
        waits: waits.into_iter().map(Arc::new).collect(),
        waits_a_second: Some(1234.4),
        switches_a_second: 4321.0,
        lost: 0,
        own_cpu: 0.42,
    }
}
