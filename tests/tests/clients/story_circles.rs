//! Some wait for each other by ways of different kinds. Is it one incident, a deadlock with all of them in it, and is a circle that somebody
//! can leave none?

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;
use tests::Agent;

use super::python::{PATIENCE, Program, Story};

/// Three processes, each of which waits for a word of the next over a Unix socket; of the middle one, after how many seconds it gives up.
macro_rules! ring {
    ($gives_up:literal) => {
        concat!(
            "
pairs = [socket.socketpair() for _ in range(3)]
pids = []
for own in range(3):
    pid = os.fork()
    if pid == 0:
        die_with_parent()
        reads, writes = pairs[own][0], pairs[own - 1][1]
        for one, other in pairs:
            if one is not reads: one.close()
            if other is not writes: other.close()
        if own == 1: reads.settimeout(",
            $gives_up,
            ")
        reads.recv(1)
        writes.send(b'x')
        os._exit(0)
    pids.append(pid)
for one, other in pairs: one.close(), other.close()
print(*pids, flush=True)
os.wait()"
        )
    };
}

const RING: Program = Program { name: "ring", text: ring!("None") };
const PATIENT_RING: Program = Program { name: "ring with a time-out", text: ring!("3600") };

/// Who has a file's lock waits for a word by a pipe, and who is to send it waits for the lock; whether their parent could send it as well.
macro_rules! lock_and_pipe {
    ($has_pipe:literal) => {
        concat!(
            "
parent_has_pipe = ",
            $has_pipe,
            "
reads, writes = os.pipe()
file = tempfile.NamedTemporaryFile()
held = os.pipe()
first = os.fork()
if first == 0:
    die_with_parent()
    os.close(writes)
    own = open(file.name)
    fcntl.flock(own, fcntl.LOCK_EX)
    os.write(held[1], b'x')
    os.read(reads, 1)
    os._exit(0)
os.read(held[0], 1)
second = os.fork()
if second == 0:
    die_with_parent()
    os.close(reads)
    own = open(file.name)
    fcntl.flock(own, fcntl.LOCK_EX)
    os.write(writes, b'x')
    os._exit(0)
if not parent_has_pipe: os.close(reads), os.close(writes)
print(first, second, flush=True)
time.sleep(100000)"
        )
    };
}

const LOCK_AND_PIPE: Program = Program { name: "lock and pipe", text: lock_and_pipe!("False") };
const OPEN_LOCK_AND_PIPE: Program =
    Program { name: "lock and pipe, and one who has the pipe as well", text: lock_and_pipe!("True") };

/// A signal's handler wants the mutex that its own thread has, as one does that allocates memory.
const OWN_MUTEX: Program = Program {
    name: "own mutex",
    text: "
libc = ctypes.CDLL(None)
mutex = ctypes.create_string_buffer(64)
@ctypes.CFUNCTYPE(None, ctypes.c_int)
def handler(number): libc.pthread_mutex_lock(mutex)
libc.signal(signal.SIGUSR1, handler)
libc.pthread_mutex_lock(mutex)
print(os.getpid(), flush=True)
libc.kill(os.getpid(), signal.SIGUSR1)",
};

fn pids_of(members: &Value) -> BTreeSet<u64> {
    members.as_array().into_iter().flatten().filter_map(|member| member["pid"].as_u64()).collect()
}

#[test]
fn circles_of_every_kind_are_deadlocks() {
    let mut agent = Agent::start(&["--threshold", "2s"]);
    for story in [&RING, &LOCK_AND_PIPE, &OWN_MUTEX].map(Story::begin) {
        let members: BTreeSet<u64> = story.pids.iter().map(|pid| u64::from(*pid)).collect();
        let is_it = |event: &Value| {
            let culprit = &event["incident"]["culprit"];
            event["event"] == "incident_opened"
                && culprit["kind"] == "deadlock"
                && pids_of(&culprit["members"]) == members
        };
        let (opened, _) = agent.wait_event(PATIENCE, is_it);
        assert!(opened["incident"]["stalls"].as_u64() >= Some(1), "{}: {opened:#}", story.name);
        for pid in &story.pids {
            let row = &tests::ps(&["--all", "-p", &pid.to_string()]).rows[0];
            assert_eq!(row["culprit"]["kind"], "deadlock", "{}: {row:#}", story.name);
        }
    }
}

#[test]
fn circles_that_somebody_can_leave_are_none() {
    let mut agent = Agent::start(&["--threshold", "2s"]);
    let stories = [&PATIENT_RING, &OPEN_LOCK_AND_PIPE].map(Story::begin);
    // It begins after them, and is seen.
    let stuck = Story::begin(&RING);
    let deadlocks = |events: &[Value]| -> BTreeSet<u64> {
        let of = events.iter().filter(|event| event["incident"]["culprit"]["kind"] == "deadlock");
        of.flat_map(|event| pids_of(&event["incident"]["culprit"]["members"])).collect()
    };
    let is_it = |event: &Value| deadlocks(std::slice::from_ref(event)).contains(&u64::from(stuck.pids[0]));
    agent.wait_event(PATIENCE, is_it);
    sleep(Duration::from_secs(4));
    let found = deadlocks(&agent.all_events());
    for story in &stories {
        for pid in &story.pids {
            assert!(!found.contains(&u64::from(*pid)), "{}", story.name);
            let rows = tests::ps(&["--all", "-p", &pid.to_string()]).rows;
            assert!(rows.iter().all(|row| row["culprit"]["kind"] != "deadlock"), "{}: {rows:#?}", story.name);
        }
    }
}
