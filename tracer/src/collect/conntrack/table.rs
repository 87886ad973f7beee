//! The table of tracked connections as `/proc/PID/net/nf_conntrack` has it: only TCP, and only what is translated. Pure.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use crate::model::file::Addresses;

/// Translated connections: the addresses of each end, by those of the other.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TranslationTable(HashMap<Addresses, Addresses>);

impl TranslationTable {
    /// From the text; lines that are something else, or cut off, are left out.
    pub fn parse(text: &str) -> Self {
        let mut table = HashMap::new();
        for [original, reply] in text.lines().filter_map(tuples) {
            if original.reversed() != reply {
                table.insert(original, reply);
                table.insert(reply, original);
            }
        }
        Self(table)
    }

    /// The addresses at the other end of a connection that has these at its own.
    pub fn other_end(&self, own: Addresses) -> Option<Addresses> {
        self.0.get(&own).copied()
    }
}

/// The two tuples of a line about TCP: `ipv4 2 tcp 6 431999 ESTABLISHED src=… dst=… sport=… dport=… src=… dst=… sport=… dport=… …`.
fn tuples(line: &str) -> Option<[Addresses; 2]> {
    let mut words = line.split_ascii_whitespace();
    (words.nth(2)? == "tcp").then_some(())?;
    let mut tuple = || -> Option<Addresses> {
        let mut value = |key: &str| {
            words.by_ref().find_map(|word| word.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned)
        };
        let ip = |text: Option<String>| text?.parse::<IpAddr>().ok();
        let port = |text: Option<String>| text?.parse::<u16>().ok();
        let (source, destination) = (ip(value("src"))?, ip(value("dst"))?);
        let (from, to) = (port(value("sport"))?, port(value("dport"))?);
        Some(Addresses {
            local: SocketAddr::new(source, from).into(),
            remote: SocketAddr::new(destination, to).into(),
        })
    };
    Some([tuple()?, tuple()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(local: &str, remote: &str) -> Addresses {
        let endpoint = |text: &str| text.parse::<SocketAddr>().expect("an address").into();
        Addresses { local: endpoint(local), remote: endpoint(remote) }
    }

    #[test]
    fn translated_connections_are_kept_by_either_end() {
        let text = "ipv4     2 tcp      6 431999 ESTABLISHED src=10.0.0.1 dst=10.96.0.1 sport=40000 dport=80 src=10.244.1.7 \
                    dst=10.0.0.1 sport=8080 dport=40000 [ASSURED] mark=0 zone=0 use=2\n\
                    ipv4     2 tcp      6 100 ESTABLISHED src=10.0.0.1 dst=10.0.0.9 sport=40001 dport=80 src=10.0.0.9 \
                    dst=10.0.0.1 sport=80 dport=40001 [ASSURED] mark=0 zone=0 use=2\n\
                    ipv4     2 tcp      6 100 SYN_SENT src=10.0.0.1 dst=10.96.0.2 sport=40002 dport=80 [UNREPLIED] src=10.244.1.8 \
                    dst=10.0.0.1 sport=8080 dport=40002 mark=0 zone=0 use=2\n\
                    ipv4     2 udp      17 29 src=10.0.0.1 dst=10.96.0.1 sport=40000 dport=53 src=10.244.1.9 dst=10.0.0.1 sport=53 \
                    dport=40000 mark=0 use=2\n\
                    ipv4     2 tcp      6 431999 ESTABLISHED src=10.0.0.1 dst=10.96";
        let table = TranslationTable::parse(text);
        let client = addresses("10.0.0.1:40000", "10.96.0.1:80");
        let server = addresses("10.244.1.7:8080", "10.0.0.1:40000");
        assert_eq!(table.other_end(client), Some(server));
        assert_eq!(table.other_end(server), Some(client));
        assert_eq!(table.other_end(addresses("10.0.0.1:40001", "10.0.0.9:80")), None, "not translated");
        let tried = addresses("10.0.0.1:40002", "10.96.0.2:80");
        assert_eq!(table.other_end(tried), Some(addresses("10.244.1.8:8080", "10.0.0.1:40002")));
        assert_eq!(table.0.len(), 4);
    }
}
