//! Where is a thread-local variable of a library, for each thread? By the relocation that asks the loader for it.

use super::{memory::TargetMemory, module::LoadedModule};

/// Bytes of relocations that are looked through.
const RELOCATIONS_BYTES_MAX: u64 = 8 << 20;
/// Bytes of a relocation.
const RELOCATION: usize = 24;
/// Relocations that are read at a time.
const AT_ONCE: u64 = 2048;

// Kinds of relocations (System V ABI, AMD64 supplement; ELF for the Arm 64-bit Architecture).
#[cfg(not(target_arch = "aarch64"))]
const MODULE: u32 = 16;
#[cfg(not(target_arch = "aarch64"))]
const OFFSET: u32 = 18;
#[cfg(target_arch = "aarch64")]
const MODULE: u32 = 1028;
#[cfg(target_arch = "aarch64")]
const OFFSET: u32 = 1030;

/// How the threads of a process find a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variable {
    /// So far from the thread pointer.
    AtOffset(u64),
    /// So far behind the beginning of what a module has of it, by the module's number.
    OfModule {
        /// Its number.
        number: u64,
        /// How far.
        offset: u64,
    },
}

/// Finds the variable of this name.
pub fn find(module: &LoadedModule, name: &str, memory: &mut dyn TargetMemory) -> Option<Variable> {
    let dynamic = module.dynamic_section(memory)?;
    let (relocations, names, symbols) = (dynamic.relocations?, dynamic.names?, dynamic.symbols?);
    let number = dynamic.relocations_bytes.min(RELOCATIONS_BYTES_MAX) / RELOCATION as u64;
    let mut done = 0;
    while done < number {
        let some = AT_ONCE.min(number - done);
        let at = relocations.checked_add(done * RELOCATION as u64)?;
        let part = memory.bytes(at, usize::try_from(some).ok()? * RELOCATION)?;
        for relocation in part.as_chunks::<RELOCATION>().0 {
            let word = |at: usize| relocation.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
            let (place, info) = (word(0)?.wrapping_add(module.bias), word(8)?);
            let (symbol, kind) = (info >> 32, info as u32);
            if !matches!(kind, MODULE | OFFSET) || symbol == 0 {
                continue;
            }
            let symbol = symbols.checked_add(symbol * 24)?;
            let named = names.checked_add(memory.int(symbol)?.into())?;
            let found = memory.bytes(named, name.len() + 1);
            if found.as_deref().and_then(|found| found.strip_suffix(b"\0")) != Some(name.as_bytes()) {
                continue;
            }
            let value = memory.word(place)?;
            return Some(match kind {
                OFFSET => Variable::AtOffset(value),
                _ => Variable::OfModule { number: value, offset: memory.word(symbol.checked_add(8)?)? },
            });
        }
        done += some;
    }
    None
}

/// The first variables of a module that has them for itself: the loader is asked for the module's number only, and code knows the rest.
pub fn unnamed(module: &LoadedModule, memory: &mut dyn TargetMemory) -> Option<Vec<Variable>> {
    const VARIABLES: u64 = 8;
    let dynamic = module.dynamic_section(memory)?;
    let number = dynamic.relocations_bytes.min(RELOCATIONS_BYTES_MAX) / RELOCATION as u64;
    for place in 0..number {
        let at = dynamic.relocations?.checked_add(place * RELOCATION as u64)?;
        // Of no symbol, so that its kind is all there is.
        if memory.word(at.checked_add(8)?)? == u64::from(MODULE) {
            let place = memory.word(at)?.wrapping_add(module.bias);
            let number = memory.word(place)?;
            let variable = |at: u64| Variable::OfModule { number, offset: 8 * at };
            return Some((0..VARIABLES).map(variable).collect());
        }
    }
    None
}

impl Variable {
    /// Where it is for the thread with this pointer.
    pub fn address(self, pointer: u64, memory: &mut dyn TargetMemory) -> Option<u64> {
        match self {
            Variable::AtOffset(offset) => Some(pointer.wrapping_add(offset)),
            // The thread's table of modules is behind its second word, and has two words for each (ELF Handling For Thread-Local Storage).
            Variable::OfModule { number, offset } => {
                let at = if cfg!(target_arch = "aarch64") { pointer } else { pointer.checked_add(8)? };
                let table = memory.word(at)?;
                let begin = memory.word(table.checked_add(number.checked_mul(16)?)?)?;
                Some(begin.wrapping_add(offset))
            }
        }
    }
}
