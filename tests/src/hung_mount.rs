//! How does a test hang processes on a file system, and get all of them back? A real FUSE mount whose server it commands.
//!
//! The kernel lets everybody go when the server ends: whatever may hang on the mount is waited for only after that. The
//! server's keeper (`waiter fuse`) ends it when this value is dropped, when the test process dies, and after some minutes
//! in any case.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::ended::{Ended, Program};
use crate::launch::{Running, own_dir};
use crate::waiter::Waiter;
use crate::{slow, unsupported};

/// How long the mount is there at most, unless more is asked for.
const LIFE: Duration = Duration::from_secs(180);
/// How long the waiters may take until they sleep: generous, since the machine may be loaded.
const PATIENCE: Duration = Duration::from_secs(20);

/// A file system with the files f0 to f9, each of 1 MiB.
#[derive(Debug)]
pub struct HungMount {
    // Dropped first: with it everybody is let go.
    keeper: Mutex<Waiter>,
    server: libc::pid_t,
    path: PathBuf,
    waiters: Mutex<Vec<(String, PathBuf, Waiter)>>,
    /// What did not end in time.
    stuck: Mutex<Vec<Running>>,
}

/// A process that hangs on the mount.
#[derive(Debug, Clone)]
pub struct Planted {
    /// The part of its role's name after `mounted-`.
    pub role: String,
    /// The process id.
    pub pid: u32,
    /// The thread that waits.
    pub tid: u32,
    /// What it hangs on.
    pub path: PathBuf,
    /// When it began to, on the realtime clock.
    pub begun_ns: i128,
}

impl HungMount {
    /// Mounts a file system that answers as yet; none, which is said, where the kernel has no FUSE.
    pub fn start() -> Option<Self> {
        Self::start_for(LIFE)
    }

    /// The same for so long at most.
    pub fn start_for(life: Duration) -> Option<Self> {
        Self::mount(life, None)
    }

    /// One whose files begin with what this one has in it, up to a MiB: programs, say.
    pub fn start_with(content: &Path) -> Option<Self> {
        Self::mount(LIFE, Some(content))
    }

    fn mount(life: Duration, content: Option<&Path>) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let path = own_dir().join(format!("mount-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let (place, life) = (path.to_str().expect("a path of ours"), slow(life).as_secs().to_string());
        let content = content.map(|file| file.to_str().expect("a path of ours"));
        let words: Vec<&str> = [place, &life].into_iter().chain(content).collect();
        let keeper = Waiter::start_ended_by(libc::SIGTERM, "fuse", &words);
        if let Some(why) = keeper.unsupported() {
            unsupported(why);
            return None;
        }
        let server = keeper.number("server").try_into().expect("a pid");
        let (waiters, stuck) = Default::default();
        Some(Self { keeper: Mutex::new(keeper), server, path, waiters, stuck })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One of its files.
    pub fn file(&self, number: usize) -> PathBuf {
        self.path.join(format!("f{number}"))
    }

    /// The process that serves it.
    pub fn server(&self) -> u32 {
        self.server.cast_unsigned()
    }

    /// From now on the server takes requests and answers none: who waits cannot be killed.
    pub fn hang(&self) {
        self.tell("hang");
    }

    /// Stops the server: requests are not even taken, and who waits can be killed.
    pub fn stop(&self) {
        self.tell("stop");
    }

    /// The server answers again, also what it has taken; everybody goes on.
    pub fn answer(&self) {
        self.tell("go-on");
        self.tell("answer");
    }

    /// How many requests the server has taken and not answered.
    pub fn held(&self) -> u64 {
        self.tell("held")
    }

    fn tell(&self, command: &str) -> u64 {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        keeper.command(command);
        keeper.next_line()["held"].as_u64().unwrap_or_else(|| panic!("{command}: the server has ended"))
    }

    /// Starts a waiter that will hang on one of the files, or on the mount itself: `mounted-` and this is its role. What it has
    /// to open it opens now, so that the server must answer as yet.
    pub fn prepare(&self, role: &str, path: &Path) {
        self.prepare_as(0, role, path);
    }

    /// The same as another user.
    pub fn prepare_as(&self, uid: u32, role: &str, path: &Path) {
        let waiter =
            Waiter::start_as(uid, &format!("mounted-{role}"), &[path.to_str().expect("a path of ours")]);
        self.waiters().push((role.to_owned(), path.to_owned(), waiter));
    }

    fn waiters(&self) -> std::sync::MutexGuard<'_, Vec<(String, PathBuf, Waiter)>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets all that are prepared do what they are to hang in, and returns when all of them sleep.
    pub fn begin(&self) -> Vec<Planted> {
        let mut waiters = self.waiters();
        let begun = waiters.iter_mut().map(|(role, path, waiter)| {
            waiter.command("go");
            let line = waiter.next_line();
            let begun_ns = line["realtime_ns"].as_u64().unwrap_or_else(|| panic!("{role}: {line}")).into();
            if role == "poll" {
                // The page with the set is exchanged once it sleeps.
                assert_eq!(waiter.next_line()["event"], "mapped");
            }
            Planted { role: role.clone(), pid: waiter.pid(), tid: waiter.tid(), path: path.clone(), begun_ns }
        });
        let begun: Vec<Planted> = begun.collect();
        drop(waiters);
        let start = Instant::now();
        // Of all files of /proc/PID this one alone is certain to be readable.
        let sleeps = |planted: &Planted| {
            let status = std::fs::read_to_string(format!("/proc/{}/status", planted.pid)).unwrap_or_default();
            status.contains("State:\tS") || status.contains("State:\tD")
        };
        let mut asleep = 0;
        // Asleep a few times in a row: nobody is on the way.
        while asleep < 10 {
            asleep = if begun.iter().all(sleeps) { asleep + 1 } else { 0 };
            assert!(start.elapsed() < slow(PATIENCE), "not all of them sleep: {begun:#?}");
            thread::sleep(Duration::from_millis(10));
        }
        begun
    }

    /// Those that do not hang any more.
    pub fn woken(&self) -> Vec<String> {
        let waiters = self.waiters();
        let woken = waiters.iter().filter(|(.., waiter)| waiter.has_said_more());
        woken.map(|(role, ..)| role.clone()).collect()
    }

    /// Runs tracer with these arguments to its end, and to that of its output. If it does not end in time, it is left to itself
    /// until the server has ended, and the test has failed.
    pub fn run(&self, args: &[&str], at_most: Duration) -> Ended {
        let begin = Instant::now();
        let mut program = Program::tracer(args);
        program.end(begin + at_most).unwrap_or_else(|| {
            self.give_up(program, &format!("tracer {args:?} runs after {at_most:?}"));
        })
    }

    /// Runs tracer, and sends it a signal after so long. It may have ended by then; after the signal it has `at_most`.
    pub fn interrupt(&self, args: &[&str], after: Duration, signal: i32, at_most: Duration) {
        let mut program = Program::tracer(args);
        thread::sleep(after);
        program.signal(signal);
        if program.end(Instant::now() + at_most).is_none() {
            self.give_up(program, &format!("tracer {args:?} runs {at_most:?} after signal {signal}"));
        }
    }

    fn give_up(&self, program: Program, what: &str) -> ! {
        let mut process = program.process;
        let ended = process.ended().is_some();
        if !ended {
            process.signal(libc::SIGKILL);
        }
        let killed = process.wait(Duration::from_secs(2)).is_some();
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner).push(process);
        panic!(
            "{what}: {}",
            match (ended, killed) {
                (true, _) => "it has ended, but somebody has its output",
                (_, true) => "SIGKILL ends it",
                (_, false) => "it survives SIGKILL",
            }
        );
    }
}
