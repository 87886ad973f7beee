//! Which memory do processes share? By their maps (Documentation/filesystems/proc.rst).

use crate::{
    model::wait::ProcessId,
    procfs::{Reads, Wanted, by_pid},
};

/// As much of a process's mappings as is read.
const MAPS_BYTES_MAX: usize = 1024 * 1024;
/// Processes whose maps are asked for together.
const READ_AHEAD: usize = 32;

/// Memory that several processes may map: of a file, or of none that has a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SharedMemory {
    device: String,
    inode: u64,
    /// Others may still come to it by its name.
    has_name: bool,
}

/// A line of maps.
struct Mapping<'a> {
    begin: u64,
    end: u64,
    is_shared: bool,
    device: &'a str,
    inode: u64,
    path: &'a str,
}

impl<'a> Mapping<'a> {
    /// `7f12000-7f34000 rw-s 00000000 00:01 42   /dev/zero (deleted)`
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.splitn(6, ' ');
        let (begin, end) = words.next()?.split_once('-')?;
        let (rights, device, inode) = (words.next()?, words.nth(1)?, words.next()?);
        let path = words.next().unwrap_or_default().trim_start();
        let address = |text| u64::from_str_radix(text, 16).ok();
        Some(Self {
            begin: address(begin)?,
            end: address(end)?,
            is_shared: rights.ends_with('s'),
            device,
            inode: inode.parse().ok()?,
            path,
        })
    }

    fn shared(&self) -> Option<SharedMemory> {
        // What System V's has is its key, by which others may come.
        let has_name = !self.path.ends_with(" (deleted)") || self.path.starts_with("/SYSV");
        self.is_shared.then(|| SharedMemory { device: self.device.to_owned(), inode: self.inode, has_name })
    }
}

fn read(process: ProcessId, reads: &mut Reads) -> Option<String> {
    let maps = reads.beginning(process, "maps", |read| read.len() >= MAPS_BYTES_MAX)?;
    Some(String::from_utf8_lossy(&maps).into_owned())
}

/// The memory at an address of a process, if others may share it.
pub fn shared_at(process: ProcessId, address: u64, reads: &mut Reads) -> Option<SharedMemory> {
    find(&read(process, reads)?, address)
}

fn find(maps: &str, address: u64) -> Option<SharedMemory> {
    let mut mappings = maps.lines().filter_map(Mapping::parse);
    mappings.find(|mapping| (mapping.begin..mapping.end).contains(&address))?.shared()
}

/// Whether a process maps this memory.
pub fn maps(process: ProcessId, memory: &SharedMemory, reads: &mut Reads) -> bool {
    read(process, reads).is_some_and(|maps| has(&maps, memory))
}

fn has(maps: &str, memory: &SharedMemory) -> bool {
    maps.lines().filter_map(Mapping::parse).any(|mapping| mapping.shared().as_ref() == Some(memory))
}

/// The processes that map this memory, as all of the host's maps say; `None` if others may come to it by its name.
pub fn sharers(memory: &SharedMemory, reads: &mut Reads) -> Option<Vec<u32>> {
    if memory.has_name {
        return None;
    }
    let all = reads.processes().ok()?;
    let mut sharers = Vec::new();
    for some in all.chunks(READ_AHEAD) {
        reads.ahead(some.iter().map(|pid| (by_pid(*pid), Wanted::File("maps".into()))));
        sharers.extend(some.iter().filter(|pid| maps(by_pid(**pid), memory, reads)));
    }
    reads.forget_ahead();
    Some(sharers)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "55d0-55f0 r-xp 00002000 fe:01 77                 /usr/bin/x y\n\
                        7000-8000 rw-s 00000000 00:01 42                 /dev/zero (deleted)\n\
                        8000-9000 rw-p 00000000 00:00 0 \n\
                        9000-a000 rw-s 00001000 00:1a 7                  /dev/shm/sem.a\n\
                        garbage\n";

    #[test]
    fn memory_is_shared_or_its_process_s_own() {
        let of =
            |device: &str, inode, has_name| Some(SharedMemory { device: device.into(), inode, has_name });
        let named = |device: &str, inode| of(device, inode, false);
        for (address, expected) in [
            (0x7000, named("00:01", 42)),
            (0x7fff, named("00:01", 42)),
            (0x8000, None),
            (0x9008, of("00:1a", 7, true)),
            (0xa000, None),
            (0x55d8, None),
        ] {
            assert_eq!(find(MAPS, address), expected, "{address:x}");
        }
        assert!(named("00:01", 42).is_some_and(|memory| has(MAPS, &memory)));
        assert!(named("fe:01", 77).is_some_and(|memory| !has(MAPS, &memory)), "private");
        assert!(named("00:01", 43).is_some_and(|memory| !has(MAPS, &memory)));
    }
}
