//! `tracer ps`: what is waiting now, as a table or as JSON.

pub mod gather;
mod requests;

use std::{
    cmp::Reverse,
    io::{self, IsTerminal, Write},
    thread::sleep,
};

use anyhow::Result;
use jiff::{Timestamp, tz::TimeZone};

use self::gather::{Flagged, PsPage, check_names, page_from_agent, page_from_source, pick, unseen_processes};
use crate::{
    config::cli::Ps,
    history,
    model::class::Level,
    model::wait::Suspended,
    render::layout::paragraph,
    render::waits::{self, Arrangement, WaitLayout},
    serve::{
        client::AgentClient,
        feed::{self, Feed},
    },
    util::human,
    util::output::output,
    wire::json::WaitObject,
    wire::lines,
    wire::stall::Past,
};

/// Moves a terminal's cursor to its first place, and clears the screen.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Looks once, or again and again, and prints; the status that `--exit-code` asks for, else 0.
pub fn run(args: &Ps) -> Result<u8> {
    if let Some(at) = args.at {
        return page_from_history(args, at);
    }
    let (mut feed, why_not_better) = feed::open(&args.place)?;
    let Some(interval) = args.watch else {
        let page = look(args, &mut feed, why_not_better)?;
        check_names(&args.selection, &page)?;
        return print(args, page, "");
    };
    let clear = if io::stdout().is_terminal() && !args.json { CLEAR } else { "" };
    loop {
        let page = look(args, &mut feed, why_not_better.clone())?;
        print(args, page, clear)?;
        sleep(interval);
    }
}

fn look(args: &Ps, feed: &mut Feed, why_not_better: Option<String>) -> Result<PsPage> {
    let page = match feed {
        Feed::Own(source) => page_from_source(args, &mut **source)?,
        Feed::Agent(client) => page_from_agent(args, client)?,
    };
    Ok(PsPage { why_not_better, is_selected: args.selection.is_given(), ..page })
}

/// Prints it after `before`, and returns the status to exit with.
fn print(args: &Ps, mut page: PsPage, before: &str) -> Result<u8> {
    let status = status(args, &page.waits);
    let out = &mut output();
    out.write_all(before.as_bytes())?;
    if args.json {
        objects(out, page.waits)?;
    } else {
        waits::write(out, &mut page.waits, layout(args), &page.held)?;
        requests::outgoing(out, &page.requests)?;
        requests::incoming(out, &page.incoming)?;
        requests::unclosed(out, &page.unclosed)?;
        if !(page.requests.is_empty() && page.incoming.is_empty() && page.unclosed.is_empty()) {
            writeln!(out)?;
        }
        if !args.no_header {
            footer(out, &page)?;
        }
    }
    out.flush()?;
    Ok(status)
}

/// What `--exit-code` asks for, by the worst of the waits that are listed.
fn status(args: &Ps, waits: &[WaitObject]) -> u8 {
    let worst = waits.iter().map(WaitObject::worry).min().unwrap_or(Level::Idle);
    args.exit_code.map_or(0, |whose| whose.found(worst))
}

/// One object a line, the oldest first.
fn objects(out: &mut impl Write, mut waits: Vec<WaitObject>) -> Result<()> {
    waits.sort_by_key(|wait| Reverse(wait.age));
    for wait in &waits {
        lines::write(out, wait)?;
    }
    Ok(())
}

/// How waits are to be laid out.
fn layout(args: &Ps) -> WaitLayout {
    let arrangement = match (args.flat, args.tree) {
        (true, _) => Arrangement::Flat,
        (false, true) => Arrangement::Tree,
        (false, false) => Arrangement::Folded,
    };
    WaitLayout { arrangement, has_heading: !args.no_header }
}

/// What waited at a moment that is over.
fn page_from_history(args: &Ps, at: Timestamp) -> Result<u8> {
    let Past { at: seen, waits } = match AgentClient::connect(&args.place.socket) {
        Ok(client) => client.object(&format!("/v1/waits?at={at}"))?,
        Err(refusal) => history::left(&args.place.state_dir, refusal.without_history())?.waits_at(at)?,
    };
    let (mut waits, _) = pick(args, waits, &Flagged::new());
    let status = status(args, &waits);
    let out = &mut output();
    if args.json {
        objects(out, waits)?;
    } else {
        waits::write(out, &mut waits, layout(args), &[])?;
        let when = |at: Timestamp| at.to_zoned(TimeZone::system()).strftime("%F %T %:z").to_string();
        match seen {
            Some(seen) => writeln!(
                out,
                "{} at {}, as the agent saw it at {}; it records the worst waits once a minute.",
                tally(&waits),
                when(at),
                when(seen)
            )?,
            None => writeln!(
                out,
                "The agent's history has no snapshot for {}; only stalls open then are shown, if any.",
                when(at)
            )?,
        }
    }
    out.flush()?;
    Ok(status)
}

/// `2 stuck, 1 doubtful`.
fn tally(waits: &[WaitObject]) -> String {
    let of = |level| waits.iter().filter(|wait| wait.worry() == level).count();
    match (of(Level::Stuck), of(Level::Doubtful)) {
        (0, 0) => "Nothing is stuck".to_owned(),
        (0, doubtful) => format!("Nothing is stuck, {doubtful} doubtful"),
        (stuck, 0) => format!("{stuck} stuck"),
        (stuck, doubtful) => format!("{stuck} stuck, {doubtful} doubtful"),
    }
}

fn footer(out: &mut impl Write, page: &PsPage) -> io::Result<()> {
    // Of what an agent sees by /proc it has said so itself.
    let is_partial = page.why_not_better.is_some() || page.source == "proc";
    let unseen = if page.source == "proc" { unseen_processes() } else { 0 };
    let tally = match page.waits.is_empty() && page.hidden.text().is_none() {
        true if page.is_selected => "No wait matches".into(),
        _ => tally(&page.waits),
    };
    let mut parts = vec![match unseen {
        0 => tally,
        _ => tally.replace("Nothing is stuck", "Nothing of yours is stuck"),
    }];
    if unseen > 0 {
        parts.push(match unseen {
            1 => "1 process of another user is not visible".into(),
            unseen => format!("{unseen} processes of other users are not visible"),
        });
    }
    if page.flagged > 0 {
        parts.push(format!("{} flagged by the agent", page.flagged));
    }
    if let Some(hidden) = page.hidden.text() {
        parts.push(format!("{hidden} hidden (--all shows them)"));
    }
    for (by, word) in
        [(Suspended::Stopped, "stopped"), (Suspended::Traced, "traced"), (Suspended::Frozen, "frozen")]
    {
        let number = page.held.iter().filter(|held| held.by == by).count();
        if number > 0 {
            parts.push(format!("{} {word}", human::count(number, "thread")));
        }
    }
    // Kernel programs of its own are what is expected.
    match page.source.as_str() {
        "bpf" => {}
        "proc" => parts.push("seen through /proc".into()),
        "bpf, by the agent" => parts.push("as the agent sees it".into()),
        _ => parts.push("as the agent sees it, through /proc".into()),
    }
    paragraph(out, &format!("{}.", parts.join("; ")))?;
    if let Some(why) = &page.agent_silent {
        paragraph(out, &format!("Cannot tell what the agent has flagged: {why}."))?;
    }
    if !is_partial {
        return Ok(());
    }
    let guessed = match page.guessed {
        0 => String::new(),
        number => {
            format!("; the system call of {} is hidden ({})", human::count(number, "wait"), hidden_by())
        }
    };
    let reason = page.why_not_better.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    paragraph(
        out,
        &format!("Ages are lower bounds, and other users' processes may be missing{guessed}{reason}."),
    )
}

/// Who keeps `/proc/PID/syscall` from whom it would tell more: the right to attach a debugger is asked for.
fn hidden_by() -> &'static str {
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    match scope.trim() {
        "" | "0" => "reading it takes the right to trace the process",
        _ => "Yama's ptrace_scope",
    }
}
