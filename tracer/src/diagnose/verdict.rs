//! From a wait and its target to a class. Pure: everything it needs is in its arguments.

use crate::{
    diagnose::progress::LastWord,
    diagnose::sentence::sentence,
    model::syscalls::{CORE_DUMP, EXIT, PAGE_FAULT, Way},
    model::wait::{Sleep, SocketFacts, Wait},
    resolve::{
        Resolved,
        epoll::is_epoll,
        path::{opens, takes_path},
        peers::Peers,
        poll::is_set,
        semaphore::is_semaphore,
        target::{Target, TcpState},
    },
    util::linux::{FUTEX_LOCK_PI, FUTEX_LOCK_PI2, FUTEX_WAIT, futex_command},
};

pub use crate::model::class::{Class, Level};

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
    match by_call(wait, &resolved.target).unwrap_or_else(|| by_target(wait, resolved)) {
        Class::Mutex if resolved.peers.as_ref().is_some_and(|peers| peers.barrier) => Class::Futex,
        // Nothing is asked on its only connection: an event loop with a pool at rest, or a bus's client.
        Class::Quiet | Class::Dialog if is_epoll(wait.call.name) => Class::Events,
        class => class,
    }
}

/// Calls that wait for one thing, whatever their fd is.
fn by_call(wait: &Wait, target: &Target) -> Option<Class> {
    Some(match wait.call.name {
        "accept" | "accept4" => Class::Listen,
        "connect" => Class::Connect,
        "close" if matches!(target, Target::Tcp { .. }) => Class::Send,
        "flock" => Class::Lock,
        name if is_semaphore(name) => Class::Lock,
        "fcntl" | "fcntl64" if is_lock(wait.call.args[1]) => Class::Lock,
        "futex" | "futex_time64" => futex(&wait.call.args),
        "futex_wait" | "futex_waitv" | "futex_requeue" => Class::Futex,
        "wait4" | "waitid" | "waitpid" | "vfork" | "clone" | "clone3" | "fork" => Class::Child,
        "nanosleep" | "clock_nanosleep" | "clock_nanosleep_time64" => Class::Timer,
        "pause" | "rt_sigsuspend" | "sigsuspend" | "rt_sigtimedwait" | "rt_sigtimedwait_time64" => {
            Class::Signal
        }
        name if is_set(name) || is_epoll(name) => match target {
            Target::Fds { watched } if watched.is_empty() => Class::Timer,
            Target::Fds { .. } | Target::Epoll { .. } | Target::None => Class::Events,
            Target::Gone | Target::Reused | Target::Unreadable { .. } => Class::Events,
            Target::Tcp { state: TcpState::SynSent, .. } => Class::Connect,
            // One that is stored is always ready; those that are not tell of changes.
            Target::File { .. } | Target::Memfd { .. } => Class::Notify,
            _ => return None,
        },
        // Nobody need ever send a message, and who could is not to be seen.
        "mq_timedreceive" | "mq_timedreceive_time64" | "msgrcv" => Class::Datagram,
        "mq_timedsend" | "mq_timedsend_time64" | "msgsnd" => Class::Send,
        "io_uring_enter" | "io_getevents" | "io_pgetevents" | "io_pgetevents_time64" => Class::Ring,
        "open" | "openat" | "openat2" | "creat" if matches!(target, Target::Fifo { .. }) => Class::Fifo,
        "fsync" | "fdatasync" | "sync" | "syncfs" | "sync_file_range" | "msync" => Class::Disk,
        PAGE_FAULT => Class::Disk,
        // Nobody but storage, or who serves it, holds these up; one that opens may wait for a device, or for another's end.
        name if takes_path(name) && !opens(name) => Class::Disk,
        EXIT | CORE_DUMP => Class::Exit,
        _ => return None,
    })
}

/// `F_SETLKW` and `F_OFD_SETLKW` (include/uapi/asm-generic/fcntl.h); 14 is the 32-bit `F_SETLKW64`.
fn is_lock(command: u64) -> bool {
    matches!(command, 7 | 14 | 38)
}

/// Tells a lock from a condition by how the C library waits for each (DESIGN: `mutex`). glibc waits for a mutex with the
/// value 2 (nptl/lowlevellock.h), musl with its top bit set over the owner's id, or over EBUSY where it keeps no owner
/// (src/thread/pthread_mutex_timedlock.c), both without a time-out.
pub fn futex(args: &[u64; 6]) -> Class {
    /// `PID_MAX_LIMIT` (include/linux/threads.h).
    const LARGEST_TID: u32 = 1 << 22;
    const CONTENDED: u32 = 0x8000_0000;
    match (futex_command(args[1]), args[2] as u32, args[3]) {
        (FUTEX_LOCK_PI | FUTEX_LOCK_PI2, ..) | (FUTEX_WAIT, 2, 0) => Class::Mutex,
        (FUTEX_WAIT, CONTENDED.., 0) if args[2] as u32 - CONTENDED <= LARGEST_TID => Class::Mutex,
        _ => Class::Futex,
    }
}

fn by_target(wait: &Wait, resolved: &Resolved) -> Class {
    let out = resolved.way == Way::Out;
    match &resolved.target {
        Target::Tcp { state: TcpState::Listen, .. } => Class::Listen,
        Target::Tcp { .. } | Target::Udp { .. } | Target::Unix { .. } | Target::Socket { .. } if out => {
            Class::Send
        }
        Target::Tcp { .. } => of_tcp(resolved),
        Target::Unix { datagram: false, path, peer_inode, .. } => {
            if peer_inode.is_none() {
                // Bound and without a peer: it listens, and a thread in poll waits for connections.
                Class::Listen
            } else {
                of_stream(path.is_some(), resolved)
            }
        }
        Target::Udp { remote: Some(_), .. } => Class::Quiet,
        Target::Unix { peer_inode: Some(_), .. } => Class::Quiet,
        // A connection whose other end is not to be seen.
        Target::Socket { family: Some(family), .. } if family == "unix" => Class::Other,
        Target::Udp { .. } | Target::Unix { .. } | Target::Socket { .. } => Class::Datagram,
        Target::Pipe { .. } => pipe(resolved.peers.as_ref()),
        // Somebody may still open it by its name.
        Target::Fifo { .. } => Class::Pipe,
        Target::File { made_up: true, .. } if wait.sleep == Sleep::Interruptible => Class::Notify,
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
    let last = resolved.last_word.unwrap_or(LastWord::Unknown);
    if resolved.is_server() {
        return match last {
            LastWord::Theirs => Class::Request,
            LastWord::Ours | LastWord::Nobody | LastWord::Unknown => Class::Peer,
        };
    }
    match last {
        LastWord::Ours | LastWord::Nobody => Class::Reply,
        LastWord::Theirs | LastWord::Unknown => Class::Quiet,
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
        SocketFacts::Unix(facts) => facts.unread > 0,
        _ => false,
    };
    match resolved.peers.as_ref().and_then(|peers| peers.waits) {
        _ if unread => Class::Reply,
        Some(false) => Class::Reply,
        Some(true) | None => Class::Dialog,
    }
}

/// A pipe or a pair of sockets, by who has its other end.
fn pipe(peers: Option<&Peers>) -> Class {
    match peers {
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

    use proptest::prelude::*;

    use super::*;
    use crate::{
        diagnose::progress::tests::facts,
        model::syscalls::Table,
        model::tcp::TcpFacts,
        model::wait::{Call, FdState, ProcessId, ThreadId, UnixFacts},
        resolve::{
            peers::Peer,
            poll::Interest,
            target::{Timers, WatchedFd},
        },
    };

    /// A wait for tests: this call, asleep, for a minute.
    pub fn wait(name: &'static str, args: [u64; 6]) -> Wait {
        let process = ProcessId { pid: 100, start_ns: 1 };
        Wait {
            thread: ThreadId { process, tid: 100, start_ns: 1 },
            comm: "test".into(),
            uid: 0,
            sleep: Sleep::Interruptible,
            call: Call { table: Table::Native, number: 0, name, args, restarted: false },
            fd: Some(3),
            fd_state: FdState::None,
            socket: SocketFacts::None,
            age: Duration::from_secs(60),
            exact: true,
            since: jiff::Timestamp::UNIX_EPOCH,
            began_ns: 0,
            sleep_began_ns: 0,
            switches: 1,
        }
    }

    /// An established TCP connection for tests.
    pub fn tcp() -> Target {
        Target::Tcp {
            local: "10.0.0.1:59720".parse().expect("address"),
            remote: "10.0.0.2:443".parse().expect("address"),
            state: TcpState::Established,
            inode: 7,
            sent_seconds: Some(60.0),
            received_seconds: None,
            bytes_sent: 517,
            bytes_received: 0,
            retransmits: 0,
            keepalive: false,
            timeout_seconds: None,
            unacknowledged: 0,
            timers: Timers::default(),
        }
    }

    /// A target that a call of this name waits on.
    pub fn on(name: &str, target: Target) -> Resolved {
        let socket = match &target {
            Target::Tcp { .. } => SocketFacts::Tcp(facts(517, 0)),
            _ => SocketFacts::None,
        };
        let last_word = matches!(target, Target::Tcp { .. }).then_some(LastWord::Ours);
        let resolved = Resolved::new(Some(3), target, crate::model::syscalls::way(name));
        Resolved { socket, last_word, server: Some(false), ..resolved }
    }

    fn unix(datagram: bool, peer: bool, client: bool) -> Target {
        let path = (client || !peer).then(|| "/run/s".to_owned());
        Target::Unix { path, inode: 1, peer_inode: peer.then_some(2), peer_pid: None, datagram, client }
    }

    #[test]
    fn classes_follow_from_call_and_target() {
        let file = || Target::File { path: "/x".into(), inode: None, deleted: false, made_up: false };
        let made_up = || Target::File { path: "/x".into(), inode: None, deleted: false, made_up: true };
        let fifo = || Target::Fifo { path: "/x".into(), inode: None };
        let udp = |remote: Option<&str>| Target::Udp {
            local: "127.0.0.1:1".parse().expect("address"),
            remote: remote.map(|remote| remote.parse().expect("address")),
            state: crate::resolve::target::UdpState::Unconnected,
            inode: 1,
        };
        let none = [0; 6];
        for (name, args, target, class) in [
            ("read", none, tcp(), Class::Reply),
            ("recvfrom", none, tcp(), Class::Reply),
            ("write", none, tcp(), Class::Send),
            ("sendfile", none, tcp(), Class::Send),
            ("connect", none, tcp(), Class::Connect),
            ("accept4", none, tcp(), Class::Listen),
            ("recvmsg", none, unix(false, true, true), Class::Dialog),
            ("recvmsg", none, unix(false, true, false), Class::Pipe),
            ("poll", none, unix(false, false, false), Class::Listen),
            ("recvmsg", none, unix(true, false, false), Class::Datagram),
            ("recvmsg", none, unix(true, true, true), Class::Quiet),
            ("sendmsg", none, unix(true, true, true), Class::Send),
            ("recvfrom", none, udp(None), Class::Datagram),
            ("recvfrom", none, udp(Some("127.0.0.1:2")), Class::Quiet),
            ("recvmsg", none, Target::Socket { family: Some("netlink".into()), inode: 1 }, Class::Datagram),
            ("read", none, Target::Pipe { inode: 1 }, Class::Pipe),
            ("write", none, fifo(), Class::Pipe),
            ("openat", none, fifo(), Class::Fifo),
            ("openat", none, file(), Class::Disk),
            ("read", none, file(), Class::Disk),
            ("fsync", none, file(), Class::Disk),
            ("write", none, Target::Page { path: "/x".into() }, Class::Disk),
            ("sendto", none, Target::Page { path: "/x".into() }, Class::Disk),
            ("statfs", none, file(), Class::Disk),
            ("execve", none, Target::Unreadable { reason: "hangs".into() }, Class::Disk),
            ("renameat2", none, Target::Unreadable { reason: "hangs".into() }, Class::Disk),
            ("openat", none, Target::Unreadable { reason: "hangs".into() }, Class::Other),
            ("read", none, made_up(), Class::Notify),
            ("ppoll", none, made_up(), Class::Notify),
            ("ppoll", none, file(), Class::Notify),
            ("flock", none, file(), Class::Lock),
            ("fcntl", [3, 7, 0, 0, 0, 0], file(), Class::Lock),
            ("fcntl", [3, 38, 0, 0, 0, 0], file(), Class::Lock),
            ("futex", [0, 128, 2, 0, 0, 0], Target::None, Class::Mutex),
            ("futex", [0, 128, 2, 1, 0, 0], Target::None, Class::Futex),
            ("futex", [0, 137, 0, 0, 0, 0], Target::None, Class::Futex),
            ("futex", [0, 6, 0, 0, 0, 0], Target::None, Class::Mutex),
            ("wait4", none, Target::None, Class::Child),
            ("clock_nanosleep", none, Target::None, Class::Timer),
            ("rt_sigtimedwait", none, Target::None, Class::Signal),
            ("epoll_wait", none, Target::Epoll { watched: 3 }, Class::Events),
            ("poll", none, Target::None, Class::Events),
            ("poll", none, Target::Fds { watched: Vec::new() }, Class::Timer),
            ("poll", none, tcp(), Class::Reply),
            ("select", none, Target::Tty { path: "/dev/pts/0".into() }, Class::Tty),
            ("read", none, Target::Eventfd { id: None }, Class::Events),
            ("read", none, Target::Timerfd, Class::Timer),
            ("read", none, Target::Signalfd { mask: None }, Class::Signal),
            ("read", none, Target::Inotify, Class::Notify),
            ("read", none, Target::Tty { path: "/dev/pts/0".into() }, Class::Tty),
            ("write", none, Target::Tty { path: "/dev/pts/0".into() }, Class::Send),
            ("read", none, Target::Device { path: "/dev/kmsg".into() }, Class::Notify),
            ("ioctl", none, Target::Anonymous { name: "kvm-vcpu:0".into() }, Class::Notify),
            ("io_uring_enter", none, Target::IoUring, Class::Ring),
            ("read", none, Target::Gone, Class::Other),
            ("msgrcv", none, Target::None, Class::Datagram),
            ("mq_timedreceive", none, file(), Class::Datagram),
            ("mq_timedsend", none, file(), Class::Send),
            ("getrandom", none, Target::None, Class::Other),
        ] {
            let resolved = on(name, target);
            let verdict = judge(&wait(name, args), &resolved);
            assert_eq!(verdict.class, class, "{name} on {resolved:?}");
            assert!(verdict.sentence.starts_with("waiting 1m 0s "), "{}", verdict.sentence);
        }
    }

    #[test]
    fn an_uninterruptible_sleep_that_nothing_else_explains_is_storage() {
        for (name, class) in [(PAGE_FAULT, Class::Disk), (EXIT, Class::Exit), (CORE_DUMP, Class::Exit)] {
            assert_eq!(judge(&wait(name, [0; 6]), &on(name, Target::None)).class, class);
        }
        for name in ["stat", "unlink", "openat"] {
            let mut wait = wait(name, [0; 6]);
            wait.sleep = Sleep::Uninterruptible;
            assert_eq!(judge(&wait, &on(name, Target::None)).class, Class::Disk, "{name}");
        }
        // /proc/PID/maps of a process whose memory is locked.
        let mut wait = wait("read", [0; 6]);
        wait.sleep = Sleep::Uninterruptible;
        let maps = Target::File { path: "/proc/1/maps".into(), inode: None, deleted: false, made_up: true };
        let verdict = judge(&wait, &on("read", maps));
        assert_eq!(verdict.class, Class::Disk);
        assert_eq!(verdict.sentence, "waiting 1m 0s for the kernel to finish read on /proc/1/maps");
    }

    #[test]
    fn the_last_word_and_the_side_decide_for_a_connection() {
        for (server, last, class) in [
            (false, LastWord::Ours, Class::Reply),
            (false, LastWord::Nobody, Class::Reply),
            (false, LastWord::Theirs, Class::Quiet),
            (false, LastWord::Unknown, Class::Quiet),
            (true, LastWord::Ours, Class::Peer),
            (true, LastWord::Nobody, Class::Peer),
            (true, LastWord::Theirs, Class::Request),
        ] {
            let resolved = Resolved { server: Some(server), last_word: Some(last), ..on("read", tcp()) };
            assert_eq!(classify(&wait("read", [0; 6]), &resolved), class, "{server} {last:?}");
        }
        // Not known: the end with the higher port came to the other.
        let resolved = Resolved { server: None, ..on("read", tcp()) };
        assert_eq!(classify(&wait("read", [0; 6]), &resolved), Class::Reply);
    }

    #[test]
    fn a_barrier_is_no_lock() {
        let (wait, lock) = (wait("futex", [0, 128, 2, 0, 0, 0]), on("futex", Target::None));
        assert_eq!(classify(&wait, &lock), Class::Mutex);
        let peers = Some(Peers { barrier: true, ..Peers::default() });
        assert_eq!(classify(&wait, &Resolved { peers, ..lock }), Class::Futex);
    }

    fn peers(others: usize, own: bool, alone: bool, waits: Option<bool>) -> Option<Peers> {
        let peer = Peer { pid: 7, comm: "x".into() };
        Some(Peers { others: vec![peer; others].into(), own, alone, waits, ..Peers::default() })
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
            (Target::Pipe { inode: 1 }, peers(1, true, true, None), 0, Class::Pipe),
            (Target::Pipe { inode: 1 }, peers(0, true, true, None), 0, Class::Orphan),
            (Target::Pipe { inode: 1 }, peers(0, true, false, None), 0, Class::Events),
            (Target::Pipe { inode: 1 }, None, 0, Class::Pipe),
            (pair(), peers(0, true, true, Some(false)), 0, Class::Orphan),
            (pair(), peers(1, false, true, Some(true)), 0, Class::Pipe),
            (client(), peers(1, false, true, Some(true)), 0, Class::Dialog),
            (client(), peers(1, false, true, Some(false)), 0, Class::Reply),
            (client(), peers(1, false, true, Some(true)), 2, Class::Reply),
            (client(), None, 0, Class::Dialog),
            (server(), None, 0, Class::Peer),
        ] {
            let socket = SocketFacts::Unix(UnixFacts { unread, ..UnixFacts::default() });
            let resolved = Resolved { peers, socket, ..on("read", target) };
            assert_eq!(classify(&wait("read", [0; 6]), &resolved), class, "{resolved:?}");
        }
    }

    fn any_target() -> impl Strategy<Value = Target> {
        let states = prop::sample::select(vec![
            TcpState::Established,
            TcpState::SynSent,
            TcpState::Listen,
            TcpState::CloseWait,
        ]);
        prop_oneof![
            (states, any::<u64>(), any::<bool>()).prop_map(|(state, inode, keepalive)| match tcp() {
                Target::Tcp { local, remote, sent_seconds, received_seconds, bytes_sent, .. } =>
                    Target::Tcp {
                        local,
                        remote,
                        state,
                        inode,
                        sent_seconds,
                        received_seconds,
                        bytes_sent,
                        keepalive,
                        bytes_received: inode,
                        retransmits: 3,
                        timeout_seconds: None,
                        unacknowledged: 9,
                        timers: Timers { gives_up_seconds: Some(14.0), ..Timers::default() },
                    },
                other => other,
            }),
            (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(a, b, c)| unix(a, b, c)),
            any::<u64>().prop_map(|inode| Target::Pipe { inode }),
            ".*".prop_map(|path| Target::Fifo { path, inode: None }),
            (".*", any::<bool>(), any::<bool>()).prop_map(|(path, deleted, made_up)| Target::File {
                path,
                inode: None,
                deleted,
                made_up
            }),
            ".*".prop_map(|path| Target::Device { path }),
            ".*".prop_map(|path| Target::Tty { path }),
            ".*".prop_map(|name| Target::Memfd { name, inode: None }),
            ".*".prop_map(|name| Target::Anonymous { name }),
            ".*".prop_map(|address| Target::Futex { address }),
            any::<bool>().prop_map(|connected| Target::Udp {
                local: "127.0.0.1:1".parse().expect("address"),
                remote: connected.then(|| "[::1]:2".parse().expect("address")),
                state: crate::resolve::target::UdpState::Unconnected,
                inode: 1,
            }),
            prop::collection::vec(any::<i32>(), 1..4).prop_map(|fds| Target::Fds {
                watched: fds
                    .into_iter()
                    .map(|fd| WatchedFd { fd, interest: Interest::default(), target: tcp() })
                    .collect(),
            }),
            prop::sample::select(vec![
                Target::Gone,
                Target::Reused,
                Target::None,
                Target::Timerfd,
                Target::IoUring,
                Target::Inotify,
                Target::Fanotify,
                Target::Signalfd { mask: None },
                Target::Fds { watched: Vec::new() },
                Target::Epoll { watched: 2 },
                Target::Pidfd { pid: None },
                Target::Eventfd { id: None },
                Target::Unreadable { reason: "x".into() },
                Target::Socket { family: None, inode: 1 },
            ]),
        ]
    }

    fn any_facts() -> impl Strategy<Value = SocketFacts> {
        prop_oneof![
            Just(SocketFacts::None),
            (any::<u64>(), any::<u64>(), any::<u32>(), any::<bool>(), any::<u8>()).prop_map(
                |(sent, received, word, keepalive, state)| {
                    let facts = facts(sent, received).with_activity(|of| {
                        of.window = Some(word);
                        of.sent = Some(Duration::from_millis(word.into()));
                    });
                    let state = TcpState::of(state);
                    SocketFacts::Tcp(TcpFacts { state, keepalive, send_queue: word, ..facts })
                }
            ),
            any::<u32>().prop_map(|unread| SocketFacts::Unix(UnixFacts { unread, ..UnixFacts::default() })),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100_000))]
        #[test]
        fn every_wait_has_one_class_and_a_sentence(
            number in 0i32..480, args in prop::array::uniform6(any::<u64>()), target in any_target(), socket in any_facts(),
            age in any::<u32>(), asleep in any::<u32>(), exact: bool, deep: bool, server: Option<bool>,
            last in prop::option::of(prop::sample::select(vec![LastWord::Ours, LastWord::Theirs, LastWord::Nobody, LastWord::Unknown])),
            timeout in prop::option::of(any::<u32>()), who in (0usize..4, any::<bool>(), any::<bool>(), any::<Option<bool>>()),
        ) {
            let name = crate::model::syscalls::name(Table::Native, number).unwrap_or(PAGE_FAULT);
            let mut wait = wait(name, args);
            wait.age = Duration::from_millis(age.into());
            wait.sleep_began_ns = u64::from(asleep.min(age)) * 1_000_000;
            wait.exact = exact;
            if deep { wait.sleep = Sleep::Uninterruptible; }
            let mut resolved = on(name, target);
            resolved.socket = socket;
            resolved.server = server;
            resolved.last_word = last;
            resolved.timeout = timeout.map(|ms| Duration::from_millis(ms.into()));
            resolved.peers = peers(who.0, who.1, who.2, who.3);
            let verdict = judge(&wait, &resolved);
            prop_assert!(Class::ALL.contains(&verdict.class));
            prop_assert!(verdict.sentence.starts_with("waiting "), "{}", verdict.sentence);
        }
    }
}
