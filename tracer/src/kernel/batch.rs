//! Emptying a BPF hash map in few system calls (`BPF_MAP_LOOKUP_AND_DELETE_BATCH`, Linux 5.6), which aya does not offer.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd},
};

use anyhow::{Result, bail};
use tracer_ebpf::abi::Plain;

const BPF_MAP_LOOKUP_AND_DELETE_BATCH: libc::c_long = 25;
/// Entries asked for at a time.
const BATCH_ENTRIES: usize = 1024;

/// `union bpf_attr`, the part for batches (include/uapi/linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct Attr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Takes all entries out of a hash map and hands each to `each`.
///
/// The caller makes sure that no program writes the map meanwhile, or entries made behind the walk stay for the next time.
pub fn drain<K: Plain, V: Plain>(map: BorrowedFd<'_>, mut each: impl FnMut(K, V)) -> Result<()> {
    let mut keys: Vec<MaybeUninit<K>> = Vec::with_capacity(BATCH_ENTRIES);
    let mut values: Vec<MaybeUninit<V>> = Vec::with_capacity(BATCH_ENTRIES);
    let mut place = [0u64; 2];
    let mut first = true;
    loop {
        let [from, to] = &mut place;
        let mut attr = Attr {
            in_batch: if first { 0 } else { std::ptr::from_mut(from) as u64 },
            out_batch: std::ptr::from_mut(to) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: BATCH_ENTRIES as u32,
            map_fd: map.as_raw_fd() as u32,
            ..Attr::default()
        };
        // SAFETY: the kernel writes at most `count` entries of the map's key and value size, and the vectors have room
        // for as many; a mismatch of K or V with the map is excluded by both sides sharing abi.rs.
        let result = unsafe {
            libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_AND_DELETE_BATCH, &raw mut attr, size_of::<Attr>())
        };
        let error = (result < 0).then(io::Error::last_os_error);
        let last = match error.as_ref().and_then(io::Error::raw_os_error) {
            None => false,
            Some(libc::ENOENT) => true,
            Some(_) => {
                bail!("cannot empty a map of ended waits: {}", error.unwrap_or_else(io::Error::last_os_error))
            }
        };
        for i in 0..(attr.count as usize).min(BATCH_ENTRIES) {
            // SAFETY: the kernel has written the first `count` entries, and any bit pattern is a Plain value.
            let (key, value) = unsafe {
                (keys.as_ptr().add(i).read().assume_init(), values.as_ptr().add(i).read().assume_init())
            };
            each(key, value);
        }
        if last {
            return Ok(());
        }
        place[0] = place[1];
        first = false;
    }
}
