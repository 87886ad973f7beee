//! The one sentence that answers the question what a process is doing, and what is said after it.

use super::{
    Condition,
    chain::{self, Other},
    classes,
    held_up::HeldUp,
    sockets::{Sockets, Unanswered},
    threads::{Doing, RUNS, ThreadReport},
};
use crate::{
    assess::pipeline::{Assessment, is_young},
    model::{
        class::{Class, Level},
        wait::StopSignal,
    },
    resolve::process::ProcessMeta,
    util::human,
    wire::culprit::CulpritObject,
};

/// Connections closed by the other end only that are called a leak.
const LEAKED_MIN: usize = 16;

/// The headline, where what it waits for says more than it does itself.
pub(super) fn by_others(
    called: &str,
    (condition, headline): (Condition, String),
    threads: &[ThreadReport],
    others: &[Other],
    left_out: usize,
) -> (Condition, String) {
    if let Some(child) = child_that_holds_it_up(condition, threads, others, left_out) {
        let doing = child.doing.replace("is stuck itself", "is stuck");
        let headline = format!("{called} is stuck: its child {} (pid {}) {doing}.", child.comm, child.pid);
        return (Condition::Stuck, headline);
    }
    match (condition, others.iter().find_map(Other::stuck_one)) {
        (Condition::Idle | Condition::Busy, Some(stuck)) => {
            let who = match stuck.role {
                chain::SHARES => "which shares its listener",
                chain::CHILD if !waits_for_child(threads) => "its child",
                _ => "for which it waits",
            };
            let but = format!(" But {} (pid {}), {who}, is stuck.", stuck.comm, stuck.pid);
            (condition, headline + &but)
        }
        _ => (condition, headline),
    }
}

/// What there is to say of where it stands: who is to blame in the end, and who waits for it.
pub(super) fn in_chains(
    condition: Condition,
    others: &[Other],
    end: Option<&CulpritObject>,
    held_up: Option<&HeldUp>,
) -> String {
    let is_mutual = |other: &Other| other.back == Some(Class::Request);
    let mut text = String::new();
    if condition == Condition::Stuck && others.iter().any(is_mutual) {
        text += " The other end waits for more: what was sent may not be the whole request.";
    }
    if let Some(end) = end {
        text += &format!(" At the end of the chain is {end}.");
    }
    if let Some(held_up) = held_up {
        text += &format!(" {}", held_up.sentence());
    }
    text
}

/// The one sentence that answers the question.
pub(super) fn headline(
    name: &str,
    who: &ProcessMeta,
    threads: &[ThreadReport],
    sockets: &Sockets,
) -> (Condition, String) {
    let parent = || match who.parents.first() {
        Some(parent) => format!("its parent is {} (pid {})", parent.comm, parent.pid),
        None => "its parent is not to be seen".into(),
    };
    let Some(worst) = threads.first() else {
        return (Condition::Zombie, format!("{name} has just ended."));
    };
    let number = threads.iter().filter(|thread| !thread.is_request()).count();
    let inside = |thread: &ThreadReport| match number {
        0 | 1 => String::new(),
        all => format!(", in thread {} ({}) of {all}", thread.tid, thread.comm),
    };
    match &worst.doing {
        // Its threads go on, for others.
        Doing::Waits(wait) if worst.is_request() && wait.concern() == Level::Stuck => {
            let more = threads.iter().filter(|thread| thread.is_request()).count() - 1;
            let more = match more {
                0 => String::new(),
                more => format!(", and {}", human::count(more, "more request")),
            };
            let has = format!("{name} has a request without an answer{more}");
            (
                Condition::Stuck,
                format!("{has}: it is {}. None of its threads is blocked by that.", wait.sentence()),
            )
        }
        Doing::Waits(wait) if wait.concern() == Level::Stuck => {
            (Condition::Stuck, format!("{name} is stuck{}: {}.", inside(worst), wait.sentence()))
        }
        Doing::Stopped(signal) => (Condition::Stopped, stopped(name, *signal, &parent())),
        Doing::Traced(by) => {
            let by = by.as_ref().map_or("a debugger".into(), |by| format!("{} (pid {})", by.comm, by.pid));
            (Condition::Traced, format!("{name} is held by {by}, which traces it."))
        }
        Doing::Frozen(group) => {
            let group =
                group.as_ref().map_or("its cgroup".into(), |group| format!("the cgroup {}", group.path));
            (Condition::Frozen, format!("{name} is frozen with {group}. It goes on when that is thawed."))
        }
        Doing::Zombie => (
            Condition::Zombie,
            format!("{name} has ended, and its parent has not asked for its exit status yet; {}.", parent()),
        ),
        Doing::Runs { cpu } if *cpu >= RUNS => {
            let all: f64 = threads.iter().map(ThreadReport::cpu).sum();
            let percent = (all * 100.0).round();
            (Condition::Running, format!("{name} is running, not waiting: {percent} % of a CPU."))
        }
        Doing::Waits(wait) if wait.concern() == Level::Doubtful => {
            (Condition::Doubtful, format!("{name} may be stuck{}: {}.", inside(worst), wait.sentence()))
        }
        Doing::Hidden => (
            Condition::Hidden,
            format!(
                "{name} is not visible to you{}: it sleeps, in a call that only root or its own user may see.",
                inside(worst)
            ),
        ),
        _ => rests(name, threads, sockets),
    }
}

/// What people call a process, or a thread of it.
pub(super) fn name(pid: u32, only: Option<u32>, comm: &str) -> String {
    match only {
        Some(tid) => format!("Thread {tid} of {comm} (pid {pid})"),
        None => format!("{comm} (pid {pid})"),
    }
}

/// That a signal has stopped it, and what that means.
fn stopped(name: &str, signal: Option<StopSignal>, parent: &str) -> String {
    match signal {
        None => format!(
            "{name} is stopped by a signal: SIGSTOP, or one of its terminal. It goes on when it gets SIGCONT. The kernel \
             does not record who sent the signal; {parent}."
        ),
        Some(StopSignal::Stop) => format!(
            "{name} is stopped by SIGSTOP. It goes on when it gets SIGCONT. The kernel does not record who sent the \
             signal; {parent}."
        ),
        Some(StopSignal::Suspend) => format!(
            "{name} is stopped by SIGTSTP: Ctrl-Z at its terminal. It goes on when it gets SIGCONT; {parent}."
        ),
        Some(signal @ StopSignal::BackgroundRead) => format!(
            "{name} is stopped by {}: it is a background job, and has read from its terminal. It goes on once it is in the \
             foreground; {parent}.",
            signal.name()
        ),
        Some(signal @ StopSignal::BackgroundWrite) => format!(
            "{name} is stopped by {}: it is a background job, and has written to its terminal or changed its settings. It goes \
             on once it is in the foreground; {parent}.",
            signal.name()
        ),
    }
}

/// Nothing worries.
fn rests(name: &str, threads: &[ThreadReport], sockets: &Sockets) -> (Condition, String) {
    let waits: Vec<&Assessment> = threads.iter().filter_map(ThreadReport::wait).collect();
    let oldest = waits.iter().map(|wait| wait.wait.age).max().unwrap_or_default();
    if is_young(oldest) {
        let longest = human::age(oldest);
        // Who looks again and again whether an answer has come is not at work.
        let doing =
            if sockets.unanswered.is_empty() { "is at work" } else { "does not wait for long at a time" };
        let text = match threads.len() {
            1 => format!("{name} {doing}: it has not waited longer than {longest}."),
            all => format!("{name} {doing}: none of its {all} threads has waited longer than {longest}."),
        };
        return (Condition::Busy, text + &unanswered(sockets));
    }
    let alive = threads.iter().filter(|thread| !matches!(thread.doing, Doing::Zombie)).count();
    let text = match waits[..] {
        [only] if alive == 1 => format!("{name} is not stuck itself: {}.", only.sentence()),
        _ => format!(
            "{name} is not stuck: its {} rest ({}).",
            human::count(alive, "thread"),
            classes(waits.iter().copied())
        ),
    };
    (Condition::Idle, text + &unanswered(sockets))
}

/// What is open on its connections; empty if nothing is.
fn unanswered(sockets: &Sockets) -> String {
    match &sockets.unanswered[..] {
        [] => perhaps_unanswered(sockets),
        [oldest, ..] => format!(
            " But {} it has sent {} no answer yet, the oldest for {}: see Sockets.",
            human::count(sockets.unanswered.len(), "request"),
            if sockets.unanswered.len() == 1 { "has" } else { "have" },
            human::age(oldest.since)
        ),
    }
}

/// That what came last on some of its connections may be no answer.
fn perhaps_unanswered(sockets: &Sockets) -> String {
    match &sockets.perhaps_unanswered[..] {
        [] => String::new(),
        [only] => format!(
            " But a request of {} ago may have no answer: what came last is as long as a TLS server's session tickets.",
            human::age(only.since)
        ),
        [oldest, ..] => format!(
            " But {} may have no answer, the oldest for {}: what came last is as long as a TLS server's session tickets.",
            human::count(sockets.perhaps_unanswered.len(), "request"),
            human::age(oldest.since)
        ),
    }
}

/// The headline with what others want of the process, and that nobody can help it.
pub(super) fn with_others(
    mut headline: String,
    called: &str,
    condition: Condition,
    threads: &[ThreadReport],
    sockets: &Sockets,
) -> String {
    if let Some(text) = queued(sockets) {
        headline += &text;
    }
    let is_at_rest = matches!(condition, Condition::Idle | Condition::Busy);
    match owed(sockets) {
        // That others wait for it says more than how it rests.
        Some(owed) if is_at_rest => {
            headline = format!("{called} {owed}. {}", headline.replacen(called, "It", 1))
        }
        Some(owed) => headline += &format!(" The process {owed}."),
        None => {}
    }
    if let Some(text) = leaks(sockets) {
        headline += &text;
    }
    if threads.iter().filter_map(ThreadReport::wait).any(Assessment::is_deadlock) {
        headline += match headline.contains("deadlock") {
            true => " Nobody in it can go on.",
            false => " It is a deadlock: nobody in it can go on.",
        };
    }
    headline
}

/// That others wait for what this process has not taken, if they do.
pub(super) fn queued(sockets: &Sockets) -> Option<String> {
    let [longest, rest @ ..] = &sockets.queued[..] else { return None };
    let more = match rest.len() {
        0 => String::new(),
        more => format!(", and more on {}", human::count(more, "other socket")),
    };
    Some(format!(" {} on {}{more}.", longest.backlog, longest.target))
}

/// That others have asked it and have no answer, if there are some.
fn owed(sockets: &Sockets) -> Option<String> {
    let oldest = human::age(sockets.owed.first()?.since);
    let is_unread = |of: &&Unanswered| of.resolved.socket.tcp().is_some_and(|facts| facts.receive_queue > 0);
    let unread = sockets.owed.iter().filter(is_unread).count();
    Some(match (sockets.owed.len(), unread) {
        (1, 0) => format!("received a request {oldest} ago and has not answered it"),
        (1, _) => format!("received a request {oldest} ago and has not read it"),
        (number, unread) => {
            let unread = match unread {
                0 => String::new(),
                unread if unread == number => "; it has not even read them".into(),
                1 => "; 1 of them lies unread".into(),
                unread => format!("; {unread} of them lie unread"),
            };
            format!("has received {number} requests and not answered them, the oldest {oldest} ago{unread}")
        }
    })
}

/// That it loses descriptors, if it does: a pool has a few connections that the other end has closed, not many.
pub(super) fn leaks(sockets: &Sockets) -> Option<String> {
    let unclosed = sockets.unclosed.as_ref().filter(|unclosed| unclosed.fds.len() >= LEAKED_MIN)?;
    let (number, oldest) = (human::count(unclosed.fds.len(), "connection"), human::age(unclosed.oldest));
    Some(format!(
        " It has not closed {number} that the other end closed, the first {oldest} ago: it will run out of descriptors."
    ))
}

/// The child that keeps a process from going on which does nothing but wait for it.
fn child_that_holds_it_up<'a>(
    condition: Condition,
    threads: &[ThreadReport],
    others: &'a [Other],
    left_out: usize,
) -> Option<&'a Other> {
    let only_wait = match threads {
        [thread] => thread.wait()?,
        _ => return None,
    };
    match others {
        [child] if condition == Condition::Idle && only_wait.class == Class::Child && left_out == 0 => {
            child.held_up()
        }
        _ => None,
    }
}

/// Whether a thread waits for a child's end.
fn waits_for_child(threads: &[ThreadReport]) -> bool {
    threads.iter().filter_map(ThreadReport::wait).any(|wait| wait.class == Class::Child)
}
