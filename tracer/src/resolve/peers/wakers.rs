//! Who could wake a thread: what its process could do beside it, and who shares the memory it waits on. Reads which signals a process
//! handles, and which memory it maps.

use std::sync::Arc;

use super::{
    NAMED_MAX, Peer, Peers,
    search::{PeerSearch, name},
};
use crate::{
    model::wait::{ProcessId, Wait},
    procfs::Reads,
    resolve::futex::{FutexWord, LockHolder},
    resolve::memory,
};

/// Whether it is not known who wakes a thread that waits on this, so that a handler of a signal may.
pub(super) fn may_be_woken(word: &FutexWord) -> bool {
    match word {
        FutexWord::Lock(LockHolder::Unknown | LockHolder::Readers(_)) => true,
        FutexWord::MayBeLock | FutexWord::Semaphore | FutexWord::Condition | FutexWord::Other => true,
        FutexWord::Lock(_) | FutexWord::ThreadEnd(_) | FutexWord::Nothing => false,
    }
}

/// What a process could do beside its waiting thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Means {
    /// It has no other thread.
    pub(super) one_thread: bool,
    /// A signal from outside would run a handler, which may write what the process waits for.
    pub(super) handles_signals: bool,
}

impl Means {
    /// Where it cannot be read, there may be anything.
    fn of(process: ProcessId, reads: &mut Reads) -> Self {
        let status = reads.text(process, "status").unwrap_or_default();
        let threads = status.lines().find_map(|line| line.strip_prefix("Threads:"));
        let handles_signals = match handlers(&status) {
            Handlers::None => false,
            // Python raises an exception on Ctrl-C, where the program does not ask for anything else.
            Handlers::Interrupt => !is_python(process, reads),
            Handlers::Some => true,
        };
        Self { one_thread: threads.is_some_and(|threads| threads.trim() == "1"), handles_signals }
    }
}

/// Whether a process runs Python, by its executable's name.
fn is_python(process: ProcessId, reads: &mut Reads) -> bool {
    let exe = reads.link(process, "exe").ok();
    let name = exe.as_deref().and_then(|exe| exe.file_name()?.to_str());
    name.is_some_and(|name| name.starts_with("python") || name.starts_with("pypy"))
}

/// The handlers that a process has of signals from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handlers {
    None,
    /// Of SIGINT only.
    Interrupt,
    Some,
}

/// Which handlers a process has by the text of its status. Handlers of faults run only where the process itself is at fault, and
/// the first two real-time signals are the C library's own.
fn handlers(status: &str) -> Handlers {
    const FAULTS: [i32; 6] =
        [libc::SIGILL, libc::SIGTRAP, libc::SIGABRT, libc::SIGBUS, libc::SIGFPE, libc::SIGSEGV];
    const THE_LIBRARYS: [i32; 2] = [32, 33];
    const INTERRUPT: u64 = 1 << (libc::SIGINT - 1);
    let beside = FAULTS.iter().chain(&THE_LIBRARYS).fold(0, |mask, signal| mask | 1u64 << (signal - 1));
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    match caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).map(|mask| mask & !beside) {
        Some(0) => Handlers::None,
        Some(INTERRUPT) => Handlers::Interrupt,
        _ => Handlers::Some,
    }
}

impl PeerSearch<'_, '_> {
    /// What the waiting thread's process could do beside.
    pub(super) fn means(&mut self, process: ProcessId) -> Means {
        let reads = &mut *self.reads;
        *self.means.entry(process.pid).or_insert_with(|| Means::of(process, reads))
    }

    /// Whether no thread of a process is seen to do anything but wait for others.
    pub(super) fn all_wait(&mut self, pid: u32) -> bool {
        let all = self.all;
        *self.all_wait.entry(pid).or_insert_with(|| all.of(pid).iter().all(|wait| wait.may_be_for_others()))
    }

    /// Who could wake a thread that waits on a word in memory: its own process, and all that share that memory.
    pub(super) fn find_wakers(&mut self, wait: &Wait, peers: &mut Peers) {
        let process = wait.thread.process;
        peers.handles_signals = self.means(process).handles_signals;
        if wait.call.is_private_futex() {
            peers.own = true;
            return;
        }
        let Some(memory) = memory::shared_at(process, wait.call.args[0], self.reads) else {
            peers.own = true;
            return;
        };
        let sharers = match self.sharers.get(&memory) {
            Some(sharers) => sharers.clone(),
            None => {
                let sharers = memory::sharers(&memory, self.reads).map(|sharers| self.able(sharers));
                self.sharers.insert(memory, sharers.clone());
                sharers
            }
        };
        let Some(sharers) = sharers else { return };
        peers.own = true;
        let others: Vec<u32> = sharers.iter().copied().filter(|pid| *pid != process.pid).collect();
        let (names, reads) = (&mut self.names, &mut *self.reads);
        let named = others.iter().take(NAMED_MAX);
        peers.others = named.map(|pid| Peer { pid: *pid, comm: name(names, *pid, reads) }).collect();
        peers.more = others.len().saturating_sub(NAMED_MAX);
    }

    /// Of these processes, those that may ever do something: one that pauses until a signal comes, and has no handler of any, can only
    /// end.
    fn able(&mut self, mut pids: Vec<u32>) -> Arc<[u32]> {
        pids.retain(|pid| match self.all.of(*pid) {
            [only] if only.call.is_pause() => {
                let Means { one_thread, handles_signals } = self.means(only.thread.process);
                !one_thread || handles_signals
            }
            _ => true,
        });
        pids.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_of_a_signal_from_outside_counts() {
        for (mask, expected) in [
            ("0000000000000000", Handlers::None),
            ("0000000000000440", Handlers::None), // SIGBUS and SIGSEGV, as Rust's programs have
            ("0000000180000000", Handlers::None), // the C library's
            ("0000000000000002", Handlers::Interrupt),
            ("0000000180000002", Handlers::Interrupt),
            ("0000000000004002", Handlers::Some), // SIGTERM too
            ("0000000000010440", Handlers::Some), // SIGCHLD
            ("x", Handlers::Some),
        ] {
            assert_eq!(handlers(&format!("SigIgn:\t0\nSigCgt:\t{mask}\n")), expected, "{mask}");
        }
        assert_eq!(handlers(""), Handlers::Some, "where it cannot be read");
    }
}
