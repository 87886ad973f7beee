//! Who is at the other end: the processes of this host that hold a pipe's or socket's other end, or a lock, and whether
//! they wait on it themselves.

use std::{
    cell::OnceCell,
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use anyhow::Result;

use super::{
    Resolved,
    addresses::HostAddresses,
    behind,
    bound::{BoundNames, NameUse},
    children, epoll,
    futex::{self, FutexWord, LockHolder, LockOwner},
    locks, memory,
    mounts::Mount,
    poll, queue,
    semaphore::{self, Semaphore},
    services::Services,
};
use crate::{
    collect::Source,
    model::backlog::{Backlog, QueueKind},
    model::file::{FileKind, SocketKind},
    model::holder::{Access, ConnectionEnd, FileId, Holder, Holding},
    model::syscalls::{Direction, Operation},
    model::target::Target,
    model::tcp::{TcpFacts, TcpState},
    model::wait::{ByProcess, FdState, ProcessId, SocketFacts, Wait},
    procfs::{self, Reads, by_pid},
};

/// Processes that are named at the other end; the others are counted.
pub const NAMED_MAX: usize = 8;
/// Waits that are told of their other ends however late it is.
pub const RESOLVED_MIN: usize = 32;
/// Sockets that may listen for one connection: at its address or any, of either family.
const LISTENERS_MAX: usize = 4;
/// Files and connections whose holders are looked for in one walk over all open files.
const WALK_MAX: usize = crate::kernel::load::WANTED_AT_ONCE;

/// A process at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its pid.
    pub pid: u32,
    /// Its name.
    pub comm: String,
}

/// What the others have to do with a wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// They hold the other end, or the lock on a file.
    #[default]
    OtherEnd,
    /// They serve the file system.
    Server,
    /// They are asked before a file may be used.
    Listener,
    /// They mount what is missing.
    Automounter,
    /// One of their threads holds a lock inside the kernel.
    LockHolder,
    /// They have the master of the terminal open.
    TerminalMaster,
    /// They did last with a message queue what is waited for.
    LastUser,
}

/// What was found at the other end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// What the others have to do with it.
    pub role: Role,
    /// The kernel says that it is they; otherwise they are only likely.
    pub certain: bool,
    /// A signal has stopped the first of them.
    pub stopped: bool,
    /// The mount that the wait is about, where one holds it up.
    pub mount: Option<Arc<Mount>>,
    /// Other processes that hold it: [`NAMED_MAX`] at most. All that wait for the same file share them.
    pub others: Arc<[Peer]>,
    /// How many more there are.
    pub more: usize,
    /// The waiting process holds it too; of a word in memory: its own threads may wake it.
    pub own: bool,
    /// Nothing but the waiting thread could use what the process holds: it has no other thread, and no handler of a
    /// signal that another process may send.
    pub alone: bool,
    /// A handler of a signal from outside may run in the waiting process. Only asked where that could end the wait.
    pub handles_signals: bool,
    /// Whoever could end the wait waits for this one in turn, and nobody else can help: a deadlock.
    pub circle: bool,
    /// One of the others waits on it: it has nothing to do on this connection. `None`: not looked at.
    pub waits: Option<bool>,
    /// Since when one of them has done nothing but read it, nanoseconds of `CLOCK_MONOTONIC`, if one does: what it does next is for the
    /// waiter to say.
    pub reads_since: Option<u64>,
    /// The waiting process has no other thread.
    pub single: bool,
    /// One of the others waits until it can write more there.
    pub writes: bool,
    /// The thread of its own process that holds a lock inside the kernel.
    pub owner: Option<LockOwner>,
    /// What the word in memory is that it waits on.
    pub futex: Option<FutexWord>,
    /// Who has the lock waits for a connection, on a socket that the waiting process has as well: they take turns to accept.
    pub takes_turns: bool,
    /// The System V semaphore it is; of the others who changed it last.
    pub semaphore: Option<Semaphore>,
    /// Nobody has accepted the connection, or read the datagrams: what waits there together with it. The others are those who listen.
    pub backlog: Option<Backlog>,
}

impl Peers {
    /// How many other processes hold it.
    pub fn number(&self) -> usize {
        self.others.len() + self.more
    }
}

/// What a wait's other end is looked for by. Waits for the same thing have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum OtherEnd {
    /// A file, and the access that makes a holder its other end.
    File(FileId, Access),
    Connection(ConnectionEnd),
    /// A file whose lock another has, though `/proc/locks` does not name who.
    Lock(FileId),
    /// A lock that keeps a process from this inode, by `/proc/locks`.
    Recorded(u32, Option<u64>),
}

/// Who waits to read an other end.
#[derive(Clone, Debug, Default)]
struct Readers {
    /// Two at most: one of them may be the waiter.
    pids: Vec<u32>,
    /// Somebody waits to write to it.
    writes: bool,
    /// Since when the last that came does nothing but read it.
    since_ns: Option<u64>,
}

/// The processes at one other end: found once, however many wait for it.
#[derive(Debug, Default)]
struct Holders {
    /// Their ids, sorted.
    pids: Vec<u32>,
    /// The first of them, one more than are named: where the waiter is among them, it is left out.
    first: Vec<Peer>,
    /// Those that are named to all who are not among them.
    named: Arc<[Peer]>,
    /// Those that wait to read it. `None`: not looked at.
    readers: Option<Readers>,
    /// What waits in the queue, where they are those who have not taken it from there.
    backlog: Option<Backlog>,
}

impl Holders {
    /// Of these processes, in the order in which they are named. One process may be there several times.
    fn new(mut pids: Vec<u32>, mut name: impl FnMut(u32) -> String) -> Self {
        let mut first: Vec<Peer> = Vec::new();
        for pid in &pids {
            if first.len() > NAMED_MAX {
                break;
            }
            if first.iter().all(|peer| peer.pid != *pid) {
                first.push(Peer { pid: *pid, comm: name(*pid) });
            }
        }
        pids.sort_unstable();
        pids.dedup();
        let named = first.iter().take(NAMED_MAX).cloned().collect();
        Self { pids, first, named, readers: None, backlog: None }
    }

    /// What one who waits for it is told.
    fn told(&self, waiter: u32) -> Peers {
        let own = self.pids.binary_search(&waiter).is_ok();
        let others = match self.named.iter().any(|peer| peer.pid == waiter) {
            true => self.first.iter().filter(|peer| peer.pid != waiter).cloned().collect(),
            false => Arc::clone(&self.named),
        };
        let more = self.pids.len() - usize::from(own) - others.len();
        let waits = self.readers.as_ref().map(|readers| readers.pids.iter().any(|pid| *pid != waiter));
        // Where the waiter reads both ends, nobody knows which of the two it was.
        let reads_since = self.readers.as_ref().filter(|_| !own).and_then(|readers| readers.since_ns);
        let writes = self.readers.as_ref().is_some_and(|readers| readers.writes && !own);
        Peers { others, more, own, waits, reads_since, writes, backlog: self.backlog, ..Peers::default() }
    }
}

/// Whether nobody may have accepted a connection: it is not made yet, or nothing has ever come back.
fn may_be_unaccepted(facts: &TcpFacts) -> bool {
    facts.state == TcpState::SynSent || facts.activity.is_none_or(|activity| activity.bytes_received == 0)
}

/// What the threads of a process wait to read.
#[derive(Debug, Default)]
struct Awaited {
    /// That is not to be seen.
    anything: bool,
    /// Files that are read, by inode: when the last thread that reads one fell asleep.
    inodes: HashMap<u64, u64>,
    /// Fds, in sets.
    fds: HashSet<i32>,
    /// Files that are written to, by inode.
    written: HashSet<u64>,
    /// Fds that are to have room to write, in sets.
    to_write: HashSet<i32>,
}

/// Whether it is not known who wakes a thread that waits on this, so that a handler of a signal may.
fn may_be_woken(word: &FutexWord) -> bool {
    match word {
        FutexWord::Lock(LockHolder::Unknown | LockHolder::Readers(_)) => true,
        FutexWord::MayBeLock | FutexWord::Semaphore | FutexWord::Condition | FutexWord::Other => true,
        FutexWord::Lock(_) | FutexWord::ThreadEnd(_) | FutexWord::Nothing => false,
    }
}

/// What a process could do beside its waiting thread.
#[derive(Clone, Copy, Debug)]
struct Means {
    /// It has no other thread.
    one_thread: bool,
    /// A signal from outside would run a handler, which may write what the process waits for.
    handles_signals: bool,
}

impl Means {
    /// Where it cannot be read, there may be anything.
    fn of(process: ProcessId, reads: &mut Reads) -> Self {
        let status = reads.text(process, "status").unwrap_or_default();
        let threads = status.lines().find_map(|line| line.strip_prefix("Threads:"));
        let handles_signals = match handlers(&status) {
            Handlers::None => false,
            // Python raises an exception on Ctrl-C, where the program does not ask for anything else.
            Handlers::Interrupt => !is_python(process, reads),
            Handlers::Some => true,
        };
        Self { one_thread: threads.is_some_and(|threads| threads.trim() == "1"), handles_signals }
    }
}

/// Whether a process runs Python, by its executable's name.
fn is_python(process: ProcessId, reads: &mut Reads) -> bool {
    let exe = reads.link(process, "exe").ok();
    let name = exe.as_deref().and_then(|exe| exe.file_name()?.to_str());
    name.is_some_and(|name| name.starts_with("python") || name.starts_with("pypy"))
}

/// The handlers that a process has of signals from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handlers {
    None,
    /// Of SIGINT only.
    Interrupt,
    Some,
}

/// Which handlers a process has by the text of its status. Handlers of faults run only where the process itself is at fault, and
/// the first two real-time signals are the C library's own.
fn handlers(status: &str) -> Handlers {
    const FAULTS: [i32; 6] =
        [libc::SIGILL, libc::SIGTRAP, libc::SIGABRT, libc::SIGBUS, libc::SIGFPE, libc::SIGSEGV];
    const THE_LIBRARYS: [i32; 2] = [32, 33];
    const INTERRUPT: u64 = 1 << (libc::SIGINT - 1);
    let beside = FAULTS.iter().chain(&THE_LIBRARYS).fold(0, |mask, signal| mask | 1u64 << (signal - 1));
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    match caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).map(|mask| mask & !beside) {
        Some(0) => Handlers::None,
        Some(INTERRUPT) => Handlers::Interrupt,
        _ => Handlers::Some,
    }
}

/// Looks the other ends of these waits up, in their order; `all` are the host's waits of the same moment. Those that are not reached
/// `until` then are left without; the first [`RESOLVED_MIN`] are always reached. False: a walk over all open files did not come to its end, and nobody
/// was found for the rest.
pub fn look_up(
    pairs: &mut [(&Wait, &mut Resolved)],
    all: &ByProcess<'_>,
    reads: &mut Reads,
    source: &mut dyn Source,
    services: &mut Services,
    until: Option<Instant>,
) -> Result<bool> {
    let mut behind = behind::find(pairs, all, reads, source, services, until)?;
    let mut look = PeerSearch {
        all,
        reads,
        table: OnceCell::new(),
        names: HashMap::new(),
        lives: HashMap::new(),
        means: HashMap::new(),
        awaited: HashMap::new(),
        owners: futex::Owners::default(),
        bound: BoundNames::default(),
        addresses: HostAddresses::default(),
        found: HashMap::new(),
        listening: HashMap::new(),
        sharers: HashMap::new(),
        all_wait: HashMap::new(),
    };
    let is_over = || until.is_some_and(|until| Instant::now() >= until);
    let (mut rest, mut reached) = (pairs, 0);
    while !rest.is_empty() {
        let Some(wanted) = look.find_some(rest, source)? else {
            // They have been reached, and nobody was found: none is said to be alone with what it waits on.
            for (wait, resolved) in rest {
                resolved.peers = Some(behind.remove(&wait.thread).unwrap_or_default());
            }
            return Ok(false);
        };
        let (now, later) = rest.split_at_mut(wanted.len());
        for ((wait, resolved), wanted) in now.iter_mut().zip(wanted) {
            let found = behind.remove(&wait.thread);
            resolved.peers = Some(match found {
                Some(found) => found,
                None => {
                    let peers = look.peers(wait, wanted);
                    look.with_turns(wait, peers, source)?
                }
            });
            reached += 1;
            if reached >= RESOLVED_MIN && is_over() {
                return Ok(true);
            }
        }
        rest = later;
    }
    Ok(true)
}

/// A look at other ends that is under way, with what it has found so far.
struct PeerSearch<'a, 'w> {
    all: &'a ByProcess<'w>,
    reads: &'a mut Reads,
    /// `/proc/locks`; `None`: not read, since too many wait.
    table: OnceCell<Option<locks::LockTable>>,
    names: HashMap<u32, String>,
    lives: HashMap<u32, bool>,
    means: HashMap<u32, Means>,
    awaited: HashMap<u32, Awaited>,
    owners: futex::Owners,
    bound: BoundNames,
    addresses: HostAddresses,
    found: HashMap<OtherEnd, Holders>,
    /// Sockets on which processes wait for connections: descriptors, and inodes.
    listening: HashMap<u32, Vec<(i32, u64)>>,
    /// Processes of which no thread does anything but wait for others.
    all_wait: HashMap<u32, bool>,
    /// Processes that may use memory that several map; `None`: others may come.
    sharers: HashMap<memory::SharedMemory, Option<Arc<[u32]>>>,
}

impl PeerSearch<'_, '_> {
    /// Finds the holders of what the first of these waits want, as many as one walk over all open files can tell. `None`: the walk
    /// did not come to its end.
    fn find_some(
        &mut self,
        pairs: &[(&Wait, &mut Resolved)],
        source: &mut dyn Source,
    ) -> Result<Option<Vec<Option<OtherEnd>>>> {
        let (mut files, mut ends) = (HashSet::new(), HashSet::new());
        let mut new = HashSet::new();
        let mut all = Vec::new();
        for (wait, resolved) in pairs {
            if files.len() >= WALK_MAX || ends.len() + LISTENERS_MAX >= WALK_MAX {
                break;
            }
            let wanted = self.wanted(wait, resolved);
            all.push(wanted);
            let Some(wanted) = wanted.filter(|wanted| !self.found.contains_key(wanted)) else { continue };
            match wanted {
                OtherEnd::File(key, _) | OtherEnd::Lock(key) => _ = files.insert(key),
                OtherEnd::Connection(end) => {
                    ends.insert(end);
                    let asks = resolved.socket.tcp().is_some_and(may_be_unaccepted);
                    ends.extend(end.listeners().filter(|_| asks));
                }
                OtherEnd::Recorded(waiter, inode) => {
                    let holders = self.on_record(waiter, inode);
                    self.keep(wanted, holders, None);
                    continue;
                }
            }
            new.insert(wanted);
        }
        if new.is_empty() {
            return Ok(Some(all));
        }
        let (files, ends): (Vec<_>, Vec<_>) = (files.into_iter().collect(), ends.into_iter().collect());
        let Some(all_holders) = source.holders(&files, &ends)? else { return Ok(None) };
        let mut by_holding: HashMap<Holding, Vec<&Holder>> = HashMap::new();
        for holder in &all_holders {
            by_holding.entry(holder.holding).or_default().push(holder);
        }
        for wanted in new {
            let holders = match wanted {
                OtherEnd::File(file, _) | OtherEnd::Lock(file) => by_holding.get(&Holding::File(file)),
                OtherEnd::Connection(end) => by_holding.get(&Holding::Connection(end)),
                OtherEnd::Recorded(..) => None,
            };
            if let (OtherEnd::Connection(end), None) = (wanted, holders) {
                let found = self.listeners(end, &by_holding);
                self.keep(wanted, found.iter().map(|holder| holder.pid).collect(), None);
                self.queued(wanted, &found);
                continue;
            }
            let reads = &mut *self.reads;
            let mut is_end = |holder: &&&Holder| match wanted {
                OtherEnd::File(_, access) => holder.access.allows(access),
                OtherEnd::Lock(_) => locks::held_through(holder.pid, holder.fd, reads),
                OtherEnd::Connection(_) | OtherEnd::Recorded(..) => true,
            };
            let found: Vec<&Holder> = holders.into_iter().flatten().filter(&mut is_end).copied().collect();
            let is_socket = match wanted {
                OtherEnd::File(FileId { kind, .. }, _) => kind == FileKind::Socket,
                OtherEnd::Connection(_) => true,
                OtherEnd::Lock(_) | OtherEnd::Recorded(..) => false,
            };
            let readers = is_socket.then(|| self.readers(&found));
            self.keep(wanted, found.iter().map(|holder| holder.pid).collect(), readers);
            self.queued(wanted, &found);
        }
        Ok(Some(all))
    }

    /// Who listens where this end of a connection would have been accepted. Of an address that is not a loopback one, it must be one
    /// of those of the network that the listener is in.
    fn listeners<'h>(
        &mut self,
        end: ConnectionEnd,
        by_holding: &HashMap<Holding, Vec<&'h Holder>>,
    ) -> Vec<&'h Holder> {
        let (addresses, reads) = (&mut self.addresses, &mut *self.reads);
        let mut is_there = |holder: &&&Holder| {
            let accepts = holder.backlog.is_some_and(|backlog| backlog.waiting == QueueKind::Connections);
            let address = end.local.socket_addr().ip();
            accepts
                && match end.local.is_loopback() {
                    true => end.netns.is_none() || holder.netns == end.netns,
                    false => addresses.has(by_pid(holder.pid), address, reads),
                }
        };
        let at = |listener| by_holding.get(&Holding::Connection(listener));
        let mut candidates = end.listeners().filter_map(at);
        // The most exact address takes it.
        candidates
            .find_map(|holders| {
                let found: Vec<&Holder> = holders.iter().filter(&mut is_there).copied().collect();
                (!found.is_empty()).then_some(found)
            })
            .unwrap_or_default()
    }

    /// Notes what waits in the fullest of these holders' queues.
    fn queued(&mut self, wanted: OtherEnd, found: &[&Holder]) {
        let fullest = found.iter().filter_map(|holder| holder.backlog).max_by_key(|backlog| backlog.number);
        if let Some(holders) = self.found.get_mut(&wanted) {
            holders.backlog = fullest;
        }
    }

    fn keep(&mut self, wanted: OtherEnd, pids: Vec<u32>, readers: Option<Readers>) {
        let (names, reads) = (&mut self.names, &mut *self.reads);
        let holders = Holders::new(pids, |pid| name(names, pid, reads));
        self.found.insert(wanted, Holders { readers, ..holders });
    }

    /// What the waiting thread's process could do beside.
    fn means(&mut self, process: ProcessId) -> Means {
        let reads = &mut *self.reads;
        *self.means.entry(process.pid).or_insert_with(|| Means::of(process, reads))
    }

    /// What is told to one that waits.
    fn peers(&mut self, wait: &Wait, wanted: Option<OtherEnd>) -> Peers {
        let pid = wait.thread.process.pid;
        if let Some(wanted) = wanted {
            let mut peers = self.found.get(&wanted).map(|holders| holders.told(pid)).unwrap_or_default();
            let may_help_itself = peers.own || wait.call.watches_fds();
            if matches!(wanted, OtherEnd::File(..)) && peers.more == 0 && may_help_itself {
                let means = self.means(wait.thread.process);
                peers.handles_signals = means.handles_signals;
                // Only said where nobody else can write.
                peers.alone =
                    peers.own && peers.others.is_empty() && means.one_thread && !means.handles_signals;
            }
            peers.single = peers.reads_since.is_some() && self.means(wait.thread.process).one_thread;
            return peers;
        }
        let mut peers = Peers::default();
        if let Some(by) = queue::last_user(wait, self.reads) {
            let comm = name(&mut self.names, by, self.reads);
            (peers.role, peers.others) = (Role::LastUser, [Peer { pid: by, comm }].into());
            return peers;
        }
        if wait.call.operation() == Operation::Child {
            let children = children::of(wait, self.reads);
            let named = children.iter().take(NAMED_MAX);
            let names = (&mut self.names, &mut *self.reads);
            peers.others = named.map(|pid| Peer { pid: *pid, comm: name(names.0, *pid, names.1) }).collect();
            peers.more = children.len().saturating_sub(NAMED_MAX);
            return peers;
        }
        if wait.call.operation() == Operation::Semaphore {
            peers.semaphore = semaphore::look(wait, self.reads);
            match peers.semaphore {
                Some(Semaphore { changed_by: Some(by), .. }) if by == pid => peers.own = true,
                Some(Semaphore { changed_by: Some(by), lives: true, .. }) => {
                    let comm = name(&mut self.names, by, self.reads);
                    peers.others = [Peer { pid: by, comm }].into();
                }
                _ => {}
            }
        } else if wait.call.operation() == Operation::Futex && (futex::tells(wait) || self.all_wait(pid)) {
            peers.futex = futex::look(wait, self.reads, &mut self.owners);
            if peers.futex.as_ref().is_some_and(may_be_woken) {
                self.find_wakers(wait, &mut peers);
            }
        }
        peers
    }

    /// Whether no thread of a process is seen to do anything but wait for others.
    fn all_wait(&mut self, pid: u32) -> bool {
        let all = self.all;
        *self.all_wait.entry(pid).or_insert_with(|| all.of(pid).iter().all(|wait| wait.may_be_for_others()))
    }

    /// Who could wake a thread that waits on a word in memory: its own process, and all that share that memory.
    fn find_wakers(&mut self, wait: &Wait, peers: &mut Peers) {
        let process = wait.thread.process;
        peers.handles_signals = self.means(process).handles_signals;
        if wait.call.is_private_futex() {
            peers.own = true;
            return;
        }
        let Some(memory) = memory::shared_at(process, wait.call.args[0], self.reads) else {
            peers.own = true;
            return;
        };
        let sharers = match self.sharers.get(&memory) {
            Some(sharers) => sharers.clone(),
            None => {
                let sharers = memory::sharers(&memory, self.reads).map(|sharers| self.able(sharers));
                self.sharers.insert(memory, sharers.clone());
                sharers
            }
        };
        let Some(sharers) = sharers else { return };
        peers.own = true;
        let others: Vec<u32> = sharers.iter().copied().filter(|pid| *pid != process.pid).collect();
        let (names, reads) = (&mut self.names, &mut *self.reads);
        let named = others.iter().take(NAMED_MAX);
        peers.others = named.map(|pid| Peer { pid: *pid, comm: name(names, *pid, reads) }).collect();
        peers.more = others.len().saturating_sub(NAMED_MAX);
    }

    /// Of these processes, those that may ever do something: one that pauses until a signal comes, and has no handler of any, can only
    /// end.
    fn able(&mut self, mut pids: Vec<u32>) -> Arc<[u32]> {
        pids.retain(|pid| match self.all.of(*pid) {
            [only] if only.call.is_pause() => {
                let Means { one_thread, handles_signals } = self.means(only.thread.process);
                !one_thread || handles_signals
            }
            _ => true,
        });
        pids.into()
    }

    /// The same with whether who has the lock only waits for a connection.
    fn with_turns(&mut self, wait: &Wait, mut peers: Peers, source: &mut dyn Source) -> Result<Peers> {
        let is_lock = wait.call.waits_for_file_lock() || wait.call.operation() == Operation::Semaphore;
        let mut holders: Vec<u32> = match &peers.futex {
            Some(FutexWord::Lock(LockHolder::Thread(owner))) => vec![owner.pid],
            _ if is_lock => peers.others.iter().map(|peer| peer.pid).collect(),
            _ => Vec::new(),
        };
        holders.retain(|pid| *pid != wait.thread.process.pid);
        for pid in holders {
            if !self.listening.contains_key(&pid) {
                let sockets = listening(self.all.of(pid), self.reads, source)?;
                self.listening.insert(pid, sockets);
            }
            let reads = &mut *self.reads;
            let mut has = |(fd, inode): &(i32, u64)| {
                let link = reads.link(wait.thread.process, &format!("fd/{fd}"));
                link.is_ok_and(|link| link.to_str() == Some(&format!("socket:[{inode}]")))
            };
            peers.takes_turns |= self.listening[&pid].iter().any(&mut has);
        }
        Ok(peers)
    }

    /// The other end of what a wait waits on.
    fn wanted(&mut self, wait: &Wait, resolved: &Resolved) -> Option<OtherEnd> {
        if wait.call.waits_for_file_lock() {
            let inode = match resolved.target {
                Target::File { inode, .. } => inode,
                _ => None,
            };
            let waiter = wait.thread.process.pid;
            return match resolved.file {
                FdState::Open(file) if self.on_record(waiter, inode).is_empty() => {
                    Some(OtherEnd::Lock(FileId::from(&file)))
                }
                _ => Some(OtherEnd::Recorded(waiter, inode)),
            };
        }
        let FdState::Open(file) = resolved.file else { return None };
        match (&resolved.target, &resolved.socket) {
            (Target::Pipe { .. } | Target::Fifo { .. }, _) => {
                let access = match resolved.direction {
                    Some(Direction::Send) => Access::READ,
                    Some(Direction::Receive) | None => Access::WRITE,
                };
                Some(OtherEnd::File(FileId::from(&file), access))
            }
            (Target::Unix { peer_inode: Some(peer), .. }, _) => {
                Some(OtherEnd::File(FileId { inode: *peer, ..FileId::from(&file) }, Access::BOTH))
            }
            (Target::Unix { peer_inode: None, path: Some(path), datagram, .. }, socket) => {
                let unaccepted = socket.unix().is_some_and(|facts| facts.unaccepted);
                let used = match datagram {
                    true if resolved.direction == Some(Direction::Send) => NameUse::Send,
                    false if unaccepted || wait.call.operation() == Operation::Connect => NameUse::Connect,
                    _ => return None,
                };
                let inode = self.bound.find(wait.thread.process, path, used, self.reads)?;
                Some(OtherEnd::File(FileId { inode, ..FileId::from(&file) }, Access::BOTH))
            }
            (Target::Tcp { state, .. }, SocketFacts::Tcp(facts)) if *state != TcpState::Listen => {
                let other = file.tcp()?.reversed();
                Some(OtherEnd::Connection(ConnectionEnd::new(other, facts.netns)))
            }
            // Who takes messages out of a queue has it open for that, and who puts them in as well.
            (Target::File { .. }, _) if is_message_queue(wait) => {
                let access = match resolved.direction {
                    Some(Direction::Send) => Access::READ,
                    Some(Direction::Receive) | None => Access::WRITE,
                };
                Some(OtherEnd::File(FileId::from(&file), access))
            }
            _ => None,
        }
    }

    /// Living processes that `/proc/locks` names. It names who took the lock: `flock 9` in a script is gone by now, and
    /// the script has the lock.
    fn on_record(&mut self, waiter: u32, inode: Option<u64>) -> Vec<u32> {
        let (all, reads) = (self.all, &mut *self.reads);
        let locks = |wait: &Wait| wait.call.waits_for_file_lock();
        let read = || (all.count(locks) <= locks::LONGEST_QUEUE).then(|| locks::LockTable::read(reads));
        let table = self.table.get_or_init(read);
        let mut holders = table.as_ref().map(|table| table.holders(waiter, inode)).unwrap_or_default();
        let (lives, reads) = (&mut self.lives, &mut *self.reads);
        holders.retain(|pid| *lives.entry(*pid).or_insert_with(|| reads.exists(by_pid(*pid))));
        holders
    }

    /// Which of a socket's holders wait to read it. This very process is in no snapshot of its own; as it looks, it is not
    /// stuck, and who waits for its next event waits as all readers of events do.
    fn readers(&mut self, holders: &[&Holder]) -> Readers {
        let own = procfs::own();
        let mut readers = Readers::default();
        for Holder { pid, fd, inode, .. } in holders {
            if readers.pids.contains(pid) {
                continue;
            }
            let awaited = self.awaited.entry(*pid).or_insert_with(|| awaited(self.all.of(*pid), self.reads));
            let reads = awaited.inodes.get(inode).copied();
            let waits = awaited.anything || reads.is_some() || awaited.fds.contains(fd);
            if waits || own.contains(pid) {
                readers.pids.push(*pid);
            }
            readers.since_ns = readers.since_ns.max(reads);
            readers.writes |= awaited.written.contains(inode) || awaited.to_write.contains(fd);
            if readers.pids.len() == 2 {
                break;
            }
        }
        readers
    }
}

/// Name of a process, read once.
fn name(names: &mut HashMap<u32, String>, pid: u32, reads: &mut Reads) -> String {
    names.entry(pid).or_insert_with(|| reads.comm(by_pid(pid)).unwrap_or_default()).clone()
}

fn is_message_queue(wait: &Wait) -> bool {
    matches!(wait.call.operation(), Operation::SendMessage | Operation::ReceiveMessage)
}

/// Whether a process waits to read this fd.
pub fn awaits(waits: &[&Wait], fd: i32, reads: &mut Reads) -> bool {
    let reads_it = |wait: &&Wait| wait.fd == Some(fd) && wait.call.direction() == Some(Direction::Receive);
    waits.iter().any(reads_it) || {
        let awaited = awaited(waits, reads);
        awaited.anything || awaited.fds.contains(&fd)
    }
}

/// What the threads of a process wait to read: directly, in poll or select, or in epoll sets, each of which is read once.
fn awaited(waits: &[&Wait], reads: &mut Reads) -> Awaited {
    let mut awaited = Awaited::default();
    let mut sets = HashSet::new();
    for wait in waits {
        let operation = wait.call.operation();
        let set = match (wait.fd, &wait.fd_state) {
            // Which requests a ring holds is not to be seen.
            _ if matches!(operation, Operation::Ring | Operation::RingControl) => {
                return Awaited { anything: true, ..awaited };
            }
            (Some(fd), _) if operation == Operation::Epoll => match sets.insert(fd) {
                true => epoll::read(wait.thread.process, wait.thread.tid, fd, reads),
                false => None,
            },
            (_, FdState::Open(file)) => {
                if wait.call.direction() == Some(Direction::Receive) {
                    let since_ns = awaited.inodes.entry(file.inode).or_default();
                    *since_ns = wait.sleep_began_ns.max(*since_ns);
                }
                if wait.call.direction() == Some(Direction::Send) {
                    awaited.written.insert(file.inode);
                }
                None
            }
            _ if wait.call.has_fds_in_memory() => poll::read(wait, reads).map(|set| set.fds),
            _ => None,
        };
        for (fd, interest) in set.into_iter().flatten() {
            awaited.fds.extend(Some(fd).filter(|_| interest.read));
            // An event loop is told of room to write whether or not it has anything.
            awaited.to_write.extend(Some(fd).filter(|_| interest.write && operation != Operation::Epoll));
        }
    }
    awaited
}

/// Descriptors of which it is looked up whether a process waits for connections on them.
const LISTENERS: usize = 64;

/// On which sockets threads wait for connections, in `accept` or with a set; each with its inode.
fn listening(waits: &[&Wait], reads: &mut Reads, source: &mut dyn Source) -> Result<Vec<(i32, u64)>> {
    let mut sockets = Vec::new();
    let mut asked = Vec::new();
    for wait in waits {
        let set = match (wait.call.operation(), wait.fd) {
            (Operation::Accept, Some(fd)) => {
                sockets.extend(wait.fd_state.inode().map(|inode| (fd, inode)));
                continue;
            }
            (Operation::Epoll, Some(fd)) => epoll::read(wait.thread.process, wait.thread.tid, fd, reads),
            _ if wait.call.has_fds_in_memory() => poll::read(wait, reads).map(|set| set.fds),
            _ => continue,
        };
        let read = set.into_iter().flatten().filter(|(_, interest)| interest.read);
        asked.extend(read.take(LISTENERS).map(|(fd, _)| (wait.thread, fd)));
    }
    asked.truncate(LISTENERS);
    let seen = source.look_up(&asked)?.into_iter().filter(|seen| is_listener(&seen.state, &seen.socket));
    sockets.extend(seen.filter_map(|seen| Some((seen.fd, seen.state.inode()?))));
    Ok(sockets)
}

/// Whether it is a socket that takes connections: of TCP by its state; of a unix one that has a path and no peer, unless datagrams come
/// there.
fn is_listener(state: &FdState, socket: &SocketFacts) -> bool {
    match socket {
        SocketFacts::Tcp(facts) => facts.state == TcpState::Listen,
        SocketFacts::Unix(facts) => {
            let kind = state.file().and_then(|file| file.socket).map(|socket| socket.kind);
            facts.path.is_some() && facts.peer_inode.is_none() && kind != Some(SocketKind::Datagram)
        }
        SocketFacts::Udp(_) | SocketFacts::None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        file::{OpenFile, tests::file},
        syscalls::Syscall,
    };

    #[test]
    fn a_handler_of_a_signal_from_outside_counts() {
        for (mask, expected) in [
            ("0000000000000000", Handlers::None),
            ("0000000000000440", Handlers::None), // SIGBUS and SIGSEGV, as Rust's programs have
            ("0000000180000000", Handlers::None), // the C library's
            ("0000000000000002", Handlers::Interrupt),
            ("0000000180000002", Handlers::Interrupt),
            ("0000000000004002", Handlers::Some), // SIGTERM too
            ("0000000000010440", Handlers::Some), // SIGCHLD
            ("x", Handlers::Some),
        ] {
            assert_eq!(handlers(&format!("SigIgn:\t0\nSigCgt:\t{mask}\n")), expected, "{mask}");
        }
        assert_eq!(handlers(""), Handlers::Some, "where it cannot be read");
    }

    /// More than any pid can be.
    const FIRST: u32 = 5_000_000;
    const PIPE: u64 = 7;
    const SOCKET: u64 = 1_000_000;

    /// What the kernel would say of holders, and how often it was asked.
    struct Kernel {
        holders: Vec<Holder>,
        walks: usize,
        wanted: usize,
    }

    impl Source for Kernel {
        fn snapshot(&mut self) -> Result<crate::model::wait::Snapshot> {
            anyhow::bail!("not asked here")
        }

        fn look_up(
            &mut self,
            _: &[(crate::model::wait::ThreadId, i32)],
        ) -> Result<Vec<crate::model::wait::SeenFd>> {
            Ok(Vec::new())
        }

        fn stacks(&mut self, _: &[crate::model::wait::Sleeper]) -> Result<crate::collect::Stacks> {
            Ok(HashMap::new())
        }

        fn holders(&mut self, files: &[FileId], ends: &[ConnectionEnd]) -> Result<Option<Vec<Holder>>> {
            assert!(files.len() <= WALK_MAX && ends.len() <= WALK_MAX);
            self.walks += 1;
            self.wanted += files.len() + ends.len();
            let files: HashSet<Holding> = files.iter().copied().map(Holding::File).collect();
            Ok(Some(self.holders.iter().filter(|holder| files.contains(&holder.holding)).copied().collect()))
        }
    }

    fn holder(pid: u32, fd: i32, file: OpenFile) -> Holder {
        let holding = Holding::of(&file, None);
        Holder { pid, fd, access: Access::BOTH, holding, inode: file.inode, netns: None, backlog: None }
    }

    fn waits(pid: u32, tid: u32, syscall: Syscall, file: OpenFile, target: Target) -> (Wait, Resolved) {
        let mut wait = crate::diagnose::verdict::tests::wait(syscall, [3, 0, 0, 0, 0, 0]);
        (wait.thread.process.pid, wait.thread.tid) = (pid, tid);
        wait.fd_state = FdState::Open(file);
        let mut resolved = Resolved::new(Some(3), target, syscall.direction());
        resolved.file = wait.fd_state;
        (wait, resolved)
    }

    fn unix(inode: u64) -> Target {
        Target::Unix {
            path: Some("/run/db".into()),
            inode,
            peer_inode: Some(inode + 1),
            peer_pid: None,
            datagram: false,
            client: true,
        }
    }

    /// A host on which these wait and hold.
    struct Host {
        waits: Vec<Wait>,
        resolved: Vec<Resolved>,
        kernel: Kernel,
    }

    impl Host {
        fn new(all: Vec<(Wait, Resolved)>, holders: Vec<Holder>) -> Self {
            let (waits, resolved) = all.into_iter().unzip();
            Self { waits, resolved, kernel: Kernel { holders, walks: 0, wanted: 0 } }
        }

        /// N processes, each of which reads a pipe that all of them hold.
        fn on_one_pipe(number: usize) -> Self {
            let pids = || (0..number as u32).map(|at| FIRST + at);
            let pipe = file(PIPE, FileKind::Fifo);
            let all = pids()
                .map(|pid| waits(pid, pid, Syscall::Read, pipe, Target::Pipe { inode: PIPE }))
                .collect();
            Self::new(all, pids().map(|pid| holder(pid, 4, pipe)).collect())
        }

        /// N processes that share one end of a unix connection, and its other.
        fn on_one_socket(number: usize) -> Self {
            let pids = || (0..number as u32).map(|at| FIRST + at);
            let all = pids()
                .map(|pid| waits(pid, pid, Syscall::Read, file(SOCKET, FileKind::Socket), unix(SOCKET)))
                .collect();
            Self::new(all, pids().map(|pid| holder(pid, 4, file(SOCKET + 1, FileKind::Socket))).collect())
        }

        /// N clients of one server, which has a thread for each that reads another connection.
        fn of_one_server(number: usize) -> Self {
            let server = FIRST - 1;
            let socket = |at: u32| SOCKET + 10 * u64::from(at);
            let at = || 0..number as u32;
            let clients = at().map(|at| {
                let (pid, inode) = (FIRST + at, socket(at));
                waits(pid, pid, Syscall::Read, file(inode, FileKind::Socket), unix(inode))
            });
            let threads = at()
                .map(|at| waits(server, at, Syscall::Read, file(socket(at) + 5, FileKind::Socket), unix(1)));
            let held = at().map(|at| holder(server, at as i32, file(socket(at) + 1, FileKind::Socket)));
            let held = held.collect();
            Self::new(clients.chain(threads).collect(), held)
        }

        /// N processes that have a file open and wait for its lock.
        fn on_one_lock(number: usize) -> Self {
            let pids = || (0..number as u32).map(|at| FIRST + at);
            let lock = file(PIPE, FileKind::Regular);
            let target =
                || Target::File { path: "/x".into(), inode: Some(PIPE), deleted: false, pseudo_fs: false };
            let all = pids().map(|pid| waits(pid, pid, Syscall::Flock, lock, target())).collect();
            Self::new(all, pids().map(|pid| holder(pid, 3, lock)).collect())
        }

        fn look(&mut self, until: Option<Instant>) {
            let all = self.waits.clone();
            let mut pairs: Vec<(&Wait, &mut Resolved)> = self.waits.iter().zip(&mut self.resolved).collect();
            let (all, mut reads) = (ByProcess::new(&all), Reads::new());
            look_up(&mut pairs, &all, &mut reads, &mut self.kernel, &mut Services::default(), until)
                .expect("nothing fails");
        }

        fn peers(&self, at: usize) -> &Peers {
            self.resolved[at].peers.as_ref().expect("looked up")
        }

        /// How many peers are kept in all.
        fn kept(&self) -> usize {
            let all = self.resolved.iter().filter_map(|resolved| resolved.peers.as_ref());
            let lists: HashMap<*const Peer, usize> =
                all.map(|peers| (peers.others.as_ptr(), peers.others.len())).collect();
            lists.values().sum()
        }
    }

    #[test]
    fn all_that_wait_for_one_pipe_share_a_few_names_and_a_number() {
        crate::util::growth::at_each_size(|number| {
            let mut host = Host::on_one_pipe(number);
            host.look(None);
            assert_eq!((host.kernel.walks, host.kernel.wanted), (1, 1));
            assert!(host.kept() <= NAMED_MAX * (NAMED_MAX + 1), "{} peers are kept", host.kept());
            for (at, wait) in host.waits.iter().enumerate() {
                let peers = host.peers(at);
                assert_eq!((peers.number(), peers.others.len(), peers.own), (number - 1, NAMED_MAX, true));
                assert!(peers.others.iter().all(|peer| peer.pid != wait.thread.process.pid));
                assert!(!peers.alone);
            }
        });
    }

    #[test]
    fn of_few_nobody_is_left_out() {
        for number in [1, 2, NAMED_MAX, NAMED_MAX + 1, NAMED_MAX + 2] {
            let mut host = Host::on_one_pipe(number);
            // A process that holds it twice is one.
            let again = host.kernel.holders.clone();
            host.kernel.holders.extend(again);
            host.look(None);
            for at in 0..number {
                let peers = host.peers(at);
                assert_eq!((peers.number(), peers.own), (number - 1, true));
                assert_eq!(peers.more, (number - 1).saturating_sub(NAMED_MAX));
            }
        }
    }

    #[test]
    fn one_that_reads_its_end_is_told_from_one_that_does_not() {
        // All of them hold the other end, and read this one.
        let mut host = Host::on_one_socket(3);
        host.look(None);
        assert!((0..3).all(|at| host.peers(at).waits == Some(false)));
        // One of them reads the other end as well: that is news to all but itself.
        let (mut reader, resolved) =
            waits(FIRST + 1, 1, Syscall::Read, file(SOCKET + 1, FileKind::Socket), Target::None);
        reader.thread.tid = 9;
        host.waits.push(reader);
        host.resolved.push(resolved);
        host.look(None);
        let waits: Vec<_> = (0..3).map(|at| host.peers(at).waits).collect();
        assert_eq!(waits, [Some(true), Some(false), Some(true)]);
    }

    #[test]
    fn a_server_and_its_clients_are_looked_at_once() {
        let mut host = Host::of_one_server(3);
        host.look(None);
        assert!((0..3).all(|at| host.peers(at).waits == Some(false) && host.peers(at).number() == 1));
        let mut host = Host::of_one_server(2 * WALK_MAX + 1);
        host.look(None);
        // Each client's end, and the one that the server's threads read.
        assert_eq!((host.kernel.walks, host.kernel.wanted), (3, 2 * WALK_MAX + 2));
    }

    #[test]
    fn what_is_not_reached_in_time_is_left_and_something_always_is() {
        let mut host = Host::on_one_pipe(50);
        host.look(Some(Instant::now()));
        let reached = host.resolved.iter().take_while(|resolved| resolved.peers.is_some()).count();
        assert_eq!(reached, RESOLVED_MIN);
        assert!(host.resolved[reached..].iter().all(|resolved| resolved.peers.is_none()));
    }

    #[test]
    fn looking_at_other_ends_is_linear() {
        let look = |mut host: Host| host.look(None);
        crate::util::growth::assert_linear("on one pipe", Host::on_one_pipe, look);
        crate::util::growth::assert_linear("on one unix socket", Host::on_one_socket, look);
        crate::util::growth::assert_linear("clients of one server", Host::of_one_server, look);
        crate::util::growth::assert_linear("on one lock", Host::on_one_lock, look);
    }
}
