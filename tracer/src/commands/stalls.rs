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
    model::class::Class,
    render::table::{Column, Table},
    serve::client::AgentClient,
    util::human,
    util::output::output,
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
        table(out, &stalls, args.flat)?;
        let open = stalls.iter().filter(|stall| stall.closed.is_none()).count();
        let as_of = as_of.map_or_else(String::new, |at| {
            format!(" when the agent last wrote, {}; no agent is running now", moment(at))
        });
        writeln!(
            out,
            "{} since {}, {open} of them open{as_of}.",
            human::count(stalls.len(), "stall"),
            moment(args.since)
        )?;
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

fn table(out: &mut impl Write, stalls: &[StallObject], is_flat: bool) -> io::Result<()> {
    if stalls.is_empty() {
        return Ok(());
    }
    let width = human::line_width();
    let incidents = if is_flat { Vec::new() } else { incidents(stalls) };
    for incident in &incidents {
        writeln!(out, "{}", human::for_terminal(&incident.line(), width))?;
    }
    if !incidents.is_empty() {
        writeln!(out)?;
    }
    let columns = [
        Column::text("BEGAN", 19, 19),
        Column::number("LASTED", 8, 8),
        Column::text("ENDED", 8, 20),
        Column::number("PID/TID", 9, 15),
        Column::text("COMMAND", 15, 15),
        Column::text("CLASS", 8, 8),
        Column::text("SYSCALL", 14, 24),
    ];
    let cells = |StallObject { wait, lasted, ended, .. }: &StallObject| {
        vec![
            moment(wait.since),
            human::age(*lasted),
            ended.as_deref().map_or("open".into(), human::clean),
            wait.id(),
            human::clean(&wait.comm),
            wait.class.map_or("", Class::label).to_owned(),
            wait.call(),
        ]
    };
    let cells: Vec<Vec<String>> = stalls.iter().map(cells).collect();
    let table = Table::new(columns, "TARGET", "  ", &cells);
    writeln!(out, "{}", human::for_terminal(&table.heading(), width))?;
    let large = incidents.iter().filter(|incident| incident.stalls.len() > STALLS_MAX);
    let left_out: HashSet<usize> =
        large.clone().flat_map(|incident| incident.stalls.iter().skip(SHOWN_OF_LARGE).copied()).collect();
    for (at, (stall, cells)) in stalls.iter().zip(&cells).enumerate() {
        if left_out.contains(&at) {
            continue;
        }
        let target = human::clean(&stall.wait.target.to_string());
        writeln!(out, "{}", human::for_terminal(&table.row(cells, &target), width))?;
    }
    for incident in large {
        let (more, name) = (incident.stalls.len() - SHOWN_OF_LARGE, human::clean(incident.name));
        let line = format!("… and {more} more of {name} (--flat lists them all)");
        writeln!(out, "{}", human::for_terminal(&line, width))?;
    }
    Ok(())
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
            table(&mut out, &stalls, is_flat).expect("it is memory");
            String::from_utf8(out).expect("text")
        };
        let (folded, flat) = (written(false), written(true));
        // The incident, a blank line, the heading, three of its stalls, the other one, and how many more.
        assert_eq!(folded.lines().count(), 2 + 1 + 3 + 1 + 1, "{folded}");
        assert!(folded.contains("… and 22 more of postgres (pid 812)"), "{folded}");
        assert_eq!(flat.lines().count(), 1 + 26, "{flat}");
    }
}
