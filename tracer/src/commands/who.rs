//! Which process does somebody mean who gives a number, a name or a systemd unit?

use std::{collections::BTreeMap, io::Write, time::Duration};

use anyhow::{Result, bail, ensure};

use super::ps::gather::{page_from_agent, page_from_source, processes_called};
use crate::{
    config::{
        cli::{Ps, SourceArgs},
        rule,
        selection::WaitSelection,
    },
    model::class::{Class, Level},
    render::table::{Column, Table},
    serve::feed::Feed,
    util::{human, output::output},
    wire::json::WaitObject,
};

/// What is known of a process that may be meant.
struct MeantProcess {
    /// The worst of its waits: how much it worries, its class and its age.
    worst: Option<(Level, Option<Class>, Duration)>,
    cmdline: String,
}

/// The process or thread that is meant: the one with this number, the only one with this name or of this unit, or the only one of
/// these that is stuck.
///
/// # Errors
/// There is none, or there are several; these have been listed by then.
pub fn meant(text: &str, feed: &mut Feed, place: &SourceArgs) -> Result<u32> {
    if text.bytes().all(|byte| byte.is_ascii_digit())
        && let Ok(id) = text.parse()
    {
        return Ok(id);
    }
    let mut candidates = BTreeMap::new();
    // The kernel keeps so many bytes of a name.
    if let Ok(name) = rule::comm(&text[..text.floor_char_boundary(rule::LONGEST_COMM)]) {
        candidates =
            waiting(WaitSelection { comm: vec![name.clone()], ..WaitSelection::default() }, feed, place)?;
        for pid in processes_called(&name) {
            candidates.entry(pid).or_insert(MeantProcess { worst: None, cmdline: String::new() });
        }
    }
    if candidates.is_empty()
        && let Ok(unit) = rule::unit(text)
    {
        candidates = waiting(WaitSelection { unit: vec![unit], ..WaitSelection::default() }, feed, place)?;
    }
    ensure!(!candidates.is_empty(), "no process, and no systemd unit with processes, is called \"{text}\"");
    if let Some(pid) = only(candidates.keys().copied()) {
        return Ok(pid);
    }
    let is_stuck = |candidate: &MeantProcess| matches!(candidate.worst, Some((Level::Stuck, ..)));
    let stuck = candidates.iter().filter(|(_, candidate)| is_stuck(candidate)).map(|(pid, _)| *pid);
    let number = candidates.len();
    if let Some(pid) = only(stuck) {
        human::say(&format!("of {number} processes called \"{text}\", {pid} is the only one that is stuck"));
        return Ok(pid);
    }
    list(&candidates)?;
    bail!("{number} processes are called \"{text}\": give the pid of one of them")
}

/// The one that there is, if there is only one.
fn only(mut of: impl Iterator<Item = u32>) -> Option<u32> {
    of.next().filter(|_| of.next().is_none())
}

/// Processes with waits that are selected.
fn waiting(
    selection: WaitSelection,
    feed: &mut Feed,
    place: &SourceArgs,
) -> Result<BTreeMap<u32, MeantProcess>> {
    let args = Ps::everything(selection, place.clone());
    let page = match feed {
        Feed::Own(source) => page_from_source(&args, &mut **source)?,
        Feed::Agent(client) => page_from_agent(&args, client)?,
    };
    let mut candidates: BTreeMap<u32, MeantProcess> = BTreeMap::new();
    for wait in page.waits {
        let pid = wait.pid;
        let now = MeantProcess::of(wait);
        let known = candidates.entry(pid).or_insert(MeantProcess { worst: None, ..now });
        if known.worst.is_none_or(|worst| now.worst.is_some_and(|now| is_worse(now, worst))) {
            known.worst = now.worst;
        }
    }
    Ok(candidates)
}

fn is_worse(one: (Level, Option<Class>, Duration), other: (Level, Option<Class>, Duration)) -> bool {
    (one.0, std::cmp::Reverse(one.2)) < (other.0, std::cmp::Reverse(other.2))
}

impl MeantProcess {
    fn of(wait: WaitObject) -> Self {
        let worst = (wait.worry(), wait.class, wait.age);
        Self { worst: Some(worst), cmdline: wait.cmdline.unwrap_or(wait.comm) }
    }
}

/// The worst first.
fn list(candidates: &BTreeMap<u32, MeantProcess>) -> Result<()> {
    let mut sorted: Vec<(&u32, &MeantProcess)> = candidates.iter().collect();
    sorted.sort_by_key(|(_, of)| {
        let (level, _, age) = of.worst.unwrap_or((Level::Idle, None, Duration::ZERO));
        (level, std::cmp::Reverse(age))
    });
    let cells: Vec<Vec<String>> = sorted
        .iter()
        .map(|(pid, of)| {
            let (class, age) = match of.worst {
                Some((_, class, age)) => (class.map_or("-", Class::label), human::age(age)),
                None => ("-", "-".into()),
            };
            vec![age, pid.to_string(), class.into()]
        })
        .collect();
    let columns = [Column::number("AGE", 7, 7), Column::number("PID", 7, 10), Column::text("CLASS", 8, 10)];
    let table = Table::new(columns, "COMMAND LINE", "  ", &cells);
    let (mut out, width) = (output(), human::line_width());
    writeln!(out, "{}", human::for_terminal(&table.heading(), width))?;
    for ((_, of), cells) in sorted.iter().zip(&cells) {
        writeln!(out, "{}", human::for_terminal(&table.row(cells, &human::clean(&of.cmdline)), width))?;
    }
    Ok(out.flush()?)
}
