//! The program `holders`: which processes have these pipes, locked files, unix sockets and TCP connections open? Run when a wait on one
//! of them is old enough to ask who is at the other end.

use core::ffi::c_void;

use aya_ebpf::{
    btf_maps::{HashMap, PerCpuArray},
    macros::btf_map,
};
use tracer_ebpf::abi::{File, FileKey, HolderRecord, KIND_HOLDER, TupleKey};

use crate::{
    file::{self, Found, S_IFIFO, S_IFMT, S_IFREG, S_IFSOCK, zero},
    iter::Context,
    offsets::*,
    sock::{AF_UNIX, is_tcp},
};

/// Entries of each map of what is wanted.
const WANTED: usize = 1024;

/// Pipes, unix sockets and regular files.
#[btf_map]
static WANTED_FILES: HashMap<FileKey, u32, WANTED> = HashMap::new();
/// TCP connections.
#[btf_map]
static WANTED_TUPLES: HashMap<TupleKey, u32, WANTED> = HashMap::new();

/// Room for a record and a key.
#[repr(C)]
struct Scratch {
    holder: HolderRecord,
    tuple: TupleKey,
}

#[btf_map]
static HOLDERS_SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// Writes a record for each fd of each process whose file is wanted.
///
/// # Minimum kernel version
/// 5.8, as iterators are.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn holders(ctx: *mut c_void) -> i32 {
    let ctx = Context(ctx);
    let task = ctx.task();
    let file = ctx.file();
    if task.0.is_null() || file.is_null() {
        return 0;
    }
    // SAFETY: a typed file, and fields.rs gives its fields.
    let mode: u16 = unsafe { INODE_MODE.load(FILE_INODE.load::<*const u8>(file)) };
    let kind = mode & S_IFMT;
    if kind != S_IFIFO && kind != S_IFSOCK && kind != S_IFREG {
        return 0;
    }
    let Some(scratch) = HOLDERS_SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's element, and nothing else runs this program on this CPU meanwhile.
    let scratch = unsafe { &mut *scratch };
    zero(&mut scratch.holder);
    let mut found = Found::NONE;
    file::describe(file, &mut scratch.holder.file, &mut found);
    let tcp = is_tcp(&scratch.holder.file);
    let netns = if tcp { found.sock.netns() } else { 0 };
    let wanted = if tcp {
        tuple(&scratch.holder.file, netns, &mut scratch.tuple);
        // SAFETY: tracer changes the maps only between passes.
        unsafe { WANTED_TUPLES.get(scratch.tuple) }.is_some()
    } else {
        let described = &scratch.holder.file;
        let key = FileKey { inode: described.inode, kind: kind.into(), dev: described.dev };
        (kind != S_IFSOCK || described.family == AF_UNIX)
            // SAFETY: as above.
            && unsafe { WANTED_FILES.get(key) }.is_some()
    };
    if !wanted {
        return 0;
    }
    let holder = &mut scratch.holder;
    holder.kind = KIND_HOLDER;
    holder.size = size_of::<HolderRecord>() as u32;
    holder.tgid = task.tgid();
    holder.fd = ctx.fd() as i32;
    holder.netns = netns;
    if kind == S_IFSOCK {
        found.sock.queue(tcp, holder);
    }
    // SAFETY: a typed file.
    holder.access = unsafe { FILE_MODE.load(file) };
    holder.process_start_ns = task.leader().start_ns();
    ctx.write(&scratch.holder);
    0
}

/// The key of a TCP socket.
#[inline(always)]
fn tuple(file: &File, netns: u32, to: &mut TupleKey) {
    to.local = file.local;
    to.remote = file.remote;
    to.local_port = file.local_port;
    to.remote_port = file.remote_port;
    to.netns = if file.is_loopback() { netns } else { 0 };
}
