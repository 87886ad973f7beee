//! What does following one process cost it, and what does it cost the others? `tracer trace` beside the tools that people
//! use for it, in the same rounds.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{Line, measure, tracer, xtask};
use crate::{cmd, packages};

/// Reads of the process that is followed: few, since strace takes a tenth of a millisecond for each.
const OWN_READS: &str = "20000";
const OTHER_READS: &str = "1000000";
/// Until a tool has attached.
const ATTACHES: Duration = Duration::from_millis(2_500);

/// A way to follow a process's calls.
struct Tool {
    name: &'static str,
    command: fn(pid: u32) -> Command,
}

const TOOLS: [Tool; 4] = [
    Tool { name: "tracer trace", command: |pid| of(tracer(), &["trace", "-p", &pid.to_string()]) },
    Tool {
        name: "perf trace",
        command: |pid| of("perf", &["trace", "-o", "/dev/null", "-p", &pid.to_string()]),
    },
    Tool {
        name: "bpftrace, raw_syscalls",
        command: |pid| {
            let program = format!(
                "tracepoint:raw_syscalls:sys_enter /pid == {pid}/ {{ @begun[tid] = nsecs; }} \
                 tracepoint:raw_syscalls:sys_exit /@begun[tid]/ \
                 {{ @took[args->id] = hist(nsecs - @begun[tid]); delete(@begun[tid]); }}"
            );
            of("bpftrace", &["-e", &program])
        },
    },
    Tool { name: "strace", command: |pid| of("strace", &["-o", "/dev/null", "-T", "-p", &pid.to_string()]) },
];

fn of(program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}

/// Least nanoseconds of a read: of the process that is followed, and of another.
#[derive(Clone, Copy)]
struct Cost {
    own: f64,
    other: f64,
}

/// The table goes to standard output; the line is what has a budget.
pub fn compare(rounds: u32) -> Result<Line> {
    packages::install_these(&["strace", "linux-perf", "bpftrace"])?;
    let _tracefs = Tracefs::mounted()?;
    let none = Cost { own: f64::MAX, other: f64::MAX };
    let mut alone = none;
    let mut followed = [none; TOOLS.len()];
    for _ in 0..rounds {
        alone = alone.least(once(None)?);
        for (tool, cost) in TOOLS.iter().zip(&mut followed) {
            *cost = cost.least(once(Some(tool)).with_context(|| format!("{} does not run here", tool.name))?);
        }
    }
    println!(
        "| one process is followed by | a read of another process | a read of its own |\n| --- | --- | --- |"
    );
    println!("| nobody | {:.0} ns | {:.0} ns |", alone.other, alone.own);
    for (tool, Cost { own, other }) in TOOLS.iter().zip(&followed) {
        println!("| {} | {other:.0} ns | {own:.0} ns |", tool.name);
    }
    println!();
    let [ours, .., strace] = followed;
    let share = (ours.other - alone.other) / (strace.own - alone.own) * 100.0;
    Ok(Line {
        what: "another process's read under `trace -p`, beside what strace costs the process it follows",
        budget: "under 15 %".into(),
        measured: format!("{share:.1} %"),
        held: share < 15.0,
    })
}

impl Cost {
    fn least(self, with: Self) -> Self {
        Self { own: self.own.min(with.own), other: self.other.min(with.other) }
    }
}

/// One round: a process that waits is followed, another reads, then it reads itself.
fn once(tool: Option<&Tool>) -> Result<Cost> {
    let mut reader = Reader::start()?;
    let mut running = None;
    if let Some(tool) = tool {
        let mut command = (tool.command)(reader.child.id());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = running.insert(Running(command.spawn().context("cannot start it")?));
        thread::sleep(ATTACHES);
        ensure!(child.0.try_wait()?.is_none(), "it ends at once");
    }
    let other = measure("read-zero", OTHER_READS)?;
    let own = reader.go()?;
    Ok(Cost { own, other })
}

/// A tool that is told to end, as Ctrl-C does, and waited for when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // SAFETY: kill takes numbers; the child has not been waited for, so its id is its own.
        unsafe { libc::kill(self.0.id() as i32, libc::SIGINT) };
        let _ = self.0.wait();
    }
}

/// A load that reads when it is told to.
struct Reader {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Reader {
    fn start() -> Result<Self> {
        let mut command = of(xtask(), &["load", "read-zero-when-told", OWN_READS]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start a reader")?;
        let lines = BufReader::new(child.stdout.take().context("it has no output")?);
        Ok(Self { child, lines })
    }

    /// Nanoseconds of one of its reads.
    fn go(&mut self) -> Result<f64> {
        self.child.stdin.take().context("it was told before")?.write_all(b"go\n")?;
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        line.trim().parse().context("the reader printed no number")
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The other tools need it; mounted for them if it is not, until dropped.
struct Tracefs {
    ours: bool,
}

const TRACEFS: &str = "/sys/kernel/tracing";

impl Tracefs {
    fn mounted() -> Result<Self> {
        if fs::exists(format!("{TRACEFS}/events")).unwrap_or(false) {
            return Ok(Self { ours: false });
        }
        cmd::run(of("mount", &["-t", "tracefs", "none", TRACEFS]))?;
        Ok(Self { ours: true })
    }
}

impl Drop for Tracefs {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = cmd::run(of("umount", &[TRACEFS]))
        {
            eprintln!("bench: {TRACEFS} stays mounted: {error:#}");
        }
    }
}
