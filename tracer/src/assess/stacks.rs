//! The stacks of all threads of a process, or of one: what `tracer stack` shows.

use std::collections::HashMap;

use anyhow::{Context, Result};

use crate::{
    assess::inspect,
    collect::Source,
    model::{
        stack::KernelStack,
        user_stack::UserStack,
        wait::{ProcessId, Sleeper, ThreadId},
    },
    procfs::{Reads, by_pid},
    resolve::stack::{StackReader, ThreadStack},
};

/// A thread and where it sleeps.
#[derive(Clone, Debug)]
pub struct StackedThread {
    /// The thread.
    pub tid: u32,
    /// Its name.
    pub comm: String,
    /// Its state, as `/proc` has it: `S`, `T`.
    pub state: char,
    /// Its stack; `None`: it does not sleep, or has moved while it was read.
    pub stack: Option<UserStack>,
    /// Where in the kernel it sleeps; no functions where that was not to be seen.
    pub kernel: KernelStack,
}

/// The threads of a process.
#[derive(Clone, Debug)]
pub struct ProcessStacks {
    /// The process.
    pub process: ProcessId,
    /// Its name.
    pub comm: String,
    /// Its threads, or the one that was asked about.
    pub threads: Vec<StackedThread>,
}

/// Reads the stacks of a process, or of one thread of it.
///
/// # Errors
/// There is no such process, or the source cannot be asked.
pub fn of(id: u32, source: &mut dyn Source) -> Result<ProcessStacks> {
    let (pid, only) = inspect::process_of(id)?;
    let mut reads = Reads::new();
    let gone = || format!("process {pid} has just ended");
    let stat = reads.stat(by_pid(pid)).with_context(gone)?;
    let process = ProcessId { pid, start_ns: stat.start_ns() };
    let tids = match only {
        Some(tid) => vec![tid],
        None => reads.numbers(process, "task"),
    };
    let found = StackReader::default().read(process, &tids, source, &mut reads)?;
    let mut found: HashMap<u32, ThreadStack> = found.into_iter().map(|of| (of.tid, of)).collect();
    let mut sleepers: Vec<Sleeper> = Vec::new();
    let seen: Vec<(ThreadId, String, char)> = tids
        .into_iter()
        .filter_map(|tid| {
            let stat = reads.thread_stat(process, tid)?;
            let thread = ThreadId { process, tid, start_ns: stat.start_ns() };
            sleepers.extend(found.get(&tid).map(|of| Sleeper { thread, switches: of.switches }));
            Some((thread, stat.comm, stat.state))
        })
        .collect();
    let mut kernel = source.stacks(&sleepers)?;
    let threads = seen.into_iter().map(|(thread, comm, state)| StackedThread {
        tid: thread.tid,
        comm,
        state,
        stack: found.remove(&thread.tid).map(|of| of.stack),
        kernel: kernel.remove(&thread).unwrap_or_default(),
    });
    let threads = threads.collect();
    let comm = reads.comm(process).with_context(gone)?;
    Ok(ProcessStacks { process, comm, threads })
}
