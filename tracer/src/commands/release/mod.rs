//! `tracer release`: frees a process that waits. It says what it would do, and does it only if told to.

mod act;

use std::{
    io::{self, BufRead, IsTerminal, Write},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, bail, ensure};

use self::act::HeldProcess;
use super::who::{self, OfOneIncident};
use crate::{
    assess::{
        inspect::{self, Report, chain::Other, threads::StacksOf, threads::ThreadReport},
        pipeline::Assessment,
        release::{ReleasePlan, plan},
    },
    collect::{Source, bpf::Bpf, proc::Proc},
    config::cli::{Release, ReleaseSignal, SourceArgs},
    model::{
        script::script,
        wait::{ProcessId, StopSignal, Suspended},
    },
    render::layout::paragraph,
    serve::feed::Feed,
    util::{human, output::output},
    wire::culprit::program_name,
};

/// How long what was released may take to go on.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often it is looked at meanwhile.
const EVERY: Duration = Duration::from_millis(100);
/// The status of a process that still waits.
const STILL_WAITS: u8 = 3;

/// Says what would free it, or does it; the status to exit with.
pub fn run(args: &Release) -> Result<u8> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "only root may release a process: try `sudo tracer release {}`",
        args.who
    );
    let mut feed = Feed::Own(source());
    let id = who::meant(&args.who, OfOneIncident::Ask, &mut feed, &SourceArgs::own())?;
    // Not what an agent saw a while ago.
    let Feed::Own(mut source) = feed else { bail!("an agent releases nobody") };
    let mut report = inspect::inspect(id, None, StacksOf::Nobody, &mut *source)?;
    if let Some(signal) = args.signal {
        return by_signal(args, signal, &report, &mut *source);
    }
    let [first, rest @ ..] = &args.fd[..] else { return by_means(args, None, &report, &mut *source) };
    let mut status = by_means(args, Some(*first), &report, &mut *source)?;
    for fd in rest {
        report = inspect::inspect(id, report.process.start_ticks(), StacksOf::Nobody, &mut *source)?;
        status = status.max(by_means(args, Some(*fd), &report, &mut *source)?);
    }
    Ok(status)
}

/// The kernel's programs, else `/proc`: never an agent, which looks at its own pace.
fn source() -> Box<dyn Source> {
    match Bpf::once() {
        Ok(bpf) => Box::new(bpf),
        Err(_) => Box::new(Proc::new()),
    }
}

/// Frees the wait on a descriptor, or the worst one, or says how.
fn by_means(args: &Release, fd: Option<i32>, report: &Report, source: &mut dyn Source) -> Result<u8> {
    let name = name(report);
    let ReleasePlan { means, tid, mut others } =
        plan(report, fd).map_err(|why| anyhow!("{name} cannot be released: {}", why.text()))?;
    others.retain(|other| !args.fd.contains(other));
    let wait = waits(report)
        .find(|(of, wait)| Some(*of) == tid && means.fd().is_none_or(|fd| wait.resolved.fd == Some(fd)));
    let mut out = output();
    match wait {
        Some((_, wait)) => paragraph(&mut out, &format!("{name} is {}.", wait.sentence()))?,
        None => paragraph(&mut out, &report.headline)?,
    }
    if !args.apply {
        if let Some(text) = gentler(report) {
            paragraph(&mut out, &text)?;
        }
        paragraph(&mut out, &format!("Would {}.", means.plan()))?;
        paragraph(&mut out, means.consequence())?;
        if let Some(fds) = listed(&others) {
            paragraph(
                &mut out,
                &format!(
                    "It has {}, which this leaves: `--fd {fds}`.",
                    human::count(others.len(), "more wait")
                ),
            )?;
        }
        let all: Vec<i32> =
            means.fd().into_iter().chain(args.fd.iter().copied().filter(|of| Some(*of) != fd)).collect();
        let fds = listed(&all).map(|fds| format!(" --fd {fds}")).unwrap_or_default();
        let pid = report.only.unwrap_or(report.process.pid);
        writeln!(out, "\nNothing has been changed. `tracer release {pid}{fds} --apply` does it.")?;
        out.flush()?;
        return Ok(0);
    }
    let before = wait.map(|(tid, wait)| WaitIdentity::of(tid, wait));
    HeldProcess::open(report.process)?.release(&means)?;
    writeln!(out, "{}.", means.done())?;
    out.flush()?;
    let status = outcome(&name, report.process, before.as_ref(), source)?;
    if let Some(fds) = listed(&others) {
        let more = human::count(others.len(), "more wait");
        paragraph(&mut out, &format!("It had {more}: if they last, `--fd {fds} --apply` releases them."))?;
        out.flush()?;
    }
    Ok(status)
}

/// That whom it waits for is only stopped: to let that one go on does no harm.
fn gentler(report: &Report) -> Option<String> {
    // A background job stops again at once.
    let is_stopped = |other: &&Other| {
        let is_for_background = |signal: StopSignal| signal.is_for_background();
        other
            .suspended
            .is_some_and(|of| of.by == Suspended::Stopped && !of.signal.is_some_and(is_for_background))
    };
    let Other { pid, comm, .. } = report.others.iter().find(is_stopped)?;
    let comm = human::clean(comm);
    Some(format!(
        "{comm} (pid {pid}), which it waits for, is stopped: `tracer release {pid}` lets it go on, and nothing is lost."
    ))
}

/// Descriptors, as `--fd` takes them.
fn listed(fds: &[i32]) -> Option<String> {
    let fds: Vec<String> = fds.iter().map(i32::to_string).collect();
    (!fds.is_empty()).then(|| fds.join(","))
}

fn by_signal(args: &Release, signal: ReleaseSignal, report: &Report, source: &mut dyn Source) -> Result<u8> {
    let name = name(report);
    let signal_name = signal_name(signal);
    let mut out = output();
    paragraph(&mut out, &report.headline)?;
    if !args.apply {
        writeln!(out, "Would send {signal_name} to {name}.")?;
        paragraph(&mut out, consequence(signal))?;
        writeln!(
            out,
            "\nNothing has been changed. `tracer release {} --signal {} --apply` does it.",
            report.process.pid,
            signal_name.trim_start_matches("SIG")
        )?;
        out.flush()?;
        return Ok(0);
    }
    let held = HeldProcess::open(report.process)?;
    if !args.yes {
        ensure!(io::stdin().is_terminal(), "{signal_name} is sent after a question only: `--yes` answers it");
        write!(out, "Send {signal_name} to {name}? [y/N] ")?;
        out.flush()?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            bail!("nothing has been changed");
        }
    }
    held.signal(signal)?;
    writeln!(out, "Sent {signal_name} to {name}.")?;
    out.flush()?;
    let worst = waits(report).next().map(|(tid, wait)| WaitIdentity::of(tid, wait));
    outcome(&name, report.process, worst.as_ref(), source)
}

/// As people call it.
fn signal_name(signal: ReleaseSignal) -> &'static str {
    match signal {
        ReleaseSignal::Int => "SIGINT",
        ReleaseSignal::Term => "SIGTERM",
        ReleaseSignal::Abrt => "SIGABRT",
        ReleaseSignal::Kill => "SIGKILL",
        ReleaseSignal::Cont => "SIGCONT",
    }
}

fn consequence(signal: ReleaseSignal) -> &'static str {
    match signal {
        ReleaseSignal::Int | ReleaseSignal::Term => {
            "It ends, unless it handles the signal and decides otherwise. Its locks and its ends of pipes and connections go with \
             it, but those that another process has open as well, such as a child of it, stay."
        }
        ReleaseSignal::Abrt => {
            "It ends, and leaves a core dump where the host keeps them: a debugger shows there where it hung."
        }
        ReleaseSignal::Kill => {
            "It ends at once and cannot clean up. Its locks and its ends of pipes and connections go with it, but those that another \
             process has open as well, such as a child of it, stay. If the kernel holds it up, it ends when the kernel lets go of it."
        }
        ReleaseSignal::Cont => "It goes on where it was stopped.",
    }
}

fn name(report: &Report) -> String {
    let script = report.who.cmdline.as_deref().and_then(|cmdline| script(&report.comm, cmdline));
    format!("{} (pid {})", program_name(&report.comm, script.as_deref()), report.process.pid)
}

/// All waits of a process, with the id of the thread.
fn waits(report: &Report) -> impl Iterator<Item = (u32, &Assessment)> {
    report.threads.iter().filter_map(|thread: &ThreadReport| Some((thread.tid, thread.wait()?)))
}

/// What tells one wait from the next of the same thread.
#[derive(PartialEq, Eq)]
struct WaitIdentity {
    tid: u32,
    fd: Option<i32>,
    began_ns: u64,
}

impl WaitIdentity {
    /// A request begins when it was sent, by stamps that are rounded anew at each look.
    fn of(tid: u32, wait: &Assessment) -> Self {
        let began_ns = if tid == 0 { 0 } else { wait.wait.sleep_began_ns };
        Self { tid, fd: wait.resolved.fd, began_ns }
    }
}

/// What became of a wait.
enum Outcome {
    /// The process has ended.
    Ended,
    /// It has gone on.
    WentOn,
    /// It is as before.
    Waits,
}

fn look(process: ProcessId, wait: Option<&WaitIdentity>, source: &mut dyn Source) -> Outcome {
    let Ok(report) = inspect::inspect(process.pid, process.start_ticks(), StacksOf::Nobody, source) else {
        return Outcome::Ended;
    };
    match wait {
        _ if report.condition == inspect::Condition::Zombie => Outcome::Ended,
        Some(wait) => match waits(&report).any(|(tid, now)| WaitIdentity::of(tid, now) == *wait) {
            true => Outcome::Waits,
            false => Outcome::WentOn,
        },
        None if report.condition == inspect::Condition::Stopped => Outcome::Waits,
        None => Outcome::WentOn,
    }
}

/// Waits until it has gone on, says what became of it, and returns the status to exit with.
fn outcome(
    name: &str,
    process: ProcessId,
    wait: Option<&WaitIdentity>,
    source: &mut dyn Source,
) -> Result<u8> {
    let deadline = Instant::now() + PATIENCE;
    let mut outcome = look(process, wait, source);
    while matches!(outcome, Outcome::Waits) && Instant::now() < deadline {
        sleep(EVERY);
        outcome = look(process, wait, source);
    }
    let mut out = output();
    let status = match outcome {
        Outcome::Ended => {
            writeln!(out, "{name} has ended.")?;
            0
        }
        Outcome::WentOn if wait.is_none() => {
            writeln!(out, "{name} has gone on.")?;
            0
        }
        Outcome::WentOn => {
            writeln!(out, "{name} has gone on: that wait is over.")?;
            0
        }
        Outcome::Waits => {
            writeln!(
                out,
                "{name} still waits. `tracer why {}` says for what; `--signal KILL` ends it.",
                process.pid
            )?;
            STILL_WAITS
        }
    };
    out.flush()?;
    Ok(status)
}
