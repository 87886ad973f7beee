//! What are functions called? By the symbols of their files, which a reader looks up; where it may not open one, by the symbols that
//! lie in memory.

use std::collections::{HashMap, HashSet};

use super::{
    demangle,
    files::LocalFiles,
    mappings::{MappedRange, Mappings},
    memory::TargetMemory,
    module::{Dynamic, LoadedModule, SYMBOL},
};
use crate::{
    model::{file::Device, wait::ProcessId},
    procfs::{ADDRESSES_MAX, FoundSymbol, Reads},
    resolve::mounts::MountTable,
};

/// Names that are remembered; of more, all are forgotten.
const NAMES_MAX: usize = 16_384;
/// Symbols in memory that are looked through.
const SYMBOLS_MAX: u64 = 64 * 1024;

/// A file, as long as it is not replaced.
type FileKey = (Device, u64, String);

/// Names that are known, of files by the addresses in them.
#[derive(Default)]
pub struct KnownNames {
    known: HashMap<FileKey, HashMap<u64, Option<String>>>,
    number: usize,
}

/// Looks names up in one look at a process.
pub struct NameLookup<'a> {
    /// Whose functions they are.
    pub process: ProcessId,
    /// What reads it.
    pub reads: &'a mut Reads,
    /// What is where.
    pub mappings: &'a Mappings,
    /// What is known from before.
    pub known: &'a mut KnownNames,
    /// Which files are opened.
    pub files: &'a mut LocalFiles,
}

impl NameLookup<'_> {
    /// The names of the functions that addresses of one module are in.
    pub fn of_module(&mut self, module: &LoadedModule, addresses: &HashSet<u64>) -> HashMap<u64, String> {
        let Some(first) = self.mappings.of(module.base).cloned() else { return HashMap::new() };
        let key = (first.device, first.inode, first.path.clone());
        let known = self.known.known.get(&key);
        let is_known =
            |address: &u64| known.is_some_and(|known| known.contains_key(&address.wrapping_sub(module.bias)));
        let unknown: Vec<u64> = addresses.iter().copied().filter(|address| !is_known(address)).collect();
        for some in unknown.chunks(ADDRESSES_MAX) {
            let inside: Vec<u64> = some.iter().map(|address| address.wrapping_sub(module.bias)).collect();
            let Some(found) = self.look_up(&first, &inside) else { break };
            if self.known.number + inside.len() > NAMES_MAX {
                *self.known = KnownNames::default();
            }
            self.known.number += inside.len();
            let of_file = self.known.known.entry(key.clone()).or_default();
            of_file.extend(
                inside.iter().zip(found).map(|(address, found)| (*address, found.as_ref().map(named))),
            );
        }
        let Some(known) = self.known.known.get(&key) else { return HashMap::new() };
        let name = |address: &u64| Some((*address, known.get(&address.wrapping_sub(module.bias))?.clone()?));
        addresses.iter().filter_map(name).collect()
    }

    /// By the module's file. `None`: it cannot be read.
    fn look_up(&mut self, first: &MappedRange, addresses: &[u64]) -> Option<Vec<Option<FoundSymbol>>> {
        let process = self.process;
        self.files.ask(process, first, self.reads, |reads, name| {
            reads.symbols(process, name, first.inode, addresses)
        })
    }

    /// The names that a compiler has written down of code that it made at run time, for the kernel's profiler.
    pub fn of_perf_map(&mut self, addresses: &HashSet<u64>) -> HashMap<u64, String> {
        let addresses: Vec<u64> = addresses.iter().copied().take(ADDRESSES_MAX).collect();
        if addresses.is_empty() {
            return HashMap::new();
        }
        // The name has the process's id where it lives.
        let status = self.reads.text(self.process, "status").unwrap_or_default();
        let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
        let Some(pid) = ids.split_ascii_whitespace().next_back() else { return HashMap::new() };
        let path = format!("/tmp/perf-{pid}.map");
        let of_map = |mounts: &MountTable| Some(mounts.of_path(&path)?.kind.clone());
        if !self.files.is_local(self.process, self.reads, of_map) {
            return HashMap::new();
        }
        let path = format!("root{path}");
        let found = self.reads.symbols(self.process, &path, 0, &addresses).unwrap_or_default();
        let name = |(address, found): (&u64, Option<FoundSymbol>)| {
            Some((*address, String::from_utf8_lossy(&found?.name).into_owned()))
        };
        addresses.iter().zip(found).filter_map(name).collect()
    }
}

fn named(symbol: &FoundSymbol) -> String {
    demangle::readable(&String::from_utf8_lossy(&symbol.name))
}

/// The names of functions that a module exports, for addresses in it, from memory.
pub fn exported(
    module: &LoadedModule,
    addresses: &HashSet<u64>,
    memory: &mut dyn TargetMemory,
) -> HashMap<u64, String> {
    let mut found: HashMap<u64, String> = HashMap::new();
    let Some(dynamic) = module.dynamic_section(memory) else { return found };
    let Dynamic { names: Some(names), symbols: Some(symbols), .. } = dynamic else { return found };
    // NameLookup follow the symbols, in the order in which linkers write them; else there are as many as are looked through.
    let number = match names.checked_sub(symbols) {
        Some(bytes) => (bytes / SYMBOL).min(SYMBOLS_MAX),
        None => 0,
    };
    for place in 0..number {
        let Some(at) = symbols.checked_add(place * SYMBOL) else { break };
        let mut symbol = [0; SYMBOL as usize];
        if !memory.fill(at, &mut symbol) {
            break;
        }
        let [n0, n1, n2, n3, kind, _, s0, s1, rest @ ..] = symbol;
        let [value, size] = [0, 8].map(|at| {
            rest.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
        });
        if !matches!(kind & 15, 2 | 10) || size == 0 || [s0, s1] == [0, 0] {
            continue;
        }
        let start = value.wrapping_add(module.bias);
        for address in addresses.iter().filter(|address| **address >= start && **address - start < size) {
            let name = names.checked_add(u32::from_le_bytes([n0, n1, n2, n3]).into());
            let Some(name) = name.and_then(|name| memory.text(name, 256)) else { continue };
            let symbol = FoundSymbol { start, name };
            found.insert(*address, named(&symbol));
        }
    }
    found
}
