//! `tracer stack`: where in their program the threads of a process sleep.

use std::io::Write;

use anyhow::{Context, Result, bail};

use super::ps::gather::processes_running;
use crate::{
    assess::stacks::{self, ProcessStacks},
    collect::{Source, bpf::Bpf, proc::Proc},
    config::cli::Stack,
    procfs::{Reads, by_pid},
    render::layout::paragraph,
    render::stack::{self, Shown},
    util::{human, output::output},
    wire::{
        lines,
        stack::{ThreadStackObject, UserStackObject},
    },
};

/// Reads and prints.
pub fn run(args: &Stack) -> Result<()> {
    let (mut source, why_not_better) = open();
    let shown = if args.native { Shown::Native } else { Shown::Program };
    let mut out = output();
    for (at, id) in ids(&args.who)?.into_iter().enumerate() {
        let stacks = stacks::of(id, &mut *source)?;
        if args.json {
            write_objects(&stacks, &mut out)?;
        } else if args.folded {
            out.write_all(stack::folded(&stacks, shown).as_bytes())?;
        } else {
            if at > 0 {
                writeln!(out)?;
            }
            out.write_all(stack::page(&stacks, shown, human::line_width()).as_bytes())?;
        }
    }
    if let Some(reason) = why_not_better.filter(|_| !args.json && !args.folded) {
        writeln!(out)?;
        paragraph(&mut out, &format!("Seen through /proc, which has two registers: {reason}."))?;
    }
    out.flush()?;
    Ok(())
}

/// The source that knows all registers, else the other, and why not the first.
fn open() -> (Box<dyn Source>, Option<String>) {
    match Bpf::of_threads() {
        Ok(bpf) => (Box::new(bpf), None),
        Err(error) => (Box::new(Proc::new()), Some(format!("{error:#}"))),
    }
}

/// The process or thread with this id, or all processes of this name.
fn ids(who: &str) -> Result<Vec<u32>> {
    if let Ok(id) = who.parse() {
        return Ok(vec![id]);
    }
    let mut reads = Reads::new();
    let all = reads.processes().ok().context("/proc does not show processes")?;
    let mut ids: Vec<u32> =
        all.into_iter().filter(|pid| reads.comm(by_pid(*pid)).is_some_and(|comm| comm == who)).collect();
    if ids.is_empty() {
        ids = processes_running(who);
    }
    if ids.is_empty() {
        bail!("no process is called \"{who}\", and none runs a script of that name");
    }
    Ok(ids)
}

fn write_objects(stacks: &ProcessStacks, out: &mut impl Write) -> Result<()> {
    for thread in &stacks.threads {
        let object = ThreadStackObject {
            pid: stacks.process.pid,
            tid: thread.tid,
            comm: &thread.comm,
            kernel: thread.kernel.functions(),
            stack: thread.stack.as_ref().map(UserStackObject::from),
        };
        lines::write(out, &object)?;
    }
    Ok(())
}
