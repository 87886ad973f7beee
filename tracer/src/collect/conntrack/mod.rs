//! What are the addresses at the other end of a connection that is translated on its way (NAT)? The kernel's connection tracking says.
//!
//! Whoever may ask it by netlink gets an answer for one connection. For others there is its table in `/proc`, on kernels that have one.

mod message;
mod table;

use std::{
    collections::HashMap,
    fs::{self, File},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use netlink_sys::{Socket as Netlink, protocols::NETLINK_NETFILTER};
use rustix::thread::{CapabilitySet, LinkNameSpaceType, capabilities, move_into_link_name_space};

use self::table::TranslationTable;
use crate::{
    model::{file::Addresses, wait::ProcessId},
    procfs::{Reads, by_pid},
};

/// Namespaces with names that are asked.
const NAMED_MAX: usize = 32;
/// Translations of one connection that are followed.
const TRANSLATIONS_MAX: usize = 3;
/// How long a table is good.
const TABLE_AGE_MAX: Duration = Duration::from_secs(30);
/// As much of a table as is read, bytes: some 20,000 connections.
const TABLE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Tables that are read within that time, beside the host's: whoever makes many namespaces costs no more.
const TABLES_MAX: usize = 4;
/// The process in whose namespace a host translates for its containers.
const INIT: u32 = 1;

/// Where a connection may be translated.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum NatPlace {
    /// A namespace that processes are in, by its inode number.
    Numbered(u64),
    /// One that has a name (`ip netns`), and perhaps no process.
    Named(String),
}

/// What has been asked so far.
#[derive(Default)]
pub struct Conntrack {
    /// `None`: it cannot be asked there.
    sockets: HashMap<NatPlace, Option<Netlink>>,
    tables: HashMap<u64, (Instant, TranslationTable)>,
    /// Whether netlink is not for this process: it takes two rights, which an agent gives up. `None`: not looked up yet.
    is_refused: Option<bool>,
    /// `None`: not looked up yet.
    named: Option<Vec<String>>,
}

impl Conntrack {
    /// Begins anew: namespaces may have come and gone. A socket would keep the one that it is in, so none is kept.
    pub fn begin(&mut self) {
        self.sockets.clear();
        self.named = None;
    }

    /// The addresses of the socket at the other end of a process's connection that has these; `None` if they are not translated, or
    /// it cannot be known.
    pub fn other_end(
        &mut self,
        process: ProcessId,
        addresses: Addresses,
        reads: &mut Reads,
    ) -> Option<Addresses> {
        let mut places = self.places(process, reads);
        let mut other = addresses.reversed();
        for _ in 0..TRANSLATIONS_MAX {
            let found = places.iter().enumerate().find_map(|(at, (place, inside))| {
                let found = self.translated(place, *inside, other.reversed(), reads)?;
                (found != other).then_some((at, found))
            });
            let Some((at, found)) = found else { break };
            // Nobody translates a connection twice.
            places.remove(at);
            other = found;
        }
        (other != addresses.reversed()).then_some(other)
    }

    /// Where a connection of this process may be translated, each with a process that is there: in its own network namespace, in that of the
    /// host, or in one that has a name.
    fn places(&mut self, process: ProcessId, reads: &mut Reads) -> Vec<(NatPlace, Option<ProcessId>)> {
        let mut places = Vec::new();
        for inside in [process, by_pid(INIT)] {
            let Ok(netns) = reads.what(inside, "ns/net") else { continue };
            let place = NatPlace::Numbered(netns.inode);
            if !places.iter().any(|(known, _)| *known == place) {
                places.push((place, Some(inside)));
            }
        }
        if !self.is_refused() {
            let named = self.named.get_or_insert_with(named_namespaces);
            places.extend(named.iter().map(|name| (NatPlace::Named(name.clone()), None)));
        }
        places
    }

    fn is_refused(&mut self) -> bool {
        let needed = CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN;
        let lacks = || !capabilities(None).is_ok_and(|has| has.effective.contains(needed));
        *self.is_refused.get_or_insert_with(lacks)
    }

    /// The other end's addresses as one place has them, if it knows the connection.
    fn translated(
        &mut self,
        place: &NatPlace,
        inside: Option<ProcessId>,
        addresses: Addresses,
        reads: &mut Reads,
    ) -> Option<Addresses> {
        if !self.is_refused() {
            let socket = self.sockets.entry(place.clone()).or_insert_with(|| socket(place, inside, reads));
            match socket.as_ref().map(|socket| message::ask(socket, addresses)) {
                Some(Ok(other)) => return other,
                Some(Err(error)) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    self.is_refused = Some(true);
                }
                _ => {}
            }
        }
        let NatPlace::Numbered(netns) = place else { return None };
        self.table(*netns, inside?, reads)?.other_end(addresses)
    }

    fn table(&mut self, netns: u64, inside: ProcessId, reads: &mut Reads) -> Option<&TranslationTable> {
        let now = Instant::now();
        self.tables.retain(|_, (read, _)| now.duration_since(*read) < TABLE_AGE_MAX);
        if inside.pid != INIT && !self.tables.contains_key(&netns) && self.tables.len() > TABLES_MAX {
            return None;
        }
        let read = || {
            let text = reads
                .beginning(inside, "net/nf_conntrack", |text| text.len() >= TABLE_BYTES_MAX)
                .unwrap_or_default();
            (now, TranslationTable::parse(&String::from_utf8_lossy(&text)))
        };
        Some(&self.tables.entry(netns).or_insert_with(read).1)
    }
}

/// Namespaces that `ip netns` has given names.
fn named_namespaces() -> Vec<String> {
    let Ok(names) = fs::read_dir("/run/netns") else { return Vec::new() };
    names.flatten().take(NAMED_MAX).filter_map(|name| name.file_name().into_string().ok()).collect()
}

/// A socket in that namespace: a thread goes there, which needs CAP_SYS_ADMIN, and ends.
fn socket(place: &NatPlace, inside: Option<ProcessId>, reads: &mut Reads) -> Option<Netlink> {
    let there = match place {
        NatPlace::Numbered(_) => reads.open(inside?, "ns/net")?,
        NatPlace::Named(name) => File::open(format!("/run/netns/{name}")).ok()?.into(),
    };
    let go = move || {
        move_into_link_name_space(there.as_fd(), Some(LinkNameSpaceType::Network)).ok()?;
        Netlink::new(NETLINK_NETFILTER).ok()
    };
    std::thread::Builder::new().spawn(go).ok()?.join().ok()?
}
