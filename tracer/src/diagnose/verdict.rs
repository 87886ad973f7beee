//! From a wait and its target to a class. Pure: everything it needs is in its arguments.

use crate::{
    diagnose::sentence::sentence,
    model::obstacles::obstacle,
    model::syscalls::{Direction, Operation},
    model::target::Target,
    model::tcp::LastSender,
    model::tcp::TcpState,
    model::wait::{Queued, Sleep, SocketFacts, Wait},
    resolve::{Resolved, futex::FutexWord, listeners::EPHEMERAL_PORTS_FROM, peers::Peers},
};

pub use crate::model::class::Class;

/// The class of a wait and one sentence that says why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What it waits for.
    pub class: Class,
    /// Why, for people.
    pub sentence: String,
}

/// Judges a wait.
pub fn judge(wait: &Wait, resolved: &Resolved) -> Verdict {
    let class = classify(wait, resolved);
    Verdict { class, sentence: sentence(class, wait, resolved) }
}

/// The class alone.
pub fn classify(wait: &Wait, resolved: &Resolved) -> Class {
    let class = by_evidence(wait, resolved);
    // A child, its own end and some locks are waited for in an uninterruptible sleep, which is nobody's fault. Whatever else sleeps
    // so waits for something that should take no time.
    let is_uninterruptible =
        wait.sleep == Sleep::Uninterruptible && !matches!(class, Class::Child | Class::Exit | Class::Lock);
    if is_uninterruptible || resolved.stack.as_ref().and_then(obstacle).is_some() {
        Class::Disk
    } else {
        class
    }
}

/// The class by call and target.
fn by_evidence(wait: &Wait, resolved: &Resolved) -> Class {
    let class = by_call(wait, &resolved.target).unwrap_or_else(|| by_target(wait, resolved));
    match class {
        Class::Lock | Class::Mutex | Class::Futex
            if resolved.peers.as_ref().is_some_and(|peers| peers.takes_turns) =>
        {
            Class::Listen
        }
        Class::Mutex | Class::Futex => by_word(class, resolved.peers.as_ref()),
        // Nothing is asked on its only connection: an event loop with a pool at rest, or a bus's client.
        Class::Quiet | Class::Dialog if wait.call.operation() == Operation::Epoll => Class::Events,
        // Nor is it known that anything was where the last word may be the protocol's own: what the agent learns of the connection decides.
        Class::Reply if wait.call.operation() == Operation::Epoll && may_be_at_rest(resolved) => {
            Class::Events
        }
        Class::Quiet | Class::Dialog if wait.call.operation() == Operation::Ring => Class::Ring,
        class => class,
    }
}

/// Whether our last bytes followed the peer's at once, and it has got them: many protocols acknowledge so what they have got, and their
/// servers are event loops as well. One that does nothing but read this connection wants more, and both ends wait for each other.
fn may_be_at_rest(resolved: &Resolved) -> bool {
    let SocketFacts::Tcp(facts) = &resolved.socket else { return false };
    let is_read = |peers: &Peers| peers.reads_since.is_some();
    facts.has_reacted()
        && facts.unacknowledged() == 0
        && resolved.peers.as_ref().is_some_and(|peers| !is_read(peers))
}

/// Whether it is a lock that a thread waits for in memory, by what is there.
fn by_word(class: Class, peers: Option<&Peers>) -> Class {
    match peers {
        Some(Peers { circle: true, .. }) => Class::Mutex,
        Some(Peers { futex: Some(FutexWord::Lock(_) | FutexWord::Nothing), .. }) => Class::Mutex,
        Some(Peers { futex: Some(FutexWord::Condition | FutexWord::ThreadEnd(_)), .. }) => Class::Futex,
        _ => class,
    }
}

/// Whether a class that was found without peers may be another one with them.
pub fn peers_decide(class: Class) -> bool {
    matches!(class, Class::Pipe | Class::Dialog | Class::Quiet | Class::Lock | Class::Mutex | Class::Futex)
}

/// Whether a wait of this class may be what closes a circle: its peers are found out once it is old, whether they decide of it or not.
pub fn may_close_circle(class: Class) -> bool {
    peers_decide(class) || class == Class::Child
}

/// Calls that wait for one thing, whatever their fd is.
fn by_call(wait: &Wait, target: &Target) -> Option<Class> {
    Some(match wait.call.operation() {
        Operation::Accept => Class::Listen,
        Operation::Connect => Class::Connect,
        Operation::Receive if matches!(target, Target::Tcp { state: TcpState::SynSent, .. }) => {
            Class::Connect
        }
        Operation::Close if matches!(target, Target::Tcp { .. }) => Class::Send,
        Operation::Lock | Operation::Semaphore => Class::Lock,
        Operation::Fcntl if wait.call.waits_for_file_lock() => Class::Lock,
        Operation::Futex if wait.call.waits_for_memory_lock() => Class::Mutex,
        Operation::Futex => Class::Futex,
        Operation::FutexCondition => Class::Futex,
        Operation::Child => Class::Child,
        Operation::Sleep => Class::Timer,
        Operation::Signal => Class::Signal,
        Operation::Poll | Operation::Select | Operation::Epoll => return by_set(target),
        // Nobody need ever send a message, and who could is not to be seen.
        Operation::ReceiveMessage => Class::Datagram,
        Operation::SendMessage => Class::Send,
        // Which request it waits for is known where that is its target.
        Operation::Ring if !matches!(target, Target::IoUring | Target::None | Target::Unreadable { .. }) => {
            return None;
        }
        Operation::Ring => Class::Ring,
        Operation::Open if matches!(target, Target::Fifo { .. }) => Class::Fifo,
        // Nobody but storage, or who serves it, holds these up; one that opens may wait for a device, or for another's end.
        Operation::Sync | Operation::Path | Operation::PageFault => Class::Disk,
        Operation::Exit => Class::Exit,
        Operation::Read | Operation::Write | Operation::Receive | Operation::Send | Operation::Copy => {
            return None;
        }
        Operation::Close | Operation::Fcntl | Operation::Open | Operation::RingControl => return None,
        Operation::Restart | Operation::Other => return None,
    })
}

/// Calls that watch a set of fds, where there is no one fd that matters, or it says nothing of itself.
fn by_set(target: &Target) -> Option<Class> {
    match target {
        Target::Fds { watched } if watched.is_empty() => Some(Class::Timer),
        Target::Fds { .. } | Target::Epoll { .. } | Target::None => Some(Class::Events),
        Target::Gone | Target::Reused | Target::Unreadable { .. } => Some(Class::Events),
        Target::Tcp { state: TcpState::SynSent, .. } => Some(Class::Connect),
        // One that is stored is always ready; those that are not tell of changes.
        Target::File { .. } | Target::Memfd { .. } => Some(Class::Notify),
        _ => None,
    }
}

fn by_target(wait: &Wait, resolved: &Resolved) -> Class {
    let out = resolved.direction == Some(Direction::Send);
    match &resolved.target {
        Target::Tcp { state: TcpState::Listen, .. } => Class::Listen,
        Target::Tcp { .. } | Target::Udp { .. } | Target::Unix { .. } | Target::Socket { .. } if out => {
            Class::Send
        }
        Target::Tcp { .. } => of_tcp(resolved),
        Target::Unix { datagram: false, path, peer_inode, .. } => match peer_inode {
            Some(_) => of_stream(path.is_some(), resolved),
            // Nobody can answer who has not accepted it.
            None if resolved.socket.unix().is_some_and(|facts| facts.unaccepted) => Class::Reply,
            // Bound and without a peer: it listens, and a thread in poll waits for connections.
            None => Class::Listen,
        },
        Target::Udp { local, remote: Some(_), .. } => of_udp(local.port(), &resolved.socket),
        Target::Unix { peer_inode: Some(_), .. } => Class::Quiet,
        // A connection whose other end is not to be seen.
        Target::Socket { family: Some("unix"), .. } => Class::Other,
        Target::Udp { .. } | Target::Unix { .. } | Target::Socket { .. } => Class::Datagram,
        Target::Pipe { .. } => pipe(resolved.peers.as_ref()),
        // Somebody may still open it by its name.
        Target::Fifo { .. } => Class::Pipe,
        Target::File { pseudo_fs: true, .. } if wait.sleep == Sleep::Interruptible => Class::Notify,
        Target::File { .. } | Target::Page { .. } | Target::Memfd { .. } => Class::Disk,
        Target::Tty { .. } if out => Class::Send,
        Target::Tty { .. } => Class::Tty,
        Target::Timerfd => Class::Timer,
        Target::Signalfd { .. } => Class::Signal,
        Target::Pidfd { .. } => Class::Child,
        Target::Eventfd { .. } | Target::Epoll { .. } => Class::Events,
        Target::Inotify | Target::Fanotify | Target::Device { .. } | Target::Anonymous { .. } => {
            Class::Notify
        }
        Target::IoUring => Class::Ring,
        Target::Futex { .. } => Class::Futex,
        Target::Semaphores { .. } => Class::Lock,
        Target::MessageQueue { .. } => {
            if out {
                Class::Send
            } else {
                Class::Datagram
            }
        }
        Target::Gone | Target::Reused | Target::Unreadable { .. } | Target::Fds { .. } | Target::None => {
            if wait.sleep == Sleep::Uninterruptible {
                Class::Disk
            } else {
                Class::Other
            }
        }
    }
}

/// A reader of a connection: whose turn is it?
fn of_tcp(resolved: &Resolved) -> Class {
    let last = resolved.last_sender.unwrap_or(LastSender::Unknown);
    if resolved.is_server() {
        return match last {
            LastSender::Theirs => Class::Request,
            LastSender::Ours | LastSender::Nobody | LastSender::Unknown => Class::Peer,
        };
    }
    match last {
        LastSender::Ours | LastSender::Nobody => Class::Reply,
        // It has something to say, which does not come.
        _ if resolved.peers.as_ref().is_some_and(|peers| peers.writes) => Class::Reply,
        LastSender::Theirs | LastSender::Unknown => Class::Quiet,
    }
}

/// A reader of a UDP socket that has a peer. The kernel keeps neither time nor number of what went over it, but for whether anything
/// has come. Nobody knows of a port that the kernel gave out until something was sent from it: whoever waits there for a first
/// datagram has asked.
fn of_udp(port: u16, socket: &SocketFacts) -> Class {
    match socket {
        SocketFacts::Udp(facts) if !facts.has_received && port >= EPHEMERAL_PORTS_FROM => Class::Reply,
        _ => Class::Quiet,
    }
}

/// A reader of a unix stream. There are no counters; what lies unread and who waits on the other end tell.
fn of_stream(named: bool, resolved: &Resolved) -> Class {
    let Target::Unix { client, .. } = resolved.target else { return Class::Other };
    if !client {
        // The end that was accepted bears its listener's name; a pair of sockets has no names at all.
        return if named { Class::Peer } else { pipe(resolved.peers.as_ref()) };
    }
    let unread = match &resolved.socket {
        SocketFacts::Unix(facts) => facts.unread != Queued::Nothing,
        _ => false,
    };
    match resolved.peers.as_ref() {
        _ if unread => Class::Reply,
        // It has nothing to do but to wait for us, who have nothing to do but to wait for it.
        Some(peers) if peers.waits == Some(false) || is_mutual(peers) => Class::Reply,
        Some(_) | None => Class::Dialog,
    }
}

/// Whether both ends of a connection do nothing but read it: the one has not got the whole of a question, or has lost its answer. Where
/// either has other threads, or watches more than this, it may have something to say later.
pub fn is_mutual(peers: &Peers) -> bool {
    peers.single && peers.reads_since.is_some()
}

/// A pipe or a pair of sockets, by who has its other end.
fn pipe(peers: Option<&Peers>) -> Class {
    match peers {
        // Whoever could use it waits for this one.
        Some(Peers { circle: true, .. }) => Class::Orphan,
        Some(peers) if peers.others.is_empty() && peers.own => {
            // Another thread of the process, or a handler of a signal, may still write; alone it never will.
            if peers.alone { Class::Orphan } else { Class::Events }
        }
        _ => Class::Pipe,
    }
}

#[cfg(test)]
pub mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        model::syscalls::{CallTable, Syscall},
        model::tcp::tests::facts,
        model::wait::{Call, FdState, ProcessId, ThreadId, UdpFacts, UnixFacts},
        resolve::{futex::LockHolder, peers::Peer},
    };

    /// A wait for tests: this call, asleep, for a minute.
    pub fn wait(syscall: Syscall, args: [u64; 6]) -> Wait {
        let process = ProcessId { pid: 100, start_ns: 1 };
        Wait {
            thread: ThreadId { process, tid: 100, start_ns: 1 },
            comm: "test".into(),
            uid: 0,
            sleep: Sleep::Interruptible,
            call: Call { table: CallTable::Native, number: Some(0), syscall, args, restarted: false },
            fd: Some(3),
            fd_state: FdState::None,
            socket: SocketFacts::None,
            age: Duration::from_secs(60),
            exact: true,
            since: jiff::Timestamp::UNIX_EPOCH,
            began_ns: 0,
            sleep_began_ns: 0,
            switches: 1,
            cgroups: None,
            mount: None,
        }
    }

    /// An established TCP connection for tests.
    pub fn tcp() -> Target {
        Target::Tcp {
            local: "10.0.0.1:59720".parse().expect("address"),
            remote: "10.0.0.2:443".parse().expect("address"),
            state: TcpState::Established,
            inode: 7,
            timeout: None,
        }
    }

    /// A target that this call waits on.
    pub fn on(syscall: Syscall, target: Target) -> Resolved {
        let socket = match &target {
            Target::Tcp { .. } => SocketFacts::Tcp(Box::new(facts(517, 0))),
            _ => SocketFacts::None,
        };
        let last_sender = matches!(target, Target::Tcp { .. }).then_some(LastSender::Ours);
        let resolved = Resolved::new(Some(3), target, syscall.direction());
        Resolved { socket, last_sender, server: Some(false), ..resolved }
    }

    /// A unix socket for tests.
    pub fn unix(datagram: bool, peer: bool, client: bool) -> Target {
        let path = (client || !peer).then(|| "/run/s".to_owned());
        Target::Unix { path, inode: 1, peer_inode: peer.then_some(2), peer_pid: None, datagram, client }
    }

    #[test]
    fn classes_follow_from_call_and_target() {
        let file = || Target::File { path: "/x".into(), inode: None, deleted: false, pseudo_fs: false };
        let pseudo_fs = || Target::File { path: "/x".into(), inode: None, deleted: false, pseudo_fs: true };
        let fifo = || Target::Fifo { path: "/x".into(), inode: None };
        let udp = |remote: Option<&str>| Target::Udp {
            local: "127.0.0.1:1".parse().expect("address"),
            remote: remote.map(|remote| remote.parse().expect("address")),
            inode: 1,
        };
        let none = [0; 6];
        for (syscall, args, target, class) in [
            (Syscall::Read, none, tcp(), Class::Reply),
            (Syscall::Recvfrom, none, tcp(), Class::Reply),
            (Syscall::Write, none, tcp(), Class::Send),
            (Syscall::Sendfile, none, tcp(), Class::Send),
            (Syscall::Connect, none, tcp(), Class::Connect),
            (Syscall::Accept4, none, tcp(), Class::Listen),
            (Syscall::Recvmsg, none, unix(false, true, true), Class::Dialog),
            (Syscall::Recvmsg, none, unix(false, true, false), Class::Pipe),
            (Syscall::Poll, none, unix(false, false, false), Class::Listen),
            (Syscall::Recvmsg, none, unix(true, false, false), Class::Datagram),
            (Syscall::Recvmsg, none, unix(true, true, true), Class::Quiet),
            (Syscall::Sendmsg, none, unix(true, true, true), Class::Send),
            (Syscall::Recvfrom, none, udp(None), Class::Datagram),
            (Syscall::Recvfrom, none, udp(Some("127.0.0.1:2")), Class::Quiet),
            (Syscall::Recvmsg, none, Target::Socket { family: Some("netlink"), inode: 1 }, Class::Datagram),
            (Syscall::Read, none, Target::Pipe { inode: 1 }, Class::Pipe),
            (Syscall::Write, none, fifo(), Class::Pipe),
            (Syscall::Openat, none, fifo(), Class::Fifo),
            (Syscall::Openat, none, file(), Class::Disk),
            (Syscall::Read, none, file(), Class::Disk),
            (Syscall::Fsync, none, file(), Class::Disk),
            (Syscall::Write, none, Target::Page { path: "/x".into() }, Class::Disk),
            (Syscall::Sendto, none, Target::Page { path: "/x".into() }, Class::Disk),
            (Syscall::Statfs, none, file(), Class::Disk),
            (Syscall::Execve, none, Target::Unreadable { reason: "hangs".into() }, Class::Disk),
            (Syscall::Renameat2, none, Target::Unreadable { reason: "hangs".into() }, Class::Disk),
            (Syscall::Openat, none, Target::Unreadable { reason: "hangs".into() }, Class::Other),
            (Syscall::Read, none, pseudo_fs(), Class::Notify),
            (Syscall::Ppoll, none, pseudo_fs(), Class::Notify),
            (Syscall::Ppoll, none, file(), Class::Notify),
            (Syscall::Flock, none, file(), Class::Lock),
            (Syscall::Fcntl, [3, 7, 0, 0, 0, 0], file(), Class::Lock),
            (Syscall::Fcntl, [3, 38, 0, 0, 0, 0], file(), Class::Lock),
            (Syscall::Futex, [0, 128, 2, 0, 0, 0], Target::None, Class::Mutex),
            (Syscall::Futex, [0, 128, 2, 1, 0, 0], Target::None, Class::Futex),
            (Syscall::Futex, [0, 137, 0, 0, 0, 0], Target::None, Class::Futex),
            (Syscall::Futex, [0, 6, 0, 0, 0, 0], Target::None, Class::Mutex),
            (Syscall::Wait4, none, Target::None, Class::Child),
            (Syscall::ClockNanosleep, none, Target::None, Class::Timer),
            (Syscall::RtSigtimedwait, none, Target::None, Class::Signal),
            (Syscall::EpollWait, none, Target::Epoll { watched: 3 }, Class::Events),
            (Syscall::Poll, none, Target::None, Class::Events),
            (Syscall::Poll, none, Target::Fds { watched: Vec::new() }, Class::Timer),
            (Syscall::Poll, none, tcp(), Class::Reply),
            (Syscall::Select, none, Target::Tty { path: "/dev/pts/0".into() }, Class::Tty),
            (Syscall::Read, none, Target::Eventfd { id: None }, Class::Events),
            (Syscall::Read, none, Target::Timerfd, Class::Timer),
            (Syscall::Read, none, Target::Signalfd { mask: None }, Class::Signal),
            (Syscall::Read, none, Target::Inotify, Class::Notify),
            (Syscall::Read, none, Target::Tty { path: "/dev/pts/0".into() }, Class::Tty),
            (Syscall::Write, none, Target::Tty { path: "/dev/pts/0".into() }, Class::Send),
            (Syscall::Read, none, Target::Device { path: "/dev/kmsg".into() }, Class::Notify),
            (Syscall::Ioctl, none, Target::Anonymous { name: "kvm-vcpu:0".into() }, Class::Notify),
            (Syscall::IoUringEnter, none, Target::IoUring, Class::Ring),
            (Syscall::Read, none, Target::Gone, Class::Other),
            (Syscall::Msgrcv, none, Target::MessageQueue { id: 5 }, Class::Datagram),
            (Syscall::Msgsnd, none, Target::MessageQueue { id: 5 }, Class::Send),
            (Syscall::IoUringEnter, none, tcp(), Class::Reply),
            (Syscall::IoUringEnter, none, Target::Pipe { inode: 1 }, Class::Pipe),
            (Syscall::IoUringEnter, none, udp(Some("127.0.0.1:2")), Class::Ring),
            (Syscall::MqTimedreceive, none, file(), Class::Datagram),
            (Syscall::MqTimedsend, none, file(), Class::Send),
            (Syscall::named("getrandom").expect("known"), none, Target::None, Class::Other),
        ] {
            let resolved = on(syscall, target);
            let verdict = judge(&wait(syscall, args), &resolved);
            assert_eq!(verdict.class, class, "{syscall:?} on {resolved:?}");
            assert!(verdict.sentence.starts_with("waiting 1m 0s "), "{}", verdict.sentence);
        }
    }

    #[test]
    fn an_uninterruptible_sleep_that_nothing_else_explains_is_storage() {
        for (syscall, class) in [
            (Syscall::PageFault, Class::Disk),
            (Syscall::Exit, Class::Exit),
            (Syscall::CoreDump, Class::Exit),
        ] {
            assert_eq!(judge(&wait(syscall, [0; 6]), &on(syscall, Target::None)).class, class);
        }
        for syscall in [Syscall::Stat, Syscall::Unlink, Syscall::Openat] {
            let mut wait = wait(syscall, [0; 6]);
            wait.sleep = Sleep::Uninterruptible;
            assert_eq!(judge(&wait, &on(syscall, Target::None)).class, Class::Disk, "{syscall:?}");
        }
        // /proc/PID/maps of a process whose memory is locked.
        let mut wait = wait(Syscall::Read, [0; 6]);
        wait.sleep = Sleep::Uninterruptible;
        let maps = Target::File { path: "/proc/1/maps".into(), inode: None, deleted: false, pseudo_fs: true };
        let verdict = judge(&wait, &on(Syscall::Read, maps));
        assert_eq!(verdict.class, Class::Disk);
        assert_eq!(verdict.sentence, "waiting 1m 0s for the kernel to finish read on /proc/1/maps");
    }

    #[test]
    fn the_last_sender_and_the_side_decide_for_a_connection() {
        for (server, last, class) in [
            (false, LastSender::Ours, Class::Reply),
            (false, LastSender::Nobody, Class::Reply),
            (false, LastSender::Theirs, Class::Quiet),
            (false, LastSender::Unknown, Class::Quiet),
            (true, LastSender::Ours, Class::Peer),
            (true, LastSender::Nobody, Class::Peer),
            (true, LastSender::Theirs, Class::Request),
        ] {
            let resolved =
                Resolved { server: Some(server), last_sender: Some(last), ..on(Syscall::Read, tcp()) };
            assert_eq!(classify(&wait(Syscall::Read, [0; 6]), &resolved), class, "{server} {last:?}");
        }
        // Not known: the end with the higher port came to the other.
        let resolved = Resolved { server: None, ..on(Syscall::Read, tcp()) };
        assert_eq!(classify(&wait(Syscall::Read, [0; 6]), &resolved), Class::Reply);
    }

    #[test]
    fn a_barrier_is_no_lock() {
        let (wait, lock) = (wait(Syscall::Futex, [0, 128, 2, 0, 0, 0]), on(Syscall::Futex, Target::None));
        assert_eq!(classify(&wait, &lock), Class::Mutex);
        let with = |futex| Resolved { peers: Some(Peers { futex, ..Peers::default() }), ..lock.clone() };
        assert_eq!(classify(&wait, &with(Some(FutexWord::Condition))), Class::Futex);
        assert_eq!(classify(&wait, &with(None)), Class::Mutex);
    }

    #[test]
    fn what_is_in_memory_decides_of_a_lock() {
        let (by_value, other) = ([0, 128, 2, 0, 0, 0], [0, 393, 3, 0, 0, 0]);
        let unknown = || FutexWord::Lock(LockHolder::Unknown);
        for (args, word, circle, class) in [
            (by_value, Some(unknown()), false, Class::Mutex),
            (by_value, Some(FutexWord::Other), false, Class::Mutex),
            (by_value, Some(FutexWord::ThreadEnd(7)), false, Class::Futex),
            (other, Some(unknown()), false, Class::Mutex),
            (other, Some(FutexWord::Lock(LockHolder::Gone(7))), false, Class::Mutex),
            (other, Some(FutexWord::Lock(LockHolder::Readers(2))), false, Class::Mutex),
            (other, Some(FutexWord::Nothing), false, Class::Mutex),
            (other, Some(FutexWord::MayBeLock), false, Class::Futex),
            (other, Some(FutexWord::Semaphore), false, Class::Futex),
            (other, Some(FutexWord::Semaphore), true, Class::Mutex),
            (other, None, false, Class::Futex),
        ] {
            let peers = Some(Peers { futex: word, circle, ..Peers::default() });
            let resolved = Resolved { peers, ..on(Syscall::Futex, Target::None) };
            assert_eq!(classify(&wait(Syscall::Futex, args), &resolved), class, "{resolved:?}");
        }
    }

    #[test]
    fn a_first_datagram_on_a_port_that_the_kernel_chose_is_an_answer() {
        for (local, remote, has_received, class) in [
            ("127.0.0.1:40001", Some("127.0.0.53:53"), Some(false), Class::Reply),
            ("[::1]:32768", Some("[::1]:53"), Some(false), Class::Reply),
            // Something has come: the next one may be anything.
            ("127.0.0.1:40001", Some("127.0.0.53:53"), Some(true), Class::Quiet),
            ("127.0.0.1:40001", Some("127.0.0.53:53"), None, Class::Quiet),
            // A port that somebody else may know.
            ("127.0.0.1:514", Some("127.0.0.1:40001"), Some(false), Class::Quiet),
            ("0.0.0.0:32767", Some("10.0.0.1:53"), Some(false), Class::Quiet),
            // Whoever likes may send to it.
            ("0.0.0.0:40001", None, Some(false), Class::Datagram),
        ] {
            let target = Target::Udp {
                local: local.parse().expect("address"),
                remote: remote.map(|remote| remote.parse().expect("address")),
                inode: 1,
            };
            let facts = |has_received| SocketFacts::Udp(UdpFacts { has_received, ..UdpFacts::default() });
            let socket = has_received.map_or(SocketFacts::None, facts);
            let resolved = Resolved { socket, ..on(Syscall::Recvfrom, target) };
            let found = classify(&wait(Syscall::Recvfrom, [0; 6]), &resolved);
            assert_eq!(found, class, "{local} {remote:?} {has_received:?}");
        }
    }

    #[test]
    fn a_lock_whose_holder_waits_for_a_connection_is_a_turn() {
        let lock = || FutexWord::Lock(LockHolder::Unknown);
        for (syscall, args, futex, takes_turns, class) in [
            (Syscall::Flock, [3, 2, 0, 0, 0, 0], None, true, Class::Listen),
            (Syscall::Flock, [3, 2, 0, 0, 0, 0], None, false, Class::Lock),
            (Syscall::Fcntl, [3, 7, 0, 0, 0, 0], None, true, Class::Listen),
            (Syscall::Semop, [0; 6], None, true, Class::Listen),
            (Syscall::Futex, [0, 128, 2, 0, 0, 0], Some(lock()), true, Class::Listen),
            (Syscall::Futex, [0, 128, 2, 0, 0, 0], Some(lock()), false, Class::Mutex),
            // Nothing else is a turn.
            (Syscall::Wait4, [0; 6], None, true, Class::Child),
            (Syscall::Read, [3, 0, 0, 0, 0, 0], None, true, Class::Other),
        ] {
            let peers = Some(Peers { futex, takes_turns, ..Peers::default() });
            let resolved = Resolved { peers, ..on(syscall, Target::None) };
            let found = judge(&wait(syscall, args), &resolved);
            assert_eq!(found.class, class, "{syscall:?}");
            assert_eq!(found.sentence.contains("its turn"), class == Class::Listen, "{}", found.sentence);
        }
    }

    /// Who is at the other end, for tests.
    pub fn peers(others: usize, own: bool, alone: bool, waits: Option<bool>) -> Option<Peers> {
        let peer = Peer { pid: 7, comm: "x".into() };
        Some(Peers { others: vec![peer; others].into(), own, alone, waits, ..Peers::default() })
    }

    /// A client of HTTP/2 at rest has acknowledged the settings at once. A loop with one connection that asks again at once looks the same.
    #[test]
    fn an_event_loop_whose_last_word_was_a_reaction_may_be_at_rest() {
        let at = |sent, received| {
            SocketFacts::Tcp(Box::new(facts(100, 50).with_activity(|of| {
                (of.sent, of.received) =
                    (Some(Duration::from_secs(sent)), Some(Duration::from_secs(received)));
            })))
        };
        let (loop_server, reader) = (peers(1, false, false, Some(true)), peers(1, false, false, Some(true)));
        let reader = reader.map(|peers| Peers { reads_since: Some(1), ..peers });
        for (syscall, socket, peers, class) in [
            (Syscall::EpollWait, at(60, 60), loop_server.clone(), Class::Events),
            (Syscall::EpollWait, at(60, 60), peers(0, false, false, None), Class::Events),
            (Syscall::EpollWait, at(60, 60), reader, Class::Reply),
            (Syscall::EpollWait, at(60, 90), loop_server.clone(), Class::Reply),
            // Who polls one connection, or reads it, waits for it.
            (Syscall::Poll, at(60, 60), loop_server.clone(), Class::Reply),
            (Syscall::Read, at(60, 60), loop_server, Class::Reply),
        ] {
            let resolved = Resolved { socket, peers, ..on(syscall, tcp()) };
            assert_eq!(classify(&wait(syscall, [0; 6]), &resolved), class, "{syscall:?} {resolved:?}");
        }
        let SocketFacts::Tcp(mut facts) = at(60, 60) else { panic!("TCP") };
        facts.send_queue = 10;
        let undelivered = SocketFacts::Tcp(facts);
        let resolved = Resolved {
            socket: undelivered,
            peers: peers(1, false, false, None),
            ..on(Syscall::EpollWait, tcp())
        };
        assert_eq!(classify(&wait(Syscall::EpollWait, [0; 6]), &resolved), Class::Reply);
    }

    #[test]
    fn who_holds_the_other_end_decides_for_pipes_and_unix_streams() {
        let client = || unix(false, true, true);
        let pair = || unix(false, true, false);
        let server = || Target::Unix {
            path: Some("/run/s".into()),
            inode: 1,
            peer_inode: Some(2),
            peer_pid: None,
            datagram: false,
            client: false,
        };
        for (target, peers, unread, class) in [
            (Target::Pipe { inode: 1 }, peers(1, true, true, None), Queued::Nothing, Class::Pipe),
            (Target::Pipe { inode: 1 }, peers(0, true, true, None), Queued::Nothing, Class::Orphan),
            (Target::Pipe { inode: 1 }, peers(0, true, false, None), Queued::Nothing, Class::Events),
            (Target::Pipe { inode: 1 }, None, Queued::Nothing, Class::Pipe),
            (pair(), peers(0, true, true, Some(false)), Queued::Nothing, Class::Orphan),
            (pair(), peers(1, false, true, Some(true)), Queued::Nothing, Class::Pipe),
            (client(), peers(1, false, true, Some(true)), Queued::Nothing, Class::Dialog),
            (client(), peers(1, false, true, Some(false)), Queued::Nothing, Class::Reply),
            (client(), peers(1, false, true, Some(true)), Queued::Messages(2), Class::Reply),
            (client(), None, Queued::Nothing, Class::Dialog),
            (server(), None, Queued::Nothing, Class::Peer),
        ] {
            let socket = SocketFacts::Unix(Box::new(UnixFacts { unread, ..UnixFacts::default() }));
            let resolved = Resolved { peers, socket, ..on(Syscall::Read, target) };
            assert_eq!(classify(&wait(Syscall::Read, [0; 6]), &resolved), class, "{resolved:?}");
        }
    }
}
