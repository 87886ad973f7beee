//! The search for other ends: a walk over all open files for as many waits as it can tell of, and what each of them is told. Asks the
//! source who holds what.

use std::{cell::OnceCell, sync::Arc, time::Instant};

use hashbrown::{HashMap, HashSet};

use anyhow::Result;

use super::{
    NAMED_MAX, Peer, PeerMemory, Peers, RESOLVED_MIN, Role,
    awaited::{Awaited, Listening, awaited, listening},
    ends::{OtherEnd, may_be_unaccepted},
    holders::{Holders, Readers},
    wakers::{Means, may_be_woken},
};
use crate::{
    collect::{Source, conntrack::Conntrack},
    model::backlog::QueueKind,
    model::file::{Addresses, FileKind},
    model::holder::{ConnectionEnd, FileId, Holder, Holding},
    model::syscalls::Operation,
    model::wait::{ByProcess, Wait},
    procfs::{self, Reads, by_pid, stat::parse_stat},
    resolve::addresses::HostAddresses,
    resolve::bound::BoundNames,
    resolve::futex::{self, FutexWord, LockHolder},
    resolve::semaphore::{self, Semaphore},
    resolve::{Resolved, behind, children, locks, memory, queue},
};

/// Sockets that may listen for one connection: at its address or any, of either family.
const LISTENERS_MAX: usize = 4;
/// Connections with an unknown other end of which it is asked whether they are translated, in one look.
const TRANSLATED_MAX: usize = 256;
/// Files and connections whose holders are looked for in one walk over all open files.
pub(super) const WALK_MAX: usize = crate::kernel::load::WANTED_AT_ONCE;

/// Looks the other ends of these waits up, in their order; `all` are the host's waits of the same moment. Those that are not reached
/// `until` then are left without; the first [`RESOLVED_MIN`] are always reached. False: a walk over all open files did not come to its end, and nobody
/// was found for the rest.
pub fn look_up(
    pairs: &mut [(&Wait, &mut Resolved)],
    all: &ByProcess<'_>,
    reads: &mut Reads,
    source: &mut dyn Source,
    memory: &mut PeerMemory,
    until: Option<Instant>,
) -> Result<bool> {
    let PeerMemory { services, conntrack } = memory;
    let mut behind = behind::find(pairs, all, reads, source, services, until)?;
    conntrack.begin();
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
        conntrack,
        translated: HashMap::new(),
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
pub(super) struct PeerSearch<'a, 'w> {
    pub(super) all: &'a ByProcess<'w>,
    pub(super) reads: &'a mut Reads,
    /// `/proc/locks`; `None`: not read, since too many wait.
    pub(super) table: OnceCell<Option<locks::LockTable>>,
    pub(super) names: HashMap<u32, String>,
    pub(super) lives: HashMap<u32, bool>,
    pub(super) means: HashMap<u32, Means>,
    pub(super) awaited: HashMap<u32, Awaited>,
    pub(super) owners: futex::Owners,
    pub(super) bound: BoundNames,
    pub(super) addresses: HostAddresses,
    pub(super) found: HashMap<OtherEnd, Holders>,
    pub(super) conntrack: &'a mut Conntrack,
    /// Other ends that have other addresses than this end knows; `None`: they have not.
    pub(super) translated: HashMap<OtherEnd, Option<Addresses>>,
    /// Where processes, or single threads of them, wait for connections.
    pub(super) listening: HashMap<(u32, Option<u32>), Listening>,
    /// Processes of which no thread does anything but wait for others.
    pub(super) all_wait: HashMap<u32, bool>,
    /// Processes that may use memory that several map; `None`: others may come.
    pub(super) sharers: HashMap<memory::SharedMemory, Option<Arc<[u32]>>>,
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
        let mut new = HashMap::new();
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
            new.entry(wanted).or_insert((*wait, &**resolved));
        }
        if new.is_empty() {
            return Ok(Some(all));
        }
        let (files, ends): (Vec<_>, Vec<_>) = (files.into_iter().collect(), ends.into_iter().collect());
        let Some(all_holders) = source.holders(&files, &ends)? else { return Ok(None) };
        let by_holding = by_holding(&all_holders);
        let mut missing = Vec::new();
        for (wanted, asker) in new {
            let holders = match wanted {
                OtherEnd::File(file, _) | OtherEnd::Lock(file) => by_holding.get(&Holding::File(file)),
                OtherEnd::Connection(end) => by_holding.get(&Holding::Connection(end)),
                OtherEnd::Recorded(..) => None,
            };
            if let (OtherEnd::Connection(end), None) = (wanted, holders) {
                missing.push((end, asker));
                continue;
            }
            let holders = holders.into_iter().flatten().copied();
            let found: Vec<&Holder> = match wanted {
                OtherEnd::File(_, access) => holders.filter(|holder| holder.access.allows(access)).collect(),
                OtherEnd::Lock(_) => self.lockers(holders),
                OtherEnd::Connection(_) | OtherEnd::Recorded(..) => holders.collect(),
            };
            let is_socket = match wanted {
                OtherEnd::File(FileId { kind, .. }, _) => kind == FileKind::Socket,
                OtherEnd::Connection(_) => true,
                OtherEnd::Lock(_) | OtherEnd::Recorded(..) => false,
            };
            self.keep_sockets(wanted, &found, is_socket);
        }
        let missing = self.find_translated(missing, source)?;
        for end in missing {
            let found = self.listeners(end, &by_holding);
            self.keep(OtherEnd::Connection(end), found.iter().map(|holder| holder.pid).collect(), None);
            self.queued(OtherEnd::Connection(end), &found);
        }
        Ok(Some(all))
    }

    /// Keeps these holders, and of a socket's what they wait for.
    fn keep_sockets(&mut self, wanted: OtherEnd, found: &[&Holder], is_socket: bool) {
        let readers = is_socket.then(|| self.readers(found));
        self.keep(wanted, found.iter().map(|holder| holder.pid).collect(), readers);
        self.queued(wanted, found);
    }

    /// Finds the holders of those ends that have other addresses than the end that is waited on knows; returns the others.
    fn find_translated(
        &mut self,
        missing: Vec<(ConnectionEnd, (&Wait, &Resolved))>,
        source: &mut dyn Source,
    ) -> Result<Vec<ConnectionEnd>> {
        let (mut rest, mut elsewhere) = (Vec::new(), Vec::new());
        for (end, (wait, resolved)) in missing {
            let known = Addresses { local: end.remote, remote: end.local };
            let other = match self.translated.len() < TRANSLATED_MAX {
                true => self.conntrack.other_end(wait.thread.process, known, self.reads),
                false => None,
            };
            self.translated.insert(OtherEnd::Connection(end), other);
            match (other, resolved.socket.tcp()) {
                (Some(other), Some(facts)) => {
                    elsewhere.push((end, ConnectionEnd::new(other, facts.netns), may_be_unaccepted(facts)));
                }
                _ => rest.push(end),
            }
        }
        if elsewhere.is_empty() {
            return Ok(rest);
        }
        let mut ends = HashSet::new();
        for (_, there, asks) in &elsewhere {
            ends.insert(*there);
            ends.extend(there.listeners().filter(|_| *asks));
        }
        let ends: Vec<ConnectionEnd> = ends.into_iter().collect();
        let Some(all_holders) = source.holders(&[], &ends)? else { return Ok(rest) };
        let by_holding = by_holding(&all_holders);
        for (end, there, _) in elsewhere {
            let wanted = OtherEnd::Connection(end);
            match by_holding.get(&Holding::Connection(there)) {
                Some(found) => self.keep_sockets(wanted, found, true),
                None => {
                    let found = self.listeners(there, &by_holding);
                    self.keep(wanted, found.iter().map(|holder| holder.pid).collect(), None);
                    self.queued(wanted, &found);
                }
            }
        }
        Ok(rest)
    }

    /// Which of those who have a file open have a lock on it. Whoever waits for one has it open as well, and may be one of
    /// thousands: they are asked only where nobody else has it.
    fn lockers<'h>(&mut self, holders: impl Iterator<Item = &'h Holder>) -> Vec<&'h Holder> {
        let waits =
            |holder: &&Holder| self.all.of(holder.pid).iter().any(|wait| wait.call.waits_for_file_lock());
        let (waiting, others): (Vec<_>, Vec<_>) = holders.partition(waits);
        let mut has_lock = |holder: &&Holder| locks::held_through(holder.pid, holder.fd, self.reads);
        let found: Vec<_> = others.into_iter().filter(&mut has_lock).collect();
        if found.is_empty() { waiting.into_iter().filter(&mut has_lock).collect() } else { found }
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

    /// What is told to one that waits.
    fn peers(&mut self, wait: &Wait, wanted: Option<OtherEnd>) -> Peers {
        let pid = wait.thread.process.pid;
        if let Some(wanted) = wanted {
            let mut peers = self.found.get(&wanted).map(|holders| holders.told(pid)).unwrap_or_default();
            peers.translated = self.translated.get(&wanted).copied().flatten();
            let may_help_itself = peers.own || wait.call.watches_fds();
            if matches!(wanted, OtherEnd::File(..)) && peers.more == 0 && may_help_itself {
                let means = self.means(wait.thread.process);
                peers.handles_signals = means.handles_signals;
                // Only said where nobody else can write.
                peers.alone =
                    peers.own && peers.others.is_empty() && means.one_thread && !means.handles_signals;
            }
            peers.single = peers.reads_since.is_some() && self.means(wait.thread.process).one_thread;
            let others = (peers.waits == Some(false)).then(|| peers.others.clone());
            peers.unsettled = others.iter().flat_map(|of| of.iter()).any(|peer| self.is_at_work(peer.pid));
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

    /// Whether a thread of a process was running at the moment of the waits, which may wait for something again a moment later. Not one
    /// that is stopped.
    fn is_at_work(&mut self, pid: u32) -> bool {
        let waiting = self.all.of(pid).iter().filter(|wait| !wait.thread.is_request()).count();
        let stat = self.reads.file(by_pid(pid), "stat").ok();
        let stat = stat.and_then(|text| parse_stat(&String::from_utf8_lossy(&text)));
        stat.is_some_and(|stat| !matches!(stat.state, 'T' | 't' | 'Z') && waiting < stat.threads as usize)
    }

    /// The same with whether who has the lock only waits for a connection: a process, or the thread that has it, where that is known.
    fn with_turns(&mut self, wait: &Wait, mut peers: Peers, source: &mut dyn Source) -> Result<Peers> {
        let own = wait.thread.process.pid;
        let is_lock = wait.call.waits_for_file_lock() || wait.call.operation() == Operation::Semaphore;
        let holders: Vec<(u32, Option<u32>)> = match &peers.futex {
            Some(FutexWord::Lock(LockHolder::Thread(owner))) => vec![(owner.pid, Some(owner.tid))],
            _ if is_lock => {
                peers.others.iter().map(|peer| (peer.pid, None)).filter(|(pid, _)| *pid != own).collect()
            }
            _ => Vec::new(),
        };
        peers.unsettled |= match &peers.futex {
            Some(FutexWord::Lock(LockHolder::Unknown)) => true,
            _ => wait.call.operation() == Operation::Semaphore && peers.semaphore.is_none(),
        };
        for (pid, tid) in holders {
            let is_it = |wait: &&&Wait| tid.is_none_or(|tid| wait.thread.tid == tid);
            if !self.listening.contains_key(&(pid, tid)) {
                let waits: Vec<&Wait> = self.all.of(pid).iter().filter(is_it).copied().collect();
                self.listening.insert((pid, tid), listening(&waits, self.reads, source)?);
            }
            let reads = &mut *self.reads;
            let mut has = |(fd, inode): &(i32, u64)| {
                let link = reads.link(wait.thread.process, &format!("fd/{fd}"));
                link.is_ok_and(|link| link.to_str() == Some(&format!("socket:[{inode}]")))
            };
            let listening = &self.listening[&(pid, tid)];
            peers.unsettled |= listening.at_work;
            // All threads of a process have its sockets: an event loop may hold a lock that has nothing to do with them.
            let may_take_turns = pid != own || !listening.serves;
            peers.takes_turns |= may_take_turns && listening.sockets.iter().any(&mut has);
        }
        Ok(peers)
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

/// Who holds what.
fn by_holding(holders: &[Holder]) -> HashMap<Holding, Vec<&Holder>> {
    let mut by_holding: HashMap<Holding, Vec<&Holder>> = HashMap::new();
    for holder in holders {
        by_holding.entry(holder.holding).or_default().push(holder);
    }
    by_holding
}

/// Name of a process, read once.
pub(super) fn name(names: &mut HashMap<u32, String>, pid: u32, reads: &mut Reads) -> String {
    names.entry(pid).or_insert_with(|| reads.comm(by_pid(pid)).unwrap_or_default()).clone()
}
