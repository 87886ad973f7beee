//! One sentence in plain English for a wait: how long, for what and on whom, with the evidence and what will come of it.
//!
//! Part of `diagnose`, layer 3, pure. Here is which words a class gets, and how peers and targets are named; `connections` has the words for
//! what comes and goes on sockets, pipes and terminals, `locks` those for locks and deadlocks, `storage` those for what the kernel
//! holds up, and `outlook` says what will come of a wait.

mod connections;
mod locks;
mod outlook;
mod storage;

use self::{
    connections::{ago, connect, next_request, quiet, reply, send},
    locks::{deadlock, lock, mutex, turn_to_accept},
    outlook::outlook,
    storage::disk,
};
use crate::{
    model::class::Class,
    model::syscalls::{Direction, Operation, Syscall},
    model::target::Target,
    model::tcp::TcpFacts,
    model::wait::{SocketFacts, Wait},
    resolve::Resolved,
    resolve::futex::FutexWord,
    resolve::peers::Peers,
    util::human::age,
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
    if resolved.is_deadlock() {
        return deadlock(wait, resolved);
    }
    match class {
        Class::Connect => connect(wait, resolved),
        Class::Reply => reply(wait, resolved),
        Class::Send => send(resolved) + &outlook(),
        Class::Lock => lock(wait, resolved),
        Class::Mutex => mutex(wait, resolved),
        Class::Disk => disk(wait.call.syscall, resolved),
        Class::Fifo => {
            format!("for another process to open {target}{}: none has", mode_of_other_end(wait))
        }
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
        Class::Pipe if out => format!("for {} to read{}", pipe_peer("the reader", resolved), on_full(target)),
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
            Some(peers) if peers.takes_turns => turn_to_accept(wait, peers),
            _ => format!("for new connections{}", on(target)),
        },
        Class::Events => match target {
            Target::Unreadable { reason } => format!("for events on unknown fds: {reason}"),
            target => format!("for any of its events{}", on(target)),
        },
        Class::Tty => format!("for input{}", on(target)),
        Class::Timer => "for a timer".into(),
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

/// For what another process has to open a named pipe that is being opened.
fn mode_of_other_end(wait: &Wait) -> &'static str {
    let flags = match wait.call.syscall {
        Syscall::Open => wait.call.args[1],
        Syscall::Openat => wait.call.args[2],
        _ => return "",
    };
    match flags as i32 & libc::O_ACCMODE {
        libc::O_RDONLY => " for writing",
        libc::O_WRONLY => " for reading",
        _ => "",
    }
}

fn on(target: &Target) -> String {
    match target {
        Target::None => String::new(),
        Target::Fds { watched } if watched.is_empty() => String::new(),
        other => format!(" on {other}"),
    }
}

/// The same of one that is written to.
fn on_full(target: &Target) -> String {
    match target {
        Target::Pipe { .. } | Target::Fifo { .. } => format!(" on the full {target}"),
        other => on(other),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::verdict::{judge, tests as samples};

    pub fn of(syscall: Syscall, resolved: &Resolved) -> String {
        judge(&samples::wait(syscall, [0; 6]), resolved).sentence
    }
}
