//! The address that a call names: read from its caller's memory. A socket has no peer yet while it connects, and one that sends to
//! whomever it likes never has.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
};

use crate::{
    model::{
        file::Endpoint,
        syscalls::{CallTable, Operation, Syscall},
        target::Target,
        wait::{ProcessId, Wait},
    },
    procfs::Reads,
};

/// Bytes of the longest address that is read (`struct sockaddr_un`).
const ADDRESS_MAX: usize = 110;

/// An address as a program gives it to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedAddress {
    /// Of the internet.
    Internet(Endpoint),
    /// A unix socket's path; an abstract name begins with `@`.
    Unix(String),
}

/// A `struct sockaddr` (include/uapi/linux/in.h, in6.h, un.h) of so many bytes.
pub fn parse(bytes: &[u8]) -> Option<NamedAddress> {
    let family = u16::from_ne_bytes(*bytes.first_chunk()?);
    let rest = &bytes[2..];
    let port = || Some(u16::from_be_bytes(*rest.first_chunk()?));
    Some(match libc::c_int::from(family) {
        libc::AF_INET => {
            let address = Ipv4Addr::from(*rest.get(2..)?.first_chunk::<4>()?).to_ipv6_mapped();
            NamedAddress::Internet(Endpoint { address, port: port()? })
        }
        libc::AF_INET6 => {
            let address = Ipv6Addr::from(*rest.get(6..)?.first_chunk::<16>()?);
            NamedAddress::Internet(Endpoint { address, port: port()? })
        }
        libc::AF_UNIX => NamedAddress::Unix(match rest {
            [] | [0] => return None,
            [0, name @ ..] => format!("@{}", String::from_utf8_lossy(name)),
            path => {
                let end = path.iter().position(|byte| *byte == 0).unwrap_or(path.len());
                String::from_utf8_lossy(&path[..end]).into_owned()
            }
        }),
        _ => return None,
    })
}

/// Where in memory an address lies, and how many bytes it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    address: u64,
    length: u64,
}

/// The address that a wait's call names, if it names one.
fn of(wait: &Wait, reads: &mut Reads) -> Option<NamedAddress> {
    let Place { address, length } = place(wait, reads)?;
    let length = usize::try_from(length).ok().filter(|length| address != 0 && *length > 2)?;
    let bytes = reads.memory(wait.thread.process, address, length.min(ADDRESS_MAX))?;
    let named = parse(&bytes)?;
    reads.still_in(wait).then_some(())?;
    Some(match named {
        NamedAddress::Unix(path) => NamedAddress::Unix(absolute(wait, path, reads)),
        internet => internet,
    })
}

/// A path that is relative to the caller's folder.
fn absolute(wait: &Wait, path: String, reads: &mut Reads) -> String {
    if path.starts_with(['/', '@']) {
        return path;
    }
    let cwd = reads.link(wait.thread.process, &format!("task/{}/cwd", wait.thread.tid));
    cwd.map_or(path.clone(), |cwd| cwd.join(Path::new(&path)).to_string_lossy().into_owned())
}

fn place(wait: &Wait, reads: &mut Reads) -> Option<Place> {
    let (process, call) = (wait.thread.process, &wait.call);
    let narrow = call.table == CallTable::Compat;
    let mut args = call.args;
    if call.syscall == Syscall::Socketcall {
        let words = reads.memory(process, call.args[1], 6 * 4)?;
        let words =
            words.chunks_exact(4).map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
        args = [0; 6];
        args.iter_mut().zip(words).for_each(|(arg, word)| *arg = word.into());
    }
    match call.syscall.of_many(call.args[0]) {
        // The kernel takes the lower half of a length.
        Syscall::Connect => Some(Place { address: args[1], length: args[2] & 0xffff_ffff }),
        Syscall::Sendto => Some(Place { address: args[4], length: args[5] & 0xffff_ffff }),
        Syscall::Sendmsg | Syscall::Sendmmsg => message(process, args[1], narrow, reads),
        _ => None,
    }
}

/// `struct msghdr`, of several the first: it begins with the address's pointer and its length.
fn message(process: ProcessId, at: u64, narrow: bool, reads: &mut Reads) -> Option<Place> {
    let word = if narrow { 4 } else { 8 };
    let bytes = reads.memory(process, at, word + 4)?;
    let (pointer, length) = bytes.split_at_checked(word)?;
    let address = match narrow {
        true => u32::from_ne_bytes(*pointer.first_chunk()?).into(),
        false => u64::from_ne_bytes(*pointer.first_chunk()?),
    };
    Some(Place { address, length: u32::from_ne_bytes(*length.first_chunk()?).into() })
}

/// What a wait waits on, with the address that its call names: such a call goes there, whatever its socket is bound or connected to.
pub fn named(wait: &Wait, target: &mut Target, reads: &mut Reads) {
    if !matches!(wait.call.operation(), Operation::Connect | Operation::Send) {
        return;
    }
    match target {
        Target::Udp { remote: remote @ None, .. } => {
            if let Some(NamedAddress::Internet(endpoint)) = of(wait, reads) {
                *remote = Some(endpoint.socket_addr());
            }
        }
        Target::Tcp { remote, .. } if remote.port() == 0 => {
            if let Some(NamedAddress::Internet(endpoint)) = of(wait, reads) {
                *remote = endpoint.socket_addr();
            }
        }
        Target::Unix { path, peer_inode, client, .. } => {
            if let Some(NamedAddress::Unix(named)) = of(wait, reads) {
                (*path, *peer_inode, *client) = (Some(named), None, true);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve::samples::in_own_call;

    fn v4(port: u16) -> Vec<u8> {
        let mut bytes = (libc::AF_INET as u16).to_ne_bytes().to_vec();
        bytes.extend(port.to_be_bytes());
        bytes.extend([192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        bytes
    }

    fn unix(path: &[u8]) -> Vec<u8> {
        [&(libc::AF_UNIX as u16).to_ne_bytes()[..], path].concat()
    }

    #[test]
    fn addresses_are_read_as_the_kernel_reads_them() {
        let path = |path: &str| Some(NamedAddress::Unix(path.into()));
        let mut v6 = [0; 28];
        v6[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
        (v6[3], v6[23]) = (80, 1);
        for (bytes, expected) in [
            (unix(b"/run/log\0rest"), path("/run/log")),
            (unix(b"/run/log"), path("/run/log")),
            (unix(b"\0name\0with zero"), path("@name\0with zero")),
            (unix(b"log"), path("log")),
            (unix(b"\0"), None),
            (unix(b""), None),
            (v4(53)[..7].to_vec(), None),
            (v6[..23].to_vec(), None),
            (vec![16, 0, 1, 2, 3, 4], None),
            (vec![1], None),
        ] {
            assert_eq!(parse(&bytes), expected, "{bytes:?}");
        }
        for (bytes, expected) in [(v4(53), "192.0.2.1:53"), (v6.to_vec(), "[::1]:80")] {
            let Some(NamedAddress::Internet(endpoint)) = parse(&bytes) else { panic!("{bytes:?}") };
            assert_eq!(endpoint.socket_addr().to_string(), expected);
        }
    }

    fn of_call(syscall: Syscall, table: CallTable, args: [u64; 6]) -> Option<NamedAddress> {
        in_own_call(syscall, table, args, of)
    }

    #[test]
    fn each_call_has_its_address_in_its_own_place() {
        let address = unix(b"/run/log");
        let (at, length) = (address.as_ptr().expose_provenance() as u64, address.len() as u64);
        let header = [at, length];
        let message = header.as_ptr().expose_provenance() as u64;
        let log = Some(NamedAddress::Unix("/run/log".into()));
        let native = CallTable::Native;
        for (syscall, args, expected) in [
            (Syscall::Connect, [3, at, length, 0, 0, 0], &log),
            (Syscall::Connect, [3, at, length | 7 << 32, 0, 0, 0], &log),
            (Syscall::Sendto, [3, 0, 0, 0, at, length], &log),
            (Syscall::Sendmsg, [3, message, 0, 0, 0, 0], &log),
            (Syscall::Sendmmsg, [3, message, 1, 0, 0, 0], &log),
            (Syscall::Sendto, [3, 0, 0, 0, 0, 0], &None),
            (Syscall::Sendto, [3, 0, 0, 0, 1, length], &None),
            (Syscall::Sendto, [3, 0, 0, 0, at, 2], &None),
            (Syscall::Sendmsg, [3, 0, 0, 0, 0, 0], &None),
            (Syscall::Recvfrom, [3, 0, 0, 0, at, length], &None),
        ] {
            assert_eq!(&of_call(syscall, native, args), expected, "{syscall:?} {args:?}");
        }
        let relative = unix(b"log");
        let at = relative.as_ptr().expose_provenance() as u64;
        let here = std::env::current_dir().expect("a folder").join("log");
        let expected = NamedAddress::Unix(here.to_string_lossy().into_owned());
        assert_eq!(of_call(Syscall::Connect, native, [3, at, 5, 0, 0, 0]), Some(expected));
    }

    /// Memory that a 32-bit program could have, since its pointers have four bytes.
    #[test]
    fn the_pointers_of_32_bit_calls_are_narrow() {
        let low = std::ptr::without_provenance_mut(0x1000_0000);
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a page of its own, where nothing is.
        let page = unsafe { libc::mmap(low, 4096, access, flags | libc::MAP_FIXED_NOREPLACE, -1, 0) };
        assert_ne!(page, libc::MAP_FAILED, "nothing is there");
        let at = page.expose_provenance() as u32;
        let address = unix(b"/run/log");
        let message = [at, address.len() as u32];
        let words = [3, at, address.len() as u32, 0, at, address.len() as u32];
        let of_words = |words: &[u32]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
        // SAFETY: all of it is within the page.
        unsafe {
            let page = page.cast::<u8>();
            page.copy_from_nonoverlapping(address.as_ptr(), address.len());
            page.add(200).copy_from_nonoverlapping(of_words(&message).as_ptr(), 8);
            page.add(300).copy_from_nonoverlapping(of_words(&words).as_ptr(), 24);
        }
        let log = Some(NamedAddress::Unix("/run/log".into()));
        let at = u64::from(at);
        for (syscall, args) in [
            (Syscall::Sendmsg, [3, at + 200, 0, 0, 0, 0]),
            (Syscall::Socketcall, [3, at + 300, 0, 0, 0, 0]),
            (Syscall::Socketcall, [11, at + 300, 0, 0, 0, 0]),
        ] {
            assert_eq!(of_call(syscall, CallTable::Compat, args), log, "{syscall:?} {args:?}");
        }
    }
}
