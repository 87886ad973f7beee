//! From a wait to whom it is for, to what that one waits for, and on: the culprit is at the end of the chain.

use std::{collections::HashSet, net::SocketAddr};

use anyhow::Result;

use super::{classes, sockets::QueuedSocket, threads};
use crate::{
    assess::pipeline::{Assessment, PeerPolicy, PeersOf, Pipeline, is_young},
    assess::requests,
    collect::{Source, sockets::NetTables},
    model::backlog::QueueKind,
    model::class::{Class, Level},
    model::holder::Holding,
    model::target::Target,
    model::wait::{ByProcess, ProcessId, Snapshot, Suspended, SuspendedThread, Wait},
    procfs::{Reads, by_pid},
    resolve::{
        children,
        futex::{FutexWord, LockHolder, LockOwner},
        peers::{Peer, Peers, Role},
    },
    util::human,
};

/// Links of a chain that are followed.
const LINKS_MAX: usize = 4;
/// Processes that are looked at on each.
const PEERS_MAX: usize = 3;
/// What another is that takes from the same queue.
pub const SHARES: &str = "listens there as well";
/// What a process is to its parent.
pub const CHILD: &str = "its child";
/// Children of a process that rests that are looked at.
const CHILDREN_MAX: usize = 16;
/// Waits of a process that are assessed.
const WAITS_MAX: usize = 256;

/// The peers of what worries, and of parents: they may close a circle.
struct OfChain;

impl PeerPolicy for OfChain {
    fn needs_peers(&self, assessment: &Assessment) -> bool {
        PeersOf::NOT_IDLE.needs_peers(assessment) || assessment.class == Class::Child
    }
}

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
    /// What it has to do with the wait: `at the other end`, `holds the lock`, `changed it last`, `its child`.
    pub role: &'static str,
    /// What it does.
    pub doing: String,
    /// It is stuck as well.
    pub stuck: bool,
    /// It stands in a deadlock.
    pub deadlocked: bool,
    /// What it waits for on the very connection that leads to it, if it does.
    pub back: Option<Class>,
    /// It is stopped, traced or frozen.
    pub suspended: Option<SuspendedThread>,
    /// It only waits for children of its own.
    pub is_parent: bool,
    /// It has been described already.
    pub again: bool,
    /// It waits for one that waits for it.
    pub circle: bool,
    /// Whom it waits for.
    pub then: Vec<Other>,
    /// How many of those were too many to look at.
    pub then_left_out: usize,
}

impl Other {
    /// Of which nothing is known yet but who it is.
    fn new(ChainMember { pid, tid, comm, role }: ChainMember<'_>) -> Self {
        Self {
            pid,
            tid,
            comm: comm.to_owned(),
            cmdline: None,
            role,
            doing: String::new(),
            stuck: false,
            deadlocked: false,
            back: None,
            suspended: None,
            is_parent: false,
            again: false,
            circle: false,
            then: Vec::new(),
            then_left_out: 0,
        }
    }

    /// The first in the chain from here that is stuck.
    pub fn stuck_one(&self) -> Option<&Other> {
        if self.stuck { Some(self) } else { self.then.iter().find_map(Other::stuck_one) }
    }

    /// Who in the chain from here does not go on, so that this one will not: itself, or the only child that it waits for.
    pub fn held_up(&self) -> Option<&Other> {
        if self.stuck || self.suspended.is_some() {
            return Some(self);
        }
        match &self.then[..] {
            [child] if self.is_parent && self.then_left_out == 0 => child.held_up(),
            _ => None,
        }
    }

    /// The last in the chain from here that is stuck.
    pub fn last_stuck(&self) -> Option<&Other> {
        self.then.iter().find_map(Other::last_stuck).or(self.stuck.then_some(self))
    }
}

/// Whom a wait is for.
#[derive(Debug, Default)]
pub struct Beyond {
    /// Those of them that were looked at.
    pub others: Vec<Other>,
    /// Processes that were too many to look at.
    pub left_out: usize,
}

/// Follows waits.
pub struct Chain<'a, 'w> {
    snapshot: &'a Snapshot,
    all: &'a ByProcess<'w>,
    pipeline: &'a mut Pipeline,
    source: &'a mut dyn Source,
    /// Who has been described: processes, and threads where one thread is meant.
    seen: HashSet<(u32, Option<u32>)>,
    /// Those on the way from the first wait to here.
    path: Vec<(u32, Option<u32>)>,
}

/// A process of a chain, or a thread of it, and why it is one.
struct ChainMember<'a> {
    pid: u32,
    /// The thread, where only that is meant.
    tid: Option<u32>,
    comm: &'a str,
    role: &'static str,
}

impl<'a> ChainMember<'a> {
    fn of(peer: &'a Peer, role: &'static str) -> Self {
        Self { pid: peer.pid, tid: None, comm: &peer.comm, role }
    }
}

impl<'a, 'w> Chain<'a, 'w> {
    /// One that has been nowhere.
    pub fn new(
        snapshot: &'a Snapshot,
        all: &'a ByProcess<'w>,
        pipeline: &'a mut Pipeline,
        source: &'a mut dyn Source,
    ) -> Self {
        Self { snapshot, all, pipeline, source, seen: HashSet::new(), path: Vec::new() }
    }

    /// Follows a wait to its end, unless it has been described already.
    pub fn follow(&mut self, wait: &Assessment) -> Result<Beyond> {
        let thread = wait.wait.thread;
        if self.seen.contains(&(thread.process.pid, Some(thread.tid))) {
            return Ok(Beyond::default());
        }
        self.on(wait, 0)
    }

    /// Those who take from the same queue as a process, and what keeps them: a server's connections are accepted by any of its
    /// workers.
    pub fn sharers(&mut self, queued: &QueuedSocket, pid: u32) -> Result<Beyond> {
        let (files, ends) = match queued.holding {
            Holding::File(file) => (vec![file], Vec::new()),
            Holding::Connection(end) => (Vec::new(), vec![end]),
        };
        let holders = self.source.holders(&files, &ends)?.unwrap_or_default();
        let mut pids: Vec<u32> = holders.iter().map(|holder| holder.pid).filter(|by| *by != pid).collect();
        pids.sort_unstable();
        pids.dedup();
        let mut beyond = Beyond { left_out: pids.len().saturating_sub(PEERS_MAX), ..Beyond::default() };
        for pid in pids.into_iter().take(PEERS_MAX) {
            let Some(comm) = self.pipeline.resolver().reads().comm(by_pid(pid)) else { continue };
            let peer = Peer { pid, comm };
            beyond.others.push(self.other(ChainMember::of(&peer, SHARES), None, 0)?);
        }
        Ok(beyond)
    }

    /// Children of a process that do not go on: it may wait for them by a pipe, and for other things besides.
    pub fn stuck_children(&mut self, process: ProcessId) -> Result<Vec<Other>> {
        let mut stuck = Vec::new();
        for pid in children::all(process, self.pipeline.resolver().reads()).into_iter().take(CHILDREN_MAX) {
            if stuck.len() == PEERS_MAX || self.seen.contains(&(pid, None)) {
                continue;
            }
            let Some(comm) = self.pipeline.resolver().reads().comm(by_pid(pid)) else { continue };
            let child = Peer { pid, comm };
            let other = self.other(ChainMember::of(&child, CHILD), None, 0)?;
            if other.stuck_one().is_some() || other.suspended.is_some() {
                stuck.push(other);
            }
        }
        Ok(stuck)
    }

    /// The next links of the chain, with this wait on the way.
    fn on(&mut self, wait: &Assessment, depth: usize) -> Result<Beyond> {
        let (thread, before) = (wait.wait.thread, self.path.len());
        let here = [(thread.process.pid, Some(thread.tid)), (thread.process.pid, None)];
        self.seen.extend(here);
        self.path.extend(here);
        let beyond = self.beyond(wait, depth);
        self.path.truncate(before);
        beyond
    }

    /// Whom a wait is for.
    fn beyond(&mut self, wait: &Assessment, depth: usize) -> Result<Beyond> {
        let mut beyond = Beyond::default();
        if wait.class == Class::Child {
            let reads = self.pipeline.resolver().reads();
            let children = children::of(&wait.wait, reads);
            let named = children.iter().take(PEERS_MAX);
            let named: Vec<Peer> =
                named.filter_map(|pid| Some(Peer { pid: *pid, comm: reads.comm(by_pid(*pid))? })).collect();
            beyond.left_out = children.len().saturating_sub(PEERS_MAX);
            for child in &named {
                beyond.others.push(self.other(ChainMember::of(child, CHILD), None, depth)?);
            }
            return Ok(beyond);
        }
        let Some(peers) = &wait.resolved.peers else { return Ok(beyond) };
        let role = match &peers.semaphore {
            Some(_) => "changed it last",
            None if wait.wait.call.waits_for_file_lock() => "holds the lock",
            None => role_of(peers),
        };
        let owner = match &peers.futex {
            Some(FutexWord::Lock(LockHolder::Thread(owner))) => Some(owner),
            _ => peers.owner.as_ref(),
        };
        if let Some(LockOwner { pid, tid, comm }) = owner {
            let role = if peers.role == Role::LockHolder { role } else { "holds the lock" };
            let holder = ChainMember { pid: *pid, tid: Some(*tid), comm, role };
            beyond.others.push(self.other(holder, None, depth)?);
        }
        beyond.left_out = peers.number().saturating_sub(PEERS_MAX);
        for peer in peers.others.iter().take(PEERS_MAX) {
            let from = Some(&wait.resolved.target);
            beyond.others.push(self.other(ChainMember::of(peer, role), from, depth)?);
        }
        Ok(beyond)
    }

    fn other(&mut self, member: ChainMember<'_>, from: Option<&Target>, depth: usize) -> Result<Other> {
        let ChainMember { pid, tid, .. } = member;
        let mut other = Other::new(member);
        if self.seen.contains(&(pid, tid)) {
            other.again = true;
            // Of a process with many threads another one may do the work.
            let one_thread = tid.is_some() || tids(pid).len() == 1;
            other.circle = one_thread && self.path.contains(&(pid, tid));
            other.doing = match other.circle {
                true => "waits itself, as above: each waits for the other".into(),
                false => "has been described above".into(),
            };
            return Ok(other);
        }
        self.seen.insert((pid, tid));
        let is = |wait: &&&Wait| tid.is_none_or(|tid| wait.thread.tid == tid);
        let mut waits: Vec<&Wait> = self.all.of(pid).iter().filter(is).copied().collect();
        // A proxy has few requests without an answer, and many threads.
        waits.sort_by_key(|wait| !wait.thread.is_request());
        let waits: Vec<Wait> = waits.into_iter().take(WAITS_MAX).cloned().collect();
        if let Some(wait) = waits.first() {
            other.cmdline = self.pipeline.resolver().who(wait.thread.process).cmdline.clone();
        }
        let mut waits = self.pipeline.assess(waits, self.all, self.source, &OfChain)?;
        requests::drop_doubles(&mut waits);
        if let Some(back) =
            from.and_then(|from| waits.iter().find(|wait| is_other_end(&wait.resolved.target, from)))
        {
            let place = inside(back, &tids(pid));
            let known = back.resolved.peers.as_ref().and_then(|peers| peers.others.first());
            let known = known.map(|peer| format!(", which is {} (pid {})", peer.comm, peer.pid));
            let sentence =
                known.map_or_else(|| back.sentence(), |known| back.sentence().replacen(&known, "", 1));
            other.doing = format!("waits on this very connection as well{place}: {sentence}");
            other.back = Some(back.class);
            return Ok(other);
        }
        let worst = waits
            .iter()
            .min_by_key(|wait| (!wait.is_deadlock(), wait.concern(), std::cmp::Reverse(wait.wait.age)));
        other.suspended = self.suspended(pid, tid);
        other.doing = self.doing(pid, tid, &waits, worst);
        if let Some(read) = from.and_then(|from| self.read_of(pid, from)) {
            other.doing += &read;
        }
        let Some(worst) = worst else { return Ok(other) };
        let concern = worst.concern();
        (other.stuck, other.deadlocked) = (concern == Level::Stuck, worst.is_deadlock());
        other.is_parent = worst.class == Class::Child && waits.len() == 1;
        // What a thread among many may wait for need not be what keeps the process from answering.
        let its_own = concern == Level::Doubtful || worst.class == Class::Child;
        let follow = other.stuck || its_own && waits.len() == 1;
        if follow && depth + 1 < LINKS_MAX {
            let beyond = self.on(worst, depth + 1)?;
            other.then = beyond.others;
            other.then_left_out = beyond.left_out;
        }
        Ok(other)
    }

    /// Whether a process has read what was sent to it on this connection, whose other end it holds; nothing if that is not to be seen.
    fn read_of(&mut self, pid: u32, from: &Target) -> Option<String> {
        let Target::Tcp { local, remote, .. } = from else { return None };
        let same = |one: &SocketAddr, other: &SocketAddr| {
            one.port() == other.port() && one.ip().to_canonical() == other.ip().to_canonical()
        };
        let table = NetTables::read_tcp(by_pid(pid), self.pipeline.resolver().reads());
        let end = table.iter().find(|socket| {
            // Nobody has those yet that wait to be accepted.
            socket.inode != 0 && same(&socket.local_address, remote) && same(&socket.remote_address, local)
        })?;
        Some(match end.rx_queue {
            0 => "; it has read all that was sent".into(),
            1 => "; 1 byte of what was sent lies unread".into(),
            unread => format!("; {unread} bytes of what was sent lie unread"),
        })
    }

    /// What keeps a process, or a thread of it, from running at all.
    fn suspended(&self, pid: u32, tid: Option<u32>) -> Option<SuspendedThread> {
        let is_it = |of: &&SuspendedThread| {
            of.thread.process.pid == pid && tid.is_none_or(|tid| of.thread.tid == tid)
        };
        self.snapshot.suspended.iter().find(is_it).copied()
    }

    /// Whether it sleeps where this user may not look.
    fn is_hidden(&self, pid: u32) -> bool {
        self.snapshot.hidden.iter().any(|hidden| hidden.process.pid == pid)
    }

    fn doing(&self, pid: u32, tid: Option<u32>, waits: &[Assessment], worst: Option<&Assessment>) -> String {
        if let Some(suspended) = self.suspended(pid, tid) {
            return match (suspended.by, suspended.signal) {
                (Suspended::Stopped, Some(signal)) if signal.is_for_background() => {
                    format!("is stopped by {}: a background job that needs its terminal", signal.name())
                }
                (Suspended::Stopped, Some(signal)) => {
                    format!("is stopped by {}, and goes on when it gets SIGCONT", signal.name())
                }
                (Suspended::Stopped, None) => {
                    "is stopped by a signal, and goes on when it gets SIGCONT".into()
                }
                (Suspended::Traced, _) => "is held by a debugger".into(),
                (Suspended::Frozen, _) => "is frozen with its cgroup".into(),
            };
        }
        let tids = tid.map_or_else(|| tids(pid), |tid| vec![tid]);
        let concern = worst.map(Assessment::concern);
        if let Some(worst) = worst.filter(|_| concern == Some(Level::Stuck)) {
            return format!("is stuck itself{}: {}", inside(worst, &tids), worst.sentence());
        }
        let running = tids
            .iter()
            .filter(|tid| {
                threads::seen(by_pid(pid), **tid, &mut Reads::new()).is_some_and(|(_, state)| state == 'R')
            })
            .count();
        match (running, tids.len()) {
            (_, 0) => return "has gone".into(),
            (1.., 1) => return "is running".into(),
            (1.., all) => return format!("is running, in {running} of {}", human::count(all, "thread")),
            _ => {}
        }
        match (worst, concern) {
            (Some(worst), Some(Level::Idle)) if is_young(worst.wait.age) => {
                format!("is at work: it has not waited longer than {}", human::age(worst.wait.age))
            }
            (Some(worst), Some(Level::Doubtful)) => {
                format!("may be stuck{}: {}", inside(worst, &tids), worst.sentence())
            }
            (Some(worst), _) if waits.len() == 1 && worst.class == Class::Child => {
                let sentence = worst.sentence();
                format!("waits in turn: {}", sentence.strip_prefix("waiting ").unwrap_or(&sentence))
            }
            (Some(worst), _) if waits.len() == 1 => format!("is idle: {}", worst.sentence()),
            (Some(_), _) => {
                format!("is idle: {} rest ({})", human::count(waits.len(), "thread"), classes(waits.iter()))
            }
            (None, _) if self.is_hidden(pid) => {
                "sleeps, in a call that only root or its own user may see".into()
            }
            (None, _) => "is not waiting right now".into(),
        }
    }
}

/// What those at the other end have to do with a wait.
fn role_of(peers: &Peers) -> &'static str {
    if peers.backlog.is_some_and(|backlog| backlog.waiting == QueueKind::Connections) {
        return "listens there";
    }
    match (peers.role, peers.certain) {
        (Role::OtherEnd, _) => "at the other end",
        (Role::Server, true) => "serves the file system",
        (Role::Server, false) => "probably serves the file system",
        (Role::Listener, true) => "is asked for permission",
        (Role::Listener, false) => "may be asked for permission",
        (Role::Automounter, _) => "mounts what is missing",
        (Role::LockHolder, true) => "holds the lock",
        (Role::LockHolder, false) => "probably holds the lock",
        (Role::FaultServer, true) => "serves its page faults",
        (Role::FaultServer, false) => "probably serves its page faults",
        (Role::LastUser, _) => "used it last",
        (Role::TerminalMaster, _) => "has the other end of the terminal",
    }
}

/// Which thread of the process it is, where there are several.
fn inside(wait: &Assessment, tids: &[u32]) -> String {
    match tids.len() {
        // No thread waits at the moment: it is an event loop, or polls again soon.
        _ if wait.wait.thread.is_request() => String::new(),
        0 | 1 => String::new(),
        all => format!(" in thread {} of {all}", wait.wait.thread.tid),
    }
}

/// Ids of a process's threads.
fn tids(pid: u32) -> Vec<u32> {
    threads::tids(by_pid(pid), &mut Reads::new())
}

/// Whether one socket is the other end of the other's connection.
fn is_other_end(one: &Target, other: &Target) -> bool {
    match (one, other) {
        (Target::Tcp { local, remote, .. }, Target::Tcp { local: a, remote: b, .. }) => {
            local == b && remote == a
        }
        (Target::Unix { peer_inode, .. }, Target::Unix { inode, .. }) => *peer_inode == Some(*inode),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::wait::ThreadId;

    fn other(pid: u32) -> Other {
        Other::new(ChainMember { pid, tid: None, comm: "x", role: "its child" })
    }

    #[test]
    fn a_parent_is_held_up_by_the_only_child_that_it_waits_for() {
        let parent =
            |then: Vec<Other>, then_left_out| Other { is_parent: true, then, then_left_out, ..other(8) };
        let stuck = || Other { stuck: true, ..other(7) };
        let thread = ThreadId { process: by_pid(7), tid: 7, start_ns: 0 };
        let suspended = SuspendedThread { thread, by: Suspended::Stopped, signal: None };
        let stopped = || Other { suspended: Some(suspended), ..other(7) };
        for (of, held_up) in [
            (stuck(), Some(7)),
            (stopped(), Some(7)),
            (other(7), None),
            (parent(vec![stuck()], 0), Some(7)),
            (parent(vec![parent(vec![stopped()], 0)], 0), Some(7)),
            (parent(vec![stuck()], 1), None),
            (parent(vec![stuck(), other(9)], 0), None),
            (parent(vec![other(7)], 0), None),
            (Other { is_parent: false, ..parent(vec![stuck()], 0) }, None),
        ] {
            assert_eq!(of.held_up().map(|other| other.pid), held_up, "{of:?}");
        }
    }
}
