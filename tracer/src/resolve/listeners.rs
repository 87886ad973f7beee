//! Client or server? The kernel knows who connected; or the local port has a listener in the socket's network namespace; or who
//! chose the port tells.

use std::{
    collections::{HashMap, HashSet},
    io::BufRead,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use crate::{
    model::{
        file,
        tcp::PortChooser,
        wait::{FdState, ProcessId},
    },
    procfs::Reads,
};

/// The first port that the kernel gives to clients, if nobody set `net.ipv4.ip_local_port_range`.
pub const EPHEMERAL_PORTS_FROM: u16 = 32768;
/// How long what was read counts as true: servers seldom come and go.
const TTL: Duration = Duration::from_secs(5);

/// The listeners of each network namespace asked about, as last read.
#[derive(Default)]
pub struct Listeners(HashMap<Option<u32>, (Instant, HashSet<Listener>)>);

/// A socket that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Listener {
    family: AddressFamily,
    address: SocketAddr,
}

/// Family of a socket, which need not be that of its address: one of IPv6 has connections of IPv4 as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressFamily {
    /// `AF_INET`.
    V4,
    /// `AF_INET6`.
    V6,
}

impl AddressFamily {
    /// Of a file that the kernel has described, if it is an internet socket.
    pub fn of(file: &FdState) -> Option<Self> {
        let FdState::Open(file) = file else { return None };
        match file.socket?.family {
            file::SocketFamily::Inet(_) => Some(AddressFamily::V4),
            file::SocketFamily::Inet6(_) => Some(AddressFamily::V6),
            file::SocketFamily::Unix | file::SocketFamily::Other(_) => None,
        }
    }
}

impl Listeners {
    /// Whether somebody listens where a socket of this family is: then it was accepted, and is the server's. `None`: not known,
    /// the process has left the socket's namespace or has gone.
    pub fn has(
        &mut self,
        netns: Option<u32>,
        process: ProcessId,
        (family, local): (AddressFamily, SocketAddr),
        reads: &mut Reads,
    ) -> Option<bool> {
        let known = self.0.get(&netns).filter(|(read, _)| read.elapsed() < TTL);
        if known.is_none() {
            let listeners = read(netns, process, reads)?;
            self.0.retain(|_, (read, _)| read.elapsed() < TTL);
            self.0.insert(netns, (Instant::now(), listeners.into_iter().collect()));
        }
        let (_, listeners) = self.0.get(&netns)?;
        Some(accepts(listeners, family, local))
    }
}

/// Whether one of these can have accepted a socket of this family and address: such a socket is of its listener's own family, also
/// where it speaks IPv4.
fn accepts(listeners: &HashSet<Listener>, family: AddressFamily, local: SocketAddr) -> bool {
    let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    any.into_iter().chain([local.ip()]).any(|ip| {
        let address = SocketAddr::new(ip, local.port());
        listeners.contains(&Listener { family, address })
    })
}

/// Whether this is the server's end, where the connection does not say itself that it was made here: `listener` says whether the
/// port has one, `port` who chose it. A port that `connect` chose has no listener that could have accepted there; but
/// whoever listens on it at another address takes that mark away. A server may have closed its listener, as `nc -l` does; then its
/// port was chosen by `bind`, and the peer has one that the kernel gives to clients.
pub fn side(listener: Option<bool>, port: Option<PortChooser>, local: u16, remote: u16) -> Option<bool> {
    match (listener, port) {
        (_, Some(PortChooser::Connect)) => Some(false),
        (Some(true), _) => Some(true),
        (_, Some(PortChooser::Bind)) => Some(remote >= EPHEMERAL_PORTS_FROM || local < remote),
        _ if local < EPHEMERAL_PORTS_FROM && remote >= EPHEMERAL_PORTS_FROM => Some(true),
        _ => listener,
    }
}

/// All listeners of a namespace, through a process that is in it.
fn read(netns: Option<u32>, process: ProcessId, reads: &mut Reads) -> Option<Vec<Listener>> {
    let inode = reads.what(process, "ns/net").ok()?.inode;
    if netns.is_some_and(|netns| inode != u64::from(netns)) {
        return None;
    }
    let mut listeners = Vec::new();
    for (table, family) in [("tcp", AddressFamily::V4), ("tcp6", AddressFamily::V6)] {
        // A kernel without IPv6 has no table of it.
        let Some(table) = reads.beginning(process, &format!("net/{table}"), has_others) else { continue };
        let of_table = parse(&table[..]).into_iter();
        listeners.extend(of_table.map(|address| Listener { family, address }));
    }
    Some(listeners)
}

const LISTEN: &str = "0A";

/// Whether there is anything else behind the listeners: the last line may be cut off.
fn has_others(table: &[u8]) -> bool {
    let state = |line: &[u8]| {
        let words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        words.clone().count() > 4 && words.clone().nth(3) != Some(LISTEN.as_bytes())
    };
    table.split(|byte| *byte == b'\n').skip(1).any(state)
}

/// The listeners come first in the table; a host with a hundred thousand connections is not read to its end.
pub fn parse(table: impl BufRead) -> Vec<SocketAddr> {
    let mut listeners = Vec::new();
    for line in table.lines().skip(1).map_while(Result::ok) {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (Some(local), Some(_), Some(state)) = (words.next(), words.next(), words.next()) else { break };
        if state != LISTEN {
            break;
        }
        listeners.extend(address(local));
    }
    listeners
}

/// `0100007F:0016`, four or sixteen bytes, each group of four in the machine's own order.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::with_capacity(16);
    for at in (0..address.len()).step_by(8) {
        bytes.extend(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    }
    let ip = match bytes.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::by_pid;

    #[test]
    #[cfg(target_endian = "little")]
    fn the_table_is_read_up_to_its_last_listener() {
        let table = "  sl  local_address rem_address   st\n   \
                     0: 0100007F:0CEA 00000000:0000 0A 0\n   \
                     1: 00000000000000000000000001000000:0016 00000000000000000000000000000000:0000 0A 0\n   \
                     2: 0100007F:0050 0100007F:9999 01 0\n   \
                     3: 0100007F:0051 00000000:0000 0A 0\n";
        let listeners = parse(table.as_bytes());
        assert_eq!(listeners, ["127.0.0.1:3306".parse().expect("v4"), "[::1]:22".parse().expect("v6")]);
        assert!(parse("".as_bytes()).is_empty());
        assert_eq!(address("zz:1"), None);
    }

    #[test]
    fn who_chose_the_port_tells_where_no_listener_does() {
        use PortChooser::{Bind, Connect};
        for (listener, port, local, remote, server) in [
            (Some(true), None, 50_000, 40_000, Some(true)),
            (Some(true), Some(Bind), 8080, 40_000, Some(true)),
            (Some(true), Some(Connect), 40_000, 443, Some(false)), // one at another address, or of before
            (Some(false), Some(Connect), 40_000, 443, Some(false)),
            (None, Some(Connect), 40_000, 443, Some(false)),
            (Some(false), Some(Connect), 1024, 50_000, Some(false)), // the range was set
            (Some(false), Some(Bind), 4444, 40_000, Some(true)),     // nc -l 4444
            (Some(false), Some(Bind), 45_000, 40_000, Some(true)),   // nc -l 45000
            (Some(false), Some(Bind), 40_000, 443, Some(false)),     // bound before it connected
            (Some(false), Some(Bind), 1023, 514, Some(false)),       // rsh
            (Some(false), None, 4444, 40_000, Some(true)),
            (Some(false), None, 40_000, 443, Some(false)),
            (None, None, 40_000, 443, None),
        ] {
            assert_eq!(side(listener, port, local, remote), server, "{listener:?} {port:?} {local} {remote}");
        }
    }

    #[test]
    fn a_listener_accepts_its_own_family_and_address() {
        use AddressFamily::{V4, V6};
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        for (own, listener, family, local, expected) in [
            (V4, "127.0.0.1:80", V4, "127.0.0.1:80", true),
            (V4, "127.0.0.1:80", V4, "127.0.0.2:80", false),
            (V4, "127.0.0.1:80", V4, "127.0.0.1:81", false),
            (V4, "0.0.0.0:80", V4, "10.0.0.1:80", true),
            (V4, "0.0.0.0:80", V6, "[::1]:80", false),
            (V6, "[::1]:80", V6, "[::1]:80", true),
            (V6, "[::1]:80", V6, "[::2]:80", false),
            (V6, "[::]:80", V6, "[::1]:80", true),
            // One for both: what it accepts is of its family, the address of the peer's.
            (V6, "[::]:80", V6, "127.0.0.1:80", true),
            (V6, "127.0.0.1:80", V6, "127.0.0.1:80", true),
            // A client of IPv4, and somebody who listens on the same port of IPv6 alone, or of both.
            (V6, "[::]:80", V4, "127.0.0.1:80", false),
            // A client that speaks IPv4 through a socket of IPv6.
            (V4, "0.0.0.0:80", V6, "127.0.0.1:80", false),
        ] {
            let socket = Listener { family: own, address: at(listener) };
            let accepts = accepts(&[socket].into(), family, at(local));
            assert_eq!(accepts, expected, "{socket:?} {family:?} {local}");
        }
    }

    #[test]
    fn a_listener_of_this_very_process_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = listener.local_addr().expect("bound");
        let client = std::net::TcpStream::connect(at).expect("connects");
        let mut listeners = Listeners::default();
        let (me, mut reads) = (by_pid(std::process::id()), Reads::new());
        let mut has = |netns, family, at| listeners.has(netns, me, (family, at), &mut reads);
        assert_eq!(has(None, AddressFamily::V4, at), Some(true));
        assert_eq!(has(None, AddressFamily::V6, at), Some(false));
        assert_eq!(has(None, AddressFamily::V4, client.local_addr().expect("bound")), Some(false));
        assert_eq!(has(Some(1), AddressFamily::V4, at), None, "another namespace");
    }
}
