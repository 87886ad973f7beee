//! Which mount is a file on, and what is mounted there? By the text of mountinfo (Documentation/filesystems/proc.rst): no file system
//! is asked, as a dead server's would not answer.

use std::path::Path;

use crate::{
    model::{file::Device, wait::ProcessId},
    procfs::Reads,
};

/// A mount as a process sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its id, of which the host has each but once.
    pub id: u32,
    /// The device of the file system.
    pub device: Device,
    /// Where it is mounted.
    pub place: String,
    /// The kind of file system, without what a server adds of its own: `fuse` of `fuse.sshfs`.
    pub kind: String,
    /// What is mounted: a device, or the server's name.
    pub source: String,
    /// Options of the file system, separated by commas.
    pub options: String,
}

impl Mount {
    /// Whether a process of this host serves it.
    pub fn is_fuse(&self) -> bool {
        matches!(self.kind.as_str(), "fuse" | "fuseblk")
    }

    /// The value of an option of the file system.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.split(',').find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
    }
}

/// All mounts that a process sees, in the order in which they were made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountTable(Vec<Mount>);

impl MountTable {
    /// As it is now; empty where it cannot be read.
    pub fn read(process: ProcessId, reads: &mut Reads) -> Self {
        let text = reads.table(process, "mountinfo").unwrap_or_default();
        Self::parse(&String::from_utf8_lossy(&text))
    }

    /// From the text of `mountinfo`; lines that are none are left out.
    pub fn parse(text: &str) -> Self {
        Self(text.lines().filter_map(mount).collect())
    }

    /// The mount that a path is on; of several at one place the last covers the others.
    pub fn of_path(&self, path: &str) -> Option<&Mount> {
        let path = Path::new(path);
        let on_it = self.0.iter().filter(|mount| path.starts_with(&mount.place));
        on_it.max_by_key(|mount| mount.place.len())
    }

    /// The first mount of this file system.
    pub fn of_device(&self, device: Device) -> Option<&Mount> {
        self.0.iter().find(|mount| mount.device == device)
    }

    /// Mounts of these kinds, one for each file system.
    pub fn of_kinds(&self, kinds: &[&str]) -> Vec<&Mount> {
        let mut found: Vec<&Mount> = Vec::new();
        for mount in self.0.iter().filter(|mount| kinds.contains(&mount.kind.as_str())) {
            if found.iter().all(|known| known.device != mount.device) {
                found.push(mount);
            }
        }
        found
    }
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn mount(line: &str) -> Option<Mount> {
    let (mount, system) = line.split_once(" - ")?;
    let mut words = mount.split_ascii_whitespace();
    let id = words.next()?.parse().ok()?;
    let (major, minor) = words.nth(1)?.split_once(':')?;
    let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
    let place = unescape(words.nth(1)?);
    // A source may be empty: then there are two blanks.
    let mut words = system.splitn(3, ' ');
    let kind = words.next()?;
    let (source, options) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    Some(Mount {
        id,
        device: Device(major << 20 | minor),
        place,
        kind: kind.split_once('.').map_or(kind, |(kind, _)| kind).to_owned(),
        source: unescape(source),
        options: options.to_owned(),
    })
}

/// Blanks and the like are written in octal there.
pub fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (code, character)| text.replace(code, character))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "28 1 254:1 / / rw shared:1 - ext4 /dev/vda1 rw\n\
                          36 28 0:45 / /mnt/a\\040b rw shared:2 - fuse.sshfs host: rw,user_id=0\n\
                          37 28 0:46 /x /data rw - nfs4 h:/x rw,vers=4.2,addr=192.0.2.1\n\
                          38 28 0:45 /sub /again rw - fuse.sshfs host: rw,user_id=0\n\
                          39 28 0:47 / /data rw - autofs  rw,fd=6,pgrp=812,timeout=300\n\
                          garbage\n40 28 x:1 / /y rw - ext4 /dev/x rw\n";

    #[test]
    fn a_path_is_on_the_innermost_mount_and_the_last_of_several() {
        let table = MountTable::parse(MOUNTS);
        let of = |path| table.of_path(path).map(|mount| mount.id);
        assert_eq!(of("/mnt/a b/c"), Some(36));
        assert_eq!(of("/mnt/a b"), Some(36));
        assert_eq!(of("/mnt/a bc"), Some(28), "another name");
        assert_eq!(of("/data/f"), Some(39), "it lies over the other");
        assert_eq!(of("relative"), None);
        assert_eq!(MountTable::default().of_path("/"), None);
    }

    #[test]
    fn a_mount_says_what_it_is() {
        let table = MountTable::parse(MOUNTS);
        let fuse = table.of_device(Device(45)).expect("it is there");
        assert_eq!((fuse.id, fuse.kind.as_str(), fuse.source.as_str()), (36, "fuse", "host:"));
        let nfs = table.of_device(Device(46)).expect("it is there");
        assert_eq!((nfs.option("addr"), nfs.option("add"), nfs.option("x")), (Some("192.0.2.1"), None, None));
        let autofs = table.of_path("/data").expect("it is there");
        assert_eq!((autofs.option("pgrp"), autofs.source.as_str()), (Some("812"), ""));
        assert_eq!(table.of_kinds(&["fuse", "fuseblk"]).len(), 1, "one file system, at two places");
        assert_eq!(table.of_device(Device(254 << 20 | 1)).map(|mount| mount.id), Some(28));
    }
}
