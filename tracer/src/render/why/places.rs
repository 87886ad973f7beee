//! Where in their programs the threads of a page sleep.

use crate::{
    assess::inspect::threads::{STACKS, StacksOf, ThreadReport},
    assess::pipeline::Assessment,
    model::class::Level,
    model::user_stack::{NativeFrame, ProgramFrame, UserStack},
    render::stack,
};

/// Native frames below the program's own: what it waits in. Those further out are its interpreter's.
const NATIVE_MAX: usize = 4;

/// Where in the program threads sleep: of one its frames, of several a line for each place with how many are there. Each with how much
/// deeper its next lines stand.
pub(super) fn where_lines(threads: &[ThreadReport], pid: u32, of: StacksOf) -> Vec<(usize, String)> {
    let stacks: Vec<(u32, &UserStack)> =
        threads.iter().filter_map(|thread| Some((thread.tid, thread.user_stack.as_ref()?))).collect();
    let is_deadlocked = |thread: &&ThreadReport| {
        thread.user_stack.is_some() && thread.wait().is_some_and(Assessment::is_deadlock)
    };
    let deadlocked = threads.iter().filter(is_deadlocked).count();
    let are_all_told = of == StacksOf::All && stacks.len() > 1;
    if stacks.len() <= STACKS && deadlocked < 2 && !are_all_told {
        let Some(thread) = first_asleep(threads, pid) else { return Vec::new() };
        let mut lines = match &thread.user_stack {
            Some(stack) => stack_lines(stack),
            // Another thread's stack would explain nothing.
            None if !stacks.is_empty() => vec![(0, "it moved while its stack was read; ask again".into())],
            None => return Vec::new(),
        };
        if threads.len() > 1
            && let Some((_, line)) = lines.first_mut()
        {
            *line = format!("thread {}: {line}", thread.tid);
        }
        return lines;
    }
    // Each with its threads, and whether it is in a library: where the program's own functions are says more.
    let mut places: Vec<(String, bool, Vec<u32>)> = Vec::new();
    for (tid, stack) in stacks {
        let line = stack_lines(stack).into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(" ");
        match places.iter_mut().find(|(known, ..)| *known == line) {
            Some((_, _, tids)) => tids.push(tid),
            None => {
                let in_library = stack.frames.first().is_none_or(ProgramFrame::is_of_library);
                places.push((line, in_library, vec![tid]));
            }
        }
    }
    places.sort_by_key(|(_, in_library, tids)| (std::cmp::Reverse(tids.len()), *in_library));
    let told = |(line, _, tids): (String, bool, Vec<u32>)| match tids[..] {
        [only] => (2, format!("thread {only} in {line}")),
        _ => (2, format!("{} threads in {line}", tids.len())),
    };
    places.into_iter().map(told).collect()
}

/// The thread whose stack explains most: the worst that waits; where none worries, the process's first.
fn first_asleep(threads: &[ThreadReport], pid: u32) -> Option<&ThreadReport> {
    let mut asleep = threads.iter().filter(|thread| !thread.is_request() && thread.wait().is_some());
    let first = asleep.clone().next()?;
    let worries = first.wait().is_some_and(|wait| wait.concern() != Level::Idle);
    if worries { Some(first) } else { asleep.find(|thread| thread.tid == pid).or(Some(first)) }
}

/// The program's own frames if there are some, and the native ones.
fn stack_lines(stack: &UserStack) -> Vec<(usize, String)> {
    let native = stack::innermost(stack, NATIVE_MAX);
    let hint = stack.hint.map(|hint| (0, format!("({hint})")));
    let Some((inner, outer)) = stack.frames.split_first() else {
        let all: Vec<String> = stack.native.iter().map(NativeFrame::short).collect();
        let end = (!stack.complete).then(|| (0, format!("(no more: {})", stack.end)));
        return [(0, all.join(" ← "))].into_iter().chain(end).chain(hint).collect();
    };
    let outer: Vec<String> = callers(outer).iter().map(|caller| format!("← {caller}")).collect();
    let outer = Some((2, outer.join(" "))).filter(|(_, text)| !text.is_empty());
    [(0, inner.short())]
        .into_iter()
        .chain(outer)
        .chain(native.map(|text| (3, format!("in {text}"))))
        .collect()
}

/// Those who have called each other, the innermost first. Where some are the program's own, it is they who tell what it was about: libraries'
/// between them are counted.
fn callers(frames: &[ProgramFrame]) -> Vec<String> {
    if frames.iter().all(ProgramFrame::is_of_library) {
        return frames.iter().map(ProgramFrame::short).collect();
    }
    let mut callers = Vec::new();
    for alike in frames.chunk_by(|one, next| one.is_of_library() && next.is_of_library()) {
        match alike {
            [_, _, ..] => callers.push(format!("{} functions of libraries", alike.len())),
            [one] => callers.push(one.short()),
            [] => {}
        }
    }
    callers
}
