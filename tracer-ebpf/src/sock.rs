//! Reading sockets: addresses for every family, the state of TCP, the two ends of unix sockets.
//!
//! A socket is read where it lies, so it does not matter in which network namespace it is.

use tracer_ebpf::abi::{
    COMMON_BLOCK_LEN, File, HolderRecord, PORT_BIND, PORT_CONNECT, PORT_UNKNOWN, TCP_BLOCK_MAX, Tcp, Udp,
    Unix,
};

use crate::{
    offsets::*,
    settings::{TCP_BLOCK, TCP_BLOCK_LEN},
};

pub const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
pub const AF_INET6: u16 = 10;
const IPPROTO_TCP: u16 = 6;
const IPPROTO_UDP: u16 = 17;
/// State of a listener (include/net/tcp_states.h).
const LISTEN: u8 = 10;
/// Bytes of `struct sockaddr_un` before its path.
const SUN_PATH: usize = 2;

/// Room for the part of a connection's `struct tcp_sock` in which its fields lie.
pub type TcpBlock = Block<{ TCP_BLOCK_MAX / 8 }>;
/// Room for the beginning of a `struct sock_common`.
type CommonBlock = Block<{ COMMON_BLOCK_LEN / 8 }>;

/// A kernel socket (`struct sock`) at an address the verifier knows nothing about.
#[derive(Clone, Copy)]
pub struct Sock(*const u8);

impl Sock {
    pub const NONE: Sock = Sock(core::ptr::null());

    #[inline(always)]
    pub fn is_none(self) -> bool {
        self.0.is_null()
    }

    /// The socket behind a `struct socket`, and whether reading it failed.
    #[inline(always)]
    pub fn of_socket(socket: *const u8) -> (Sock, bool) {
        let mut sk = 0u64;
        let failed = SOCKET_SK.read(socket, &mut sk);
        (Sock(sk as *const u8), failed)
    }

    /// Fills in family, type, protocol and the internet tuple. True if something could not be read.
    #[inline(always)]
    pub fn describe(self, to: &mut File) -> bool {
        let mut block = CommonBlock::empty();
        let common = &block.copy(self.0, 0, COMMON_BLOCK_LEN as u32);
        let mut failed = common.failed;
        to.family = SOCK_FAMILY.take(common);
        failed |= SOCK_TYPE.read(self.0, &mut to.sock_type);
        failed |= SOCK_PROTOCOL.read(self.0, &mut to.protocol);
        if to.family == AF_INET || to.family == AF_INET6 {
            to.local_port = SOCK_LPORT.take(common);
            to.remote_port = u16::from_be(SOCK_DPORT.take(common));
            if to.family == AF_INET6 && SOCK_LADDR6.exists() && SOCK_DADDR6.exists() {
                to.local = of_words(SOCK_LADDR6.take(common));
                to.remote = of_words(SOCK_DADDR6.take(common));
            } else {
                to.local = mapped(SOCK_LADDR.take::<u32, _>(common).to_ne_bytes());
                to.remote = mapped(SOCK_DADDR.take::<u32, _>(common).to_ne_bytes());
            }
        }
        failed
    }

    /// Fills `to` with the connection's state, most of it by way of `block`. True if something could not be read.
    #[inline(always)]
    pub fn tcp(self, to: &mut Tcp, block: &mut TcpBlock) -> bool {
        let connection = &block.copy(self.0, TCP_BLOCK.load(), TCP_BLOCK_LEN.load());
        let mut failed = connection.failed | SOCK_STATE.read(self.0, &mut to.state);
        if TCP_BYTES_SENT.exists() {
            to.bytes_sent = TCP_BYTES_SENT.take(connection);
        }
        if TCP_BYTES_RETRANS.exists() {
            to.bytes_retrans = TCP_BYTES_RETRANS.take(connection);
        }
        to.bytes_acked = TCP_BYTES_ACKED.take(connection);
        to.bytes_received = TCP_BYTES_RECEIVED.take(connection);
        failed |= SOCK_RCVTIMEO.read(self.0, &mut to.rcvtimeo);
        failed |= SOCK_SNDTIMEO.read(self.0, &mut to.sndtimeo);
        failed |= SOCK_FLAGS.read(self.0, &mut to.flags);
        to.lsndtime = TCP_LSNDTIME.take(connection);
        to.lrcvtime = TCP_LRCVTIME.take(connection);
        to.rcv_tstamp = TCP_RCV_TSTAMP.take(connection);
        to.snd_una = TCP_SND_UNA.take(connection);
        to.snd_nxt = TCP_SND_NXT.take(connection);
        to.write_seq = TCP_WRITE_SEQ.take(connection);
        to.snd_wl1 = TCP_SND_WL1.take(connection);
        to.rcv_nxt = TCP_RCV_NXT.take(connection);
        to.copied_seq = TCP_COPIED_SEQ.take(connection);
        to.snd_wnd = TCP_SND_WND.take(connection);
        to.total_retrans = TCP_TOTAL_RETRANS.take(connection);
        to.keepalive_time = TCP_KEEPALIVE_TIME.take(connection);
        to.retransmits = TCP_RETRANSMITS.take(connection);
        to.backoff = TCP_BACKOFF.take(connection);
        to.probes_out = TCP_PROBES_OUT.take(connection);
        to.srtt_us = TCP_SRTT.take(connection);
        to.user_timeout = TCP_USER_TIMEOUT.take(connection);
        to.keepalive_intvl = TCP_KEEPALIVE_INTVL.take(connection);
        to.keepalive_probes = TCP_KEEPALIVE_PROBES.take(connection);
        to.rto = TCP_RTO.take(connection);
        if TCP_DELIVERED.exists() {
            to.delivered_us = TCP_DELIVERED.take(connection);
        }
        if TCP_RETRANS_STAMP.exists() {
            to.retrans_stamp_ms = TCP_RETRANS_STAMP.take(connection);
        }
        to.netns = self.netns();
        to.port = port(connection);
        if to.state == LISTEN {
            failed |= SOCK_BACKLOG.read(self.0, &mut to.accept_queue);
            failed |= SOCK_BACKLOG_MAX.read(self.0, &mut to.accept_limit);
        }
        failed
    }

    /// Fills `to` with what a UDP socket keeps. True if something could not be read.
    #[inline(always)]
    pub fn udp(self, to: &mut Udp) -> bool {
        let mut failed = SOCK_RCVTIMEO.read(self.0, &mut to.rcvtimeo);
        failed |= SOCK_SNDTIMEO.read(self.0, &mut to.sndtimeo);
        failed |= SOCK_STAMP.read(self.0, &mut to.stamp);
        failed
    }

    /// Fills in what waits in the socket's queue: connections of a TCP listener, what has come to a unix socket. What cannot be read
    /// is zero.
    #[inline(always)]
    pub fn queue(self, tcp: bool, to: &mut HolderRecord) {
        let mut state = 0u8;
        SOCK_STATE.read(self.0, &mut state);
        to.state = state.into();
        if tcp {
            SOCK_BACKLOG.read(self.0, &mut to.queue);
        } else {
            SOCK_RECEIVE_QLEN.read(self.0, &mut to.queue);
        }
        SOCK_BACKLOG_MAX.read(self.0, &mut to.limit);
    }

    /// The socket's network namespace, 0 if the kernel has only one.
    #[inline(always)]
    pub fn netns(self) -> u32 {
        let mut inum = 0u32;
        if SOCK_NET.exists() && NET_INUM.exists() {
            let mut net = 0u64;
            SOCK_NET.read(self.0, &mut net);
            NET_INUM.read(net as *const u8, &mut inum);
        }
        inum
    }

    /// Fills `to` with both ends of a unix socket. True if something could not be read.
    #[inline(always)]
    pub fn unix(self, to: &mut Unix) -> bool {
        if !UNIX_PEER.exists() || !UNIX_ADDR.exists() {
            return true;
        }
        let mut failed = unix_name(self.0, &mut to.path_len, &mut to.path);
        let (mut pid, mut peer) = (0u64, 0u64);
        failed |= SOCK_STATE.read(self.0, &mut to.state);
        failed |= SOCK_RECEIVE_QLEN.read(self.0, &mut to.queue);
        failed |= SOCK_BACKLOG_MAX.read(self.0, &mut to.limit);
        failed |= SOCK_RCVTIMEO.read(self.0, &mut to.rcvtimeo);
        failed |= SOCK_SNDTIMEO.read(self.0, &mut to.sndtimeo);
        failed |= SOCK_PEER_PID.read(self.0, &mut pid);
        if pid != 0 {
            failed |= PID_NR.read(pid as *const u8, &mut to.peer_pid);
        }
        failed |= UNIX_PEER.read(self.0, &mut peer);
        let peer = peer as *const u8;
        if peer.is_null() {
            return failed;
        }
        to.has_peer = 1;
        failed |= unix_name(peer, &mut to.peer_path_len, &mut to.peer_path);
        failed |= SOCK_BACKLOG_MAX.read(peer, &mut to.peer_limit);
        failed |= SOCK_RECEIVE_QLEN.read(peer, &mut to.unread);
        let mut socket = 0u64;
        failed |= SOCK_SOCKET.read(peer, &mut socket);
        if socket != 0 {
            // A struct socket is the first member of a struct socket_alloc, its inode the second.
            let inode = SOCKET_ALLOC_INODE.of(socket as *const u8);
            failed |= INODE_INO.read(inode, &mut to.peer_inode);
        }
        failed
    }
}

/// Who chose the local port. `connect` marks a port that it takes with -1 (`__inet_hash_connect`,
/// net/ipv4/inet_hashtables.c); a socket that was accepted shares its listener's.
#[inline(always)]
fn port(connection: &Copied<'_, { TCP_BLOCK_MAX / 8 }>) -> u8 {
    if !TCP_BIND_HASH.exists() || !BIND_FASTREUSE.exists() {
        return PORT_UNKNOWN;
    }
    let (bucket, mut reuse) = (TCP_BIND_HASH.take::<u64, _>(connection), 0i8);
    // A socket that has let go of its port has none, and the read of nothing fails.
    match BIND_FASTREUSE.read(bucket as *const u8, &mut reuse) {
        true => PORT_UNKNOWN,
        false if reuse < 0 => PORT_CONNECT,
        false => PORT_BIND,
    }
}

/// Whether an open file is a TCP socket.
#[inline(always)]
pub fn is_tcp(file: &File) -> bool {
    is_tcp_of(file.family, file.protocol)
}

/// Whether a socket of this family and protocol is one of TCP.
#[inline(always)]
pub fn is_tcp_of(family: u16, protocol: u16) -> bool {
    (family == AF_INET || family == AF_INET6) && protocol == IPPROTO_TCP
}

/// Whether an open file is a UDP socket.
#[inline(always)]
pub fn is_udp(file: &File) -> bool {
    (file.family == AF_INET || file.family == AF_INET6) && file.protocol == IPPROTO_UDP
}

/// An IPv4 address in its mapped IPv6 form.
#[inline(always)]
pub fn mapped(address: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = address;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// An IPv6 address, which the kernel aligns as words.
#[inline(always)]
fn of_words(words: [u32; 4]) -> [u8; 16] {
    // SAFETY: any bytes are an address.
    unsafe { core::mem::transmute(words) }
}

#[inline(always)]
fn unix_name(sk: *const u8, len: &mut u16, path: &mut [u8; tracer_ebpf::abi::UNIX_PATH_LEN]) -> bool {
    let mut address = 0u64;
    let mut failed = UNIX_ADDR.read(sk, &mut address);
    if address != 0 {
        let mut bytes = 0u32;
        failed |= UNIX_ADDR_LEN.read(address as *const u8, &mut bytes);
        *len = (bytes as u16).saturating_sub(SUN_PATH as u16);
        // The kernel allocates just `len` bytes, so this may read beyond; what lies there does not count.
        failed |= read(UNIX_ADDR_NAME.of(address as *const u8).wrapping_add(SUN_PATH), path);
    }
    failed
}
