//! Python's locks are semaphores, which say nothing of who has them. Is a program that can never go on told from one that rests?

use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;
use tests::{Agent, why};

use super::python::{PATIENCE, Program, Story};

/// Two threads, each with a lock, want the other's.
const CROSSED: Program = Program {
    name: "crossed",
    text: "
a, b, both = threading.Lock(), threading.Lock(), threading.Barrier(2)
def take(one, other):
    with one:
        both.wait()
        with other: pass
threads = [threading.Thread(target=take, args=pair) for pair in ((a, b), (b, a))]
for thread in threads: thread.start()
print(os.getpid(), flush=True)
for thread in threads: thread.join()",
};

/// A child was forked while another thread had a lock, which it wants.
const FORKED: Program = Program {
    name: "forked",
    text: "
lock, held = threading.Lock(), threading.Event()
def keep():
    with lock:
        held.set()
        time.sleep(100000)
threading.Thread(target=keep, daemon=True).start()
held.wait()
child = os.fork()
if child == 0:
    die_with_parent()
    lock.acquire()
    os._exit(0)
print(child, flush=True)
os.wait()",
};

/// The process that had a lock was killed.
const LEFT: Program = Program {
    name: "left",
    text: "
lock = multiprocessing.Lock()
def keep():
    lock.acquire()
    os.kill(os.getpid(), signal.SIGKILL)
def want():
    die_with_parent()
    lock.acquire()
keeper = multiprocessing.Process(target=keep)
keeper.start()
keeper.join()
wanter = multiprocessing.Process(target=want)
wanter.start()
print(wanter.pid, flush=True)
wanter.join()",
};

/// The process that has a lock waits for a word of the one that wants it.
const CIRCLE: Program = Program {
    name: "circle",
    text: "
lock = multiprocessing.Lock()
reader, writer = multiprocessing.Pipe(duplex=False)
held = os.pipe()
def keep():
    die_with_parent()
    with lock:
        os.write(held[1], b'x')
        reader.recv()
def want():
    die_with_parent()
    with lock: writer.send(1)
keeper = multiprocessing.Process(target=keep)
keeper.start()
os.read(held[0], 1)
wanter = multiprocessing.Process(target=want)
wanter.start()
print(wanter.pid, flush=True)
wanter.join()",
};

/// A task waits for another that no thread of its pool is left for.
const POOL: Program = Program {
    name: "pool",
    text: "
pool = concurrent.futures.ThreadPoolExecutor(1)
outer = pool.submit(lambda: pool.submit(abs, -1).result())
print(os.getpid(), flush=True)
outer.result()",
};

/// A lock of a thread that sleeps, and will let go.
const ASLEEP: Program = Program {
    name: "asleep",
    text: "
lock, held = threading.Lock(), threading.Event()
def keep():
    with lock:
        held.set()
        time.sleep(100000)
threading.Thread(target=keep, daemon=True).start()
held.wait()
print(os.getpid(), flush=True)
lock.acquire()",
};

/// A lock of a process that waits for a lock on a file, which yet another has, who is at work.
const ELSEWHERE: Program = Program {
    name: "elsewhere",
    text: "
lock, held = multiprocessing.Lock(), os.pipe()
file = tempfile.NamedTemporaryFile()
fcntl.flock(file, fcntl.LOCK_EX)
def keep():
    die_with_parent()
    with lock, open(file.name) as own:
        os.write(held[1], b'x')
        fcntl.flock(own, fcntl.LOCK_EX)
def want():
    die_with_parent()
    lock.acquire()
keeper = multiprocessing.Process(target=keep)
keeper.start()
os.read(held[0], 1)
wanter = multiprocessing.Process(target=want)
wanter.start()
print(wanter.pid, keeper.pid, flush=True)
time.sleep(100000)",
};

/// A worker whose queue nobody fills, and the thread that waits for it.
const QUEUE: Program = Program {
    name: "queue",
    text: "
jobs = queue.Queue()
worker = threading.Thread(target=jobs.get)
worker.start()
print(os.getpid(), flush=True)
worker.join()",
};

fn headline(report: &Value) -> &str {
    report["headline"].as_str().expect("a headline")
}

#[test]
fn those_that_never_go_on_are_flagged_and_called_a_deadlock() {
    let mut agent = Agent::start(&["--threshold", "2s"]);
    for story in [&CROSSED, &FORKED, &LEFT, &CIRCLE, &POOL].map(Story::begin) {
        let (stall, _) = agent.wait_stall("stall_opened", story.pid(), PATIENCE);
        assert_eq!(stall["wait"]["class"], "mutex", "{}: {stall:#}", story.name);
        let report = story.until("stuck");
        assert!(headline(&report).contains("a deadlock"), "{}: {report:#}", story.name);
        assert!(
            story.rows().iter().any(|row| row["class"] == "mutex" && row["deadlock"] == true),
            "{}",
            story.name
        );
    }
}

/// Who waits for one of them is as stuck.
#[test]
fn a_parent_of_one_that_never_goes_on() {
    let story = Story::begin(&FORKED);
    story.until("stuck");
    let report = why(story.python.pid());
    let expected = format!("(pid {}), for which it waits, is stuck", story.pid());
    assert!(headline(&report).contains(&expected), "{report:#}");
}

#[test]
fn those_that_may_go_on_are_not_flagged() {
    let mut agent = Agent::start(&["--threshold", "2s"]);
    let stories = [&ASLEEP, &ELSEWHERE, &QUEUE].map(Story::begin);
    // It begins after them, and is seen.
    let stuck = Story::begin(&CROSSED);
    agent.wait_stall("stall_opened", stuck.pid(), PATIENCE);
    // Who has the lock of one of them waits for a file's.
    let (stall, _) = agent.wait_stall("stall_opened", stories[1].pids[1], PATIENCE);
    assert_eq!(stall["wait"]["class"], "lock", "{stall:#}");
    sleep(Duration::from_secs(4));
    for story in &stories {
        assert_eq!(agent.events_of(story.pid()), [""; 0], "{}", story.name);
        let rows = story.rows();
        assert!(
            !rows.is_empty() && rows.iter().all(|row| row["level"] == "idle"),
            "{}: {rows:#?}",
            story.name
        );
        story.until("idle");
    }
}
