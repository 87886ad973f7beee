//! Reading a stuck process can get the reader stuck: memory behind a userfaultfd or a dead FUSE mount never comes, and
//! some `/proc` files wait for a lock the process holds. Such reads run here, on a thread that can be left behind.

use std::{
    collections::HashSet,
    sync::mpsc::{self, Receiver, Sender},
    thread,
    time::Duration,
};

use crate::wait::ProcessId;

/// How long a read may take. Reads of `/proc` take microseconds.
const DEADLINE: Duration = Duration::from_millis(100);
/// How often it is given as much again while its thread is not held up but wants for a CPU, on a machine that is overloaded.
const EXTENSIONS: u32 = 20;
/// Threads left behind at most; beyond that nothing risky is read any more.
const LEFT_BEHIND: u64 = 16;

type Job = Box<dyn FnOnce() + Send>;

/// A thread that reads.
struct Worker {
    tid: i32,
    jobs: Sender<Job>,
}

impl Worker {
    fn start() -> Option<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (tell, told) = mpsc::channel();
        let work = move || {
            // Whoever started it listens.
            let _ = tell.send(rustix::thread::gettid().as_raw_nonzero().get());
            queue.into_iter().for_each(|job| job());
        };
        thread::Builder::new().name("guarded-read".into()).spawn(work).ok()?;
        Some(Self { tid: told.recv().ok()?, jobs })
    }

    /// Whether it runs, or would if it were given a CPU: nothing holds it up.
    fn runs(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{}/stat", self.tid));
        stat.is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('R')))
    }
}

/// Runs reads with a deadline. One that misses it is counted, and that process is never read again.
pub struct Guard {
    worker: Option<Worker>,
    refused: HashSet<ProcessId>,
    abandoned: u64,
}

impl Guard {
    /// A guard without a thread yet.
    pub fn new() -> Self {
        Self { worker: None, refused: HashSet::new(), abandoned: 0 }
    }

    /// Reads that did not come back in time, so far.
    pub fn abandoned(&self) -> u64 {
        self.abandoned
    }

    /// Runs `read`; `None` if it does not come back in time, or did not for this process before.
    pub fn read<T: Send + 'static>(
        &mut self,
        process: ProcessId,
        read: impl FnOnce() -> Option<T> + Send + 'static,
    ) -> Option<T> {
        if self.refused.contains(&process) || self.abandoned >= LEFT_BEHIND {
            return None;
        }
        let (answer, wait): (Sender<Option<T>>, Receiver<Option<T>>) = mpsc::channel();
        let job: Job = Box::new(move || {
            // Nobody listens any more if the deadline has passed.
            let _ = answer.send(read());
        });
        let worker = self.worker.take().or_else(Worker::start)?;
        worker.jobs.send(job).ok()?;
        for _ in 0..=EXTENSIONS {
            if let Ok(value) = wait.recv_timeout(DEADLINE) {
                self.worker = Some(worker);
                return value;
            }
            if !worker.runs() {
                break;
            }
        }
        self.abandoned += 1;
        self.refused.insert(process);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_that_hangs_is_left_behind_and_not_tried_again() {
        let mut guard = Guard::new();
        let (sick, well) = (ProcessId { pid: 1, start_ns: 1 }, ProcessId { pid: 2, start_ns: 1 });
        assert_eq!(guard.read(well, || Some(1)), Some(1));
        assert_eq!(
            guard.read(sick, || {
                thread::sleep(Duration::from_secs(2));
                Some(1)
            }),
            None
        );
        assert_eq!(guard.read(sick, || Some(1)), None, "not tried again");
        assert_eq!(guard.read(well, || Some(2)), Some(2), "others go on");
        assert_eq!(guard.abandoned(), 1);
    }
}
