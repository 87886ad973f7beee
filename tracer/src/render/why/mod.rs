//! The page of `why`: everything about one process, for people.

mod places;
mod sockets;

use std::collections::HashMap;

use jiff::Timestamp;

use self::{places::where_lines, sockets::socket_lines};
use super::layout::{self, MARGIN, Part};
use crate::{
    assess::inspect::{
        self, Condition, Report,
        chain::Other,
        threads::{Doing, ThreadReport},
    },
    assess::pipeline::Assessment,
    model::target::Target,
    model::{
        baseline::Excuse,
        class::{Judgement, Level},
        obstacles::{Obstacle, obstacle},
    },
    resolve::process::ProcessMeta,
    util::human,
    wire::{
        json::{WaitObject, short_id},
        target::TargetObject,
    },
};

/// Lines of a page at most, where they are as wide as on most terminals: it fits a screen.
const LINES_MAX: usize = 40;
/// Columns of most terminals: of narrower lines there may be more.
const USUAL_WIDTH: usize = 80;
/// Lines of what the page says first.
const HEADLINE_LINES_MAX: usize = 8;
/// Lines of each other sentence that stands by itself.
const SENTENCE_LINES_MAX: usize = 3;
/// Threads that have a line.
const THREADS_MAX: usize = 8;
/// Of those that wait alike, how many are named.
const NAMED_MAX: usize = 4;

/// The page, of lines at most so wide.
pub fn page(report: &Report, width: usize, why_not_bpf: Option<&str>) -> String {
    let mut begin = layout::wrapped(["", ""], &report.headline, width, HEADLINE_LINES_MAX);
    begin.push(String::new());
    let mut end = advice_lines(report, width);
    if let Some(reason) = &report.agent_silent {
        let text = format!("Could not ask the agent whether answers usually take this long: {reason}.");
        end.push(String::new());
        end.extend(layout::wrapped(["", ""], &text, width, SENTENCE_LINES_MAX));
    }
    if let Some(reason) = why_not_bpf {
        let text = format!("Seen through /proc, where ages are lower bounds: {reason}.");
        end.push(String::new());
        end.extend(layout::wrapped(["", ""], &text, width, SENTENCE_LINES_MAX));
    }
    let lines_max = LINES_MAX * USUAL_WIDTH / width.clamp(1, USUAL_WIDTH);
    let room = lines_max.saturating_sub(begin.len() + end.len());
    let lines = begin.into_iter().chain(layout::fit(parts(report, width), room)).chain(end);
    lines.flat_map(|line| [line, "\n".into()]).collect()
}

/// What is between the first sentence and what to do next.
fn parts(report: &Report, width: usize) -> Vec<Part> {
    let part = |word, rank, least, texts: Vec<String>| {
        let mut part = Part::new(word, width, rank, least);
        texts.iter().for_each(|text| part.add(0, 0, text));
        part
    };
    let waits: Vec<&Assessment> = report.threads.iter().filter_map(ThreadReport::wait).collect();
    let (word, texts) = match (&report.threads[..], &waits[..]) {
        ([thread], [wait]) => {
            ("Wait", wait_lines(wait).into_iter().chain(thread.excuse.map(excused)).collect())
        }
        ([_], []) => ("Wait", Vec::new()),
        (threads, _) => ("Threads", thread_lines(threads)),
    };
    let worries = matches!(report.condition, Condition::Stuck | Condition::Doubtful);
    let stack = report.threads.first().map_or(&[][..], |thread| &thread.stack);
    let meaning = waits.first().and_then(|wait| obstacle(wait.resolved.stack.as_ref()?)).map(Obstacle::words);
    let meaning = meaning.map_or_else(String::new, |words| format!(": {words}"));
    let stack =
        Some(stack.join(" ← ")).filter(|text| worries && !text.is_empty()).map(|text| text + &meaning);
    let whole = format!("tracer stack {}", report.process.pid);
    let mut place = Part::new("Where", width, 3, 1).listed_by(whole);
    where_lines(&report.threads, report.process.pid, report.stacks)
        .iter()
        .for_each(|(hang, text)| place.add(0, *hang, text));
    let mut others = Part::new("Others", width, 1, 3);
    // Who has been described, and is no part of a circle, is no news.
    let news = report.others.iter().filter(|other| !other.again || other.circle);
    add_others(&mut others, 0, news);
    add_left_out(&mut others, 0, report.others_left_out);
    vec![
        part("Process", 2, 2, process(&report.who)),
        part(word, 0, 4, texts),
        place,
        part("Kernel", 5, 1, stack.into_iter().collect()),
        others,
        part("Sockets", 4, 2, socket_lines(report)),
    ]
}

/// What to try next.
fn advice_lines(report: &Report, width: usize) -> Vec<String> {
    let margin = " ".repeat(MARGIN + 4);
    let mut lines = Vec::new();
    for (at, advice) in report.advice.iter().enumerate() {
        let first = format!("{:MARGIN$}", if at == 0 { "Next" } else { "" });
        lines.extend(layout::wrapped(
            [&first, &" ".repeat(MARGIN)],
            &advice.command,
            width,
            SENTENCE_LINES_MAX,
        ));
        lines.extend(layout::wrapped([&margin, &margin], &advice.reason, width, SENTENCE_LINES_MAX));
    }
    lines
}

/// The page of a wait that is over: what was kept of it is all that is known.
pub fn kept(wait: &WaitObject, width: usize) -> String {
    let name = match wait.tid == wait.pid || wait.is_request() {
        true => format!("{} (pid {})", wait.comm, wait.pid),
        false => format!("Thread {} of {} (pid {})", wait.tid, wait.comm, wait.pid),
    };
    let was = match wait.worry() {
        Level::Stuck => "was stuck",
        Level::Doubtful => "may have been stuck",
        Level::Idle => "was idle",
    };
    let sentence = wait.verdict.clone().unwrap_or_else(|| format!("it waited {}", human::age(wait.age)));
    let headline = format!("{name} {was}: {sentence}.");
    let mut lines = layout::wrapped(["", ""], &headline, width, HEADLINE_LINES_MAX);
    lines.push(String::new());
    let mut facts = Vec::new();
    facts.extend(wait.uid.map(|uid| format!("uid {uid}")));
    facts.extend(wait.unit.as_ref().map(|unit| format!("unit {unit}")));
    facts.extend(wait.container.as_deref().map(|id| format!("container {}", short_id(id))));
    facts.extend(wait.pod.as_ref().map(|pod| format!("pod {}", pod.label())));
    let mut process = Part::new("Process", width, 1, 2);
    wait.cmdline.clone().into_iter().chain([facts.join(", ")]).for_each(|text| process.add(0, 0, &text));
    let since = since(wait.since, !wait.age_exact);
    let class = wait.judgement().map_or("unknown", Judgement::label);
    let mut waited = Part::new("Wait", width, 0, 4);
    waited.add(0, 0, &format!("{class}: in {}, {since}", wait.call()));
    let target = Some(wait.target.to_string()).filter(|target| !target.is_empty());
    target.into_iter().for_each(|text| waited.add(0, 0, &text));
    let lines = lines.into_iter().chain(layout::fit(vec![process, waited], LINES_MAX));
    lines.flat_map(|line| [line, "\n".into()]).collect()
}

fn process(who: &ProcessMeta) -> Vec<String> {
    let mut lines = Vec::new();
    lines.extend(who.cmdline.clone());
    let mut facts = Vec::new();
    match (&who.user, who.uid) {
        (Some(user), _) => facts.push(format!("user {user}")),
        (None, Some(uid)) => facts.push(format!("uid {uid}")),
        _ => {}
    }
    facts.extend(who.started.map(started));
    facts.extend(who.unit.as_ref().map(|unit| format!("unit {unit}")));
    facts.extend(who.container.as_ref().map(|id| {
        let runtime = who.runtime.map_or("container", |runtime| runtime.label());
        format!("{runtime} {}", id.get(..12).unwrap_or(id))
    }));
    facts.extend(who.pod.as_ref().map(|pod| {
        let namespace = pod.namespace.as_ref().map(|name| format!("{name}/")).unwrap_or_default();
        format!("pod {namespace}{}", pod.label())
    }));
    if !facts.is_empty() {
        lines.push(facts.join(", "));
    }
    if !who.parents.is_empty() {
        let parents: Vec<String> =
            who.parents.iter().map(|parent| format!("{} ({})", parent.comm, parent.pid)).collect();
        lines.push(format!("started by {}", parents.join(" ← ")));
    }
    for (what, place) in [("executable", &who.exe), ("working directory", &who.cwd)] {
        if let Some(place) = place.as_ref().filter(|place| place.deleted) {
            lines.push(format!("its {what} has been deleted: {}", place.path));
        }
    }
    lines
}

fn started(at: Timestamp) -> String {
    let ago = Timestamp::now().duration_since(at).unsigned_abs();
    format!("started {}, {} ago", moment(at), human::age(ago))
}

/// When a wait began; one whose earlier sleeps were not seen may have begun before.
fn since(at: Timestamp, is_lower_bound: bool) -> String {
    format!("since {}{}", moment(at), if is_lower_bound { " or earlier" } else { "" })
}

/// To the second, UTC.
fn moment(at: Timestamp) -> String {
    at.strftime("%F %T UTC").to_string()
}

/// `recvfrom(13)`, or the call alone where it has no fd.
fn call(wait: &Assessment) -> String {
    match wait.resolved.fd {
        Some(fd) => format!("{}({fd})", wait.wait.call.name()),
        None => wait.wait.call.name().to_owned(),
    }
}

fn wait_lines(wait: &Assessment) -> Vec<String> {
    let since = since(wait.wait.since, wait.wait.is_lower_bound());
    let class = wait.judgement().label();
    let mut lines = vec![format!("{class}: in {}, {since}", call(wait))];
    match &wait.resolved.target {
        Target::None => {}
        Target::Fds { watched } if watched.len() > 1 => {
            lines.extend(watched.iter().take(THREADS_MAX).map(|fd| format!("fd {}: {}", fd.fd, fd.target)));
            if watched.len() > THREADS_MAX {
                lines.push(format!("and {} more", watched.len() - THREADS_MAX));
            }
        }
        target => lines.push(target.to_string()),
    }
    lines
}

/// What an agent makes of it.
fn excused(Excuse { usual, until, .. }: Excuse) -> String {
    format!(
        "not flagged before {}: answers from there usually take up to {}",
        human::age(until),
        human::age(usual)
    )
}

/// A line for each thread, or for all that wait alike, the worst first.
fn thread_lines(threads: &[ThreadReport]) -> Vec<String> {
    let mut groups: Vec<(String, Vec<&ThreadReport>)> = Vec::new();
    let mut places: HashMap<(bool, &str, String), usize> = HashMap::new();
    for thread in threads {
        let doing = doing_alike(thread);
        let alike = (thread.is_request(), unnumbered(&thread.comm), doing.clone());
        let place = *places.entry(alike).or_insert(groups.len());
        if place == groups.len() {
            groups.push((doing, Vec::new()));
        }
        groups[place].1.push(thread);
    }
    let mut lines = Vec::new();
    let mut left: &[(String, Vec<&ThreadReport>)] = &groups;
    while let [(doing, alike), rest @ ..] = left
        && lines.len() < THREADS_MAX
    {
        left = rest;
        match &alike[..] {
            [first, _, _, ..] => lines.push(alike_line(doing, first, alike)),
            few => lines.extend(few.iter().map(|thread| thread_line(thread))),
        }
    }
    let rest: Vec<&ThreadReport> = left.iter().flat_map(|(_, threads)| threads).copied().collect();
    if !rest.is_empty() {
        let classes = inspect::classes(rest.iter().filter_map(|thread| thread.wait()));
        let others = rest.iter().filter(|thread| thread.wait().is_none()).count();
        let mut parts = Vec::new();
        if !classes.is_empty() {
            parts.push(classes);
        }
        if others > 0 {
            parts.push(format!("{others} not waiting"));
        }
        lines.push(format!("and {} more: {}", rest.len(), parts.join(", ")));
    }
    lines
}

/// `5 threads (worker) up to 4.1s: reply in recvfrom, tcp → 192.0.2.1:443 (4242, 4243, 4244 and 2 more)`.
fn alike_line(doing: &str, first: &ThreadReport, alike: &[&ThreadReport]) -> String {
    let age = alike.iter().filter_map(|thread| thread.wait()).map(|wait| wait.wait.age).max();
    let up_to = age.map(|age| format!(" up to {}", human::age(age))).unwrap_or_default();
    let what = match first.is_request() {
        true => human::count(alike.len(), "request"),
        false if alike.iter().all(|thread| thread.comm == first.comm) => {
            format!("{} threads ({})", alike.len(), first.comm)
        }
        false => format!("{} threads ({}…)", alike.len(), unnumbered(&first.comm)),
    };
    let ids = alike.iter().take(NAMED_MAX).map(|thread| match (first.is_request(), thread.wait()) {
        (true, Some(wait)) => format!("fd {}", wait.resolved.fd.unwrap_or(-1)),
        _ => thread.tid.to_string(),
    });
    let ids: Vec<String> = ids.collect();
    let ids = match alike.len().saturating_sub(NAMED_MAX) {
        0 => ids.join(", "),
        more => format!("{} and {more} more", ids.join(", ")),
    };
    format!("{what}{up_to}: {doing} ({ids})")
}

/// A thread's name without the number that tells it from others of its pool.
fn unnumbered(comm: &str) -> &str {
    comm.trim_end_matches(|last: char| last.is_ascii_digit())
}

/// What a thread does, so that it is the same of those which do the same: without its own numbers and its end of a connection.
fn doing_alike(thread: &ThreadReport) -> String {
    match &thread.doing {
        Doing::Waits(wait) => {
            let target = TargetObject::new(&wait.resolved.target, &wait.resolved.socket).without_local();
            let class = wait.judgement().label();
            let call = if thread.is_request() { class } else { wait.wait.call.name() };
            let doing = class_and_call(class, call, &target);
            thread.excuse.map(excused).into_iter().fold(doing, |doing, excuse| doing + "; " + &excuse)
        }
        // Each has a line of its own.
        _ => format!("{} alone", thread.tid),
    }
}

/// `reply in recvfrom(3), tcp …`: what is the same in all is said once.
fn class_and_call(class: &str, call: &str, target: &str) -> String {
    let call = if call == class { class.to_owned() } else { format!("{class} in {call}") };
    match target.strip_prefix(class) {
        _ if target.is_empty() => call,
        Some(rest) if call == class => format!("{class}{rest}"),
        _ => format!("{call}, {target}"),
    }
}

fn thread_line(thread: &ThreadReport) -> String {
    match &thread.doing {
        Doing::Waits(wait) if thread.is_request() => format!(
            "event loop {}: {} on fd {}, {}",
            human::age(wait.wait.age),
            wait.judgement().label(),
            wait.resolved.fd.unwrap_or(-1),
            wait.resolved.target
        ),
        Doing::Waits(wait) => {
            let doing =
                class_and_call(wait.judgement().label(), &call(wait), &wait.resolved.target.to_string());
            let line = format!("{} ({}) {}: {doing}", thread.tid, thread.comm, human::age(wait.wait.age));
            thread.excuse.map(excused).into_iter().fold(line, |line, excuse| line + "; " + &excuse)
        }
        Doing::Runs { cpu } => {
            format!("{} ({}) runs, {} % of a CPU", thread.tid, thread.comm, (cpu * 100.0).round())
        }
        Doing::Stopped(_) => format!("{} ({}) is stopped", thread.tid, thread.comm),
        Doing::Traced(_) => format!("{} ({}) is traced", thread.tid, thread.comm),
        Doing::Frozen(_) => format!("{} ({}) is frozen", thread.tid, thread.comm),
        Doing::Hidden => format!("{} ({}) sleeps, in a call not visible to you", thread.tid, thread.comm),
        Doing::Zombie => format!("{} ({}) has ended", thread.tid, thread.comm),
    }
}

/// These; those that wait just as one before them does are only named.
fn add_others<'a>(part: &mut Part, depth: usize, others: impl Iterator<Item = &'a Other>) {
    let mut groups: Vec<(Option<String>, Vec<&Other>)> = Vec::new();
    for other in others {
        // Who has others behind it is told of with them.
        let key = (other.then.is_empty() && other.then_left_out == 0).then(|| alike(other));
        match groups.iter_mut().find(|(of, _)| key.is_some() && *of == key) {
            Some((_, group)) => group.push(other),
            None => groups.push((key, vec![other])),
        }
    }
    for (_, group) in groups {
        let Some((first, rest)) = group.split_first() else { continue };
        add_other(part, depth, first);
        if !rest.is_empty() {
            let names: Vec<String> = rest.iter().map(|other| name_of(other)).collect();
            part.add(depth, 2, &format!("{}: the same", names.join(", ")));
        }
    }
}

/// What is equal for those that wait alike: all but how long, and how much was sent.
fn alike(other: &Other) -> String {
    let mut key = format!("{} {}", other.comm, other.role);
    let mut last = "";
    for word in other.doing.split(' ') {
        let bare = word.trim_matches(|letter: char| letter.is_ascii_punctuation());
        let is_id = matches!(last.trim_start_matches('('), "pid" | "thread" | "set" | "semaphore");
        let is_amount = bare.starts_with(|first: char| first.is_ascii_digit())
            && bare.trim_end_matches(['s', 'm', 'h', 'd']).chars().all(|of| of.is_ascii_digit() || of == '.');
        if (is_id || !is_amount) && !matches!(word, "at" | "least") {
            key.push(' ');
            key.push_str(word);
        }
        last = word;
    }
    key
}

fn name_of(other: &Other) -> String {
    match other.tid {
        Some(tid) => format!("thread {tid} ({})", other.comm),
        None => format!("{} (pid {})", other.comm, other.pid),
    }
}

fn add_other(part: &mut Part, depth: usize, other: &Other) {
    let name = name_of(other);
    let cmdline = match (&other.cmdline, other.tid) {
        (Some(cmdline), None) => format!(", {}", human::fit(cmdline, 60)),
        _ => String::new(),
    };
    part.add(depth, 2, &format!("{name}{cmdline}: {}; it {}", other.role, other.doing));
    // A link of a deadlock has said whom it waits for, and that this one waits in turn.
    add_others(part, depth + 1, other.then.iter().filter(|then| !(then.circle && other.deadlocked)));
    add_left_out(part, depth + 1, other.then_left_out);
}

/// That there are more processes than were looked at.
fn add_left_out(part: &mut Part, depth: usize, number: usize) {
    if number > 0 {
        part.add(depth, 0, &format!("and {number} more, which were not looked at"));
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use super::*;
    use crate::{
        assess::inspect::{advice::Advice, sockets::Sockets, threads::StacksOf},
        diagnose::verdict::{
            classify,
            tests::{on, tcp, wait},
        },
        model::{
            syscalls::Syscall,
            user_stack::{FoundBy, NativeFrame, ProgramFrame, UserStack},
            wait::ProcessId,
        },
        resolve::process::Parent,
    };

    /// One that is waited for, with three behind it on each of so many links, whose names and deeds are long.
    fn other(depth: usize, pid: u32) -> Other {
        let long = "a very long description of what it does ".repeat(12);
        let then = |at: u32| other(depth - 1, 10 * pid + at);
        Other {
            pid,
            tid: None,
            comm: "x".into(),
            cmdline: Some(long.clone()),
            role: "at the other end",
            doing: long,
            stuck: true,
            deadlocked: false,
            back: None,
            suspended: None,
            is_parent: false,
            again: false,
            circle: false,
            then: if depth > 0 { (1..4).map(then).collect() } else { Vec::new() },
            then_left_out: 997,
        }
    }

    /// A process with as much to say of it as there can be: threads, paths, parents, peers and what else is long.
    fn report(threads: u32, links: usize) -> Report {
        let long = "word ".repeat(800);
        let assessment = || {
            let (wait, resolved) =
                (wait(Syscall::Recvfrom, [3, 0, 0, 0, 0, 0]), on(Syscall::Recvfrom, tcp()));
            let class = classify(&wait, &resolved);
            Assessment { wait, resolved, class }
        };
        // No thread has the number 0.
        let thread = |number| ThreadReport {
            tid: number + 1,
            comm: "t".into(),
            doing: Doing::Waits(Box::new(assessment())),
            excuse: None,
            stack: vec!["a_function_of_the_kernel".into(); 5],
            user_stack: Some(user_stack(number)),
        };
        let parent = |pid| Parent { pid, comm: "a_long_parents_name".into() };
        let who = ProcessMeta {
            cmdline: Some(long.clone()),
            parents: (1..9).map(parent).collect(),
            ..ProcessMeta::default()
        };
        let advice = || Advice { command: long.clone(), reason: long.clone() };
        Report {
            process: ProcessId { pid: 100, start_ns: 1 },
            comm: "x".into(),
            only: None,
            who: Arc::new(who),
            condition: Condition::Stuck,
            headline: long.clone(),
            threads: (0..threads).map(thread).collect(),
            stacks: StacksOf::First,
            others: (1..9).map(|pid| other(links, pid)).collect(),
            others_left_out: 992,
            held_up: None,
            sockets: Sockets {
                states: BTreeMap::from([("tcp ESTABLISHED".to_owned(), 3)]),
                ..Sockets::default()
            },
            advice: vec![advice(), advice()],
            agent_silent: Some(long.clone()),
        }
    }

    #[test]
    fn a_page_fits_a_screen_whatever_there_is_to_say() {
        for (threads, links) in [(1, 0), (1, 3), (9, 0), (200, 3)] {
            for width in [80, 100, 250] {
                let page = page(&report(threads, links), width, Some("why not"));
                assert!(page.lines().count() <= LINES_MAX, "{threads} {links} {width}\n{page}");
                assert!(page.lines().all(|line| human::columns(line) <= width), "{page}");
                for word in ["Process", "Where", "Kernel", "Others", "Sockets", "Next"] {
                    assert!(page.contains(&format!("\n{word:MARGIN$}")), "{word}: {page}");
                }
            }
            let narrow = page(&report(threads, links), 40, None);
            assert!(narrow.lines().count() <= 2 * LINES_MAX, "{narrow}");
        }
    }

    /// The stack of a thread of a program in Python that calls itself: every other thread is elsewhere.
    fn user_stack(number: u32) -> UserStack {
        let line = Some(1 + number % 2);
        let frame = ProgramFrame { function: "again".into(), file: Some("/srv/a.py".into()), line };
        let native =
            NativeFrame { function: Some("read".into()), module: None, offset: 0, by: FoundBy::Registers };
        UserStack { frames: vec![frame; 100], native: vec![native; 100], ..UserStack::default() }
    }

    #[test]
    fn threads_at_the_same_place_are_counted() {
        let mut report = report(200, 0);
        (report.headline, report.who) = ("It is stuck.".into(), Arc::default());
        report.others.clear();
        report.advice.clear();
        let page = page(&report, 250, None);
        assert_eq!(page.matches("100 threads in again a.py:").count(), 2, "{page}");
        report.threads.truncate(1);
        report.threads[0].user_stack.as_mut().expect("it has one").frames.truncate(2);
        let page = super::page(&report, 250, None);
        let place = "\nWhere     again a.py:1\n          ← again a.py:1\n          in read ← read";
        assert!(page.contains(place), "{page}");
    }

    /// Several clients of one server: the first is described, the others are named, but for one that waits for something else.
    #[test]
    fn who_waits_alike_is_named() {
        let waits = |pid: u32, doing: &str| Other {
            doing: doing.into(),
            cmdline: None,
            then_left_out: 0,
            ..other(0, pid)
        };
        let mut report = report(1, 0);
        report.others = vec![
            waits(7, "is stuck itself: waiting at least 1m 3s for a reply from 10.0.0.1:80: 5 bytes sent"),
            waits(8, "is stuck itself: waiting 59s for a reply from 10.0.0.1:80: 17 bytes sent"),
            waits(9, "is stuck itself: waiting 59s for a reply from 10.0.0.2:80: 5 bytes sent"),
            waits(10, "is stuck itself: waiting 1s for a lock in memory that x (pid 11) holds"),
            waits(12, "is stuck itself: waiting 1s for a lock in memory that x (pid 13) holds"),
            waits(14, "is stuck itself: waiting 1h 2m for a reply from 10.0.0.1:80: 6 bytes sent"),
        ];
        let page = page(&report, 200, None);
        assert!(page.contains("x (pid 8), x (pid 14): the same\n"), "{page}");
        assert_eq!(page.matches("it is stuck itself").count(), 4, "{page}");
    }

    #[test]
    fn what_fits_is_all_there() {
        let mut report = report(1, 0);
        report.headline = "It is stuck.".into();
        report.who = Arc::default();
        report.others.truncate(2);
        report.others.iter_mut().for_each(|other| other.doing = "is stuck itself".into());
        (report.others_left_out, report.agent_silent) = (0, None);
        report.advice.truncate(0);
        let page = page(&report, 100, None);
        assert!(page.starts_with("It is stuck.\n\nWait      reply: in recvfrom(3), since "), "{page}");
        assert_eq!(page.matches("it is stuck itself").count(), 2, "{page}");
        assert!(!page.contains("--json"), "{page}");
    }
}
