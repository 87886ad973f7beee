//! Stacks for people: a line for each frame, threads with the same frames together; or folded, as tools for flame graphs read them.

use std::collections::BTreeMap;

use super::layout;
use crate::{
    assess::stacks::{ProcessStacks, StackedThread},
    model::{
        obstacles::{self, Obstacle},
        stack::KernelStack,
        user_stack::{NativeFrame, ProgramFrame, UserStack},
    },
    util::human,
};

/// Threads of a group that are named.
const NAMED_MAX: usize = 4;
/// Functions of the kernel in one line.
const KERNEL_FRAMES_MAX: usize = 4;
/// Native frames in the one line that follows a program's own.
const LINE_FRAMES_MAX: usize = 8;

/// Which frames are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// The program's own, where it has some, and the innermost native ones in a line.
    Program,
    /// All native ones too.
    Native,
}

/// The page, in lines at most so wide.
pub fn page(stacks: &ProcessStacks, shown: Shown, width: Option<usize>) -> String {
    let mut lines = vec![format!("{} (pid {})", stacks.comm, stacks.process.pid)];
    let (with, without): (Vec<&StackedThread>, Vec<&StackedThread>) =
        stacks.threads.iter().partition(|thread| thread.stack.is_some());
    for group in groups(&with, shown) {
        lines.push(String::new());
        lines.push(title(&group));
        let Some((stack, kernel)) = group.first().and_then(|of| Some((of.stack.as_ref()?, &of.kernel)))
        else {
            continue;
        };
        lines.extend(frames(stack, kernel, shown).into_iter().map(|line| format!("    {line}")));
    }
    let mut by_reason: BTreeMap<&str, Vec<&StackedThread>> = BTreeMap::new();
    for thread in without {
        by_reason.entry(no_stack(thread.state)).or_default().push(thread);
    }
    for (reason, threads) in by_reason {
        lines.push(String::new());
        lines.push(format!("{}: {reason}", title(&threads)));
    }
    let wrapped = lines.iter().flat_map(|line| match width {
        Some(width) if human::columns(line) > width => {
            let text = line.trim_start();
            let indent = " ".repeat(line.len() - text.len());
            layout::wrapped([&indent, &format!("{indent}  ")], text, width, usize::MAX)
        }
        _ => vec![human::clean(line)],
    });
    wrapped.flat_map(|line| [line, "\n".to_owned()]).collect()
}

/// Why a thread in this state shows no frames.
fn no_stack(state: char) -> &'static str {
    match state {
        'T' => "stopped; `kill -CONT` lets it go on, and `tracer why` says what stopped it",
        't' => "stopped by a debugger",
        'R' => "running",
        'Z' | 'X' => "has ended",
        _ => "no longer where it was",
    }
}

/// Threads of which the same frames are shown, in the order of the first of each.
fn groups<'a>(threads: &[&'a StackedThread], shown: Shown) -> Vec<Vec<&'a StackedThread>> {
    let is_same = |one: &StackedThread, other: &StackedThread| match (shown, &one.stack, &other.stack) {
        (Shown::Program, Some(one), Some(other)) if !one.frames.is_empty() => one.frames == other.frames,
        _ => one.stack == other.stack && one.kernel == other.kernel,
    };
    let mut groups: Vec<Vec<&StackedThread>> = Vec::new();
    for thread in threads {
        match groups.iter_mut().find(|group| is_same(group[0], thread)) {
            Some(group) => group.push(thread),
            None => groups.push(vec![thread]),
        }
    }
    groups
}

/// `thread 7 (php)`, or `threads 7, 8, 9 and 17 more (pool-worker)`.
fn title(group: &[&StackedThread]) -> String {
    match group {
        [only] => format!("thread {} ({})", only.tid, only.comm),
        _ => format!("threads {}", names(group)),
    }
}

/// Their ids, and their name behind them if all have the same one.
fn names(threads: &[&StackedThread]) -> String {
    let comm = threads.first().map_or("", |first| &first.comm);
    let is_one = threads.iter().all(|thread| thread.comm == comm);
    let name = |thread: &&StackedThread| match is_one {
        true => thread.tid.to_string(),
        false => format!("{} ({})", thread.tid, thread.comm),
    };
    let shown = if threads.len() > NAMED_MAX { NAMED_MAX - 1 } else { NAMED_MAX };
    let mut named: Vec<String> = threads.iter().take(shown).map(name).collect();
    let more = threads.len().saturating_sub(shown);
    let last = if more > 0 { Some(format!("{more} more")) } else { named.pop() };
    let all = match (named.is_empty(), last) {
        (true, last) => last.unwrap_or_default(),
        (false, last) => format!("{} and {}", named.join(", "), last.unwrap_or_default()),
    };
    if is_one { format!("{all} ({comm})") } else { all }
}

/// A line for each frame, the innermost first.
fn frames(stack: &UserStack, kernel: &KernelStack, shown: Shown) -> Vec<String> {
    let mut lines: Vec<String> = stack.frames.iter().map(program_line).collect();
    if stack.frames.is_empty() || shown == Shown::Native {
        if !lines.is_empty() {
            lines.push("native:".into());
        }
        // One column, but where the kernel's is said in a line, as it is of a script.
        let (above, below) = match shown {
            Shown::Native => (kernel_lines(kernel, shown), Vec::new()),
            Shown::Program => (Vec::new(), kernel_lines(kernel, shown)),
        };
        lines.extend(above);
        lines.extend(stack.native.iter().map(native_line));
        if !stack.complete {
            lines.push(format!("(no more: {})", stack.end));
        }
        lines.extend(below);
    } else {
        lines.extend(innermost(stack, LINE_FRAMES_MAX).map(|text| format!("in {text}")));
        lines.extend(kernel_lines(kernel, shown));
    }
    lines.extend(stack.hint.map(|hint| format!("({hint})")));
    lines
}

/// The kernel's functions: a line for each, or the innermost in one; with what they mean, where the table knows that.
fn kernel_lines(kernel: &KernelStack, shown: Shown) -> Vec<String> {
    let meaning = obstacles::obstacle(kernel).map(Obstacle::words);
    let meaning = meaning.map_or_else(String::new, |words| format!(": {words}"));
    let functions = kernel.functions();
    if functions.is_empty() {
        return Vec::new();
    }
    if shown == Shown::Native {
        let first = functions.first().map(|function| format!("{function} (kernel{meaning})"));
        return first
            .into_iter()
            .chain(functions.iter().skip(1).map(|of| format!("{of} (kernel)")))
            .collect();
    }
    let few: Vec<&str> = functions.iter().take(KERNEL_FRAMES_MAX).map(String::as_str).collect();
    let more = if functions.len() > KERNEL_FRAMES_MAX { " ← …" } else { "" };
    vec![format!("in the kernel {}{more}{meaning}", few.join(" ← "))]
}

fn program_line(frame: &ProgramFrame) -> String {
    match (&frame.file, frame.line) {
        (Some(file), Some(line)) => format!("{} ({file}:{line})", frame.function),
        (Some(file), None) => format!("{} ({file})", frame.function),
        (None, _) => frame.function.clone(),
    }
}

fn native_line(frame: &NativeFrame) -> String {
    let mark = if frame.by.is_guess() { " ?" } else { "" };
    match (&frame.function, &frame.module) {
        (Some(function), Some(module)) => format!("{function} ({module}){mark}"),
        (Some(function), None) => format!("{function}{mark}"),
        (None, Some(module)) => format!("{module}+{:#x}{mark}", frame.offset),
        (None, None) => format!("[anonymous]+{:#x}{mark}", frame.offset),
    }
}

/// The innermost native frames, so many at most, in a line.
pub fn innermost(stack: &UserStack, max: usize) -> Option<String> {
    let shown: Vec<String> = stack.native.iter().take(max).map(NativeFrame::short).collect();
    let more = if stack.native.len() > max { " ← …" } else { "" };
    (!shown.is_empty()).then(|| shown.join(" ← ") + more)
}

/// A line for each thing that threads do, with how many do it: `name;outermost;…;innermost 3`.
pub fn folded(stacks: &ProcessStacks, shown: Shown) -> String {
    let mut lines: Vec<(String, usize)> = Vec::new();
    for thread in &stacks.threads {
        let Some(stack) = &thread.stack else { continue };
        let program = stack.frames.iter().rev().map(ProgramFrame::short);
        let native = stack.native.iter().rev().map(NativeFrame::short);
        // As other tools mark them.
        let kernel = thread.kernel.functions().iter().rev().map(|function| format!("{function}_[k]"));
        let mut parts = vec![stacks.comm.clone()];
        parts.extend(program);
        if stack.frames.is_empty() || shown == Shown::Native {
            parts.extend(native);
        }
        if shown == Shown::Native {
            parts.extend(kernel);
        }
        // What separates them is no part of a name.
        let parts: Vec<String> = parts.iter().map(|part| human::clean(part).replace(';', ":")).collect();
        let line = parts.join(";");
        match lines.iter_mut().find(|(known, _)| *known == line) {
            Some((_, number)) => *number += 1,
            None => lines.push((line, 1)),
        }
    }
    lines.into_iter().map(|(line, number)| format!("{line} {number}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::user_stack::{FoundBy, Language},
        procfs::by_pid,
    };

    fn native(function: Option<&str>, by: FoundBy) -> NativeFrame {
        let module = Some("/lib/libc.so.6".to_owned());
        NativeFrame { function: function.map(str::to_owned), module, offset: 0x10, by }
    }

    fn stacks() -> ProcessStacks {
        let program = |function: &str, line| ProgramFrame {
            function: function.into(),
            file: Some("/srv/b.php".into()),
            line: Some(line),
        };
        let waits = UserStack {
            language: Some(Language::Php),
            complete: false,
            end: "the stack does not grow".into(),
            frames: vec![program("connect", 2), program("(main)", 7)],
            native: vec![native(Some("poll"), FoundBy::Registers), native(None, FoundBy::Scan)],
            hint: None,
        };
        let kernel = || {
            KernelStack::parse("request_wait_answer\n__fuse_simple_request\nfuse_lookup\nd_lookup\nopenat")
        };
        let thread =
            |tid, stack| StackedThread { tid, comm: "php".into(), state: 'S', stack, kernel: kernel() };
        let threads = vec![thread(7, Some(waits.clone())), thread(8, Some(waits)), thread(9, None)];
        ProcessStacks { process: by_pid(7), comm: "php".into(), threads }
    }

    #[test]
    fn threads_with_the_same_frames_are_shown_together() {
        let page = page(&stacks(), Shown::Program, None);
        assert_eq!(
            page,
            "php (pid 7)\n\nthreads 7 and 8 (php)\n    connect (/srv/b.php:2)\n    \
             (main) (/srv/b.php:7)\n    in poll ← libc.so.6+0x10?\n    in the kernel request_wait_answer ← \
             __fuse_simple_request ← fuse_lookup ← d_lookup ← …: a FUSE server does not answer\n\nthread 9 (php): no longer where it was\n"
        );
        let page = super::page(&stacks(), Shown::Native, None);
        assert!(
            page.contains("    openat (kernel)\n    poll (/lib/libc.so.6)\n    /lib/libc.so.6+0x10 ?\n"),
            "{page}"
        );
        assert!(page.contains("request_wait_answer (kernel: a FUSE server does not answer)\n"), "{page}");
        assert!(page.contains("(no more: the stack does not grow)"), "{page}");
    }

    #[test]
    fn many_threads_are_named_by_few_ids() {
        let thread = |tid, comm: &str| StackedThread {
            state: 'S',
            tid,
            comm: comm.into(),
            stack: None,
            kernel: KernelStack::default(),
        };
        let of = |number: u32| -> String {
            let threads: Vec<StackedThread> = (0..number).map(|at| thread(101 + at, "pool")).collect();
            title(&threads.iter().collect::<Vec<_>>())
        };
        assert_eq!(of(1), "thread 101 (pool)");
        assert_eq!(of(2), "threads 101 and 102 (pool)");
        assert_eq!(of(4), "threads 101, 102, 103 and 104 (pool)");
        assert_eq!(of(20), "threads 101, 102, 103 and 17 more (pool)");
        assert_eq!(title(&[&thread(7, "a"), &thread(8, "b")]), "threads 7 (a) and 8 (b)");
    }

    #[test]
    fn folded_lines_begin_with_the_outermost() {
        assert_eq!(folded(&stacks(), Shown::Program), "php;(main) b.php:7;connect b.php:2 2\n");
        assert_eq!(
            folded(&stacks(), Shown::Native),
            "php;(main) b.php:7;connect b.php:2;libc.so.6+0x10?;poll;openat_[k];d_lookup_[k];fuse_lookup_[k];\
             __fuse_simple_request_[k];request_wait_answer_[k] 2\n"
        );
    }
}
