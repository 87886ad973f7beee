//! Which addresses are this host's own? As the routing tables of its network namespaces have them.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::{
    model::wait::ProcessId,
    procfs::{Reads, by_pid},
};

/// Namespaces that are looked into for one address.
const NAMESPACES_MAX: usize = 256;

/// The addresses of each network namespace that was asked about, each read once.
#[derive(Debug, Default)]
pub struct HostAddresses(HashMap<u64, HashSet<IpAddr>>);

impl HostAddresses {
    /// Whether an address is one of those of the namespace that a process is in.
    pub fn has(&mut self, process: ProcessId, address: IpAddr, reads: &mut Reads) -> bool {
        let Ok(netns) = reads.what(process, "ns/net") else { return false };
        let address = address.to_canonical();
        address.is_loopback()
            || self.0.entry(netns.inode).or_insert_with(|| read(process, reads)).contains(&address)
    }

    /// Whether it is one of any namespace of this host.
    pub fn any_has(&mut self, address: IpAddr, reads: &mut Reads) -> bool {
        let mut seen = HashSet::new();
        for pid in reads.processes().unwrap_or_default() {
            let process = by_pid(pid);
            let Ok(netns) = reads.what(process, "ns/net") else { continue };
            if seen.len() < NAMESPACES_MAX && seen.insert(netns.inode) && self.has(process, address, reads) {
                return true;
            }
        }
        false
    }
}

fn read(process: ProcessId, reads: &mut Reads) -> HashSet<IpAddr> {
    let text = |table: Option<Vec<u8>>| String::from_utf8_lossy(&table.unwrap_or_default()).into_owned();
    let v4 = text(reads.table(process, "net/fib_trie"));
    let v6 = text(reads.table(process, "net/if_inet6"));
    parse_v4(&v4).map(IpAddr::V4).chain(parse_v6(&v6).map(IpAddr::V6)).collect()
}

/// Of each address of the host's own the trie has its leaf, `|-- 192.0.2.1`, and below it `/32 host LOCAL`.
pub fn parse_v4(trie: &str) -> impl Iterator<Item = Ipv4Addr> {
    let mut leaf = None;
    trie.lines().filter_map(move |line| {
        let line = line.trim_start();
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.trim_end().parse().ok();
            return None;
        }
        leaf.filter(|_| line.trim_end() == "/32 host LOCAL")
    })
}

/// `20010db8000000000000000000000001 02 40 00 80 eth0`.
pub fn parse_v6(table: &str) -> impl Iterator<Item = Ipv6Addr> {
    table.lines().filter_map(|line| {
        let word = line.split_ascii_whitespace().next().filter(|word| word.len() == 32)?;
        u128::from_str_radix(word, 16).ok().map(Ipv6Addr::from_bits)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_hosts_own_are_told_from_routes() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     \
                    +-- 10.1.0.0/24 2 0 2\n        |-- 10.1.0.0\n           /24 link UNICAST\n        \
                    |-- 10.1.0.7\n           /32 host LOCAL\n        |-- 10.1.0.255\n           \
                    /32 link BROADCAST\nLocal:\n     |-- 10.1.0.7\n        /32 host LOCAL\n     |-- 127.0.0.0\n        \
                    /8 host LOCAL\n     |-- 127.0.0.1\n        /32 host LOCAL\n";
        let found: HashSet<String> = parse_v4(trie).map(|address| address.to_string()).collect();
        assert_eq!(found, ["10.1.0.7", "127.0.0.1"].map(str::to_owned).into());
        let table = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     20010db8000000000000000000000007 02 40 00 80 eth0\nbroken\n";
        let found: Vec<String> = parse_v6(table).map(|address| address.to_string()).collect();
        assert_eq!(found, ["::1", "2001:db8::7"]);
    }

    #[test]
    fn this_host_has_loopback_and_not_an_address_of_the_documentation() {
        let (mut addresses, mut reads) = (HostAddresses::default(), Reads::new());
        for (address, expected) in [("127.0.0.1", true), ("::1", true), ("192.0.2.77", false)] {
            let address: IpAddr = address.parse().expect("an address");
            assert_eq!(addresses.any_has(address, &mut reads), expected, "{address}");
        }
    }
}
