//! The program `lookup`: what are these fds? For threads in `poll` and `select`, whose fds lie in the process's memory
//! and are only known after a snapshot.

use core::ffi::c_void;

use aya_ebpf::{
    btf_maps::{HashMap, PerCpuArray},
    macros::btf_map,
};
use tracer_ebpf::abi::{Counter, FdRecord, KIND_FD, READ_FAILED};

use crate::{
    count::count,
    file::{self, OpenFiles, Tails, zero},
    iter::Context,
};

/// The fd asked for, by thread.
#[btf_map]
static ASKED: HashMap<u32, i32, 1024> = HashMap::new();

/// Room for one record.
#[repr(C)]
struct Scratch {
    fd: FdRecord,
    tails: Tails,
}

#[btf_map]
static LOOKUP_SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// Writes a record for each thread in `ASKED`.
///
/// # Minimum kernel version
/// 5.8, as iterators are.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub extern "C" fn lookup(ctx: *mut c_void) -> i32 {
    let ctx = Context(ctx);
    let task = ctx.task();
    if task.0.is_null() {
        return 0;
    }
    let tid = task.tid();
    // SAFETY: tracer changes the map only between passes.
    let Some(fd) = (unsafe { ASKED.get(tid) }).copied() else { return 0 };
    let Some(scratch) = LOOKUP_SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's element, and nothing else runs this program on this CPU meanwhile.
    let scratch = unsafe { &mut *scratch };
    let record = &mut scratch.fd;
    zero(record);
    record.kind = KIND_FD;
    record.size = size_of::<FdRecord>() as u32;
    record.tid = tid;
    record.fd = fd;
    record.thread_start_ns = task.start_ns();
    let found = OpenFiles::of(task).find(fd, &mut record.file);
    record.fd_state = found.state;
    record.flow = file::flow(&found, &record.file);
    let (tail, failed) = file::facts(&found, &record.file, &mut scratch.tails);
    record.tail = tail;
    if found.failed | failed {
        record.flags = READ_FAILED;
        count(Counter::ReadFailed);
    }
    ctx.write_with_tail(&scratch.fd, tail, &scratch.tails);
    0
}
