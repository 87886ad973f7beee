//! Stalls for the tests of the history.

use std::{fs, path::Path, sync::Arc, time::Duration};

use jiff::Timestamp;

use crate::{
    assess::stall::Stall,
    diagnose::verdict::{Verdict, tests as samples},
    model::class::Class,
    model::syscalls::{Direction, Syscall},
    resolve::Resolved,
    wire::json::WaitObject,
    wire::stall::StallObject,
};

/// A process's stall that opened and closed at these seconds of Unix time.
pub fn stall(pid: u32, opened: i64, closed: Option<i64>) -> StallObject {
    let stall = flagged(pid, opened);
    StallObject {
        opened: stall.opened,
        closed: closed.map(moment),
        ended: closed.map(|_| "resumed".into()),
        lasted: Duration::from_secs(closed.unwrap_or(opened).abs_diff(opened)),
        note: None,
        incident: None,
        peer: None,
        stack: Vec::new(),
        wait: WaitObject::brief(&stall.wait, &stall.resolved, Class::Reply, &stall.who),
    }
}

/// One that is open, as the agent has it.
pub fn flagged(pid: u32, opened: i64) -> Stall {
    let mut wait = samples::wait(Syscall::Recvfrom, [13, 0, 0, 0, 0, 0]);
    (wait.thread.process.pid, wait.thread.tid, wait.since) = (pid, pid, moment(opened));
    Stall {
        wait,
        resolved: Resolved::new(Some(13), samples::tcp(), Some(Direction::Receive)),
        verdict: Verdict { class: Class::Reply, sentence: String::new() },
        opened: moment(opened),
        who: Arc::default(),
        note: None,
        incident: None,
        stack: Vec::new(),
    }
}

fn moment(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).expect("a moment")
}

/// Makes no page any more of all pages of the file that hold these bytes; how many they were.
pub fn damage_pages(file: &Path, bytes: &[u8]) -> usize {
    let mut pages = fs::read(file).expect("a file of ours");
    let mut damaged = 0;
    for page in pages.chunks_mut(4096) {
        if page.windows(bytes.len()).any(|window| window == bytes) {
            page.fill(0);
            damaged += 1;
        }
    }
    fs::write(file, &pages).expect("a file of ours");
    damaged
}
