//! One sentence in plain English for a wait: how long, for what and on whom, with the evidence and what will come of it.

use std::time::Duration;

use crate::{
    diagnose::silence::{Silence, silence},
    diagnose::verdict::is_mutual,
    model::backlog::{Backlog, QueueKind},
    model::class::Class,
    model::obstacles::{Obstacle, obstacle},
    model::syscalls::{Direction, Operation, Syscall},
    model::target::Target,
    model::tcp::LastSender,
    model::tcp::{TcpActivity, TcpFacts},
    model::wait::{Queued, SocketFacts, Wait},
    resolve::{
        Resolved,
        futex::{FutexWord, LockHolder},
        mounts::Mount,
        peers::{Peers, Role},
        semaphore::Semaphore,
    },
    util::human::{age, count, interval},
};

/// The sentence for a wait of this class.
pub fn sentence(class: Class, wait: &Wait, resolved: &Resolved) -> String {
    let at_least = if wait.is_lower_bound() { "at least " } else { "" };
    format!("waiting {at_least}{} {}", age(wait.age), what(class, wait, resolved))
}

fn what(class: Class, wait: &Wait, resolved: &Resolved) -> String {
    let target = &resolved.target;
    let out = resolved.direction == Some(Direction::Send);
    let outlook = || outlook(wait, resolved);
    match class {
        Class::Connect => connect(wait, resolved),
        Class::Reply => reply(wait, resolved),
        Class::Send => send(resolved) + &outlook(),
        Class::Lock => lock(wait, resolved) + turn(resolved),
        Class::Mutex => mutex(wait, resolved),
        Class::Disk => disk(wait.call.syscall, resolved),
        Class::Fifo => {
            format!("for another process to open the other end of {target}; it will wait until one does")
        }
        Class::Orphan if in_circle(resolved) => circle_of_pipe(resolved),
        Class::Orphan if out => format!(
            "to write{}: it is full, and no other process can read it; it will wait for ever",
            on(target)
        ),
        Class::Orphan => format!(
            "for data that can never arrive{}: only this process holds the other end; it will wait for ever",
            on(target)
        ),
        Class::Quiet => quiet(resolved) + &outlook(),
        Class::Dialog => format!(
            "for a message from {}{}: it has read everything sent to it and is waiting itself: a subscription, or each waits \
             for the other",
            others(resolved.peers.as_ref()).unwrap_or_else(|| "its peer".into()),
            on(target)
        ),
        Class::Request => match facts(resolved) {
            Some(facts) => format!(
                "for the rest of a request from {}: its last bytes came {} ago",
                remote(target),
                ago(facts.received())
            ),
            None => format!("for a client's request{}", on(target)),
        },
        Class::Pipe if out => format!("for {} to read{}", pipe_peer("the reader", resolved), on(target)),
        Class::Pipe => format!("for {} to write{}", pipe_peer("the writer", resolved), on(target)),
        Class::Exit if wait.call.syscall == Syscall::CoreDump => {
            "for its core dump to be written: a signal has killed it".into()
        }
        Class::Exit => {
            "to finish exiting: it has exited or been killed, and the kernel is still tearing it down".into()
        }
        Class::Other => format!("in {}{}", wait.call.name(), on(target)),
        Class::Peer => next_request(resolved),
        Class::Listen => match &resolved.peers {
            Some(peers) if peers.takes_turns => turn_to_accept(peers),
            _ => format!("for new connections{}", on(target)),
        },
        Class::Events => match target {
            Target::Unreadable { reason } => format!("for events on unknown fds: {reason}"),
            target => format!("for any of its events{}", on(target)),
        },
        Class::Tty => format!("for input{}", on(target)),
        Class::Timer => "for a timer".into(),
        Class::Child if in_circle(resolved) => match others(resolved.peers.as_ref()) {
            Some(children) => format!("for its child {children}{}", turn(resolved)),
            None => format!("for a child process{}{}", on(target), turn(resolved)),
        },
        Class::Child => format!("for a child process{}", on(target)),
        Class::Futex => match resolved.peers.as_ref().and_then(|peers| peers.futex.as_ref()) {
            Some(FutexWord::ThreadEnd(tid)) => format!("for thread {tid} of its process to end"),
            _ => "for a condition in memory".into(),
        },
        Class::Signal => "for a signal".into(),
        Class::Notify => format!("for news from the kernel{}", on(target)),
        Class::Ring => "for a completion".into(),
        Class::Datagram if wait.call.operation() == Operation::ReceiveMessage => {
            format!("for a message{}", on(target))
        }
        Class::Datagram => format!("for a datagram{}", on(target)),
    }
}

/// Servers that share a socket and a lock, of which one at a time waits for a connection.
fn turn_to_accept(peers: &Peers) -> String {
    let holder = match &peers.futex {
        Some(FutexWord::Lock(LockHolder::Thread(owner))) => format!("{} (pid {})", owner.comm, owner.pid),
        _ => others(Some(peers)).unwrap_or_else(|| "another process".into()),
    };
    format!("for its turn to accept a connection: {holder}, which has the lock, waits for the next one")
}

/// Whether nobody can end it, since whoever could waits for this one.
fn in_circle(resolved: &Resolved) -> bool {
    resolved.peers.as_ref().is_some_and(|peers| peers.circle)
}

/// What makes a wait a deadlock, if it is one.
fn turn(resolved: &Resolved) -> &'static str {
    match in_circle(resolved) {
        true => ", which waits for this one in turn: a deadlock",
        false => "",
    }
}

/// A pipe, or a pair of sockets, whose other end is with those who wait for this one.
fn circle_of_pipe(resolved: &Resolved) -> String {
    let on = on(&resolved.target);
    let (to, who) = match resolved.direction == Some(Direction::Send) {
        true => ("read", "the reader"),
        false => ("write", "the writer"),
    };
    let who = match &resolved.peers {
        Some(peers) if peers.others.is_empty() => "another thread of its own process".into(),
        _ => pipe_peer(who, resolved),
    };
    format!("for {who} to {to}{on}{}", turn(resolved))
}

fn mutex(wait: &Wait, resolved: &Resolved) -> String {
    let on = on(&resolved.target);
    let peers = resolved.peers.as_ref();
    let holder = match peers.and_then(|peers| peers.futex.as_ref()) {
        Some(FutexWord::Lock(holder)) => holder,
        Some(FutexWord::Nothing) => {
            return format!(
                "for a lock in memory whose owner is gone, or waits for it itself{on}: the C library lets it wait for ever"
            );
        }
        _ if in_circle(resolved) => {
            return format!(
                "for another thread to wake it{on}: no thread of its process can, as all of them wait, without a time-out"
            );
        }
        _ => &LockHolder::Unknown,
    };
    match holder {
        LockHolder::Thread(owner) if owner.pid == wait.thread.process.pid => {
            let end = if in_circle(resolved) { "" } else { "; it will wait until it is released" };
            format!(
                "for a lock in memory that thread {} ({}) holds{end}{}",
                owner.tid,
                owner.comm,
                turn(resolved)
            )
        }
        LockHolder::Thread(owner) => {
            let thread =
                if owner.tid == owner.pid { String::new() } else { format!(", thread {}", owner.tid) };
            format!(
                "for a lock in shared memory that {} (pid {}{thread}) holds{}",
                owner.comm,
                owner.pid,
                turn(resolved)
            )
        }
        LockHolder::Itself => {
            format!("for a lock in memory that it holds itself{on}: a deadlock, it will wait for ever")
        }
        LockHolder::Gone(id) if wait.call.is_private_futex() => format!(
            "for a lock in memory that thread {id} held{on}, which its process does not have: that has ended, or was \
             not copied when the process was forked; it will wait for ever"
        ),
        LockHolder::Gone(id) => format!(
            "for a lock in shared memory{on} whose holder, thread {id}, has ended without letting go; it will wait for ever"
        ),
        LockHolder::Readers(readers) => format!(
            "to write what {} {} for reading{on}; the kernel does not say who they are",
            count(*readers as usize, "thread"),
            if *readers == 1 { "holds" } else { "hold" }
        ),
        LockHolder::Unknown if in_circle(resolved) => format!(
            "for a lock in memory{on}: no thread of its process can let go, as all of them wait, without a time-out"
        ),
        LockHolder::Unknown => {
            format!("for a lock in memory, judging by the futex value{on}; its holder is unknown")
        }
    }
}

fn disk(syscall: Syscall, resolved: &Resolved) -> String {
    let target = &resolved.target;
    let obstacle = resolved.stack.as_ref().and_then(obstacle);
    match (obstacle, target) {
        // Which page it is says more.
        (_, Target::Page { .. }) => storage(syscall, target) + &server(resolved),
        (None | Some(Obstacle::Storage), _) => storage(syscall, target) + &server(resolved),
        (Some(obstacle), _) => held_up(obstacle, syscall, resolved),
    }
}

/// What holds a call up that the kernel's own functions name.
fn held_up(obstacle: Obstacle, syscall: Syscall, resolved: &Resolved) -> String {
    let (call, on) = (syscall.name(), on(&resolved.target));
    let who = behind(resolved);
    let aside = who.as_ref().map_or_else(String::new, |who| format!(", {who},"));
    match obstacle {
        Obstacle::Server(kind) => {
            let article = if kind.starts_with(['A', 'N', 'O', 'S']) { "an" } else { "a" };
            let server = server(resolved);
            format!("for the server of {article} {kind} file system to answer {call}{on}{server}")
        }
        Obstacle::Automount => format!("for the automount daemon{aside} to finish its mount, in {call}{on}"),
        Obstacle::Permission => format!("for a fanotify listener{aside} to allow {call}{on}"),
        Obstacle::Lease => {
            let holder = who.unwrap_or_else(|| "another process".into());
            format!("for {holder} to give up its lease, in {call}{on}")
        }
        Obstacle::Frozen => match mount(resolved) {
            Some(Mount { place, .. }) => {
                format!("for {call}{on} to go on: the file system at {place} is frozen")
            }
            None => format!("for {call}{on} to go on: the file system is frozen"),
        },
        Obstacle::MemoryLimit => {
            format!("for memory, in {call}{on}: its control group has reached its limit")
        }
        Obstacle::Writeback => format!("for storage to catch up with writes, in {call}{on}"),
        Obstacle::Userfault => "for the process that serves its page faults (userfaultfd)".into(),
        Obstacle::Lookup => {
            format!("for another thread's lookup of the same name, in {call}{on}{}", held_by(who))
        }
        Obstacle::KernelLock => match who {
            Some(who) => format!("for a lock inside the kernel that {who} holds, in {call}{on}"),
            None => format!("for a lock inside the kernel that another thread holds, in {call}{on}"),
        },
        Obstacle::Storage => storage(syscall, &resolved.target),
    }
}

fn held_by(who: Option<String>) -> String {
    who.map_or_else(String::new, |who| format!(": {who} makes it"))
}

fn mount(resolved: &Resolved) -> Option<&Mount> {
    resolved.peers.as_ref()?.mount.as_deref()
}

/// Who has to act before the kernel goes on, with how sure that is.
fn behind(resolved: &Resolved) -> Option<String> {
    let peers = resolved.peers.as_ref()?;
    let who = match &peers.owner {
        Some(owner) => format!("thread {} ({})", owner.tid, owner.comm),
        None => others(Some(peers))?,
    };
    Some(if peers.certain { who } else { format!("probably {who}") })
}

/// Who serves a file system: a process of this host, and what has become of it, or what the mount names.
fn server(resolved: &Resolved) -> String {
    let is = |of: fn(&Peers) -> bool| resolved.peers.as_ref().is_some_and(of);
    let stopped = is(|peers| peers.stopped);
    match (behind(resolved), mount(resolved)) {
        _ if !is(|peers| peers.role == Role::Server) => String::new(),
        (Some(who), _) if stopped => format!("; its server is {who}, which is stopped"),
        (Some(who), _) => format!("; its server is {who}"),
        (None, Some(_)) if is(|peers| peers.own) => "; its server is this very process".into(),
        (None, Some(mount)) if !mount.is_fuse() => {
            format!("; {} is mounted at {}", mount.source, mount.place)
        }
        (None, _) => String::new(),
    }
}

fn storage(syscall: Syscall, target: &Target) -> String {
    match target {
        Target::Page { path } => {
            let handed = match syscall {
                Syscall::PageFault => String::new(),
                call => format!(" it passed to {}", call.name()),
            };
            format!("for a page of memory{handed} to be read in, probably from {path}")
        }
        _ if syscall == Syscall::PageFault => {
            "for a page of memory to be read in: disk, NFS, FUSE or userfaultfd".into()
        }
        Target::File { pseudo_fs: true, .. } => {
            format!("for the kernel to finish {}{}", syscall.name(), on(target))
        }
        Target::Device { .. } | Target::Tty { .. } => {
            format!("for the device to finish {}{}", syscall.name(), on(target))
        }
        _ => format!("for storage to finish {}{}", syscall.name(), on(target)),
    }
}

fn next_request(resolved: &Resolved) -> String {
    let target = &resolved.target;
    match (&resolved.last_sender, facts(resolved)) {
        (Some(LastSender::Ours), Some(facts)) => {
            let since = ago(facts.sent());
            format!("for the next request from {}: the last one was answered {since} ago", remote(target))
        }
        (Some(LastSender::Nobody), _) => format!("for the first request from {}", remote(target)),
        _ => format!("for the client's next request{}", on(target)),
    }
}

fn on(target: &Target) -> String {
    match target {
        Target::None => String::new(),
        Target::Fds { watched } if watched.is_empty() => String::new(),
        other => format!(" on {other}"),
    }
}

fn remote(target: &Target) -> String {
    match target {
        Target::Tcp { remote, .. } => remote.to_string(),
        other => other.to_string(),
    }
}

fn facts(resolved: &Resolved) -> Option<&TcpFacts> {
    match &resolved.socket {
        SocketFacts::Tcp(facts) => Some(facts),
        _ => None,
    }
}

fn ago(since: Option<Duration>) -> String {
    since.map_or_else(|| "some time".into(), age)
}

/// `nginx (pid 812)`, and how many more.
fn others(peers: Option<&Peers>) -> Option<String> {
    let peers = peers?;
    let first = peers.others.first()?;
    let name = format!("{} (pid {})", first.comm, first.pid);
    Some(match peers.number() {
        1 => name,
        more => format!("{name} and {} more", more - 1),
    })
}

fn pipe_peer(role: &str, resolved: &Resolved) -> String {
    others(resolved.peers.as_ref()).unwrap_or_else(|| role.to_owned())
}

/// The peer's address, with its process if that is on this host.
fn peer(resolved: &Resolved) -> String {
    match others(resolved.peers.as_ref()) {
        Some(others) if unaccepted(resolved).is_some() => {
            let several = resolved.peers.as_ref().is_some_and(|peers| peers.number() > 1);
            let verb = if several { "listen" } else { "listens" };
            format!("{}, where {others} {verb}", remote(&resolved.target))
        }
        Some(others) => format!("{}, which is {others}", remote(&resolved.target)),
        None => remote(&resolved.target),
    }
}

/// What waits in the queue of those who listen, where nobody has accepted the connection; and who they are.
fn unaccepted(resolved: &Resolved) -> Option<(String, Backlog)> {
    let peers = resolved.peers.as_ref()?;
    let backlog = peers.backlog.filter(|backlog| backlog.waiting == QueueKind::Connections)?;
    Some((others(Some(peers))?, backlog))
}

fn connect(wait: &Wait, resolved: &Resolved) -> String {
    let listens = unaccepted(resolved);
    let Some(facts) = facts(resolved) else {
        let on = on(&resolved.target);
        return match listens {
            Some((who, backlog)) => format!("for {who} to accept its connection{on}: {backlog}"),
            None => format!("for its connection to be accepted{on}: the listener's queue is full"),
        } + &outlook(wait, resolved);
    };
    let tries = u64::from(facts.retransmits()) + 1;
    let kernels = "the kernel gives up after about two minutes";
    let outlook = match (resolved.timeout, left(wait, resolved)) {
        (Some(timeout), _) if looks_again(wait, timeout) => {
            format!("it looks again every {}, and {kernels}", interval(timeout))
        }
        (_, Some(left)) => format!("gives up in {}", age(left)),
        _ => kernels.into(),
    };
    let comma = if listens.is_some() { "," } else { "" };
    let listens = listens.map(|(_, backlog)| format!("; {backlog}")).unwrap_or_default();
    format!(
        "for {}{comma} to answer its connection attempt, {} so far{listens}; {outlook}",
        peer(resolved),
        count(tries as usize, "attempt"),
    )
}

/// A reply to a datagram.
fn reply_to_datagram(resolved: &Resolved, outlook: &str) -> String {
    /// Where name servers are asked (RFC 1035).
    const DOMAIN: u16 = 53;
    let (local, whom) = match &resolved.target {
        Target::Udp { local, remote: Some(remote), .. } if remote.port() == DOMAIN => {
            (local.port(), format!("the name server {remote}"))
        }
        Target::Udp { local, remote: Some(remote), .. } => (local.port(), remote.to_string()),
        target => (0, target.to_string()),
    };
    format!(
        "for a reply from {whom}: it has asked from port {local}, and nothing has ever come back there{outlook}"
    )
}

fn reply(wait: &Wait, resolved: &Resolved) -> String {
    let outlook = outlook(wait, resolved);
    if matches!(resolved.target, Target::Udp { .. }) {
        return reply_to_datagram(resolved, &outlook);
    }
    let Some(facts) = facts(resolved) else {
        let on = on(&resolved.target);
        if resolved.socket.unix().is_some_and(|facts| facts.unaccepted) {
            return match unaccepted(resolved) {
                Some((who, backlog)) => {
                    format!("for {who} to accept its connection{on}: {backlog}{outlook}")
                }
                None => format!("for its connection{on} to be accepted{outlook}"),
            };
        }
        let peer = others(resolved.peers.as_ref()).unwrap_or_else(|| "its peer".into());
        let unread = match resolved.socket.unix().map(|facts| facts.unread) {
            Some(Queued::Bytes) => "what it wrote has not been read yet".into(),
            Some(Queued::Messages(number)) => {
                format!("{} it sent not read yet", count(number as usize, "message"))
            }
            _ if resolved.peers.as_ref().is_some_and(is_mutual) => {
                "it has read everything sent to it and does nothing but wait for more: each waits for the other".into()
            }
            _ => "it has read everything sent to it, and none of its threads waits on this connection: it is busy, or stuck itself".into(),
        };
        return format!("for a reply from {peer}{on}: {unread}{outlook}");
    };
    let is_theirs = matches!(resolved.last_sender, Some(LastSender::Theirs | LastSender::Unknown));
    if is_theirs && resolved.peers.as_ref().is_some_and(|peers| peers.writes) {
        return format!(
            "for more from {}: it is sending, and nothing has come for {}: what it sends is lost on the way{outlook}",
            peer(resolved),
            ago(facts.received())
        );
    }
    let sent = facts.activity.map_or(0, |activity| activity.bytes_sent_once());
    let open = facts.unacknowledged();
    let said = match (sent, open, facts.retransmits()) {
        (0, 0, _) => {
            return format!(
                "for the first bytes from {}: connected, but neither side has sent anything{outlook}",
                peer(resolved)
            );
        }
        (sent, 0, _) => format!("{sent} bytes sent, all acknowledged, the last {} ago", ago(facts.sent())),
        (_, open, _) if facts.is_full() => {
            format!("{open} bytes not acknowledged: the peer does not read, and its buffer is full")
        }
        (_, open, 0) => format!("{open} bytes sent and not acknowledged yet"),
        (_, open, again) => format!(
            "{open} bytes sent and unacknowledged after {}: the peer cannot be reached",
            count(again.into(), "retransmission")
        ),
    };
    let heard = match &facts.activity {
        None => "what was received is unknown".into(),
        Some(TcpActivity { bytes_received: 0, .. }) => "nothing was ever received".to_owned(),
        Some(TcpActivity { sent: Some(sent), received: Some(received), .. }) if sent <= received => {
            format!("nothing received since; its last answer came {} ago", age(*received))
        }
        Some(_) => "nothing received since".to_owned(),
    };
    let listens = unaccepted(resolved)
        .map(|(_, backlog)| format!("nobody has accepted the connection: {backlog}; "))
        .unwrap_or_default();
    format!("for a reply from {}: {listens}{said}; {heard}{outlook}", peer(resolved))
}

fn send(resolved: &Resolved) -> String {
    let on_it = on(&resolved.target);
    match &resolved.target {
        Target::Tty { .. } => return to_terminal(resolved),
        Target::MessageQueue { .. } => {
            let taker = others(resolved.peers.as_ref());
            let taker = taker.map_or_else(String::new, |who| format!("; {who} took a message from it last"));
            return format!("to put a message{on_it}: it is full{taker}");
        }
        _ => {}
    }
    let Some(facts) = facts(resolved) else {
        return match others(resolved.peers.as_ref()) {
            Some(others) => {
                let several = resolved.peers.as_ref().is_some_and(|peers| peers.number() > 1);
                let verb = if several { "do not read it" } else { "does not read it" };
                let backlog = resolved.peers.as_ref().and_then(|peers| peers.backlog);
                let backlog = backlog.map(|backlog| format!(", {backlog}")).unwrap_or_default();
                format!("to write{on_it}: {others} {verb}{backlog}")
            }
            None => format!("to write{}: it is full and nobody reads it", on_it),
        };
    };
    let open = facts.unacknowledged();
    let why = if facts.retransmits() > 0 && facts.window() != Some(0) {
        format!("no answer to {}: it cannot be reached", count(facts.retransmits().into(), "retransmission"))
    } else {
        "it does not read, and its buffer is full".to_owned()
    };
    format!("to send to {}: {open} bytes not acknowledged; {why}", peer(resolved))
}

/// Of a writer to a terminal: its output was stopped, or nobody reads the other end.
fn to_terminal(resolved: &Resolved) -> String {
    let on = on(&resolved.target);
    let who = others(resolved.peers.as_ref());
    match (resolved.is_output_stopped(), resolved.flow, who) {
        (true, Some(_), _) => {
            format!("to write{on}: output there is stopped, as by Ctrl-S; Ctrl-Q lets it go on")
        }
        (true, None, Some(who)) => format!(
            "to write{on}: output there is probably stopped, as by Ctrl-S, since {who} waits for it; Ctrl-Q lets it go on"
        ),
        (_, _, Some(who)) => format!("to write{on}: {who} has its other end and does not read it"),
        (_, _, None) => format!("to write{on}: its other end is not read, or its output is stopped"),
    }
}

fn quiet(resolved: &Resolved) -> String {
    let Some(facts) = facts(resolved) else {
        return format!("for the next message{}", on(&resolved.target));
    };
    if facts.activity.is_none() {
        return format!("for more from {}: who spoke last, and when, is not visible here", peer(resolved));
    }
    let spoke = match resolved.last_sender {
        Some(LastSender::Unknown) => "it is unknown who spoke last; the last bytes from it arrived",
        _ => "it sent the last bytes",
    };
    let guess = match silence(resolved) {
        Silence::CutOff => "it waits for nothing on this connection: the rest of an answer is missing",
        Silence::Mutual => {
            "it does nothing but wait for more from this end: the rest of an answer is missing, or of a question"
        }
        Silence::AtRest => "it serves this connection and has nothing to say: a subscription, most likely",
        Silence::Unknown => "the rest of an answer is missing, or a subscription has nothing to say",
    };
    format!("for more from {}: {spoke} {} ago: {guess}", peer(resolved), ago(facts.received()))
}

fn lock(wait: &Wait, resolved: &Resolved) -> String {
    let on = on(&resolved.target);
    if let Some(semaphore) = resolved.peers.as_ref().and_then(|peers| peers.semaphore) {
        let Semaphore { set, number, changed_by, .. } = semaphore;
        let who = match (others(resolved.peers.as_ref()), changed_by) {
            (Some(who), _) => format!("last changed by {who}"),
            (None, Some(pid)) if pid == wait.thread.process.pid => "last changed by itself".into(),
            (None, Some(pid)) => {
                format!("last changed by pid {pid}, which has exited: there may be nobody left to release it")
            }
            (None, None) => "and who changed it last is unknown".into(),
        };
        return format!("for semaphore {number} of set {set}, {who}");
    }
    match others(resolved.peers.as_ref()) {
        Some(holders) => {
            let several = resolved.peers.as_ref().is_some_and(|peers| peers.number() > 1);
            format!("for the lock{on} that {holders} {}", if several { "hold" } else { "holds" })
        }
        None if wait.call.operation() == Operation::Semaphore => format!("for a semaphore{on}"),
        None => format!("for a lock{on} that another process holds"),
    }
}

/// How much of the call's own time-out is left.
fn left(wait: &Wait, resolved: &Resolved) -> Option<Duration> {
    resolved.timeout.map(|timeout| timeout.saturating_sub(wait.asleep()))
}

/// Whether a call with this time-out has been made before in the same wait: there was time for a whole time-out before this sleep, with
/// nothing moved.
fn looks_again(wait: &Wait, timeout: Duration) -> bool {
    wait.age + timeout / 50 >= wait.asleep() + timeout
}

/// What will come of it if nothing happens: begins with `; `, or is empty.
fn outlook(wait: &Wait, resolved: &Resolved) -> String {
    if let (Some(timeout), Some(left)) = (resolved.timeout, left(wait, resolved)) {
        if wait.call.restarted {
            return format!(
                "; its {} time-out started before it was interrupted, so the time left is unknown",
                age(timeout)
            );
        }
        return match looks_again(wait, timeout) {
            true => format!("; it polls every {} and never gives up", interval(timeout)),
            false => format!("; it stops waiting in {}", age(left)),
        };
    }
    let Some(facts) = facts(resolved) else { return "; no time-out: it will wait for ever".into() };
    let Some(internals) = &facts.internals else {
        return "; whether the connection has a time-out is not visible here".into();
    };
    if facts.unacknowledged() > 0 && facts.window() != Some(0) {
        let patience = age(internals.patience());
        return match (facts.gives_up(), internals.user_timeout) {
            (Some(left), _) => format!("; the kernel gives up in {}", age(left)),
            (None, None) => format!("; no time-out: the kernel gives up after {patience} of retransmissions"),
            (None, Some(_)) => format!("; the kernel gives up after {patience}"),
        };
    }
    if let Some(left) = facts.gives_up() {
        let probes = facts.activity.map_or(0, |activity| activity.probes);
        let vain = count(probes.into(), "keepalive probe");
        return format!("; no answer to {vain}: the kernel gives up in {}", age(left));
    }
    // A peer that is there and does not read answers the kernel's probes, for ever.
    match (facts.keepalive, resolved.direction == Some(Direction::Send)) {
        (_, true) => "; no send time-out: it will wait until the peer reads, or is gone".into(),
        (true, _) => "; no receive time-out; keepalive would notice a dead host, not a silent one".into(),
        (false, _) => "; no receive time-out, keepalive off: it will wait for ever".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::verdict::{judge, tests as samples},
        model::tcp::tests::facts as sample,
        model::{stack::KernelStack, wait::OutputFlow},
        resolve::{mounts::MountTable, peers::Peer},
    };

    fn of(syscall: Syscall, resolved: &Resolved) -> String {
        judge(&samples::wait(syscall, [0; 6]), resolved).sentence
    }

    #[test]
    fn an_unanswered_request_says_what_was_sent_and_that_nothing_comes() {
        assert_eq!(
            of(Syscall::Read, &samples::on(Syscall::Read, samples::tcp())),
            "waiting 1m 0s for a reply from 10.0.0.2:443: 517 bytes sent, all acknowledged, the last 1m 0s ago; \
             nothing was ever received; no receive time-out, keepalive off: it will wait for ever"
        );
        // After 1.4 s it was sent for the third time, after 3, 6.2, 12.6 and 25.4 s it will be once more.
        let lost = TcpFacts { send_queue: 517, ..sample(517, 0) }
            .with_activity(|of| (of.retransmits, of.sent) = (3, Some(Duration::from_secs(10))))
            .with_internals(|of| {
                of.retransmission = Duration::from_millis(1600);
                of.user_timeout = Some(Duration::from_secs(20));
            });
        let resolved = Resolved {
            socket: SocketFacts::Tcp(Box::new(lost)),
            ..samples::on(Syscall::Read, samples::tcp())
        };
        assert_eq!(
            of(Syscall::Read, &resolved),
            "waiting 1m 0s for a reply from 10.0.0.2:443: 517 bytes sent and unacknowledged after 3 \
             retransmissions: the peer cannot be reached; nothing was ever received; the kernel gives up in 14s"
        );
        let lost = lost.with_activity(|of| of.retransmits = 0).with_internals(|of| of.user_timeout = None);
        let resolved = Resolved {
            socket: SocketFacts::Tcp(Box::new(lost)),
            ..samples::on(Syscall::Read, samples::tcp())
        };
        let end =
            "nothing was ever received; no time-out: the kernel gives up after 15m 24s of retransmissions";
        assert!(of(Syscall::Read, &resolved).ends_with(end), "{}", of(Syscall::Read, &resolved));
        let full = lost.with_activity(|of| (of.window, of.probes) = (Some(0), 3));
        let resolved = Resolved {
            socket: SocketFacts::Tcp(Box::new(full)),
            ..samples::on(Syscall::Read, samples::tcp())
        };
        let said = of(Syscall::Read, &resolved);
        assert!(
            said.contains("517 bytes not acknowledged: the peer does not read, and its buffer is full"),
            "{said}"
        );
        let long_ago = Duration::from_secs(7861);
        let dead = TcpFacts { keepalive: true, ..sample(517, 10) }
            .with_activity(|of| (of.probes, of.acknowledged, of.received) = (8, long_ago, Some(long_ago)));
        let resolved = Resolved {
            socket: SocketFacts::Tcp(Box::new(dead)),
            ..samples::on(Syscall::Read, samples::tcp())
        };
        let said = of(Syscall::Read, &resolved);
        assert!(said.ends_with("; no answer to 8 keepalive probes: the kernel gives up in 14s"), "{said}");
    }

    #[test]
    fn a_time_out_says_when_it_ends() {
        let mut resolved = samples::on(Syscall::Poll, samples::tcp());
        resolved.direction = Some(Direction::Receive);
        resolved.timeout = Some(Duration::from_secs(74));
        assert!(of(Syscall::Poll, &resolved).ends_with("; it stops waiting in 14s"));
        let mut wait = samples::wait(Syscall::Poll, [0; 6]);
        wait.sleep_began_ns = 59_500_000_000;
        resolved.timeout = Some(Duration::from_secs(1));
        assert!(judge(&wait, &resolved).sentence.ends_with("; it polls every 1s and never gives up"));
        // One long look that began a while after the last progress is the first one.
        resolved.timeout = Some(Duration::from_secs(600));
        assert!(judge(&wait, &resolved).sentence.ends_with("; it stops waiting in 9m 59s"));
        wait.call.restarted = true;
        let interrupted =
            "; its 10m 0s time-out started before it was interrupted, so the time left is unknown";
        assert!(judge(&wait, &resolved).sentence.ends_with(interrupted));
    }

    /// A wait that sleeps in this function on a path, behind somebody.
    fn held_up_by(function: &str, certain: bool, stopped: bool, mount: &str) -> Resolved {
        let path = "/m/f".to_owned();
        let target = Target::File { path, inode: None, deleted: false, pseudo_fs: false };
        let others = [Peer { pid: 812, comm: "sshfs".into() }].into();
        let mount = MountTable::parse(mount).of_path("/m/f").cloned().map(Into::into);
        let served = ["fuse", "folio", "rpc"].iter().any(|begin| function.starts_with(begin));
        let role = if served { Role::Server } else { Role::LockHolder };
        let peers = Some(Peers { others, role, certain, stopped, mount, ..Peers::default() });
        let stack = Some(KernelStack::parse(function));
        Resolved { peers, stack, ..samples::on(Syscall::Stat, target) }
    }

    #[test]
    fn whom_the_kernel_waits_for_is_named() {
        let (fuse, nfs) = ("36 28 0:45 / /m rw - fuse.sshfs h: rw", "36 28 0:46 / /m rw - nfs4 h:/x rw");
        for (function, certain, stopped, mount, says) in [
            (
                "fuse_lookup",
                true,
                true,
                fuse,
                "for the server of a FUSE file system to answer stat on /m/f; its server is sshfs (pid 812), which is stopped",
            ),
            (
                "fuse_lookup",
                false,
                false,
                fuse,
                "for the server of a FUSE file system to answer stat on /m/f; its server is probably sshfs (pid 812)",
            ),
            (
                "folio_wait_bit_common",
                true,
                true,
                fuse,
                "for storage to finish stat on /m/f; its server is sshfs (pid 812), which is stopped",
            ),
            (
                "fanotify_get_response",
                true,
                false,
                "",
                "for a fanotify listener, sshfs (pid 812), to allow stat on /m/f",
            ),
            (
                "autofs_wait",
                true,
                false,
                "",
                "for the automount daemon, sshfs (pid 812), to finish its mount, in stat on /m/f",
            ),
            (
                "__mutex_lock",
                false,
                false,
                "",
                "for a lock inside the kernel that probably sshfs (pid 812) holds, in stat on /m/f",
            ),
            (
                "d_alloc_parallel",
                true,
                false,
                "",
                "for another thread's lookup of the same name, in stat on /m/f: sshfs (pid 812) makes it",
            ),
        ] {
            let said = of(Syscall::Stat, &held_up_by(function, certain, stopped, mount));
            assert_eq!(said, format!("waiting 1m 0s {says}"));
        }
        let mut resolved = held_up_by("rpc_wait_bit_killable", true, false, nfs);
        if let Some(peers) = &mut resolved.peers {
            peers.others = [].into();
        }
        let says = "for the server of an NFS file system to answer stat on /m/f; h:/x is mounted at /m";
        assert_eq!(of(Syscall::Stat, &resolved), format!("waiting 1m 0s {says}"));
        let mut resolved = held_up_by("fuse_lookup", true, false, fuse);
        if let Some(peers) = &mut resolved.peers {
            (peers.others, peers.own) = ([].into(), true);
        }
        assert!(of(Syscall::Stat, &resolved).ends_with("; its server is this very process"));
    }

    #[test]
    fn a_terminal_says_why_it_takes_nothing() {
        let terminal = |flow, waits| {
            let others = [Peer { pid: 812, comm: "tmux".into() }].into();
            let peers = Some(Peers { others, waits, certain: true, ..Peers::default() });
            let target = Target::Tty { path: "/dev/pts/3".into() };
            let resolved = Resolved { peers, flow, ..samples::on(Syscall::Write, target) };
            of(Syscall::Write, &resolved)
        };
        let stopped = "waiting 1m 0s to write on /dev/pts/3: output there is stopped, as by Ctrl-S; Ctrl-Q lets it go on";
        assert!(terminal(Some(OutputFlow::Stopped), Some(false)).starts_with(stopped));
        assert!(
            terminal(None, Some(true))
                .contains("is probably stopped, as by Ctrl-S, since tmux (pid 812) waits")
        );
        for (flow, waits) in [(Some(OutputFlow::Runs), Some(true)), (None, Some(false)), (None, None)] {
            let said = terminal(flow, waits);
            assert!(said.contains("tmux (pid 812) has its other end and does not read it"), "{said}");
        }
    }

    #[test]
    fn who_is_at_the_other_end_is_named() {
        let peer = Peer { pid: 812, comm: "mariadbd".into() };
        let peers = Some(Peers { others: [peer].into(), waits: Some(false), ..Peers::default() });
        let target = Target::Unix {
            path: Some("/run/db".into()),
            inode: 1,
            peer_inode: Some(2),
            peer_pid: None,
            datagram: false,
            client: true,
        };
        let socket = SocketFacts::Unix(Box::default());
        let resolved = Resolved { socket, peers: peers.clone(), ..samples::on(Syscall::Read, target) };
        let sentence = of(Syscall::Read, &resolved);
        assert!(sentence.contains("for a reply from mariadbd (pid 812) on unix /run/db"), "{sentence}");
        let file = Target::File { path: "/x.lock".into(), inode: None, deleted: false, pseudo_fs: false };
        let mut resolved = Resolved { peers, ..samples::on(Syscall::Flock, file) };
        let said = "waiting 1m 0s for the lock on /x.lock that mariadbd (pid 812)";
        assert_eq!(of(Syscall::Flock, &resolved), format!("{said} holds"));
        if let Some(peers) = &mut resolved.peers {
            peers.more = 4992;
        }
        assert_eq!(of(Syscall::Flock, &resolved), format!("{said} and 4992 more hold"));
    }
}
