//! Everything an engineer would gather by hand about one process: its threads, who is at the other ends and what those
//! wait for, its connections, and what to try next. What `why` shows.
//!
//! Part of `assess`, layer 4, and uses what that may use.

pub mod advice;
pub mod chain;
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
    inside::ServerProgram,
    sockets::{QueuedSocket, Sockets},
    threads::{StacksOf, ThreadReport},
};
use crate::{
    assess::client::Client,
    assess::pipeline::{self, Assessment, LOOK_AGE_MIN, PeersOf, Pipeline, is_young},
    assess::requests,
    collect::{Source, WantedConnections},
    model::backlog::QueueKind,
    model::baseline::Excuse,
    model::class::{Class, Level},
    model::script::script,
    model::target::Target,
    model::wait::{ByProcess, ProcessId, Snapshot, StopSignal, Wait, may_be_same_start},
    procfs::{Reads, Unread, by_pid, stat},
    resolve::addresses::HostAddresses,
    resolve::process::ProcessMeta,
    util::human,
    wire::culprit::program_name,
};

/// Threads whose peers are looked up whatever they wait for; of more, only of those that worry.
const THREADS_WITH_PEERS: usize = 64;
/// Connections closed by the other end only that are called a leak.
const LEAKED_MIN: usize = 16;
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
    let (mut condition, mut headline) = headline(&called, &who, &threads, &sockets);
    if let Some(child) = child_that_holds_it_up(condition, &threads, &others, left_out) {
        condition = Condition::Stuck;
        let doing = child.doing.replace("is stuck itself", "is stuck");
        headline = format!("{called} is stuck: its child {} (pid {}) {doing}.", child.comm, child.pid);
    } else if let (Condition::Idle | Condition::Busy, Some(stuck)) =
        (condition, others.iter().find_map(Other::stuck_one))
    {
        let who = match stuck.role {
            chain::SHARES => "which shares its listener",
            chain::CHILD if !waits_for_child(&threads) => "its child",
            _ => "for which it waits",
        };
        headline += &format!(" But {} (pid {}), {who}, is stuck.", stuck.comm, stuck.pid);
    }
    let status = format!("task/{}/status", only.unwrap_or(pid));
    if pipeline.resolver().reads().text(process, &status).is_some_and(|status| is_killed(&status)) {
        headline +=
            " It has been killed: SIGKILL is pending, and it ends as soon as the kernel lets go of it.";
    }
    headline = with_others(headline, &called, condition, &threads, &sockets);
    let host = match peer_host(&threads, pipeline.resolver().reads()) {
        PeerHost::This if !snapshot.hidden.is_empty() => PeerHost::Unseen,
        host => host,
    };
    let mut advice = advice::of(pid, condition, &who, &threads, &others, host);
    if matches!(condition, Condition::Idle | Condition::Busy) && !sockets.owed.is_empty() {
        let server = ServerProgram { pid, comm: &comm, cmdline: who.cmdline.as_deref(), port: None };
        let is_loop = threads.iter().filter_map(ThreadReport::wait).any(|wait| wait.class == Class::Events);
        let put_off = if is_loop { "; what its event loop has put off is in none of them" } else { "" };
        let inside = inside::inside(&server);
        advice.extend(inside.map(|of| Advice { reason: of.reason + put_off, ..of }));
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
        sockets,
        advice,
        agent_silent: None,
    })
}

/// The headline with what others want of the process, and that nobody can help it.
fn with_others(
    mut headline: String,
    called: &str,
    condition: Condition,
    threads: &[ThreadReport],
    sockets: &Sockets,
) -> String {
    if let Some(text) = queued(sockets) {
        headline += &text;
    }
    let is_at_rest = matches!(condition, Condition::Idle | Condition::Busy);
    match owed(sockets) {
        // That others wait for it says more than how it rests.
        Some(owed) if is_at_rest => {
            headline = format!("{called} {owed}. {}", headline.replacen(called, "It", 1))
        }
        Some(owed) => headline += &format!(" The process {owed}."),
        None => {}
    }
    if let Some(text) = leaks(sockets) {
        headline += &text;
    }
    if threads.iter().filter_map(ThreadReport::wait).any(Assessment::is_deadlock) {
        headline += match headline.contains("deadlock") {
            true => " Nobody in it can go on.",
            false => " It is a deadlock: nobody in it can go on.",
        };
    }
    headline
}

/// That it loses descriptors, if it does: a pool has a few connections that the other end has closed, not many.
fn leaks(sockets: &Sockets) -> Option<String> {
    let unclosed = sockets.unclosed.as_ref().filter(|unclosed| unclosed.fds.len() >= LEAKED_MIN)?;
    let (number, oldest) = (human::count(unclosed.fds.len(), "connection"), human::age(unclosed.oldest));
    Some(format!(
        " It has not closed {number} that the other end closed, the first {oldest} ago: it will run out of descriptors."
    ))
}

/// Whether a thread waits for a child's end.
fn waits_for_child(threads: &[ThreadReport]) -> bool {
    threads.iter().filter_map(ThreadReport::wait).any(Assessment::is_for_child)
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

/// The child that keeps a process from going on which does nothing but wait for it.
fn child_that_holds_it_up<'a>(
    condition: Condition,
    threads: &[ThreadReport],
    others: &'a [Other],
    left_out: usize,
) -> Option<&'a Other> {
    let only_wait = match threads {
        [thread] => thread.wait()?,
        _ => return None,
    };
    match others {
        [child] if condition == Condition::Idle && only_wait.class == Class::Child && left_out == 0 => {
            child.held_up()
        }
        _ => None,
    }
}

/// What people call a process, or a thread of it.
fn name(pid: u32, only: Option<u32>, comm: &str) -> String {
    match only {
        Some(tid) => format!("Thread {tid} of {comm} (pid {pid})"),
        None => format!("{comm} (pid {pid})"),
    }
}

/// The one sentence that answers the question.
fn headline(
    name: &str,
    who: &ProcessMeta,
    threads: &[ThreadReport],
    sockets: &Sockets,
) -> (Condition, String) {
    use threads::Doing;
    let parent = || match who.parents.first() {
        Some(parent) => format!("its parent is {} (pid {})", parent.comm, parent.pid),
        None => "its parent is not to be seen".into(),
    };
    let Some(worst) = threads.first() else {
        return (Condition::Zombie, format!("{name} has just ended."));
    };
    let number = threads.iter().filter(|thread| !thread.is_request()).count();
    let inside = |thread: &ThreadReport| match number {
        0 | 1 => String::new(),
        all => format!(", in thread {} ({}) of {all}", thread.tid, thread.comm),
    };
    match &worst.doing {
        // Its threads go on, for others.
        Doing::Waits(wait) if worst.is_request() && wait.concern() == Level::Stuck => {
            let more = threads.iter().filter(|thread| thread.is_request()).count() - 1;
            let more = match more {
                0 => String::new(),
                more => format!(", and {}", human::count(more, "more request")),
            };
            let has = format!("{name} has a request without an answer{more}");
            (
                Condition::Stuck,
                format!("{has}: it is {}. None of its threads is blocked by that.", wait.sentence()),
            )
        }
        Doing::Waits(wait) if wait.concern() == Level::Stuck => {
            (Condition::Stuck, format!("{name} is stuck{}: {}.", inside(worst), wait.sentence()))
        }
        Doing::Stopped(signal) => (Condition::Stopped, stopped(name, *signal, &parent())),
        Doing::Traced(by) => {
            let by = by.as_ref().map_or("a debugger".into(), |by| format!("{} (pid {})", by.comm, by.pid));
            (Condition::Traced, format!("{name} is held by {by}, which traces it."))
        }
        Doing::Frozen(group) => {
            let group =
                group.as_ref().map_or("its cgroup".into(), |group| format!("the cgroup {}", group.path));
            (Condition::Frozen, format!("{name} is frozen with {group}. It goes on when that is thawed."))
        }
        Doing::Zombie => (
            Condition::Zombie,
            format!("{name} has ended, and its parent has not asked for its exit status yet; {}.", parent()),
        ),
        Doing::Runs { cpu } if *cpu >= threads::RUNS => {
            let all: f64 = threads.iter().map(ThreadReport::cpu).sum();
            let percent = (all * 100.0).round();
            (Condition::Running, format!("{name} is running, not waiting: {percent} % of a CPU."))
        }
        Doing::Waits(wait) if wait.concern() == Level::Doubtful => {
            (Condition::Doubtful, format!("{name} may be stuck{}: {}.", inside(worst), wait.sentence()))
        }
        Doing::Hidden => (
            Condition::Hidden,
            format!(
                "{name} is not visible to you{}: it sleeps, in a call that only root or its own user may see.",
                inside(worst)
            ),
        ),
        _ => rests(name, threads, sockets),
    }
}

/// That a signal has stopped it, and what that means.
fn stopped(name: &str, signal: Option<StopSignal>, parent: &str) -> String {
    match signal {
        None => format!(
            "{name} is stopped by a signal: SIGSTOP, or one of its terminal. It goes on when it gets SIGCONT. The kernel \
             does not record who sent the signal; {parent}."
        ),
        Some(StopSignal::Stop) => format!(
            "{name} is stopped by SIGSTOP. It goes on when it gets SIGCONT. The kernel does not record who sent the \
             signal; {parent}."
        ),
        Some(StopSignal::Suspend) => format!(
            "{name} is stopped by SIGTSTP: Ctrl-Z at its terminal. It goes on when it gets SIGCONT; {parent}."
        ),
        Some(signal @ StopSignal::BackgroundRead) => format!(
            "{name} is stopped by {}: it is a background job, and has read from its terminal. It goes on once it is in the \
             foreground; {parent}.",
            signal.name()
        ),
        Some(signal @ StopSignal::BackgroundWrite) => format!(
            "{name} is stopped by {}: it is a background job, and has written to its terminal or changed its settings. It goes \
             on once it is in the foreground; {parent}.",
            signal.name()
        ),
    }
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

/// That others wait for what this process has not taken, if they do.
fn queued(sockets: &Sockets) -> Option<String> {
    let [longest, rest @ ..] = &sockets.queued[..] else { return None };
    let more = match rest.len() {
        0 => String::new(),
        more => format!(", and more on {}", human::count(more, "other socket")),
    };
    Some(format!(" {} on {}{more}.", longest.backlog, longest.target))
}

/// That others have asked it and have no answer, if there are some.
fn owed(sockets: &Sockets) -> Option<String> {
    let oldest = human::age(sockets.owed.first()?.since);
    let is_unread =
        |of: &&sockets::Unanswered| of.resolved.socket.tcp().is_some_and(|facts| facts.receive_queue > 0);
    let unread = sockets.owed.iter().filter(is_unread).count();
    Some(match (sockets.owed.len(), unread) {
        (1, 0) => format!("received a request {oldest} ago and has not answered it"),
        (1, _) => format!("received a request {oldest} ago and has not read it"),
        (number, unread) => {
            let unread = match unread {
                0 => String::new(),
                unread if unread == number => "; it has not even read them".into(),
                1 => "; 1 of them lies unread".into(),
                unread => format!("; {unread} of them lie unread"),
            };
            format!("has received {number} requests and not answered them, the oldest {oldest} ago{unread}")
        }
    })
}

/// Nothing worries.
fn rests(name: &str, threads: &[ThreadReport], sockets: &Sockets) -> (Condition, String) {
    let waits: Vec<&Assessment> = threads.iter().filter_map(ThreadReport::wait).collect();
    let oldest = waits.iter().map(|wait| wait.wait.age).max().unwrap_or_default();
    if is_young(oldest) {
        let longest = human::age(oldest);
        // Who looks again and again whether an answer has come is not at work.
        let doing =
            if sockets.unanswered.is_empty() { "is at work" } else { "does not wait for long at a time" };
        let text = match threads.len() {
            1 => format!("{name} {doing}: it has not waited longer than {longest}."),
            all => format!("{name} {doing}: none of its {all} threads has waited longer than {longest}."),
        };
        return (Condition::Busy, text + &unanswered(sockets));
    }
    let alive = threads.iter().filter(|thread| !matches!(thread.doing, threads::Doing::Zombie)).count();
    let text = match waits[..] {
        [only] if alive == 1 => format!("{name} is not stuck itself: {}.", only.sentence()),
        _ => format!(
            "{name} is not stuck: its {} rest ({}).",
            human::count(alive, "thread"),
            classes(waits.iter().copied())
        ),
    };
    (Condition::Idle, text + &unanswered(sockets))
}

/// What is open on its connections; empty if nothing is.
fn unanswered(sockets: &Sockets) -> String {
    match &sockets.unanswered[..] {
        [] => String::new(),
        [oldest, ..] => format!(
            " But {} it has sent {} no answer yet, the oldest for {}: see Sockets.",
            human::count(sockets.unanswered.len(), "request"),
            if sockets.unanswered.len() == 1 { "has" } else { "have" },
            human::age(oldest.since)
        ),
    }
}

/// `10 futex, 2 events`.
pub fn classes<'a>(waits: impl Iterator<Item = &'a Assessment>) -> String {
    let mut counts: Vec<(&'static str, usize)> = Vec::new();
    for wait in waits {
        let label = wait.class.label();
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
