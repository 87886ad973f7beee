//! Reading a stuck process can get the reader stuck: memory behind a userfaultfd or a dead FUSE mount never comes, and
//! some `/proc` files wait for a lock the process holds. Such reads run here, on a thread that can be left behind.

use std::{
    collections::HashMap,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use crate::wait::ProcessId;

/// How long a read may take. Reads of `/proc` take microseconds.
const DEADLINE: Duration = Duration::from_millis(100);
/// How often it is given as much again while its thread is not held up but wants for a CPU, on a machine that is overloaded.
const EXTENSIONS: u32 = 20;
/// Threads left behind at most; beyond that nothing risky is read until one of them comes back.
const LEFT_BEHIND: usize = 16;
/// How long a process is left alone whose read did not come back in time, although it has by now; twice as long each further time.
const ALONE: Duration = Duration::from_secs(10);
/// At most so often twice as long: three hours.
const DOUBLED: u32 = 10;
/// Processes that are remembered, though their reads have come back.
const REMEMBERED: usize = 256;

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

/// A process whose read was given up.
struct Left {
    /// Held by the read: gone once it has come back.
    read: Weak<()>,
    /// Not read again before.
    until: Instant,
    times: u32,
}

impl Left {
    fn is_back(&self) -> bool {
        self.read.strong_count() == 0
    }

    fn is_over(&self) -> bool {
        self.is_back() && Instant::now() >= self.until
    }
}

/// What is known of reads that were given up.
#[derive(Default)]
struct Known {
    left: HashMap<ProcessId, Left>,
    abandoned: u64,
}

impl Known {
    fn may_read(&self, process: ProcessId) -> bool {
        self.left.get(&process).is_none_or(Left::is_over)
            && (self.left.len() < LEFT_BEHIND
                || self.left.values().filter(|left| !left.is_back()).count() < LEFT_BEHIND)
    }

    fn abandon(&mut self, process: ProcessId, read: Weak<()>, alone: Duration) {
        self.abandoned += 1;
        if self.left.len() >= REMEMBERED {
            self.left.retain(|_, left| !left.is_over());
        }
        let times = self.left.get(&process).map_or(0, |left| left.times + 1).min(DOUBLED);
        let until = Instant::now() + alone * 2u32.pow(times);
        self.left.insert(process, Left { read, until, times });
    }
}

/// Runs reads with a deadline. One that misses it is counted, and that process is not read again before it has come back, and
/// for a while: by no guard of this program, since the threads that are left behind are all its own.
pub struct Guard {
    worker: Option<Worker>,
    known: Arc<Mutex<Known>>,
    alone: Duration,
}

impl Guard {
    /// A guard without a thread yet.
    pub fn new() -> Self {
        static OF_ALL: LazyLock<Arc<Mutex<Known>>> = LazyLock::new(Arc::default);
        Self { worker: None, known: Arc::clone(&OF_ALL), alone: ALONE }
    }

    /// Reads of all guards that did not come back in time, so far.
    pub fn abandoned(&self) -> u64 {
        self.known().abandoned
    }

    /// Whether there is a read that has not come back: its process is not read meanwhile, and nobody is behind too many of them.
    pub fn refuses(&self) -> bool {
        self.known().left.values().any(|left| !left.is_back())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `read`; `None` if it does not come back in time, or did not for this process lately.
    pub fn read<T: Send + 'static>(
        &mut self,
        process: ProcessId,
        read: impl FnOnce() -> Option<T> + Send + 'static,
    ) -> Option<T> {
        if !self.known().may_read(process) {
            return None;
        }
        let (answer, wait): (Sender<Option<T>>, Receiver<Option<T>>) = mpsc::channel();
        let held = Arc::new(());
        let is_held = Arc::downgrade(&held);
        let job: Job = Box::new(move || {
            // Also if it panics.
            let _held = held;
            // Nobody listens any more if the deadline has passed.
            let _ = answer.send(read());
        });
        let Some(worker) = self.worker.take().or_else(Worker::start) else {
            self.known().abandoned += 1;
            return None;
        };
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
        self.known().abandon(process, is_held, self.alone);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that shares nothing with the others.
    fn apart(alone: Duration) -> Guard {
        Guard { worker: None, known: Arc::default(), alone }
    }

    const WELL: ProcessId = ProcessId { pid: 2, start_ns: 1 };

    /// A read that comes back when the other end is dropped.
    fn hang(guard: &mut Guard, pid: u32) -> (ProcessId, Sender<()>) {
        let (end, ended) = mpsc::channel::<()>();
        let process = ProcessId { pid, start_ns: 1 };
        assert_eq!(guard.read(process, move || ended.recv().ok()), None);
        (process, end)
    }

    fn is_read(guard: &mut Guard, process: ProcessId) -> bool {
        guard.read(process, || Some(())).is_some()
    }

    fn soon(mut is_so: impl FnMut() -> bool) -> bool {
        (0..200).any(|_| {
            thread::sleep(Duration::from_millis(10));
            is_so()
        })
    }

    #[test]
    fn a_read_that_hangs_is_left_behind_and_tried_again_once_it_is_back() {
        let mut guard = apart(Duration::from_millis(50));
        assert!(is_read(&mut guard, WELL));
        let (sick, end) = hang(&mut guard, 1);
        thread::sleep(Duration::from_millis(100));
        assert!(!is_read(&mut guard, sick), "it is not back");
        assert!(is_read(&mut guard, WELL), "others go on");
        assert!(guard.refuses());
        drop(end);
        assert!(soon(|| is_read(&mut guard, sick)), "it is back");
        let (_, end) = hang(&mut guard, 1);
        drop(end);
        let again = Instant::now();
        assert!(soon(|| is_read(&mut guard, sick)) && again.elapsed() >= Duration::from_millis(50));
        assert_eq!((guard.abandoned(), guard.known().left[&sick].times), (2, 1));
        assert!(!guard.refuses());
    }

    #[test]
    fn with_too_many_left_behind_nothing_is_read_until_one_is_back() {
        let mut guard = apart(ALONE);
        let mut ends: Vec<_> = (10..).take(LEFT_BEHIND).map(|pid| hang(&mut guard, pid)).collect();
        assert!(!is_read(&mut guard, WELL));
        let mut another = Guard { worker: None, known: Arc::clone(&guard.known), alone: ALONE };
        assert!(!is_read(&mut another, WELL), "they are all left behind by the same program");
        ends.pop();
        assert!(soon(|| is_read(&mut guard, WELL)));
        assert_eq!(guard.abandoned(), LEFT_BEHIND as u64);
    }

    #[test]
    fn those_that_are_long_back_are_forgotten() {
        let mut known = Known::default();
        for pid in 0..2 * REMEMBERED as u32 {
            known.abandon(ProcessId { pid, start_ns: 1 }, Weak::new(), Duration::ZERO);
        }
        assert!(known.left.len() <= REMEMBERED, "{}", known.left.len());
    }
}
