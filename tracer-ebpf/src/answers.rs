//! The program `answers`: how long do services take to answer? Runs whenever a program has read data from a TCP connection, so what is
//! read in one go on must cost next to nothing.

use aya_ebpf::{
    bindings::{BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE},
    btf_maps::{HashMap, PerCpuArray, SkStorage},
    helpers::generated::{bpf_get_current_task_btf, bpf_sk_storage_get, bpf_skc_to_tcp_sock},
    macros::{btf_map, btf_tracepoint},
    programs::BtfTracePointContext,
};
use tracer_ebpf::abi::{AnswerKey, Counter, Histogram};

use crate::{
    count::count,
    file::zero,
    histogram,
    offsets::*,
    settings::{self, ACTIVE, ATTACHED_US},
    sock::{self, AF_INET6},
    task::Task,
};

/// Entries of each histogram map; tracer makes them smaller where `answers` is not used.
const ENTRIES: usize = 4096;

/// Answers by program and service. Two maps, as of ended waits.
#[btf_map]
static ANSWERS_A: HashMap<AnswerKey, Histogram, ENTRIES> = HashMap::new();
#[btf_map]
static ANSWERS_B: HashMap<AnswerKey, Histogram, ENTRIES> = HashMap::new();

/// Of each connection: up to where its program had written when it last read an answer, with [`SEEN`]. It goes with the connection.
#[btf_map]
static ANSWERED: SkStorage<u64> = SkStorage::new();

/// Bit of a value of [`ANSWERED`] that tells it from a fresh one.
const SEEN: u64 = 1 << 32;

/// Room for a key and a fresh histogram.
#[repr(C)]
struct Scratch {
    key: AnswerKey,
    fresh: Histogram,
}

#[btf_map]
static ANSWERS_SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// Counts what is read first after a program's own bytes, on a connection that it made, as the answer to them: it took from when the last
/// of them was sent until the last segment came.
///
/// `void tcp_rcv_space_adjust(struct sock *sk)`
///
/// # Minimum kernel version
/// 5.11, which lets programs on tracepoints keep something of a socket.
#[btf_tracepoint(function = "tcp_rcv_space_adjust")]
pub fn answers(ctx: BtfTracePointContext) -> i32 {
    let socket = ctx.arg::<*const u8>(0);
    // SAFETY: a typed socket; the helper gives a typed TCP socket, or null for one of another protocol.
    let tcp = unsafe { bpf_skc_to_tcp_sock(socket.cast_mut().cast()) }.cast_const().cast::<u8>();
    if tcp.is_null() {
        return 0;
    }
    // SAFETY: a typed TCP socket, and fields.rs gives its fields.
    let (written, acknowledged): (u32, u32) = unsafe { (TCP_WRITE_SEQ.load(tcp), TCP_SND_UNA.load(tcp)) };
    // What came before all that was asked had arrived is no answer to it.
    if written != acknowledged || !has_asked(tcp) {
        return 0;
    }
    let storage: *const SkStorage<u64> = &ANSWERED;
    // SAFETY: the map keeps a u64 of each socket; `socket` is typed, and lives while its program reads from it.
    let answered = unsafe {
        bpf_sk_storage_get(
            storage.cast_mut().cast(),
            socket.cast_mut().cast(),
            core::ptr::null_mut(),
            BPF_SK_STORAGE_GET_F_CREATE.into(),
        )
        .cast::<u64>()
        .as_mut()
    };
    let Some(answered) = answered else {
        count(Counter::AnswersFull);
        return 0;
    };
    let (before, now) = (*answered, SEEN | u64::from(written));
    if before == now {
        return 0;
    }
    *answered = now;
    // SAFETY: as above.
    let (sent_us, came_us): (u64, u64) = unsafe { (TCP_FIRST_TX.load(tcp), TCP_MSTAMP.load(tcp)) };
    // What was asked before the program was attached may have been answered, and this be the rest of the answer.
    if before == 0 && sent_us < settings::live(ATTACHED_US) {
        return 0;
    }
    tally(socket, came_us.saturating_sub(sent_us) * 1000);
    0
}

/// Whether this end has made the connection and sent something. As in `sockets`: the SYN was acknowledged as a byte is, and all else
/// has been.
#[inline(always)]
fn has_asked(tcp: *const u8) -> bool {
    // SAFETY: a typed TCP socket, and fields.rs gives its fields.
    let (sent, again, acknowledged): (u64, u64, u64) =
        unsafe { (TCP_BYTES_SENT.load(tcp), TCP_BYTES_RETRANS.load(tcp), TCP_BYTES_ACKED.load(tcp)) };
    sent != 0 && acknowledged == sent.wrapping_sub(again).wrapping_add(1)
}

/// Adds an answer to the histogram of its program and service.
#[inline(always)]
fn tally(socket: *const u8, duration_ns: u64) {
    let Some(scratch) = ANSWERS_SCRATCH.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's element, and nothing else runs this program on this CPU meanwhile.
    let scratch = unsafe { &mut *scratch };
    zero(&mut scratch.key);
    // SAFETY: a helper without arguments, whose pointer is typed.
    let task = Task(unsafe { bpf_get_current_task_btf() }.cast_const().cast());
    // The kernel's own connections, as of a file server.
    if task.is_worker() {
        return;
    }
    let mut failed = task.leader().comm(&mut scratch.key.comm);
    failed |= remote(socket, &mut scratch.key);
    if failed {
        return count(Counter::ReadFailed);
    }
    let map_b = settings::live(ACTIVE) != 0;
    let key = &scratch.key;
    let find = || if map_b { ANSWERS_B.get_ptr_mut(key) } else { ANSWERS_A.get_ptr_mut(key) };
    let entry = match find() {
        Some(entry) => entry,
        None => {
            zero(&mut scratch.fresh);
            // Another CPU may have made the entry meanwhile: then this fails and the look-up finds it.
            let _ = if map_b {
                ANSWERS_B.insert(key, &scratch.fresh, BPF_NOEXIST.into())
            } else {
                ANSWERS_A.insert(key, &scratch.fresh, BPF_NOEXIST.into())
            };
            match find() {
                Some(entry) => entry,
                None => return count(Counter::AnswersFull),
            }
        }
    };
    // SAFETY: a map value.
    unsafe { histogram::add(entry, duration_ns) };
}

/// Fills in the address of the other end. True if it could not be read.
#[inline(always)]
fn remote(socket: *const u8, to: &mut AnswerKey) -> bool {
    // SAFETY: a typed socket, and fields.rs gives its fields.
    let (family, port): (u16, u16) = unsafe { (SOCK_FAMILY.load(socket), SOCK_DPORT.load(socket)) };
    to.remote_port = u16::from_be(port).into();
    if family == AF_INET6 && SOCK_DADDR6.exists() {
        return SOCK_DADDR6.read(socket, &mut to.remote);
    }
    // SAFETY: likewise.
    let address: u32 = unsafe { SOCK_DADDR.load(socket) };
    to.remote = sock::mapped(address.to_ne_bytes());
    false
}
