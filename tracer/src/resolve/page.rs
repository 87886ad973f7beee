//! Which file may a page of memory be of that does not come? The kernel does not say; but of the file systems whose server may be
//! gone, most processes map files of one or none.

use std::collections::BTreeSet;

use super::mounts::{MountTable, unescape};
use crate::{
    model::{file::Device, stack::KernelStack, wait::ProcessId},
    procfs::Reads,
};

/// As much of a process's mappings as is read.
const MAPS_BYTES_MAX: usize = 1024 * 1024;

/// File systems that somebody serves, who may not answer.
#[rustfmt::skip]
pub const SERVED: &[&str] = &[
    "9p", "afs", "ceph", "cifs", "fuse", "fuseblk", "gfs2", "lustre", "nfs", "nfs4", "ocfs2", "orangefs", "smb3", "virtiofs",
];

/// Beginnings of names of the kernel functions in which a thread waits for a page, or for a file system's server.
const PAGE_WAITS: &[&str] = &[
    "ceph_",
    "cifs_",
    "filemap_fault",
    "folio_wait",
    "fuse_",
    "handle_userfault",
    "io_schedule",
    "netfs_",
    "nfs_",
    "request_wait_answer",
    "rpc_wait",
    "wait_on_page",
];

/// Where a page probably lies that a process waits for: a file, or a mount where it may be one of several files.
pub fn of(process: ProcessId, reads: &mut Reads) -> Option<String> {
    let maps = reads.beginning(process, "maps", |read| read.len() >= MAPS_BYTES_MAX)?;
    candidate(&String::from_utf8_lossy(&maps), &MountTable::read(process, reads))
}

/// Whether a thread in a call on a pipe, a socket or a terminal waits for a page of the memory that it has handed over, where only the
/// function it sleeps in is known: nobody waits in these for another end.
pub fn is_waited_for(stack: &KernelStack) -> bool {
    let [function] = stack.functions() else { return false };
    PAGE_WAITS.iter().any(|begin| function.starts_with(begin))
}

/// Where a page probably lies, by the text of `maps` (Documentation/filesystems/proc.rst) and the mounts.
pub fn candidate(maps: &str, mounts: &MountTable) -> Option<String> {
    let served = mounts.of_kinds(SERVED);
    // 7f12-7f34 r--p 00000000 00:2d 42   /mnt2/file
    let mapped = |line: &str| {
        let mut words = line.splitn(6, ' ').skip(3);
        let (device, _, path) = (words.next()?, words.next()?, words.next()?.trim_start());
        let (major, minor) = device.split_once(':')?;
        let number = |text| u32::from_str_radix(text, 16).ok();
        let device = Device(number(major)? << 20 | number(minor)?);
        let mount = served.iter().find(|mount| mount.device == device)?;
        Some((mount.place.clone(), unescape(path)))
    };
    let mapped: BTreeSet<(String, String)> = maps.lines().filter_map(mapped).collect();
    let mut all = mapped.iter();
    let (place, path) = all.next()?;
    match all.all(|(other, _)| other == place) {
        true if mapped.len() == 1 => Some(path.clone()),
        true => Some(place.clone()),
        false => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "28 1 254:1 / / rw shared:1 - ext4 /dev/vda1 rw\n\
                          36 28 0:45 / /mnt/a\\040b rw shared:2 - fuse.sshfs host: rw\n\
                          37 28 0:46 /x /data rw - nfs4 h:/x rw\n";

    #[test]
    fn what_a_process_maps_of_a_served_file_system_is_a_candidate() {
        let line = |device: &str, path: &str| format!("7f00-7f01 r--p 00000000 {device} 42       {path}\n");
        let libc = line("fe:01", "/usr/lib/libc.so.6");
        let anonymous = "7ffc-7ffd rw-p 00000000 00:00 0 [stack]\n7f02-7f03 rw-p 00000000 00:00 0 \n";
        let (one, two) = (line("00:2d", "/mnt/a b/one"), line("00:2d", "/mnt/a b/two"));
        let other = line("00:2e", "/data/x");
        let of = |lines: &[&str]| candidate(&lines.concat(), &MountTable::parse(MOUNTS));
        assert_eq!(of(&[&libc, anonymous]), None);
        assert_eq!(of(&[&libc, &one, anonymous, &one]).as_deref(), Some("/mnt/a b/one"));
        assert_eq!(of(&[&one, &libc, &two]).as_deref(), Some("/mnt/a b"), "one of them");
        assert_eq!(of(&[&one, &other]), None, "of two servers none is more likely");
        assert_eq!(of(&["", "garbage\n", "7f00 r 0 zz:1 4 /x\n"]), None);
        assert_eq!(candidate(&one, &MountTable::default()), None);
    }
}
