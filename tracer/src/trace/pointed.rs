//! What the arguments of a call that has ended pointed to: where it connected to, which fds it polled. Pure.

use crate::{
    model::file::Endpoint,
    model::syscalls::Operation,
    model::wait::Call,
    resolve::{
        address::{self, NamedAddress},
        poll::{Set, parse_poll},
    },
};

/// The fds of a poll; `None` where they were too many to be kept, or the call is another.
pub fn polled(call: &Call, pointed: &[u8]) -> Option<Set> {
    let all = call.args[1].checked_mul(8) == Some(pointed.len() as u64);
    let polls = call.operation() == Operation::Poll;
    (polls && all && !pointed.is_empty()).then(|| Set { fds: parse_poll(pointed), timeout: None })
}

/// The peer that a connect was for: the kernel takes it back from the socket when the connect fails.
pub fn connected(bytes: &[u8]) -> Option<Endpoint> {
    match address::parse(bytes)? {
        NamedAddress::Internet(endpoint) => Some(endpoint),
        NamedAddress::Unix(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::syscalls::{CallTable, Syscall};

    #[test]
    fn the_peer_of_a_failed_connect_is_where_it_was_for() {
        let mut v4 = [0; 16];
        v4[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        v4[2..8].copy_from_slice(&[1, 187, 10, 98, 0, 7]);
        let mut v6 = [0; 28];
        v6[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
        (v6[3], v6[23]) = (80, 1);
        for (pointed, expected) in [(&v4[..], "10.98.0.7:443"), (&v6[..], "[::1]:80")] {
            let remote = connected(pointed).expect("an address");
            assert_eq!(remote.socket_addr().to_string(), expected);
        }
        // What is short, or of another family, is nothing.
        for pointed in [&v4[..7], &v6[..23], &[1, 0, b'/'], &[]] {
            assert_eq!(connected(pointed), None);
        }
    }

    #[test]
    fn the_fds_of_a_poll_are_known_if_all_are() {
        let set = |syscall, count, pointed: &[u8]| {
            let args = [0, count, 0, 0, 0, 0];
            let call = Call { table: CallTable::Native, number: Some(0), syscall, args, restarted: false };
            polled(&call, pointed).map(|set| set.fds.into_keys().collect())
        };
        let mut one = [0; 8];
        (one[0], one[4]) = (7, 1);
        assert_eq!(set(Syscall::Poll, 1, &one), Some(vec![7]));
        assert_eq!(set(Syscall::Ppoll, 9, &[0; 64]), None, "too many");
        assert_eq!(set(Syscall::Ppoll, 1, &[]), None, "not read");
        assert_eq!(set(Syscall::Select, 1, &one), None);
    }
}
