//! What is a process written in, and which of its own functions is a thread in? Asked of each interpreter that is known.

use super::{
    golang::Go, mappings::Mappings, memory::TargetMemory, php::Php, python::Python, ruby::Ruby,
    unwind::CodeFrame,
};
use crate::{
    collect::SleepRegisters,
    model::{
        user_stack::{Language, ProgramFrame},
        wait::ProcessId,
    },
};

/// A thread whose frames are looked for.
pub struct SleepingThread<'a> {
    /// Its process.
    pub process: ProcessId,
    /// Which it is, and what its registers hold.
    pub registers: &'a SleepRegisters,
    /// Its frames of machine code.
    pub native: &'a [CodeFrame],
}

/// What runs a process's program, where it is known.
pub enum LanguageRuntime {
    /// CPython.
    Python(Python),
    /// PHP.
    Php(Php),
    /// Ruby.
    Ruby(Ruby),
    /// Go.
    Go(Box<Go>),
}

impl LanguageRuntime {
    /// The one of this process.
    pub fn find(mappings: &Mappings, memory: &mut dyn TargetMemory) -> Option<Self> {
        Python::find(mappings, memory)
            .map(LanguageRuntime::Python)
            .or_else(|| Php::find(mappings, memory).map(LanguageRuntime::Php))
            .or_else(|| Ruby::find(mappings, memory).map(LanguageRuntime::Ruby))
            .or_else(|| Go::find(mappings, memory).map(|go| LanguageRuntime::Go(Box::new(go))))
    }

    /// What it is.
    pub fn language(&self) -> Language {
        match self {
            LanguageRuntime::Python(_) => Language::Python,
            LanguageRuntime::Php(_) => Language::Php,
            LanguageRuntime::Ruby(_) => Language::Ruby,
            LanguageRuntime::Go(_) => Language::Go,
        }
    }

    /// The program's own frames of a thread, the innermost first; none where it runs none.
    pub fn frames(&self, thread: &SleepingThread<'_>, memory: &mut dyn TargetMemory) -> Vec<ProgramFrame> {
        let SleepRegisters { tid, registers, .. } = thread.registers;
        let frames = match self {
            LanguageRuntime::Python(python) => python.frames(registers.thread_pointer, *tid, memory),
            // It runs in the first thread.
            LanguageRuntime::Php(php) if *tid == thread.process.pid => php.frames(memory),
            LanguageRuntime::Php(_) => None,
            LanguageRuntime::Ruby(ruby) => ruby.frames(registers.thread_pointer, memory),
            LanguageRuntime::Go(go) => Some(go.frames(thread.native, memory)),
        };
        frames.unwrap_or_default()
    }
}
