//! The stacks of all threads of a process, or of one: what `tracer stack` shows.

use anyhow::{Context, Result};

use crate::{
    assess::inspect,
    collect::Source,
    model::{user_stack::UserStack, wait::ProcessId},
    procfs::{Reads, by_pid},
    resolve::stack::StackReader,
};

/// A thread and where it sleeps.
#[derive(Clone, Debug)]
pub struct StackedThread {
    /// The thread.
    pub tid: u32,
    /// Its name.
    pub comm: String,
    /// Its stack; `None`: it does not sleep, or has moved while it was read.
    pub stack: Option<UserStack>,
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
    let mut found = StackReader::default().read(process, &tids, source, &mut reads)?;
    let threads = tids.into_iter().filter_map(|tid| {
        let comm = reads.thread_comm(process, tid)?;
        let at = found.iter().position(|thread| thread.tid == tid);
        let stack = at.map(|at| found.swap_remove(at).stack);
        Some(StackedThread { tid, comm, stack })
    });
    let threads = threads.collect();
    let comm = reads.comm(process).with_context(gone)?;
    Ok(ProcessStacks { process, comm, threads })
}
