//! What a wait waits on and who waits: everything that is read from `/proc` after a snapshot.

pub mod epoll;
pub mod fd;
pub mod guard;
pub mod listeners;
pub mod locks;
pub mod memory;
pub mod mutex;
pub mod path;
pub mod peers;
pub mod poll;
pub mod process;
pub mod semaphore;
pub mod target;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use tracer_ebpf::abi::FileKey;

use self::{
    guard::Guard,
    listeners::Listeners,
    peers::Peers,
    poll::{Interest, Set},
    process::Who,
    target::{Target, TcpState, WatchedFd},
};
use crate::{
    collect::Source,
    progress::{LastWord, last_word},
    syscalls::{Way, way},
    wait::{FdState, ProcessId, SeenFd, SocketFacts, ThreadId, Wait},
};

/// What a wait waits on, and the evidence for its verdict.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// The fd that matters, if one does.
    pub fd: Option<i32>,
    /// What it is.
    pub target: Target,
    /// Which way data is to go.
    pub way: Way,
    /// The kernel's record of the fd's file.
    pub file: FdState,
    /// The socket's own facts.
    pub socket: SocketFacts,
    /// This is the server's end. `None`: not known, or no TCP.
    pub server: Option<bool>,
    /// Whose bytes were the last on a TCP connection.
    pub last_word: Option<LastWord>,
    /// The call's own time-out, from its start.
    pub timeout: Option<Duration>,
    /// Who is at the other end. `None`: not looked up.
    pub peers: Option<Peers>,
}

impl Resolved {
    /// With no evidence yet.
    pub fn new(fd: Option<i32>, target: Target, way: Way) -> Self {
        Self {
            fd,
            target,
            way,
            file: FdState::None,
            socket: SocketFacts::None,
            server: None,
            last_word: None,
            timeout: None,
            peers: None,
        }
    }

    /// Takes what the source saw of the fd.
    fn seen(mut self, file: FdState, socket: SocketFacts) -> Self {
        if let SocketFacts::Tcp(facts) = &socket {
            self.last_word = Some(last_word(facts));
        }
        (self.file, self.socket) = (file, socket);
        self
    }

    /// What was seen so long ago, as of now, nothing having moved meanwhile.
    pub fn grow_older(&mut self, by: Duration) {
        if let SocketFacts::Tcp(facts) = &mut self.socket {
            facts.acknowledged += by;
            for stamp in [&mut facts.sent, &mut facts.received].into_iter().flatten() {
                *stamp += by;
            }
        }
        if let Target::Tcp { sent_seconds, received_seconds, timers, .. } = &mut self.target {
            timers.gives_up_seconds = timers.gives_up_seconds.map(|left| (left - by.as_secs_f64()).max(0.0));
            for seconds in [sent_seconds, received_seconds].into_iter().flatten() {
                *seconds += by.as_secs_f64();
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

/// Looks waits up, with a cache of who processes are.
pub struct Resolver {
    guard: Guard,
    listeners: Listeners,
    processes: HashMap<ProcessId, (Instant, Arc<Who>)>,
}

/// For how long it is known who a process is: it may write a title, go elsewhere, lose its parent, or not have been readable.
const KNOWN: Duration = Duration::from_secs(60);

/// An fd of a set with what the source saw of it.
struct Member {
    watched: WatchedFd,
    file: FdState,
    socket: SocketFacts,
}

impl Member {
    /// Which socket or pipe it is: an fd and its duplicate are one. Other files may share an inode.
    fn key(&self) -> Option<FileKey> {
        match self.file {
            FdState::Open(file) if target::is_socket_or_pipe(&file) => Some(FileKey::of(&file)),
            _ => None,
        }
    }
}

impl Resolver {
    /// An empty cache.
    pub fn new() -> Self {
        Self { guard: Guard::new(), listeners: Listeners::default(), processes: HashMap::new() }
    }

    /// What waits wait on, in their order. Costs a few reads of `/proc` each, never more than the guard's deadline.
    pub fn resolve(&mut self, waits: &[&Wait], source: &mut dyn Source) -> Result<Vec<Resolved>> {
        let sets = waits.iter().map(|wait| self.read_set(wait)).collect();
        self.resolve_with(waits, sets, source)
    }

    /// Finds out who is at the other ends; `all` are the host's waits of the same moment. Walks all open files of the
    /// host, so it is for waits that are old enough to ask.
    pub fn find_peers(
        &mut self,
        pairs: &mut [(&Wait, &mut Resolved)],
        all: &[Wait],
        source: &mut dyn Source,
    ) -> Result<()> {
        peers::look_up(pairs, all, &mut self.guard, source)
    }

    /// What a wait waits on by the kernel's record alone: no names, no `/proc`. Enough for most classes.
    pub fn sketch(wait: &Wait) -> Resolved {
        let resolved = Resolved::new(wait.fd, target::sketch(wait), way(wait.call.name));
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
            if set.is_none() && epoll::is_epoll(wait.call.name) {
                *set = self.read_set(wait);
            }
        }
        self.resolve_with(waits, sets, source)
    }

    /// With the fds that threads in poll, select and epoll watch. Those of small sets are looked up together.
    fn resolve_with(
        &mut self,
        waits: &[&Wait],
        sets: Vec<Option<Set>>,
        source: &mut dyn Source,
    ) -> Result<Vec<Resolved>> {
        let mut asked: HashSet<(ThreadId, i32)> = HashSet::new();
        for (wait, set) in waits.iter().zip(&sets) {
            let few = set.iter().filter(|set| set.fds.len() <= poll::FEW);
            asked.extend(few.flat_map(|set| set.fds.keys()).map(|fd| (wait.thread, *fd)));
        }
        let asked: Vec<(ThreadId, i32)> = asked.into_iter().collect();
        let seen: HashMap<(ThreadId, i32), SeenFd> =
            source.look_up(&asked)?.into_iter().map(|seen| ((seen.thread, seen.fd), seen)).collect();
        let resolve = |(wait, set): (&&Wait, Option<Set>)| match set {
            Some(set) => {
                let members = set
                    .fds
                    .iter()
                    .map(|(fd, interest)| self.member(wait, *fd, *interest, seen.get(&(wait.thread, *fd))));
                let members = members.collect();
                self.choose(wait, &set, members)
            }
            None => self.alone(wait),
        };
        Ok(waits.iter().zip(sets).map(resolve).collect())
    }

    /// An fd of a set, as if the thread waited on it alone. What was too many to look up, or was not found, is a number
    /// only.
    fn member(&mut self, wait: &Wait, fd: i32, interest: Interest, seen: Option<&SeenFd>) -> Member {
        let Some(SeenFd { state, socket, .. }) = seen else {
            let target = Target::Unreadable { reason: "not looked up".into() };
            let watched = WatchedFd { fd, interest, target };
            return Member { watched, file: FdState::None, socket: SocketFacts::None };
        };
        let name = if interest.way() == Way::Out { "write" } else { "read" };
        let call = crate::wait::Call { name, ..wait.call };
        let alone = Wait { call, fd: Some(fd), fd_state: *state, socket: socket.clone(), ..wait.clone() };
        let watched = WatchedFd { fd, interest, target: target::of(&alone, &mut self.guard) };
        Member { watched, file: *state, socket: socket.clone() }
    }

    /// A wait in a call that names its one fd, or none.
    fn alone(&mut self, wait: &Wait) -> Resolved {
        let fd = wait.fd.or_else(|| target::pidfd(wait));
        let mut resolved = Resolved::new(fd, target::of(wait, &mut self.guard), way(wait.call.name))
            .seen(wait.fd_state, wait.socket.clone());
        resolved.server = self.is_server(wait, &resolved.target, &wait.socket);
        if let SocketFacts::Tcp(facts) = &wait.socket {
            resolved.timeout =
                if resolved.way == Way::In { facts.receive_timeout } else { facts.send_timeout };
        }
        resolved
    }

    fn is_server(&mut self, wait: &Wait, target: &Target, socket: &SocketFacts) -> Option<bool> {
        match (target, socket) {
            (Target::Tcp { local, remote, state, .. }, SocketFacts::Tcp(facts))
                if *state != TcpState::Listen =>
            {
                let listener = self.listeners.has(facts.raw.netns, wait.thread.process.pid, *local);
                listeners::side(listener, facts.raw.port, local.port(), remote.port())
            }
            _ => None,
        }
    }

    /// The fds that a thread in poll, select or epoll watches.
    fn read_set(&mut self, wait: &Wait) -> Option<Set> {
        if poll::is_set(wait.call.name) {
            return poll::read(wait, &mut self.guard);
        }
        if epoll::is_epoll(wait.call.name) {
            let fds = epoll::read(wait.thread.process.pid, wait.thread.tid, wait.fd?)?;
            let timeout = poll::timeout_in_arguments(wait.call.name, &wait.call.args);
            return Some(Set { fds, timeout });
        }
        None
    }

    /// The one fd of a set that matters, if the others only wake the thread up; else all of them.
    fn choose(&mut self, wait: &Wait, set: &Set, mut members: Vec<Member>) -> Resolved {
        let loops = epoll::is_epoll(wait.call.name);
        let mut resolved = match self.one_that_matters(wait, &members, loops) {
            Some((at, interest)) => {
                let Member { watched, file, socket } = members.swap_remove(at);
                let server = self.is_server(wait, &watched.target, &socket);
                let way = interest.way();
                let resolved = Resolved::new(Some(watched.fd), watched.target, way).seen(file, socket);
                Resolved { server, ..resolved }
            }
            None if loops => self.alone(wait),
            None => {
                let watched = members.into_iter().map(|member| member.watched).collect();
                Resolved::new(None, Target::Fds { watched }, Way::Other)
            }
        };
        resolved.timeout = set.timeout;
        resolved
    }

    /// Which member of a set the thread really waits for, and what it wants of it. Of an event loop it must be a client's
    /// only connection.
    fn one_that_matters(
        &mut self,
        wait: &Wait,
        members: &[Member],
        loops: bool,
    ) -> Option<(usize, Interest)> {
        if members.len() > poll::FEW {
            return None;
        }
        let pid = wait.thread.process.pid;
        let pipes =
            members.iter().any(|fd| matches!(fd.watched.target, Target::Pipe { .. })) && members.len() > 1;
        let own_pipes = if pipes { poll::own_pipes(pid) } else { Vec::new() };
        let mut real = (0..members.len()).filter(|at| {
            let WatchedFd { interest, target, .. } = &members[*at].watched;
            let beside = poll::is_wake_up(target, pid, &own_pipes) || loops && poll::is_side_show(target);
            interest.is_any() && !beside
        });
        let Some(one) = real.next() else {
            let only = members.first().filter(|_| members.len() == 1 && !loops)?.watched.interest;
            return only.is_any().then_some((0, only));
        };
        let mut interest = members[one].watched.interest;
        for other in real {
            if members[one].key().is_none() || members[one].key() != members[other].key() {
                return None;
            }
            interest = interest.and(members[other].watched.interest);
        }
        let member = &members[one];
        let client = match &member.watched.target {
            Target::Tcp { state, .. } if *state != TcpState::Listen => {
                self.is_server(wait, &member.watched.target, &member.socket) != Some(true)
            }
            Target::Unix { client, .. } => *client,
            _ => false,
        };
        (!loops || client).then_some((one, interest))
    }

    /// Who waits; read once a minute for each process.
    pub fn who(&mut self, process: ProcessId) -> Arc<Who> {
        if let Some((read, who)) = self.processes.get(&process)
            && read.elapsed() < KNOWN
        {
            return Arc::clone(who);
        }
        let who = Arc::new(process::read(process, &mut self.guard));
        self.processes.insert(process, (Instant::now(), Arc::clone(&who)));
        who
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
            let mut wait = Wait::reading(thread, fd);
            (wait.fd_state, wait.socket) = (state, socket);
            connections.push((fd, self.alone(&wait)));
        }
        Ok(connections)
    }

    /// Reads something of a process that may never come; see [`Guard::read`].
    pub fn guarded<T: Send + 'static>(
        &mut self,
        process: ProcessId,
        read: impl FnOnce() -> Option<T> + Send + 'static,
    ) -> Option<T> {
        self.guard.read(process, read)
    }

    /// Forgets processes that no longer matter.
    pub fn retain(&mut self, keep: impl Fn(&ProcessId) -> bool) {
        self.processes.retain(|process, _| keep(process));
    }

    /// Whether some process is not read now, as an earlier read of it has not come back.
    pub fn refuses(&self) -> bool {
        self.guard.refuses()
    }

    /// Reads that did not come back in time, so far.
    pub fn abandoned(&self) -> u64 {
        self.guard.abandoned()
    }
}
