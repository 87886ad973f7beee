//! What the arguments of a call that has ended pointed to: where it connected to, which fds it polled. Pure.

use tracer_ebpf::abi::{EndedCall, File, POINTED};

use crate::resolve::poll::{Set, parse_poll};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// The fds of a poll; `None` where they were too many to be kept, or the call is another.
pub fn polled(name: &str, call: &EndedCall) -> Option<Set> {
    let all = call.call.args[1].checked_mul(8).is_some_and(|bytes| bytes <= POINTED as u64);
    let polls = matches!(name, "poll" | "ppoll" | "ppoll_time64");
    (polls && all && call.pointed_len > 0).then(|| Set { fds: parse_poll(bytes(call)), timeout: None })
}

/// Gives the record of a socket the peer that a connect was for: the kernel takes it back when the connect fails.
pub fn connected(name: &str, call: &EndedCall, file: &mut File) {
    if name != "connect" || file.remote_port != 0 {
        return;
    }
    // struct sockaddr_in and sockaddr_in6 (include/uapi/linux/in.h, in6.h).
    let bytes = bytes(call);
    let (Some([a, b]), Some([c, d])) = (bytes.get(..2), bytes.get(2..4)) else { return };
    let mut remote = [0; 16];
    match u16::from_ne_bytes([*a, *b]) {
        AF_INET if bytes.len() >= 8 => {
            remote[10..12].fill(0xff);
            remote[12..].copy_from_slice(&bytes[4..8]);
        }
        AF_INET6 if bytes.len() >= 24 => remote.copy_from_slice(&bytes[8..24]),
        _ => return,
    }
    (file.remote, file.remote_port) = (remote, u16::from_be_bytes([*c, *d]));
}

fn bytes(call: &EndedCall) -> &[u8] {
    call.pointed.get(..call.pointed_len as usize).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{kernel::record::plain, model::wait::socket_addr};

    fn call(args: [u64; 6], pointed: &[u8]) -> EndedCall {
        let mut call: EndedCall = plain(&mut &[0; size_of::<EndedCall>()][..]).expect("zeros are a record");
        call.call.args = args;
        call.pointed[..pointed.len()].copy_from_slice(pointed);
        call.pointed_len = pointed.len() as u32;
        call
    }

    #[test]
    fn the_peer_of_a_failed_connect_is_where_it_was_for() {
        let mut v4 = [0; 16];
        v4[..2].copy_from_slice(&AF_INET.to_ne_bytes());
        v4[2..8].copy_from_slice(&[1, 187, 10, 98, 0, 7]);
        let mut v6 = [0; 28];
        v6[..2].copy_from_slice(&AF_INET6.to_ne_bytes());
        (v6[3], v6[23]) = (80, 1);
        for (pointed, expected) in [(&v4[..], "10.98.0.7:443"), (&v6[..], "[::1]:80")] {
            let mut file = File::EMPTY;
            connected("connect", &call([0; 6], pointed), &mut file);
            assert_eq!(socket_addr(file.remote, file.remote_port).to_string(), expected);
        }
        // What the socket itself has counts; what is short, or of another family, is nothing.
        let mut has = File { remote_port: 5, ..File::EMPTY };
        connected("connect", &call([0; 6], &v4), &mut has);
        assert_eq!(has, File { remote_port: 5, ..File::EMPTY });
        for pointed in [&v4[..7], &v6[..23], &[1, 0, b'/'], &[]] {
            let mut file = File::EMPTY;
            connected("connect", &call([0; 6], pointed), &mut file);
            assert_eq!(file, File::EMPTY);
        }
    }

    #[test]
    fn the_fds_of_a_poll_are_known_if_all_are() {
        let set = |name, count, pointed: &[u8]| {
            polled(name, &call([0, count, 0, 0, 0, 0], pointed)).map(|set| set.fds.into_keys().collect())
        };
        let mut one = [0; 8];
        (one[0], one[4]) = (7, 1);
        assert_eq!(set("poll", 1, &one), Some(vec![7]));
        assert_eq!(set("ppoll", 9, &[0; 64]), None, "too many");
        assert_eq!(set("ppoll", 1, &[]), None, "not read");
        assert_eq!(set("select", 1, &one), None);
    }
}
