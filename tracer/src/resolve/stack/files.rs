//! By which name may a reader open the file that a process has mapped? By a link that leads to the file itself, else by its path; and not
//! where the file is on a network or behind another process, which may not answer.

use rustix::io::Errno;

use super::mappings::MappedRange;
use crate::{
    model::wait::ProcessId,
    procfs::{Reads, Unread},
    resolve::mounts::MountTable,
};

/// File systems whose files are opened: those that no other process or host serves.
const LOCAL: &[&str] = &[
    "bcachefs", "btrfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "iso9660", "jfs", "overlay",
    "ramfs", "rootfs", "squashfs", "tmpfs", "ubifs", "vfat", "xfs", "zfs",
];

/// What a process sees mounted, once that has been asked for.
#[derive(Default)]
pub struct LocalFiles(Option<MountTable>);

impl LocalFiles {
    /// The answer about the file of a mapping to what `ask` asks, by names below `/proc/PID`. `None`: there is none.
    pub fn ask<T>(
        &mut self,
        process: ProcessId,
        first: &MappedRange,
        reads: &mut Reads,
        ask: impl Fn(&mut Reads, &str) -> Result<T, Unread>,
    ) -> Option<T> {
        if !first.has_file()
            || !self.is_local(process, reads, |mounts| Some(mounts.of_device(first.device)?.kind.clone()))
        {
            return None;
        }
        let link = format!("map_files/{:x}-{:x}", first.start, first.end);
        let refused = match ask(reads, &link) {
            Ok(answer) => return Some(answer),
            Err(Unread::Failed(error)) => matches!(error, Errno::PERM | Errno::ACCESS | Errno::NOENT),
            Err(_) => false,
        };
        if !refused {
            return None;
        }
        // Without the right to follow that link. The program may lie elsewhere than its libraries, behind who does not answer.
        let is_program =
            reads.link(process, "exe").is_ok_and(|program| program.as_os_str() == first.path.as_str());
        if is_program && let Ok(answer) = ask(reads, "exe") {
            return Some(answer);
        }
        // The path may lead to another file by now, which has another number.
        let is_there = first.path.starts_with('/')
            && self.is_local(process, reads, |mounts| Some(mounts.of_path(&first.path)?.kind.clone()));
        if is_there { ask(reads, &format!("root{}", first.path)).ok() } else { None }
    }

    /// Whether a file system is one that no other process or host serves.
    pub fn is_local(
        &mut self,
        process: ProcessId,
        reads: &mut Reads,
        kind: impl Fn(&MountTable) -> Option<String>,
    ) -> bool {
        let mounts = self.0.get_or_insert_with(|| MountTable::read(process, reads));
        kind(mounts).is_some_and(|kind| LOCAL.contains(&kind.as_str()))
    }
}
