//! To whom is a wait due? From what was found out about it to the one who is to blame. Pure.

use std::{
    cmp::Ordering,
    hash::{Hash, Hasher},
    net::IpAddr,
};

use crate::{
    model::{
        class::Class,
        obstacles::{Obstacle, obstacle},
        syscalls::Operation,
        target::Target,
        wait::{Sleep, ThreadId, Wait},
    },
    resolve::{
        Resolved,
        futex::{FutexWord, LockHolder, LockOwner},
        mounts::Mount,
        peers::{Peer, Peers, Role},
    },
};

/// A name that is shown and tells nobody from another: the threads of a process have names of their own, and any of them may change.
#[derive(Clone, Debug)]
pub struct ShownName(pub String);

impl From<&str> for ShownName {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl PartialEq for ShownName {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for ShownName {}

impl Hash for ShownName {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl PartialOrd for ShownName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ShownName {
    fn cmp(&self, _: &Self) -> Ordering {
        Ordering::Equal
    }
}

/// Who or what is to blame for a wait, or for all waits of an incident. Waits on the same one have equal values.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Culprit {
    /// A process of this host.
    Process {
        /// Its pid.
        pid: u32,
        /// Its name.
        comm: ShownName,
    },
    /// A thread that holds a lock.
    Thread {
        /// Its process.
        pid: u32,
        /// Its id.
        tid: u32,
        /// Its name.
        comm: ShownName,
    },
    /// An address whose process is not on this host, or was not found there.
    Remote {
        /// `tcp` or `udp`.
        protocol: &'static str,
        /// The host.
        ip: IpAddr,
        /// The service there; `None` where it is the host of clients, whose ports mean nothing.
        port: Option<u16>,
        /// The network namespace of a loopback address, if known: others mean the same everywhere.
        netns: Option<u32>,
    },
    /// A file system whose server is another host, or a process that was not found.
    FileSystem {
        /// Where it is mounted.
        place: String,
        /// Its kind: `nfs4`.
        kind: String,
        /// Its server's address, or what is mounted where that is not said.
        server: String,
    },
    /// What a file system is stored on.
    Storage {
        /// Where it is mounted.
        place: String,
        /// What is mounted there: `/dev/sda1`.
        source: String,
    },
    /// A file system that was frozen.
    Frozen {
        /// Where it is mounted.
        place: String,
    },
    /// A device.
    Device {
        /// Its file.
        path: String,
    },
    /// A file's lock, of which it is not known who holds it.
    FileLock {
        /// The file.
        path: String,
    },
    /// A named pipe whose other end nobody has opened.
    Fifo {
        /// Its path.
        path: String,
    },
    /// A Unix socket whose owner was not found.
    UnixSocket {
        /// Its address.
        path: String,
    },
    /// A lock in memory, of which it is not known who holds it, or whose holder has gone.
    MemoryLock {
        /// The process that waits.
        pid: u32,
        /// Its name.
        comm: ShownName,
        /// Where in its memory.
        address: u64,
    },
    /// System V semaphores, of which it is not known who has them.
    Semaphores {
        /// Their set's id.
        set: i32,
    },
    /// A System V message queue that nobody is known to use.
    MessageQueue {
        /// Its id.
        id: i32,
    },
    /// Several who wait for each other, or one who waits for itself.
    Circle {
        /// They, in the order of their ids.
        members: Vec<CircleMember>,
        /// It is known that none of them can go on.
        is_deadlock: bool,
    },
    /// Nobody but who waits.
    Itself(ThreadId),
}

/// One of those who wait for each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CircleMember {
    /// Its process.
    pub pid: u32,
    /// Its thread, where only that is meant.
    pub tid: Option<u32>,
    /// Its name.
    pub comm: ShownName,
}

/// To whom a wait is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blame {
    /// The one, or the first of several.
    pub culprit: Culprit,
    /// How many others it may be as well.
    pub more: usize,
    /// It is known that it is they; otherwise it is only likely.
    pub certain: bool,
}

impl Blame {
    fn on(culprit: Culprit) -> Self {
        Self { culprit, more: 0, certain: true }
    }
}

/// To whom a wait of this class is due; `is_child` says whether a process is a child of the one that waits, and is asked only where there
/// is a choice. It has what its parent had open, and is not who is meant.
pub fn blame(wait: &Wait, resolved: &Resolved, class: Class, is_child: &mut dyn FnMut(u32) -> bool) -> Blame {
    let no_peers = Peers::default();
    let peers = resolved.peers.as_ref().unwrap_or(&no_peers);
    if class == Class::Orphan && !peers.circle {
        return Blame::on(Culprit::Itself(wait.thread));
    }
    if let Some(word) = &peers.futex {
        return of_word(word, wait, resolved, peers);
    }
    if let Some(owner) = &peers.owner {
        return Blame { certain: peers.certain, ..Blame::on(thread(owner)) };
    }
    if let Some(blame) = of_others(wait, peers, is_child) {
        return blame;
    }
    if peers.own {
        return Blame::on(match peers.circle {
            true => deadlock_of(wait),
            false => itself_as_process(wait),
        });
    }
    if let Some(mount) = &peers.mount {
        return Blame::on(of_mount(mount, wait, resolved));
    }
    Blame::on(by_target(wait, resolved, class))
}

/// A process of this host that has what is waited for: the first that is no child of who waits, if there is one.
fn of_others(wait: &Wait, peers: &Peers, is_child: &mut dyn FnMut(u32) -> bool) -> Option<Blame> {
    let waits_for_children = wait.call.operation() == Operation::Child;
    let has_choice = peers.others.len() > 1 || peers.own;
    let mut is_meant = |peer: &&Peer| !has_choice || waits_for_children || !is_child(peer.pid);
    let meant = peers.others.iter().find(&mut is_meant);
    // All others have it of who waits, which has it, too.
    if meant.is_none() && peers.own && !peers.circle && !peers.others.is_empty() {
        return Some(Blame::on(itself_as_process(wait)));
    }
    let Peer { pid, comm } = meant.or_else(|| peers.others.first())?;
    Some(Blame {
        culprit: Culprit::Process { pid: *pid, comm: comm.as_str().into() },
        more: peers.number() - 1,
        certain: match peers.role {
            Role::OtherEnd | Role::TerminalMaster | Role::Automounter => true,
            Role::Server | Role::Listener | Role::LockHolder | Role::FaultServer => peers.certain,
            Role::LastUser => false,
        },
    })
}

/// Who has the lock that a word in memory is.
fn of_word(word: &FutexWord, wait: &Wait, resolved: &Resolved, peers: &Peers) -> Blame {
    let process = wait.thread.process.pid;
    match word {
        FutexWord::Lock(LockHolder::Thread(owner)) => return Blame::on(thread(owner)),
        FutexWord::Lock(LockHolder::Itself) => {
            let tid = Some(wait.thread.tid);
            let members = vec![CircleMember { pid: process, tid, comm: wait.comm.as_str().into() }];
            return Blame::on(Culprit::Circle { members, is_deadlock: true });
        }
        FutexWord::ThreadEnd(tid) => {
            return Blame::on(Culprit::Thread { pid: process, tid: *tid, comm: wait.comm.as_str().into() });
        }
        _ => {}
    }
    match (peers.circle, peers.others.first()) {
        (true, Some(Peer { pid, comm })) => {
            let culprit = Culprit::Process { pid: *pid, comm: comm.as_str().into() };
            Blame { more: peers.number() - 1, ..Blame::on(culprit) }
        }
        (true, None) => Blame::on(deadlock_of(wait)),
        (false, _) => Blame::on(by_target(wait, resolved, Class::Mutex)),
    }
}

fn thread(owner: &LockOwner) -> Culprit {
    Culprit::Thread { pid: owner.pid, tid: owner.tid, comm: owner.comm.as_str().into() }
}

/// The process that waits, as one that others may wait for as well.
fn itself_as_process(wait: &Wait) -> Culprit {
    Culprit::Process { pid: wait.thread.process.pid, comm: wait.comm.as_str().into() }
}

/// A circle of which only the process that waits is known.
fn deadlock_of(wait: &Wait) -> Culprit {
    let member = CircleMember { pid: wait.thread.process.pid, tid: None, comm: wait.comm.as_str().into() };
    Culprit::Circle { members: vec![member], is_deadlock: true }
}

/// What of a mount holds a wait up, none of whose servers is a process of this host.
fn of_mount(mount: &Mount, wait: &Wait, resolved: &Resolved) -> Culprit {
    let place = mount.place.clone();
    let uninterruptible = (wait.sleep == Sleep::Uninterruptible).then_some(Obstacle::Storage);
    match resolved.stack.as_ref().and_then(obstacle).or(uninterruptible) {
        Some(Obstacle::Frozen) => Culprit::Frozen { place },
        Some(Obstacle::Storage | Obstacle::Writeback) if !mount.is_fuse() => {
            Culprit::Storage { place, source: mount.source.clone() }
        }
        _ => {
            let server = mount.option("addr").unwrap_or(&mount.source).to_owned();
            Culprit::FileSystem { place, kind: mount.kind.clone(), server }
        }
    }
}

/// By what is waited on alone, where nobody was found who has it.
fn by_target(wait: &Wait, resolved: &Resolved, class: Class) -> Culprit {
    let process = wait.thread.process.pid;
    match &resolved.target {
        Target::Tcp { remote, .. } => {
            let translated = resolved.peers.as_ref().and_then(|peers| peers.translated);
            let remote = translated.map_or(*remote, |other| other.local.socket_addr());
            let netns = resolved.socket.tcp().and_then(|facts| facts.netns);
            Culprit::Remote {
                protocol: "tcp",
                ip: remote.ip(),
                port: (!resolved.is_server()).then_some(remote.port()),
                netns: netns.filter(|_| remote.ip().is_loopback()),
            }
        }
        Target::Udp { remote: Some(remote), .. } => {
            Culprit::Remote { protocol: "udp", ip: remote.ip(), port: Some(remote.port()), netns: None }
        }
        Target::Unix { path: Some(path), .. } => Culprit::UnixSocket { path: path.clone() },
        Target::Fifo { path, .. } => Culprit::Fifo { path: path.clone() },
        Target::File { path, .. } if class == Class::Lock => Culprit::FileLock { path: path.clone() },
        Target::Device { path } if class == Class::Disk => Culprit::Device { path: path.clone() },
        Target::Futex { address } if class == Class::Mutex => {
            Culprit::MemoryLock { pid: process, comm: wait.comm.as_str().into(), address: *address }
        }
        Target::Semaphores { set } => Culprit::Semaphores { set: *set },
        Target::MessageQueue { id } => Culprit::MessageQueue { id: *id },
        _ => Culprit::Itself(wait.thread),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::verdict::tests::{on, peers, tcp, wait},
        model::{
            stack::KernelStack,
            syscalls::{Direction, Syscall},
        },
    };

    fn process(pid: u32, comm: &str) -> Culprit {
        Culprit::Process { pid, comm: comm.into() }
    }

    fn peers_of(pids: &[u32]) -> Peers {
        let others: Vec<Peer> = pids.iter().map(|pid| Peer { pid: *pid, comm: "peer".into() }).collect();
        Peers { others: others.into(), ..Peers::default() }
    }

    fn blame_of(resolved: &Resolved, class: Class) -> Blame {
        blame(&wait(Syscall::Recvfrom, [3, 0, 0, 0, 0, 0]), resolved, class, &mut |_| false)
    }

    #[test]
    fn the_process_at_the_other_end_is_to_blame_else_its_address() {
        let on_host = Resolved { peers: Some(peers_of(&[812])), ..on(Syscall::Recvfrom, tcp()) };
        assert_eq!(blame_of(&on_host, Class::Reply), Blame::on(process(812, "peer")));
        let elsewhere = on(Syscall::Recvfrom, tcp());
        let address = |port| {
            let ip = "10.0.0.2".parse().expect("an address");
            Culprit::Remote { protocol: "tcp", ip, port, netns: None }
        };
        assert_eq!(blame_of(&elsewhere, Class::Reply).culprit, address(Some(443)));
        let server = Resolved { server: Some(true), ..elsewhere };
        assert_eq!(blame_of(&server, Class::Send).culprit, address(None), "all clients of a host are one");
    }

    #[test]
    fn a_child_is_only_blamed_where_nobody_else_has_it() {
        let wait = wait(Syscall::Recvfrom, [3, 0, 0, 0, 0, 0]);
        let pipe = || on(Syscall::Recvfrom, Target::Pipe { inode: 1 });
        let mut own = peers_of(&[5, 6]);
        own.own = true;
        for (peers, children, culprit, more) in [
            (peers_of(&[5, 6, 7]), &[5, 6][..], process(7, "peer"), 2),
            (peers_of(&[5]), &[5], process(5, "peer"), 0),
            (peers_of(&[5, 6]), &[5, 6], process(5, "peer"), 1),
            (own, &[5, 6], process(100, "test"), 0),
        ] {
            let resolved = Resolved { peers: Some(peers), ..pipe() };
            let found = blame(&wait, &resolved, Class::Pipe, &mut |pid| children.contains(&pid));
            assert_eq!((found.culprit, found.more), (culprit, more), "{children:?}");
        }
    }

    #[test]
    fn of_several_holders_the_first_is_named_and_the_others_counted() {
        let peers = Peers { more: 20, ..peers_of(&[5, 6]) };
        let found = blame_of(
            &Resolved { peers: Some(peers), ..on(Syscall::Write, Target::Pipe { inode: 1 }) },
            Class::Pipe,
        );
        assert_eq!(found, Blame { more: 21, ..Blame::on(process(5, "peer")) });
    }

    #[test]
    fn the_holder_of_a_lock_in_memory_is_a_thread() {
        let owner = LockOwner { pid: 100, tid: 102, comm: "worker".into() };
        let word = |word| {
            let peers = Peers { futex: Some(word), ..Peers::default() };
            let resolved = Resolved {
                peers: Some(peers),
                ..Resolved::new(None, Target::Futex { address: 16 }, Some(Direction::Receive))
            };
            blame_of(&resolved, Class::Mutex).culprit
        };
        let owned = word(FutexWord::Lock(LockHolder::Thread(owner.clone())));
        assert_eq!(owned, thread(&owner));
        let lock = Culprit::MemoryLock { pid: 100, comm: "test".into(), address: 16 };
        for unknown in [LockHolder::Unknown, LockHolder::Gone(7), LockHolder::Readers(2)] {
            assert_eq!(word(FutexWord::Lock(unknown)), lock);
        }
        let Culprit::Circle { members, is_deadlock } = word(FutexWord::Lock(LockHolder::Itself)) else {
            panic!("it waits for itself");
        };
        assert_eq!((members[0].pid, members[0].tid, is_deadlock), (100, Some(100), true));
    }

    /// Threads of one process wait for it, each by its own name.
    #[test]
    fn a_name_tells_nobody_from_another() {
        let all: std::collections::HashSet<Culprit> =
            [process(7, "main"), process(7, "worker"), process(8, "main")].into();
        assert_eq!(all.len(), 2);
    }

    #[test]
    fn a_mount_is_to_blame_where_no_process_serves_it() {
        let mount = |kind: &str, source: &str, options: &str| Mount {
            id: 1,
            device: crate::model::file::Device(1),
            place: "/data".into(),
            kind: kind.into(),
            source: source.into(),
            options: options.into(),
        };
        let of = |mount: Mount, stack: &str| {
            let peers = Peers { mount: Some(mount.into()), ..Peers::default() };
            let file = Target::File { path: "/data/x".into(), inode: None, deleted: false, pseudo_fs: false };
            let resolved = Resolved {
                peers: Some(peers),
                stack: Some(KernelStack::parse(stack)),
                ..on(Syscall::Read, file)
            };
            blame_of(&resolved, Class::Disk).culprit
        };
        let place = || "/data".to_owned();
        assert_eq!(
            of(mount("nfs4", "nas:/x", "rw,addr=192.0.2.1"), "rpc_wait_bit_killable"),
            Culprit::FileSystem { place: place(), kind: "nfs4".into(), server: "192.0.2.1".into() }
        );
        assert_eq!(
            of(mount("ext4", "/dev/sdb", "rw"), "folio_wait_bit_common"),
            Culprit::Storage { place: place(), source: "/dev/sdb".into() }
        );
        assert_eq!(of(mount("ext4", "/dev/sdb", "rw"), "sb_start_write"), Culprit::Frozen { place: place() });
        let mut served = peers_of(&[9]);
        (served.role, served.certain) = (Role::Server, false);
        let resolved = Resolved { peers: Some(served), ..on(Syscall::Read, Target::None) };
        assert_eq!(
            blame_of(&resolved, Class::Disk),
            Blame { certain: false, ..Blame::on(process(9, "peer")) }
        );
    }

    #[test]
    fn who_waits_for_what_can_never_come_waits_for_nobody() {
        let resolved =
            Resolved { peers: peers(0, true, true, None), ..on(Syscall::Read, Target::Pipe { inode: 1 }) };
        let itself = wait(Syscall::Read, [3, 0, 0, 0, 0, 0]).thread;
        assert_eq!(blame_of(&resolved, Class::Orphan).culprit, Culprit::Itself(itself));
    }
}
