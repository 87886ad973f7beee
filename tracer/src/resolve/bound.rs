//! Which unix socket has this name? By the table of a network namespace (`/proc/PID/net/unix`), which has each socket's own words for
//! its path: the path itself is not touched.

use std::{
    collections::HashMap,
    path::{Component, Path, PathBuf},
};

use crate::{
    model::file::SocketKind,
    model::wait::ProcessId,
    procfs::{Reads, by_pid},
};

/// A socket that has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct BoundSocket {
    inode: u64,
    kind: SocketKind,
    /// It takes connections.
    listens: bool,
}

/// The sockets of a network namespace by their names.
#[derive(Debug, Default)]
struct NameTable {
    by_name: HashMap<String, Vec<BoundSocket>>,
    /// Those that were bound by a path relative to a folder that nobody knows any more, by the last part of it.
    by_file: HashMap<String, Vec<BoundSocket>>,
}

/// Whom a name is looked up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameUse {
    /// Somebody connects there.
    Connect,
    /// Somebody sends datagrams there.
    Send,
}

/// Names under which files are known on most hosts, as links, and what these lead to (file-hierarchy(7)).
const LINKS: &[(&str, &str)] = &[
    ("/var/run", "/run"),
    ("/dev/log", "/run/systemd/journal/dev-log"),
    ("/dev/log", "/run/rsyslog/dev/log"),
];

/// The tables of the namespaces that were asked about, each read once.
#[derive(Debug, Default)]
pub struct BoundNames(HashMap<u64, NameTable>);

impl BoundNames {
    /// The inode number of the socket that a process reaches by this name: in its own network namespace, or else in tracer's, whose
    /// sockets containers are given as files.
    pub fn find(&mut self, process: ProcessId, name: &str, used: NameUse, reads: &mut Reads) -> Option<u64> {
        let own = by_pid(std::process::id());
        self.find_in(process, name, used, reads).or_else(|| {
            // What is abstract is of one namespace only.
            (!name.starts_with('@')).then(|| self.find_in(own, name, used, reads)).flatten()
        })
    }

    fn find_in(&mut self, process: ProcessId, name: &str, used: NameUse, reads: &mut Reads) -> Option<u64> {
        let netns = reads.what(process, "ns/net").ok()?.inode;
        let read = || NameTable::parse(&reads.table(process, "net/unix").unwrap_or_default());
        self.0.entry(netns).or_insert_with(read).find(name, used)
    }
}

impl NameTable {
    fn parse(table: &[u8]) -> Self {
        let mut names = Self::default();
        for line in String::from_utf8_lossy(table).lines().skip(1) {
            let Some((socket, path)) = parse_line(line) else { continue };
            let is_relative = !path.starts_with(['/', '@']);
            let file = Path::new(path).file_name().filter(|_| is_relative);
            if let Some(file) = file {
                let file = file.to_string_lossy().into_owned();
                names.by_file.entry(file).or_default().push(socket.clone());
            }
            names.by_name.entry(path.to_owned()).or_default().push(socket);
        }
        names
    }

    fn find(&self, name: &str, used: NameUse) -> Option<u64> {
        let fits = |socket: &&BoundSocket| match used {
            NameUse::Connect => socket.listens,
            NameUse::Send => socket.kind == SocketKind::Datagram,
        };
        let named = |name: &str| self.by_name.get(name)?.iter().find(fits).map(|socket| socket.inode);
        let relative = || {
            let file = Path::new(name).file_name()?.to_string_lossy().into_owned();
            let mut all = self.by_file.get(&file)?.iter().filter(fits);
            // Of two nobody knows which.
            all.next().filter(|_| all.next().is_none()).map(|socket| socket.inode)
        };
        named(name).or_else(|| other_names(name).iter().find_map(|name| named(name))).or_else(relative)
    }
}

/// `0000000000000000: 00000002 00000000 00010000 0001 01 12345 /run/s`: flags, type and state, and the inode number. What has no name
/// is nobody's to look for.
fn parse_line(line: &str) -> Option<(BoundSocket, &str)> {
    const ACCEPTS: u32 = 1 << 16;
    let mut rest = line;
    let mut word = || {
        rest = rest.trim_start();
        let (word, more) = rest.split_once(' ')?;
        rest = more;
        Some(word)
    };
    let (_, _, _) = (word()?, word()?, word()?);
    let (flags, kind, _, inode) = (word()?, word()?, word()?, word()?);
    let socket = BoundSocket {
        inode: inode.parse().ok()?,
        kind: SocketKind::of(u16::from_str_radix(kind, 16).ok()?),
        listens: u32::from_str_radix(flags, 16).ok()? & ACCEPTS != 0,
    };
    Some((socket, rest)).filter(|(socket, path)| socket.inode != 0 && !path.is_empty())
}

/// What else a path may be called: without what leads nowhere, and what links on most hosts lead to.
fn other_names(name: &str) -> Vec<String> {
    if !name.starts_with('/') {
        return Vec::new();
    }
    let mut plain = PathBuf::new();
    for part in Path::new(name).components() {
        match part {
            Component::ParentDir => _ = plain.pop(),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    let mut names = vec![plain.to_string_lossy().into_owned()];
    for (link, leads) in LINKS {
        for (from, to) in [(link, leads), (leads, link)] {
            if let Ok(rest) = plain.strip_prefix(from) {
                let to =
                    if rest.as_os_str().is_empty() { PathBuf::from(to) } else { Path::new(to).join(rest) };
                names.push(to.to_string_lossy().into_owned());
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "Num       RefCount Protocol Flags    Type St Inode Path\n\
        0000000000000000: 00000002 00000000 00010000 0001 01 11 /run/docker.sock\n\
        0000000000000000: 00000003 00000000 00000000 0001 03 12 /run/docker.sock\n\
        0000000000000000: 00000003 00000000 00000000 0001 03 13\n\
        0000000000000000: 00000002 00000000 00000000 0002 01 14 /run/systemd/journal/dev-log\n\
        0000000000000000: 00000002 00000000 00010000 0001 01 15 @/tmp/.X11-unix/X0\n\
        0000000000000000: 00000002 00000000 00010000 0005 01 16 ./with blank\n\
        0000000000000000: 00000002 00000000 00010000 0001 01 17 a/twice\n\
        0000000000000000: 00000002 00000000 00010000 0001 01 18 b/twice\n\
        0000000000000000: 00000002 00000000 00000000 0001 02 0 /run/docker.sock\n\
        broken\n";

    #[test]
    fn names_lead_to_who_listens_or_receives() {
        use NameUse::{Connect, Send};
        let names = NameTable::parse(TABLE.as_bytes());
        for (name, used, expected) in [
            ("/run/docker.sock", Connect, Some(11)),
            ("/run/docker.sock", Send, None),
            ("/var/run/docker.sock", Connect, Some(11)),
            ("/run/../run/./docker.sock", Connect, Some(11)),
            ("/dev/log", Send, Some(14)),
            ("/dev/log", Connect, None),
            ("@/tmp/.X11-unix/X0", Connect, Some(15)),
            ("@/tmp/.X11-unix/X1", Connect, None),
            ("/tmp/with blank", Connect, Some(16)),
            ("/tmp/twice", Connect, None),
            ("a/twice", Connect, Some(17)),
            ("/run/other.sock", Connect, None),
        ] {
            assert_eq!(names.find(name, used), expected, "{name} {used:?}");
        }
    }

    #[test]
    fn a_listener_of_this_very_process_is_found() {
        let path = std::env::temp_dir().join(format!("tracer-bound-{}", std::process::id()));
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("binds");
        std::fs::remove_file(&path).expect("its own");
        let (me, mut reads) = (by_pid(std::process::id()), Reads::new());
        let found = BoundNames::default().find(me, &path.to_string_lossy(), NameUse::Connect, &mut reads);
        let inode = rustix::fs::fstat(&listener).expect("its own").st_ino;
        assert_eq!(found, Some(inode));
    }
}
