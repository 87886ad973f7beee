//! The page of `why`: everything about one process, for people.

use jiff::Timestamp;

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
        class::{Class, Level},
    },
    resolve::process::ProcessMeta,
    util::human,
    wire::json::{WaitObject, short_id},
};

/// Width of the words at the left.
const MARGIN: usize = 10;
/// Threads that have a line.
const THREADS_MAX: usize = 8;
/// Unanswered requests that have a line.
const REQUESTS_MAX: usize = 8;

/// The page being written.
struct WhyPage {
    text: String,
    width: usize,
}

impl WhyPage {
    /// A paragraph, its first line under a word at the left.
    fn entry(&mut self, word: &str, text: &str) {
        self.wrapped(&format!("{word:MARGIN$}"), &" ".repeat(MARGIN), text);
    }

    /// A paragraph that begins and goes on so.
    fn wrapped(&mut self, first: &str, next: &str, text: &str) {
        let options = textwrap::Options::new(self.width).initial_indent(first).subsequent_indent(next);
        for line in textwrap::wrap(&human::clean(text), options) {
            self.text.push_str(line.trim_end());
            self.text.push('\n');
        }
    }

    /// Several paragraphs, the first of them under a word at the left.
    fn entries(&mut self, word: &str, texts: impl IntoIterator<Item = String>) {
        for (at, text) in texts.into_iter().enumerate() {
            self.entry(if at == 0 { word } else { "" }, &text);
        }
    }
}

/// The page, of lines at most so wide.
pub fn page(report: &Report, width: usize, why_not_bpf: Option<&str>) -> String {
    let mut page = WhyPage { text: String::new(), width };
    page.wrapped("", "", &report.headline);
    page.text.push('\n');
    page.entries("Process", process(&report.who));
    let waits: Vec<&Assessment> = report.threads.iter().filter_map(ThreadReport::wait).collect();
    match (&report.threads[..], &waits[..]) {
        ([thread], [wait]) => {
            page.entries("Wait", wait_lines(wait).into_iter().chain(thread.excuse.map(excused)));
        }
        ([_], []) => {}
        (threads, _) => page.entries("Threads", thread_lines(threads)),
    }
    if matches!(report.condition, Condition::Stuck | Condition::Doubtful)
        && let Some(thread) = report.threads.first().filter(|thread| !thread.stack.is_empty())
    {
        page.entry("Kernel", &thread.stack.join(" ← "));
    }
    for (at, other) in report.others.iter().enumerate() {
        add_other(&mut page, if at == 0 { "Others" } else { "" }, 0, other);
    }
    add_left_out(&mut page, 0, report.others_left_out);
    page.entries("Sockets", socket_lines(report));
    for (at, advice) in report.advice.iter().enumerate() {
        page.entry(if at == 0 { "Next" } else { "" }, &advice.command);
        let margin = " ".repeat(MARGIN + 4);
        page.wrapped(&margin, &margin, &advice.reason);
    }
    if let Some(reason) = &report.agent_silent {
        page.text.push('\n');
        page.wrapped(
            "",
            "",
            &format!("Could not ask the agent whether answers usually take this long: {reason}."),
        );
    }
    if let Some(reason) = why_not_bpf {
        page.text.push('\n');
        page.wrapped("", "", &format!("Seen through /proc, where ages are lower bounds: {reason}."));
    }
    page.text
}

/// The page of a wait that is over: what was kept of it is all that is known.
pub fn kept(wait: &WaitObject, width: usize) -> String {
    let mut page = WhyPage { text: String::new(), width };
    let name = match wait.tid == wait.pid {
        true => format!("{} (pid {})", wait.comm, wait.pid),
        false => format!("Thread {} of {} (pid {})", wait.tid, wait.comm, wait.pid),
    };
    let was = match wait.worry() {
        Level::Stuck => "was stuck",
        Level::Doubtful => "may have been stuck",
        Level::Idle => "was idle",
    };
    let sentence = wait.verdict.clone().unwrap_or_else(|| format!("it waited {}", human::age(wait.age)));
    page.wrapped("", "", &format!("{name} {was}: {sentence}."));
    page.text.push('\n');
    let mut facts = Vec::new();
    facts.extend(wait.uid.map(|uid| format!("uid {uid}")));
    facts.extend(wait.unit.as_ref().map(|unit| format!("unit {unit}")));
    facts.extend(wait.container.as_deref().map(|id| format!("container {}", short_id(id))));
    facts.extend(wait.pod.as_ref().map(|pod| format!("pod {}", pod.label())));
    page.entries("Process", wait.cmdline.clone().into_iter().chain([facts.join(", ")]));
    let since = since(wait.since, !wait.age_exact);
    let class = wait.class.map_or("unknown", Class::label);
    let mut lines = vec![format!("{class}: in {}, {since}", wait.call())];
    lines.extend(Some(wait.target.to_string()).filter(|target| !target.is_empty()));
    page.entries("Wait", lines);
    page.text
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
    let class = wait.class.label();
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

fn thread_lines(threads: &[ThreadReport]) -> Vec<String> {
    let line = |thread: &ThreadReport| match &thread.doing {
        Doing::Waits(wait) => {
            let line = format!(
                "{} ({}) {}: {} in {}, {}",
                thread.tid,
                thread.comm,
                human::age(wait.wait.age),
                wait.class.label(),
                call(wait),
                wait.resolved.target
            );
            let line = line.trim_end_matches([' ', ',']).to_owned();
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
    };
    let mut lines: Vec<String> = threads.iter().take(THREADS_MAX).map(line).collect();
    if let Some(rest) = threads.get(THREADS_MAX..).filter(|rest| !rest.is_empty()) {
        let classes = inspect::classes(rest.iter().filter_map(ThreadReport::wait));
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

fn add_other(page: &mut WhyPage, word: &str, depth: usize, other: &Other) {
    let name = match other.tid {
        Some(tid) => format!("thread {tid} ({})", other.comm),
        None => format!("{} (pid {})", other.comm, other.pid),
    };
    let cmdline = match (&other.cmdline, other.tid) {
        (Some(cmdline), None) => format!(", {}", human::fit(cmdline, 60)),
        _ => String::new(),
    };
    let indent = " ".repeat(MARGIN + 2 * depth);
    let first = format!("{word:MARGIN$}{}", " ".repeat(2 * depth));
    page.wrapped(
        &first,
        &format!("{indent}  "),
        &format!("{name}{cmdline}: {}; it {}", other.role, other.doing),
    );
    for then in &other.then {
        add_other(page, "", depth + 1, then);
    }
    add_left_out(page, depth + 1, other.then_left_out);
}

/// That there are more processes than were looked at.
fn add_left_out(page: &mut WhyPage, depth: usize, number: usize) {
    if number > 0 {
        let indent = " ".repeat(MARGIN + 2 * depth);
        page.wrapped(&indent, &indent, &format!("and {number} more, which were not looked at"));
    }
}

fn socket_lines(report: &Report) -> Vec<String> {
    let sockets = &report.sockets;
    if sockets.states.is_empty() {
        return Vec::new();
    }
    let states: Vec<String> =
        sockets.states.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let mut lines = vec![states.join(", ")];
    let waited_for = report.threads.iter().filter_map(ThreadReport::wait).filter_map(|wait| wait.resolved.fd);
    let waited_for: Vec<i32> = waited_for.collect();
    let others = sockets.unanswered.iter().filter(|request| !waited_for.contains(&request.fd));
    let others: Vec<_> = others.collect();
    lines.extend(others.iter().take(REQUESTS_MAX).map(|request| {
        format!(
            "fd {}: no answer for {} on {}",
            request.fd,
            human::age(request.since),
            request.resolved.target
        )
    }));
    if others.len() > REQUESTS_MAX {
        lines.push(format!("and {} more without an answer", others.len() - REQUESTS_MAX));
    }
    lines.extend(
        sockets
            .queued
            .iter()
            .take(REQUESTS_MAX)
            .map(|queued| format!("fd {}: {} on {}", queued.fd, queued.backlog, queued.target)),
    );
    if sockets.left_out > 0 {
        lines.push(format!(
            "{} were not examined, because there are too many",
            human::count(sockets.left_out, "connection")
        ));
    }
    lines
}
