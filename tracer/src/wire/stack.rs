//! The JSON of a stack: where in its program a thread sleeps. Functions, files and lines; no arguments and no values.

use serde::Serialize;

use crate::model::user_stack::{NativeFrame, ProgramFrame, UserStack};

/// A thread and where it sleeps: a line of `tracer stack --json`.
#[derive(Serialize)]
pub struct ThreadStackObject<'a> {
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// Its name.
    pub comm: &'a str,
    /// The kernel's functions in which it sleeps, innermost first.
    pub kernel: &'a [String],
    /// Where it sleeps; null where it does not, or has moved while it was read.
    pub stack: Option<UserStackObject<'a>>,
}

/// Where in its program a thread sleeps.
#[derive(Serialize)]
pub struct UserStackObject<'a> {
    /// What `frames` are written in: `python`, `php`, `ruby`, `go`, `java` or `javascript`.
    pub language: Option<&'static str>,
    /// Whether `native` has all frames.
    pub complete: bool,
    /// Why `native` has no more.
    pub end: &'a str,
    /// The program's own functions, innermost first.
    pub frames: Vec<ProgramFrameObject<'a>>,
    /// Functions of machine code, innermost first.
    pub native: Vec<NativeFrameObject<'a>>,
}

/// A function of the program's own language.
#[derive(Serialize)]
pub struct ProgramFrameObject<'a> {
    /// Its name.
    pub function: &'a str,
    /// Its file; null: it is built in.
    pub file: Option<&'a str>,
    /// The line that it is in.
    pub line: Option<u32>,
}

/// A function of machine code.
#[derive(Serialize)]
pub struct NativeFrameObject<'a> {
    /// Its name.
    pub function: Option<&'a str>,
    /// The program or library that it is in.
    pub module: Option<&'a str>,
    /// Where in the module it goes on, as the module's file counts addresses; without a module, bytes from the beginning of that memory.
    pub offset: u64,
    /// `registers`, `cfi`, `fp` or `scan`: the last two are guesses.
    pub by: &'static str,
}

impl<'a> From<&'a UserStack> for UserStackObject<'a> {
    fn from(stack: &'a UserStack) -> Self {
        let program = |frame: &'a ProgramFrame| ProgramFrameObject {
            function: &frame.function,
            file: frame.file.as_deref(),
            line: frame.line,
        };
        let native = |frame: &'a NativeFrame| NativeFrameObject {
            function: frame.function.as_deref(),
            module: frame.module.as_deref(),
            offset: frame.offset,
            by: frame.by.label(),
        };
        Self {
            language: stack.language.map(|language| language.label()),
            complete: stack.complete,
            end: &stack.end,
            frames: stack.frames.iter().map(program).collect(),
            native: stack.native.iter().map(native).collect(),
        }
    }
}
