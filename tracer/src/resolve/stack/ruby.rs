//! Which methods of a Ruby program is a thread in? Ruby 3.1, by the control frames of its virtual machine, and the line that each is at.

use super::{mappings::Mappings, memory::TargetMemory, module::LoadedModule, tls};
use crate::model::user_stack::{FRAMES_MAX, ProgramFrame};

/// Bytes of a name or path.
const TEXT_BYTES_MAX: u64 = 1024;

/// Where a version keeps what versions differ in, from the beginning of an instruction sequence's body (`rb_iseq_constant_body`).
struct RubyLayout {
    /// How the version begins.
    version: &'static str,
    /// Path, label, table of lines, its length, and its index.
    path: u64,
    label: u64,
    lines: u64,
    lines_number: u64,
    index: u64,
}

/// Checked against 3.1.2.
const LAYOUTS: &[RubyLayout] =
    &[RubyLayout { version: "3.1.", path: 64, label: 80, lines: 120, lines_number: 136, index: 144 }];

// Of a control frame (`rb_control_frame_t`): its instruction, its sequence, and its size.
const INSTRUCTION: u64 = 0;
const SEQUENCE: u64 = 16;
const FRAME_BYTES: u64 = 64;
/// Of a sequence (`rb_iseq_t`): its body. Of that: its instructions.
const BODY: u64 = 16;
const INSTRUCTIONS: u64 = 8;
/// Control frames that are looked at: those of methods written in C are among them.
const CONTROL_FRAMES_MAX: usize = 16 * FRAMES_MAX;
/// Bytes of an entry of the table of lines.
const LINE_BYTES: u64 = 12;
/// Flags of an object: its kind, and whether what it has is elsewhere, or for arrays within.
const KIND: u64 = 0x1f;
const KIND_ARRAY: u64 = 7;
const FLAG: u64 = 1 << 13;

/// A Ruby virtual machine in a process.
pub struct Ruby {
    layout: &'static RubyLayout,
    /// Where its current execution context is among thread-local variables.
    context: tls::Variable,
}

impl Ruby {
    /// The one in this process.
    pub fn find(mappings: &Mappings, memory: &mut dyn TargetMemory) -> Option<Self> {
        let of_ruby = |name: &str| name.starts_with("ruby") || name.starts_with("libruby");
        mappings.files(of_ruby).find_map(|mapping| {
            let module = LoadedModule::at(mapping.start, memory)?;
            let at = module.symbol("ruby_version", memory)?;
            let version = memory.text(at, 16)?;
            let layout = LAYOUTS.iter().find(|layout| version.starts_with(layout.version.as_bytes()))?;
            let context = tls::find(&module, "ruby_current_ec", memory)?;
            Some(Self { layout, context })
        })
    }

    /// One of each version, with this variable.
    #[cfg(any(fuzzing, test))]
    pub fn of_each_version(context: tls::Variable) -> impl Iterator<Item = Self> {
        LAYOUTS.iter().map(move |layout| Self { layout, context })
    }

    /// The frames of the thread with this thread pointer.
    pub fn frames(&self, pointer: Option<u64>, memory: &mut dyn TargetMemory) -> Option<Vec<ProgramFrame>> {
        let variable = self.context.address(pointer?, memory)?;
        let context = memory.word(variable)?;
        let [stack, words, mut frame] =
            [0, 8, 16].map(|at| context.checked_add(at).and_then(|at| memory.word(at)));
        let end = stack?.checked_add(words?.checked_mul(8)?)?;
        let mut frames = Vec::new();
        for _ in 0..CONTROL_FRAMES_MAX {
            let Some(at) = frame.filter(|at| *at < end && frames.len() < FRAMES_MAX) else { break };
            frame = at.checked_add(FRAME_BYTES);
            let instruction = memory.word(at.checked_add(INSTRUCTION)?)?;
            let sequence = memory.word(at.checked_add(SEQUENCE)?)?;
            // Methods written in C have no sequence, and the outermost frame no instruction.
            if sequence == 0 || sequence & 7 != 0 || instruction == 0 {
                continue;
            }
            let Some(found) = self.frame(instruction, sequence, memory) else { break };
            // What begins a thread or a file is no method, and has no line.
            if found.line != Some(0) {
                frames.push(found);
            }
        }
        Some(frames)
    }

    fn frame(&self, instruction: u64, sequence: u64, memory: &mut dyn TargetMemory) -> Option<ProgramFrame> {
        let layout = self.layout;
        let body = memory.word(sequence.checked_add(BODY)?)?;
        let label = memory.word(body.checked_add(layout.label)?)?;
        let function = text(label, memory)?;
        let path = memory.word(body.checked_add(layout.path)?)?;
        // The path, or an array of it and of the real one.
        let flags = memory.word(path)?;
        let path = match (flags & KIND == KIND_ARRAY, flags & FLAG != 0) {
            (false, _) => path,
            (true, true) => memory.word(path.checked_add(16)?)?,
            (true, false) => {
                let items = memory.word(path.checked_add(32)?)?;
                memory.word(items)?
            }
        };
        let file = text(path, memory)?;
        let line = self.line(instruction, body, memory);
        Some(ProgramFrame { function, file: Some(file), line })
    }

    fn line(&self, instruction: u64, body: u64, memory: &mut dyn TargetMemory) -> Option<u32> {
        let layout = self.layout;
        let begin = memory.word(body.checked_add(INSTRUCTIONS)?)?;
        // It is at the next one already.
        let position = (instruction.checked_sub(begin)? / 8).saturating_sub(1);
        let number = memory.int(body.checked_add(layout.lines_number)?)?;
        let index = memory.word(body.checked_add(layout.index)?)?;
        let place = if number <= 1 { 1 } else { rank(position, index, memory)? };
        let table = memory.word(body.checked_add(layout.lines)?)?;
        let entry = place.checked_sub(1).or(Some(0))?.checked_mul(LINE_BYTES)?;
        memory.int(table.checked_add(entry)?)
    }
}

/// How many entries of the table of lines begin at this position or before, by an index of bits (`succ_index_lookup`, iseq.c).
fn rank(position: u64, index: u64, memory: &mut dyn TargetMemory) -> Option<u64> {
    // The first positions have their ranks in six words, nine of seven bits in each.
    const FIRST: u64 = 54;
    const FIRST_BYTES: u64 = 48;
    // Then blocks of 512 bits: a rank, those of its eight words, and these.
    const BLOCK_BITS: u64 = 512;
    const BLOCK_BYTES: u64 = 80;
    if position < FIRST {
        let word = memory.word(index.checked_add(position / 9 * 8)?)?;
        return Some(word >> (position % 9 * 7) & 127);
    }
    let rest = position - FIRST;
    let block = (rest / BLOCK_BITS).checked_mul(BLOCK_BYTES)?;
    let block = index.checked_add(FIRST_BYTES)?.checked_add(block)?;
    let (bit, word) = (rest % 64, rest % BLOCK_BITS / 64);
    let within = match word {
        0 => 0,
        _ => memory.word(block.checked_add(8)?)? >> ((word - 1) * 9) & 511,
    };
    let bits = memory.word(block.checked_add(16 + word * 8)?)?;
    let before = u64::from((bits << (63 - bit)).count_ones());
    Some(u64::from(memory.int(block)?) + within + before)
}

fn text(string: u64, memory: &mut dyn TargetMemory) -> Option<String> {
    let flags = memory.word(string)?;
    let (length, at) = match flags & FLAG != 0 {
        true => (memory.word(string.checked_add(16)?)?, memory.word(string.checked_add(24)?)?),
        // A short one lies in the object itself.
        false => (flags >> 14 & 31, string.checked_add(16)?),
    };
    let bytes = memory.bytes(at, usize::try_from(length.min(TEXT_BYTES_MAX)).ok()?)?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::memory::tests::Noise, *};

    proptest! {
        /// Whatever memory holds, reading it ends, with no more than is kept.
        #[test]
        fn noise_is_read_to_an_end(seed: u64, pointer: u64, offset: u64, number: u64) {
            for context in [tls::Variable::AtOffset(offset), tls::Variable::OfModule { number, offset }] {
                let ruby = Ruby { layout: &LAYOUTS[0], context };
                let frames = ruby.frames(Some(pointer), &mut Noise(seed)).unwrap_or_default();
                prop_assert!(frames.len() <= FRAMES_MAX);
            }
        }
    }
}
