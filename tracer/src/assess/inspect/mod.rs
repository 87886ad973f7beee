//! Everything an engineer would gather by hand about one process: its threads, who is at the other ends and what those
//! wait for, its connections, and what to try next. What `why` shows.
//!
//! Part of `assess`, layer 4, and uses what that may use.

pub mod advice;
pub mod chain;
mod headline;
pub mod held_up;
mod inside;
pub mod sockets;
pub mod suspended;
pub mod threads;
pub mod way_out;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use anyhow::{Context, Result, bail, ensure};

use self::{
    advice::{Advice, PeerHost},
    chain::Other,
    headline::{by_others, headline, in_chains, name, with_others},
    held_up::{HeldUp, PlaceInChains},
    inside::ServerProgram,
    sockets::{QueuedSocket, Sockets},
    threads::{StacksOf, ThreadReport},
};
use crate::{
    assess::client::Client,
    assess::pipeline::{self, Assessment, LOOK_AGE_MIN, PeersOf, Pipeline},
    assess::requests,
    collect::{Source, WantedConnections},
    model::backlog::QueueKind,
    model::baseline::Excuse,
    model::class::{Class, Level},
    model::script::script,
    model::target::Target,
    model::wait::{ByProcess, ProcessId, Snapshot, Wait, may_be_same_start},
    procfs::{Reads, Unread, by_pid, stat},
    resolve::addresses::HostAddresses,
    resolve::process::ProcessMeta,
    util::human,
    wire::culprit::program_name,
};

/// Threads whose peers are looked up whatever they wait for; of more, only of those that worry.
const THREADS_WITH_PEERS: usize = 64;
/// Waits whose other ends are followed.
const WAITS_FOLLOWED_MAX: usize = 3;

/// What a process is doing, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// A thread is stuck.
    Stuck,
    /// A thread may be.
    Doubtful,
    /// A thread computes.
    Running,
    /// No thread waits for long.
    Busy,
    /// A thread sleeps in a call that this user may not see.
    Hidden,
    /// All threads rest.
    Idle,
    /// A stop signal holds it.
    Stopped,
    /// A debugger holds it.
    Traced,
    /// The freezer holds it.
    Frozen,
    /// It has ended, and its parent has not asked for its exit status.
    Zombie,
}

impl Condition {
    /// Its name in JSON.
    pub fn label(self) -> &'static str {
        match self {
            Condition::Stuck => "stuck",
            Condition::Doubtful => "doubtful",
            Condition::Running => "running",
            Condition::Busy => "busy",
            Condition::Hidden => "hidden",
            Condition::Idle => "idle",
            Condition::Stopped => "stopped",
            Condition::Traced => "traced",
            Condition::Frozen => "frozen",
            Condition::Zombie => "zombie",
        }
    }
}

/// All that was found out.
#[derive(Debug)]
pub struct Report {
    /// The process.
    pub process: ProcessId,
    /// Its name.
    pub comm: String,
    /// The thread that was asked about, if it was one.
    pub only: Option<u32>,
    /// Who it is.
    pub who: Arc<ProcessMeta>,
    /// What it is doing.
    pub condition: Condition,
    /// The same as a sentence.
    pub headline: String,
    /// Its threads, worst first.
    pub threads: Vec<ThreadReport>,
    /// Of which of them it is told where in the program they sleep.
    pub stacks: StacksOf,
    /// Who is at the other ends, and what they do.
    pub others: Vec<Other>,
    /// Processes at the other ends that were too many to look at.
    pub others_left_out: usize,
    /// Who waits for it, at the end of whatever chain.
    pub held_up: Option<HeldUp>,
    /// Its connections.
    pub sockets: Sockets,
    /// What to try next.
    pub advice: Vec<Advice>,
    /// Why it is not known which of its waits the agent excuses, if there is an agent that does not say.
    pub agent_silent: Option<String>,
}

impl Report {
    /// Whether an agent may know more of one of its waits: that answers usually take so long.
    pub fn may_be_excused(&self) -> bool {
        let waits = self.threads.iter().filter_map(ThreadReport::wait);
        waits
            .filter(|wait| wait.level() != Level::Idle)
            .any(|wait| Client::of(&wait.wait, &wait.resolved).is_some())
    }

    /// Takes what the agent knows of waits of the process that it does not flag, by the ids of their threads.
    pub fn excuse(&mut self, excuses: &[(u32, Excuse)]) {
        let excuses: HashMap<u32, Excuse> = excuses.iter().copied().collect();
        for thread in self.threads.iter_mut().filter(|thread| thread.wait().is_some()) {
            thread.excuse = excuses.get(&thread.tid).copied();
        }
    }
}

/// Finds out about a process, or about one thread of it; with its start, about that process only, whoever has its id now.
pub fn inspect(
    id: u32,
    start_ticks: Option<u64>,
    stacks: StacksOf,
    source: &mut dyn Source,
) -> Result<Report> {
    let (pid, only) = process_of(id)?;
    // Before the snapshot: what is looked up after it is as of its moment.
    let connections = source.connections(&WantedConnections::asked(LOOK_AGE_MIN))?.unwrap_or_default().asked;
    let mut snapshot = pipeline::snapshot(source, LOOK_AGE_MIN)?;
    requests::add_to(&mut snapshot, &connections, LOOK_AGE_MIN);
    let mut pipeline = Pipeline::new();
    let (process, comm) = identity(pid, &snapshot, pipeline.resolver().reads())?;
    ensure!(
        may_be_same_start(start_ticks, process.start_ticks()),
        "process {pid} has ended, and another one has its id now"
    );
    let waits: Vec<Wait> = snapshot.waits.iter().filter(|wait| is(wait, pid, only)).cloned().collect();
    let policy = if waits.len() <= THREADS_WITH_PEERS { PeersOf::ALL } else { PeersOf::NOT_IDLE };
    let all = ByProcess::new(&snapshot.waits);
    let mut waits = pipeline.assess(waits, &all, source, &policy)?;
    requests::drop_doubles(&mut waits);
    let mut threads = threads::list(process, only, waits, &snapshot, pipeline.resolver());
    threads::read_stacks(&mut threads, source)?;
    threads::read_user_stacks(&mut threads, process, stacks, source, pipeline.resolver().reads())?;
    let who = pipeline.resolver().who(process);
    let mut sockets = sockets::of(process, pipeline.resolver(), source)?;
    // Where a thread of it waits for the rest, that is said of the thread.
    let waits = threads.iter().filter_map(ThreadReport::wait);
    let waited_on: HashSet<i32> = waits.filter_map(|wait| wait.resolved.fd).collect();
    sockets.owed.retain(|request| !waited_on.contains(&request.fd));
    let FollowedWaits { others, left_out } =
        followed(process, &threads, &sockets, chain::Chain::new(&snapshot, &all, &mut pipeline, source))?;
    let script = who.cmdline.as_deref().and_then(|cmdline| script(&comm, cmdline));
    let called = name(pid, only, &program_name(&comm, script.as_deref()));
    let (condition, mut headline) =
        by_others(&called, headline(&called, &who, &threads, &sockets), &threads, &others, left_out);
    let status = format!("task/{}/status", only.unwrap_or(pid));
    if pipeline.resolver().reads().text(process, &status).is_some_and(|status| is_killed(&status)) {
        headline +=
            " It has been killed: SIGKILL is pending, and it ends as soon as the kernel lets go of it.";
    }
    let PlaceInChains { held_up, end } = held_up::of(process, only, &all, &mut pipeline, source)?;
    headline = with_others(headline, &called, condition, &threads, &sockets);
    headline += &in_chains(condition, &others, end.as_ref(), held_up.as_ref());
    let host = match peer_host(&threads, pipeline.resolver().reads()) {
        PeerHost::This if !snapshot.hidden.is_empty() => PeerHost::Unseen,
        host => host,
    };
    let mut advice = advice::of(pid, condition, &who, &threads, &others, host);
    advice.extend(of_server(&who, (pid, &comm), condition, &threads, &sockets));
    // What is stopped has only to be let go.
    let is_suspended = others.iter().any(|other| other.suspended.is_some());
    if let Some(pid) = end.as_ref().and_then(|end| end.tid.or(end.pid)).filter(|_| !is_suspended) {
        advice.retain(|advice| !advice.command.starts_with("tracer why "));
        let reason = "shows why that one, at the end of the chain, does not go on".into();
        advice.insert(0, Advice { command: format!("tracer why {pid}"), reason });
    }
    if held_up.is_some() && advice.is_empty() {
        advice.push(Advice {
            command: format!("tracer stack {pid}"),
            reason: "shows the line of its program that each of its threads is in".into(),
        });
    }
    Ok(Report {
        process,
        comm,
        only,
        who,
        condition,
        headline,
        threads,
        stacks,
        others,
        others_left_out: left_out,
        held_up,
        sockets,
        advice,
        agent_silent: None,
    })
}

/// Where to look into one that owes answers and rests, or works.
fn of_server(
    who: &ProcessMeta,
    (pid, comm): (u32, &str),
    condition: Condition,
    threads: &[ThreadReport],
    sockets: &Sockets,
) -> Option<Advice> {
    if !matches!(condition, Condition::Idle | Condition::Busy) || sockets.owed.is_empty() {
        return None;
    }
    let server = ServerProgram { pid, comm, cmdline: who.cmdline.as_deref(), port: None };
    let is_loop = threads.iter().filter_map(ThreadReport::wait).any(|wait| wait.class == Class::Events);
    let put_off = if is_loop { "; what its event loop has put off is in none of them" } else { "" };
    inside::inside(&server).map(|of| Advice { reason: of.reason + put_off, ..of })
}

/// Which process has this id now, and its name. One that hangs so that the kernel does not say is known by the look.
fn identity(pid: u32, snapshot: &Snapshot, reads: &mut Reads) -> Result<(ProcessId, String)> {
    let stat = reads.file(by_pid(pid), "stat");
    let Ok(stat) = stat else {
        let seen = snapshot.waits.iter().find(|wait| wait.thread.process.pid == pid);
        let seen = seen.filter(|_| !matches!(stat, Err(Unread::Failed(_))));
        let comm = reads.comm(by_pid(pid));
        return seen
            .zip(comm)
            .map(|(wait, comm)| (wait.thread.process, comm))
            .with_context(|| format!("process {pid} has just ended, or hangs and is not in the look"));
    };
    let stat = stat::parse_stat(&String::from_utf8_lossy(&stat))
        .with_context(|| format!("process {pid} has just ended"))?;
    if stat.is_kernel_thread() {
        bail!(
            "{pid} ({}) is a thread of the kernel, which makes no system calls: `cat /proc/{pid}/stack` shows where it is",
            human::clean(&stat.comm)
        );
    }
    Ok((ProcessId { pid, start_ns: stat.start_ns() }, stat.comm))
}

/// Whether SIGKILL is pending, by the text of `status`: a process that has been killed and does not end is held in the kernel.
fn is_killed(status: &str) -> bool {
    const KILL: u64 = 1 << (libc::SIGKILL - 1);
    let pending = |name: &str| {
        let mask = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    };
    ["SigPnd:", "ShdPnd:"].iter().any(|name| pending(name).is_some_and(|mask| mask & KILL != 0))
}

/// The process, and the thread where the id is not a process's.
pub fn process_of(id: u32) -> Result<(u32, Option<u32>)> {
    let status = Reads::new()
        .text(by_pid(id), "status")
        .with_context(|| format!("there is no process or thread {id}"))?;
    let tgid = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    let tgid: u32 =
        tgid.and_then(|tgid| tgid.trim().parse().ok()).context("/proc does not show processes")?;
    Ok((tgid, (tgid != id).then_some(id)))
}

fn is(wait: &Wait, pid: u32, only: Option<u32>) -> bool {
    wait.thread.process.pid == pid && only.is_none_or(|tid| wait.thread.tid == tid)
}

/// What those do that the worst waits are for.
struct FollowedWaits {
    others: Vec<Other>,
    left_out: usize,
}

fn followed(
    process: ProcessId,
    threads: &[ThreadReport],
    sockets: &Sockets,
    mut chain: chain::Chain<'_, '_>,
) -> Result<FollowedWaits> {
    let mut followed = FollowedWaits { others: Vec::new(), left_out: 0 };
    for wait in threads.iter().filter_map(ThreadReport::wait).take(WAITS_FOLLOWED_MAX) {
        let beyond = chain.follow(wait)?;
        followed.others.extend(beyond.others);
        // Several threads may wait for the same processes.
        followed.left_out = followed.left_out.max(beyond.left_out);
    }
    let is_listener = |queued: &&QueuedSocket| queued.backlog.waiting == QueueKind::Connections;
    if let Some(queued) = sockets.queued.iter().find(is_listener) {
        let beyond = chain.sharers(queued, process.pid)?;
        followed.others.extend(beyond.others);
        followed.left_out = followed.left_out.max(beyond.left_out);
    }
    let mut waits = threads.iter().filter_map(ThreadReport::wait);
    let is_stuck = waits.any(|wait| wait.concern() == Level::Stuck);
    if !is_stuck && followed.others.iter().all(|other| other.stuck_one().is_none()) {
        followed.others.extend(chain.stuck_children(process)?);
    }
    Ok(followed)
}

/// Whose address the peer of the worst wait has.
fn peer_host(threads: &[ThreadReport], reads: &mut Reads) -> PeerHost {
    let wait = threads.first().and_then(ThreadReport::wait);
    let Some(resolved) = wait.map(|wait| &wait.resolved) else { return PeerHost::Other };
    let translated = resolved.peers.as_ref().and_then(|peers| peers.translated);
    let remote = match (&resolved.target, translated) {
        (Target::Tcp { .. }, Some(other)) => other.local.socket_addr(),
        (Target::Tcp { remote, .. }, None) => *remote,
        _ => return PeerHost::Other,
    };
    match HostAddresses::default().any_has(remote.ip(), reads) {
        true => PeerHost::This,
        false => PeerHost::Other,
    }
}

/// `10 futex, 2 events`.
pub fn classes<'a>(waits: impl Iterator<Item = &'a Assessment>) -> String {
    let mut counts: Vec<(&'static str, usize)> = Vec::new();
    for wait in waits {
        let label = wait.judgement().label();
        match counts.iter_mut().find(|(known, _)| *known == label) {
            Some((_, count)) => *count += 1,
            None => counts.push((label, 1)),
        }
    }
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts.iter().map(|(label, count)| format!("{count} {label}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pending_sigkill_is_told_from_other_signals() {
        assert!(is_killed("Name:\ta\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n"));
        assert!(is_killed("SigPnd:\t0000000000000000\nShdPnd:\t0000000000004100\n"));
        assert!(!is_killed("SigPnd:\t0000000000004000\nShdPnd:\t0000000000000000\n"));
        assert!(!is_killed(""));
    }
}
