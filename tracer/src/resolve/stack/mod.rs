//! Where in its program does a thread sleep? Its stack, read without stopping it: who sleeps does not move, and who has moved meanwhile
//! is left out.
//!
//! Part of `resolve`, layer 3, and uses what that may use. `unwind` finds the frames of machine code, by `rules` or by `guess`; `names`
//! says what they are called. Both read what `mappings` and `memory` have of the process. A file for each language has the frames of
//! that one.

mod demangle;
mod guess;
mod mappings;
mod memory;
mod module;
mod names;
mod rules;
mod unwind;

use std::collections::{HashMap, HashSet};

use anyhow::Result;

use self::{
    mappings::Mappings,
    memory::{Blocks, ProcessMemory},
    module::Module,
    names::{KnownNames, Names},
    unwind::{End, Frame, Modules, Unwound},
};
use crate::{
    collect::{SleepRegisters, Source},
    model::{
        user_stack::{NativeFrame, UserStack},
        wait::ProcessId,
    },
    procfs::{Reads, Wanted, stat},
};

/// Threads whose stacks are read together.
const THREADS_MAX: usize = 4096;

/// The stack of a thread, and which of its sleeps it is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadStack {
    /// The thread, by its id.
    pub tid: u32,
    /// Its context switches so far.
    pub switches: u64,
    /// Where it sleeps.
    pub stack: UserStack,
}

/// Reads stacks, and remembers names.
#[derive(Default)]
pub struct StackReader {
    names: KnownNames,
}

/// A thread and its frames, not named yet.
struct Walked {
    registers: SleepRegisters,
    unwound: Unwound,
}

impl StackReader {
    /// The stacks of these threads of a process. Those that do not sleep are left out, and those that have not slept all the while.
    ///
    /// # Errors
    /// The source cannot be asked.
    pub fn read(
        &mut self,
        process: ProcessId,
        tids: &[u32],
        source: &mut dyn Source,
        reads: &mut Reads,
    ) -> Result<Vec<ThreadStack>> {
        let tids = tids.get(..THREADS_MAX).unwrap_or(tids);
        let registers = source.registers(process, tids)?;
        if registers.is_empty() {
            return Ok(Vec::new());
        }
        let mappings = Mappings::read(process, reads);
        let (mut blocks, mut modules) = (Blocks::default(), Modules::default());
        let mut walked: Vec<Walked> = Vec::with_capacity(registers.len());
        let memory =
            &mut ProcessMemory { process, reads: &mut *reads, mappings: &mappings, blocks: &mut blocks };
        for registers in registers {
            let unwound = unwind::unwind(&registers.registers, &mappings, &mut modules, memory);
            walked.push(Walked { registers, unwound });
        }
        keep_unmoved(&mut walked, process, memory.reads);
        let frames: Vec<&Frame> = walked.iter().flat_map(|walked| &walked.unwound.frames).collect();
        let mut named = self.name(&frames, &mut modules, memory);
        let stacks = walked.into_iter().map(|Walked { registers, unwound }| ThreadStack {
            tid: registers.tid,
            switches: registers.switches,
            stack: native(&unwound, &mut named),
        });
        Ok(stacks.collect())
    }

    /// What the functions of these frames are called, by the addresses inside them.
    fn name(
        &mut self,
        frames: &[&Frame],
        modules: &mut Modules,
        memory: &mut ProcessMemory<'_>,
    ) -> HashMap<u64, Named> {
        let mut by_module: HashMap<u64, (Module, HashSet<u64>)> = HashMap::new();
        let mut elsewhere: HashSet<u64> = HashSet::new();
        for frame in frames {
            match modules.of(frame.inside, memory.mappings, memory) {
                Some(module) => {
                    let of = by_module.entry(module.base).or_insert_with(|| (module.clone(), HashSet::new()));
                    of.1.insert(frame.inside);
                }
                None => _ = elsewhere.insert(frame.inside),
            }
        }
        let (process, mappings) = (memory.process, memory.mappings);
        let mut named: HashMap<u64, Named> = HashMap::new();
        for (module, addresses) in by_module.into_values() {
            let mut names =
                Names { process, reads: &mut *memory.reads, mappings, known: &mut self.names, mounts: None };
            let mut functions = names.of_module(&module, &addresses);
            if functions.is_empty() {
                functions = names::exported(&module, &addresses, memory);
            }
            let path = mappings.of(module.base).map(|mapping| mapping.path.clone());
            for address in addresses {
                let function = functions.remove(&address);
                let offset = address.wrapping_sub(module.bias);
                named.insert(address, Named { function, module: path.clone(), offset });
            }
        }
        let mut names =
            Names { process, reads: &mut *memory.reads, mappings, known: &mut self.names, mounts: None };
        let mut compiled = names.of_perf_map(&elsewhere);
        for address in elsewhere {
            let function = compiled.remove(&address);
            let begin = mappings.of(address).map_or(address, |mapping| mapping.start);
            named.insert(address, Named { function, module: None, offset: address - begin });
        }
        named
    }
}

/// What is known of an address in code.
#[derive(Clone)]
struct Named {
    function: Option<String>,
    /// The path of its module.
    module: Option<String>,
    /// Where in that it is.
    offset: u64,
}

/// Leaves out who has not slept all the while: what was read of it may be of several moments.
fn keep_unmoved(walked: &mut Vec<Walked>, process: ProcessId, reads: &mut Reads) {
    let file = |tid: u32| format!("task/{tid}/status");
    let wanted: Vec<String> = walked.iter().map(|walked| file(walked.registers.tid)).collect();
    reads.ahead(wanted.iter().map(|name| (process, Wanted::File(name.as_str().into()))));
    walked.retain(|walked| {
        let status = reads.text(process, &file(walked.registers.tid));
        let switches = status.and_then(|status| stat::status(&status)).map(|(_, switches)| switches);
        switches == Some(walked.registers.switches)
    });
    reads.forget_ahead();
}

/// The native frames with their names.
fn native(unwound: &Unwound, named: &mut HashMap<u64, Named>) -> UserStack {
    let frame = |frame: &Frame| {
        let known = named.get(&frame.inside);
        let function = known.and_then(|known| known.function.as_ref());
        // As debuggers count: to where it goes on.
        let offset = known.map_or(0, |known| known.offset).saturating_add(frame.address - frame.inside);
        let name = match frame.is_signal {
            true => Some("<signal handler called>".to_owned()),
            false => function.cloned(),
        };
        NativeFrame {
            function: name,
            module: known.and_then(|known| known.module.clone()),
            offset,
            by: frame.by,
        }
    };
    UserStack {
        language: None,
        complete: unwound.end == End::Outermost,
        end: unwound.end.words().to_owned(),
        frames: Vec::new(),
        native: unwound.frames.iter().map(frame).collect(),
        hint: None,
    }
}
