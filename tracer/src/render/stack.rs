//! Stacks for people: a line for each frame, threads with the same frames together; or folded, as tools for flame graphs read them.

use crate::{
    assess::stacks::{ProcessStacks, StackedThread},
    model::user_stack::{NativeFrame, ProgramFrame, UserStack},
    util::human,
};

/// Threads of a group that are named.
const NAMED_MAX: usize = 4;
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

/// The page.
pub fn page(stacks: &ProcessStacks, shown: Shown) -> String {
    let mut lines = vec![format!("{} (pid {})", stacks.comm, stacks.process.pid)];
    let (with, without): (Vec<&StackedThread>, Vec<&StackedThread>) =
        stacks.threads.iter().partition(|thread| thread.stack.is_some());
    for group in groups(&with, shown) {
        lines.push(String::new());
        lines.push(title(&group));
        let Some(stack) = group.first().and_then(|first| first.stack.as_ref()) else { continue };
        lines.extend(frames(stack, shown).into_iter().map(|line| format!("    {line}")));
    }
    if !without.is_empty() {
        lines.push(String::new());
        lines.push(format!("{}: not asleep, or no longer where it was", names(&without)));
    }
    lines.iter().flat_map(|line| [human::clean(line), "\n".to_owned()]).collect()
}

/// Threads of which the same frames are shown, in the order of the first of each.
fn groups<'a>(threads: &[&'a StackedThread], shown: Shown) -> Vec<Vec<&'a StackedThread>> {
    let is_same = |one: &UserStack, other: &UserStack| match shown {
        Shown::Program if !one.frames.is_empty() => one.frames == other.frames,
        _ => one == other,
    };
    let mut groups: Vec<Vec<&StackedThread>> = Vec::new();
    for thread in threads {
        let same = groups.iter_mut().find(|group| {
            let pair = group[0].stack.as_ref().zip(thread.stack.as_ref());
            pair.is_some_and(|(one, other)| is_same(one, other))
        });
        match same {
            Some(group) => group.push(thread),
            None => groups.push(vec![thread]),
        }
    }
    groups
}

fn title(group: &[&StackedThread]) -> String {
    match group {
        [_] => names(group),
        _ => format!("{} threads: {}", group.len(), names(group)),
    }
}

fn names(threads: &[&StackedThread]) -> String {
    let named: Vec<String> = threads
        .iter()
        .take(NAMED_MAX)
        .map(|thread| format!("thread {} ({})", thread.tid, thread.comm))
        .collect();
    let more = threads.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    named.join(", ") + &more
}

/// A line for each frame, the innermost first.
fn frames(stack: &UserStack, shown: Shown) -> Vec<String> {
    let mut lines: Vec<String> = stack.frames.iter().map(program_line).collect();
    if stack.frames.is_empty() || shown == Shown::Native {
        if !lines.is_empty() {
            lines.push("native:".into());
        }
        lines.extend(stack.native.iter().map(native_line));
        if !stack.complete {
            lines.push(format!("(no more: {})", stack.end));
        }
    } else {
        lines.extend(innermost(stack, LINE_FRAMES_MAX).map(|text| format!("in {text}")));
    }
    lines.extend(stack.hint.map(|hint| format!("({hint})")));
    lines
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
        let mut parts = vec![stacks.comm.clone()];
        parts.extend(program);
        if stack.frames.is_empty() || shown == Shown::Native {
            parts.extend(native);
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
        let thread = |tid, stack| StackedThread { tid, comm: "php".into(), stack };
        let threads = vec![thread(7, Some(waits.clone())), thread(8, Some(waits)), thread(9, None)];
        ProcessStacks { process: by_pid(7), comm: "php".into(), threads }
    }

    #[test]
    fn threads_with_the_same_frames_are_shown_together() {
        let page = page(&stacks(), Shown::Program);
        assert_eq!(
            page,
            "php (pid 7)\n\n2 threads: thread 7 (php), thread 8 (php)\n    connect (/srv/b.php:2)\n    \
             (main) (/srv/b.php:7)\n    in poll ← libc.so.6+0x10?\n\nthread 9 (php): not asleep, or no longer where it was\n"
        );
        let page = super::page(&stacks(), Shown::Native);
        assert!(page.contains("    poll (/lib/libc.so.6)\n    /lib/libc.so.6+0x10 ?\n"), "{page}");
        assert!(page.contains("(no more: the stack does not grow)"), "{page}");
    }

    #[test]
    fn folded_lines_begin_with_the_outermost() {
        assert_eq!(folded(&stacks(), Shown::Program), "php;(main) b.php:7;connect b.php:2 2\n");
        assert_eq!(
            folded(&stacks(), Shown::Native),
            "php;(main) b.php:7;connect b.php:2;libc.so.6+0x10?;poll 2\n"
        );
    }
}
