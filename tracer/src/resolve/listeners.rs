//! Client or server? The local port has a listener in the socket's network namespace; or who chose the port tells.

use std::{
    collections::{HashMap, HashSet},
    io::BufRead,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use tracer_ebpf::abi::{PORT_BIND, PORT_CONNECT};

use crate::{procfs::Reads, wait::ProcessId};

/// How long what was read counts as true: servers seldom come and go.
const FRESH: Duration = Duration::from_secs(5);

/// The listeners of each network namespace asked about, as last read.
#[derive(Default)]
pub struct Listeners(HashMap<u32, (Instant, HashSet<SocketAddr>)>);

impl Listeners {
    /// Whether somebody listens where `local` is: then this end was accepted, and is the server's. `None`: not known,
    /// the process has left the socket's namespace or has gone.
    pub fn has(
        &mut self,
        netns: u32,
        process: ProcessId,
        local: SocketAddr,
        reads: &mut Reads,
    ) -> Option<bool> {
        let known = self.0.get(&netns).filter(|(read, _)| read.elapsed() < FRESH);
        if known.is_none() {
            let listeners = read(netns, process, reads)?;
            self.0.retain(|_, (read, _)| read.elapsed() < FRESH);
            self.0.insert(netns, (Instant::now(), listeners.into_iter().collect()));
        }
        let (_, listeners) = self.0.get(&netns)?;
        let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let mut there = any.into_iter().chain([local.ip()]);
        Some(there.any(|ip| listeners.contains(&SocketAddr::new(ip, local.port()))))
    }
}

/// Whether this is the server's end: `listener` says whether the port has one, `port` who chose it (`PORT_*`). A server may
/// have closed its listener, as `nc -l` does; then its port was chosen by `bind`, and the peer has one that the kernel
/// gives to clients.
pub fn side(listener: Option<bool>, port: u8, local: u16, remote: u16) -> Option<bool> {
    /// The first port that is given to clients, if nobody set `net.ipv4.ip_local_port_range`.
    const GIVEN: u16 = 32768;
    match (listener, port) {
        (Some(true), _) => Some(true),
        (_, PORT_CONNECT) => Some(false),
        (_, PORT_BIND) => Some(remote >= GIVEN || local < remote),
        _ if local < GIVEN && remote >= GIVEN => Some(true),
        _ => listener,
    }
}

/// All listeners of a namespace, through a process that is in it.
fn read(netns: u32, process: ProcessId, reads: &mut Reads) -> Option<Vec<SocketAddr>> {
    let inode = reads.what(process, "ns/net").ok()?.inode;
    if netns != 0 && inode != u64::from(netns) {
        return None;
    }
    let mut listeners = Vec::new();
    for table in ["tcp", "tcp6"] {
        // A kernel without IPv6 has no table of it.
        let Some(table) = reads.beginning(process, &format!("net/{table}"), has_others) else { continue };
        listeners.extend(parse(&table[..]));
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
    use tracer_ebpf::abi::PORT_UNKNOWN;

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
        for (listener, port, local, remote, server) in [
            (Some(true), PORT_UNKNOWN, 50_000, 40_000, Some(true)),
            (Some(false), PORT_CONNECT, 40_000, 443, Some(false)),
            (None, PORT_CONNECT, 40_000, 443, Some(false)),
            (Some(false), PORT_CONNECT, 1024, 50_000, Some(false)), // the range was set
            (Some(false), PORT_BIND, 4444, 40_000, Some(true)),     // nc -l 4444
            (Some(false), PORT_BIND, 45_000, 40_000, Some(true)),   // nc -l 45000
            (Some(false), PORT_BIND, 40_000, 443, Some(false)),     // bound before it connected
            (Some(false), PORT_BIND, 1023, 514, Some(false)),       // rsh
            (Some(false), PORT_UNKNOWN, 4444, 40_000, Some(true)),
            (Some(false), PORT_UNKNOWN, 40_000, 443, Some(false)),
            (None, PORT_UNKNOWN, 40_000, 443, None),
        ] {
            assert_eq!(side(listener, port, local, remote), server, "{listener:?} {port} {local} {remote}");
        }
    }

    #[test]
    fn a_listener_of_this_very_process_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = listener.local_addr().expect("bound");
        let client = std::net::TcpStream::connect(at).expect("connects");
        let mut listeners = Listeners::default();
        let (me, mut reads) = (by_pid(std::process::id()), Reads::new());
        assert_eq!(listeners.has(0, me, at, &mut reads), Some(true));
        assert_eq!(listeners.has(0, me, client.local_addr().expect("bound"), &mut reads), Some(false));
        assert_eq!(listeners.has(1, me, at, &mut reads), None, "another namespace");
    }
}
