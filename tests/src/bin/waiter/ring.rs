//! Which roles wait in io_uring? A thread in io_uring_enter, and a worker of the kernel's that blocks for it.

use std::io::Error;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::report::{Report, unsupported, woke};
use crate::{Call, pipes, sockets, sys};

/// Byte offsets and numbers of include/uapi/linux/io_uring.h.
const PARAMS: usize = 120;
const PARAMS_SQ_TAIL: usize = 40 + 4;
const PARAMS_SQ_ARRAY: usize = 40 + 24;
const OFF_SQES: libc::off_t = 0x1000_0000;
const ENTER_GETEVENTS: u32 = 1;
/// `sizeof(struct io_uring_sqe)`.
const ENTRY: usize = 64;
const OP_OPENAT: u8 = 18;
const OP_READ: u8 = 22;
const OP_RECV: u8 = 27;
const SQE_ASYNC: u8 = 1 << 4;

fn setup(call: &Call) -> (OwnedFd, [u8; PARAMS]) {
    let mut params = [0_u8; PARAMS];
    // SAFETY: io_uring_setup reads and writes its 120 bytes of parameters, which outlive the call.
    let made = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, params.as_mut_ptr()) };
    if made < 0 {
        unsupported(call.role, &format!("io_uring_setup: {}", Error::last_os_error()));
    }
    (sys::must_fd(made, "io_uring_setup"), params)
}

fn enter(ring: &OwnedFd, submit: u32) -> i64 {
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: io_uring_enter takes numbers and, here, no signal mask.
    unsafe { libc::syscall(libc::SYS_io_uring_enter, ring.as_raw_fd(), submit, 1, ENTER_GETEVENTS, none, 0) }
}

/// `io_uring_enter` for a completion that never comes.
pub(crate) fn ring(call: &Call) {
    let (ring, _) = setup(call);
    Report::new(call.role, "io_uring_enter").fd(&ring).print();
    woke(enter(&ring, 0))
}

fn word(params: &[u8; PARAMS], at: usize) -> usize {
    u32::from_ne_bytes(params[at..at + 4].try_into().expect("four bytes")) as usize
}

fn map(ring: &OwnedFd, offset: libc::off_t) -> *mut u8 {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new shared mapping of the ring, at an address the kernel chooses; a page holds four entries.
    let page = unsafe {
        libc::mmap(std::ptr::null_mut(), 4096, protection, libc::MAP_SHARED, ring.as_raw_fd(), offset)
    };
    assert!(page != libc::MAP_FAILED, "mmap: {}", Error::last_os_error());
    page.cast()
}

/// Puts entries, two at most, where the kernel takes them at io_uring_enter.
fn hand_over(ring: &OwnedFd, params: &[u8; PARAMS], requests: &[[u8; ENTRY]]) {
    let (queue, entries) = (map(ring, 0), map(ring, OFF_SQES));
    for (at, entry) in requests.iter().enumerate() {
        // SAFETY: the entry and its slot of the array lie in the pages mapped above, which are the kernel's layout for a ring of
        // four.
        unsafe {
            std::ptr::copy_nonoverlapping(entry.as_ptr(), entries.add(at * ENTRY), ENTRY);
            queue.add(word(params, PARAMS_SQ_ARRAY)).cast::<u32>().add(at).write(at as u32);
        }
    }
    // SAFETY: the tail lies in the same pages.
    let tail = unsafe { &*queue.add(word(params, PARAMS_SQ_TAIL)).cast::<AtomicU32>() };
    tail.store(requests.len() as u32, Ordering::Release);
}

/// A request to receive or read a byte.
fn wants(operation: u8, fd: RawFd) -> [u8; ENTRY] {
    static mut BYTE: u8 = 0;
    let mut entry = [0_u8; ENTRY];
    entry[0] = operation;
    entry[4..8].copy_from_slice(&fd.to_ne_bytes());
    entry[16..24].copy_from_slice(&((&raw mut BYTE).expose_provenance() as u64).to_ne_bytes());
    entry[24..28].copy_from_slice(&1_u32.to_ne_bytes());
    entry
}

/// `io_uring_enter` for the answer of a server that does not answer.
pub(crate) fn ring_recv(call: &Call) {
    let client = sockets::unanswered("127.0.0.1");
    let (ring, params) = setup(call);
    hand_over(&ring, &params, &[wants(OP_RECV, client.as_raw_fd())]);
    sockets::tcp_report(call.role, "io_uring_enter", &client).print();
    woke(enter(&ring, 1))
}

/// The same for bytes of either of two pipes, which others may write to.
pub(crate) fn ring_pipes(call: &Call) {
    let (one, other) = (pipes::quiet_pipe(), pipes::quiet_pipe());
    let (ring, params) = setup(call);
    let requests = [wants(OP_READ, one.as_raw_fd()), wants(OP_READ, other.as_raw_fd())];
    hand_over(&ring, &params, &requests);
    Report::new(call.role, "io_uring_enter").fd(&ring).print();
    woke(enter(&ring, 2))
}

/// The same, with a worker that opens a FIFO which has no other end. The worker inherits the thread's registers, and
/// they mean nothing.
pub(crate) fn ring_worker(call: &Call) {
    let path = sys::own_path("ring-fifo");
    let name = sys::c_path(&path);
    // SAFETY: `name` is NUL-terminated and outlives the call.
    sys::must(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }.into(), "mkfifo");
    let (ring, params) = setup(call);
    let mut entry = [0_u8; ENTRY];
    entry[0] = OP_OPENAT;
    entry[1] = SQE_ASYNC;
    entry[4..8].copy_from_slice(&libc::AT_FDCWD.to_ne_bytes());
    entry[16..24].copy_from_slice(&(name.as_ptr().expose_provenance() as u64).to_ne_bytes());
    entry[28..32].copy_from_slice(&libc::O_RDONLY.to_ne_bytes());
    hand_over(&ring, &params, &[entry]);
    Report::new(call.role, "io_uring_enter").fd(&ring).print();
    woke(enter(&ring, 1))
}
