//! What is known of a wait, joined in the object that people and machines read.

use crate::{
    diagnose::verdict::Verdict,
    model::class::{Class, Judgement},
    model::file::Addresses,
    model::wait::Wait,
    resolve::{Resolved, process::ProcessMeta},
    wire::json::{TranslatedObject, WaitObject},
    wire::target::TargetObject,
};

impl WaitObject {
    /// Joins what is known of one wait.
    pub fn new(wait: &Wait, resolved: &Resolved, verdict: &Verdict, who: &ProcessMeta) -> Self {
        Self { verdict: Some(verdict.sentence.clone()), ..Self::brief(wait, resolved, verdict.class, who) }
    }

    /// The same without the sentence.
    pub fn brief(wait: &Wait, resolved: &Resolved, class: Class, who: &ProcessMeta) -> Self {
        let is_deadlock = resolved.is_deadlock();
        Self {
            pid: wait.thread.process.pid,
            tid: wait.thread.tid,
            comm: wait.comm.to_string(),
            cmdline: who.cmdline.clone(),
            uid: Some(wait.uid),
            state: wait.sleep.letter().into(),
            syscall: wait.call.name().into(),
            args: wait.call.args,
            fd: resolved.fd,
            since: wait.since,
            age: wait.age,
            age_exact: wait.exact,
            class: Some(class),
            level: Some(Judgement { class, is_deadlock }.level()),
            deadlock: is_deadlock,
            verdict: None,
            target: TargetObject::new(&resolved.target, &resolved.socket),
            cgroup: who.cgroup.clone(),
            unit: who.unit.clone(),
            container: who.container.clone(),
            pod: who.pod.clone(),
            start_ticks: wait.thread.process.start_ticks(),
            translated: resolved.peers.as_ref().and_then(|peers| peers.translated).map(translated),
            culprit: None,
        }
    }
}

fn translated(other: Addresses) -> TranslatedObject {
    TranslatedObject { local: other.local.socket_addr(), remote: other.remote.socket_addr() }
}
