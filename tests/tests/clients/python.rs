//! Programs in Python that hang in one way or another, and what tracer says of them.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::servers::clean;
use tests::{Running, own_dir, ps, start, why, why_page};

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A program that prints the id of the process that is meant, once all have begun.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
}

const IMPORTS: &str = "
import concurrent.futures, ctypes, fcntl, multiprocessing, os, queue, signal, socket, tempfile, threading, time
def die_with_parent(): ctypes.CDLL(None).prctl(1, signal.SIGKILL)";

/// A program that runs, and the processes that it has named.
pub(crate) struct Story {
    pub(crate) name: &'static str,
    pub(crate) python: Running,
    pub(crate) pids: Vec<u32>,
}

impl Story {
    pub(crate) fn begin(program: &Program) -> Self {
        let mut command = clean("python3");
        command.args(["-c", &format!("{IMPORTS}{}", program.text)]);
        command.env("TMPDIR", own_dir()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut python = start(command);
        let mut said = String::new();
        let stdout = python.pipes().stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut said).expect("a line");
        let pids: Vec<u32> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        assert!(!pids.is_empty(), "{} has said {said:?}", program.name);
        Self { name: program.name, python, pids }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pids[0]
    }

    /// What `why` says, once that is this.
    pub(crate) fn until(&self, condition: &str) -> Value {
        let begin = Instant::now();
        loop {
            let report = why(self.pid());
            if report["condition"] == condition {
                why_page(self.pid());
                return report;
            }
            assert!(begin.elapsed() < PATIENCE, "{}: not {condition}: {report:#}", self.name);
            sleep(Duration::from_millis(200));
        }
    }

    /// Its waits.
    pub(crate) fn rows(&self) -> Vec<Value> {
        ps(&["--all", "-p", &self.pid().to_string()]).rows
    }
}
