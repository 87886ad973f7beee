//! Does a thread of a Python program want a lock or a result, or does it rest until something happens? All of them sleep on a semaphore;
//! the function that does tells. Read from the process's memory: CPython 3.11 to 3.13, on 64 bits.

use crate::{model::wait::ProcessId, procfs::Reads};

/// As much of a process's mappings as is read.
const MAPS_BYTES_MAX: usize = 256 * 1024;
/// Threads that are looked through.
const THREADS_MAX: usize = 4096;
/// Names of a function that are looked through.
const NAMES_MAX: u64 = 256;
/// Bytes of a name.
const NAME_MAX: u64 = 256;
/// Functions of `threading` that call each other until one sleeps.
const CALLERS_MAX: usize = 4;

/// Why a thread sleeps on a semaphore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sought {
    /// It wants a lock.
    Lock,
    /// It wants the result of a task that another thread is to do (`concurrent.futures`).
    Result,
    /// It rests until something happens.
    Event,
}

/// Where CPython keeps things, from the beginning of what has them.
struct Layout {
    minor: u32,
    /// Of `_PyRuntime`: the first interpreter.
    interpreter: u64,
    /// Of an interpreter: its first thread.
    thread: u64,
    /// Of a thread: the next one, its id, and its innermost frame, or what has that.
    next: u64,
    id: u64,
    frame: FramePlace,
    /// Of a frame: its code, and the frame that called it.
    code: u64,
    previous: u64,
    /// Of code: its file, and the names it uses.
    file: u64,
    names: u64,
    /// Of a string of ASCII: its characters.
    characters: u64,
}

/// Where a thread has its innermost frame.
enum FramePlace {
    At(u64),
    /// Behind another pointer.
    Behind(u64, u64),
}

const LAYOUTS: &[Layout] = &[
    Layout {
        minor: 11,
        interpreter: 40,
        thread: 16,
        next: 8,
        id: 160,
        frame: FramePlace::Behind(56, 8),
        code: 32,
        previous: 48,
        file: 112,
        names: 32,
        characters: 48,
    },
    Layout {
        minor: 12,
        interpreter: 40,
        thread: 72,
        next: 8,
        id: 144,
        frame: FramePlace::Behind(56, 0),
        code: 0,
        previous: 8,
        file: 112,
        names: 32,
        characters: 40,
    },
    Layout {
        minor: 13,
        interpreter: 632,
        thread: 7344,
        next: 8,
        id: 160,
        frame: FramePlace::At(72),
        code: 0,
        previous: 8,
        file: 112,
        names: 32,
        characters: 40,
    },
];

/// Of an object that has a length: that.
const LENGTH: u64 = 16;
/// Of a tuple: its first item.
const ITEMS: u64 = 24;

/// A process's memory.
struct Memory<'a> {
    process: ProcessId,
    reads: &'a mut Reads,
}

impl Memory<'_> {
    fn word(&mut self, address: u64) -> Option<u64> {
        self.bytes(address, 8)?.try_into().ok().map(u64::from_ne_bytes)
    }

    fn half(&mut self, address: u64) -> Option<u32> {
        self.bytes(address, 4)?.try_into().ok().map(u32::from_ne_bytes)
    }

    fn bytes(&mut self, address: u64, length: usize) -> Option<Vec<u8>> {
        self.reads.memory(self.process, address, length).filter(|bytes| bytes.len() == length)
    }

    /// A string of Python's that has only ASCII.
    fn text(&mut self, object: u64, layout: &Layout) -> Option<String> {
        let length = self.word(object + LENGTH)?.min(NAME_MAX);
        String::from_utf8(self.bytes(object + layout.characters, length as usize)?).ok()
    }
}

/// A program or library as it lies in memory.
struct Module {
    /// What is added to its addresses.
    bias: u64,
    dynamic: u64,
}

impl Module {
    /// The one that begins here, by its program headers (elf(5)).
    fn at(start: u64, memory: &mut Memory<'_>) -> Option<Self> {
        const PT_LOAD: u32 = 1;
        const PT_DYNAMIC: u32 = 2;
        const HEADER: usize = 56;
        let header = memory.bytes(start, 64).filter(|header| header.starts_with(b"\x7fELF\x02"))?;
        let field = |at: usize| header.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes);
        let table = u64::from_ne_bytes(header[32..40].try_into().ok()?);
        let number = usize::from(field(56)?).min(64);
        let headers = memory.bytes(start + table, number * HEADER)?;
        let (mut bias, mut dynamic) = (None, None);
        for header in headers.chunks_exact(HEADER) {
            let word = |at: usize| header[at..at + 8].try_into().ok().map(u64::from_ne_bytes);
            let (offset, address) = (word(8)?, word(16)?);
            match u32::from_ne_bytes(header[..4].try_into().ok()?) {
                PT_LOAD if offset == 0 => bias = Some(start.wrapping_sub(address)),
                PT_DYNAMIC => dynamic = Some(address),
                _ => {}
            }
        }
        let bias = bias?;
        Some(Self { bias, dynamic: dynamic?.wrapping_add(bias) })
    }

    /// Where a symbol lies, by its hash table of GNU's kind.
    fn symbol(&self, name: &str, memory: &mut Memory<'_>) -> Option<u64> {
        const ENTRIES: u64 = 64;
        const CHAIN_MAX: u32 = 64;
        const DT_STRTAB: u64 = 5;
        const DT_SYMTAB: u64 = 6;
        const DT_GNU_HASH: u64 = 0x6fff_fef5;
        const SYMBOL: u64 = 24;
        let (mut names, mut symbols, mut table) = (None, None, None);
        for at in 0..ENTRIES {
            let (tag, value) =
                (memory.word(self.dynamic + at * 16)?, memory.word(self.dynamic + at * 16 + 8)?);
            // The loader has added the bias to some of them.
            let address = Some(if value < self.bias { value + self.bias } else { value });
            match tag {
                0 => break,
                DT_STRTAB => names = address,
                DT_SYMTAB => symbols = address,
                DT_GNU_HASH => table = address,
                _ => {}
            }
        }
        let (names, symbols, table) = (names?, symbols?, table?);
        let hash = name.bytes().fold(5381u32, |hash, byte| hash.wrapping_mul(33).wrapping_add(byte.into()));
        let [number, first, filter] = [0, 4, 8].map(|at| memory.half(table + at));
        let (number, first, filter) = (number?.max(1), first?, filter?);
        let buckets = table + 16 + u64::from(filter) * 8;
        let chains = buckets + u64::from(number) * 4;
        let begin = memory.half(buckets + u64::from(hash % number) * 4)?;
        for place in begin..begin.saturating_add(CHAIN_MAX) {
            let found = memory.half(chains + u64::from(place.checked_sub(first)?) * 4)?;
            if found | 1 == hash | 1 {
                let symbol = symbols + u64::from(place) * SYMBOL;
                let at = names + u64::from(memory.half(symbol)?);
                if memory.bytes(at, name.len() + 1)?.strip_suffix(b"\0") == Some(name.as_bytes()) {
                    return Some(memory.word(symbol + 8)?.wrapping_add(self.bias));
                }
            }
            if found & 1 == 1 {
                return None;
            }
        }
        None
    }
}

/// What a thread seeks that sleeps on a semaphore, by the function that made it sleep. `None`: that is not to be told.
pub fn sought(process: ProcessId, tid: u32, reads: &mut Reads) -> Option<Sought> {
    let maps = reads.beginning(process, "maps", |read| read.len() >= MAPS_BYTES_MAX)?;
    let starts = modules(&String::from_utf8_lossy(&maps));
    let memory = &mut Memory { process, reads };
    let (runtime, layout) = starts.into_iter().find_map(|start| runtime(start, memory))?;
    let interpreter = memory.word(runtime + layout.interpreter)?;
    let mut thread = memory.word(interpreter + layout.thread)?;
    for _ in 0..THREADS_MAX {
        if memory.word(thread + layout.id)? == u64::from(tid) {
            let frame = innermost(thread, layout, memory)?;
            let code = code(frame, layout, memory)?;
            let (file, names) = (file(code, layout, memory)?, names(code, layout, memory)?);
            if is_of_threading(&file) {
                let caller = caller(frame, layout, memory);
                return Some(sought_by(caller.as_deref()));
            }
            return Some(if is_lock(&names) { Sought::Lock } else { Sought::Event });
        }
        thread = memory.word(thread + layout.next)?;
    }
    None
}

/// Where files of Python's own begin in memory, by the text of maps.
fn modules(maps: &str) -> Vec<u64> {
    let start = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (range, offset, path) = (words.next()?, words.nth(1)?, words.nth(2)?);
        let name = path.rsplit('/').next()?;
        let is_it = name.starts_with("python") || name.starts_with("libpython");
        let begin = u64::from_str_radix(range.split('-').next()?, 16).ok();
        begin.filter(|_| is_it && offset.bytes().all(|digit| digit == b'0'))
    };
    maps.lines().filter_map(start).collect()
}

fn runtime(start: u64, memory: &mut Memory<'_>) -> Option<(u64, &'static Layout)> {
    let module = Module::at(start, memory)?;
    let runtime = module.symbol("_PyRuntime", memory)?;
    let version = module.symbol("Py_Version", memory)?;
    // 0x030b07f0: 3.11.7, a release.
    let version = memory.half(version)?;
    let minor = version >> 16 & 0xff;
    let layout = LAYOUTS.iter().find(|layout| version >> 24 == 3 && layout.minor == minor)?;
    Some((runtime, layout))
}

/// The frame that a thread is in.
fn innermost(thread: u64, layout: &Layout, memory: &mut Memory<'_>) -> Option<u64> {
    match layout.frame {
        FramePlace::At(at) => memory.word(thread + at),
        FramePlace::Behind(at, then) => {
            let behind = memory.word(thread + at)?;
            memory.word(behind + then)
        }
    }
}

/// The code of a frame.
fn code(frame: u64, layout: &Layout, memory: &mut Memory<'_>) -> Option<u64> {
    // The lowest bit of a reference may have a meaning of its own.
    Some(memory.word(frame + layout.code)? & !1)
}

/// The file of code.
fn file(code: u64, layout: &Layout, memory: &mut Memory<'_>) -> Option<String> {
    let file = memory.word(code + layout.file)?;
    memory.text(file, layout)
}

/// The file of the function that has called into `threading`, where this frame is.
fn caller(mut frame: u64, layout: &Layout, memory: &mut Memory<'_>) -> Option<String> {
    for _ in 0..CALLERS_MAX {
        frame = memory.word(frame + layout.previous)?;
        let code = code(frame, layout, memory)?;
        let file = file(code, layout, memory)?;
        if !is_of_threading(&file) {
            return Some(file);
        }
    }
    None
}

/// The names of attributes and globals that code uses.
fn names(code: u64, layout: &Layout, memory: &mut Memory<'_>) -> Option<Vec<String>> {
    let tuple = memory.word(code + layout.names)?;
    let number = memory.word(tuple + LENGTH)?.min(NAMES_MAX);
    let name = |at: u64| {
        let name = memory.word(tuple + ITEMS + at * 8)?;
        memory.text(name, layout)
    };
    (0..number).map(name).collect()
}

/// Whether a function is one of `threading`, as conditions, events and joins are.
fn is_of_threading(file: &str) -> bool {
    file.ends_with("/threading.py")
}

/// What is sought by a function that has called into `threading`, by its file; `None`: that is not to be told.
fn sought_by(caller: Option<&str>) -> Sought {
    match caller.is_some_and(|file| file.ends_with("/concurrent/futures/_base.py")) {
        true => Sought::Result,
        false => Sought::Event,
    }
}

/// Whether a function that is none of `threading` wants a lock: a queue may be one of C's, which shows by the name of its method only.
fn is_lock(names: &[String]) -> bool {
    !names.iter().any(|name| name == "get")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_that_waits_for_others_is_told_from_one_that_wants_a_lock() {
        for (names, expected) in [
            (&["time", "sleep"][..], true),
            (&["lock", "acquire"], true),
            (&["wakeup", "acquire"], true),
            (&["queue", "get"], false),
        ] {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(is_lock(&names), expected, "{names:?}");
        }
        for (file, expected) in [
            ("/usr/lib/python3.11/threading.py", true),
            ("/srv/app.py", false),
            ("/usr/lib/python3.11/logging/__init__.py", false),
            ("<frozen importlib._bootstrap>", false),
        ] {
            assert_eq!(is_of_threading(file), expected, "{file}");
        }
        for (caller, expected) in [
            (Some("/usr/lib/python3.11/concurrent/futures/_base.py"), Sought::Result),
            (Some("/usr/lib/python3.11/concurrent/futures/thread.py"), Sought::Event),
            (Some("/usr/lib/python3.11/queue.py"), Sought::Event),
            (Some("/srv/app.py"), Sought::Event),
            (None, Sought::Event),
        ] {
            assert_eq!(sought_by(caller), expected, "{caller:?}");
        }
    }

    #[test]
    fn the_files_of_the_interpreter_are_found() {
        let maps = "00400000-0041f000 r--p 00000000 fe:01 7 /usr/bin/python3.11\n\
                    0041f000-00600000 r-xp 0001f000 fe:01 7 /usr/bin/python3.11\n\
                    7f00-7f10 r--p 00000000 fe:01 8 /usr/lib/python3.11/lib-dynload/_json.so\n\
                    7f20-7f30 r--p 00000000 fe:01 9 /usr/lib/libpython3.12.so.1.0\n\
                    7f40-7f50 rw-p 00000000 00:00 0\n";
        assert_eq!(modules(maps), [0x40_0000, 0x7f20]);
    }
}
