//! The JSON contract: one object a wait, these names always.

use std::time::Duration;

use serde::Serialize;

use crate::{
    resolve::{Resolved, process::Who, target::Target},
    verdict::{Level, Verdict},
    wait::Wait,
};

/// A wait as `ps --json` prints it and stall events carry it.
#[derive(Serialize)]
pub struct WaitObject<'a> {
    pid: u32,
    tid: u32,
    comm: &'a str,
    cmdline: Option<&'a str>,
    uid: u32,
    state: &'static str,
    syscall: &'static str,
    /// As `0x…`: JSON numbers lose the low bits of addresses.
    args: [String; 6],
    fd: Option<i32>,
    since: String,
    age_seconds: f64,
    age_exact: bool,
    class: &'static str,
    level: Level,
    verdict: &'a str,
    target: &'a Target,
    cgroup: Option<&'a str>,
    unit: Option<&'a str>,
    container: Option<&'a str>,
}

impl<'a> WaitObject<'a> {
    /// Joins what is known of one wait.
    pub fn new(wait: &'a Wait, resolved: &'a Resolved, verdict: &'a Verdict, who: &'a Who) -> Self {
        Self {
            pid: wait.thread.process.pid,
            tid: wait.thread.tid,
            comm: &wait.comm,
            cmdline: who.cmdline.as_deref(),
            uid: wait.uid,
            state: wait.sleep.letter(),
            syscall: wait.call.name,
            args: wait.call.args.map(|arg| format!("{arg:#x}")),
            fd: resolved.fd,
            // Milliseconds: the clock is not known better.
            since: format!("{:.3}", wait.since),
            age_seconds: seconds(wait.age),
            age_exact: wait.exact,
            class: verdict.class.label(),
            level: verdict.class.level(),
            verdict: &verdict.sentence,
            target: &resolved.target,
            cgroup: who.cgroup.as_deref(),
            unit: who.unit.as_deref(),
            container: who.container.as_deref(),
        }
    }
}

/// A duration in seconds, to the millisecond.
pub fn seconds(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1000.0
}
