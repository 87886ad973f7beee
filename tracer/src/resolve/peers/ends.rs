//! What a wait's other end is: the file, connection or lock whose holders are searched for. Reads `/proc/locks` and the names of
//! sockets.

use super::search::PeerSearch;
use crate::{
    model::holder::{Access, ConnectionEnd, FileId},
    model::syscalls::{Direction, Operation},
    model::target::Target,
    model::tcp::{TcpFacts, TcpState},
    model::wait::{FdState, SocketFacts, Wait},
    procfs::by_pid,
    resolve::bound::NameUse,
    resolve::{Resolved, locks},
};

/// What a wait's other end is looked for by. Waits for the same thing have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum OtherEnd {
    /// A file, and the access that makes a holder its other end.
    File(FileId, Access),
    Connection(ConnectionEnd),
    /// A file whose lock another has, though `/proc/locks` does not name who.
    Lock(FileId),
    /// A lock that keeps a process from this inode, by `/proc/locks`.
    Recorded(u32, Option<u64>),
}

/// Whether nobody may have accepted a connection: it is not made yet, or nothing has ever come back.
pub(super) fn may_be_unaccepted(facts: &TcpFacts) -> bool {
    facts.state == TcpState::SynSent || facts.activity.is_none_or(|activity| activity.bytes_received == 0)
}

impl PeerSearch<'_, '_> {
    /// The other end of what a wait waits on.
    pub(super) fn wanted(&mut self, wait: &Wait, resolved: &Resolved) -> Option<OtherEnd> {
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
    pub(super) fn on_record(&mut self, waiter: u32, inode: Option<u64>) -> Vec<u32> {
        let (all, reads) = (self.all, &mut *self.reads);
        let locks = |wait: &Wait| wait.call.waits_for_file_lock();
        let read = || (all.count(locks) <= locks::LONGEST_QUEUE).then(|| locks::LockTable::read(reads));
        let table = self.table.get_or_init(read);
        let mut holders = table.as_ref().map(|table| table.holders(waiter, inode)).unwrap_or_default();
        let (lives, reads) = (&mut self.lives, &mut *self.reads);
        holders.retain(|pid| *lives.entry(*pid).or_insert_with(|| reads.exists(by_pid(*pid))));
        holders
    }
}

fn is_message_queue(wait: &Wait) -> bool {
    matches!(wait.call.operation(), Operation::SendMessage | Operation::ReceiveMessage)
}
