//! `tracer stalls`: what was stuck in the last hours, as the agent has kept it.

use std::io::{self, IsTerminal, Write};

use anyhow::Result;
use jiff::{Timestamp, tz::TimeZone};

use crate::{
    assess::stall::StallObject, config::cli::Stalls, history, model::class::Class, serve::client::Client,
    util::human, util::output::output,
};

/// Asks the agent, or reads what one has left, and prints.
pub fn run(args: &Stalls) -> Result<()> {
    let (stalls, as_of): (Vec<StallObject>, _) = match Client::connect(&args.socket) {
        Ok(client) => (client.objects(&format!("/v1/stalls?since={}", args.since))?, None),
        Err(refusal) => {
            let left = history::left(&args.state_dir, refusal.without_history())?;
            (left.stalls_since(args.since)?, left.last_alive()?)
        }
    };
    let out = &mut output();
    for stall in &stalls {
        if args.json {
            serde_json::to_writer(&mut *out, stall)?;
            out.write_all(b"\n")?;
        }
    }
    if !args.json {
        table(out, &stalls)?;
        let open = stalls.iter().filter(|stall| stall.closed.is_none()).count();
        let as_of = as_of.map_or_else(String::new, |at| {
            format!(" when the agent last wrote, {}: none answers now", moment(at))
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
    let width = io::stdout().is_terminal().then(human::terminal_width);
    let line = |out: &mut dyn Write, text: &str| match width {
        Some(width) => writeln!(out, "{}", human::fit(text.trim_end(), width)),
        None => writeln!(out, "{}", text.trim_end()),
    };
    line(
        out,
        &format!(
            "{:19}  {:>8}  {:8}  {:>9}  {:15}  {:8}  {:14}  TARGET",
            "BEGAN", "LASTED", "ENDED", "PID/TID", "COMMAND", "CLASS", "SYSCALL"
        ),
    )?;
    for stall in stalls {
        let wait = &stall.wait;
        let text = format!(
            "{:19}  {:>8}  {:8}  {:>9}  {:15}  {:8}  {:14}  {}",
            moment(wait.since),
            human::age(stall.lasted),
            stall.ended.as_deref().map_or("open".into(), human::clean),
            wait.id(),
            human::clean(&wait.comm),
            wait.class.map_or("", Class::label),
            wait.call(),
            human::clean(&wait.target.to_string()),
        );
        line(out, &text)?;
    }
    Ok(())
}
