//! What a wait waits on and who waits: everything that is read from `/proc` after a snapshot.
//!
//! Layer 3: uses `collect` and `procfs`.

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
pub mod semaphore;
pub mod services;
pub mod target;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;

use self::{
    fd::Mounts,
    listeners::{AddressFamily, Listeners},
    peers::Peers,
    poll::Set,
    process::{Ancestors, ProcessMeta},
    services::Services,
    target::Descriptor,
};
use crate::{
    collect::Source,
    model::file::{FileKind, OpenFile},
    model::holder::FileId,
    model::stack::KernelStack,
    model::syscalls::{Direction, Operation, Syscall},
    model::target::{Interest, Target, WatchedFd},
    model::tcp::{LastSender, TcpActivity, TcpState},
    model::wait::{
        ByProcess, FdState, OutputFlow, ProcessId, RingRequest, SeenFd, Sleep, Sleeper, SocketFacts,
        ThreadId, Wait,
    },
    procfs::{Reads, Wanted, by_pid},
};

/// What a wait waits on, and the evidence for its verdict.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// The fd that matters, if one does.
    pub fd: Option<i32>,
    /// What it is.
    pub target: Target,
    /// Which way data is to go; `None`: neither, or both.
    pub direction: Option<Direction>,
    /// The kernel's record of the fd's file.
    pub file: FdState,
    /// The socket's own facts.
    pub socket: SocketFacts,
    /// This is the server's end. `None`: not known, or no TCP.
    pub server: Option<bool>,
    /// Whose bytes were the last on a TCP connection.
    pub last_sender: Option<LastSender>,
    /// The call's own time-out, from its start.
    pub timeout: Option<Duration>,
    /// Who is at the other end. `None`: not looked up.
    pub peers: Option<Peers>,
    /// Where in the kernel it sleeps. `None`: not looked up, since call and target say enough, or not to be seen.
    pub stack: Option<KernelStack>,
    /// Of a terminal that is written to, whether its output goes on. `None`: not looked up, or not to be seen.
    pub flow: Option<OutputFlow>,
}

impl Resolved {
    /// With no evidence yet.
    pub fn new(fd: Option<i32>, target: Target, direction: Option<Direction>) -> Self {
        Self {
            fd,
            target,
            direction,
            file: FdState::None,
            socket: SocketFacts::None,
            server: None,
            last_sender: None,
            timeout: None,
            peers: None,
            stack: None,
            flow: None,
        }
    }

    /// Takes what the source saw of the fd.
    fn seen(mut self, file: FdState, socket: SocketFacts) -> Self {
        if let SocketFacts::Tcp(facts) = &socket {
            self.last_sender = Some(facts.last_sender());
        }
        (self.file, self.socket) = (file, socket);
        self
    }

    /// Whether the output of the terminal that it writes to was stopped: the kernel says so, or who has its other end waits for
    /// something to come, and yet there is no room.
    pub fn is_output_stopped(&self) -> bool {
        let writes = matches!(self.target, Target::Tty { .. }) && self.direction == Some(Direction::Send);
        let read = self.peers.as_ref().and_then(|peers| peers.waits);
        writes && (self.flow == Some(OutputFlow::Stopped) || self.flow.is_none() && read == Some(true))
    }

    /// The thread that holds the lock inside the kernel that it sleeps on, where the kernel says which.
    pub fn lock_holder(&self) -> Option<u32> {
        self.stack.as_ref()?.lock()?.holder
    }

    /// The time-out that its socket has for the way in which data is to go.
    fn socket_timeout(&self) -> Option<Duration> {
        self.socket.timeout(self.direction != Some(Direction::Receive))
    }

    /// What was seen so long ago, as of now, nothing having moved meanwhile.
    pub fn grow_older(&mut self, by: Duration) {
        if let SocketFacts::Tcp(facts) = &mut self.socket
            && let Some(activity) = &mut facts.activity
        {
            activity.acknowledged += by;
            let TcpActivity { sent, received, delivered, first_sent, .. } = activity;
            for stamp in [sent, received, delivered, first_sent].into_iter().flatten() {
                *stamp += by;
            }
        }
    }

    /// Whether this is the server's end of a connection. Where it is not known, the end with the lower port counts as
    /// the server's: clients get theirs from the top.
    pub fn is_server(&self) -> bool {
        self.server.unwrap_or(match &self.target {
            Target::Tcp { local, remote, .. } => local.port() < remote.port(),
            _ => false,
        })
    }
}

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
    matches!(wait.call.operation(), Operation::Open | Operation::Path | Operation::Copy)
        || match &wait.fd_state {
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
    /// Mounts, as found in this look.
    mounts: Mounts,
    /// Who serves others.
    services: Services,
    /// A walk over all open files did not come to its end.
    missed_peers: bool,
}

/// For how long it is known who a process is: it may write a title, go elsewhere, lose its parent, or not have been readable.
const KNOWN: Duration = Duration::from_secs(60);

/// In place of the fd of a file that has none.
const NO_FD: i32 = -1;

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
const READ_AHEAD: usize = 128;

/// An fd of a set with what the source saw of it.
struct SetMember {
    watched: WatchedFd,
    file: FdState,
    socket: SocketFacts,
}

impl SetMember {
    /// Which socket or pipe it is: an fd and its duplicate are one. Other files may share an inode.
    fn key(&self) -> Option<FileId> {
        match self.file {
            FdState::Open(file) if target::is_socket_or_pipe(&file) => Some(FileId::from(&file)),
            _ => None,
        }
    }
}

/// Waits of which several may be resolved as one: threads of a process that wait on the same epoll set wait for the same. (A thread
/// with descriptors of its own, `CLONE_FILES`, is taken for one of them.)
struct SharedSets<'a> {
    /// The first of each.
    firsts: Vec<&'a Wait>,
    /// For each wait, where its first is among them.
    first: Vec<usize>,
}

impl<'a> SharedSets<'a> {
    fn of(waits: &[&'a Wait]) -> Self {
        let mut sets: HashMap<(ProcessId, i32), usize> = HashMap::new();
        let mut shared = Self { firsts: Vec::new(), first: Vec::with_capacity(waits.len()) };
        for wait in waits {
            let new = shared.firsts.len();
            let at = match wait.fd.filter(|_| wait.call.operation() == Operation::Epoll) {
                Some(fd) => *sets.entry((wait.thread.process, fd)).or_insert(new),
                None => new,
            };
            if at == new {
                shared.firsts.push(wait);
            }
            shared.first.push(at);
        }
        shared
    }
}

impl Resolver {
    /// An empty cache.
    pub fn new() -> Self {
        Self {
            reads: Reads::new(),
            listeners: Listeners::default(),
            processes: HashMap::new(),
            ancestors: Ancestors::default(),
            own_pipes: HashMap::new(),
            mounts: Mounts::default(),
            services: Services::default(),
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
        let services = &mut self.services;
        self.missed_peers |= !peers::look_up(pairs, all, &mut self.reads, source, services, until)?;
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
        self.mounts = Mounts::default();
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
        let mut named: Vec<(ThreadId, i32)> = Vec::new();
        for (wait, set) in waits.iter().zip(sets) {
            let members = set.iter().flat_map(|set| set.fds.keys()).filter(|fd| {
                let seen = seen.get(&(wait.thread, **fd));
                seen.is_some_and(|seen| target::has_name(&seen.state, Operation::Read))
            });
            named.extend(members.take(poll::LOOKED_UP_MAX).map(|fd| (wait.thread, *fd)));
            named.extend(
                wait.fd
                    .filter(|_| target::has_name(&wait.fd_state, wait.call.operation()))
                    .map(|fd| (wait.thread, fd)),
            );
        }
        self.reads.ahead(named.into_iter().flat_map(|(thread, fd)| fd::wanted(thread, fd)));
    }

    /// An fd of a set, as if the thread waited on it alone. What was too many to look up, or was not found, is a number
    /// only.
    fn member(&mut self, wait: &Wait, fd: i32, interest: Interest, seen: Option<&SeenFd>) -> SetMember {
        let Some(SeenFd { state, socket, .. }) = seen else {
            let target = Target::Unreadable { reason: "not looked up".into() };
            let watched = WatchedFd { fd, interest, target, facts: None };
            return SetMember { watched, file: FdState::None, socket: SocketFacts::None };
        };
        let direction = interest.direction();
        let operation = match direction {
            Direction::Receive => Operation::Read,
            Direction::Send => Operation::Write,
        };
        let (thread, direction) = (wait.thread, Some(direction));
        let descriptor = Descriptor { thread, fd, state, socket, operation, direction };
        let target = target::of_descriptor(descriptor, &mut self.reads, &mut self.mounts);
        let facts = match socket {
            SocketFacts::Tcp(facts) => Some(facts.clone()),
            SocketFacts::Unix(_) | SocketFacts::Udp(_) | SocketFacts::None => None,
        };
        let watched = WatchedFd { fd, interest, target, facts };
        SetMember { watched, file: *state, socket: socket.clone() }
    }

    /// A wait for completions, by the requests that are under way: if there is one, as if the thread had made the call itself.
    fn on_ring(&mut self, wait: &Wait, requests: Vec<RingRequest>) -> Resolved {
        let mut member = |request: RingRequest| {
            let RingRequest { thread, fd, interest, state, socket } = request;
            let fd = fd.unwrap_or(NO_FD);
            let watched = match state.file().is_some_and(target::is_socket_or_pipe) || fd != NO_FD {
                true => {
                    let seen = SeenFd { thread, fd, state, socket: socket.clone(), flow: None };
                    return self.member(wait, fd, interest, Some(&seen));
                }
                false => Target::Unreadable { reason: "a file that is registered with the ring".into() },
            };
            let watched = WatchedFd { fd, interest, target: watched, facts: None };
            SetMember { watched, file: state, socket }
        };
        let members: Vec<SetMember> = requests.into_iter().map(&mut member).collect();
        let mut resolved = self.choose(wait, &Set::default(), members);
        resolved.fd = resolved.fd.filter(|fd| *fd != NO_FD);
        resolved
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
                let descriptor = Descriptor { thread, fd, state, socket, operation, direction: way };
                let target = target::of_descriptor(descriptor, &mut self.reads, &mut self.mounts);
                Resolved::new(Some(fd), target, way).seen(*state, socket.clone())
            }
            None => {
                let fd = wait.fd.or_else(|| target::pidfd(wait));
                let target = target::of(wait, stack.as_ref(), &mut self.reads, &mut self.mounts);
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

    /// The fds that a thread in poll, select or epoll watches.
    fn read_set(&mut self, wait: &Wait) -> Option<Set> {
        if wait.call.has_fds_in_memory() {
            return poll::read(wait, &mut self.reads);
        }
        if wait.call.operation() == Operation::Epoll {
            let set = self.read_epoll(wait)?;
            return Some(Set { timeout: poll::timeout(wait, &mut self.reads), ..set });
        }
        None
    }

    /// The same for epoll, with a time-out that is not in memory.
    fn read_epoll(&mut self, wait: &Wait) -> Option<Set> {
        let fds = epoll::read(wait.thread.process, wait.thread.tid, wait.fd?, &mut self.reads)?;
        Some(Set { fds, timeout: wait.call.timeout_in_arguments() })
    }

    /// The one fd of a set that matters, if the others only wake the thread up; else all of them.
    fn choose(&mut self, wait: &Wait, set: &Set, mut members: Vec<SetMember>) -> Resolved {
        // A ring with one request is no loop.
        let loops = match wait.call.operation() {
            Operation::Epoll => true,
            Operation::Ring => members.len() > 1,
            _ => false,
        };
        let mut resolved = match self.one_that_matters(wait, &members, loops) {
            Some((at, interest)) => {
                let SetMember { watched, file, socket } = members.swap_remove(at);
                let server = self.is_server(wait.thread.process, &watched.target, &file, &socket);
                let direction = Some(interest.direction());
                let resolved = Resolved::new(Some(watched.fd), watched.target, direction).seen(file, socket);
                Resolved { server, ..resolved }
            }
            None if loops => self.alone(wait, None, None),
            None if wait.call.operation() == Operation::Ring => self.alone(wait, None, None),
            None => {
                let watched = members.into_iter().map(|member| member.watched).collect();
                Resolved::new(None, Target::Fds { watched }, None)
            }
        };
        resolved.timeout = match wait.call.watches_fds() {
            true => set.timeout,
            false => resolved.socket_timeout(),
        };
        resolved
    }

    /// Which member of a set the thread really waits for, and what it wants of it. Of an event loop it must be a client's
    /// only connection.
    fn one_that_matters(
        &mut self,
        wait: &Wait,
        members: &[SetMember],
        loops: bool,
    ) -> Option<(usize, Interest)> {
        if members.len() > poll::LOOKED_UP_MAX {
            return None;
        }
        let pid = wait.thread.process.pid;
        let pipes =
            members.iter().any(|fd| matches!(fd.watched.target, Target::Pipe { .. })) && members.len() > 1;
        let own_pipes: &[u64] = match pipes {
            true => self
                .own_pipes
                .entry(pid)
                .or_insert_with(|| poll::own_pipes(wait.thread.process, &mut self.reads)),
            false => &[],
        };
        let is_real = |at: &usize| {
            let WatchedFd { interest, target, .. } = &members[*at].watched;
            let beside = poll::is_wake_up(target, pid, own_pipes) || loops && poll::is_side_show(target);
            interest.is_any() && !beside
        };
        let mut all: Vec<usize> = (0..members.len()).filter(is_real).collect();
        self.leave_one_of_several(wait, members, &mut all, loops);
        let mut real = all.into_iter();
        let Some(one) = real.next() else {
            let only = members.first().filter(|_| members.len() == 1 && !loops)?.watched.interest;
            return only.is_any().then_some((0, only));
        };
        let mut interest = members[one].watched.interest;
        for other in real {
            if members[one].key().is_none() || members[one].key() != members[other].key() {
                return None;
            }
            interest = interest.union(members[other].watched.interest);
        }
        let member = &members[one];
        let client = match &member.watched.target {
            Target::Tcp { state, .. } if *state != TcpState::Listen => {
                self.is_server(wait.thread.process, &member.watched.target, &member.file, &member.socket)
                    != Some(true)
            }
            Target::Unix { client, .. } => *client,
            Target::Udp { remote, .. } => remote.is_some(),
            _ => false,
        };
        (!loops || client).then_some((one, interest))
    }

    /// Of several members that are one wait, leaves the one that tells. Who carries what another program gives it through a pipe
    /// (ssh for rsync and git) waits for its connection's peer, whatever comes through the pipe; and queries of one name server are
    /// answered together, or none is.
    fn leave_one_of_several(
        &mut self,
        wait: &Wait,
        members: &[SetMember],
        real: &mut Vec<usize>,
        loops: bool,
    ) {
        if real.len() < 2 {
            return;
        }
        let queried = |at: &usize| match (&members[*at].watched.target, &members[*at].socket) {
            (Target::Udp { remote, .. }, SocketFacts::Udp(facts)) if !facts.has_received => *remote,
            _ => None,
        };
        let first = queried(&real[0]);
        if first.is_some() && real.iter().all(|at| queried(at) == first) {
            real.truncate(1);
            return;
        }
        if loops {
            return;
        }
        let is_connection = |at: &usize| {
            let state = members[*at].socket.tcp().map(|facts| facts.state);
            state.is_some_and(|state| state != TcpState::Listen)
        };
        let (connections, others): (Vec<usize>, Vec<usize>) = real.iter().copied().partition(is_connection);
        let [connection] = connections[..] else { return };
        let SetMember { watched, file, socket } = &members[connection];
        let is_server = self.is_server(wait.thread.process, &watched.target, file, socket) != Some(false);
        if !is_server && others.iter().all(|at| self.is_of_parent(wait, &members[*at].watched)) {
            *real = vec![connection];
        }
    }

    /// Whether a member is the reading end of a pipe, or an end of a pair of sockets, that the process's parent has the other end of.
    fn is_of_parent(&mut self, wait: &Wait, watched: &WatchedFd) -> bool {
        let process = wait.thread.process;
        let reads = watched.interest.read && !watched.interest.write;
        let Some(parent) = self.reads.stat(process).map(|stat| stat.parent).filter(|_| reads) else {
            return false;
        };
        match &watched.target {
            Target::Unix { path: None, peer_pid: Some(by), .. } => *by == parent,
            Target::Pipe { inode } => poll::has_pipe(by_pid(parent), *inode, &mut self.reads),
            _ => false,
        }
    }

    /// Who waits; read once a minute for each process.
    pub fn who(&mut self, process: ProcessId) -> Arc<ProcessMeta> {
        if let Some((read, who)) = self.processes.get(&process)
            && read.elapsed() < KNOWN
        {
            return Arc::clone(who);
        }
        let who = Arc::new(process::read(process, &mut self.reads, &mut self.ancestors));
        self.processes.insert(process, (Instant::now(), Arc::clone(&who)));
        who
    }

    /// Reads what units and containers these belong to, all together: of each all that a line of a table shows.
    pub fn read_workloads(
        &mut self,
        processes: impl Iterator<Item = ProcessId>,
    ) -> HashMap<ProcessId, ProcessMeta> {
        let processes: HashSet<ProcessId> = processes.collect();
        let processes: Vec<ProcessId> = processes.into_iter().collect();
        let mut homes = HashMap::with_capacity(processes.len());
        for some in processes.chunks(READ_AHEAD) {
            let wanted = some.iter().map(|process| (*process, Wanted::File("cgroup".into())));
            self.reads.ahead(wanted);
            homes
                .extend(some.iter().map(|process| (*process, process::read_home(*process, &mut self.reads))));
        }
        self.reads.forget_ahead();
        homes
    }

    /// Reads who these are, all together, so that [`who`](Self::who) knows them.
    pub fn read_processes(&mut self, processes: impl Iterator<Item = ProcessId>) {
        let is_known =
            |process: &ProcessId| self.processes.get(process).is_some_and(|(read, _)| read.elapsed() < KNOWN);
        let new: HashSet<ProcessId> = processes.filter(|process| !is_known(process)).collect();
        let new: Vec<ProcessId> = new.into_iter().collect();
        for some in new.chunks(READ_AHEAD) {
            let wanted = some.iter().flat_map(|process| process::wanted().map(|wanted| (*process, wanted)));
            self.reads.ahead(wanted);
            some.iter().for_each(|process| drop(self.who(*process)));
        }
        self.reads.forget_ahead();
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
            let descriptor = Descriptor { thread, fd, state: &state, socket: &socket, operation, direction };
            let target = target::of_descriptor(descriptor, &mut self.reads, &mut self.mounts);
            let resolved = Resolved::new(Some(fd), target, direction).seen(state, socket);
            connections.push((fd, self.with_side(resolved, thread.process)));
        }
        Ok(connections)
    }

    /// What reads of other processes go through.
    pub fn reads(&mut self) -> &mut Reads {
        &mut self.reads
    }

    /// Forgets processes that no longer matter.
    pub fn retain(&mut self, keep: impl Fn(&ProcessId) -> bool) {
        self.processes.retain(|process, _| keep(process));
        self.ancestors.forget();
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
            (Syscall::Futex, FdState::None, Sleep::Interruptible, false),
            (Syscall::Flock, FdState::Open(on_file), Sleep::Interruptible, false),
            (Syscall::Flock, FdState::Open(on_file), Sleep::Uninterruptible, true),
        ] {
            let wait = Wait { fd_state: state, sleep, ..samples::wait(syscall, [0; 6]) };
            assert_eq!(needs_stack(&wait), expected, "{syscall:?} {sleep:?}");
        }
    }

    #[test]
    fn threads_that_wait_on_one_epoll_set_are_resolved_as_one() {
        let wait = |pid: u32, tid: u32, syscall, fd: i32| {
            let mut wait = samples::wait(syscall, [0; 6]);
            (wait.thread.process.pid, wait.thread.tid, wait.fd) = (pid, tid, Some(fd));
            wait
        };
        let few = [
            wait(1, 1, Syscall::EpollWait, 3),
            wait(1, 2, Syscall::Read, 3),
            wait(1, 3, Syscall::EpollPwait, 3),
            wait(1, 4, Syscall::EpollWait, 4),
            wait(2, 5, Syscall::EpollWait, 3),
            wait(1, 6, Syscall::Read, 3),
        ];
        let shared = SharedSets::of(&few.iter().collect::<Vec<_>>());
        assert_eq!(shared.first, [0, 1, 0, 2, 3, 4]);
        let tids: Vec<u32> = shared.firsts.iter().map(|wait| wait.thread.tid).collect();
        assert_eq!(tids, [1, 2, 4, 5, 6]);
        crate::util::growth::at_each_size(|number| {
            let many: Vec<Wait> = (0..number as u32).map(|tid| wait(1, tid, Syscall::EpollWait, 3)).collect();
            assert_eq!(SharedSets::of(&many.iter().collect::<Vec<_>>()).firsts.len(), 1);
        });
    }
}
