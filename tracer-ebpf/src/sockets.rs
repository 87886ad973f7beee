//! The program `sockets`: on which connections has a process asked, or been asked, without an answer? Run over all open files of the host,
//! once in some seconds: what it passes by must cost next to nothing.

use core::ffi::c_void;

use aya_ebpf::{
    btf_maps::PerCpuArray,
    helpers::generated::{bpf_jiffies64, bpf_skc_to_tcp_sock, bpf_sock_from_file},
    macros::btf_map,
};
use tracer_ebpf::abi::{Counter, KIND_SOCKET, READ_FAILED, SocketRecord, TAIL_TCP, Tcp};

use crate::{
    count::count,
    file::{self, Found, S_IFMT, S_IFSOCK, zero},
    iter::Context,
    offsets::*,
    settings::{self, ANSWERED_ONE_IN, INCOMING, REQUEST_TICKS, TYPED_SOCKETS, UNCLOSED_TICKS},
    sock::{self, TcpBlock},
};

/// States of a connection (include/net/tcp_states.h).
const ESTABLISHED: u8 = 1;
const SYN_SENT: u8 = 2;
const CLOSE_WAIT: u8 = 8;

/// Room for a record and what follows it; and for reading it.
#[repr(C)]
struct Scratch {
    socket: SocketRecord,
    tcp: Tcp,
    block: TcpBlock,
}

#[btf_map]
static SOCKETS_SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// Writes a record for each fd of each process that is a connection which this end has made, whose last bytes are its own, and old
/// enough, or one that is being made; where that is asked for, of some that have been answered as well, of those that others have made and
/// spoken last on, and of those that only the other end has closed. User space knows more, and leaves some of them out.
///
/// # Minimum kernel version
/// 5.8, as iterators are; typed sockets are 5.11.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn sockets(ctx: *mut c_void) -> i32 {
    let ctx = Context(ctx);
    let task = ctx.task();
    let file = ctx.file();
    if task.0.is_null() || file.is_null() {
        return 0;
    }
    let is_wanted = if TYPED_SOCKETS.load() != 0 { typed_request(file) } else { probed_request(file) };
    if !is_wanted {
        return 0;
    }
    let Some(scratch) = SOCKETS_SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's element, and nothing else runs this program on this CPU meanwhile.
    let scratch = unsafe { &mut *scratch };
    let record = &mut scratch.socket;
    zero(record);
    zero(&mut scratch.tcp);
    let leader = task.leader();
    let mut found = Found::NONE;
    file::describe(file, &mut record.file, &mut found);
    let mut failed =
        found.failed | found.sock.tcp(&mut scratch.tcp, &mut scratch.block) | leader.comm(&mut record.comm);
    record.kind = KIND_SOCKET;
    record.size = size_of::<SocketRecord>() as u32;
    record.tail = TAIL_TCP;
    record.tgid = task.tgid();
    record.fd = ctx.fd() as i32;
    record.uid = leader.uid();
    record.watched = is_watched(file).into();
    record.process_start_ns = leader.start_ns();
    record.cgroups = leader.cgroups();
    failed |= record.file.inode == 0;
    if failed {
        record.flags = READ_FAILED;
        count(Counter::ReadFailed);
    }
    ctx.write(&scratch.socket);
    ctx.write(&scratch.tcp);
    0
}

/// Whether anybody waits for a socket's events: its queue of those is not empty. True where that is not to be seen.
#[inline(always)]
fn is_watched(file: *const u8) -> bool {
    if !SOCKET_WAITERS.exists() {
        return true;
    }
    let (mut socket, mut first) = (0u64, 0u64);
    FILE_PRIVATE.read(file, &mut socket);
    let queue = SOCKET_WAITERS.of(socket as *const u8);
    // An empty list is its own next.
    read(queue, &mut first) || first != queue as u64
}

/// Whether connections in this state are told of.
#[inline(always)]
fn may_be_told(state: u8) -> bool {
    state == ESTABLISHED || state == SYN_SENT || state == CLOSE_WAIT && settings::live(UNCLOSED_TICKS) != 0
}

/// Whether a file is a connection that is to be told of, where the kernel gives typed pointers: nothing is copied.
#[inline(always)]
fn typed_request(file: *const u8) -> bool {
    // SAFETY: a typed file; the helper gives a typed socket or null.
    let socket = unsafe { bpf_sock_from_file(file.cast_mut().cast()) }.cast_const().cast::<u8>();
    if socket.is_null() {
        return false;
    }
    // SAFETY: typed pointers all the way; a null one reads as zero, which is no state.
    let (inner, state): (*const u8, u8) = unsafe {
        let inner = SOCKET_SK.load::<*const u8>(socket);
        (inner, SOCK_STATE.load(inner))
    };
    if !may_be_told(state) {
        return false;
    }
    // SAFETY: a typed socket; the helper gives a typed TCP socket, or null for one of another protocol.
    let tcp = unsafe { bpf_skc_to_tcp_sock(inner.cast_mut().cast()) }.cast_const().cast::<u8>();
    if tcp.is_null() {
        return false;
    }
    // SAFETY: a typed TCP socket.
    let progress = unsafe {
        Progress {
            sent: TCP_LSNDTIME.load(tcp),
            heard: TCP_LRCVTIME.load(tcp),
            last_word: TCP_RCV_TSTAMP.load(tcp),
            acknowledged: TCP_SND_UNA.load(tcp),
            written: TCP_WRITE_SEQ.load(tcp),
            last_segment: TCP_SND_WL1.load(tcp),
            next: TCP_RCV_NXT.load(tcp),
            received: TCP_BYTES_RECEIVED.load(tcp),
            next_own: TCP_SND_NXT.load(tcp),
            bytes_sent: TCP_BYTES_SENT.load(tcp),
            bytes_again: TCP_BYTES_RETRANS.load(tcp),
            bytes_acknowledged: TCP_BYTES_ACKED.load(tcp),
            retransmits: TCP_RETRANSMITS.load(tcp),
            port: SOCK_LPORT.load(inner),
        }
    };
    progress.is_told(state)
}

/// The same by copies, field by field.
#[inline(always)]
fn probed_request(file: *const u8) -> bool {
    // SAFETY: a typed file, and fields.rs gives its fields.
    let mode: u16 = unsafe { INODE_MODE.load(FILE_INODE.load::<*const u8>(file)) };
    if mode & S_IFMT != S_IFSOCK {
        return false;
    }
    let (mut socket, mut inner, mut state) = (0u64, 0u64, 0u8);
    FILE_PRIVATE.read(file, &mut socket);
    SOCKET_SK.read(socket as *const u8, &mut inner);
    let inner = inner as *const u8;
    SOCK_STATE.read(inner, &mut state);
    if !may_be_told(state) {
        return false;
    }
    let (mut family, mut protocol) = (0u16, 0u16);
    SOCK_FAMILY.read(inner, &mut family);
    SOCK_PROTOCOL.read(inner, &mut protocol);
    if !sock::is_tcp_of(family, protocol) {
        return false;
    }
    let mut progress = Progress::NONE;
    TCP_LSNDTIME.read(inner, &mut progress.sent);
    TCP_LRCVTIME.read(inner, &mut progress.heard);
    TCP_RCV_TSTAMP.read(inner, &mut progress.last_word);
    TCP_SND_UNA.read(inner, &mut progress.acknowledged);
    TCP_WRITE_SEQ.read(inner, &mut progress.written);
    TCP_SND_WL1.read(inner, &mut progress.last_segment);
    TCP_RCV_NXT.read(inner, &mut progress.next);
    TCP_BYTES_RECEIVED.read(inner, &mut progress.received);
    TCP_SND_NXT.read(inner, &mut progress.next_own);
    TCP_BYTES_SENT.read(inner, &mut progress.bytes_sent);
    TCP_BYTES_RETRANS.read(inner, &mut progress.bytes_again);
    TCP_BYTES_ACKED.read(inner, &mut progress.bytes_acknowledged);
    TCP_RETRANSMITS.read(inner, &mut progress.retransmits);
    SOCK_LPORT.read(inner, &mut progress.port);
    progress.is_told(state)
}

/// What has moved on a connection, and when.
struct Progress {
    /// When it last sent data, scheduler ticks.
    sent: u32,
    /// When data last came, likewise.
    heard: u32,
    /// When the other end last said anything, an acknowledgement included, likewise.
    last_word: u32,
    /// Up to where the peer has acknowledged.
    acknowledged: u32,
    /// Up to where the process has written.
    written: u32,
    /// Where the last segment began that moved the window.
    last_segment: u32,
    /// What is expected next.
    next: u32,
    /// Bytes of the peer's.
    received: u64,
    /// Up to where it has sent.
    next_own: u32,
    /// Bytes that it has sent, these again and again.
    bytes_sent: u64,
    /// Of these the ones that were sent once more.
    bytes_again: u64,
    /// Its bytes that the peer has, and the SYN of the end that has connected.
    bytes_acknowledged: u64,
    /// How often in a row it was not acknowledged in time.
    retransmits: u8,
    /// Its local port.
    port: u16,
}

impl Progress {
    const NONE: Self = Self {
        sent: 0,
        heard: 0,
        last_word: 0,
        acknowledged: 0,
        written: 0,
        last_segment: 0,
        next: 0,
        received: 0,
        next_own: 0,
        bytes_sent: 0,
        bytes_again: 0,
        bytes_acknowledged: 0,
        retransmits: 0,
        port: 0,
    };

    /// Whether a connection in this state is to be told of.
    #[inline(always)]
    fn is_told(&self, state: u8) -> bool {
        match state {
            SYN_SENT => true,
            CLOSE_WAIT => self.is_unclosed(),
            _ => self.is_wanted(),
        }
    }

    /// Whether the last bytes are the process's, on a connection that it made, or the other end's, on one that that one made, and older than
    /// is asked for; or it is one of the answered ones that are told of. User space decides it anew, with all that there is to know; here nothing may be left out that it would take.
    #[inline(always)]
    fn is_wanted(&self) -> bool {
        let is_own =
            self.written != self.acknowledged || self.received == 0 || self.last_segment == self.next;
        // SAFETY: a helper without arguments.
        let now = unsafe { bpf_jiffies64() } as u32;
        // Whatever is sent again counts as sent, and is no younger for it.
        let ticks = settings::live(REQUEST_TICKS);
        if !self.has_connected() {
            let is_theirs = !is_own || self.heard.wrapping_sub(self.sent).cast_signed() > 0;
            return settings::live(INCOMING) != 0
                && self.received != 0
                && self.written == self.acknowledged
                && is_theirs
                && u64::from(now.wrapping_sub(self.heard)) >= ticks;
        }
        let is_old = self.retransmits != 0 || u64::from(now.wrapping_sub(self.sent)) >= ticks;
        if is_own { is_old } else { self.is_sampled() }
    }

    /// Whether a connection that only the other end has closed is to be told of.
    #[inline(always)]
    fn is_unclosed(&self) -> bool {
        // SAFETY: a helper without arguments.
        let now = unsafe { bpf_jiffies64() } as u32;
        u64::from(now.wrapping_sub(self.last_word)) >= settings::live(UNCLOSED_TICKS)
    }

    /// Whether an answered connection is among those that are told of: by its port, so that they are the same each time.
    #[inline(always)]
    fn is_sampled(&self) -> bool {
        let one_in = settings::live(ANSWERED_ONE_IN);
        // The kernel gives ports out in steps: Fibonacci hashing spreads them.
        let place = u32::from(self.port).wrapping_mul(0x9e37_79b1) >> 16;
        one_in != 0 && u64::from(place) % one_in == 0
    }

    /// Whether this end made the connection: its SYN was acknowledged as a byte is. What the other end has sent last is an answer. As
    /// in `TcpFacts::has_connected` of user space.
    #[inline(always)]
    fn has_connected(&self) -> bool {
        let in_flight = self.next_own.wrapping_sub(self.acknowledged);
        let counted = self.bytes_acknowledged.wrapping_add(in_flight.into());
        counted == self.bytes_sent.wrapping_sub(self.bytes_again).wrapping_add(1)
    }
}
