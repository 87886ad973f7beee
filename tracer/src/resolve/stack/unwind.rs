//! Which functions have called each other, from the one in which a thread sleeps to its first? By the rules that compilers write; where
//! there are none by frame pointers, and where those lead nowhere by what looks like a return address. Pure, but for the memory it reads.

use std::collections::HashMap;

use super::{
    guess,
    mappings::Mappings,
    memory::TargetMemory,
    module::LoadedModule,
    rules::{self, Caller, RETURN_ADDRESS, Unknown, Values},
};
use crate::model::{
    registers::{PROGRAM_COUNTER, STACK_POINTER, UserRegisters},
    user_stack::{FRAMES_MAX, FoundBy},
};

/// A function that has not returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeFrame {
    /// Where it goes on.
    pub address: u64,
    /// The instruction that it is in: the call before that, where it was called by one.
    pub inside: u64,
    /// How it was found.
    pub by: FoundBy,
    /// The kernel has made it, to come back from a signal's handler.
    pub is_signal: bool,
}

/// Why there are no more frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StackEnd {
    /// The last is the outermost.
    Outermost,
    /// There are no rules for the last one, and nothing looks like a caller.
    NoCaller,
    /// The rules of the last one cannot be used.
    Unusable,
    /// The stack would not grow.
    Circle,
    /// The last one would return to where no code is.
    NoCode,
    /// There are more than are kept.
    TooMany,
    /// As much has been read of its process as is in one look.
    Limit,
    /// It is 32-bit code.
    Compat,
    /// Registers are not known.
    NoRegisters,
}

impl StackEnd {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            StackEnd::Outermost => "the outermost function",
            StackEnd::NoCaller => "no caller found: there are no unwind rules and no frame pointer",
            StackEnd::Unusable => "the unwind rules need what is not known",
            StackEnd::Circle => "the stack does not grow",
            StackEnd::NoCode => "the return address is not in code",
            StackEnd::TooMany => "more frames than are read",
            StackEnd::Limit => "no more is read of one process",
            StackEnd::Compat => "32-bit code is not read",
            StackEnd::NoRegisters => "the registers are not known",
        }
    }
}

/// The frames of a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unwound {
    /// The innermost first.
    pub frames: Vec<CodeFrame>,
    /// Why they end.
    pub end: StackEnd,
}

/// Modules of a process that are known, by where they begin.
#[derive(Default)]
pub struct Modules(HashMap<u64, Option<LoadedModule>>);

impl Modules {
    /// This one alone.
    #[cfg(any(fuzzing, test))]
    pub fn of_test(module: LoadedModule) -> Self {
        Self(HashMap::from([(module.base, Some(module))]))
    }

    /// The one that an address is in.
    pub fn of(
        &mut self,
        address: u64,
        mappings: &Mappings,
        memory: &mut dyn TargetMemory,
    ) -> Option<&LoadedModule> {
        let base = mappings.first_of_file(address)?.start;
        self.0.entry(base).or_insert_with(|| LoadedModule::at(base, memory)).as_ref()
    }
}

/// The frames of a thread with these registers.
pub fn unwind(
    start: &UserRegisters,
    mappings: &Mappings,
    modules: &mut Modules,
    memory: &mut dyn TargetMemory,
) -> Unwound {
    let ended = |end| Unwound { frames: Vec::new(), end };
    if start.is_compat {
        return ended(StackEnd::Compat);
    }
    let Some(address) = start.program_counter() else { return ended(StackEnd::NoRegisters) };
    let first = CodeFrame { address, inside: address, by: FoundBy::Registers, is_signal: false };
    let mut unwound = Unwound { frames: vec![first], end: StackEnd::TooMany };
    let mut registers = start.values;
    while unwound.frames.len() < FRAMES_MAX {
        match step(&unwound.frames, &registers, mappings, modules, memory) {
            Ok(found) => {
                if let Some(last) = unwound.frames.last_mut() {
                    last.is_signal = found.interrupted;
                }
                unwound.frames.push(found.frame);
                registers = found.values;
            }
            Err(end) => {
                let is_cut = end != StackEnd::Outermost && memory.is_spent();
                unwound.end = if is_cut { StackEnd::Limit } else { end };
                break;
            }
        }
    }
    unwound
}

/// A caller.
struct Found {
    frame: CodeFrame,
    values: Values,
    /// A signal has interrupted it there: it has not called the last one.
    interrupted: bool,
}

/// The caller of the last frame.
fn step(
    frames: &[CodeFrame],
    registers: &Values,
    mappings: &Mappings,
    modules: &mut Modules,
    memory: &mut dyn TargetMemory,
) -> Result<Found, StackEnd> {
    let Some(last) = frames.last() else { return Err(StackEnd::NoRegisters) };
    let stack = registers[STACK_POINTER].ok_or(StackEnd::NoRegisters)?;
    // The rules of one function may take long, however little is read for them.
    if memory.is_spent() {
        return Err(StackEnd::Limit);
    }
    let by_rules = match modules.of(last.inside, mappings, memory) {
        Some(module) => rules::caller(module, last.inside, registers, memory),
        None => Err(Unknown::NoRules),
    };
    let (values, by, interrupted) = match by_rules {
        Ok(Caller::Found(values)) => (values, FoundBy::Rules, false),
        Ok(Caller::Interrupted(values)) => (values, FoundBy::Rules, true),
        Ok(Caller::Nobody) => return Err(StackEnd::Outermost),
        Err(Unknown::Unusable) => return Err(StackEnd::Unusable),
        Err(Unknown::NoRules) => {
            let is_first = frames.len() == 1;
            match guess::caller(last.address, registers, is_first, mappings, memory) {
                Some(guessed) => (guessed.values, guessed.by, guessed.interrupted),
                None if guess::is_outermost(registers) => return Err(StackEnd::Outermost),
                None => return Err(StackEnd::NoCaller),
            }
        }
    };
    let (Some(address), Some(next)) = (values[PROGRAM_COUNTER], values[STACK_POINTER]) else {
        return Err(StackEnd::Unusable);
    };
    if address == 0 {
        return Err(StackEnd::Outermost);
    }
    // A function may use no stack of its own where the processor keeps return addresses in a register; a signal may have another stack.
    let moves = next > stack || next == stack && RETURN_ADDRESS != PROGRAM_COUNTER && address != last.address;
    if !moves && !interrupted {
        return Err(StackEnd::Circle);
    }
    if !mappings.is_code(address) {
        return Err(StackEnd::NoCode);
    }
    let inside = if interrupted { address } else { address.saturating_sub(1) };
    let frame = CodeFrame { address, inside, by, is_signal: false };
    Ok(Found { frame, values, interrupted })
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use proptest::prelude::*;

    use super::{
        super::{
            files::LocalFiles,
            memory::{
                Blocks, ProcessMemory,
                tests::{LIMITS, Noise},
            },
        },
        *,
    };
    use crate::procfs::{Reads, by_pid, stat};

    /// Memory of which some bytes are others.
    struct Mutated<'a, 'b>(&'a mut ProcessMemory<'b>, u64);

    impl TargetMemory for Mutated<'_, '_> {
        fn fill(&mut self, address: u64, to: &mut [u8]) -> bool {
            let is_there = self.0.fill(address, to);
            for (place, byte) in to.iter_mut().enumerate() {
                let at = address.wrapping_add(place as u64);
                let mixed = (at ^ self.1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                if mixed >> 57 == 0 {
                    *byte ^= mixed as u8;
                }
            }
            is_there
        }
    }

    /// A thread of this process that sleeps, what its registers hold as far as everybody may see, and an end that wakes it.
    fn sleeper() -> (UserRegisters, mpsc::Sender<()>) {
        let (wake, woken) = mpsc::channel::<()>();
        let (say, said) = mpsc::channel();
        thread::spawn(move || {
            let _ = say.send(rustix::thread::gettid().as_raw_nonzero().get());
            let _ = woken.recv();
        });
        let tid = said.recv().expect("it says");
        let (mut reads, me) = (Reads::new(), by_pid(std::process::id()));
        loop {
            let text = reads.text(me, &format!("task/{tid}/syscall")).expect("its own");
            if let Some((stack, program)) = stat::pointers(&text) {
                return (UserRegisters::of_pointers(stack, program), wake);
            }
            thread::yield_now();
        }
    }

    #[test]
    fn a_thread_of_this_process_is_in_a_function_of_the_c_library() {
        let (registers, _wake) = sleeper();
        let (mut reads, mut blocks, mut files) =
            (Reads::new(), Blocks::within(LIMITS), LocalFiles::default());
        let process = by_pid(std::process::id());
        let mappings = Mappings::read(process, &mut reads);
        let memory = &mut ProcessMemory {
            process,
            reads: &mut reads,
            mappings: &mappings,
            blocks: &mut blocks,
            files: &mut files,
        };
        let whole = unwind(&registers, &mappings, &mut Modules::default(), memory);
        assert!(whole.frames.len() > 1, "{whole:?}");
        // Memory of which bytes are others ends, too, and brings nothing down.
        for seed in 0..3000u64 {
            let mutated = &mut Mutated(memory, seed.wrapping_mul(0x1234_5678_9abc_def1));
            let unwound = unwind(&registers, &mappings, &mut Modules::default(), mutated);
            assert!(unwound.frames.len() <= FRAMES_MAX);
        }
    }

    proptest! {
        /// Whatever memory holds and wherever a thread is, there is an end.
        #[test]
        fn noise_is_unwound_to_an_end(seed: u64, values in prop::collection::vec(any::<u64>(), 33)) {
            let mappings = Mappings::parse("1000-7fffffffffff r-xp 00000000 fe:01 7 /srv/noise\n");
            let mut registers = UserRegisters::of_pointers(0, 0);
            for (register, value) in registers.values.iter_mut().zip(&values) {
                *register = Some(value % (1 << 46));
            }
            let module = |rules, functions| LoadedModule { base: 0x1000, bias: seed, rules, functions, dynamic: None };
            for module in [
                module(Some((values[0] % (1 << 46), values[1])), Vec::new()),
                module(None, vec![(0, values[2] % (1 << 46))]),
            ] {
                let unwound = unwind(&registers, &mappings, &mut Modules::of_test(module), &mut Noise(seed));
                prop_assert!(unwound.frames.len() <= FRAMES_MAX);
            }
        }
    }
}
