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
    let class = by_evidence(wait, resolved);
    if resolved.is_deadlock() {
        return in_circle(class);
    }
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

/// What one waits for of whom is known that they never give it.
fn in_circle(class: Class) -> Class {
    match class {
        // Its end would come by itself otherwise.
        Class::Child => Class::Child,
        Class::Futex => Class::Mutex,
        class if class.level() == Level::Stuck => class,
        _ => Class::Orphan,
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
        Target::Tcp { .. } => of_tcp(wait, resolved),
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
fn of_tcp(wait: &Wait, resolved: &Resolved) -> Class {
    let last = resolved.last_sender.unwrap_or(LastSender::Unknown);
    if resolved.is_server() {
        return match last {
            LastSender::Theirs => Class::Request,
            LastSender::Ours | LastSender::Nobody | LastSender::Unknown | LastSender::Tickets => Class::Peer,
        };
    }
    match last {
        LastSender::Ours | LastSender::Nobody => Class::Reply,
        // A thread that does nothing but read it wants an answer. An event loop's connection may as well be at rest after a short one.
        LastSender::Tickets if wait.call.operation() != Operation::Epoll => Class::Reply,
        // It has something to say, which does not come.
        _ if resolved.peers.as_ref().is_some_and(|peers| peers.writes) => Class::Reply,
        LastSender::Theirs | LastSender::Tickets | LastSender::Unknown => Class::Quiet,
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
        Some(peers) if peers.others.is_empty() && peers.own => {
            // Another thread of the process, or a handler of a signal, may still write; alone it never will.
            if peers.alone { Class::Orphan } else { Class::Events }
        }
        _ => Class::Pipe,
    }
}

#[cfg(test)]
pub mod tests;
