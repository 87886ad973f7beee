//! The sockets of a process by state, and the requests it has sent that nobody has answered: what an event loop waits
//! for, whose thread only waits for "any of its events".

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use anyhow::Result;
use procfs::net::{TcpState, UnixState};

use crate::{
    assess::pipeline::is_young,
    collect::{Source, UNCLOSED_AGE, sockets::NetTables},
    model::backlog::Backlog,
    model::file::SocketKind,
    model::holder::Holding,
    model::target::Target,
    model::tcp::{self, LastSender},
    model::wait::{FdState, ProcessId, SocketFacts, ThreadId},
    procfs::Entry,
    resolve::{Resolved, Resolver},
};

/// Connections that are looked into.
const CONNECTIONS_MAX: usize = 256;

/// A request without an answer, which the process has sent or received.
#[derive(Debug)]
pub struct Unanswered {
    /// The connection's fd.
    pub fd: i32,
    /// What is known of it.
    pub resolved: Resolved,
    /// Since when nothing has moved.
    pub since: Duration,
}

/// Connections that the other end has closed and the process has not. A pool may have some, and closes each when it is used next; who
/// has more and more of them has forgotten them.
#[derive(Debug)]
pub struct UnclosedConnections {
    /// Their descriptors, the lowest first.
    pub fds: Vec<i32>,
    /// How long ago the other end closed the first of them, by the kernel's stamps of those that were looked into.
    pub oldest: Duration,
}

/// A queue of a socket in which something waits.
#[derive(Debug)]
pub struct QueuedSocket {
    /// The socket's fd.
    pub fd: i32,
    /// What it is.
    pub target: Target,
    /// What waits.
    pub backlog: Backlog,
    /// The socket as its holders have it.
    pub holding: Holding,
}

/// The sockets of a process.
#[derive(Debug, Default)]
pub struct Sockets {
    /// How many there are of each kind and state.
    pub states: BTreeMap<String, usize>,
    /// Requests without an answer, oldest first.
    pub unanswered: Vec<Unanswered>,
    /// Requests of which only session tickets may have come since, oldest first: that is no answer, but some answers are as long.
    pub perhaps_unanswered: Vec<Unanswered>,
    /// Requests that others have sent it and that it has not answered, oldest first. Who only takes messages has them for ever.
    pub owed: Vec<Unanswered>,
    /// Those that the other end closed a minute ago or more, if there are any.
    pub unclosed: Option<UnclosedConnections>,
    /// Connections that were too many to look into.
    pub left_out: usize,
    /// Queues in which something waits, the longest first.
    pub queued: Vec<QueuedSocket>,
}

/// Looks at a process's sockets; those that cannot be read are not there.
pub fn of(process: ProcessId, resolver: &mut Resolver, source: &mut dyn Source) -> Result<Sockets> {
    let mut sockets = Sockets::default();
    let reads = resolver.reads();
    let socket = |entry: &Entry| {
        let inode = entry.link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()?;
        Some((inode, entry.name.parse().ok()?))
    };
    let fds: HashMap<u64, i32> = reads.links(process, "fd").iter().filter_map(socket).collect();
    if fds.is_empty() {
        return Ok(sockets);
    }
    let states = &mut sockets.states;
    let mut add = |label: String, count: usize| {
        if count > 0 {
            *states.entry(label).or_default() += count;
        }
    };
    let NetTables { tcp, udp, unix } = NetTables::read(process, reads);
    let own: Vec<_> = tcp.iter().filter(|socket| fds.contains_key(&socket.inode)).collect();
    for socket in &own {
        let state = crate::model::tcp::TcpState::of(socket.state.clone() as u8);
        add(format!("tcp {}", state.name()), 1);
    }
    add("udp".into(), udp.iter().filter(|socket| fds.contains_key(&socket.inode)).count());
    add("unix".into(), unix.iter().filter(|socket| fds.contains_key(&socket.inode)).count());
    // Of other families, or of another network namespace.
    let known: usize = sockets.states.values().sum();
    if fds.len() > known {
        sockets.states.insert("other".into(), fds.len() - known);
    }
    let ports: HashSet<u16> = tcp
        .iter()
        .filter(|socket| socket.state == TcpState::Listen)
        .map(|socket| socket.local_address.port())
        .collect();
    let connections = |is_accepted: bool| {
        let fds = own
            .iter()
            .filter(|socket| matches!(socket.state, TcpState::Established | TcpState::CloseWait))
            .filter(|socket| ports.contains(&socket.local_address.port()) == is_accepted)
            .filter_map(|socket| fds.get(&socket.inode).copied());
        let mut fds: Vec<i32> = fds.collect();
        fds.sort_unstable();
        let left_out = fds.len().saturating_sub(CONNECTIONS_MAX);
        fds.truncate(CONNECTIONS_MAX);
        (fds, left_out)
    };
    let ((clients, clients_left), (accepted, accepted_left)) = (connections(false), connections(true));
    sockets.left_out = clients_left + accepted_left;
    let thread = ThreadId { process, tid: process.pid, start_ns: process.start_ns };
    let listening = own
        .iter()
        .filter(|socket| socket.state == TcpState::Listen)
        .filter_map(|socket| fds.get(&socket.inode).copied());
    // Those of unix sockets that have a name and no peer; which of them listen, the kernel says.
    let named = unix
        .iter()
        .filter(|socket| {
            // One of datagrams counts as connected as soon as somebody connects to it.
            let has_no_peer = socket.state != UnixState::CONNECTED
                || SocketKind::of(socket.socket_type) == SocketKind::Datagram;
            socket.path.is_some() && has_no_peer
        })
        .filter_map(|socket| fds.get(&socket.inode).copied());
    let mut servers: Vec<i32> = listening.chain(named).collect();
    servers.sort_unstable();
    servers.truncate(CONNECTIONS_MAX);
    sockets.queued = queued(resolver.connections(thread, &servers, source)?);
    let clients = resolver.connections(thread, &clients, source)?;
    // Where the listener is another process's, they are among the others.
    let (servers, clients): (Vec<_>, Vec<_>) =
        clients.into_iter().partition(|(_, resolved)| resolved.is_server());
    let accepted = resolver.connections(thread, &accepted, source)?.into_iter().chain(servers);
    // Whoever has closed its end waits for nothing more.
    let accepted = accepted.filter(|(_, resolved)| state_of(resolved) == Some(tcp::TcpState::Established));
    sockets.owed = spoken_last(accepted, LastSender::Theirs);
    sockets.perhaps_unanswered = spoken_last(clients.iter().cloned(), LastSender::Tickets);
    sockets.unanswered = spoken_last(clients, LastSender::Ours);
    let closed = own.iter().filter(|socket| socket.state == TcpState::CloseWait);
    let mut closed: Vec<i32> = closed.filter_map(|socket| fds.get(&socket.inode).copied()).collect();
    closed.sort_unstable();
    let some = &closed[..closed.len().min(CONNECTIONS_MAX)];
    sockets.unclosed = unclosed(closed.clone(), resolver.connections(thread, some, source)?);
    Ok(sockets)
}

fn state_of(resolved: &Resolved) -> Option<tcp::TcpState> {
    resolved.socket.tcp().map(|facts| facts.state)
}

/// Those of the connections with these descriptors that the other end closed long ago, as far as they have been looked into.
fn unclosed(mut fds: Vec<i32>, seen: Vec<(i32, Resolved)>) -> Option<UnclosedConnections> {
    let closed = |(fd, resolved): &(i32, Resolved)| Some((*fd, resolved.socket.tcp()?.closed_by_peer()?));
    let closed: HashMap<i32, Duration> = seen.iter().filter_map(closed).collect();
    fds.retain(|fd| closed.get(fd).is_none_or(|ago| *ago >= UNCLOSED_AGE));
    let oldest = closed.values().copied().max().filter(|oldest| *oldest >= UNCLOSED_AGE)?;
    Some(UnclosedConnections { fds, oldest })
}

/// Of these sockets, those in whose queues something waits, the longest first.
fn queued(servers: Vec<(i32, Resolved)>) -> Vec<QueuedSocket> {
    let queue = |(fd, resolved): (i32, Resolved)| {
        let backlog = resolved.socket.backlog().filter(|backlog| backlog.number > 0)?;
        let FdState::Open(file) = &resolved.file else { return None };
        let holding = Holding::of(file, resolved.socket.tcp().and_then(|facts| facts.netns));
        Some(QueuedSocket { fd, target: resolved.target, backlog, holding })
    };
    let mut queued: Vec<QueuedSocket> = servers.into_iter().filter_map(queue).collect();
    queued.sort_by_key(|queued| Reverse(queued.backlog.number));
    queued
}

/// Of these connections, those on which this end has spoken last and nothing has moved for a second, the oldest first.
fn spoken_last(connections: impl IntoIterator<Item = (i32, Resolved)>, by: LastSender) -> Vec<Unanswered> {
    let request = |(fd, resolved): (i32, Resolved)| {
        let SocketFacts::Tcp(facts) = &resolved.socket else { return None };
        let since = facts.unmoved().filter(|since| !is_young(*since))?;
        (resolved.last_sender == Some(by)).then_some(Unanswered { fd, resolved, since })
    };
    let mut requests: Vec<Unanswered> = connections.into_iter().filter_map(request).collect();
    requests.sort_by_key(|request| Reverse(request.since));
    requests
}
