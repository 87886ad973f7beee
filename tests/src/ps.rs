//! What did one run of `tracer ps` say, and between which moments did it look?

use std::os::unix::process::CommandExt;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{clock, programs};

/// One run of `tracer ps --json`.
#[derive(Debug)]
pub struct Snapshot {
    /// One object for each line of standard output.
    pub rows: Vec<Value>,
    /// The realtime clock before the run.
    pub before_ns: i128,
    /// The realtime clock after it.
    pub after_ns: i128,
    /// The whole process, wall time.
    pub took: Duration,
}

/// Runs `tracer ps --json` with these arguments more; panics unless it exits 0 and prints one object a line.
pub fn ps(args: &[&str]) -> Snapshot {
    run(Command::new(programs::tracer()), args)
}

/// The same before all other processes: for a test of how long it takes, on a machine that may be loaded.
pub fn ps_first(args: &[&str]) -> Snapshot {
    let mut command = Command::new(programs::tracer());
    // SAFETY: setpriority is async-signal-safe and takes numbers. Where it is refused, the test is only less robust.
    unsafe {
        command.pre_exec(|| {
            libc::setpriority(libc::PRIO_PROCESS, 0, -20);
            Ok(())
        });
    }
    run(command, args)
}

/// Whether a line of its page comes after the table: it says how many waits there are.
pub fn is_footer(line: &str) -> bool {
    line.starts_with("Nothing ") || line.starts_with(|first: char| first.is_ascii_digit())
}

fn run(mut command: Command, args: &[&str]) -> Snapshot {
    command.args(["ps", "--json"]).args(args);
    let (before_ns, begin) = (clock::realtime_ns(), Instant::now());
    let Output { status, stdout, stderr } = command.output().expect("tracer starts");
    let (after_ns, took) = (clock::realtime_ns(), begin.elapsed());
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "tracer ps --json {args:?}: {status}\n{stderr}");
    let stdout = String::from_utf8(stdout).expect("JSON is UTF-8");
    let parse = |line: &str| -> Value {
        let row: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("no JSON: {line:?}: {e}"));
        assert!(row.is_object(), "not an object: {line}");
        row
    };
    let rows = stdout.lines().map(parse).collect();
    Snapshot { rows, before_ns, after_ns, took }
}

impl Snapshot {
    /// The row of a thread, which must be there exactly once.
    pub fn row(&self, tid: u32) -> &Value {
        let rows: Vec<&Value> = self.rows.iter().filter(|row| row["tid"] == tid).collect();
        match rows[..] {
            [row] => row,
            [] => panic!("no row for thread {tid} among {} rows: {:#?}", self.rows.len(), self.rows.get(..4)),
            _ => panic!("more than one row for thread {tid}: {rows:#?}"),
        }
    }
}
