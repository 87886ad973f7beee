//! The search against a kernel that is made up: who holds what, and how often it is asked.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use anyhow::Result;

use super::{search::WALK_MAX, *};
use crate::{
    collect::{Source, Stacks},
    model::file::tests::file,
    model::file::{FileKind, OpenFile},
    model::holder::{Access, ConnectionEnd, FileId, Holder, Holding},
    model::syscalls::Syscall,
    model::target::Target,
    model::wait::{ByProcess, FdState, Wait},
    procfs::Reads,
    resolve::Resolved,
};

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

    fn stacks(&mut self, _: &[crate::model::wait::Sleeper]) -> Result<Stacks> {
        Ok(Stacks::new())
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
        let all =
            pids().map(|pid| waits(pid, pid, Syscall::Read, pipe, Target::Pipe { inode: PIPE })).collect();
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
        let threads =
            at().map(|at| waits(server, at, Syscall::Read, file(socket(at) + 5, FileKind::Socket), unix(1)));
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
        look_up(&mut pairs, &all, &mut reads, &mut self.kernel, &mut PeerMemory::default(), until)
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
