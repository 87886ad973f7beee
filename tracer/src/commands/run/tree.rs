//! The processes of a command: its own, its children, and theirs; and what those have left behind.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::movement::Used;
use crate::{
    model::wait::ProcessId,
    procfs::{Reads, by_pid},
    resolve::children,
};

/// Processes that are followed.
const PROCESSES_MAX: usize = 10_000;

/// Processes that live, parents before their children, and what they have used, with those of theirs that have ended.
#[derive(Debug, Default)]
pub struct Tree {
    /// Which.
    pub processes: Vec<ProcessId>,
    /// How much.
    pub used: Used,
}

impl Tree {
    /// These processes with all below them, as far as they are to be seen.
    pub fn below(roots: Vec<ProcessId>, reads: &mut Reads) -> Self {
        let (mut tree, mut ahead) = (Self::default(), roots);
        while let Some(one) = ahead.pop() {
            if tree.processes.len() == PROCESSES_MAX {
                break;
            }
            let Some(stat) = reads.stat(one) else { continue };
            if stat.lives() {
                tree.processes.push(ProcessId { pid: one.pid, start_ns: stat.start_ns() });
            }
            tree.used.cpu += ticks(stat.cpu_ticks.saturating_add(stat.children_ticks));
            tree.used.bytes += reads.text(one, "io").map_or(0, |text| bytes(&text));
            ahead.extend(children::all(one, reads).into_iter().map(by_pid));
        }
        tree
    }

    /// Asks all of them to end, at one moment as far as they can tell: a shell whose child ends first would go on to its next step.
    pub fn end(&self, reads: &mut Reads) {
        for signal in [Signal::STOP, Signal::TERM, Signal::CONT] {
            self.send(signal, reads);
        }
    }

    /// Sends a signal to all of them that still are who they were, parents first.
    pub fn send(&self, signal: Signal, reads: &mut Reads) {
        for process in &self.processes {
            let is_same =
                reads.stat(by_pid(process.pid)).is_some_and(|stat| stat.start_ns() == process.start_ns);
            if let Some(pid) = Pid::from_raw(process.pid.cast_signed()).filter(|_| is_same) {
                let _ = kill_process(pid, signal);
            }
        }
    }
}

fn ticks(ticks: u64) -> Duration {
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second().max(1) as f64)
}

/// Bytes that were read and written, by the text of `io` (Documentation/filesystems/proc.rst).
fn bytes(text: &str) -> u64 {
    let value = |name| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    value("rchar:").unwrap_or(0).saturating_add(value("wchar:").unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_shell_and_what_it_runs() {
        let mut shell = Command::new("sh")
            .args(["-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done; cat | cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh");
        let root = by_pid(shell.id());
        let begin = std::time::Instant::now();
        let tree = loop {
            let tree = Tree::below(vec![root], &mut Reads::new());
            if tree.processes.len() == 3 && tree.used.bytes >= 5 {
                break tree;
            }
            assert!(begin.elapsed() < Duration::from_secs(20), "{tree:?}");
            std::thread::sleep(Duration::from_millis(20));
        };
        assert_eq!(tree.processes[0].pid, shell.id());
        tree.send(Signal::KILL, &mut Reads::new());
        assert!(!shell.wait().expect("it ends").success());
        assert_eq!(bytes("rchar: 10\nwchar: 32\nsyscr: 5\n"), 42);
    }
}
