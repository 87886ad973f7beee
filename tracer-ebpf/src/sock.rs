//! Reading sockets: addresses for every family, the state of TCP, the two ends of unix sockets.
//!
//! A socket is read where it lies, so it does not matter in which network namespace it is.

use tracer_ebpf::abi::{File, HolderRecord, PORT_BIND, PORT_CONNECT, PORT_UNKNOWN, Tcp, Udp, Unix};

use crate::offsets::*;

pub const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
pub const AF_INET6: u16 = 10;
const IPPROTO_TCP: u16 = 6;
const IPPROTO_UDP: u16 = 17;
/// State of a listener (include/net/tcp_states.h).
const LISTEN: u8 = 10;
/// Bytes of `struct sockaddr_un` before its path.
const SUN_PATH: usize = 2;

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
        let mut failed = SOCK_FAMILY.read(self.0, &mut to.family);
        failed |= SOCK_TYPE.read(self.0, &mut to.sock_type);
        failed |= SOCK_PROTOCOL.read(self.0, &mut to.protocol);
        if to.family == AF_INET || to.family == AF_INET6 {
            failed |= SOCK_LPORT.read(self.0, &mut to.local_port);
            let mut remote_port = 0u16;
            failed |= SOCK_DPORT.read(self.0, &mut remote_port);
            to.remote_port = u16::from_be(remote_port);
            if to.family == AF_INET6 && SOCK_LADDR6.exists() && SOCK_DADDR6.exists() {
                failed |= SOCK_LADDR6.read(self.0, &mut to.local);
                failed |= SOCK_DADDR6.read(self.0, &mut to.remote);
            } else {
                failed |= read_mapped(&SOCK_LADDR, self.0, &mut to.local);
                failed |= read_mapped(&SOCK_DADDR, self.0, &mut to.remote);
            }
        }
        failed
    }

    /// Fills `to` with the connection's state. True if something could not be read.
    #[inline(always)]
    pub fn tcp(self, to: &mut Tcp) -> bool {
        let mut failed = SOCK_STATE.read(self.0, &mut to.state);
        if TCP_BYTES_SENT.exists() {
            failed |= TCP_BYTES_SENT.read(self.0, &mut to.bytes_sent);
        }
        if TCP_BYTES_RETRANS.exists() {
            failed |= TCP_BYTES_RETRANS.read(self.0, &mut to.bytes_retrans);
        }
        failed |= TCP_BYTES_ACKED.read(self.0, &mut to.bytes_acked);
        failed |= TCP_BYTES_RECEIVED.read(self.0, &mut to.bytes_received);
        failed |= SOCK_RCVTIMEO.read(self.0, &mut to.rcvtimeo);
        failed |= SOCK_SNDTIMEO.read(self.0, &mut to.sndtimeo);
        failed |= SOCK_FLAGS.read(self.0, &mut to.flags);
        failed |= TCP_LSNDTIME.read(self.0, &mut to.lsndtime);
        failed |= TCP_LRCVTIME.read(self.0, &mut to.lrcvtime);
        failed |= TCP_RCV_TSTAMP.read(self.0, &mut to.rcv_tstamp);
        failed |= TCP_SND_UNA.read(self.0, &mut to.snd_una);
        failed |= TCP_SND_NXT.read(self.0, &mut to.snd_nxt);
        failed |= TCP_WRITE_SEQ.read(self.0, &mut to.write_seq);
        failed |= TCP_SND_WL1.read(self.0, &mut to.snd_wl1);
        failed |= TCP_RCV_NXT.read(self.0, &mut to.rcv_nxt);
        failed |= TCP_COPIED_SEQ.read(self.0, &mut to.copied_seq);
        failed |= TCP_SND_WND.read(self.0, &mut to.snd_wnd);
        failed |= TCP_TOTAL_RETRANS.read(self.0, &mut to.total_retrans);
        failed |= TCP_KEEPALIVE_TIME.read(self.0, &mut to.keepalive_time);
        failed |= TCP_RETRANSMITS.read(self.0, &mut to.retransmits);
        failed |= TCP_BACKOFF.read(self.0, &mut to.backoff);
        failed |= TCP_PROBES_OUT.read(self.0, &mut to.probes_out);
        failed |= TCP_SRTT.read(self.0, &mut to.srtt_us);
        failed |= TCP_USER_TIMEOUT.read(self.0, &mut to.user_timeout);
        failed |= TCP_KEEPALIVE_INTVL.read(self.0, &mut to.keepalive_intvl);
        failed |= TCP_KEEPALIVE_PROBES.read(self.0, &mut to.keepalive_probes);
        failed |= TCP_RTO.read(self.0, &mut to.rto);
        if TCP_DELIVERED.exists() {
            failed |= TCP_DELIVERED.read(self.0, &mut to.delivered_us);
        }
        if TCP_RETRANS_STAMP.exists() {
            failed |= TCP_RETRANS_STAMP.read(self.0, &mut to.retrans_stamp_ms);
        }
        to.netns = self.netns();
        to.port = self.port();
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

    /// Who chose the local port. `connect` marks a port that it takes with -1 (`__inet_hash_connect`,
    /// net/ipv4/inet_hashtables.c); a socket that was accepted shares its listener's.
    #[inline(always)]
    fn port(self) -> u8 {
        let (mut bucket, mut reuse) = (0u64, 0i8);
        if !TCP_BIND_HASH.exists() || !BIND_FASTREUSE.exists() {
            return PORT_UNKNOWN;
        }
        TCP_BIND_HASH.read(self.0, &mut bucket);
        // A socket that has let go of its port has none, and the read of nothing fails.
        match BIND_FASTREUSE.read(bucket as *const u8, &mut reuse) {
            true => PORT_UNKNOWN,
            false if reuse < 0 => PORT_CONNECT,
            false => PORT_BIND,
        }
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

/// Reads one into it. True if it could not be read.
#[inline(always)]
fn read_mapped(field: &Offset, sk: *const u8, to: &mut [u8; 16]) -> bool {
    let mut address = [0u8; 4];
    let failed = field.read(sk, &mut address);
    *to = mapped(address);
    failed
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
