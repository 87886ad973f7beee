//! What each thread of a process is doing: waiting, running, or held.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    thread,
    time::Duration,
};

use anyhow::Result;

use super::suspended::{self, FrozenGroup};
use crate::{
    assess::pipeline::Assessment,
    collect::Source,
    model::baseline::Excuse,
    model::class::Level,
    model::stack::KernelStack,
    model::user_stack::UserStack,
    model::wait::{ProcessId, Sleeper, Snapshot, StopSignal, Suspended, SuspendedThread},
    procfs::Reads,
    resolve::{
        Resolver,
        peers::Peer,
        stack::{StackReader, ThreadStack},
    },
};

/// How long it is watched how much a thread runs.
const WATCHED: Duration = Duration::from_millis(200);
/// Who uses less of a CPU than this was only seen between two waits.
pub const RUNS: f64 = 0.02;
/// Threads whose stacks are read.
pub const STACKS: usize = 3;
/// The same of threads that wait for each other.
const DEADLOCKED_MAX: usize = 6;
/// Functions of a kernel stack that are shown.
const DEEP: usize = 5;

/// A thread, or a request of an event loop.
#[derive(Debug)]
pub struct ThreadReport {
    /// Its id; 0 for a request.
    pub tid: u32,
    /// Its name.
    pub comm: String,
    /// What it does.
    pub doing: Doing,
    /// The baseline that keeps the agent from flagging its wait, if there is one.
    pub excuse: Option<Excuse>,
    /// The functions it is in inside the kernel, innermost first; empty where it is not read.
    pub stack: Vec<String>,
    /// Where in its program it sleeps; `None` where that is not read, or it has moved meanwhile.
    pub user_stack: Option<UserStack>,
}

/// Of which threads it is read where in the program they sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StacksOf {
    /// Of none.
    Nobody,
    /// Of the first, which a page shows.
    First,
    /// Of all.
    All,
}

/// What a thread does.
#[derive(Debug)]
pub enum Doing {
    /// It waits.
    Waits(Box<Assessment>),
    /// It runs, or is about to.
    Runs {
        /// Share of a CPU.
        cpu: f64,
    },
    /// A stop signal holds it, this one if it is known.
    Stopped(Option<StopSignal>),
    /// A debugger holds it, if it is to be seen.
    Traced(Option<Peer>),
    /// The freezer holds it, with a group of processes.
    Frozen(Option<FrozenGroup>),
    /// It sleeps, in a call that this user may not see.
    Hidden,
    /// It has ended.
    Zombie,
}

impl ThreadReport {
    /// Whether it is no thread: the process has asked on a connection, and no thread of it waits for the answer.
    pub fn is_request(&self) -> bool {
        self.tid == 0
    }

    /// Its wait, if it waits.
    pub fn wait(&self) -> Option<&Assessment> {
        match &self.doing {
            Doing::Waits(wait) => Some(wait),
            _ => None,
        }
    }

    /// The signal that has stopped it, if one has and it is known.
    pub fn stop_signal(&self) -> Option<StopSignal> {
        match self.doing {
            Doing::Stopped(signal) => signal,
            _ => None,
        }
    }

    /// Share of a CPU that it uses.
    pub fn cpu(&self) -> f64 {
        match self.doing {
            Doing::Runs { cpu } => cpu,
            _ => 0.0,
        }
    }

    /// How much it worries, the least number most; among equals, the oldest first.
    fn rank(&self) -> (u8, Reverse<Duration>) {
        let rank = match &self.doing {
            Doing::Waits(wait) => match wait.concern() {
                Level::Stuck => 0,
                Level::Doubtful => 3,
                Level::Idle => 5,
            },
            Doing::Stopped(_) | Doing::Traced(_) | Doing::Frozen(_) => 1,
            Doing::Runs { cpu } if *cpu >= RUNS => 2,
            Doing::Hidden => 4,
            Doing::Runs { .. } => 6,
            Doing::Zombie => 7,
        };
        (rank, Reverse(self.wait().map(|wait| wait.wait.age).unwrap_or_default()))
    }
}

/// The threads of a process, or the one asked for, worst first.
pub fn list(
    process: ProcessId,
    only: Option<u32>,
    waits: Vec<Assessment>,
    snapshot: &Snapshot,
    resolver: &mut Resolver,
) -> Vec<ThreadReport> {
    let (pid, reads) = (process.pid, resolver.reads());
    let mut threads: Vec<ThreadReport> = waits
        .into_iter()
        .map(|wait| ThreadReport {
            tid: wait.wait.thread.tid,
            comm: wait.wait.comm.to_string(),
            doing: Doing::Waits(Box::new(wait)),
            excuse: None,
            stack: Vec::new(),
            user_stack: None,
        })
        .collect();
    let waiting: HashSet<u32> = threads.iter().map(|thread| thread.tid).collect();
    let suspended = snapshot.suspended.iter().filter(|of| of.thread.process.pid == pid);
    let suspended: HashMap<u32, &SuspendedThread> = suspended.map(|of| (of.thread.tid, of)).collect();
    let hidden = snapshot.hidden.iter().filter(|hidden| hidden.process.pid == pid);
    let hidden: HashSet<u32> = hidden.map(|hidden| hidden.tid).collect();
    let mut running = Vec::new();
    for tid in tids(process, reads).into_iter().filter(|tid| only.is_none_or(|only| *tid == only)) {
        if waiting.contains(&tid) {
            continue;
        }
        let Some((comm, state)) = seen(process, tid, reads) else { continue };
        let stopped_by = suspended.get(&tid).and_then(|of| of.signal);
        let doing = match suspended.get(&tid).map(|of| of.by) {
            Some(Suspended::Stopped) => Doing::Stopped(stopped_by),
            Some(Suspended::Traced) => Doing::Traced(suspended::tracer(tid, reads)),
            Some(Suspended::Frozen) => Doing::Frozen(suspended::frozen_group(process, reads)),
            None if matches!(state, 'Z' | 'X') => Doing::Zombie,
            None if hidden.contains(&tid) => Doing::Hidden,
            None => {
                running.push((threads.len(), tid, cpu_seconds(process, tid, reads)));
                Doing::Runs { cpu: 0.0 }
            }
        };
        threads.push(ThreadReport { tid, comm, doing, excuse: None, stack: Vec::new(), user_stack: None });
    }
    if !running.is_empty() {
        thread::sleep(WATCHED);
        for (at, tid, before) in running {
            let used = cpu_seconds(process, tid, reads).zip(before).map_or(0.0, |(now, before)| now - before);
            threads[at].doing = Doing::Runs { cpu: (used / WATCHED.as_secs_f64()).clamp(0.0, 1.0) };
        }
    }
    threads.sort_by_key(ThreadReport::rank);
    threads
}

/// Reads where in the kernel the first of the threads sleep.
///
/// # Errors
/// The source cannot be asked.
pub fn read_stacks(threads: &mut [ThreadReport], source: &mut dyn Source) -> Result<()> {
    let first = threads.iter_mut().take(STACKS);
    let mut waiting: Vec<(Sleeper, &mut Vec<String>)> = first
        .filter_map(|thread| match &thread.doing {
            Doing::Waits(wait) => Some((wait.wait.sleeper(), &mut thread.stack)),
            _ => None,
        })
        .collect();
    let sleepers: Vec<Sleeper> = waiting.iter().map(|(sleeper, _)| *sleeper).collect();
    let stacks = source.stacks(&sleepers)?;
    for (sleeper, stack) in &mut waiting {
        let functions = stacks.get(&sleeper.thread).map(KernelStack::functions).unwrap_or_default();
        **stack = functions.iter().take(DEEP).cloned().collect();
    }
    Ok(())
}

/// Reads where in their program the threads sleep.
///
/// # Errors
/// The source cannot be asked.
pub fn read_user_stacks(
    threads: &mut [ThreadReport],
    process: ProcessId,
    of: StacksOf,
    source: &mut dyn Source,
    reads: &mut Reads,
) -> Result<()> {
    let number = match of {
        StacksOf::Nobody => return Ok(()),
        StacksOf::First => STACKS - 1,
        StacksOf::All => usize::MAX,
    };
    // The worst, the process's first thread, and those who wait for each other: a deadlock is understood by all of them.
    let is_meant = |at: usize, thread: &ThreadReport| {
        let in_deadlock = || thread.wait().is_some_and(Assessment::is_deadlock);
        at < number || thread.tid == process.pid || at < DEADLOCKED_MAX && in_deadlock()
    };
    let mut asleep: Vec<&mut ThreadReport> = threads
        .iter_mut()
        .filter(|thread| thread.wait().is_some() && !thread.is_request())
        .enumerate()
        .filter_map(|(at, thread)| is_meant(at, thread).then_some(thread))
        .collect();
    let tids: Vec<u32> = asleep.iter().map(|thread| thread.tid).collect();
    if tids.is_empty() {
        return Ok(());
    }
    let found = StackReader::default().read(process, &tids, source, reads)?;
    let mut found: HashMap<u32, ThreadStack> = found.into_iter().map(|of| (of.tid, of)).collect();
    for thread in &mut asleep {
        let sleep = thread.wait().map(|wait| wait.wait.switches);
        // Of another sleep, it is not where this wait is.
        thread.user_stack =
            found.remove(&thread.tid).filter(|of| Some(of.switches) == sleep).map(|of| of.stack);
    }
    Ok(())
}

/// Ids of a process's threads.
pub fn tids(process: ProcessId, reads: &mut Reads) -> Vec<u32> {
    reads.numbers(process, "task")
}

/// A thread's name and the letter of its state.
pub fn seen(process: ProcessId, tid: u32, reads: &mut Reads) -> Option<(String, char)> {
    let stat = reads.thread_stat(process, tid)?;
    Some((stat.comm, stat.state))
}

/// How long a thread has run so far, seconds.
fn cpu_seconds(process: ProcessId, tid: u32, reads: &mut Reads) -> Option<f64> {
    if let Some(schedstat) = reads.text(process, &format!("task/{tid}/schedstat")) {
        // How long it ran and how long it waited for a CPU, nanoseconds, and how often it ran.
        return Some(schedstat.split_ascii_whitespace().next()?.parse::<f64>().ok()? / 1e9);
    }
    // A kernel without scheduler statistics has clock ticks.
    let ticks = reads.thread_stat(process, tid)?.cpu_ticks;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}
