//! Which functions of a PHP script is a process in? PHP 7.4 to 8.4 without threads, by the frames of its engine.

use super::{mappings::Mappings, memory::TargetMemory, module::LoadedModule};
use crate::model::user_stack::{FRAMES_MAX, ProgramFrame};

/// Bytes of a name or path.
const TEXT_BYTES_MAX: u64 = 1024;

// Of a frame (`zend_execute_data`): its instruction, its function, and the frame that called it.
const INSTRUCTION: u64 = 0;
const FUNCTION: u64 = 24;
const PREVIOUS: u64 = 48;
/// Of an instruction (`zend_op`): its line.
const LINE: u64 = 24;
// Of a function (`zend_function`): its kind, name and class.
const KIND: u64 = 0;
const NAME: u64 = 8;
const CLASS: u64 = 16;
/// Of a class (`zend_class_entry`): its name.
const CLASS_NAME: u64 = 8;
// Of a string (`zend_string`): what it is, its length and its characters.
const STRING_KIND: u64 = 4;
const STRING_LENGTH: u64 = 16;
const STRING: u64 = 24;

/// `ZEND_INTERNAL_FUNCTION`: written in C.
const INTERNAL: u8 = 1;
/// `IS_STRING`.
const IS_STRING: u8 = 6;
/// Where versions have the file of a function (`zend_op_array.filename`): it is found by what it looks like, once.
const FILE_PLACES: std::ops::RangeInclusive<u64> = 128..=208;

/// A PHP engine in a process.
#[derive(Clone, Copy, Debug)]
pub struct Php {
    /// Where its innermost frame is kept.
    current: u64,
}

impl Php {
    /// The one in this process.
    pub fn find(mappings: &Mappings, memory: &mut dyn TargetMemory) -> Option<Self> {
        let of_php = |name: &str| name.starts_with("php") || name.starts_with("libphp");
        mappings.files(of_php).find_map(|mapping| {
            let module = LoadedModule::at(mapping.start, memory)?;
            let globals = module.symbol("executor_globals", memory)?;
            // It loads the innermost frame first.
            let function = module.symbol("zend_get_executed_scope", memory)?;
            let code = memory.bytes(function, 48)?;
            Some(Self { current: globals.checked_add(first_load(&code)?)? })
        })
    }

    /// One that keeps its innermost frame here.
    #[cfg(any(fuzzing, test))]
    pub fn with_frame_at(current: u64) -> Self {
        Self { current }
    }

    /// The frames of its thread.
    pub fn frames(&self, memory: &mut dyn TargetMemory) -> Option<Vec<ProgramFrame>> {
        let mut frame = memory.word(self.current)?;
        let (mut frames, mut file_at) = (Vec::new(), None);
        for _ in 0..2 * FRAMES_MAX {
            if frame == 0 || frames.len() >= FRAMES_MAX {
                break;
            }
            let function = memory.word(frame.checked_add(FUNCTION)?)?;
            if function != 0 {
                frames.push(read_frame(frame, function, &mut file_at, memory)?);
            }
            frame = memory.word(frame.checked_add(PREVIOUS)?)?;
        }
        Some(frames)
    }
}

fn read_frame(
    frame: u64,
    function: u64,
    file_at: &mut Option<u64>,
    memory: &mut dyn TargetMemory,
) -> Option<ProgramFrame> {
    let kind = memory.byte(function.checked_add(KIND)?)?;
    let name = memory.word(function.checked_add(NAME)?)?;
    let class = memory.word(function.checked_add(CLASS)?)?;
    let mut called = String::new();
    if class != 0 && name != 0 {
        let class = memory.word(class.checked_add(CLASS_NAME)?)?;
        called = text(class, memory)? + "::";
    }
    match name {
        0 => called.push_str("(main)"),
        _ => called.push_str(&text(name, memory)?),
    }
    if kind == INTERNAL {
        return Some(ProgramFrame { function: called, file: None, line: None });
    }
    if file_at.is_none() {
        *file_at = FILE_PLACES.step_by(8).find(|place| {
            let at = function.checked_add(*place).and_then(|at| memory.word(at));
            at.and_then(|at| text(at, memory)).is_some_and(|text| is_file(&text))
        });
    }
    let file = file_at.and_then(|place| memory.word(function.checked_add(place)?));
    let file = file.and_then(|file| text(file, memory));
    let instruction = memory.word(frame.checked_add(INSTRUCTION)?)?;
    let line = instruction.checked_add(LINE).and_then(|at| memory.int(at));
    Some(ProgramFrame { function: called, file, line })
}

/// Whether a text is where code comes from.
fn is_file(text: &str) -> bool {
    text.starts_with('/') || text.contains(".php") || text.contains("ommand line code")
}

fn text(string: u64, memory: &mut dyn TargetMemory) -> Option<String> {
    if memory.byte(string.checked_add(STRING_KIND)?)? & 15 != IS_STRING {
        return None;
    }
    let length = memory.word(string.checked_add(STRING_LENGTH)?)?.min(TEXT_BYTES_MAX);
    let bytes = memory.bytes(string.checked_add(STRING)?, usize::try_from(length).ok()?)?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Where from the globals the first value lies that code loads: `mov offset(%reg), %reg`, behind a `lea` of their address.
#[cfg(not(target_arch = "aarch64"))]
fn first_load(code: &[u8]) -> Option<u64> {
    code.windows(7).find_map(|code| match code {
        // With four bytes for the offset, from a register that is neither the stack pointer nor the instruction.
        [0x48, 0x8b, operand, a, b, c, d] if operand & 0xc0 == 0x80 && operand & 7 != 4 => {
            Some(u64::from(u32::from_le_bytes([*a, *b, *c, *d])))
        }
        _ => None,
    })
}

/// The same: `ldr xN, [xM, #offset]` in words of eight bytes.
#[cfg(target_arch = "aarch64")]
fn first_load(code: &[u8]) -> Option<u64> {
    code.chunks_exact(4).find_map(|code| {
        let code = u32::from_le_bytes(code.try_into().ok()?);
        let offset = u64::from(code >> 10 & 0xfff) * 8;
        // A small offset is of the table that has the address of the globals.
        (code >> 22 == 0b11_1110_0101 && (256..4096).contains(&offset)).then_some(offset)
    })
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use proptest::prelude::*;

    use super::{super::memory::tests::Noise, *};

    #[test]
    fn the_first_load_behind_the_address_counts() {
        // endbr64; lea 0x5a1b3d(%rip),%rax; mov 0x1e8(%rax),%rax; test %rax,%rax.
        let code = [
            0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x8d, 0x05, 0x3d, 0x1b, 0x5a, 0, 0x48, 0x8b, 0x80, 0xe8, 1, 0, 0,
            0x48, 0x85, 0xc0,
        ];
        assert_eq!(first_load(&code), Some(0x1e8));
        assert_eq!(first_load(&code[..12]), None);
    }

    proptest! {
        /// Whatever memory holds, reading it ends, with no more than is kept.
        #[test]
        fn noise_is_read_to_an_end(seed: u64, current: u64) {
            let frames = Php { current }.frames(&mut Noise(seed)).unwrap_or_default();
            prop_assert!(frames.len() <= FRAMES_MAX);
        }
    }
}
