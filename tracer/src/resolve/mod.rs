//! What a wait waits on and who waits: everything that is read from `/proc` after a snapshot. Here is the order in which that happens.
//!
//! Layer 3: uses `collect` and `procfs`.

use hashbrown::{HashMap, HashSet};

pub mod address;
pub mod addresses;
pub mod behind;
pub mod bound;
pub mod children;
pub mod copy;
pub mod epoll;
pub mod fd;
pub mod futex;
pub mod listeners;
pub mod locks;
pub mod memory;
pub mod mounts;
pub mod page;
pub mod path;
pub mod peers;
pub mod poll;
pub mod process;
pub mod python;
pub mod queue;
mod resolved;
#[cfg(test)]
mod samples;
pub mod semaphore;
pub mod services;
mod sets;
pub mod stack;
pub mod target;

pub use self::resolved::Resolved;

use std::{sync::Arc, time::Instant};

use anyhow::Result;

use self::{
    fd::{KnownFiles, Recorded},
    listeners::{AddressFamily, Listeners},
    peers::PeerMemory,
    poll::Set,
    process::{Ancestors, ProcessMeta},
    sets::SharedSets,
    target::Descriptor,
};
use crate::{
    collect::Source,
    model::file::{FileKind, OpenFile},
    model::stack::KernelStack,
    model::syscalls::{Direction, Operation, Syscall},
    model::target::{Interest, Target},
    model::tcp::TcpState,
    model::wait::{
        ByProcess, FdState, ProcessId, RingRequest, SeenFd, Sleep, Sleeper, SocketFacts, ThreadId, Wait,
    },
    procfs::Reads,
};

/// Whether call and target do not say enough of what a thread waits for: a file's server, another's lock or a device can hold up any
/// call on a file, and anything an uninterruptible sleep.
fn needs_stack(wait: &Wait) -> bool {
    let stored = |file: &OpenFile| {
        matches!(file.kind(), FileKind::Regular | FileKind::Directory | FileKind::BlockDevice)
    };
    if wait.sleep == Sleep::Uninterruptible {
        return true;
    }
    // Who waits for another's lock says so, and thousands may wait for one.
    if wait.call.waits_for_file_lock() {
        return false;
    }
    matches!(
        wait.call.operation(),
        Operation::Open | Operation::Path | Operation::Copy | Operation::PageFault
    ) || match &wait.fd_state {
        FdState::Open(file) => stored(file),
        // What is being closed is in no table any more.
        FdState::Absent => true,
        FdState::Unknown | FdState::None => false,
    }
}

/// The fd of a wait that the snapshot does not tell enough of: the second of a call that has two, and a terminal that is written to.
fn looked_at_again(wait: &Wait) -> Option<i32> {
    match wait.call.operation() {
        Operation::Copy => copy::second_fd(wait),
        Operation::Write => wait.fd.filter(|_| wait.fd_state.file().is_some_and(target::is_terminal)),
        _ => None,
    }
}

/// Looks waits up, with a cache of who processes are.
pub struct Resolver {
    reads: Reads,
    listeners: Listeners,
    processes: HashMap<ProcessId, (Instant, Arc<ProcessMeta>)>,
    ancestors: Ancestors,
    /// Pipes of which processes hold both ends, as found in this look.
    own_pipes: HashMap<u32, Vec<u64>>,
    /// Names of files, as found in this look.
    names: KnownFiles,
    /// Who serves others.
    peer_memory: PeerMemory,
    /// A walk over all open files did not come to its end.
    missed_peers: bool,
}

/// What was seen inside the kernel of threads that sleep.
#[derive(Default)]
struct KernelFacts {
    stacks: HashMap<ThreadId, KernelStack>,
    requests: HashMap<ThreadId, Vec<RingRequest>>,
}

fn by_thread(requests: Vec<RingRequest>) -> HashMap<ThreadId, Vec<RingRequest>> {
    let mut by_thread: HashMap<ThreadId, Vec<RingRequest>> = HashMap::new();
    for request in requests {
        by_thread.entry(request.thread).or_default().push(request);
    }
    by_thread
}

/// Waits whose reads are asked for together: what comes back of them is held at a time.
pub(super) const READ_AHEAD: usize = 128;

impl Resolver {
    /// An empty cache.
    pub fn new() -> Self {
        Self {
            reads: Reads::new(),
            listeners: Listeners::default(),
            processes: HashMap::new(),
            ancestors: Ancestors::default(),
            own_pipes: HashMap::new(),
            names: KnownFiles::default(),
            peer_memory: PeerMemory::default(),
            missed_peers: false,
        }
    }

    /// What waits wait on, in their order. Costs a few reads of `/proc` each, none longer than its deadline.
    pub fn resolve(&mut self, waits: &[&Wait], source: &mut dyn Source) -> Result<Vec<Resolved>> {
        let shared = SharedSets::of(waits);
        let sets: Vec<Option<Set>> = shared.firsts.iter().map(|wait| self.read_set(wait)).collect();
        let timed: Vec<bool> = sets.iter().map(Option::is_some).collect();
        let sleepers: Vec<Sleeper> =
            shared.firsts.iter().filter(|wait| needs_stack(wait)).map(|wait| wait.sleeper()).collect();
        let stacks = source.stacks(&sleepers)?;
        let waits_on_ring = |wait: &&&Wait| wait.call.syscall == Syscall::IoUringEnter;
        let sleepers: Vec<Sleeper> =
            shared.firsts.iter().filter(waits_on_ring).map(|wait| wait.sleeper()).collect();
        let inside = KernelFacts { stacks, requests: by_thread(source.requests(&sleepers)?) };
        let mut resolved = self.resolve_with(&shared.firsts, sets, inside, source)?;
        for (wait, resolved) in shared.firsts.iter().zip(&mut resolved) {
            address::named(wait, &mut resolved.target, &mut self.reads);
        }
        if shared.firsts.len() == waits.len() {
            return Ok(resolved);
        }
        let reads = &mut self.reads;
        let of = |(wait, first): (&&Wait, &usize)| {
            let mut resolved = resolved[*first].clone();
            if wait.call.operation() == Operation::Epoll && timed[*first] {
                resolved.timeout = poll::timeout(wait, reads);
            }
            resolved
        };
        Ok(waits.iter().zip(&shared.first).map(of).collect())
    }

    /// Finds out who is at the other ends, in the order of the waits; `all` are the host's waits of the same moment. Walks all open files
    /// of the host, so it is for waits that are old enough to ask. Those that are not reached `until` then are left without.
    pub fn find_peers(
        &mut self,
        pairs: &mut [(&Wait, &mut Resolved)],
        all: &ByProcess<'_>,
        source: &mut dyn Source,
        until: Option<Instant>,
    ) -> Result<()> {
        let memory = &mut self.peer_memory;
        self.missed_peers |= !peers::look_up(pairs, all, &mut self.reads, source, memory, until)?;
        Ok(())
    }

    /// Whether other ends could not be looked up since this was last asked.
    pub fn has_missed_peers(&mut self) -> bool {
        std::mem::take(&mut self.missed_peers)
    }

    /// What a wait waits on by the kernel's record alone: no names, no `/proc`. Enough for most classes.
    pub fn by_record_alone(wait: &Wait) -> Resolved {
        let resolved = Resolved::new(wait.fd, target::by_record_alone(wait), wait.call.direction());
        resolved.seen(wait.fd_state, wait.socket.clone())
    }

    /// What waits that have ended waited on. What their arguments point to is not read, which may be something else by
    /// now: sets of poll come with them where they are known.
    pub fn resolve_ended(
        &mut self,
        waits: &[&Wait],
        mut sets: Vec<Option<Set>>,
        source: &mut dyn Source,
    ) -> Result<Vec<Resolved>> {
        for (wait, set) in waits.iter().zip(&mut sets) {
            if set.is_none() && wait.call.operation() == Operation::Epoll {
                *set = self.read_epoll(wait);
            }
        }
        self.resolve_with(waits, sets, KernelFacts::default(), source)
    }

    /// With the fds that threads in poll, select and epoll watch. Those of small sets are looked up together.
    fn resolve_with(
        &mut self,
        waits: &[&Wait],
        sets: Vec<Option<Set>>,
        mut inside: KernelFacts,
        source: &mut dyn Source,
    ) -> Result<Vec<Resolved>> {
        self.own_pipes.clear();
        self.names = KnownFiles::default();
        let mut asked: HashSet<(ThreadId, i32)> = HashSet::new();
        for (wait, set) in waits.iter().zip(&sets) {
            let few = set.iter().filter(|set| set.fds.len() <= poll::LOOKED_UP_MAX);
            asked.extend(few.flat_map(|set| set.fds.keys()).map(|fd| (wait.thread, *fd)));
            asked.extend(looked_at_again(wait).map(|fd| (wait.thread, fd)));
        }
        let asked: Vec<(ThreadId, i32)> = asked.into_iter().collect();
        let seen: HashMap<(ThreadId, i32), SeenFd> =
            source.look_up(&asked)?.into_iter().map(|seen| ((seen.thread, seen.fd), seen)).collect();
        let mut resolved = Vec::with_capacity(waits.len());
        let mut sets = sets.into_iter();
        for waits in waits.chunks(READ_AHEAD) {
            let sets: Vec<Option<Set>> = sets.by_ref().take(waits.len()).collect();
            self.read_ahead(waits, &sets, &seen);
            for (wait, set) in waits.iter().zip(sets) {
                let stack = inside.stacks.remove(&wait.thread);
                if let Some(requests) = inside.requests.remove(&wait.thread) {
                    resolved.push(self.on_ring(wait, requests));
                    continue;
                }
                let in_memory = stack.as_ref().is_some_and(KernelStack::is_page_fault);
                resolved.push(match set.filter(|_| !in_memory) {
                    Some(set) => {
                        let member = |(fd, interest): (&i32, &Interest)| {
                            self.member(wait, *fd, *interest, seen.get(&(wait.thread, *fd)))
                        };
                        let members = set.fds.iter().map(member).collect();
                        self.choose(wait, &set, members)
                    }
                    None => {
                        let again = looked_at_again(wait).and_then(|fd| seen.get(&(wait.thread, fd)));
                        self.alone(wait, stack, again)
                    }
                });
            }
        }
        self.reads.forget_ahead();
        Ok(resolved)
    }

    /// Reads the names of what these wait on, all together.
    fn read_ahead(&mut self, waits: &[&Wait], sets: &[Option<Set>], seen: &HashMap<(ThreadId, i32), SeenFd>) {
        let mut named: Vec<(ThreadId, i32, Recorded)> = Vec::new();
        for (wait, set) in waits.iter().zip(sets) {
            let members = set.iter().flat_map(|set| set.fds.keys()).filter(|fd| {
                let seen = seen.get(&(wait.thread, **fd));
                seen.is_some_and(|seen| target::has_name(&seen.state, Operation::Read))
            });
            named.extend(members.take(poll::LOOKED_UP_MAX).map(|fd| (wait.thread, *fd, Recorded::default())));
            let fd = wait.fd.filter(|_| target::has_name(&wait.fd_state, wait.call.operation()));
            named.extend(fd.map(|fd| (wait.thread, fd, Recorded::of(wait))));
        }
        let names = &self.names;
        let wanted =
            named.into_iter().flat_map(|(thread, fd, recorded)| fd::wanted(thread, fd, recorded, names));
        self.reads.ahead(wanted);
    }

    /// A wait in a call that names its one fd, or none, or two; `again`: the fd that was looked at once more, see
    /// [`looked_at_again`].
    fn alone(&mut self, wait: &Wait, stack: Option<KernelStack>, again: Option<&SeenFd>) -> Resolved {
        let second =
            again.and_then(|again| Some((again, copy::sleeps_on_second(wait, again, stack.as_ref())?)));
        let mut resolved = match second {
            Some((SeenFd { fd, state, socket, .. }, direction)) => {
                let operation = match direction {
                    Direction::Receive => Operation::Read,
                    Direction::Send => Operation::Write,
                };
                let (thread, fd, way) = (wait.thread, *fd, Some(direction));
                let descriptor =
                    Descriptor { thread, fd, state, socket, operation, direction: way, mount: None };
                let target = target::of_descriptor(descriptor, &mut self.reads, &mut self.names);
                Resolved::new(Some(fd), target, way).seen(*state, socket.clone())
            }
            None => {
                let fd = wait.fd.or_else(|| target::pidfd(wait));
                let target = target::of(wait, stack.as_ref(), &mut self.reads, &mut self.names);
                Resolved::new(fd, target, wait.call.direction()).seen(wait.fd_state, wait.socket.clone())
            }
        };
        resolved.stack = stack;
        resolved.flow = again.and_then(|again| again.flow);
        let mut resolved = self.with_side(resolved, wait.thread.process);
        if matches!(wait.call.operation(), Operation::SendMessage | Operation::ReceiveMessage) {
            resolved.timeout = poll::deadline(wait, &mut self.reads);
        }
        resolved
    }

    /// With which side of a connection this is, and how long the socket waits by itself.
    fn with_side(&mut self, mut resolved: Resolved, process: ProcessId) -> Resolved {
        resolved.server = self.is_server(process, &resolved.target, &resolved.file, &resolved.socket);
        resolved.timeout = resolved.socket_timeout();
        resolved
    }

    fn is_server(
        &mut self,
        process: ProcessId,
        target: &Target,
        file: &FdState,
        socket: &SocketFacts,
    ) -> Option<bool> {
        match (target, socket) {
            (Target::Tcp { local, remote, state, .. }, SocketFacts::Tcp(facts))
                if *state != TcpState::Listen =>
            {
                if facts.has_connected() {
                    return Some(false);
                }
                let port = facts.internals.and_then(|internals| internals.port_chosen_by);
                let listener = AddressFamily::of(file).and_then(|family| {
                    self.listeners.has(facts.netns, process, (family, *local), &mut self.reads)
                });
                listeners::side(listener, port, local.port(), remote.port())
            }
            _ => None,
        }
    }

    /// What connections of a process are that no call of it names, with who spoke last on them.
    pub fn connections(
        &mut self,
        thread: ThreadId,
        fds: &[i32],
        source: &mut dyn Source,
    ) -> Result<Vec<(i32, Resolved)>> {
        let asked: Vec<(ThreadId, i32)> = fds.iter().map(|fd| (thread, *fd)).collect();
        let mut connections = Vec::new();
        for SeenFd { fd, state, socket, .. } in source.look_up(&asked)? {
            let (operation, direction) = (Operation::Read, Some(Direction::Receive));
            let descriptor =
                Descriptor { thread, fd, state: &state, socket: &socket, operation, direction, mount: None };
            let target = target::of_descriptor(descriptor, &mut self.reads, &mut self.names);
            let resolved = Resolved::new(Some(fd), target, direction).seen(state, socket);
            connections.push((fd, self.with_side(resolved, thread.process)));
        }
        Ok(connections)
    }

    /// What reads of other processes go through.
    pub fn reads(&mut self) -> &mut Reads {
        &mut self.reads
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{diagnose::verdict::tests as samples, model::file::tests::file, model::syscalls::Syscall};

    #[test]
    fn a_stack_is_asked_for_where_call_and_target_say_too_little() {
        let (on_file, on_pipe) = (file(7, FileKind::Regular), file(7, FileKind::Fifo));
        for (syscall, state, sleep, expected) in [
            (Syscall::Read, FdState::Open(on_file), Sleep::Interruptible, true),
            (Syscall::Read, FdState::Open(on_pipe), Sleep::Interruptible, false),
            (Syscall::Write, FdState::Open(on_pipe), Sleep::Uninterruptible, true),
            (Syscall::Openat, FdState::None, Sleep::Interruptible, true),
            (Syscall::Close, FdState::Absent, Sleep::Interruptible, true),
            (Syscall::PageFault, FdState::None, Sleep::Interruptible, true),
            (Syscall::Futex, FdState::None, Sleep::Interruptible, false),
            (Syscall::Flock, FdState::Open(on_file), Sleep::Interruptible, false),
            (Syscall::Flock, FdState::Open(on_file), Sleep::Uninterruptible, true),
        ] {
            let wait = Wait { fd_state: state, sleep, ..samples::wait(syscall, [0; 6]) };
            assert_eq!(needs_stack(&wait), expected, "{syscall:?} {sleep:?}");
        }
    }
}
