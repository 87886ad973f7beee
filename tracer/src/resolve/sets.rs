//! Which of several fds a wait is about: those of poll, select and epoll, and the requests of a ring. Reads the sets, each once.

use std::collections::HashMap;

use super::{Resolver, epoll, poll, poll::Set, resolved::Resolved, target, target::Descriptor};
use crate::{
    model::holder::FileId,
    model::syscalls::{Direction, Operation},
    model::target::{Interest, Target, WatchedFd},
    model::tcp::TcpState,
    model::wait::{FdState, ProcessId, RingRequest, SeenFd, SocketFacts, Wait},
    procfs::by_pid,
};

/// In place of the fd of a file that has none.
const NO_FD: i32 = -1;

/// An fd of a set with what the source saw of it.
pub(super) struct SetMember {
    pub(super) watched: WatchedFd,
    pub(super) file: FdState,
    pub(super) socket: SocketFacts,
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
pub(super) struct SharedSets<'a> {
    /// The first of each.
    pub(super) firsts: Vec<&'a Wait>,
    /// For each wait, where its first is among them.
    pub(super) first: Vec<usize>,
}

impl<'a> SharedSets<'a> {
    pub(super) fn of(waits: &[&'a Wait]) -> Self {
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
    /// An fd of a set, as if the thread waited on it alone. What was too many to look up, or was not found, is a number
    /// only.
    pub(super) fn member(
        &mut self,
        wait: &Wait,
        fd: i32,
        interest: Interest,
        seen: Option<&SeenFd>,
    ) -> SetMember {
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
        let descriptor = Descriptor { thread, fd, state, socket, operation, direction, mount: None };
        let target = target::of_descriptor(descriptor, &mut self.reads, &mut self.names);
        let facts = match socket {
            SocketFacts::Tcp(facts) => Some(facts.clone()),
            SocketFacts::Unix(_) | SocketFacts::Udp(_) | SocketFacts::None => None,
        };
        let watched = WatchedFd { fd, interest, target, facts };
        SetMember { watched, file: *state, socket: socket.clone() }
    }

    /// A wait for completions, by the requests that are under way: if there is one, as if the thread had made the call itself.
    pub(super) fn on_ring(&mut self, wait: &Wait, requests: Vec<RingRequest>) -> Resolved {
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

    /// The fds that a thread in poll, select or epoll watches.
    pub(super) fn read_set(&mut self, wait: &Wait) -> Option<Set> {
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
    pub(super) fn read_epoll(&mut self, wait: &Wait) -> Option<Set> {
        let fds = epoll::read(wait.thread.process, wait.thread.tid, wait.fd?, &mut self.reads)?;
        Some(Set { fds, timeout: wait.call.timeout_in_arguments() })
    }

    /// The one fd of a set that matters, if the others only wake the thread up; else all of them.
    pub(super) fn choose(&mut self, wait: &Wait, set: &Set, mut members: Vec<SetMember>) -> Resolved {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{diagnose::verdict::tests as samples, model::syscalls::Syscall};

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
