//! Where in its program does a thread sleep? Its stack, read without stopping it: who sleeps does not move, and who has moved meanwhile
//! is left out.
//!
//! Part of `resolve`, layer 3, and uses what that may use. `unwind` finds the frames of machine code, by `rules` or by `guess`; `names`
//! says what they are called. Both read what `mappings` and `memory` have of the process. A file for each language has the frames of
//! that one.

mod demangle;
mod files;
mod golang;
mod guess;
mod languages;
mod mappings;
mod memory;
mod module;
mod names;
mod php;
mod pylines;
mod python;
mod ruby;
mod rules;
mod tls;
mod unwind;
#[cfg(any(fuzzing, test))]
pub mod web;

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use anyhow::Result;

pub use self::memory::ReadLimits;
use self::{
    files::LocalFiles,
    languages::{LanguageRuntime, SleepingThread},
    mappings::Mappings,
    memory::{Blocks, ProcessMemory, TargetMemory},
    module::LoadedModule,
    names::{KnownNames, NameLookup},
    unwind::{CodeFrame, Modules, StackEnd, Unwound},
};
use crate::{
    collect::{SleepRegisters, Source},
    model::{
        user_stack::{Language, NativeFrame, ProgramFrame, UserStack},
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

/// How much of a process is read for whoever asks about it: 24 MiB, of which a thread needs a hundredth. A thread takes a millisecond.
const LIMITS: ReadLimits = ReadLimits { blocks: 1536, time: Duration::from_secs(5) };

/// Reads stacks, and remembers names.
pub struct StackReader {
    names: KnownNames,
    limits: ReadLimits,
}

impl Default for StackReader {
    fn default() -> Self {
        Self::within(LIMITS)
    }
}

/// A thread and its frames, not named yet.
struct Walked {
    registers: SleepRegisters,
    unwound: Unwound,
    /// Those of the program's own language.
    program: Vec<ProgramFrame>,
}

impl StackReader {
    /// One that reads no more of a process in a look.
    pub fn within(limits: ReadLimits) -> Self {
        Self { names: KnownNames::default(), limits }
    }

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
        let (mut blocks, mut modules) = (Blocks::within(self.limits), Modules::default());
        let mut files = LocalFiles::default();
        let mut walked: Vec<Walked> = Vec::with_capacity(registers.len());
        let memory = &mut ProcessMemory {
            process,
            reads: &mut *reads,
            mappings: &mappings,
            blocks: &mut blocks,
            files: &mut files,
        };
        let runtime = LanguageRuntime::find(&mappings, memory);
        for registers in registers {
            let unwound = unwind::unwind(&registers.registers, &mappings, &mut modules, memory);
            let thread = SleepingThread { process, registers: &registers, native: &unwound.frames };
            let frames = |runtime: &LanguageRuntime| runtime.frames(&thread, memory);
            let program = runtime.as_ref().map_or_else(Vec::new, frames);
            walked.push(Walked { registers, unwound, program });
        }
        keep_unmoved(&mut walked, process, memory.reads);
        let frames: Vec<&CodeFrame> = walked.iter().flat_map(|walked| &walked.unwound.frames).collect();
        let named = self.name(&frames, &mut modules, memory);
        let compiler = compiler(&mappings);
        let stacks = walked.into_iter().map(|Walked { registers, unwound, program }| {
            let mut stack = native(&unwound, &named);
            if !program.is_empty() {
                stack.language = runtime.as_ref().map(LanguageRuntime::language);
                stack.frames = program;
            } else if let Some(compiler) = compiler {
                add_compiled(&mut stack, compiler);
            }
            ThreadStack { tid: registers.tid, switches: registers.switches, stack }
        });
        Ok(stacks.collect())
    }

    /// What the functions of these frames are called, by the addresses inside them.
    fn name(
        &mut self,
        frames: &[&CodeFrame],
        modules: &mut Modules,
        memory: &mut ProcessMemory<'_>,
    ) -> HashMap<u64, NamedCode> {
        let mut by_module: HashMap<u64, (LoadedModule, HashSet<u64>)> = HashMap::new();
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
        let mut named: HashMap<u64, NamedCode> = HashMap::new();
        for (module, addresses) in by_module.into_values() {
            // A file can have so many symbols that looking through them takes as long.
            let is_spent = memory.is_spent();
            let mut names = NameLookup {
                process,
                reads: &mut *memory.reads,
                mappings,
                known: &mut self.names,
                files: &mut *memory.files,
            };
            let mut functions = if is_spent { HashMap::new() } else { names.of_module(&module, &addresses) };
            if functions.is_empty() {
                functions = names::exported(&module, &addresses, memory);
            }
            let path = mappings.of(module.base).map(|mapping| mapping.path.clone());
            for address in addresses {
                let function = functions.remove(&address);
                let offset = address.wrapping_sub(module.bias);
                named.insert(address, NamedCode { function, module: path.clone(), offset });
            }
        }
        let mut names = NameLookup {
            process,
            reads: &mut *memory.reads,
            mappings,
            known: &mut self.names,
            files: &mut *memory.files,
        };
        let mut compiled = names.of_perf_map(&elsewhere);
        for address in elsewhere {
            let function = compiled.remove(&address);
            let begin = mappings.of(address).map_or(address, |mapping| mapping.start);
            named.insert(address, NamedCode { function, module: None, offset: address - begin });
        }
        named
    }
}

/// What is known of an address in code.
#[derive(Clone)]
struct NamedCode {
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
fn native(unwound: &Unwound, named: &HashMap<u64, NamedCode>) -> UserStack {
    let frame = |frame: &CodeFrame| {
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
        complete: unwound.end == StackEnd::Outermost,
        end: unwound.end.words().to_owned(),
        frames: Vec::new(),
        native: unwound.frames.iter().map(frame).collect(),
        hint: None,
    }
}

/// What compiles a program while it runs, and what would show its functions.
type Compiler = (Language, &'static str);

fn compiler(mappings: &Mappings) -> Option<Compiler> {
    let has = |name: &'static str| mappings.files(move |file| file == name).next().is_some();
    if has("libjvm.so") {
        return Some((Language::Java, "`jcmd PID Thread.print` shows its own frames"));
    }
    (has("node") || has("nodejs")).then_some((
        Language::JavaScript,
        "its own frames are shown if it is started with --perf-basic-prof --interpreted-frames-native-stack",
    ))
}

/// Takes the functions that were compiled at run time for the program's own, or says how they would be named.
fn add_compiled(stack: &mut UserStack, (language, hint): Compiler) {
    let compiled = stack.native.iter().filter(|frame| frame.module.is_none());
    let named = compiled.clone().filter_map(|frame| frame.function.as_deref()).map(compiled_frame);
    stack.frames = named.collect();
    if !stack.frames.is_empty() {
        stack.language = Some(language);
    } else if compiled.count() > 0 || stack.native.iter().any(is_interpreted) {
        stack.hint = Some(hint);
    }
}

/// Whether a frame runs JavaScript that was not compiled, which has no name.
fn is_interpreted(frame: &NativeFrame) -> bool {
    frame.function.as_deref() == Some("Builtins_InterpreterEntryTrampoline")
}

/// A function as a perf map names it: `LazyCompile:*name file:line:column`, or as it is.
fn compiled_frame(name: &str) -> ProgramFrame {
    let plain = || ProgramFrame { function: name.to_owned(), file: None, line: None };
    let Some((kind, rest)) = name.split_once(':') else { return plain() };
    if !matches!(kind, "LazyCompile" | "Function" | "JS" | "Eval" | "Script") {
        return plain();
    }
    let rest = rest.trim_start_matches(['*', '~', '^', '+', '-']);
    let (function, place) = rest.split_once(' ').unwrap_or((rest, ""));
    let mut parts = place.rsplitn(3, ':');
    let (_, line, file) = (parts.next(), parts.next(), parts.next());
    let function = if function.is_empty() { "(anonymous)" } else { function };
    ProgramFrame {
        function: function.to_owned(),
        file: file.map(str::to_owned),
        line: line.and_then(|line| line.parse().ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compiled_functions_have_their_files() {
        let frame = compiled_frame("LazyCompile:*wait /srv/a.js:12:7");
        assert_eq!(frame.short(), "wait a.js:12");
        assert_eq!(compiled_frame("JS:~ node:internal/x:3:1").short(), "(anonymous) x:3");
        assert_eq!(compiled_frame("Ljava/lang/Object;::wait").short(), "Ljava/lang/Object;::wait");
    }
}
