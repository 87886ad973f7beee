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
    for (syscall, class) in
        [(Syscall::PageFault, Class::Disk), (Syscall::Exit, Class::Exit), (Syscall::CoreDump, Class::Exit)]
    {
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
        let resolved = Resolved { server: Some(server), last_sender: Some(last), ..on(Syscall::Read, tcp()) };
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
fn who_stands_in_a_circle_is_of_the_class_of_what_it_waits_for() {
    let pipe = || Target::Pipe { inode: 1 };
    for (syscall, target, alone, in_circle) in [
        (Syscall::Write, pipe(), Class::Pipe, Class::Orphan),
        (Syscall::Read, pipe(), Class::Pipe, Class::Orphan),
        (Syscall::Wait4, Target::None, Class::Child, Class::Child),
        (Syscall::Flock, Target::None, Class::Lock, Class::Lock),
        (Syscall::Futex, Target::None, Class::Futex, Class::Mutex),
    ] {
        let class = |circle| {
            let peers = Some(Peers { circle, ..peers(1, false, false, None).expect("peers") });
            classify(&wait(syscall, [0; 6]), &Resolved { peers, ..on(syscall, target.clone()) })
        };
        assert_eq!((class(false), class(true)), (alone, in_circle), "{syscall:?}");
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
            (of.sent, of.received) = (Some(Duration::from_secs(sent)), Some(Duration::from_secs(received)));
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
