//! What lies where in a process's address space? By the text of `maps` (proc_pid_maps(5)).

use crate::{model::file::Device, model::wait::ProcessId, procfs::Reads};

/// As much of that text as is read: some 40,000 mappings.
const TEXT_BYTES_MAX: usize = 4 << 20;

/// A piece of an address space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedRange {
    /// Its first address.
    pub start: u64,
    /// The one behind it.
    pub end: u64,
    /// Whether code in it may run.
    pub runs: bool,
    /// Where in its file it begins.
    pub offset: u64,
    /// The device of its file.
    pub device: Device,
    /// The inode number of its file; zero: it has none.
    pub inode: u64,
    /// The path of its file, or what the kernel calls it.
    pub path: String,
}

impl MappedRange {
    /// Whether it is of a file.
    pub fn has_file(&self) -> bool {
        self.inode != 0
    }

    /// The last name of its path, without what is said of a deleted one.
    pub fn name(&self) -> &str {
        let path = self.path.trim_end_matches(" (deleted)");
        path.rsplit('/').next().unwrap_or(path)
    }
}

/// All mappings of a process, in order.
#[derive(Clone, Debug, Default)]
pub struct Mappings(Vec<MappedRange>);

impl Mappings {
    /// As they are now; none where they cannot be read.
    pub fn read(process: ProcessId, reads: &mut Reads) -> Self {
        let text = reads.beginning(process, "maps", |read| read.len() >= TEXT_BYTES_MAX).unwrap_or_default();
        Self::parse(&String::from_utf8_lossy(&text))
    }

    /// From text; lines that make no sense are left out.
    pub fn parse(text: &str) -> Self {
        let mut mappings: Vec<MappedRange> = text.lines().filter_map(mapping).collect();
        mappings.sort_by_key(|mapping| mapping.start);
        Self(mappings)
    }

    /// The one that an address is in.
    pub fn of(&self, address: u64) -> Option<&MappedRange> {
        self.0.get(self.place_of(address)?)
    }

    fn place_of(&self, address: u64) -> Option<usize> {
        let place = self.0.partition_point(|mapping| mapping.start <= address).checked_sub(1)?;
        (address < self.0.get(place)?.end).then_some(place)
    }

    /// Whether there is code at an address.
    pub fn is_code(&self, address: u64) -> bool {
        self.of(address).is_some_and(|mapping| mapping.runs)
    }

    /// The one with which the file begins that an address is in: its nearest before that.
    pub fn first_of_file(&self, address: u64) -> Option<&MappedRange> {
        let place = self.place_of(address)?;
        let of = self.0.get(place)?;
        let same = |other: &&MappedRange| {
            (other.device, other.inode, &other.path) == (of.device, of.inode, &of.path) && other.offset == 0
        };
        self.0.get(..=place)?.iter().rev().find(same)
    }

    /// Those with which files of such a name begin.
    pub fn files<'a>(&'a self, is_it: impl Fn(&str) -> bool + 'a) -> impl Iterator<Item = &'a MappedRange> {
        self.0
            .iter()
            .filter(move |mapping| mapping.has_file() && mapping.offset == 0 && is_it(mapping.name()))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &MappedRange> {
        self.0.iter()
    }
}

/// `7f35000-7f36000 r-xp 00001000 fe:01 7 /usr/lib/a b.so (deleted)`
fn mapping(line: &str) -> Option<MappedRange> {
    let mut words = line.splitn(6, ' ');
    let (start, end) = words.next()?.split_once('-')?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let (start, end) = (hex(start)?, hex(end)?);
    let runs = words.next()?.as_bytes().get(2) == Some(&b'x');
    let offset = hex(words.next()?)?;
    let (major, minor) = words.next()?.split_once(':')?;
    let device =
        u32::from_str_radix(major, 16).ok()?.checked_shl(20)? | u32::from_str_radix(minor, 16).ok()?;
    let inode = words.next()?.parse().ok()?;
    let path = words.next().unwrap_or_default().trim_start().to_owned();
    (start < end).then_some(MappedRange { start, end, runs, offset, device: Device(device), inode, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "1000-2000 r--p 00000000 fe:01 7                          /srv/a b.so (deleted)\n\
                        2000-4000 r-xp 00001000 fe:01 7                          /srv/a b.so (deleted)\n\
                        4000-5000 rw-p 00000000 00:00 0 \n\
                        7000-8000 r-xp 00000000 00:00 0                          [vdso]\n\
                        nonsense\n9000-8000 r-xp 00000000 00:00 0\n";

    #[test]
    fn an_address_is_in_a_mapping_and_that_in_a_file() {
        let mappings = Mappings::parse(MAPS);
        let first = |address| mappings.first_of_file(address).map(|of| (of.start, of.name()));
        assert_eq!(first(0x3fff), Some((0x1000, "a b.so")));
        assert_eq!(first(0x7800), Some((0x7000, "[vdso]")));
        assert_eq!((first(0x5000), first(0)), (None, None));
        assert!(mappings.is_code(0x2000) && !mappings.is_code(0x1fff) && !mappings.is_code(0x8000));
        assert_eq!(mappings.of(0x2000).map(|of| (of.device, of.inode)), Some((Device(0xfe << 20 | 1), 7)));
        assert_eq!(mappings.files(|name| name.starts_with("a ")).count(), 1);
        assert_eq!(mappings.iter().count(), 4);
    }
}
