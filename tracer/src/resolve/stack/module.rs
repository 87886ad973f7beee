//! What does a program or library say of itself where it lies in memory? Its headers, its table of rules, its dynamic symbols.

use super::{memory::TargetMemory, rules};

/// Program headers that are read.
const HEADERS_MAX: usize = 64;
/// Entries of a dynamic section that are read.
const ENTRIES_MAX: u64 = 128;
/// Symbols of one chain of a hash table that are compared.
const CHAIN_MAX: u32 = 512;

// Sizes and numbers of elf(5), 64 bits.
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_RELA: u64 = 7;
const DT_RELASZ: u64 = 8;
const DT_GNU_HASH: u64 = 0x6fff_fef5;
/// Bytes of a symbol.
pub const SYMBOL: u64 = 24;

/// A program or library in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedModule {
    /// Where its file begins in memory.
    pub base: u64,
    /// What is added to the addresses in it.
    pub bias: u64,
    /// Where the index of its rules for unwinding is, and how long.
    pub rules: Option<(u64, u64)>,
    /// Where the rules of its functions are, by where these begin, if there is no such index.
    pub functions: Vec<(u64, u64)>,
    /// Where its dynamic section is.
    pub dynamic: Option<u64>,
}

/// What a dynamic section says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dynamic {
    /// Names of symbols.
    pub names: Option<u64>,
    /// Symbols.
    pub symbols: Option<u64>,
    /// The hash table of symbols, GNU's kind.
    pub hash: Option<u64>,
    /// Relocations.
    pub relocations: Option<u64>,
    /// How many bytes of them.
    pub relocations_bytes: u64,
}

impl LoadedModule {
    /// The one that begins here.
    pub fn at(base: u64, memory: &mut dyn TargetMemory) -> Option<Self> {
        let header = memory.bytes(base, HEADER).filter(|header| header.starts_with(b"\x7fELF\x02\x01"))?;
        let table = u64::from_le_bytes(header.get(32..40)?.try_into().ok()?);
        let number = u16::from_le_bytes(header.get(56..58)?.try_into().ok()?);
        let number = usize::from(number).min(HEADERS_MAX);
        let headers = memory.bytes(base.checked_add(table)?, number * PROGRAM_HEADER)?;
        let (mut bias, mut rules, mut dynamic) = (None, None, None);
        for header in headers.chunks_exact(PROGRAM_HEADER) {
            let word = |at: usize| Some(u64::from_le_bytes(header.get(at..at + 8)?.try_into().ok()?));
            let (offset, address, bytes) = (word(8)?, word(16)?, word(40)?);
            match u32::from_le_bytes(header.get(..4)?.try_into().ok()?) {
                PT_LOAD if offset < 4096 && bias.is_none() => {
                    bias = Some(base.wrapping_sub(address.wrapping_sub(offset)));
                }
                PT_DYNAMIC => dynamic = Some(address),
                PT_GNU_EH_FRAME => rules = Some((address, bytes)),
                _ => {}
            }
        }
        let bias = bias?;
        let rules = rules.map(|(address, bytes)| (address.wrapping_add(bias), bytes));
        let dynamic = dynamic.map(|address| address.wrapping_add(bias));
        let mut module = Self { base, bias, rules, functions: Vec::new(), dynamic };
        if module.rules.is_none() {
            // Linkers leave it out of some static programs.
            let found = memory.section(base, ".eh_frame");
            let functions = found
                .and_then(|(address, bytes)| rules::functions(address.wrapping_add(bias), bytes, memory));
            module.functions = functions.unwrap_or_default();
        }
        Some(module)
    }

    /// Its dynamic section.
    pub fn dynamic_section(&self, memory: &mut dyn TargetMemory) -> Option<Dynamic> {
        let (at, mut found) = (self.dynamic?, Dynamic::default());
        for entry in 0..ENTRIES_MAX {
            let entry = at.checked_add(entry * 16)?;
            let (tag, value) = (memory.word(entry)?, memory.word(entry.checked_add(8)?)?);
            // The loader has added the bias to some of them; the kernel's own, which nobody loads, has none.
            let address = if value < self.bias { value.wrapping_add(self.bias) } else { value };
            match tag {
                0 => break,
                DT_STRTAB => found.names = Some(address),
                DT_SYMTAB => found.symbols = Some(address),
                DT_RELA => found.relocations = Some(address),
                DT_RELASZ => found.relocations_bytes = value,
                DT_GNU_HASH => found.hash = Some(address),
                _ => {}
            }
        }
        Some(found)
    }

    /// Where a symbol lies that it exports.
    pub fn symbol(&self, name: &str, memory: &mut dyn TargetMemory) -> Option<u64> {
        let dynamic = self.dynamic_section(memory)?;
        let (names, symbols, table) = (dynamic.names?, dynamic.symbols?, dynamic.hash?);
        let hash = name.bytes().fold(5381u32, |hash, byte| hash.wrapping_mul(33).wrapping_add(byte.into()));
        let number = memory.int(table)?.max(1);
        let first = memory.int(table.checked_add(4)?)?;
        let filter = u64::from(memory.int(table.checked_add(8)?)?);
        let buckets = table.checked_add(16 + filter * 8)?;
        let chains = buckets.checked_add(u64::from(number) * 4)?;
        let begin = memory.int(buckets.checked_add(u64::from(hash % number) * 4)?)?;
        for place in begin..begin.saturating_add(CHAIN_MAX) {
            let found = memory.int(chains.checked_add(u64::from(place.checked_sub(first)?) * 4)?)?;
            if found | 1 == hash | 1 {
                let symbol = symbols.checked_add(u64::from(place) * SYMBOL)?;
                let at = names.checked_add(memory.int(symbol)?.into())?;
                if memory.bytes(at, name.len() + 1)?.strip_suffix(b"\0") == Some(name.as_bytes()) {
                    return Some(memory.word(symbol.checked_add(8)?)?.wrapping_add(self.bias));
                }
            }
            if found & 1 == 1 {
                return None;
            }
        }
        None
    }
}
