//! Who has a file or a connection open.

use std::net::Ipv6Addr;

use crate::model::{
    backlog::Backlog,
    file::{Addresses, Device, Endpoint, FileKind, OpenFile},
};

/// An open file that processes may share, wherever they have it from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Inode number.
    pub inode: u64,
    /// What kind of file it is.
    pub kind: FileKind,
    /// The device of its file system.
    pub device: Device,
}

impl From<&OpenFile> for FileId {
    fn from(file: &OpenFile) -> Self {
        Self { inode: file.inode, kind: file.kind(), device: file.device }
    }
}

/// One end of a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionEnd {
    /// Its own address.
    pub local: Endpoint,
    /// The other's.
    pub remote: Endpoint,
    /// The network namespace of a loopback address, if it is known: other addresses mean the same everywhere.
    pub netns: Option<u32>,
}

impl ConnectionEnd {
    /// The end that has these addresses, in this network namespace.
    pub fn new(addresses: Addresses, netns: Option<u32>) -> Self {
        let Addresses { local, remote } = addresses;
        Self { local, remote, netns: netns.filter(|_| local.is_loopback()) }
    }

    /// Where whoever listens may have a socket to accept this end of a connection: at its very address, or at any, and of either
    /// family where the address is of IPv4. What listens has no other end: all zeros, of which IPv4 has a form of its own.
    pub fn listeners(self) -> impl Iterator<Item = Self> {
        const ANY_V4: Ipv6Addr = std::net::Ipv4Addr::UNSPECIFIED.to_ipv6_mapped();
        const ANY_V6: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
        let Endpoint { address, port } = self.local;
        let is_v4 = address.to_ipv4_mapped().is_some();
        let of_v4 = [(address, ANY_V4), (ANY_V4, ANY_V4)].into_iter().filter(move |_| is_v4);
        let of_v6 = [(address, ANY_V6), (ANY_V6, ANY_V6)];
        of_v4.chain(of_v6).map(move |(local, none)| {
            let (local, remote) = (Endpoint { address: local, port }, Endpoint { address: none, port: 0 });
            Self { local, remote, netns: self.netns.filter(|_| local.is_loopback()) }
        })
    }
}

/// What somebody has open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Holding {
    /// A pipe, a unix socket or another file.
    File(FileId),
    /// An end of a TCP connection.
    Connection(ConnectionEnd),
}

impl Holding {
    /// What an open file is to those that look for its holders.
    pub fn of(file: &OpenFile, netns: Option<u32>) -> Self {
        match file.socket.and_then(|socket| socket.addresses()) {
            Some(addresses) if addresses.local.port != 0 => {
                Holding::Connection(ConnectionEnd::new(addresses, netns))
            }
            _ => Holding::File(FileId::from(file)),
        }
    }
}

/// How a file is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
}

impl Access {
    pub const READ: Access = Access { read: true, write: false };
    pub const WRITE: Access = Access { read: false, write: true };
    pub const BOTH: Access = Access { read: true, write: true };

    /// Whether a file that is open like this can be used in one of these ways.
    pub fn allows(self, any: Access) -> bool {
        self.read && any.read || self.write && any.write
    }
}

/// An open fd of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process.
    pub pid: u32,
    /// Its fd.
    pub fd: i32,
    /// How it is open.
    pub access: Access,
    /// What it is.
    pub holding: Holding,
    /// Its inode number.
    pub inode: u64,
    /// Of a TCP socket, its network namespace, if that is known.
    pub netns: Option<u32>,
    /// What waits in its queue, where that is a listener's, or one of datagrams.
    pub backlog: Option<Backlog>,
}
