//! The table of waits that `ps` prints: flat, with the stalls of large incidents folded, or as a tree of who waits for whom.

use std::{
    cmp::Reverse,
    io::{self, Write},
    time::Duration,
};

use hashbrown::{HashMap, HashSet};

use super::{
    incidents::{IncidentGroup, grouped},
    table::{Column, Table},
};
use crate::{
    util::human,
    wire::{culprit::program_name, host::SuspendedObject, json::WaitObject},
};

/// An incident with more stalls is folded.
const STALLS_MAX: usize = 10;
/// Stalls that are shown of one that is folded, the oldest.
const SHOWN_OF_FOLDED: usize = 3;
/// Blanks for each link of a chain.
const INDENT: usize = 2;
/// Stamps of two connections differ by so much at most.
const STAMPS_DIFFER: Duration = Duration::from_millis(20);

/// How waits are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitLayout {
    /// In which order, and what is left out.
    pub arrangement: Arrangement,
    /// Whether the columns have a heading.
    pub has_heading: bool,
}

/// How waits stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrangement {
    /// Incidents first, then the waits, of large incidents only the oldest.
    Folded,
    /// A line a wait, and nothing else.
    Flat,
    /// Waits below their incidents, and below the waits that theirs wait for.
    Tree,
}

/// What a line of the table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TableLine {
    /// The wait at this place, so many links from the culprit.
    Wait { at: usize, depth: usize },
    /// The incident at this place.
    Incident(usize),
    /// So many more waits of the incident at this place.
    Folded { incident: usize, number: usize },
    /// A blank one.
    Blank,
}

/// Writes these waits, the worst and oldest first; `held`: who is suspended, of culprits.
pub fn write(
    out: &mut impl Write,
    waits: &mut [WaitObject],
    layout: WaitLayout,
    held: &[SuspendedObject],
) -> io::Result<()> {
    if waits.is_empty() {
        return Ok(());
    }
    // The culprit is the first line: a pipe that has been silent for weeks comes after it.
    waits.sort_by_key(|wait| (wait.worry(), Reverse(wait.age)));
    let width = human::line_width();
    let WaitLayout { arrangement, has_heading } = layout;
    let groups = match arrangement {
        Arrangement::Flat => Vec::new(),
        Arrangement::Folded | Arrangement::Tree => grouped(waits),
    };
    let announced: Vec<&IncidentGroup<'_>> =
        groups.iter().filter(|group| group.is_announced() || group.is_suspended(held)).collect();
    let mut line = |text: &str| writeln!(out, "{}", human::for_terminal(text, width));
    if arrangement == Arrangement::Folded && !announced.is_empty() && has_heading {
        for text in announced.iter().flat_map(|group| group.lines(held, width)) {
            line(&text)?;
        }
        line("")?;
    }
    let lines = match arrangement {
        Arrangement::Tree => tree(waits, &announced),
        Arrangement::Flat | Arrangement::Folded => folded(waits.len(), &announced),
    };
    let names_peers = arrangement != Arrangement::Flat;
    let table = WaitTable::new(waits, &lines, width, names_peers);
    // In a tree it stands below the first culprit.
    let mut heading = has_heading.then(|| table.heading());
    for of in &lines {
        if matches!(of, TableLine::Wait { .. })
            && let Some(heading) = heading.take()
        {
            line(&heading)?;
        }
        match *of {
            TableLine::Wait { at, .. } => line(&table.row(&waits[at], at))?,
            TableLine::Incident(incident) => {
                for text in announced[incident].lines(held, width) {
                    line(&text)?;
                }
            }
            TableLine::Folded { incident, number } => line(&format!(
                "{}… and {number} more for {} (--flat lists them all)",
                " ".repeat(INDENT),
                announced[incident].culprit
            ))?,
            TableLine::Blank => line("")?,
        }
    }
    Ok(())
}

/// The waits of each incident, in the order of the lines above them, of large ones only the oldest; then all other waits.
fn folded(number: usize, announced: &[&IncidentGroup<'_>]) -> Vec<TableLine> {
    let mut lines = Vec::new();
    let line_of = |at: usize| TableLine::Wait { at, depth: 0 };
    for (incident, group) in announced.iter().enumerate() {
        let shown = if group.waits.len() > STALLS_MAX { SHOWN_OF_FOLDED } else { STALLS_MAX };
        let (shown, rest) = group.waits.split_at(shown.min(group.waits.len()));
        lines.extend(shown.iter().map(|at| line_of(*at)));
        if !rest.is_empty() {
            lines.push(TableLine::Folded { incident, number: rest.len() });
        }
    }
    let told: HashSet<usize> = announced.iter().flat_map(|group| &group.waits).copied().collect();
    lines.extend((0..number).filter(|at| !told.contains(at)).map(line_of));
    lines
}

/// The incidents with their waits, then all other waits.
fn tree(waits: &[WaitObject], announced: &[&IncidentGroup<'_>]) -> Vec<TableLine> {
    let mut lines = Vec::new();
    let mut shown: HashSet<usize> = HashSet::new();
    for (incident, group) in announced.iter().enumerate() {
        lines.push(TableLine::Incident(incident));
        lines.extend(chains(waits, &group.waits));
        lines.push(TableLine::Blank);
        shown.extend(&group.waits);
    }
    let others = (0..waits.len()).filter(|at| !shown.contains(at));
    lines.extend(others.map(|at| TableLine::Wait { at, depth: 0 }));
    if lines.last() == Some(&TableLine::Blank) {
        lines.pop();
    }
    lines
}

/// The waits of one incident, each below the one that it leads to.
fn chains(waits: &[WaitObject], of_incident: &[usize]) -> Vec<TableLine> {
    // By process, the oldest first.
    let mut of_process: HashMap<u32, Vec<usize>> = HashMap::new();
    for at in of_incident {
        of_process.entry(waits[*at].pid).or_default().push(*at);
    }
    for of in of_process.values_mut() {
        of.sort_by_key(|at| waits[*at].since);
    }
    let above = |at: usize| -> Option<usize> {
        let wait = &waits[at];
        let culprit = wait.culprit.as_ref()?;
        let through = culprit.behind.as_ref().or(culprit.through.as_ref())?;
        let of = of_process.get(&through.pid)?;
        if let Some(tid) = through.tid {
            return of.iter().copied().find(|at| waits[*at].tid == tid);
        }
        // It asked because it was asked: the one that began nearest and not before, as far as stamps tell, else the oldest.
        let began = |at: &usize| waits[*at].since;
        let distance = |at: &usize| began(at).duration_since(wait.since).unsigned_abs();
        let after = of.partition_point(|at| began(at) < wait.since);
        let before = after.checked_sub(1).and_then(|before| of.get(before)).copied();
        let before = before.filter(|before| distance(before) <= STAMPS_DIFFER);
        let nearest = before.into_iter().chain(of.get(after).copied()).min_by_key(distance);
        nearest.or_else(|| of.first().copied())
    };
    let mut below: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut roots = Vec::new();
    for at in of_incident {
        match above(*at).filter(|above| above != at) {
            Some(above) => below.entry(above).or_default().push(*at),
            None => roots.push(*at),
        }
    }
    let mut lines = Vec::with_capacity(of_incident.len());
    let mut seen: HashSet<usize> = HashSet::new();
    // Those of a circle are below each other: it begins at the oldest.
    for root in roots.iter().chain(of_incident) {
        let mut way = vec![(*root, 0)];
        while let Some((at, depth)) = way.pop() {
            if !seen.insert(at) {
                continue;
            }
            lines.push(TableLine::Wait { at, depth });
            way.extend(below.get(&at).into_iter().flatten().rev().map(|below| (*below, depth + 1)));
        }
    }
    lines
}

/// The table of those waits that are shown.
struct WaitTable {
    table: Table,
    cells: HashMap<usize, Vec<String>>,
    /// Columns that are left for the target.
    left: usize,
    names_peers: bool,
}

/// Columns of a wait's mark and the blank after it.
const MARK: usize = 2;

impl WaitTable {
    fn new(waits: &[WaitObject], lines: &[TableLine], width: Option<usize>, names_peers: bool) -> Self {
        let roomy = width.is_none_or(|width| width >= 120);
        let columns = [
            Column::number("AGE", 7, 7),
            Column::number("PID/TID", 7, 15),
            Column::text("COMMAND", 7, if roomy { 32 } else { 12 }),
            Column::text("CLASS", 8, 8),
            Column::text("SYSCALL", 7, 18),
        ];
        let cells = |wait: &WaitObject, depth: usize| {
            let command = " ".repeat(INDENT * depth) + &command(wait, roomy);
            vec![human::age(wait.age), wait.id(), command, wait.label().to_owned(), wait.call()]
        };
        let cells_of = |line: &TableLine| match *line {
            TableLine::Wait { at, depth } => Some((at, cells(&waits[at], depth))),
            TableLine::Incident(_) | TableLine::Folded { .. } | TableLine::Blank => None,
        };
        let cells: HashMap<usize, Vec<String>> = lines.iter().filter_map(cells_of).collect();
        let rows: Vec<Vec<String>> = cells.values().cloned().collect();
        let table = Table::new(columns, "TARGET", "  ", &rows);
        let left = width.map_or(usize::MAX, |width| width.saturating_sub(MARK + table.before_last()));
        Self { table, cells, left, names_peers }
    }

    fn heading(&self) -> String {
        " ".repeat(MARK) + &self.table.heading()
    }

    /// A line, with the mark of its level: a pipe that is only doubtful may be the oldest of all.
    fn row(&self, wait: &WaitObject, at: usize) -> String {
        let peer = wait.culprit.as_ref().and_then(|culprit| culprit.waited_for());
        let target = match peer.filter(|_| self.names_peers) {
            Some((id, comm)) => wait.target.fitted_with_peer(self.left, id, comm),
            None => wait.target.fitted(self.left),
        };
        format!("{} {}", wait.worry().mark(), self.table.row(&self.cells[&at], &target))
    }
}

/// The thread's name, of an interpreter what it runs; with room, the interpreter too, and the unit or container it belongs to.
fn command(wait: &WaitObject, roomy: bool) -> String {
    let script = wait.script();
    let name = match roomy {
        true => program_name(&wait.comm, script.as_deref()),
        false => human::clean(script.as_ref().unwrap_or(&wait.comm)),
    };
    match wait.home() {
        Some(home) if roomy => format!("{name} ({})", human::clean(home)),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{
        model::class::Class,
        top::samples::wait,
        util::growth,
        wire::culprit::{CulpritKind, CulpritObject, PartyObject},
    };

    /// A wait for process 9, by way of another if one is named.
    fn due(pid: u32, seconds: u64, through: Option<u32>) -> WaitObject {
        let through = through.map(|pid| PartyObject { pid, tid: None, comm: "proxy".into(), script: None });
        let culprit = CulpritObject {
            pid: Some(9),
            comm: Some("postgres".into()),
            through,
            ..CulpritObject::of_kind(CulpritKind::Process)
        };
        let wait = wait(pid, "client", Class::Reply, seconds);
        let since = Timestamp::UNIX_EPOCH - Duration::from_secs(seconds);
        WaitObject { culprit: Some(Box::new(culprit)), since, ..wait }
    }

    fn written(waits: &mut [WaitObject], arrangement: Arrangement) -> Vec<String> {
        let mut out = Vec::new();
        write(&mut out, waits, WaitLayout { arrangement, has_heading: true }, &[]).expect("it is memory");
        String::from_utf8(out).expect("text").lines().map(str::to_owned).collect()
    }

    #[test]
    fn an_incident_of_many_is_a_line_and_its_oldest() {
        let mut waits: Vec<WaitObject> = (0..24).map(|at| due(100 + at, 200 - u64::from(at), None)).collect();
        waits.push(wait(1, "alone", Class::Reply, 7));
        let lines = written(&mut waits, Arrangement::Folded);
        let first = "postgres (pid 9) holds up 24 processes, the oldest for 3m 20s";
        assert_eq!(lines[0], format!("{first}; next: tracer why 9"));
        assert_eq!(lines[1], "");
        assert!(lines[2].trim_start().starts_with("AGE"), "{lines:#?}");
        assert!(lines[3].contains(" 100 ") && lines[5].contains(" 102 "), "{lines:#?}");
        assert_eq!(lines[6], "  … and 21 more for postgres (pid 9) (--flat lists them all)");
        assert!(lines[7].contains("alone") && lines.len() == 8, "{lines:#?}");
    }

    #[test]
    fn few_are_listed_and_one_is_as_it_was() {
        let mut few: Vec<WaitObject> = (0..10).map(|at| due(100 + at, 20, None)).collect();
        assert_eq!(written(&mut few, Arrangement::Folded).len(), 2 + 1 + 10);
        let mut one = [due(100, 20, None)];
        let lines = written(&mut one, Arrangement::Folded);
        assert_eq!(lines.len(), 2, "{lines:#?}");
        assert!(lines[1].starts_with("! "), "{lines:#?}");
        assert!(lines[1].ends_with("tcp 10.0.0.1:59720 → 10.0.0.2:443 (postgres 9)"), "{lines:#?}");
    }

    #[test]
    fn flat_knows_no_incidents() {
        let mut with: Vec<WaitObject> = (0..24).map(|at| due(100 + at, 20, Some(5))).collect();
        let mut without: Vec<WaitObject> =
            with.iter().map(|wait| WaitObject { culprit: None, ..wait.clone() }).collect();
        let flat = written(&mut with, Arrangement::Flat);
        assert_eq!(flat, written(&mut without, Arrangement::Flat));
        assert_eq!(flat, written(&mut without, Arrangement::Folded), "and nor does who has none");
    }

    /// Who asks is below the request that was made for it.
    #[test]
    fn a_tree_has_chains() {
        let request = |seconds| WaitObject { tid: 0, comm: "proxy".into(), ..due(5, seconds, None) };
        let mut waits = [
            due(100, 30, Some(5)),
            due(101, 20, Some(5)),
            request(30),
            request(20),
            due(7, 10, None),
            wait(1, "alone", Class::Reply, 7),
        ];
        let lines = written(&mut waits, Arrangement::Tree);
        let commands: Vec<String> =
            lines[2..].iter().map(|line| line.chars().skip(MARK + 18).take(10).collect()).collect();
        assert!(lines[1].trim_start().starts_with("AGE"), "{lines:#?}");
        assert!(lines[0].starts_with("postgres (pid 9) holds up 5 waits of 4 processes"), "{lines:#?}");
        let seen: Vec<&str> = commands.iter().map(|command| command.trim_end()).collect();
        assert_eq!(seen, ["proxy", "  client", "proxy", "  client", "client", "", "alone"], "{lines:#?}");
    }

    /// Those of a circle have nobody above them.
    #[test]
    fn a_circle_is_written_whole() {
        let mut waits = [due(5, 30, Some(6)), due(6, 20, Some(5)), due(7, 10, Some(6))];
        let lines = written(&mut waits, Arrangement::Tree);
        assert_eq!(lines.len(), 1 + 1 + 3, "{lines:#?}");
    }

    #[test]
    fn a_tree_is_made_in_linear_time() {
        let proxy = |number: usize| -> Vec<WaitObject> {
            let clients = (0..number as u32).map(|at| due(100 + at, u64::from(at), Some(5)));
            clients.chain((0..number as u32).map(|at| due(5, u64::from(at), None))).collect()
        };
        growth::assert_linear("chains", proxy, |waits| {
            let groups = grouped(&waits);
            assert_eq!(chains(&waits, &groups[0].waits).len(), waits.len());
        });
    }
}
