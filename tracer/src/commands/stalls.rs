//! `tracer stalls`: what was stuck in the last hours, as the agent has kept it.

use std::io::{self, Write};

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
        table(out, &stalls)?;
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

fn table(out: &mut impl Write, stalls: &[StallObject]) -> io::Result<()> {
    if stalls.is_empty() {
        return Ok(());
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
    let (table, width) = (Table::new(columns, "TARGET", "  ", &cells), human::line_width());
    writeln!(out, "{}", human::for_terminal(&table.heading(), width))?;
    for (stall, cells) in stalls.iter().zip(&cells) {
        let target = human::clean(&stall.wait.target.to_string());
        writeln!(out, "{}", human::for_terminal(&table.row(cells, &target), width))?;
    }
    Ok(())
}
