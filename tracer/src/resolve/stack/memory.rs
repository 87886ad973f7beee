//! What does a process's memory hold? Read in blocks, each of them once in a look, and as many as a look may.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{files::LocalFiles, mappings::Mappings};
use crate::{model::wait::ProcessId, procfs::Reads};

/// Bytes that are read at a time.
const BLOCK_BYTES: u64 = 16 * 1024;
/// Bytes of one value.
const VALUE_BYTES_MAX: usize = 1 << 20;

/// Memory, of a process or of a test.
pub trait TargetMemory {
    /// Fills `to` with what is at an address; false where not all of it is there.
    fn fill(&mut self, address: u64, to: &mut [u8]) -> bool;

    /// So many bytes.
    fn bytes(&mut self, address: u64, length: usize) -> Option<Vec<u8>> {
        if length > VALUE_BYTES_MAX {
            return None;
        }
        let mut bytes = vec![0; length];
        self.fill(address, &mut bytes).then_some(bytes)
    }

    /// Eight bytes.
    fn word(&mut self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.fill(address, &mut bytes).then(|| u64::from_le_bytes(bytes))
    }

    /// Four bytes.
    fn int(&mut self, address: u64) -> Option<u32> {
        let mut bytes = [0; 4];
        self.fill(address, &mut bytes).then(|| u32::from_le_bytes(bytes))
    }

    /// One byte.
    fn byte(&mut self, address: u64) -> Option<u8> {
        let mut bytes = [0];
        self.fill(address, &mut bytes).then(|| bytes[0])
    }

    /// Where the section of this name is, and how long, of the module that begins here: by its file, as nothing in memory says so.
    fn section(&mut self, _base: u64, _name: &str) -> Option<(u64, u64)> {
        None
    }

    /// Whether no more is read, as all that may be read in one look has been: what is missing since then may well be there.
    fn is_spent(&mut self) -> bool {
        false
    }

    /// A text that ends with a zero, cut after so many bytes.
    fn text(&mut self, address: u64, limit: usize) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        while text.len() < limit {
            match self.byte(address.checked_add(text.len() as u64)?)? {
                0 => break,
                byte => text.push(byte),
            }
        }
        Some(text)
    }
}

/// How much of a process is read in one look.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimits {
    /// Blocks of its memory, of 16 KiB each.
    pub blocks: usize,
    /// How long that may take: memory can be such that little of it keeps a reader busy for ever.
    pub time: Duration,
}

/// Accesses to memory between two looks at the clock.
const ACCESSES_UNCHECKED: u32 = 32;

/// The blocks of a process's memory that were read in this look.
pub struct Blocks {
    known: HashMap<u64, Vec<u8>>,
    /// How many more may be.
    left: usize,
    /// Until when.
    until: Instant,
    /// Accesses so far.
    accesses: u32,
    is_late: bool,
    is_full: bool,
}

impl Blocks {
    /// None yet; from now on so many at most, for so long.
    pub fn within(limits: ReadLimits) -> Self {
        let until = Instant::now() + limits.time;
        Self {
            known: HashMap::new(),
            left: limits.blocks,
            until,
            accesses: 0,
            is_late: false,
            is_full: false,
        }
    }

    /// Another access; whether it may be made.
    fn access(&mut self) -> bool {
        self.accesses = self.accesses.wrapping_add(1);
        if self.accesses.is_multiple_of(ACCESSES_UNCHECKED) {
            self.look_at_clock();
        }
        !self.is_late
    }

    fn look_at_clock(&mut self) {
        self.is_late |= Instant::now() >= self.until;
    }
}

/// The memory of a process.
pub struct ProcessMemory<'a> {
    /// Whose it is.
    pub process: ProcessId,
    /// What reads it.
    pub reads: &'a mut Reads,
    /// What is where.
    pub mappings: &'a Mappings,
    /// What is known of it.
    pub blocks: &'a mut Blocks,
    /// Which files are opened.
    pub files: &'a mut LocalFiles,
}

impl ProcessMemory<'_> {
    /// What is at an address, up to the end of the block that it is in; empty where nothing is.
    fn rest_of_block(&mut self, address: u64) -> &[u8] {
        let Some(mapping) = self.mappings.of(address) else { return &[] };
        // A block begins with its mapping, and ends with it.
        let begin = (address - address % BLOCK_BYTES).max(mapping.start);
        if !self.blocks.known.contains_key(&begin) {
            let Some(left) = self.blocks.left.checked_sub(1) else {
                self.blocks.is_full = true;
                return &[];
            };
            self.blocks.left = left;
            let end = (address - address % BLOCK_BYTES).saturating_add(BLOCK_BYTES).min(mapping.end);
            let length = usize::try_from(end.saturating_sub(begin)).unwrap_or(0);
            let bytes = self.reads.memory(self.process, begin, length).unwrap_or_default();
            self.blocks.known.insert(begin, bytes);
        }
        let block = self.blocks.known.get(&begin).map_or(&[][..], Vec::as_slice);
        usize::try_from(address - begin).ok().and_then(|at| block.get(at..)).unwrap_or_default()
    }
}

impl TargetMemory for ProcessMemory<'_> {
    fn fill(&mut self, address: u64, to: &mut [u8]) -> bool {
        if !self.blocks.access() {
            return false;
        }
        let mut done = 0;
        while done < to.len() {
            let Some(at) = address.checked_add(done as u64) else { return false };
            let rest = self.rest_of_block(at);
            let length = rest.len().min(to.len() - done);
            if length == 0 {
                return false;
            }
            to[done..done + length].copy_from_slice(&rest[..length]);
            done += length;
        }
        true
    }

    fn is_spent(&mut self) -> bool {
        self.blocks.look_at_clock();
        self.blocks.is_late || self.blocks.is_full
    }

    fn section(&mut self, base: u64, name: &str) -> Option<(u64, u64)> {
        let (process, first) = (self.process, self.mappings.of(base)?);
        self.files
            .ask(process, first, self.reads, |reads, file| reads.section(process, file, first.inode, name))
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Limits that no test meets by chance.
    pub const LIMITS: ReadLimits = ReadLimits { blocks: 4096, time: Duration::from_secs(60) };

    /// Memory of tests: pieces, each at its address.
    #[derive(Clone, Default)]
    pub struct Pieces(pub Vec<(u64, Vec<u8>)>);

    impl TargetMemory for Pieces {
        fn fill(&mut self, address: u64, to: &mut [u8]) -> bool {
            self.0.iter().any(|(start, bytes)| {
                let at = address.checked_sub(*start).and_then(|at| usize::try_from(at).ok());
                let found = at.and_then(|at| bytes.get(at..)?.get(..to.len()));
                found.is_some_and(|found| {
                    to.copy_from_slice(found);
                    true
                })
            })
        }
    }

    /// Memory that has something everywhere: noise, in which words often lead near others.
    pub struct Noise(pub u64);

    impl TargetMemory for Noise {
        fn fill(&mut self, address: u64, to: &mut [u8]) -> bool {
            for (place, byte) in to.iter_mut().enumerate() {
                let at = address.wrapping_add(place as u64);
                let mixed = (at ^ self.0).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) ^ self.0 >> 7;
                *byte = if at % 8 >= 2 && mixed & 7 != 0 { 0 } else { (mixed >> 16) as u8 };
            }
            // Not all of it is there.
            (address ^ self.0).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 58 != 0
        }
    }

    #[test]
    fn own_memory_is_read_over_the_bounds_of_blocks() {
        let text: Vec<u8> = (0..100_000u32).map(|at| at as u8).collect();
        let (mut reads, mut blocks) = (Reads::new(), Blocks::within(LIMITS));
        let process = crate::procfs::by_pid(std::process::id());
        let mappings = Mappings::read(process, &mut reads);
        let mut files = LocalFiles::default();
        let memory = &mut ProcessMemory {
            files: &mut files,
            process,
            reads: &mut reads,
            mappings: &mappings,
            blocks: &mut blocks,
        };
        let at = text.as_ptr() as u64;
        assert_eq!(memory.bytes(at, text.len()).as_deref(), Some(&text[..]));
        assert_eq!(memory.word(at + 1), Some(u64::from_le_bytes([1, 2, 3, 4, 5, 6, 7, 8])));
        assert_eq!(memory.text(c"name".as_ptr() as u64, 3).as_deref(), Some(&b"nam"[..]));
        assert_eq!(memory.byte(8), None);
        assert_eq!(memory.word(u64::MAX - 3), None);
        assert_eq!(memory.bytes(at, usize::MAX), None);
    }
}
