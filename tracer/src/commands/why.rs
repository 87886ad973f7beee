//! `tracer why`: everything about one process on one page.

use std::io::Write;

use anyhow::Result;

use super::who::{self, OfOneIncident};
use crate::{
    assess::inspect::{self, threads::StacksOf},
    config::cli::{SourceArgs, Why},
    model::baseline::Excuse,
    model::wait::ProcessId,
    render,
    serve::{
        client::{AgentClient, OPTIONAL_TIMEOUT, about},
        feed::{self, Feed},
    },
    util::human,
    util::output::output,
    wire::host::ExcusedObject,
    wire::lines,
    wire::report::ReportObject,
};

/// Columns where standard output is no terminal.
const WIDTH: usize = 100;

/// Looks and prints.
pub fn run(args: &Why) -> Result<()> {
    let (mut feed, why_not_better) = feed::open(&args.place)?;
    let id = who::meant(&args.who, OfOneIncident::Oldest, &mut feed, &args.place)?;
    let stacks = if args.all_threads { StacksOf::All } else { StacksOf::First };
    let width = human::line_width().unwrap_or(WIDTH);
    let mut out = output();
    match feed {
        Feed::Agent(client) if args.json => {
            out.write_all(&client.get(&about("why", id, None, None))?)?;
            out.write_all(b"\n")?;
        }
        // Cleaned of what a terminal could take as a command where it was written.
        Feed::Agent(client) => {
            out.write_all(&client.get(&about("why", id, None, Some(width)))?)?;
        }
        Feed::Own(mut source) => {
            let mut report = inspect::inspect(id, None, stacks, &mut *source)?;
            if report.may_be_excused() {
                match excuses(&args.place, report.process) {
                    Ok(excuses) => report.excuse(&excuses),
                    Err(error) => report.agent_silent = Some(format!("{error:#}")),
                }
            }
            if args.json {
                lines::write(&mut out, &ReportObject::new(&report))?;
            } else {
                out.write_all(render::why::page(&report, width, why_not_better.as_deref()).as_bytes())?;
            }
        }
    }
    out.flush()?;
    Ok(())
}

/// What a running agent knows of waits of a process that it does not flag; nothing where there is none for this user.
fn excuses(place: &SourceArgs, process: ProcessId) -> Result<Vec<(u32, Excuse)>> {
    let Ok(agent) = AgentClient::connect(&place.socket) else { return Ok(Vec::new()) };
    let path = about("baselines", process.pid, process.start_ticks(), None);
    let excused: Vec<ExcusedObject> = agent.within(OPTIONAL_TIMEOUT).objects(&path)?;
    Ok(excused.into_iter().map(|of| (of.tid, of.baseline.into())).collect())
}
