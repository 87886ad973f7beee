//! Where snapshots come from: one trait, and the sources that implement it.
//!
//! Layer 2: uses `kernel` and `procfs`.

pub mod agreement;
pub mod bpf;
pub mod conntrack;
pub mod durations;
pub mod ended;
pub mod losses;
pub mod proc;
pub mod records;
pub mod sched;
pub mod sockets;

mod wchan;

use std::time::Duration;

use anyhow::Result;
use hashbrown::HashMap;

use crate::model::{
    connection_groups::ConnectionGroup,
    holder::{ConnectionEnd, FileId, Holder},
    registers::UserRegisters,
    request::AskedConnection,
    stack::KernelStack,
    wait::{ProcessId, RingRequest, SeenFd, Sleeper, Snapshot, ThreadId},
};

/// Kernel stacks by thread.
pub type Stacks = HashMap<ThreadId, KernelStack>;

/// The user registers of a thread, and which of its sleeps they are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SleepRegisters {
    /// The thread, by its id.
    pub tid: u32,
    /// What they hold.
    pub registers: UserRegisters,
    /// Its context switches so far: more mean another sleep.
    pub switches: u64,
}

/// Who closes a connection once it has been read to its end has done so this long after the other end.
pub const UNCLOSED_AGE: Duration = Duration::from_secs(60);

/// Which connections of all processes are to be told of.
#[derive(Clone, Copy, Debug)]
pub struct WantedConnections {
    /// Those on which the last bytes are at least so old.
    pub age: Duration,
    /// Of those that this end has made and that have been answered, one in so many; 0: none.
    pub answered_one_in: u32,
    /// Those as well that others have made and on which they have spoken last, and those that only the other end has closed, for as long
    /// as [`UNCLOSED_AGE`].
    pub of_servers: bool,
}

impl WantedConnections {
    /// On which a process has asked, at least so long ago, and not been answered.
    pub fn asked(age: Duration) -> Self {
        Self { age, answered_one_in: 0, of_servers: false }
    }
}

/// Connections of all processes.
#[derive(Debug, Default)]
pub struct SeenConnections {
    /// On which a process may have asked and not been answered, and the answered ones that were wanted, in no order.
    pub asked: Vec<AskedConnection>,
    /// Requests that processes have got and not answered, the oldest first.
    pub incoming: Vec<ConnectionGroup>,
    /// Connections that only the other end has closed, likewise.
    pub unclosed: Vec<ConnectionGroup>,
}

/// A way to see all waits on the host.
pub trait Source {
    /// Looks once.
    fn snapshot(&mut self) -> Result<Snapshot>;

    /// What fds of threads are that no call of theirs names, in no order; those that are not found are left out.
    fn look_up(&mut self, fds: &[(ThreadId, i32)]) -> Result<Vec<SeenFd>>;

    /// Whether ages of connections that are looked up are as of the last snapshot, and not as of then.
    fn looks_up_as_of_snapshot(&self) -> bool {
        false
    }

    /// Where in the kernel these threads sleep; those that have gone on since, or whose stack is not to be seen, are left out.
    fn stacks(&mut self, sleepers: &[Sleeper]) -> Result<Stacks>;

    /// The user registers of these threads of a process; those that do not sleep, or are not to be seen, are left out.
    fn registers(&mut self, _process: ProcessId, _tids: &[u32]) -> Result<Vec<SleepRegisters>> {
        Ok(Vec::new())
    }

    /// Which requests of io_uring these threads wait for, in no order. A source that does not see them says of none.
    fn requests(&mut self, _sleepers: &[Sleeper]) -> Result<Vec<RingRequest>> {
        Ok(Vec::new())
    }

    /// Connections of all processes. `None`: the source does not see them, or the walk over all open files did not come to its end.
    fn connections(&mut self, _wanted: &WantedConnections) -> Result<Option<SeenConnections>> {
        Ok(None)
    }

    /// Every fd of every process that is one of these files or connections, as far as the source can see. `None`: the walk over
    /// all open files did not come to its end.
    fn holders(&mut self, files: &[FileId], ends: &[ConnectionEnd]) -> Result<Option<Vec<Holder>>>;
}
