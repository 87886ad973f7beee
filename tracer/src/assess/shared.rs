//! The agent's source, lent to another thread: it asks, the thread that watches answers between two of its looks, and is held
//! up only as long as the kernel's pass takes. What the agent knows of older sleeps is in the ages.

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

use anyhow::{Context, Result, anyhow};

use crate::collect::{SleepRegisters, Source, Stacks};
use crate::{
    assess::stall::Stall,
    model::baseline::Excuse,
    model::holder::{ConnectionEnd, FileId, Holder},
    model::wait::{ProcessId, RingRequest, SeenFd, Sleeper, Snapshot, ThreadId, may_be_same_start},
    wire::durations::Durations,
    wire::incident::IncidentObject,
};

/// Longer than any pass takes.
const PASS_TIMEOUT: Duration = Duration::from_secs(10);

/// A question, and where its answer goes.
#[derive(Debug)]
pub enum AgentRequest {
    /// A snapshot.
    Snapshot(SyncSender<Result<Snapshot>>),
    /// What fds are.
    LookUp(Vec<(ThreadId, i32)>, SyncSender<Result<Vec<SeenFd>>>),
    /// Where in the kernel threads sleep.
    Stacks(Vec<Sleeper>, SyncSender<Result<Stacks>>),
    /// The user registers of threads of a process.
    Registers(ProcessId, Vec<u32>, SyncSender<Result<Vec<SleepRegisters>>>),
    /// Which requests of io_uring threads wait for.
    Requests(Vec<Sleeper>, SyncSender<Result<Vec<RingRequest>>>),
    /// Who holds files and connections.
    Holders(Vec<FileId>, Vec<ConnectionEnd>, SyncSender<Result<Option<Vec<Holder>>>>),
    /// The open stalls.
    Stalls(SyncSender<Result<Vec<Stall>>>),
    /// The open incidents.
    Incidents(SyncSender<Result<Vec<IncidentObject>>>),
    /// What keeps waits of processes with this id from being flagged.
    Excuses(u32, SyncSender<Result<Vec<(ThreadId, Excuse)>>>),
    /// A snapshot, and which of its waits are the worst: so many at most, none that is idle.
    Worst(usize, SyncSender<Result<(Snapshot, Vec<usize>)>>),
    /// The agent's counters.
    Numbers(SyncSender<Result<Numbers>>),
    /// How long the waits of a process with this id, and this start if there is one, took that have ended since somebody first
    /// asked for numbers.
    Durations(u32, Option<u64>, SyncSender<Result<Option<Durations>>>),
}

/// The agent's counters.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    /// Waits that have ended.
    pub waits: u64,
    /// What could not be recorded.
    pub lost: u64,
}

/// What asks.
#[derive(Clone)]
pub struct Shared {
    asks: SyncSender<AgentRequest>,
    /// An event counter that wakes the thread that watches.
    wake: Arc<OwnedFd>,
}

/// What is asked.
pub struct AgentRequests {
    /// The questions.
    pub asks: Receiver<AgentRequest>,
    /// Readable while there are some.
    pub wake: Arc<OwnedFd>,
}

/// The two ends.
pub fn pair() -> Result<(Shared, AgentRequests)> {
    use rustix::event::{EventfdFlags, eventfd};
    let wake =
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("cannot make an eventfd")?;
    let (wake, (asks, asked)) = (Arc::new(wake), sync_channel(16));
    Ok((Shared { asks, wake: Arc::clone(&wake) }, AgentRequests { asks: asked, wake }))
}

impl Shared {
    fn ask<T>(&self, ask: impl FnOnce(SyncSender<Result<T>>) -> AgentRequest) -> Result<T> {
        let (reply, answer) = sync_channel(1);
        let gone = || anyhow!("the agent has stopped watching");
        self.asks.send(ask(reply)).map_err(|_| gone())?;
        rustix::io::write(&*self.wake, &1u64.to_ne_bytes()).context("cannot wake the watching thread")?;
        answer.recv_timeout(PASS_TIMEOUT).map_err(|_| gone())?
    }

    /// The open stalls.
    pub fn stalls(&self) -> Result<Vec<Stall>> {
        self.ask(AgentRequest::Stalls)
    }

    /// The open incidents.
    pub fn incidents(&self) -> Result<Vec<IncidentObject>> {
        self.ask(AgentRequest::Incidents)
    }

    /// What keeps waits of a process from being flagged, by the ids of their threads.
    pub fn excuses(&self, pid: u32, start_ticks: Option<u64>) -> Result<Vec<(u32, Excuse)>> {
        let mut excuses = self.ask(|reply| AgentRequest::Excuses(pid, reply))?;
        excuses.retain(|(thread, _)| may_be_same_start(start_ticks, thread.process.start_ticks()));
        Ok(excuses.into_iter().map(|(thread, excuse)| (thread.tid, excuse)).collect())
    }

    /// A snapshot, and which of its waits are the worst.
    pub fn worst(&self, most: usize) -> Result<(Snapshot, Vec<usize>)> {
        self.ask(|reply| AgentRequest::Worst(most, reply))
    }

    /// The agent's counters.
    pub fn numbers(&self) -> Result<Numbers> {
        self.ask(AgentRequest::Numbers)
    }

    /// How long the waits of a process took that have ended meanwhile.
    pub fn durations(&self, pid: u32, start_ticks: Option<u64>) -> Result<Option<Durations>> {
        self.ask(|reply| AgentRequest::Durations(pid, start_ticks, reply))
    }
}

impl Source for Shared {
    fn snapshot(&mut self) -> Result<Snapshot> {
        self.ask(AgentRequest::Snapshot)
    }

    fn look_up(&mut self, fds: &[(ThreadId, i32)]) -> Result<Vec<SeenFd>> {
        self.ask(|reply| AgentRequest::LookUp(fds.to_vec(), reply))
    }

    fn stacks(&mut self, sleepers: &[Sleeper]) -> Result<Stacks> {
        self.ask(|reply| AgentRequest::Stacks(sleepers.to_vec(), reply))
    }

    fn registers(&mut self, process: ProcessId, tids: &[u32]) -> Result<Vec<SleepRegisters>> {
        self.ask(|reply| AgentRequest::Registers(process, tids.to_vec(), reply))
    }

    fn requests(&mut self, sleepers: &[Sleeper]) -> Result<Vec<RingRequest>> {
        match sleepers {
            [] => Ok(Vec::new()),
            some => self.ask(|reply| AgentRequest::Requests(some.to_vec(), reply)),
        }
    }

    fn holders(&mut self, files: &[FileId], ends: &[ConnectionEnd]) -> Result<Option<Vec<Holder>>> {
        self.ask(|reply| AgentRequest::Holders(files.to_vec(), ends.to_vec(), reply))
    }
}
