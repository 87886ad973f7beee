//! What an open file is: its kind, its inode and, of a socket, its family and addresses.

use std::net::{Ipv6Addr, SocketAddr};

/// Protocols of the internet (include/uapi/linux/in.h).
const IPPROTO_TCP: u16 = libc::IPPROTO_TCP as u16;
const IPPROTO_UDP: u16 = libc::IPPROTO_UDP as u16;

/// An open file, as far as the kernel's own structures say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OpenFile {
    /// Inode number.
    pub inode: u64,
    /// The device of its file system.
    pub device: Device,
    /// Type and permission bits, as in `st_mode` (inode(7)).
    pub mode: u16,
    /// The device that a device file stands for.
    pub special: Device,
    /// What kind of socket it is, if it is one.
    pub socket: Option<OpenSocket>,
}

impl OpenFile {
    /// What kind of file it is.
    pub fn kind(&self) -> FileKind {
        FileKind::of(self.mode)
    }

    /// The two ends of a TCP socket.
    pub fn tcp(&self) -> Option<Addresses> {
        self.socket.filter(|socket| socket.protocol == IPPROTO_TCP)?.addresses()
    }
}

/// The kinds of files: the type bits of a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    Socket,
    Link,
    Regular,
    BlockDevice,
    Directory,
    CharacterDevice,
    Fifo,
    /// The mode has no type bits: an anonymous inode, as of an eventfd.
    Anonymous,
    /// No file has these bits.
    Unknown,
}

impl FileKind {
    const ALL: [(FileKind, u32); 8] = [
        (FileKind::Socket, libc::S_IFSOCK),
        (FileKind::Link, libc::S_IFLNK),
        (FileKind::Regular, libc::S_IFREG),
        (FileKind::BlockDevice, libc::S_IFBLK),
        (FileKind::Directory, libc::S_IFDIR),
        (FileKind::CharacterDevice, libc::S_IFCHR),
        (FileKind::Fifo, libc::S_IFIFO),
        (FileKind::Anonymous, 0),
    ];

    /// By the type bits of a mode.
    pub fn of(mode: u16) -> Self {
        let bits = u32::from(mode) & libc::S_IFMT;
        Self::ALL.iter().find(|(_, of)| *of == bits).map_or(Self::Unknown, |(kind, _)| *kind)
    }

    /// Its type bits.
    pub fn bits(self) -> u32 {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or(libc::S_IFMT, |(_, bits)| *bits)
    }
}

/// The number of a device in the kernel's own encoding (`MKDEV`, include/linux/kdev_t.h): the major number above bit 20.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Device(pub u32);

impl Device {
    /// As `st_dev` and `st_rdev` have it (makedev(3)).
    pub fn from_stat(device: u64) -> Self {
        Self(libc::major(device) << 20 | libc::minor(device))
    }

    /// Which driver.
    pub fn major(self) -> u32 {
        self.0 >> 20
    }

    /// Which of its devices.
    pub fn minor(self) -> u32 {
        self.0 & 0xf_ffff
    }
}

/// What kind of socket an open file is, and where its ends are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OpenSocket {
    /// Its family, with what only sockets of that family have.
    pub family: SocketFamily,
    /// Its type (`SOCK_*`).
    pub kind: SocketKind,
    /// Its protocol (`IPPROTO_*` for the internet's families).
    pub protocol: u16,
}

impl OpenSocket {
    /// The two ends of a socket of the internet's families.
    pub fn addresses(&self) -> Option<Addresses> {
        match self.family {
            SocketFamily::Inet(addresses) | SocketFamily::Inet6(addresses) => Some(addresses),
            SocketFamily::Unix | SocketFamily::Other(_) => None,
        }
    }

    /// The same, to be put right.
    pub fn addresses_mut(&mut self) -> Option<&mut Addresses> {
        match &mut self.family {
            SocketFamily::Inet(addresses) | SocketFamily::Inet6(addresses) => Some(addresses),
            SocketFamily::Unix | SocketFamily::Other(_) => None,
        }
    }

    /// Which protocol of the internet it speaks.
    pub fn transport(&self) -> Option<(Transport, Addresses)> {
        let addresses = self.addresses()?;
        let transport = match self.protocol {
            IPPROTO_TCP => Transport::Tcp,
            IPPROTO_UDP => Transport::Udp,
            _ => return None,
        };
        Some((transport, addresses))
    }
}

/// Protocols of the internet that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    /// Its number (`IPPROTO_*`).
    pub fn number(self) -> u16 {
        match self {
            Transport::Tcp => IPPROTO_TCP,
            Transport::Udp => IPPROTO_UDP,
        }
    }
}

/// Families of sockets (`AF_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SocketFamily {
    /// IPv4.
    Inet(Addresses),
    /// IPv6, which also speaks IPv4.
    Inet6(Addresses),
    Unix,
    /// Another, by its number.
    Other(u16),
}

/// Types of sockets (`SOCK_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SocketKind {
    Stream,
    Datagram,
    Raw,
    /// Another, by its number.
    Other(u16),
}

impl SocketKind {
    /// By its number.
    pub fn of(number: u16) -> Self {
        match libc::c_int::from(number) {
            libc::SOCK_STREAM => SocketKind::Stream,
            libc::SOCK_DGRAM => SocketKind::Datagram,
            libc::SOCK_RAW => SocketKind::Raw,
            _ => SocketKind::Other(number),
        }
    }

    /// Its number.
    pub fn number(self) -> u16 {
        match self {
            SocketKind::Stream => libc::SOCK_STREAM as u16,
            SocketKind::Datagram => libc::SOCK_DGRAM as u16,
            SocketKind::Raw => libc::SOCK_RAW as u16,
            SocketKind::Other(number) => number,
        }
    }
}

/// The two ends of an internet socket, as it has them itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Addresses {
    /// Its own.
    pub local: Endpoint,
    /// The other's; unspecified, with port 0, where it is not connected.
    pub remote: Endpoint,
}

impl Addresses {
    /// The same connection from the other end.
    pub fn reversed(self) -> Self {
        Self { local: self.remote, remote: self.local }
    }
}

/// An address and a port of the internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// IPv4 in its mapped form, `::ffff:a.b.c.d`.
    pub address: Ipv6Addr,
    /// Host byte order; 0 for none.
    pub port: u16,
}

impl Endpoint {
    /// As it prints: a mapped IPv4 address as IPv4.
    pub fn socket_addr(self) -> SocketAddr {
        SocketAddr::new(self.address.to_canonical(), self.port)
    }

    /// Whether it is an address of the loopback device.
    pub fn is_loopback(self) -> bool {
        self.address.to_canonical().is_loopback()
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        let ip = match address.ip() {
            std::net::IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            std::net::IpAddr::V6(ip) => ip,
        };
        Self { address: ip, port: address.port() }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A file of which nothing but its inode number and kind is known.
    pub fn file(inode: u64, kind: FileKind) -> OpenFile {
        let mode = kind.bits() as u16;
        OpenFile { inode, device: Device(0), mode, special: Device(0), socket: None }
    }

    #[test]
    fn the_type_bits_of_a_mode_are_its_kind() {
        for (kind, bits) in FileKind::ALL {
            assert_eq!(FileKind::of(bits as u16 | 0o644), kind);
            assert_eq!(kind.bits(), bits);
        }
        assert_eq!(FileKind::of(0o170_644), FileKind::Unknown);
    }

    #[test]
    fn devices_have_their_numbers() {
        let device = Device::from_stat(libc::makedev(136, 7));
        assert_eq!((device.major(), device.minor()), (136, 7));
    }

    #[test]
    fn loopback_is_told_in_both_families() {
        for (text, expected) in
            [("127.0.0.2:80", true), ("[::1]:80", true), ("10.0.0.1:80", false), ("[::]:80", false)]
        {
            let endpoint = Endpoint::from(text.parse::<SocketAddr>().expect("an address"));
            assert_eq!(endpoint.is_loopback(), expected, "{text}");
            assert_eq!(endpoint.socket_addr().to_string(), text);
        }
    }
}
