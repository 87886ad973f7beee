//! Who has a file or a connection open.

use crate::model::file::{Addresses, Device, Endpoint, FileKind, OpenFile};

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
}
