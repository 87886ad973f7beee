//! Whom was `tracer trace` asked to follow: which processes, and which threads without their processes?

use std::collections::{HashMap, HashSet};

use anyhow::{Context, Result, anyhow, ensure};

use crate::{
    config::cli::Trace,
    model::wait::ThreadId,
    procfs::{
        Reads, by_pid,
        stat::{self, Stat},
    },
    util::human,
};

/// What was asked for; nothing: everybody.
#[derive(Default)]
pub struct Selection {
    /// Processes, by id.
    pub processes: HashSet<u32>,
    /// Threads of others, by id. None is its process's first one.
    pub threads: HashMap<u32, ChosenThread>,
}

/// A thread that was asked for.
pub struct ChosenThread {
    /// Its process.
    pub pid: u32,
    /// What it was when it was asked for.
    stat: Stat,
}

impl Selection {
    /// Looks for all that was asked for. The error says what is not there.
    ///
    /// A command that was started is one of them.
    pub fn find(args: &Trace, started: Option<u32>) -> Result<Self> {
        let (mut wanted, mut reads) = (Self::default(), Reads::new());
        wanted.processes.extend(started);
        for id in args.who.iter().chain(&args.pid) {
            let missing = || format!("there is no process or thread {id}");
            let status = reads.text(by_pid(*id), "status").with_context(missing)?;
            match status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok()) {
                Some(pid) if pid != *id => {
                    let stat = reads.thread_stat(by_pid(pid), *id).with_context(missing)?;
                    wanted.threads.insert(*id, ChosenThread { pid, stat });
                }
                _ => _ = wanted.processes.insert(*id),
            }
        }
        if let Some(comm) = &args.comm {
            let pids = reads.processes().map_err(|unread| anyhow!("cannot read /proc: {unread}"))?;
            let named = |pid: &u32| reads.comm(by_pid(*pid)).is_some_and(|name| name == *comm);
            let pids: Vec<u32> = pids.into_iter().filter(named).collect();
            ensure!(!pids.is_empty(), "there is no process named {}", human::clean(comm));
            wanted.processes.extend(pids);
        }
        wanted.drop_covered();
        Ok(wanted)
    }

    /// A thread whose process was asked for, too, needs nothing of its own.
    fn drop_covered(&mut self) {
        self.threads.retain(|_, thread| !self.processes.contains(&thread.pid));
    }

    /// Nobody was named, so everybody is meant.
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty() && self.threads.is_empty()
    }

    /// Whether a thread is one of those asked for, with its process or alone.
    pub fn has(&self, thread: ThreadId) -> bool {
        let alone = || self.threads.get(&thread.tid).is_some_and(|asked| asked.is(thread));
        self.processes.contains(&thread.process.pid) || alone()
    }

    /// Whether a process was started by a thread that was asked for, as `/proc` shows it: while that thread lives.
    pub fn has_started(&self, pid: u32, parent: u32) -> bool {
        let mut threads = self.threads.iter().filter(|(_, thread)| thread.pid == parent);
        threads.any(|(tid, thread)| thread.lives(*tid) && children(parent, *tid).contains(&pid))
    }

    /// The processes asked for, and those that threads asked for have started.
    pub fn roots(&self) -> HashSet<u32> {
        let started = self.threads.iter().flat_map(|(tid, thread)| children(thread.pid, *tid));
        self.processes.iter().copied().chain(started).collect()
    }

    /// `1 process and 2 threads`.
    pub fn label(&self) -> String {
        let count = |number: usize, one: &str, many: &str| match number {
            0 => None,
            1 => Some(format!("1 {one}")),
            _ => Some(format!("{number} {many}")),
        };
        let parts = [
            count(self.processes.len(), "process", "processes"),
            count(self.threads.len(), "thread", "threads"),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        if parts.is_empty() { "every process".into() } else { parts.join(" and ") }
    }
}

impl ChosenThread {
    fn is(&self, thread: ThreadId) -> bool {
        self.pid == thread.process.pid && stat::same_start(thread.start_ns, &self.stat)
    }

    /// Whether it still makes calls. One that runs another program changes its id, and its old one has ended.
    pub fn lives(&self, tid: u32) -> bool {
        Reads::new()
            .thread_stat(by_pid(self.pid), tid)
            .is_some_and(|stat| stat.start_ticks == self.stat.start_ticks && stat.thread_lives())
    }
}

/// The processes that a thread has started, which its process's other threads take over when it ends. None where the kernel
/// does not tell (CONFIG_PROC_CHILDREN).
fn children(pid: u32, tid: u32) -> HashSet<u32> {
    let text = Reads::new().text(by_pid(pid), &format!("task/{tid}/children")).unwrap_or_default();
    text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::wait::ProcessId;

    /// A thread that began after one second.
    fn thread(pid: u32) -> ChosenThread {
        let text =
            "12 (a) S 1 12 12 0 -1 64 0 0 0 0 0 0 0 0 20 0 2 0 100 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 17 3 0 0";
        ChosenThread { pid, stat: stat::parse_stat(text).expect("parses") }
    }

    #[test]
    fn a_process_wins_over_its_threads() {
        let threads = HashMap::from([(6, thread(5)), (9, thread(8))]);
        let mut wanted = Selection { processes: HashSet::from([5]), threads };
        wanted.drop_covered();
        assert_eq!(wanted.label(), "1 process and 1 thread");
        assert!(wanted.threads.contains_key(&9));
    }

    #[test]
    fn what_is_followed_is_named() {
        let label = |processes: &[u32], threads: &[u32]| {
            let threads = threads.iter().map(|tid| (*tid, thread(1))).collect();
            Selection { processes: processes.iter().copied().collect(), threads }.label()
        };
        assert_eq!(label(&[], &[]), "every process");
        assert_eq!(label(&[5, 6], &[]), "2 processes");
        assert_eq!(label(&[], &[7]), "1 thread");
        assert_eq!(label(&[5], &[7, 8]), "1 process and 2 threads");
    }

    #[test]
    fn a_thread_is_that_thread_only() {
        let wanted = Selection { processes: HashSet::new(), threads: HashMap::from([(9, thread(8))]) };
        let of = |pid, tid, start_ns| ThreadId { process: ProcessId { pid, start_ns: 1 }, tid, start_ns };
        assert!(wanted.has(of(8, 9, 1_000_000_000)));
        assert!(!wanted.has(of(8, 8, 1_000_000_000)), "another thread");
        assert!(!wanted.has(of(7, 9, 1_000_000_000)), "another process that has its id");
        assert!(!wanted.has(of(8, 9, 2_000_000_000)), "another thread that has its id");
    }
}
