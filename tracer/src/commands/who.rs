//! Which process does somebody mean who gives a number, a name, a script or a systemd unit?

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io::Write,
    time::Duration,
};

use anyhow::{Result, bail, ensure};

use super::ps::gather::{page_from_agent, page_from_source, processes_called, processes_running};
use crate::{
    config::{
        cli::{Ps, SourceArgs},
        rule,
        selection::WaitSelection,
    },
    model::class::{Class, Level},
    procfs::{Reads, by_pid},
    render::table::{Column, Table},
    resolve::process::read_cmdline,
    serve::feed::Feed,
    util::{human, output::output},
    wire::{culprit::CulpritObject, json::WaitObject},
};

/// What is known of a process that may be meant.
struct MeantProcess {
    /// The worst of its waits: how much it worries, its class and its age.
    worst: Option<(Level, Option<Class>, Duration)>,
    /// Who is to blame for that one.
    culprit: Option<Box<CulpritObject>>,
    cmdline: String,
}

/// What is done about several processes that may be meant and wait for the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfOneIncident {
    /// The one that has waited longest is meant: to look at it explains them all.
    Oldest,
    /// They are listed: what is done is done to one of them.
    Ask,
}

/// The process or thread that is meant: the one with this number, the only one with this name, that runs this script or is of this unit, or
/// the only one of these that is stuck.
///
/// # Errors
/// There is none, or there are several; these have been listed by then.
pub fn meant(text: &str, of_one: OfOneIncident, feed: &mut Feed, place: &SourceArgs) -> Result<u32> {
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
            candidates.entry(pid).or_insert_with(|| MeantProcess::at_work(pid));
        }
    }
    if candidates.is_empty() {
        let pids = processes_running(text);
        if !pids.is_empty() {
            candidates =
                waiting(WaitSelection { pid: pids.clone(), ..WaitSelection::default() }, feed, place)?;
        }
        for pid in pids {
            candidates.entry(pid).or_insert_with(|| MeantProcess::at_work(pid));
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
    let stuck: Vec<(u32, &MeantProcess)> =
        candidates.iter().filter(|(_, of)| is_stuck(of)).map(|(pid, of)| (*pid, of)).collect();
    let number = candidates.len();
    if let [(pid, _)] = stuck[..] {
        human::say(&format!("of {number} processes called \"{text}\", {pid} is the only one that is stuck"));
        return Ok(pid);
    }
    if of_one == OfOneIncident::Oldest
        && let Some(pid) = oldest_of_one_incident(&stuck)
    {
        let others = stuck.len() - 1;
        human::say(&format!(
            "of {number} processes called \"{text}\", {pid} has waited longest; {others} more {} for the same",
            if others == 1 { "waits" } else { "wait" }
        ));
        return Ok(pid);
    }
    list(&candidates)?;
    bail!("{number} processes are called \"{text}\": give the pid of one of them")
}

/// Of processes that all wait because of one culprit, the one that has waited longest.
fn oldest_of_one_incident(stuck: &[(u32, &MeantProcess)]) -> Option<u32> {
    let (_, first) = stuck.first()?;
    let culprit = first.culprit.as_ref()?;
    let is_same = |of: &MeantProcess| of.culprit.as_ref().is_some_and(|of| of.key() == culprit.key());
    if !stuck.iter().all(|(_, of)| is_same(of)) {
        return None;
    }
    stuck.iter().max_by_key(|(_, of)| of.worst.map(|(_, _, age)| age)).map(|(pid, _)| *pid)
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
        match candidates.entry(pid) {
            Entry::Vacant(place) => drop(place.insert(now)),
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                if known.worst.is_none_or(|worst| now.worst.is_some_and(|now| is_worse(now, worst))) {
                    *known = now;
                }
            }
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
        Self { worst: Some(worst), culprit: wait.culprit, cmdline: wait.cmdline.unwrap_or(wait.comm) }
    }

    /// One that has no waits.
    fn at_work(pid: u32) -> Self {
        let cmdline = read_cmdline(by_pid(pid), &mut Reads::new()).unwrap_or_default();
        Self { worst: None, culprit: None, cmdline }
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
