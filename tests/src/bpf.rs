//! What of ours is in the kernel? Programs by id, and what a process's maps hold, by bpf(2) alone.

use std::fs;
use std::io::Error;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// `enum bpf_cmd` of include/uapi/linux/bpf.h.
const BPF_MAP_GET_NEXT_KEY: i32 = 4;
const BPF_PROG_GET_FD_BY_ID: i32 = 13;
const BPF_MAP_GET_FD_BY_ID: i32 = 14;
const BPF_OBJ_GET_INFO_BY_FD: i32 = 15;

/// The part of `union bpf_attr` that these commands read; the kernel takes what is shorter than its own.
#[repr(C, align(8))]
struct Attributes([u8; 128]);

impl Attributes {
    fn new() -> Self {
        Self([0; 128])
    }

    fn u32(mut self, offset: usize, value: u32) -> Self {
        self.0[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn pointer(mut self, offset: usize, address: usize) -> Self {
        self.0[offset..offset + 8].copy_from_slice(&(address as u64).to_ne_bytes());
        self
    }
}

/// # Safety
///
/// Pointers among the attributes must be valid for what the command reads and writes.
unsafe fn bpf(command: i32, attributes: &mut Attributes) -> Result<i64, Error> {
    let size = attributes.0.len();
    // SAFETY: the attributes are `size` bytes; the caller vouches for the pointers in them.
    match unsafe { libc::syscall(libc::SYS_bpf, command, attributes.0.as_mut_ptr(), size) } {
        -1 => Err(Error::last_os_error()),
        result => Ok(result),
    }
}

fn fd_by_id(command: i32, id: u32) -> Result<OwnedFd, Error> {
    // SAFETY: the command takes an id and no pointer.
    let fd = unsafe { bpf(command, &mut Attributes::new().u32(0, id)) }?;
    let fd = RawFd::try_from(fd).expect("descriptors are small");
    // SAFETY: the kernel has just returned this descriptor to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether a BPF program with this id is loaded.
pub fn program_exists(id: u32) -> bool {
    match fd_by_id(BPF_PROG_GET_FD_BY_ID, id) {
        Ok(_) => true,
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => false,
        Err(e) => panic!("BPF program {id}: {e}"),
    }
}

/// The ids of the BPF programs a process holds.
pub fn program_ids(pid: u32) -> Vec<u32> {
    ids_of(pid, "prog_id")
}

/// The ids under `field` (`prog_id`, `map_id`) in the descriptors of a process.
pub(crate) fn ids_of(pid: u32, field: &str) -> Vec<u32> {
    let start = format!("{field}:");
    let mut ids = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("/proc").flatten() {
        // A descriptor may be closed while we look.
        let Ok(info) = fs::read_to_string(entry.path()) else { continue };
        ids.extend(info.lines().filter_map(|line| line.strip_prefix(&start)?.trim().parse::<u32>().ok()));
    }
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Whether some key of some map that the process holds satisfies `is_it`.
pub fn map_holds(pid: u32, is_it: impl Fn(&[u8]) -> bool) -> bool {
    ids_of(pid, "map_id").into_iter().any(|id| keys(id).iter().any(|key| is_it(key)))
}

/// All keys of a map; none where the map has no keys that can be listed (a ring buffer).
fn keys(id: u32) -> Vec<Vec<u8>> {
    let Ok(map) = fd_by_id(BPF_MAP_GET_FD_BY_ID, id) else { return Vec::new() };
    // `struct bpf_map_info` begins with type, id, key_size.
    let mut info = [0_u8; 88];
    let fd = map.as_raw_fd().cast_unsigned();
    let mut ask = Attributes::new().u32(0, fd).u32(4, 88).pointer(8, info.as_mut_ptr().expose_provenance());
    // SAFETY: `info` has the length given and outlives the call.
    if unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut ask) }.is_err() {
        return Vec::new();
    }
    let key_size = u32::from_ne_bytes(info[8..12].try_into().expect("four bytes")) as usize;
    let mut found: Vec<Vec<u8>> = Vec::new();
    // A map that changes under us may start over: bound the walk.
    while found.len() < 100_000 {
        let mut next = vec![0_u8; key_size];
        let last = found.last().map_or(0, |key| key.as_ptr().expose_provenance());
        let mut ask =
            Attributes::new().u32(0, fd).pointer(8, last).pointer(16, next.as_mut_ptr().expose_provenance());
        // SAFETY: both keys have the map's key size and outlive the call; a null key asks for the first.
        if key_size == 0 || unsafe { bpf(BPF_MAP_GET_NEXT_KEY, &mut ask) }.is_err() {
            break;
        }
        found.push(next);
    }
    found
}
