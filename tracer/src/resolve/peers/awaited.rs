//! What the threads of a process wait for: which files and fds they read or write, and on which sockets they take connections. Reads
//! the sets of poll, select and epoll, each once.

use hashbrown::{HashMap, HashSet};

use anyhow::Result;

use crate::{
    collect::Source,
    model::file::SocketKind,
    model::syscalls::{Direction, Operation},
    model::tcp::TcpState,
    model::wait::{FdState, SocketFacts, Wait},
    procfs::Reads,
    resolve::{epoll, poll},
};

/// What the threads of a process wait to read.
#[derive(Debug, Default)]
pub(super) struct Awaited {
    /// That is not to be seen.
    pub(super) anything: bool,
    /// Files that are read, by inode: when the last thread that reads one fell asleep.
    pub(super) inodes: HashMap<u64, u64>,
    /// Fds, in sets.
    pub(super) fds: HashSet<i32>,
    /// Files that are written to, by inode.
    pub(super) written: HashSet<u64>,
    /// Fds that are to have room to write, in sets.
    pub(super) to_write: HashSet<i32>,
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
pub(super) fn awaited(waits: &[&Wait], reads: &mut Reads) -> Awaited {
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

/// Where threads wait for connections, in `accept` or with a set.
#[derive(Debug, Default)]
pub(super) struct Listening {
    /// The sockets, each with its inode.
    pub(super) sockets: Vec<(i32, u64)>,
    /// They wait for what comes on connections as well.
    pub(super) serves: bool,
    /// None of them waits any more as the snapshot has it, be it that a lock was passed on to it since.
    pub(super) at_work: bool,
}

/// Where these threads wait for connections.
pub(super) fn listening(waits: &[&Wait], reads: &mut Reads, source: &mut dyn Source) -> Result<Listening> {
    let at_work = !waits.iter().any(|wait| reads.still_in(wait));
    let mut found = Listening { at_work, ..Listening::default() };
    let mut asked = Vec::new();
    for wait in waits {
        let set = match (wait.call.operation(), wait.fd) {
            (Operation::Accept, Some(fd)) => {
                found.sockets.extend(wait.fd_state.inode().map(|inode| (fd, inode)));
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
    for seen in source.look_up(&asked)? {
        match seen.state.inode().filter(|_| is_listener(&seen.state, &seen.socket)) {
            Some(inode) => found.sockets.push((seen.fd, inode)),
            None => found.serves |= seen.socket.tcp().is_some(),
        }
    }
    Ok(found)
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
