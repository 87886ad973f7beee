//! From a wait and its target to a class and a sentence. Pure: everything it needs is in its arguments.
//!
//! Classes come from the call and the target alone; what a connected socket's bytes say is not weighed yet, so its
//! reader counts as waiting for a reply.

use std::time::Duration;

use serde::Serialize;

use crate::{
    human,
    resolve::{Resolved, poll::is_set, target::Target},
    syscalls::{PAGE_FAULT, Way},
    wait::{Sleep, Wait},
};

/// How much a class worries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Shown, flagged at its threshold.
    Stuck,
    /// Shown, flagged late or by a rule only.
    Doubtful,
    /// How healthy programs rest: hidden, never flagged.
    Idle,
}

macro_rules! classes {
    ($($(#[doc = $doc:literal])+ $name:ident = $label:literal, $level:ident, $threshold:expr;)+) => {
        /// The kind of thing a wait waits for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, clap::ValueEnum)]
        #[serde(rename_all = "lowercase")]
        pub enum Class {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Class {
            /// Every class, in the order of the design's table.
            pub const ALL: &[Class] = &[$(Class::$name),+];

            /// Its name in output, metrics and rules.
            pub fn label(self) -> &'static str {
                match self { $(Class::$name => $label),+ }
            }

            /// How much it worries.
            pub fn level(self) -> Level {
                match self { $(Class::$name => Level::$level),+ }
            }

            /// How long a wait of it lasts before it is flagged; `None`: never by itself.
            pub fn threshold(self) -> Option<Duration> {
                match self { $(Class::$name => $threshold),+ }
            }
        }
    };
}

const STUCK: Option<Duration> = Some(Duration::from_secs(30));
const LATE: Option<Duration> = Some(Duration::from_secs(600));

classes! {
    /// A connection that is not answered.
    Connect = "connect", Stuck, STUCK;
    /// An answer on a connection.
    Reply = "reply", Stuck, STUCK;
    /// Room to write: the peer is not reading or not there.
    Send = "send", Stuck, STUCK;
    /// A lock on a file, or a SysV semaphore.
    Lock = "lock", Stuck, STUCK;
    /// A lock in memory.
    Mutex = "mutex", Stuck, STUCK;
    /// Storage: a disk, a network or user-space file system, a page of a file.
    Disk = "disk", Stuck, STUCK;
    /// The other end of a named pipe.
    Fifo = "fifo", Stuck, STUCK;
    /// Something that can never come.
    Orphan = "orphan", Stuck, STUCK;
    /// The rest of an answer, or a subscription's next message.
    Quiet = "quiet", Doubtful, LATE;
    /// A unix peer that waits as well.
    Dialog = "dialog", Doubtful, LATE;
    /// A client's request, or the rest of it.
    Request = "request", Doubtful, LATE;
    /// Another process's end of a pipe: the cause, if any, is there.
    Pipe = "pipe", Doubtful, None;
    /// What no other class names.
    Other = "other", Doubtful, LATE;
    /// A client's next request on a connection kept alive.
    Peer = "peer", Idle, None;
    /// A new connection.
    Listen = "listen", Idle, None;
    /// Any of many events.
    Events = "events", Idle, None;
    /// A person.
    Tty = "tty", Idle, None;
    /// The time.
    Timer = "timer", Idle, None;
    /// A child process.
    Child = "child", Idle, None;
    /// A condition in memory.
    Futex = "futex", Idle, None;
    /// A signal.
    Signal = "signal", Idle, None;
    /// News from the kernel.
    Notify = "notify", Idle, None;
    /// A completion in a ring.
    Ring = "ring", Idle, None;
    /// A datagram from anyone.
    Datagram = "datagram", Idle, None;
}

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
    by_call(wait, &resolved.target).unwrap_or_else(|| by_target(wait, resolved))
}

/// Calls that wait for one thing, whatever their fd is.
fn by_call(wait: &Wait, target: &Target) -> Option<Class> {
    Some(match wait.call.name {
        "accept" | "accept4" => Class::Listen,
        "connect" => Class::Connect,
        "flock" | "semop" | "semtimedop" | "semtimedop_time64" => Class::Lock,
        "fcntl" | "fcntl64" if is_lock(wait.call.args[1]) => Class::Lock,
        "futex" | "futex_time64" => futex(&wait.call.args),
        "futex_wait" | "futex_waitv" | "futex_requeue" => Class::Futex,
        "wait4" | "waitid" | "waitpid" | "vfork" | "clone" | "clone3" | "fork" => Class::Child,
        "nanosleep" | "clock_nanosleep" | "clock_nanosleep_time64" => Class::Timer,
        "pause" | "rt_sigsuspend" | "sigsuspend" | "rt_sigtimedwait" | "rt_sigtimedwait_time64" => {
            Class::Signal
        }
        "epoll_wait" | "epoll_pwait" | "epoll_pwait2" | "epoll_wait_old" => Class::Events,
        name if is_set(name) => match target {
            Target::Fds { watched } if watched.is_empty() => Class::Timer,
            Target::Fds { .. } | Target::None => Class::Events,
            Target::Tcp { state: "SYN_SENT", .. } => Class::Connect,
            _ => return None,
        },
        "io_uring_enter" | "io_getevents" | "io_pgetevents" | "io_pgetevents_time64" => Class::Ring,
        "open" | "openat" | "openat2" | "creat" if matches!(target, Target::Fifo { .. }) => Class::Fifo,
        "fsync" | "fdatasync" | "sync" | "syncfs" | "sync_file_range" | "msync" => Class::Disk,
        PAGE_FAULT => Class::Disk,
        _ => return None,
    })
}

/// `F_SETLKW` and `F_OFD_SETLKW` (include/uapi/asm-generic/fcntl.h); 14 is the 32-bit `F_SETLKW64`.
fn is_lock(command: u64) -> bool {
    matches!(command, 7 | 14 | 38)
}

/// Tells a lock from a condition by how the C library waits for each (DESIGN: `mutex`).
fn futex(args: &[u64; 6]) -> Class {
    const FUTEX_WAIT: u64 = 0;
    const FUTEX_LOCK_PI: u64 = 6;
    const FUTEX_LOCK_PI2: u64 = 13;
    // Without FUTEX_PRIVATE_FLAG and FUTEX_CLOCK_REALTIME.
    match (args[1] & 0x7f, args[2] as u32, args[3]) {
        (FUTEX_LOCK_PI | FUTEX_LOCK_PI2, ..) | (FUTEX_WAIT, 2, 0) => Class::Mutex,
        _ => Class::Futex,
    }
}

fn by_target(wait: &Wait, resolved: &Resolved) -> Class {
    let out = resolved.way == Way::Out;
    match &resolved.target {
        Target::Tcp { state: "LISTEN", .. } => Class::Listen,
        Target::Tcp { .. }
        | Target::Unix { datagram: false, .. }
        | Target::Udp { .. }
        | Target::Unix { .. }
        | Target::Socket { .. }
            if out =>
        {
            Class::Send
        }
        Target::Tcp { .. } | Target::Unix { datagram: false, .. } => Class::Reply,
        Target::Udp { remote: Some(_), .. } => Class::Quiet,
        Target::Unix { peer_inode: Some(_), .. } => Class::Quiet,
        Target::Udp { .. } | Target::Unix { .. } | Target::Socket { .. } => Class::Datagram,
        Target::Pipe { .. } | Target::Fifo { .. } => Class::Pipe,
        Target::File { .. } | Target::Memfd { .. } => Class::Disk,
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
        Target::Gone | Target::Reused | Target::Unreadable { .. } | Target::Fds { .. } | Target::None => {
            if wait.sleep == Sleep::Uninterruptible {
                Class::Disk
            } else {
                Class::Other
            }
        }
    }
}

fn sentence(class: Class, wait: &Wait, resolved: &Resolved) -> String {
    let target = &resolved.target;
    let age = human::age(wait.age);
    let at_least = if wait.exact { "" } else { "at least " };
    let what = match class {
        Class::Connect => match target {
            Target::Tcp { remote, .. } => format!("for {remote} to answer its connection attempt"),
            other => format!("for its connection to be accepted: {other}"),
        },
        Class::Reply => reply(target),
        Class::Send => match target {
            Target::Tcp { remote, unacknowledged, .. } => {
                format!("to send to {remote}, which is not reading: {unacknowledged} bytes not acknowledged")
            }
            other => format!("to write to {other}, which nobody reads"),
        },
        Class::Lock => format!("for a lock that somebody else holds{}", on(target)),
        Class::Mutex => format!("for a lock in memory that another thread holds{}", on(target)),
        Class::Disk if wait.call.name == PAGE_FAULT => {
            "for a page of memory to be read in: disk, NFS, FUSE or userfaultfd".into()
        }
        Class::Disk => format!("for storage{}", on(target)),
        Class::Fifo => format!("for somebody to open the other end{}", on(target)),
        Class::Orphan => format!("for something that can never come{}", on(target)),
        Class::Quiet | Class::Dialog => format!("for the next message{}", on(target)),
        Class::Request => format!("for a client's request{}", on(target)),
        Class::Pipe if resolved.way == Way::Out => {
            format!("for the reader of the pipe to read{}", on(target))
        }
        Class::Pipe => format!("for the writer of the pipe to write{}", on(target)),
        Class::Other => format!("in {}{}", wait.call.name, on(target)),
        Class::Peer => format!("for the client's next request{}", on(target)),
        Class::Listen => format!("for new connections{}", on(target)),
        Class::Events => format!("for any of its events{}", on(target)),
        Class::Tty => format!("for input{}", on(target)),
        Class::Timer => "for the time to pass".into(),
        Class::Child => "for a child process".into(),
        Class::Futex => "for a condition in memory".into(),
        Class::Signal => "for a signal".into(),
        Class::Notify => format!("for news from the kernel{}", on(target)),
        Class::Ring => "for a completion".into(),
        Class::Datagram => format!("for a datagram{}", on(target)),
    };
    format!("waiting {at_least}{age} {what}")
}

fn on(target: &Target) -> String {
    match target {
        Target::None => String::new(),
        other => format!(" on {other}"),
    }
}

fn reply(target: &Target) -> String {
    let Target::Tcp {
        remote,
        bytes_sent,
        unacknowledged,
        sent_seconds,
        received_seconds,
        keepalive,
        timeout_seconds,
        ..
    } = target
    else {
        return format!("for a reply{}", on(target));
    };
    let ago = |seconds: &Option<f64>| seconds.map(|seconds| human::age(Duration::from_secs_f64(seconds)));
    let sent = match ago(sent_seconds) {
        None => "nothing sent".to_owned(),
        Some(ago) if *unacknowledged == 0 => {
            format!("{bytes_sent} bytes sent, all acknowledged, the last {ago} ago")
        }
        Some(ago) => {
            format!("{bytes_sent} bytes sent, {unacknowledged} not acknowledged, the last {ago} ago")
        }
    };
    let received = match ago(received_seconds) {
        None => "nothing received".to_owned(),
        Some(ago) => format!("last data received {ago} ago"),
    };
    let outlook = match (timeout_seconds, keepalive) {
        (Some(seconds), _) => format!("gives up after {}", human::age(Duration::from_secs_f64(*seconds))),
        (None, true) => "no receive time-out, keepalive on".to_owned(),
        (None, false) => "no receive time-out, keepalive off".to_owned(),
    };
    format!("for a reply from {remote}: {sent}; {received}; {outlook}")
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::{
        syscalls::Table,
        wait::{Call, FdState, ProcessId, SocketFacts, ThreadId},
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
            switches: 1,
        }
    }

    /// An established TCP connection for tests.
    pub fn tcp() -> Target {
        Target::Tcp {
            local: "10.0.0.1:59720".parse().expect("address"),
            remote: "10.0.0.2:443".parse().expect("address"),
            state: "ESTABLISHED",
            inode: 7,
            sent_seconds: Some(60.0),
            received_seconds: None,
            bytes_sent: 517,
            bytes_received: 0,
            retransmits: 0,
            keepalive: false,
            timeout_seconds: None,
            unacknowledged: 0,
        }
    }

    /// A target that a call of this name waits on.
    pub fn on(name: &str, target: Target) -> Resolved {
        Resolved { fd: Some(3), target, way: crate::syscalls::way(name) }
    }

    fn unix(datagram: bool, peer: bool) -> Target {
        Target::Unix { path: None, inode: 1, peer_inode: peer.then_some(2), peer_pid: None, datagram }
    }

    #[test]
    fn classes_follow_from_call_and_target() {
        let file = || Target::File { path: "/x".into(), inode: None, deleted: false };
        let fifo = || Target::Fifo { path: "/x".into(), inode: None };
        let udp = |remote: Option<&str>| Target::Udp {
            local: "127.0.0.1:1".parse().expect("address"),
            remote: remote.map(|remote| remote.parse().expect("address")),
            state: "",
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
            ("recvmsg", none, unix(false, true), Class::Reply),
            ("recvmsg", none, unix(true, false), Class::Datagram),
            ("recvmsg", none, unix(true, true), Class::Quiet),
            ("sendmsg", none, unix(true, true), Class::Send),
            ("recvfrom", none, udp(None), Class::Datagram),
            ("recvfrom", none, udp(Some("127.0.0.1:2")), Class::Quiet),
            ("recvmsg", none, Target::Socket { family: Some("netlink"), inode: 1 }, Class::Datagram),
            ("read", none, Target::Pipe { inode: 1 }, Class::Pipe),
            ("write", none, fifo(), Class::Pipe),
            ("openat", none, fifo(), Class::Fifo),
            ("openat", none, file(), Class::Disk),
            ("read", none, file(), Class::Disk),
            ("fsync", none, file(), Class::Disk),
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
            ("msgrcv", none, Target::None, Class::Other),
        ] {
            let resolved = on(name, target);
            let verdict = judge(&wait(name, args), &resolved);
            assert_eq!(verdict.class, class, "{name} on {resolved:?}");
            assert!(verdict.sentence.starts_with("waiting 1m 0s "), "{}", verdict.sentence);
        }
    }

    #[test]
    fn an_uninterruptible_sleep_that_nothing_else_explains_is_storage() {
        assert_eq!(judge(&wait(PAGE_FAULT, [0; 6]), &on(PAGE_FAULT, Target::None)).class, Class::Disk);
        for name in ["stat", "unlink", "openat"] {
            let mut wait = wait(name, [0; 6]);
            wait.sleep = Sleep::Uninterruptible;
            assert_eq!(judge(&wait, &on(name, Target::None)).class, Class::Disk, "{name}");
        }
    }

    #[test]
    fn the_sentence_carries_its_evidence() {
        assert_eq!(
            judge(&wait("read", [0; 6]), &on("read", tcp())).sentence,
            "waiting 1m 0s for a reply from 10.0.0.2:443: 517 bytes sent, all acknowledged, the last 1m 0s ago; \
             nothing received; no receive time-out, keepalive off"
        );
    }

    #[test]
    fn only_classes_that_worry_have_a_threshold() {
        for class in Class::ALL {
            if class.level() == Level::Idle {
                assert_eq!(class.threshold(), None, "{}", class.label());
            }
        }
    }
}
