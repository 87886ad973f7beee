//! Does reading a stack end, whatever lies in memory? For fuzzers and tests: memory made of any bytes, in which words lead to other words,
//! in circles too, or are numbers of any size.

use std::collections::HashSet;

use super::{
    demangle,
    golang::Go,
    mappings::Mappings,
    memory::TargetMemory,
    module::LoadedModule,
    names,
    php::Php,
    python::Python,
    ruby::Ruby,
    rules, tls,
    unwind::{self, CodeFrame, Modules},
};
use crate::model::{
    registers::UserRegisters,
    user_stack::{FRAMES_MAX, FoundBy, ProgramFrame},
};

/// Where it begins.
const BEGIN: u64 = 0x1_0000;
/// Accesses after which no more is read: a reader of a process looks at the clock.
const ACCESSES_MAX: u32 = 100_000;

/// Memory of which half the words lead to other words of it, and the others are what they are.
pub struct WebMemory<'a> {
    words: &'a [[u8; 8]],
    /// How often it was read.
    accesses: u32,
}

impl<'a> WebMemory<'a> {
    /// Made of these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { words: bytes.as_chunks::<8>().0, accesses: 0 }
    }

    /// The word with this number; again from the first, behind the last.
    fn at(&self, number: u64) -> u64 {
        let length = self.words.len().max(1) as u64;
        let word = self.words.get((number % length) as usize).copied().map_or(0, u64::from_le_bytes);
        if word >> 56 & 1 == 0 { BEGIN + word % (8 * length) } else { word & !(1 << 56) }
    }

    fn end(&self) -> u64 {
        BEGIN + 8 * self.words.len() as u64
    }
}

impl TargetMemory for WebMemory<'_> {
    fn fill(&mut self, address: u64, to: &mut [u8]) -> bool {
        self.accesses += 1;
        let end = address.checked_add(to.len() as u64);
        if self.is_spent() || address < BEGIN || end.is_none_or(|end| end > self.end()) {
            return false;
        }
        for (at, byte) in (address - BEGIN..).zip(to) {
            *byte = self.at(at / 8).to_le_bytes()[(at % 8) as usize];
        }
        true
    }

    fn is_spent(&mut self) -> bool {
        self.accesses > ACCESSES_MAX
    }

    fn section(&mut self, _base: u64, _name: &str) -> Option<(u64, u64)> {
        Some((self.at(0), self.at(1)))
    }
}

/// Reads everything that is read of a process, of memory made of these bytes.
///
/// # Panics
/// More is read, or found, than may be.
pub fn read_anything(bytes: &[u8]) {
    let mut memory = WebMemory::new(bytes);
    let maps = format!("{BEGIN:x}-{:x} r-xp 00000000 fe:01 7 /srv/web\n", memory.end().max(BEGIN + 1));
    let mappings = Mappings::parse(&maps);
    let mut registers = UserRegisters::of_pointers(0, 0);
    for (number, register) in registers.values.iter_mut().enumerate() {
        *register = Some(memory.at(number as u64));
    }
    let frames = machine_code(&registers, &mappings, &mut memory);
    languages(&frames, &mappings, &mut memory);
    let _ = demangle::readable(&String::from_utf8_lossy(bytes));
}

/// A memory that has not been read yet.
fn fresh<'a>(memory: &WebMemory<'a>) -> WebMemory<'a> {
    WebMemory { words: memory.words, accesses: 0 }
}

fn machine_code(
    registers: &UserRegisters,
    mappings: &Mappings,
    memory: &mut WebMemory<'_>,
) -> Vec<CodeFrame> {
    let [index, bytes, entry, dynamic] = [2, 3, 4, 5].map(|number| memory.at(number));
    let module =
        |rules, functions| LoadedModule { base: BEGIN, bias: 0, rules, functions, dynamic: Some(dynamic) };
    let begins = rules::functions(entry, bytes, &mut fresh(memory)).unwrap_or_default();
    let mut frames = vec![];
    for module in [module(Some((index, bytes)), vec![]), module(None, vec![(0, entry)]), module(None, begins)]
    {
        let unwound = unwind::unwind(registers, mappings, &mut Modules::of_test(module), &mut fresh(memory));
        assert!(unwound.frames.len() <= FRAMES_MAX);
        frames = unwound.frames;
    }
    let module = module(None, vec![]);
    let _ = LoadedModule::at(BEGIN, &mut fresh(memory));
    let _ = module.symbol("_PyRuntime", &mut fresh(memory));
    let _ = tls::find(&module, "ruby_current_ec", &mut fresh(memory));
    let addresses: HashSet<u64> = frames.iter().map(|frame| frame.inside).collect();
    let named = names::exported(&module, &addresses, &mut fresh(memory));
    assert!(named.len() <= addresses.len());
    frames
}

fn languages(frames: &[CodeFrame], mappings: &Mappings, memory: &mut WebMemory<'_>) {
    let [first, second, pointer] = [6, 7, 8].map(|number| memory.at(number));
    let bounded = |frames: Option<Vec<ProgramFrame>>| {
        assert!(frames.is_none_or(|frames| frames.len() <= FRAMES_MAX));
    };
    for python in Python::of_each_version(first, &mut fresh(memory)) {
        bounded(python.frames(Some(pointer), 1, &mut fresh(memory)));
        bounded(python.frames(None, 1, &mut fresh(memory)));
    }
    bounded(Php::with_frame_at(first).frames(&mut fresh(memory)));
    for context in
        [tls::Variable::AtOffset(first), tls::Variable::OfModule { number: second % 64, offset: first }]
    {
        Ruby::of_each_version(context)
            .for_each(|ruby| bounded(ruby.frames(Some(pointer), &mut fresh(memory))));
    }
    let inside = (0..8).map(|number| memory.at(number));
    let inside =
        inside.map(|inside| CodeFrame { address: inside, inside, by: FoundBy::Scan, is_signal: false });
    let frames: Vec<CodeFrame> = frames.iter().copied().chain(inside).collect();
    if let Some(go) = Go::at(first, mappings, &mut fresh(memory)) {
        let found = go.frames(&frames, &mut fresh(memory));
        assert!(found.len() <= 2 * frames.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words that lead to others, and numbers as they are in what interpreters keep; always the same for a seed (Marsaglia, Xorshift RNGs).
    fn web(seed: u64, words: usize) -> Vec<u8> {
        const NUMBER: u64 = 1 << 56;
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let word = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let place = state >> 8 & 0xffff;
            match state % 16 {
                0..=8 => place * 8,
                9 => place,
                10 => NUMBER,
                11 => NUMBER | (place % 64),
                // A string of PHP, and a compact one of Python.
                12 => NUMBER | 6 << 32 | 0x60,
                13 => NUMBER | 1 << 60,
                14 => u64::MAX,
                _ => state,
            }
        };
        std::iter::repeat_with(word).take(words).flat_map(u64::to_le_bytes).collect()
    }

    #[test]
    fn three_thousand_webs_are_read_to_an_end() {
        let (mut php, mut python) = (0, 0);
        for seed in 0..3000 {
            let bytes = web(seed, 32 + 8 * (seed as usize % 100));
            read_anything(&bytes);
            let mut memory = WebMemory::new(&bytes);
            let first = memory.at(6);
            php += usize::from(Php::with_frame_at(first).frames(&mut memory).is_some());
            let some = |python: &Python| python.frames(None, 0, &mut fresh(&memory)).is_some();
            python +=
                Python::of_each_version(first, &mut fresh(&memory)).iter().filter(|of| some(of)).count();
        }
        // Or there is nothing in them that leads anywhere.
        assert!(php > 100 && python > 3, "{php} {python}");
    }

    /// Lists that lead back into themselves, and lengths beyond all memory.
    #[test]
    fn circles_and_endless_lengths_cost_little() {
        for word in [0, 8, 16, 1 << 60, u64::MAX, 1 << 56 | 1 << 60, 1 << 56 | 0x7fff_ffff] {
            let bytes: Vec<u8> = std::iter::repeat_n(word, 4096).flat_map(u64::to_le_bytes).collect();
            let begun = std::time::Instant::now();
            read_anything(&bytes);
            assert!(begun.elapsed().as_secs() < 5, "{word:#x} takes {:?}", begun.elapsed());
        }
    }
}
