//! Which functions of a Go program are these, and on which lines? By the table that Go's own runtime uses for panics, which is in every
//! binary, stripped or not: Go 1.18 and later.

use super::{
    mappings::{MappedRange, Mappings},
    memory::TargetMemory,
    module::LoadedModule,
    unwind::CodeFrame,
};
use crate::model::user_stack::ProgramFrame;

/// Bytes of a program that are looked through for its table.
const SEARCHED_BYTES_MAX: u64 = 16 << 20;
/// Bytes that are looked through at a time.
const PART_BYTES: u64 = 256 * 1024;
/// Bytes of a name or path.
const TEXT_BYTES_MAX: usize = 512;
/// Steps of one of its tables of lines.
const STEPS_MAX: usize = 100_000;

/// The table begins so: a number for the version (1.18, 1.20), two zeros, the length of an instruction, and of a pointer.
const MAGIC: [[u8; 4]; 2] = [[0xf0, 0xff, 0xff, 0xff], [0xf1, 0xff, 0xff, 0xff]];
const POINTER: u8 = 8;
/// The sections that it is in, of a program that lies where it was linked to, and of one that does not.
const SECTIONS: [&str; 2] = [".gopclntab", ".data.rel.ro.gopclntab"];
/// Linkers align it.
const ALIGNED: usize = 32;

/// The table of a Go program (`pcHeader`, runtime/symtab.go).
#[derive(Clone, Copy, Debug)]
pub struct Go {
    /// Least length of an instruction.
    unit: u64,
    /// Where code begins.
    text: u64,
    /// How many functions there are.
    number: u64,
    /// Names, files by unit of compilation, files, lines, functions.
    names: u64,
    units: u64,
    files: u64,
    lines: u64,
    functions: u64,
}

impl Go {
    /// The one of this process.
    pub fn find(mappings: &Mappings, memory: &mut dyn TargetMemory) -> Option<Self> {
        // The program is what is mapped first.
        let program = mappings.iter().find(|mapping| mapping.has_file() && mapping.offset == 0)?;
        if !is_go(program, memory) {
            return None;
        }
        if let Some(module) = LoadedModule::at(program.start, memory) {
            let section = SECTIONS.iter().find_map(|name| memory.section(module.base, name));
            let table = section.map(|(address, _)| address.wrapping_add(module.bias));
            let found = table.and_then(|table| {
                let begin = memory.bytes(table, 8)?;
                if begins(&begin) { Self::at(table, mappings, memory) } else { None }
            });
            if found.is_some() {
                return found;
            }
        }
        // Its headers are gone, or its file is not to be read.
        let of_program = mappings
            .iter()
            .filter(|mapping| (mapping.device, mapping.inode) == (program.device, program.inode));
        let mut left = SEARCHED_BYTES_MAX;
        for mapping in of_program.filter(|mapping| !mapping.runs) {
            let mut at = mapping.start;
            while at < mapping.end && left > 0 {
                let length = PART_BYTES.min(mapping.end - at).min(left);
                left -= length;
                let part = memory.bytes(at, usize::try_from(length).ok()?).unwrap_or_default();
                let places = (0..part.len()).step_by(ALIGNED);
                for place in places.filter(|place| part.get(*place..).is_some_and(begins)) {
                    let found = at.checked_add(place as u64).and_then(|at| Self::at(at, mappings, memory));
                    if found.is_some() {
                        return found;
                    }
                }
                at = at.checked_add(length)?;
            }
        }
        None
    }

    /// The one whose table is here.
    pub fn at(table: u64, mappings: &Mappings, memory: &mut dyn TargetMemory) -> Option<Self> {
        let mut word = |place: u64| memory.word(table.checked_add(8 * place)?);
        let (number, text) = (word(1)?, word(3)?);
        let mut place = |at: u64| table.checked_add(word(at)?);
        let go = Self {
            number,
            text,
            names: place(4)?,
            units: place(5)?,
            files: place(6)?,
            lines: place(7)?,
            functions: place(8)?,
            unit: memory.byte(table.checked_add(6)?)?.into(),
        };
        (mappings.is_code(text) && number > 0 && number < 1 << 24).then_some(go)
    }

    /// The functions of the frames that are Go's.
    pub fn frames(&self, native: &[CodeFrame], memory: &mut dyn TargetMemory) -> Vec<ProgramFrame> {
        native.iter().filter_map(|frame| self.functions_at(frame.inside, memory)).flatten().collect()
    }

    /// The function that an address is in, and before it the place in another file that was compiled into it, if it is in one: the table
    /// of lines is of that then, and does not name its function.
    fn functions_at(&self, address: u64, memory: &mut dyn TargetMemory) -> Option<Vec<ProgramFrame>> {
        let offset = u32::try_from(address.checked_sub(self.text)?).ok()?;
        let entry = |place: u64, memory: &mut dyn TargetMemory| {
            let at = self.functions.checked_add(place.checked_mul(8)?)?;
            Some((memory.int(at)?, memory.int(at.checked_add(4)?)?))
        };
        // The last entry is the end of code.
        let (mut low, mut high) = (0, self.number);
        if entry(high, memory)?.0 <= offset {
            return None;
        }
        while low < high {
            let middle = low.midpoint(high);
            if entry(middle, memory)?.0 <= offset { low = middle + 1 } else { high = middle }
        }
        let (begin, function) = entry(low.checked_sub(1)?, memory)?;
        let function = self.functions.checked_add(function.into())?;
        // Of a function (`_func`, runtime/runtime2.go): its name, its tables of files and of lines, and its unit.
        let [name, files, lines, unit] =
            [4, 20, 24, 32].map(|at| function.checked_add(at).and_then(|at| memory.int(at)));
        let name = memory.text(self.names.checked_add(name?.into())?, TEXT_BYTES_MAX)?;
        let inside = offset - begin;
        let line = self.value(lines?, inside, memory).and_then(|line| u32::try_from(line).ok());
        let [own, file] = [0, inside].map(|inside| self.file(files?, unit?, inside, memory));
        let function = String::from_utf8_lossy(&name).into_owned();
        if own == file {
            return Some(vec![ProgramFrame { function, file, line }]);
        }
        let inlined = ProgramFrame { function: "(inlined)".into(), file, line };
        Some(vec![inlined, ProgramFrame { function, file: own, line: None }])
    }

    /// The file that an instruction comes from.
    fn file(&self, files: u32, unit: u32, inside: u32, memory: &mut dyn TargetMemory) -> Option<String> {
        let number = u64::try_from(self.value(files, inside, memory)?).ok()?.checked_add(unit.into())?;
        let at = memory.int(self.units.checked_add(number.checked_mul(4)?)?)?;
        let file = memory.text(self.files.checked_add(at.into())?, TEXT_BYTES_MAX)?;
        Some(String::from_utf8_lossy(&file).into_owned())
    }

    /// What a table says of an instruction: pairs of how much more, and for how long (`pcvalue`, runtime/symtab.go).
    fn value(&self, table: u32, inside: u32, memory: &mut dyn TargetMemory) -> Option<i64> {
        let mut at = self.lines.checked_add(table.into())?;
        let (mut value, mut end) = (-1i64, 0u64);
        for step in 0..STEPS_MAX {
            let more = number(&mut at, memory)?;
            if more == 0 && step > 0 {
                break;
            }
            let half = i64::from(more >> 1);
            value = value.checked_add(if more & 1 == 1 { !half } else { half })?;
            end = end.checked_add(u64::from(number(&mut at, memory)?).checked_mul(self.unit)?)?;
            if u64::from(inside) < end {
                return Some(value);
            }
        }
        None
    }
}

/// Seven bits a byte, the lowest first, as long as another bit says that there are more.
fn number(at: &mut u64, memory: &mut dyn TargetMemory) -> Option<u32> {
    let (mut number, mut shift) = (0u32, 0);
    for _ in 0..5 {
        let byte = memory.byte(*at)?;
        *at = at.checked_add(1)?;
        number |= u32::from(byte & 127).checked_shl(shift).unwrap_or(0);
        if byte & 128 == 0 {
            return Some(number);
        }
        shift += 7;
    }
    None
}

/// Whether bytes are those with which a table begins.
fn begins(bytes: &[u8]) -> bool {
    let Some([a, b, c, d, 0, 0, unit, POINTER]) = bytes.first_chunk::<8>() else { return false };
    MAGIC.contains(&[*a, *b, *c, *d]) && matches!(unit, 1 | 4)
}

/// Whether a program was built by Go: a note near its beginning has the build's id.
fn is_go(program: &MappedRange, memory: &mut dyn TargetMemory) -> bool {
    const NEAR: u64 = 4096;
    let length = usize::try_from(NEAR.min(program.end - program.start)).unwrap_or(0);
    let Some(bytes) = memory.bytes(program.start, length) else { return false };
    // The length of its name, that of the id, the kind, and the name.
    bytes.windows(16).any(|note| note.starts_with(&[4, 0, 0, 0]) && note.ends_with(b"\x04\0\0\0Go\0\0"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::memory::tests::Noise, *};

    #[test]
    fn a_table_begins_with_its_version() {
        assert!(begins(&[0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8, 9]));
        assert!(!begins(&[0xf1, 0xff, 0xff, 0xff, 0, 0, 3, 8]) && !begins(&[0xf1, 0xff]));
    }

    proptest! {
        /// Whatever memory holds, reading it ends, with no more than is kept.
        #[test]
        fn noise_is_read_to_an_end(seed: u64, text: u64, tables: u64, inside in prop::collection::vec(any::<u64>(), 1..8)) {
            let [names, units, files, lines, functions] = [1, 2, 3, 4, 5].map(|at| tables.wrapping_mul(at));
            let go = Go { unit: 1, text, number: 1 << 20, names, units, files, lines, functions };
            for address in inside {
                let _ = go.functions_at(address, &mut Noise(seed));
                let _ = go.functions_at(text.wrapping_add(address % 4096), &mut Noise(seed));
            }
        }
    }
}
