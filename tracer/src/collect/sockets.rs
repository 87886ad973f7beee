//! Which socket is behind an inode number? For the source `proc`: the tables in `/proc/PID/net` name the addresses; the
//! kernel's socket diagnostics (`man 7 sock_diag`), where it has them, add a connection's stamps and counters, and a unix
//! socket's peer.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    os::{fd::AsFd, unix::ffi::OsStrExt},
    time::Duration,
};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, Timer, nlas::Nla as InetNla},
    unix::{
        ShowFlags, StateFlags as UnixStateFlags, UnixRequest, UnixResponse,
        nlas::{Nla as UnixNla, UnixDiagName},
    },
};
use netlink_sys::{Socket as Netlink, protocols::NETLINK_SOCK_DIAG};
use procfs::{
    FromBufRead, FromBufReadSI, current_system_info,
    net::{TcpNetEntries, TcpNetEntry, UdpNetEntries, UdpNetEntry, UnixNetEntries, UnixNetEntry, UnixState},
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{
    model::backlog::{Backlog, QueueKind},
    model::file::{Addresses, OpenSocket, SocketFamily, SocketKind, Transport},
    model::tcp::{TcpActivity, TcpFacts, TcpState},
    model::wait::{ProcessId, Queued, SocketFacts, UnixFacts},
    procfs::{Entry, Reads, by_pid},
};

/// A socket as far as it is seen from outside the kernel.
#[derive(Clone, Debug)]
pub struct KnownSocket {
    /// What kind of socket it is.
    pub open: OpenSocket,
    /// What is known of its connection.
    pub facts: SocketFacts,
}

/// The sockets of each network namespace and of each process asked about, read once for each snapshot.
#[derive(Default)]
pub struct SocketTables {
    /// By network namespace and inode number.
    all: HashMap<u64, HashMap<u64, KnownSocket>>,
    /// Inode numbers, by the process that holds them.
    held: HashMap<u32, HashSet<u64>>,
}

impl SocketTables {
    /// The socket with this inode number, in the network namespace of a process. `None`: it is of another kind, it is
    /// in a namespace the process has left, or the namespace is not ours to look into.
    pub fn get(&mut self, process: ProcessId, inode: u64, reads: &mut Reads) -> Option<&KnownSocket> {
        let netns = reads.what(process, "ns/net").ok()?.inode;
        self.all.entry(netns).or_insert_with(|| read(process, netns, reads)).get(&inode)
    }

    /// Whether a process has the socket with this inode number open.
    pub fn holds(&mut self, process: ProcessId, inode: u64, reads: &mut Reads) -> bool {
        self.held.entry(process.pid).or_insert_with(|| held(process, reads)).contains(&inode)
    }
}

/// Inode numbers of the sockets that a process has open.
fn held(process: ProcessId, reads: &mut Reads) -> HashSet<u64> {
    let inode = |entry: Entry| entry.link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    reads.links(process, "fd").into_iter().filter_map(inode).collect()
}

/// All sockets of a process's network namespace, by inode number.
fn read(process: ProcessId, netns: u64, reads: &mut Reads) -> HashMap<u64, KnownSocket> {
    let mut sockets = HashMap::new();
    let tables = NetTables::read(process, reads);
    for entry in &tables.tcp {
        sockets.insert(entry.inode, tcp(entry, netns));
    }
    for entry in &tables.udp {
        sockets.insert(entry.inode, udp(entry));
    }
    let mut connected = Vec::new();
    for entry in tables.unix {
        if entry.state == UnixState::CONNECTED {
            connected.push(entry.inode);
        }
        sockets.insert(entry.inode, unix(&entry));
    }
    add(&mut sockets, &diagnostics(process, netns, reads));
    for inode in connected {
        // Without its peer a connection would look like a listener.
        if let Some(socket) = sockets.get_mut(&inode)
            && let SocketFacts::Unix(facts) = &socket.facts
            && facts.peer_inode.is_none()
            && !facts.unaccepted
        {
            socket.facts = SocketFacts::None;
        }
    }
    sockets
}

/// The tables of a network namespace, as `/proc/PID/net` has them. A kernel without IPv6 has none of it.
#[derive(Default)]
pub struct NetTables {
    /// TCP sockets of both families.
    pub tcp: Vec<TcpNetEntry>,
    /// UDP sockets of both families.
    pub udp: Vec<UdpNetEntry>,
    /// Unix sockets.
    pub unix: Vec<UnixNetEntry>,
}

impl NetTables {
    /// Of the namespace that a process is in.
    pub fn read(process: ProcessId, reads: &mut Reads) -> Self {
        let mut tables = Self { tcp: Self::read_tcp(process, reads), ..Self::default() };
        for name in ["net/udp", "net/udp6"] {
            let table = reads
                .table(process, name)
                .and_then(|text| UdpNetEntries::from_buf_read(&text[..], current_system_info()).ok());
            tables.udp.extend(table.into_iter().flat_map(|table| table.0));
        }
        let table = reads.table(process, "net/unix");
        let table = table.and_then(|text| UnixNetEntries::from_buf_read(&text[..]).ok());
        tables.unix.extend(table.into_iter().flat_map(|table| table.0));
        tables
    }

    /// The TCP sockets alone.
    pub fn read_tcp(process: ProcessId, reads: &mut Reads) -> Vec<TcpNetEntry> {
        let mut all = Vec::new();
        for name in ["net/tcp", "net/tcp6"] {
            let table = reads
                .table(process, name)
                .and_then(|text| TcpNetEntries::from_buf_read(&text[..], current_system_info()).ok());
            all.extend(table.into_iter().flat_map(|table| table.0));
        }
        all
    }
}

/// An internet socket with these addresses.
fn internet(local: SocketAddr, remote: SocketAddr, kind: SocketKind, transport: Transport) -> OpenSocket {
    let addresses = Addresses { local: local.into(), remote: remote.into() };
    let family = if local.is_ipv4() { SocketFamily::Inet(addresses) } else { SocketFamily::Inet6(addresses) };
    OpenSocket { family, kind, protocol: transport.number() }
}

fn tcp(entry: &TcpNetEntry, netns: u64) -> KnownSocket {
    let open = internet(entry.local_address, entry.remote_address, SocketKind::Stream, Transport::Tcp);
    let state = TcpState::of(entry.state.to_u8());
    let facts = facts(state, (entry.rx_queue, entry.tx_queue), netns);
    KnownSocket { open, facts: SocketFacts::Tcp(Box::new(facts)) }
}

fn udp(entry: &UdpNetEntry) -> KnownSocket {
    let open = internet(entry.local_address, entry.remote_address, SocketKind::Datagram, Transport::Udp);
    KnownSocket { open, facts: SocketFacts::None }
}

fn unix(entry: &UnixNetEntry) -> KnownSocket {
    let path =
        entry.path.as_ref().map(|path| String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned());
    let open = unix_socket(SocketKind::of(entry.socket_type));
    KnownSocket { open, facts: SocketFacts::Unix(Box::new(UnixFacts { path, ..UnixFacts::default() })) }
}

fn unix_socket(kind: SocketKind) -> OpenSocket {
    OpenSocket { family: SocketFamily::Unix, kind, protocol: 0 }
}

/// What the tables tell of a connection: its state, and the bytes in its two queues.
fn facts(state: TcpState, (received, unsent): (u32, u32), netns: u64) -> TcpFacts {
    // A listener's queues hold connections.
    let (receive_queue, send_queue) = if state == TcpState::Listen { (0, 0) } else { (received, unsent) };
    let netns = u32::try_from(netns).ok();
    let backlog = Backlog { waiting: QueueKind::Connections, number: received, limit: None };
    TcpFacts {
        state,
        netns,
        send_queue,
        receive_queue,
        keepalive: false,
        activity: None,
        internals: None,
        backlog: (state == TcpState::Listen).then_some(backlog),
    }
}

/// Adds what the kernel's diagnostics say.
fn add(sockets: &mut HashMap<u64, KnownSocket>, responses: &[SockDiagMessage]) {
    for response in responses {
        match response {
            SockDiagMessage::InetResponse(response) => add_tcp(sockets, response),
            SockDiagMessage::UnixResponse(response) => add_unix(sockets, response),
            _ => {}
        }
    }
    name_peers(sockets);
}

/// Adds a connection's stamps and counters.
fn add_tcp(sockets: &mut HashMap<u64, KnownSocket>, response: &InetResponse) {
    let header = &response.header;
    let Some(KnownSocket { facts: SocketFacts::Tcp(facts), .. }) = sockets.get_mut(&header.inode.into())
    else {
        return;
    };
    facts.keepalive = matches!(header.timer, Some(Timer::KeepAlive(_)));
    // A listener's second queue is how many it takes.
    if let Some(backlog) = &mut facts.backlog {
        (backlog.number, backlog.limit) = (header.recv_queue, Some(header.send_queue));
    }
    let info = response.nlas.iter().find_map(|nla| match nla {
        InetNla::TcpInfo(bytes) => Info::of(bytes),
        _ => None,
    });
    let Some(info) = info.filter(|_| facts.state != TcpState::Listen) else { return };
    // One moment's numbers, not the table's.
    if facts.state == TcpState::Established {
        (facts.receive_queue, facts.send_queue) = (header.recv_queue, header.send_queue);
    }
    facts.activity = Some(info.activity());
}

/// The kernel's `struct tcp_info` (include/uapi/linux/tcp.h), which grows at its end.
struct Info<'a>(&'a [u8]);

impl<'a> Info<'a> {
    /// Up to `tcpi_bytes_retrans`, which all kernels have that tracer runs on.
    fn of(bytes: &'a [u8]) -> Option<Self> {
        (bytes.len() >= 216).then_some(Self(bytes))
    }

    fn word(&self, at: usize) -> Option<u32> {
        let bytes = self.0.get(at..at + 4)?;
        bytes.try_into().ok().map(u32::from_ne_bytes)
    }

    fn long(&self, at: usize) -> u64 {
        self.0.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_ne_bytes)
    }

    fn milliseconds(&self, at: usize) -> Duration {
        Duration::from_millis(self.word(at).unwrap_or(0).into())
    }

    fn activity(&self) -> TcpActivity {
        let (bytes_sent, bytes_received) = (self.long(200), self.long(128));
        TcpActivity {
            bytes_sent,
            bytes_retransmitted: self.long(208),
            bytes_acknowledged: self.long(120),
            bytes_received,
            sent: (bytes_sent != 0).then(|| self.milliseconds(44)),
            received: (bytes_received != 0).then(|| self.milliseconds(52)),
            acknowledged: self.milliseconds(56),
            round_trip: Duration::from_micros(self.word(68).unwrap_or(0).into()),
            retransmits: self.0[2],
            backoff: self.0[4],
            probes: self.0[3],
            window: self.word(228),
            delivered: None,
            first_sent: None,
            in_flight: self.word(24).is_some_and(|segments| segments > 0),
        }
    }
}

/// Adds a unix socket's peer and, until all are known, what lies unread in the socket itself.
fn add_unix(sockets: &mut HashMap<u64, KnownSocket>, response: &UnixResponse) {
    let Some(KnownSocket { facts: SocketFacts::Unix(facts), .. }) =
        sockets.get_mut(&response.header.inode.into())
    else {
        return;
    };
    // A peer that nobody has accepted yet has no number.
    facts.unaccepted = response.peer() == Some(0);
    facts.peer_inode = response.peer().filter(|peer| *peer != 0).map(u64::from);
    if let Some(name) = response.name() {
        facts.path = Some(match name {
            UnixDiagName::Pathname(path) => String::from_utf8_lossy(path.as_bytes()).into_owned(),
            UnixDiagName::Abstract(name) => format!("@{}", String::from_utf8_lossy(name)),
        });
    }
    let queue = response.nlas.iter().find_map(|nla| match nla {
        UnixNla::ReceiveQueueLength(first, second) => Some((*first, *second)),
        _ => None,
    });
    match queue {
        Some((number, limit)) if TcpState::of(response.header.state) == TcpState::Listen => {
            facts.backlog = Some(Backlog { waiting: QueueKind::Connections, number, limit: Some(limit) });
        }
        Some((1.., _)) => facts.unread = Queued::Bytes,
        _ => {}
    }
}

/// A unix socket shows its peer's address, and what lies unread in the peer's queue.
fn name_peers(sockets: &mut HashMap<u64, KnownSocket>) {
    let known: HashMap<u64, Box<UnixFacts>> = sockets
        .iter()
        .filter_map(|(inode, socket)| match &socket.facts {
            SocketFacts::Unix(facts) => Some((*inode, facts.clone())),
            _ => None,
        })
        .collect();
    for socket in sockets.values_mut() {
        if let SocketFacts::Unix(facts) = &mut socket.facts {
            let peer = facts.peer_inode.and_then(|inode| known.get(&inode));
            facts.peer_path = peer.and_then(|peer| peer.path.clone());
            facts.unread = peer.map_or(Queued::Nothing, |peer| peer.unread);
        }
    }
}

/// What the kernel's diagnostics say of all TCP and unix sockets of a network namespace; nothing where it has none.
fn diagnostics(process: ProcessId, netns: u64, reads: &mut Reads) -> Vec<SockDiagMessage> {
    let Some(socket) = netlink_in(process, netns, reads) else { return Vec::new() };
    let mut responses = Vec::new();
    for (family, socket_id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        let request = InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::INFO,
            states: StateFlags::all(),
            socket_id,
        };
        dump(&socket, SockDiagMessage::InetRequest(request), &mut responses);
    }
    let request = UnixRequest {
        state_flags: UnixStateFlags::all(),
        inode: 0,
        show_flags: ShowFlags::NAME | ShowFlags::PEER | ShowFlags::RQLEN,
        cookie: [0; 8],
    };
    dump(&socket, SockDiagMessage::UnixRequest(request), &mut responses);
    responses
}

/// A netlink socket belongs to the namespace it was made in: for another one a thread goes there, which needs
/// CAP_SYS_ADMIN, and ends.
fn netlink_in(process: ProcessId, netns: u64, reads: &mut Reads) -> Option<Netlink> {
    let make = || Netlink::new(NETLINK_SOCK_DIAG).ok();
    if reads.what(by_pid(std::process::id()), "ns/net").is_ok_and(|own| own.inode == netns) {
        return make();
    }
    let there = reads.open(process, "ns/net")?;
    let go = move || {
        move_into_link_name_space(there.as_fd(), Some(LinkNameSpaceType::Network)).ok()?;
        make()
    };
    std::thread::Builder::new().spawn(go).ok()?.join().ok()?
}

/// One question, and all that comes before the end of the answer. A kernel without it answers with an error.
fn dump(socket: &Netlink, question: SockDiagMessage, responses: &mut Vec<SockDiagMessage>) -> Option<()> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, question.into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0).ok()?;
    while answers(&socket.recv_from_full().ok()?.0, responses)? {}
    Some(())
}

/// The answers of one datagram, and whether more will follow it; `None` if it is cut off.
fn answers(datagram: &[u8], responses: &mut Vec<SockDiagMessage>) -> Option<bool> {
    let mut rest = datagram;
    while !rest.is_empty() {
        let length = u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        // A message this library cannot read is one socket less.
        if let Ok(message) = NetlinkMessage::<SockDiagMessage>::deserialize(rest) {
            match message.payload {
                NetlinkPayload::InnerMessage(response) => responses.push(response),
                NetlinkPayload::Done(_) | NetlinkPayload::Error(_) => return Some(false),
                _ => {}
            }
        }
        // Messages begin at multiples of four.
        rest = rest.get(length.max(16).next_multiple_of(4)..).unwrap_or(&[]);
    }
    Some(true)
}

/// What a datagram says of sockets that the tables have.
#[cfg(any(fuzzing, test))]
pub fn fuzz(datagram: &[u8]) -> Vec<KnownSocket> {
    let mut responses = Vec::new();
    let _ = answers(datagram, &mut responses);
    let mut sockets = HashMap::new();
    for response in &responses {
        let (inode, facts) = match response {
            SockDiagMessage::InetResponse(response) => {
                let state = TcpState::of(response.header.state);
                (response.header.inode, SocketFacts::Tcp(Box::new(facts(state, (0, 0), 0))))
            }
            SockDiagMessage::UnixResponse(response) => {
                (response.header.inode, SocketFacts::Unix(Box::default()))
            }
            _ => continue,
        };
        sockets.entry(inode.into()).or_insert(KnownSocket { open: unix_socket(SocketKind::Stream), facts });
    }
    add(&mut sockets, &responses);
    sockets.into_values().collect()
}
