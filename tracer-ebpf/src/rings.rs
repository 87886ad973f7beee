//! The program `rings`: which requests of theirs do these threads wait for in `io_uring_enter`? Those that wait for a file to become ready
//! are in a table of their ring.

use core::ffi::c_void;

use aya_ebpf::{
    btf_maps::{HashMap, PerCpuArray},
    macros::btf_map,
};
use tracer_ebpf::abi::{Counter, KIND_REQUEST, READ_FAILED, RequestRecord};

use crate::{
    call::Call,
    count::count,
    file::{self, Found, OpenFiles, Tails, zero},
    iter::Context,
    offsets::*,
    settings,
    task::{Task, is_asleep},
};

/// The threads asked for.
#[btf_map]
static ASKED_RINGS: HashMap<u32, u32, 1024> = HashMap::new();

/// Requests of a ring that are told.
const REQUESTS: usize = 8;
/// The table has 256 buckets at most; so many steps are made from bucket to bucket and from request to request.
const BUCKET_BITS_MAX: u32 = 8;
const STEPS: usize = 256 + 2 * REQUESTS;
/// The call's fd is a number among those that the thread has registered (`IORING_ENTER_REGISTERED_RING`, include/uapi/linux/io_uring.h).
const REGISTERED: u64 = 1 << 4;
/// How many a thread can register (`IO_RINGFD_REG_MAX`).
const REGISTERED_MAX: i32 = 16;
/// The request's fd is a number among the files that its ring has registered (`REQ_F_FIXED_FILE`).
const FIXED_FILE: u32 = 1;

/// Room for a record and for where the walk is: what lies here the verifier does not follow, so that each step looks to it like the last.
#[repr(C)]
struct Scratch {
    record: RequestRecord,
    tails: Tails,
    requests: [u64; REQUESTS],
    number: u64,
    bucket: u64,
    node: u64,
}

#[btf_map]
static RING_SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// A word of the scratch, read and written where it lies.
macro_rules! word {
    ($place:expr) => {
        // SAFETY: a field of the scratch.
        unsafe { core::ptr::addr_of!($place).read_volatile() }
    };
    ($place:expr, $value:expr) => {
        // SAFETY: as above.
        unsafe { core::ptr::addr_of_mut!($place).write_volatile($value) }
    };
}

/// Writes a record for each request that a ring has under way, for each thread in `ASKED_RINGS`.
///
/// # Minimum kernel version
/// 5.8, as iterators are; rings as such are 5.1.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub extern "C" fn rings(ctx: *mut c_void) -> i32 {
    let ctx = Context(ctx);
    let task = ctx.task();
    if task.0.is_null() {
        return 0;
    }
    let tid = task.tid();
    // SAFETY: tracer changes the map only between passes.
    if unsafe { ASKED_RINGS.get(tid) }.is_none() || !is_asleep(task.state()) {
        return 0;
    }
    let known = RING_TABLE.exists() && RING_BITS.exists() && REQUEST_NODE.exists();
    if !known || !REQUEST_FILE.exists() || !REQUEST_OPCODE.exists() || !REQUEST_FLAGS.exists() {
        return 0;
    }
    let Some(scratch) = RING_SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's element, and nothing else runs this program on this CPU meanwhile.
    let scratch = unsafe { &mut *scratch };
    let mut ring = 0u64;
    FILE_PRIVATE.read(ring_file(task), &mut ring);
    find(ring as *const u8, scratch);
    for at in 0..REQUESTS {
        if at as u64 >= word!(scratch.number) {
            break;
        }
        let request = word!(scratch.requests[at]) as *const u8;
        // Found anew each time: the compiler keeps the place of each field of what it knows for the whole loop, for which there is no
        // room.
        let Some(scratch) = RING_SCRATCH.get_ptr_mut(0) else { return 0 };
        // SAFETY: as above, and the other reference is not used meanwhile.
        tell(&ctx, task, request, unsafe { &mut *scratch });
    }
    0
}

/// The file of the ring that a thread is in.
#[inline(always)]
fn ring_file(task: Task) -> *const u8 {
    let call = Call::of(task);
    if call.fourth() & REGISTERED == 0 {
        return OpenFiles::of(task).get(call.fd).0;
    }
    let (mut rings, mut file) = (0u64, 0u64);
    if TASK_RINGS.exists() && RINGS_REGISTERED.exists() && call.fd >= 0 && call.fd < REGISTERED_MAX {
        TASK_RINGS.read(task.0, &mut rings);
        read(RINGS_REGISTERED.of(rings as *const u8).wrapping_add(call.fd as usize * 8), &mut file);
    }
    file as *const u8
}

/// Finds the requests of a ring.
#[inline(always)]
fn find(ring: *const u8, scratch: &mut Scratch) {
    let (mut table, mut bits) = (0u64, 0u32);
    RING_TABLE.read(ring, &mut table);
    RING_BITS.read(ring, &mut bits);
    word!(scratch.number, 0);
    word!(scratch.bucket, 0);
    word!(scratch.node, 0);
    if table == 0 || bits > BUCKET_BITS_MAX {
        return;
    }
    let list = if BUCKET_LIST.exists() { BUCKET_LIST.of(core::ptr::null()) as usize } else { 0 };
    for _ in 0..STEPS {
        let (node, mut next) = (word!(scratch.node), 0u64);
        if node == 0 {
            let bucket = word!(scratch.bucket);
            if bucket >> bits != 0 {
                break;
            }
            word!(scratch.bucket, bucket + 1);
            let at = bucket.wrapping_mul(settings::RING_BUCKET.load().into()) as usize + list;
            read((table as *const u8).wrapping_add(at), &mut next);
        } else {
            let number = word!(scratch.number);
            if number >= REQUESTS as u64 {
                break;
            }
            let request = node.wrapping_sub(REQUEST_NODE.of(core::ptr::null()) as u64);
            word!(scratch.requests[number as usize], request);
            word!(scratch.number, number + 1);
            // An hlist_node begins with the next one's address.
            read(node as *const u8, &mut next);
        }
        word!(scratch.node, next);
    }
}

/// Writes what a request is for.
#[inline(always)]
fn tell(ctx: &Context, task: Task, request: *const u8, scratch: &mut Scratch) {
    let record = &mut scratch.record;
    zero(record);
    record.kind = KIND_REQUEST;
    record.size = size_of::<RequestRecord>() as u32;
    record.tid = task.tid();
    record.thread_start_ns = task.start_ns();
    let (mut file, mut opcode, mut flags) = (0u64, 0u8, 0u32);
    let mut failed = REQUEST_FILE.read(request, &mut file);
    failed |= REQUEST_OPCODE.read(request, &mut opcode);
    failed |= REQUEST_FLAGS.read(request, &mut flags);
    record.fd = -1;
    if REQUEST_FD.exists() && flags & FIXED_FILE == 0 {
        failed |= REQUEST_FD.read(request, &mut record.fd);
    }
    record.opcode = opcode.into();
    let mut found = Found::NONE;
    if file != 0 {
        file::describe(file as *const u8, &mut record.file, &mut found);
    }
    let (tail, unread) = file::facts(&found, &record.file, &mut scratch.tails);
    record.tail = tail;
    if failed | unread | found.failed {
        record.flags = READ_FAILED;
        count(Counter::ReadFailed);
    }
    ctx.write_with_tail(&scratch.record, tail, &scratch.tails);
}
