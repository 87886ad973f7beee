//! Which functions of a Python program is a thread in? CPython 3.8 to 3.15, by its own records: the threads of its interpreters, the
//! frames of each, the code of those, and its table of lines.

use super::{
    mappings::Mappings,
    memory::TargetMemory,
    module::LoadedModule,
    pylines::{self, LineTable},
};
use crate::model::user_stack::{FRAMES_MAX, ProgramFrame};

/// Interpreters and threads that are looked through.
const INTERPRETERS_MAX: usize = 16;
const THREADS_MAX: usize = 8192;
/// Bytes of a name or path.
const TEXT_BYTES_MAX: u64 = 1024;
/// Bytes of a table of lines.
const LINES_BYTES_MAX: u64 = 256 * 1024;

/// Where CPython keeps things, from the beginning of what has them. `tools/offsets/python.c` prints a row for the headers of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PythonLayout {
    minor: u32,
    /// Of `_PyRuntime`: the first interpreter.
    interpreter: u64,
    /// Of an interpreter: its first thread, and the next interpreter.
    thread: u64,
    next_interpreter: u64,
    /// Of a thread: the next one, what `pthread_self` says of it, and its innermost frame, or what has that.
    next: u64,
    pthread: u64,
    frame: InnermostFrame,
    /// Of a frame: the one that called it, its code, where in that it is, and who made it.
    previous: u64,
    code: u64,
    instruction: u64,
    owner: u64,
    /// Of code: its name, lines, instructions, file and first line.
    name: u64,
    lines: u64,
    bytecode: u64,
    file: u64,
    first_line: u64,
    /// Of a string: its characters, if they are ASCII, and if not.
    ascii: u64,
    compact: u64,
}

/// Where a thread has its innermost frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InnermostFrame {
    At(u64),
    /// Behind another pointer.
    Behind(u64, u64),
}

/// Checked against 3.8.18, 3.9.2, 3.9.18, 3.10.13, 3.11.2, 3.11.7 and 3.12.1. From 3.13 on the interpreter says it itself: see [`said`].
const LAYOUTS: &[PythonLayout] = &[
    PythonLayout { minor: 8, instruction: 104, ..FRAME_OBJECTS },
    PythonLayout { minor: 9, instruction: 104, ..FRAME_OBJECTS },
    PythonLayout { minor: 10, instruction: 96, ..FRAME_OBJECTS },
    PythonLayout {
        minor: 11,
        interpreter: 40,
        thread: 16,
        next_interpreter: 0,
        next: 8,
        pthread: 152,
        frame: InnermostFrame::Behind(56, 8),
        previous: 48,
        code: 32,
        instruction: 56,
        owner: 69,
        name: 128,
        lines: 136,
        bytecode: 184,
        file: 112,
        first_line: 72,
        ascii: 48,
        compact: 72,
    },
    PythonLayout {
        minor: 12,
        interpreter: 40,
        thread: 72,
        next_interpreter: 0,
        next: 8,
        pthread: 136,
        frame: InnermostFrame::Behind(56, 0),
        previous: 8,
        code: 0,
        instruction: 56,
        owner: 70,
        name: 128,
        lines: 136,
        bytecode: 192,
        file: 112,
        first_line: 68,
        ascii: 40,
        compact: 56,
    },
];

/// What 3.8, 3.9 and 3.10 have in common: frames are objects.
const FRAME_OBJECTS: PythonLayout = PythonLayout {
    minor: 0,
    interpreter: 32,
    thread: 8,
    next_interpreter: 0,
    next: 8,
    pthread: 176,
    frame: InnermostFrame::At(24),
    previous: 24,
    code: 32,
    instruction: 0,
    owner: 0,
    name: 112,
    lines: 120,
    bytecode: 0,
    file: 104,
    first_line: 40,
    ascii: 48,
    compact: 72,
};

/// Of an object that has a length: that. Of a string of bytes: these. Of a string: its kind.
const LENGTH: u64 = 16;
const BYTES: u64 = 32;
const STATE: u64 = 32;
/// Frames that C code has made to call others: they are in no function.
const OF_C: u8 = 3;

/// A Python interpreter in a process.
#[derive(Clone, Debug)]
pub struct Python {
    layout: PythonLayout,
    threads: Vec<PythonThread>,
    /// Whether these are all.
    is_whole: bool,
}

/// The record of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PythonThread {
    /// Where it is.
    at: u64,
    /// What `pthread_self` says of the thread.
    pthread: u64,
    /// The kernel's id, as it is where the process lives: since 3.11.
    tid: Option<u64>,
}

impl Python {
    /// The one in this process.
    pub fn find(mappings: &Mappings, memory: &mut dyn TargetMemory) -> Option<Self> {
        let of_python = |name: &str| name.starts_with("python") || name.starts_with("libpython");
        mappings.files(of_python).find_map(|mapping| {
            let module = LoadedModule::at(mapping.start, memory)?;
            let runtime = module.symbol("_PyRuntime", memory)?;
            let said = said(runtime, memory);
            let layout = match said {
                Some(layout) => layout,
                None => {
                    let version = module.symbol("Py_Version", memory).and_then(|at| memory.int(at));
                    let minor = version.map(|version| version >> 16 & 0xff);
                    let minor = minor.or_else(|| minor_of(mapping.name()))?;
                    *LAYOUTS.iter().find(|layout| layout.minor == minor)?
                }
            };
            Some(Self::at(runtime, layout, memory))
        })
    }

    /// The one with this `_PyRuntime`.
    fn at(runtime: u64, layout: PythonLayout, memory: &mut dyn TargetMemory) -> Self {
        let mut threads = Vec::new();
        let is_whole = read_threads(runtime, &layout, &mut threads, memory).is_some();
        Self { layout, threads, is_whole }
    }

    /// One of each version, whose `_PyRuntime` is here.
    #[cfg(any(fuzzing, test))]
    pub fn of_each_version(runtime: u64, memory: &mut dyn TargetMemory) -> Vec<Self> {
        let said = said(runtime, memory);
        LAYOUTS.iter().copied().chain(said).map(|layout| Self::at(runtime, layout, memory)).collect()
    }

    /// The frames of the thread with this thread pointer; where that is not known, with this id, or of the only thread.
    pub fn frames(
        &self,
        pointer: Option<u64>,
        tid: u32,
        memory: &mut dyn TargetMemory,
    ) -> Option<Vec<ProgramFrame>> {
        let thread = self.thread(pointer, tid)?.at;
        let layout = &self.layout;
        let mut frame = match layout.frame {
            InnermostFrame::At(at) => memory.word(thread.checked_add(at)?)?,
            InnermostFrame::Behind(at, then) => {
                let behind = memory.word(thread.checked_add(at)?)?;
                memory.word(behind.checked_add(then)?)?
            }
        };
        let mut frames = Vec::new();
        for _ in 0..2 * FRAMES_MAX {
            if frame == 0 || frames.len() >= FRAMES_MAX {
                break;
            }
            let is_of_c = layout.owner != 0 && memory.byte(frame.checked_add(layout.owner)?)? >= OF_C;
            if !is_of_c {
                frames.push(self.frame(frame, memory)?);
            }
            frame = memory.word(frame.checked_add(layout.previous)?)?;
        }
        Some(frames)
    }

    /// The record of a thread.
    fn thread(&self, pointer: Option<u64>, tid: u32) -> Option<&PythonThread> {
        let is_it = |thread: &&PythonThread| match pointer {
            Some(pointer) => is_of(thread.pthread, pointer),
            None => thread.tid == Some(u64::from(tid)),
        };
        let only = match &self.threads[..] {
            [only] if pointer.is_none() && self.is_whole => Some(only),
            _ => None,
        };
        self.threads.iter().find(is_it).or(only)
    }

    fn frame(&self, frame: u64, memory: &mut dyn TargetMemory) -> Option<ProgramFrame> {
        let layout = &self.layout;
        // The lowest bits of a reference may have a meaning of their own.
        let code = memory.word(frame.checked_add(layout.code)?)? & !7;
        let text = |at: u64, memory: &mut dyn TargetMemory| {
            let object = memory.word(code.checked_add(at)?)?;
            self.text(object, memory)
        };
        let (function, file) = (text(layout.name, memory)?, text(layout.file, memory)?);
        let line = self.line(frame, code, memory);
        Some(ProgramFrame { function, file: Some(file), line })
    }

    fn line(&self, frame: u64, code: u64, memory: &mut dyn TargetMemory) -> Option<u32> {
        let layout = &self.layout;
        let first = i64::from(memory.int(code.checked_add(layout.first_line)?)?);
        let lines = memory.word(code.checked_add(layout.lines)?)?;
        let length = memory.word(lines.checked_add(LENGTH)?)?.min(LINES_BYTES_MAX);
        let lines = memory.bytes(lines.checked_add(BYTES)?, usize::try_from(length).ok()?)?;
        let at = frame.checked_add(layout.instruction)?;
        let (table, offset) = match layout.minor {
            ..=9 => (LineTable::Increments, i64::from(memory.int(at)? as i32)),
            10 => (LineTable::Ranges, i64::from(memory.int(at)? as i32).checked_mul(2)?),
            _ => {
                let instructions = code.checked_add(layout.bytecode)?;
                (LineTable::Locations, memory.word(at)?.wrapping_sub(instructions) as i64)
            }
        };
        pylines::line(table, &lines, first, offset)
    }

    /// A string.
    fn text(&self, object: u64, memory: &mut dyn TargetMemory) -> Option<String> {
        let length = memory.word(object.checked_add(LENGTH)?)?.min(TEXT_BYTES_MAX);
        let length = usize::try_from(length).ok()?;
        let state = memory.int(object.checked_add(STATE)?)?;
        let (bytes, is_compact, is_ascii) = (state >> 2 & 7, state >> 5 & 1 == 1, state >> 6 & 1 == 1);
        if !is_compact {
            return None;
        }
        if is_ascii {
            let bytes = memory.bytes(object.checked_add(self.layout.ascii)?, length)?;
            return Some(String::from_utf8_lossy(&bytes).into_owned());
        }
        let bytes = usize::try_from(bytes).ok().filter(|bytes| matches!(bytes, 1 | 2 | 4))?;
        let all = memory.bytes(object.checked_add(self.layout.compact)?, length * bytes)?;
        let character = |bytes: &[u8]| {
            let number = bytes.iter().rev().fold(0u32, |number, byte| number << 8 | u32::from(*byte));
            char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER)
        };
        Some(all.chunks_exact(bytes).map(character).collect())
    }
}

/// The threads of all interpreters. Read once: to look for each thread of a process among those of a list that leads back into itself
/// would take minutes.
fn read_threads(
    runtime: u64,
    layout: &PythonLayout,
    threads: &mut Vec<PythonThread>,
    memory: &mut dyn TargetMemory,
) -> Option<()> {
    let mut interpreter = memory.word(runtime.checked_add(layout.interpreter)?)?;
    for _ in 0..INTERPRETERS_MAX {
        let mut thread = memory.word(interpreter.checked_add(layout.thread)?)?;
        while thread != 0 && threads.len() < THREADS_MAX {
            let pthread = memory.word(thread.checked_add(layout.pthread)?)?;
            let tid = match layout.minor {
                11.. => Some(memory.word(thread.checked_add(layout.pthread + 8)?)?),
                _ => None,
            };
            threads.push(PythonThread { at: thread, pthread, tid });
            thread = memory.word(thread.checked_add(layout.next)?)?;
        }
        interpreter = memory.word(interpreter.checked_add(layout.next_interpreter)?)?;
        if interpreter == 0 {
            break;
        }
    }
    Some(())
}

/// Whether a thread's handle is of the thread with this pointer: they are the same on x86-64, elsewhere the handle lies just before.
fn is_of(pthread: u64, pointer: u64) -> bool {
    const BEFORE: u64 = 4096;
    if cfg!(target_arch = "aarch64") {
        pointer.checked_sub(pthread).is_some_and(|bytes| bytes <= BEFORE)
    } else {
        pthread == pointer
    }
}

/// The minor version in a file's name: `python3.8`, `libpython3.8.so.1.0`.
fn minor_of(name: &str) -> Option<u32> {
    let (_, rest) = name.split_once("python3.")?;
    rest.split(|digit: char| !digit.is_ascii_digit()).next()?.parse().ok()
}

/// What an interpreter of 3.13 to 3.15 says itself: `_PyRuntime` begins with a table of offsets for debuggers
/// (Include/internal/pycore_debug_offsets.h; `tools/offsets/python_said.c` prints the places in it). Checked against 3.13.0, 3.13.5, 3.14.10
/// and 3.15.2.
fn said(runtime: u64, memory: &mut dyn TargetMemory) -> Option<PythonLayout> {
    const COOKIE: &[u8; 8] = b"xdebugpy";
    const WORDS: u64 = 60;
    let table = memory.bytes(runtime, usize::try_from(WORDS * 8).ok()?)?;
    if !table.starts_with(COOKIE) {
        return None;
    }
    let word = |at: usize| {
        let bytes = table.get(at * 8..at * 8 + 8)?;
        // An offset that is none would lead anywhere.
        bytes.try_into().ok().map(u64::from_le_bytes).filter(|offset| *offset < 1 << 20)
    };
    let version = u64::from_le_bytes(table.get(8..16)?.try_into().ok()?);
    let minor = u32::try_from(version >> 16 & 0xff).ok()?;
    // Where the tables of threads, frames and code begin, and what `pthread_self` says of a thread.
    let (thread, pthread, frame, code) = match minor {
        13 => (19, 24, 28, 34),
        14 => (22, 27, 31, 39),
        15 => (22, 30, 39, 47),
        _ => return None,
    };
    Some(PythonLayout {
        minor,
        interpreter: word(5)?,
        thread: word(9)?,
        next_interpreter: word(8)?,
        next: word(thread + 2)?,
        pthread: word(pthread)?,
        frame: InnermostFrame::At(word(thread + 4)?),
        previous: word(frame + 1)?,
        code: word(frame + 2)?,
        instruction: word(frame + 3)?,
        owner: word(frame + 5)?,
        name: word(code + 3)?,
        lines: word(code + 4)?,
        bytecode: word(code + 9)?,
        file: word(code + 1)?,
        first_line: word(code + 5)?,
        ascii: 40,
        compact: 56,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::memory::tests::Noise, *};

    #[test]
    fn the_version_is_in_the_name_of_the_file() {
        for (name, minor) in
            [("python3.8", Some(8)), ("libpython3.10.so.1.0", Some(10)), ("python2.7", None), ("php", None)]
        {
            assert_eq!(minor_of(name), minor, "{name}");
        }
    }

    proptest! {
        /// Whatever memory holds, reading it ends, with no more than is kept.
        #[test]
        fn noise_is_read_to_an_end(seed: u64, runtime: u64, row in 0..LAYOUTS.len(), pointer: Option<u64>, tid: u32) {
            let python = Python::at(runtime, LAYOUTS[row], &mut Noise(seed));
            let frames = python.frames(pointer, tid, &mut Noise(seed)).unwrap_or_default();
            prop_assert!(frames.len() <= FRAMES_MAX);
            let _ = said(runtime, &mut Noise(seed));
        }
    }
}
