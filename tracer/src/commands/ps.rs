//! `tracer ps`: what is waiting now, as a table or as JSON.

use std::{
    cmp::Reverse,
    io::{self, BufWriter, IsTerminal, Write},
    sync::Arc,
};

use anyhow::Result;

use crate::{
    class::{Class, Level},
    cli::Ps,
    collect::Source,
    export::json::WaitObject,
    human,
    look::{self, Judged},
    resolve::{Resolved, Resolver, process::Who},
    verdict::Verdict,
    wait::{Held, Snapshot, Wait},
};

/// One line of the table.
struct Row {
    wait: Wait,
    resolved: Resolved,
    verdict: Verdict,
    who: Arc<Who>,
}

/// Looks once and prints.
pub fn run(args: &Ps) -> Result<()> {
    let (mut source, why_not_bpf) = look::open(args.source)?;
    let mut snapshot = look::snapshot(&mut *source, args.min_age)?;
    let waits = std::mem::take(&mut snapshot.waits);
    let (mut rows, idle) = rows(args, &waits, &mut *source)?;
    let out = &mut BufWriter::new(io::stdout().lock());
    if args.json {
        rows.sort_by_key(|row| Reverse(row.wait.age));
        for row in &rows {
            serde_json::to_writer(
                &mut *out,
                &WaitObject::new(&row.wait, &row.resolved, &row.verdict, &row.who),
            )?;
            out.write_all(b"\n")?;
        }
    } else {
        // The culprit is the first line: a pipe that has been silent for weeks comes after it.
        rows.sort_by_key(|row| (row.verdict.class.level(), Reverse(row.wait.age)));
        table(out, &rows)?;
        footer(out, args, &snapshot, &rows, idle, why_not_bpf.as_deref())?;
    }
    out.flush()?;
    Ok(())
}

/// The rows to show, in no order, and how many idle waits are left out.
fn rows(args: &Ps, all: &[Wait], source: &mut dyn Source) -> Result<(Vec<Row>, usize)> {
    let waits: Vec<Wait> = all
        .iter()
        .filter(|wait| args.pid.is_empty() || args.pid.contains(&wait.thread.process.pid))
        .filter(|wait| args.comm.as_ref().is_none_or(|comm| *comm == wait.comm))
        .filter(|wait| wait.age >= args.min_age || look::may_be_older(wait))
        .cloned()
        .collect();
    let wanted = |class: Class| match args.class[..] {
        [] => args.all || class.level() != Level::Idle,
        _ => args.class.contains(&class),
    };
    // Who is at the other end of what worries, or may worry once that is known.
    let weigh = |wait: &Wait, class: Class| {
        wait.age >= args.min_age && (class.level() != Level::Idle || wanted(class) && args.all)
    };
    let mut resolver = Resolver::new();
    let mut rows = look::judge(waits, all, &mut resolver, source, weigh)?;
    rows.retain(|row| row.wait.age >= args.min_age);
    let idle = rows.iter().filter(|row| row.verdict.class.level() == Level::Idle);
    let idle = idle.filter(|row| !wanted(row.verdict.class)).count();
    rows.retain(|row| wanted(row.verdict.class));
    let row = |Judged { wait, resolved, verdict }| {
        let who = resolver.who(wait.thread.process);
        Row { wait, resolved, verdict, who }
    };
    Ok((rows.into_iter().map(row).collect(), idle))
}

/// Widths of the columns before the last.
const AGE: usize = 7;
const PID: usize = 7;
const CLASS: usize = 8;

fn table(out: &mut impl Write, rows: &[Row]) -> io::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    // Not a terminal: nothing is cut.
    let width = io::stdout().is_terminal().then(human::terminal_width);
    let roomy = width.is_none_or(|width| width >= 120);
    let comms: Vec<String> = rows.iter().map(|row| command(row, roomy)).collect();
    let calls: Vec<String> = rows.iter().map(call).collect();
    let ids: Vec<String> = rows.iter().map(|row| id(&row.wait)).collect();
    let widest = |texts: &[String], least: usize, most: usize| {
        texts.iter().map(|text| human::columns(text)).max().unwrap_or(0).clamp(least, most)
    };
    let (ids_width, comm_width, call_width) =
        (widest(&ids, PID, 15), widest(&comms, 7, if roomy { 32 } else { 12 }), widest(&calls, 7, 18));
    line(
        out,
        width,
        &format!(
            "{:>AGE$}  {:>ids_width$}  {}  {:CLASS$}  {}  TARGET",
            "AGE",
            "PID/TID",
            pad("COMMAND", comm_width),
            "CLASS",
            pad("SYSCALL", call_width)
        ),
    )?;
    let before = AGE + ids_width + comm_width + CLASS + call_width + 5 * 2;
    let target_width = width.map_or(usize::MAX, |width| width.saturating_sub(before));
    for (((row, comm), call), id) in rows.iter().zip(&comms).zip(&calls).zip(&ids) {
        line(
            out,
            width,
            &format!(
                "{:>AGE$}  {id:>ids_width$}  {}  {:CLASS$}  {}  {}",
                human::age(row.wait.age),
                pad(&human::fit(comm, comm_width), comm_width),
                row.verdict.class.label(),
                pad(&human::fit(call, call_width), call_width),
                row.resolved.target.fitted(target_width),
            ),
        )?;
    }
    Ok(())
}

/// A line, cut to the terminal's width.
fn line(out: &mut impl Write, width: Option<usize>, text: &str) -> io::Result<()> {
    let text = text.trim_end();
    match width {
        Some(width) => writeln!(out, "{}", human::fit(text, width)),
        None => writeln!(out, "{text}"),
    }
}

/// `{:<width$}` for strings that may have wide characters.
fn pad(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(human::columns(text))))
}

/// `PID`, or `PID/TID` for a thread that is not the first of its process.
fn id(wait: &Wait) -> String {
    let (pid, tid) = (wait.thread.process.pid, wait.thread.tid);
    if pid == tid { pid.to_string() } else { format!("{pid}/{tid}") }
}

/// The thread's name; with room, the unit or container it belongs to.
fn command(row: &Row, roomy: bool) -> String {
    let comm = human::clean(&row.wait.comm);
    let home = row.who.container.as_deref().map(|id| id.get(..12).unwrap_or(id)).or(row.who.unit.as_deref());
    match home {
        Some(home) if roomy => format!("{comm} ({})", human::clean(home)),
        _ => comm,
    }
}

/// `recvfrom(13)`, or the call alone where it has no fd.
fn call(row: &Row) -> String {
    match row.resolved.fd {
        Some(fd) => format!("{}({fd})", row.wait.call.name),
        None => row.wait.call.name.to_owned(),
    }
}

fn footer(
    out: &mut impl Write,
    args: &Ps,
    snapshot: &Snapshot,
    rows: &[Row],
    idle: usize,
    why_not_bpf: Option<&str>,
) -> io::Result<()> {
    let stuck = rows.iter().filter(|row| row.verdict.class.level() == Level::Stuck).count();
    let doubtful = rows.iter().filter(|row| row.verdict.class.level() == Level::Doubtful).count();
    let mut parts = vec![match (stuck, doubtful) {
        (0, 0) => "Nothing is stuck".to_owned(),
        (0, _) => format!("Nothing is stuck, {doubtful} doubtful"),
        (_, 0) => format!("{stuck} stuck"),
        _ => format!("{stuck} stuck, {doubtful} doubtful"),
    }];
    if idle > 0 {
        parts.push(format!("{} hidden (--all shows them)", human::count(idle, "idle wait")));
    }
    for (held, word) in [(Held::Stopped, "stopped"), (Held::Traced, "traced"), (Held::Frozen, "frozen")] {
        let number = snapshot
            .held
            .iter()
            .filter(|thread| thread.held == held)
            .filter(|thread| args.pid.is_empty() || args.pid.contains(&thread.thread.process.pid))
            .count();
        if number > 0 {
            parts.push(format!("{} {word}", human::count(number, "thread")));
        }
    }
    parts.push(format!("source {}", snapshot.source));
    writeln!(out, "{}.", parts.join("; "))?;
    if let Some(reason) = why_not_bpf {
        let guessed = match snapshot.guessed {
            0 => String::new(),
            number => format!(
                ", and of {} only the kernel function it sleeps in is shown (Yama's ptrace_scope)",
                human::count(number, "wait")
            ),
        };
        writeln!(
            out,
            "Ages are least values, other users' processes may be missing{guessed}: {}.",
            human::clean(reason)
        )?;
    }
    Ok(())
}
