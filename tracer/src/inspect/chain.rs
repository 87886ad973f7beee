//! From a wait to whom it is for, to what that one waits for, and on: the culprit is at the end of the chain.

use anyhow::Result;

use super::{classes, threads};
use crate::{
    class::Level,
    collect::Source,
    human,
    look::{self, Judged},
    resolve::{Resolver, peers::Peer},
    wait::{Held, Snapshot, Wait},
};

/// Links that are followed.
const LONGEST: usize = 4;
/// Processes that are looked at on each.
const WIDEST: usize = 3;
/// Waits of a process that are judged.
const MOST_WAITS: usize = 256;

/// Someone that is waited for.
#[derive(Debug)]
pub struct Other {
    /// Its process.
    pub pid: u32,
    /// Its thread, where one thread is meant.
    pub tid: Option<u32>,
    /// Its name.
    pub comm: String,
    /// Its command line.
    pub cmdline: Option<String>,
    /// What it has to do with the wait: `at the other end`, `holds the lock`.
    pub role: &'static str,
    /// What it does.
    pub doing: String,
    /// It is stuck as well.
    pub stuck: bool,
    /// It waits for one that waits for it.
    pub circle: bool,
    /// Whom it waits for.
    pub then: Vec<Other>,
}

impl Other {
    /// Whether the chain from here comes back to where it has been: a deadlock.
    pub fn runs_in_a_circle(&self) -> bool {
        self.circle || self.then.iter().any(Other::runs_in_a_circle)
    }
}

/// Follows waits.
pub struct Chain<'a> {
    snapshot: &'a Snapshot,
    resolver: &'a mut Resolver,
    source: &'a mut dyn Source,
    /// Where the chain has been: processes, and threads where one thread is meant.
    seen: Vec<(u32, Option<u32>)>,
}

impl<'a> Chain<'a> {
    /// One that has been nowhere.
    pub fn new(snapshot: &'a Snapshot, resolver: &'a mut Resolver, source: &'a mut dyn Source) -> Self {
        Self { snapshot, resolver, source, seen: Vec::new() }
    }

    /// Remembers that it has been at a wait; false if it had been there before.
    pub fn visit(&mut self, wait: &Judged) -> bool {
        let thread = wait.wait.thread;
        let new = !self.seen.contains(&(thread.process.pid, Some(thread.tid)));
        self.seen.extend([(thread.process.pid, Some(thread.tid)), (thread.process.pid, None)]);
        new
    }

    /// Whom a wait is for.
    pub fn beyond(&mut self, wait: &Judged, depth: usize) -> Result<Vec<Other>> {
        let Some(peers) = &wait.resolved.peers else { return Ok(Vec::new()) };
        let lock = matches!(wait.wait.call.name, "flock" | "fcntl" | "fcntl64");
        let role = if lock { "holds the lock" } else { "at the other end" };
        let mut others = Vec::new();
        if let Some(owner) = &peers.owner {
            let pid = wait.wait.thread.process.pid;
            others.push(self.other(pid, Some(owner.pid), owner, "holds the lock", depth)?);
        }
        for peer in peers.others.iter().take(WIDEST) {
            others.push(self.other(peer.pid, None, peer, role, depth)?);
        }
        Ok(others)
    }

    fn other(
        &mut self,
        pid: u32,
        tid: Option<u32>,
        peer: &Peer,
        role: &'static str,
        depth: usize,
    ) -> Result<Other> {
        let mut other = Other {
            pid,
            tid,
            comm: peer.comm.clone(),
            cmdline: None,
            role,
            doing: String::new(),
            stuck: false,
            circle: false,
            then: Vec::new(),
        };
        if self.seen.contains(&(pid, tid)) {
            // Of a process with many threads another one may do the work.
            other.circle = tid.is_some() || threads::tids(pid).len() == 1;
            other.doing = match other.circle {
                true => "waits itself, as above: each waits for the other, and neither can ever go on".into(),
                false => "has been described above".into(),
            };
            return Ok(other);
        }
        self.seen.push((pid, tid));
        let is =
            |wait: &&Wait| wait.thread.process.pid == pid && tid.is_none_or(|tid| wait.thread.tid == tid);
        let waits: Vec<Wait> = self.snapshot.waits.iter().filter(is).take(MOST_WAITS).cloned().collect();
        if let Some(wait) = waits.first() {
            other.cmdline = self.resolver.who(wait.thread.process).cmdline.clone();
        }
        let weigh = |_: &Wait, class: crate::class::Class| class.level() != Level::Idle;
        let waits = look::judge(waits, &self.snapshot.waits, self.resolver, self.source, weigh)?;
        let worst =
            waits.iter().min_by_key(|wait| (wait.verdict.class.level(), std::cmp::Reverse(wait.wait.age)));
        other.doing = self.doing(pid, tid, &waits, worst);
        let Some(worst) = worst else { return Ok(other) };
        let level = worst.verdict.class.level();
        other.stuck = level == Level::Stuck;
        // What a thread among many may wait for need not be what keeps the process from answering.
        let follow = other.stuck || level == Level::Doubtful && waits.len() == 1;
        if follow && depth + 1 < LONGEST {
            self.visit(worst);
            other.then = self.beyond(worst, depth + 1)?;
        }
        Ok(other)
    }

    fn doing(&self, pid: u32, tid: Option<u32>, waits: &[Judged], worst: Option<&Judged>) -> String {
        let held = self
            .snapshot
            .held
            .iter()
            .find(|held| held.thread.process.pid == pid && tid.is_none_or(|tid| held.thread.tid == tid));
        if let Some(held) = held {
            return match held.held {
                Held::Stopped => "is stopped by a signal, and goes on when it gets SIGCONT",
                Held::Traced => "is held by a debugger",
                Held::Frozen => "is frozen with its cgroup",
            }
            .into();
        }
        let tids = tid.map_or_else(|| threads::tids(pid), |tid| vec![tid]);
        let inside = |wait: &Judged| match tids.len() {
            0 | 1 => String::new(),
            all => format!(" in thread {} of {all}", wait.wait.thread.tid),
        };
        let level = worst.map(|worst| worst.verdict.class.level());
        if let (Some(worst), Some(Level::Stuck)) = (worst, level) {
            return format!("is stuck itself{}: {}", inside(worst), worst.verdict.sentence);
        }
        let running = tids
            .iter()
            .filter(|tid| threads::seen(pid, **tid).is_some_and(|(_, state)| state == 'R'))
            .count();
        match (running, tids.len()) {
            (_, 0) => return "has gone".into(),
            (1.., 1) => return "is running".into(),
            (1.., all) => return format!("is running, in {running} of {}", human::count(all, "thread")),
            _ => {}
        }
        match (worst, level) {
            (Some(worst), Some(Level::Doubtful)) => {
                format!("may be stuck{}: {}", inside(worst), worst.verdict.sentence)
            }
            (Some(worst), _) if waits.len() == 1 => format!("is idle: {}", worst.verdict.sentence),
            (Some(_), _) => {
                format!("is idle: {} rest ({})", human::count(waits.len(), "thread"), classes(waits.iter()))
            }
            (None, _) => "is between two waits".into(),
        }
    }
}
