//! Which methods of a Ruby program is a thread in? Ruby 3.1 and 3.3, by the control frames of its virtual machine, and the line that each is at.

use super::{mappings::Mappings, memory::TargetMemory, module::LoadedModule, tls};
use crate::model::user_stack::{FRAMES_MAX, ProgramFrame};

/// Bytes of a name or path.
const TEXT_BYTES_MAX: u64 = 1024;

/// Where a version keeps what versions differ in. `tools/offsets/ruby.c` prints a row for the sources of a version.
struct RubyLayout {
    /// How the version begins.
    version: &'static str,
    /// Of the body of an instruction sequence (`rb_iseq_constant_body`): path, label, table of lines, its length, and its index.
    path: u64,
    label: u64,
    lines: u64,
    lines_number: u64,
    index: u64,
    /// Bytes of a control frame.
    frame_bytes: u64,
    /// Of a short string: its characters. Where the length of a long one is not in their place, that of a short one is there, too.
    embedded: u64,
}

/// Checked against 3.1.2 and 3.3.8.
const LAYOUTS: &[RubyLayout] = &[
    RubyLayout {
        version: "3.1.",
        path: 64,
        label: 80,
        lines: 120,
        lines_number: 136,
        index: 144,
        frame_bytes: 64,
        embedded: 16,
    },
    RubyLayout {
        version: "3.3.",
        path: 64,
        label: 80,
        lines: 112,
        lines_number: 128,
        index: 136,
        frame_bytes: 56,
        embedded: 24,
    },
];

// Of a control frame (`rb_control_frame_t`): its instruction and its sequence.
const INSTRUCTION: u64 = 0;
const SEQUENCE: u64 = 16;
/// Of a sequence (`rb_iseq_t`): its body. Of that: its instructions.
const BODY: u64 = 16;
const INSTRUCTIONS: u64 = 8;
/// Words of a thread's stack: a megabyte of bytes is usual.
const STACK_WORDS_MAX: u64 = 1 << 32;
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
    /// Where its current execution context is among thread-local variables, or may be.
    contexts: Vec<tls::Variable>,
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
            // Since 3.2 it has no name that the loader knows: it is one of the few that the library has.
            let contexts = match tls::find(&module, "ruby_current_ec", memory) {
                Some(context) => vec![context],
                None => tls::unnamed(&module, memory)?,
            };
            Some(Self { layout, contexts })
        })
    }

    /// The innermost control frame of the thread with this thread pointer, and the end of its stack.
    fn innermost(&self, pointer: u64, memory: &mut dyn TargetMemory) -> Option<(u64, u64)> {
        self.contexts.iter().find_map(|context| {
            let variable = context.address(pointer, memory)?;
            let context = memory.word(variable)?;
            let [stack, words, frame] =
                [0, 8, 16].map(|at| context.checked_add(at).and_then(|at| memory.word(at)));
            let (stack, words, frame) = (stack?, words.filter(|words| *words <= STACK_WORDS_MAX)?, frame?);
            let end = stack.checked_add(words * 8)?;
            (stack..end).contains(&frame).then_some((frame, end))
        })
    }

    /// One of each version, with this variable.
    #[cfg(any(fuzzing, test))]
    pub fn of_each_version(context: tls::Variable) -> impl Iterator<Item = Self> {
        LAYOUTS.iter().map(move |layout| Self { layout, contexts: vec![context] })
    }

    /// The frames of the thread with this thread pointer.
    pub fn frames(&self, pointer: Option<u64>, memory: &mut dyn TargetMemory) -> Option<Vec<ProgramFrame>> {
        let (innermost, end) = self.innermost(pointer?, memory)?;
        let mut frame = Some(innermost);
        let mut frames = Vec::new();
        for _ in 0..CONTROL_FRAMES_MAX {
            let Some(at) = frame.filter(|at| *at < end && frames.len() < FRAMES_MAX) else { break };
            frame = at.checked_add(self.layout.frame_bytes);
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
        let function = self.text(label, memory)?;
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
        let file = self.text(path, memory)?;
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

    fn text(&self, string: u64, memory: &mut dyn TargetMemory) -> Option<String> {
        const LENGTH: u64 = 16;
        const CHARACTERS: u64 = 24;
        let flags = memory.word(string)?;
        let embedded = string.checked_add(self.layout.embedded)?;
        let (length, at) = match (flags & FLAG != 0, self.layout.embedded == LENGTH) {
            (true, _) => {
                let at = memory.word(string.checked_add(CHARACTERS)?)?;
                (memory.word(string.checked_add(LENGTH)?)?, at)
            }
            // The length of a short one is in its flags.
            (false, true) => (flags >> 14 & 31, embedded),
            (false, false) => (memory.word(string.checked_add(LENGTH)?)?, embedded),
        };
        let bytes = memory.bytes(at, usize::try_from(length.min(TEXT_BYTES_MAX)).ok()?)?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::memory::tests::Noise, *};

    proptest! {
        /// Whatever memory holds, reading it ends, with no more than is kept.
        #[test]
        fn noise_is_read_to_an_end(seed: u64, pointer: u64, offset: u64, number: u64) {
            for context in [tls::Variable::AtOffset(offset), tls::Variable::OfModule { number, offset }] {
                for ruby in Ruby::of_each_version(context) {
                    let frames = ruby.frames(Some(pointer), &mut Noise(seed)).unwrap_or_default();
                    prop_assert!(frames.len() <= FRAMES_MAX);
                }
            }
        }
    }
}
