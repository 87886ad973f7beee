//! `tracer stalls`: what was stuck in the last hours, as the agent has kept it.

use std::{
    collections::{BTreeMap, HashSet},
    io::{self, Write},
};

use anyhow::Result;
use jiff::{Timestamp, tz::TimeZone};

use crate::{
    config::cli::Stalls,
    history,
    render::layout,
    render::table::{Column, Table},
    serve::client::AgentClient,
    util::human,
    util::output::output,
    wire::culprit::program_name,
    wire::lines,
    wire::stall::StallObject,
};

/// Of an incident with more stalls only the oldest are listed.
const STALLS_MAX: usize = 10;
/// So many.
const SHOWN_OF_LARGE: usize = 3;

/// Asks the agent, or reads what one has left, and prints.
pub fn run(args: &Stalls) -> Result<()> {
    let (stalls, as_of): (Vec<StallObject>, _) = match AgentClient::connect(&args.socket) {
        Ok(client) => (client.objects(&format!("/v1/stalls?since={}", args.since))?, None),
        Err(refusal) => {
            let left = history::left(&args.state_dir, refusal.without_history())?;
            (left.stalls_since(args.since)?, left.last_alive()?)
        }
    };
    let out = &mut output();
    for stall in &stalls {
        if args.json {
            lines::write(out, stall)?;
        }
    }
    if !args.json {
        table(out, &stalls, args.flat, human::line_width())?;
        let open = stalls.iter().filter(|stall| stall.closed.is_none()).count();
        let of_them = if stalls.len() == 1 { "" } else { " of them" };
        let open = match (stalls.len(), open, as_of) {
            (0, ..) => String::new(),
            (_, 0, _) => ", none open".into(),
            (_, open, None) => format!(", {open}{of_them} open"),
            (_, open, Some(at)) => {
                format!(", {open}{of_them} open when the agent last wrote, {}", moment(at))
            }
        };
        let no_agent = if as_of.is_some() { ". No agent is running" } else { "" };
        let stalls = human::count(stalls.len(), "stall");
        layout::paragraph(out, &format!("{stalls} since {}{open}{no_agent}.", moment(args.since)))?;
    }
    out.flush()?;
    Ok(())
}

/// To the second, by this host's clock.
fn moment(at: Timestamp) -> String {
    at.to_zoned(TimeZone::system()).strftime("%F %T").to_string()
}

/// What is known of an incident by its stalls.
struct PastIncident<'a> {
    name: &'a str,
    /// The places of its stalls, the oldest first.
    stalls: Vec<usize>,
    processes: usize,
    since: Timestamp,
    until: Timestamp,
    is_open: bool,
}

/// Those with several stalls, the oldest first.
fn incidents(stalls: &[StallObject]) -> Vec<PastIncident<'_>> {
    let mut by_id: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, stall) in stalls.iter().enumerate() {
        if let Some(incident) = &stall.incident {
            by_id.entry(&incident.id).or_default().push(at);
        }
    }
    by_id.retain(|_, stalls| stalls.len() > 1);
    let mut incidents: Vec<PastIncident<'_>> = by_id
        .into_values()
        .filter_map(|places| {
            let of = || places.iter().map(|at| &stalls[*at]);
            // What was known of it last.
            let name =
                &of().max_by_key(|stall| stall.closed.unwrap_or(Timestamp::MAX))?.incident.as_ref()?.name;
            let processes: HashSet<_> = of().map(|stall| (stall.wait.pid, stall.wait.start_ticks)).collect();
            Some(PastIncident {
                name,
                processes: processes.len(),
                since: of().map(|stall| stall.wait.since).min()?,
                until: of().map(|stall| stall.wait.since + stall.lasted).max()?,
                is_open: of().any(|stall| stall.closed.is_none()),
                stalls: places,
            })
        })
        .collect();
    incidents.sort_by_key(|incident| incident.since);
    incidents
}

impl PastIncident<'_> {
    /// `2026-11-30 03:12:04      12m  postgres (pid 812) held up 24 waits of 5 processes`.
    fn line(&self) -> String {
        let Self { name, since, until, processes, .. } = self;
        let lasted = until.duration_since(*since).try_into().unwrap_or_default();
        let verb = if self.is_open { "holds up" } else { "held up" };
        let waits = human::count(self.stalls.len(), "wait");
        let of = if *processes == 1 { "1 process".into() } else { format!("{processes} processes") };
        format!(
            "{}  {:>8}  {} {verb} {waits} of {of}",
            moment(*since),
            human::age(lasted),
            human::clean(name)
        )
    }
}

/// The incidents, then the stalls, on lines at most so wide.
fn table(
    out: &mut impl Write,
    stalls: &[StallObject],
    is_flat: bool,
    width: Option<usize>,
) -> io::Result<()> {
    if stalls.is_empty() {
        return Ok(());
    }
    let incidents = if is_flat { Vec::new() } else { incidents(stalls) };
    for incident in &incidents {
        writeln!(out, "{}", human::for_terminal(&incident.line(), width))?;
    }
    if !incidents.is_empty() {
        writeln!(out)?;
    }
    let is_narrow = width.is_some_and(|width| width < ROOMY);
    let (columns, cells): (Vec<Column>, Vec<Vec<String>>) = match is_narrow {
        true => (NARROW.to_vec(), stalls.iter().map(narrow_cells).collect()),
        false => (WIDE.to_vec(), stalls.iter().map(wide_cells).collect()),
    };
    let table = Table::new(columns, "TARGET", "  ", &cells);
    let left = width.map_or(usize::MAX, |width| width.saturating_sub(table.before_last()));
    writeln!(out, "{}", human::for_terminal(&table.heading(), width))?;
    let large = incidents.iter().filter(|incident| incident.stalls.len() > STALLS_MAX);
    let left_out: HashSet<usize> =
        large.clone().flat_map(|incident| incident.stalls.iter().skip(SHOWN_OF_LARGE).copied()).collect();
    for (at, (stall, cells)) in stalls.iter().zip(&cells).enumerate() {
        if left_out.contains(&at) {
            continue;
        }
        writeln!(out, "{}", human::for_terminal(&table.row(cells, &target(stall, left)), width))?;
    }
    for incident in large {
        let (more, name) = (incident.stalls.len() - SHOWN_OF_LARGE, human::clean(incident.name));
        let line = format!("… and {more} more of {name} (--flat lists them all)");
        writeln!(out, "{}", human::for_terminal(&line, width))?;
    }
    Ok(())
}

/// From so many columns on all is shown.
const ROOMY: usize = 120;
const WIDE: &[Column] = &[
    Column::text("BEGAN", 19, 19),
    Column::number("LASTED", 8, 8),
    Column::text("ENDED", 8, 20),
    Column::number("PID/TID", 9, 15),
    Column::text("COMMAND", 15, 24),
    Column::text("CLASS", 8, 8),
    Column::text("SYSCALL", 14, 24),
];
/// What tells most: who, since when, and on whom.
const NARROW: &[Column] = &[
    Column::text("BEGAN", 14, 14),
    Column::text("LASTED", 8, 12),
    Column::number("PID", 7, 10),
    Column::text("COMMAND", 7, 12),
];

fn wide_cells(stall: &StallObject) -> Vec<String> {
    let StallObject { wait, lasted, ended, .. } = stall;
    vec![
        moment(wait.since),
        human::age(*lasted),
        ended.as_deref().map_or("open".into(), human::clean),
        wait.id(),
        program_name(&wait.comm, wait.script().as_deref()),
        wait.label().to_owned(),
        wait.call(),
    ]
}

fn narrow_cells(stall: &StallObject) -> Vec<String> {
    let StallObject { wait, lasted, closed, .. } = stall;
    let began = wait.since.to_zoned(TimeZone::system()).strftime("%m-%d %T").to_string();
    let open = if closed.is_none() { "open " } else { "" };
    let name = human::clean(&wait.script().unwrap_or_else(|| wait.comm.clone()));
    vec![began, format!("{open}{}", human::age(*lasted)), wait.pid.to_string(), name]
}

/// What it waited on, with the process at the other end if there is room.
fn target(StallObject { wait, peer, .. }: &StallObject, left: usize) -> String {
    match peer.as_ref().and_then(|peer| Some((peer.pid?, peer.comm.as_deref()?))) {
        Some((pid, comm)) => wait.target.fitted_with_peer(left, pid, comm),
        None => wait.target.fitted(left),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{history::samples::stall, wire::stall::StallIncident};

    fn of(pid: u32, opened: i64, closed: Option<i64>, id: &str) -> StallObject {
        let incident = Some(StallIncident { id: id.into(), name: "postgres (pid 812)".into() });
        StallObject { incident, ..stall(pid, opened, closed) }
    }

    #[test]
    fn stalls_of_one_incident_are_told_of_together() {
        let mut stalls: Vec<StallObject> = (1..=24).map(|pid| of(pid, 100, Some(160), "a-1")).collect();
        stalls.push(of(24, 130, None, "a-1"));
        stalls.push(of(99, 100, Some(160), "a-2"));
        let incidents = incidents(&stalls);
        let [incident] = &incidents[..] else { panic!("a single stall is none: {}", incidents.len()) };
        assert!(
            incident.line().ends_with("postgres (pid 812) holds up 25 waits of 24 processes"),
            "{}",
            incident.line()
        );
        let written = |is_flat| {
            let mut out = Vec::new();
            table(&mut out, &stalls, is_flat, None).expect("it is memory");
            String::from_utf8(out).expect("text")
        };
        let (folded, flat) = (written(false), written(true));
        // The incident, a blank line, the heading, three of its stalls, the other one, and how many more.
        assert_eq!(folded.lines().count(), 2 + 1 + 3 + 1 + 1, "{folded}");
        assert!(folded.contains("… and 22 more of postgres (pid 812)"), "{folded}");
        assert_eq!(flat.lines().count(), 1 + 26, "{flat}");
        let mut out = Vec::new();
        table(&mut out, &stalls, true, Some(80)).expect("it is memory");
        let narrow = String::from_utf8(out).expect("text");
        for line in narrow.lines().skip(1) {
            assert!(line.contains('→') && human::columns(line) <= 80, "{narrow}");
        }
    }
}
