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
    uid: Option<u32>,
    state: &'static str,
    syscall: &'static str,
    /// As `0x…`: JSON numbers lose the low bits of addresses.
    args: [String; 6],
    fd: Option<i32>,
    since: String,
    age_seconds: f64,
    age_exact: bool,
    /// These three are null for a wait that is over: what is seen of its connection now does not say what it waited for.
    class: Option<&'static str>,
    level: Option<Level>,
    verdict: Option<&'a str>,
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
            uid: Some(wait.uid),
            state: wait.sleep.letter(),
            syscall: wait.call.name,
            args: wait.call.args.map(|arg| format!("{arg:#x}")),
            fd: resolved.fd,
            // Milliseconds: the clock is not known better.
            since: format!("{:.3}", wait.since),
            age_seconds: seconds(wait.age),
            age_exact: wait.exact,
            class: Some(verdict.class.label()),
            level: Some(verdict.class.level()),
            verdict: Some(&verdict.sentence),
            target: &resolved.target,
            cgroup: who.cgroup.as_deref(),
            unit: who.unit.as_deref(),
            container: who.container.as_deref(),
        }
    }
}

/// A call that `trace --json` prints: a wait, and what came of it.
#[derive(Serialize)]
pub struct CallObject<'a> {
    /// `waiting` or `ended`.
    event: &'static str,
    /// What it returned, as the kernel has it: an error is its number, negative.
    result: Option<i64>,
    /// The error's name.
    errno: Option<String>,
    /// How long it has lasted, from its entry.
    seconds: f64,
    #[serde(flatten)]
    wait: WaitObject<'a>,
}

impl<'a> CallObject<'a> {
    /// Of a call that waits.
    pub fn waiting(wait: WaitObject<'a>) -> Self {
        Self { event: "waiting", result: None, errno: None, seconds: wait.age_seconds, wait }
    }

    /// Of a call that has ended.
    pub fn ended(
        mut wait: WaitObject<'a>,
        uid: Option<u32>,
        result: Option<i64>,
        errno: Option<String>,
    ) -> Self {
        (wait.class, wait.level, wait.verdict) = (None, None, None);
        wait.uid = uid;
        Self { event: "ended", result, errno, seconds: wait.age_seconds, wait }
    }
}

/// A duration in seconds, to the millisecond.
pub fn seconds(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1000.0
}
