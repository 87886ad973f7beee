//! What are functions called? By the symbols of their files, which a reader looks up; where it may not open one, by the symbols that
//! lie in memory. Files on a network or behind another process are not opened.

use std::collections::{HashMap, HashSet};

use rustix::io::Errno;

use super::{
    demangle,
    mappings::{Mapping, Mappings},
    memory::Memory,
    module::{Dynamic, Module, SYMBOL},
};
use crate::{
    model::{file::Device, wait::ProcessId},
    procfs::{ADDRESSES_MAX, FoundSymbol, Reads, Unread},
    resolve::mounts::MountTable,
};

/// File systems whose files are opened: those that no other process or host serves.
const LOCAL: &[&str] = &[
    "bcachefs", "btrfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "iso9660", "jfs", "overlay",
    "ramfs", "rootfs", "squashfs", "tmpfs", "ubifs", "vfat", "xfs", "zfs",
];
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
pub struct Names<'a> {
    /// Whose functions they are.
    pub process: ProcessId,
    /// What reads it.
    pub reads: &'a mut Reads,
    /// What is where.
    pub mappings: &'a Mappings,
    /// What is known from before.
    pub known: &'a mut KnownNames,
    /// What it sees mounted, once that has been asked for.
    pub mounts: Option<MountTable>,
}

impl Names<'_> {
    /// The names of the functions that addresses of one module are in.
    pub fn of_module(&mut self, module: &Module, addresses: &HashSet<u64>) -> HashMap<u64, String> {
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
    fn look_up(&mut self, first: &Mapping, addresses: &[u64]) -> Option<Vec<Option<FoundSymbol>>> {
        if !first.has_file() || !self.is_local(|mounts| Some(mounts.of_device(first.device)?.kind.clone())) {
            return None;
        }
        let link = format!("map_files/{:x}-{:x}", first.start, first.end);
        let refused = match self.reads.symbols(self.process, &link, first.inode, addresses) {
            Ok(found) => return Some(found),
            Err(Unread::Failed(error)) => matches!(error, Errno::PERM | Errno::ACCESS | Errno::NOENT),
            Err(_) => false,
        };
        if !refused {
            return None;
        }
        // Without the right to follow that link: the path may lead to another file by now, which has another number.
        if let Ok(found) = self.reads.symbols(self.process, "exe", first.inode, addresses) {
            return Some(found);
        }
        if !first.path.starts_with('/')
            || !self.is_local(|mounts| Some(mounts.of_path(&first.path)?.kind.clone()))
        {
            return None;
        }
        let path = format!("root{}", first.path);
        self.reads.symbols(self.process, &path, first.inode, addresses).ok()
    }

    /// Whether a file system is one that no other process or host serves.
    fn is_local(&mut self, kind: impl Fn(&MountTable) -> Option<String>) -> bool {
        let mounts = self.mounts.get_or_insert_with(|| MountTable::read(self.process, self.reads));
        kind(mounts).is_some_and(|kind| LOCAL.contains(&kind.as_str()))
    }

    /// The names that a compiler has written down of code that it made at run time, for the kernel's profiler.
    pub fn of_perf_map(&mut self, addresses: &HashSet<u64>) -> HashMap<u64, String> {
        let addresses: Vec<u64> = addresses.iter().copied().take(ADDRESSES_MAX).collect();
        if addresses.is_empty() || !self.is_local(|mounts| Some(mounts.of_path("/tmp")?.kind.clone())) {
            return HashMap::new();
        }
        // The name has the process's id where it lives.
        let status = self.reads.text(self.process, "status").unwrap_or_default();
        let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
        let Some(pid) = ids.split_ascii_whitespace().next_back() else { return HashMap::new() };
        let path = format!("root/tmp/perf-{pid}.map");
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
pub fn exported(module: &Module, addresses: &HashSet<u64>, memory: &mut dyn Memory) -> HashMap<u64, String> {
    let mut found: HashMap<u64, String> = HashMap::new();
    let Some(dynamic) = module.dynamic(memory) else { return found };
    let Dynamic { names: Some(names), symbols: Some(symbols), .. } = dynamic else { return found };
    // Names follow the symbols, in the order in which linkers write them; else there are as many as are looked through.
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
