//! Does a stack say where in its program a thread sleeps, as a debugger and as the program itself would?

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tests::{
    Agent, HungMount, Running, alone, debian_program, own_dir, shared, start, start_ended_by, why_page,
};

/// How long a program may take until it is where it will be.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A program in C that sleeps in a function of this name, called by `middle` and that by `main`, in several ways.
pub(crate) const BLOCKS: &str = include_str!("samples/blocks.c");

/// The flavours in which it is built: how they are called, also for people, and with which options.
pub(crate) const FLAVOURS: &[(&str, &str, &[&str])] = &[
    ("-O0", "`-O0`", &["-O0"]),
    ("-O2", "`-O2`, no frame pointers", &["-O2", "-fomit-frame-pointer"]),
    ("static", "static", &["-O2", "-static"]),
    ("static-pie", "static-pie", &["-O2", "-static-pie"]),
];

/// The ways in which it sleeps, also for people, with its own functions that have called each other then, the innermost first.
pub(crate) const WAYS: &[(&str, &str, &[&str])] = &[
    ("read", "`read`", &["block", "middle", "main"]),
    ("poll", "`poll`", &["block", "middle", "main"]),
    ("condition", "condition variable", &["block", "middle", "main"]),
    ("mutex", "mutex", &["block", "middle", "main"]),
    ("system", "`system`", &["block", "middle", "main"]),
    ("qsort", "`qsort`'s callback", &["block", "compare", "middle", "main"]),
    ("signal", "a signal's handler", &["block", "handler", "<signal handler called>", "middle", "main"]),
];

/// A folder for the files of one test.
pub(crate) fn folder(name: &str) -> PathBuf {
    let dir = own_dir().join(name);
    fs::create_dir_all(&dir).expect("it is made");
    dir
}

pub(crate) fn build(dir: &Path, flavour: &[&str]) -> PathBuf {
    let (source, program) = (dir.join("blocks.c"), dir.join("blocks"));
    fs::write(&source, BLOCKS).expect("write");
    let mut gcc = Command::new(debian_program("gcc"));
    gcc.arg(&source).arg("-o").arg(&program).args(flavour).arg("-pthread");
    assert!(gcc.status().expect("gcc runs").success(), "it is built");
    program
}

pub(crate) fn stacks(who: &str) -> Vec<Value> {
    let output = Command::new(tests::tracer()).args(["stack", who, "--json"]).output().expect("tracer runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The stack of a thread, once this holds of it.
pub(crate) fn until(tid: u32, holds: impl Fn(&Value) -> bool) -> Value {
    let begin = Instant::now();
    loop {
        let found = stacks(&tid.to_string());
        let found = found.into_iter().find(|thread| thread["tid"] == tid).unwrap_or(Value::Null);
        if holds(&found["stack"]) {
            return found["stack"].clone();
        }
        assert!(begin.elapsed() < tests::slow(PATIENCE), "not as it should be: {found:#}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The names of native frames.
pub(crate) fn functions(stack: &Value) -> Vec<&str> {
    let native = stack["native"].as_array().map(Vec::as_slice).unwrap_or_default();
    native.iter().filter_map(|frame| frame["function"].as_str()).collect()
}

/// The program's own frames, as `function:line`.
pub(crate) fn program(stack: &Value) -> Vec<String> {
    let frames = stack["frames"].as_array().map(Vec::as_slice).unwrap_or_default();
    frames
        .iter()
        .map(|frame| format!("{}:{}", frame["function"].as_str().unwrap_or("?"), frame["line"]))
        .collect()
}

pub(crate) fn spawn(program: &Path, arguments: &[&str]) -> Running {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    start(command)
}

#[test]
fn a_stripped_program_and_its_threads_are_seen_too() {
    let dir = folder("stacks-stripped");
    let blocks = build(&dir, &["-O2", "-s"]);
    let running = spawn(&blocks, &["thread"]);
    let begin = Instant::now();
    let threads = loop {
        let threads = stacks(&running.pid().to_string());
        let whole = |thread: &Value| thread["stack"]["complete"] == true;
        let has_read = |thread: &Value| functions(&thread["stack"]).first() == Some(&"read");
        if threads.len() == 2 && threads.iter().all(whole) && threads.iter().any(has_read) {
            break threads;
        }
        assert!(begin.elapsed() < PATIENCE, "{threads:#?}");
        std::thread::sleep(Duration::from_millis(50));
    };
    // Its own functions have no names left, but places.
    let own = |thread: &Value| {
        let native = thread["stack"]["native"].as_array().expect("frames");
        native
            .iter()
            .any(|frame| frame["function"].is_null() && frame["module"] == *blocks.to_str().expect("a path"))
    };
    assert!(threads.iter().all(own), "{threads:#?}");
}

#[test]
fn a_deleted_program_has_its_names() {
    let dir = folder("stacks-deleted");
    let blocks = build(&dir, &["-O0"]);
    let running = spawn(&blocks, &["poll"]);
    until(running.pid(), |stack| functions(stack).contains(&"block"));
    fs::remove_file(&blocks).expect("it is there");
    let stack = until(running.pid(), |stack| !stack.is_null());
    assert!(functions(&stack).ends_with(&["_start"]) && functions(&stack).contains(&"middle"), "{stack:#}");
}

#[test]
fn the_page_of_why_says_where() {
    let dir = folder("stacks-why");
    let blocks = build(&dir, &["-O2"]);
    let running = spawn(&blocks, &["qsort"]);
    until(running.pid(), |stack| functions(stack).contains(&"compare"));
    let page = why_page(running.pid());
    assert!(page.contains("\nWhere     read ← block ← compare ← "), "{page}");
}

/// The kernel's functions stand with the program's, and what they mean where that is known.
#[test]
fn the_kernels_functions_are_part_of_the_stack() {
    let dir = folder("stacks-kernel");
    let blocks = build(&dir, &["-O2"]);
    let running = spawn(&blocks, &["read"]);
    until(running.pid(), |stack| functions(stack).contains(&"block"));
    let all = stacks(&running.pid().to_string());
    let kernel = all[0]["kernel"].as_array().expect("functions");
    assert!(kernel.iter().any(|name| name == "vfs_read"), "{all:#?}");
    let Some(mount) = HungMount::start() else { return };
    mount.hang();
    let path = mount.file(1);
    let hangs = spawn(&debian_program("cat"), &[path.to_str().expect("a path")]);
    until(hangs.pid(), |stack| !functions(stack).is_empty());
    let page = |options: &[&str]| {
        let mut command = Command::new(tests::tracer());
        let output = command.args(["stack", &hangs.pid().to_string()]).args(options).output();
        String::from_utf8_lossy(&output.expect("tracer runs").stdout).into_owned()
    };
    let begin = Instant::now();
    while !page(&[]).contains("in the kernel request_wait_answer ← ") && begin.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(50));
    }
    let [short, native, folded] = [page(&[]), page(&["--native"]), page(&["--native", "--folded"])];
    mount.answer();
    assert!(short.contains(": a FUSE server does not answer\n"), "{short}");
    assert!(native.contains("    request_wait_answer (kernel: a FUSE server does not answer)\n"), "{native}");
    assert!(folded.contains(";request_wait_answer_[k] 1\n"), "{folded}");
}

/// Under the rights that an agent leaves itself.
#[test]
fn a_stall_says_where() {
    let _shared = shared();
    let dir = folder("stacks-agent");
    let blocks = build(&dir, &["-O2"]);
    let mut agent = Agent::start(&["--threshold", "2s"]);
    let running = spawn(&blocks, &["qsort"]);
    let (event, _) = agent.wait_stall("stall_opened", running.pid(), PATIENCE);
    let stack = event["stack"].as_array().expect("a stack");
    let has = |name: &str| stack.iter().any(|frame| frame == name);
    assert!(has("read") && has("compare") && has("main") && stack.len() <= 20, "{event:#}");
}

/// Six threads that ask a server, which has accepted and says nothing.
const POOL: &str = "import os, socket, threading, time
server = socket.create_server(('127.0.0.1', 0), backlog=16)
parent = os.getpid()
if os.fork() == 0:
    accepted = [server.accept()[0] for _ in range(6)]
    while os.getppid() == parent: time.sleep(0.2)
    os._exit(0)
address = server.getsockname()
server.close()
def get():
    connection = socket.create_connection(address)
    connection.sendall(b'GET /')
    connection.recv(1)
def work():
    get()
threads = [threading.Thread(target=work) for _ in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
";

/// Stalls of one program in the same functions are told together.
#[test]
fn an_incident_says_where_most_of_its_stalls_are() {
    let _shared = shared();
    let dir = folder("stacks-incident");
    let script = dir.join("pool.py");
    fs::write(&script, POOL).expect("write");
    let mut agent = Agent::start(&["--threshold", "3s"]);
    let running = spawn(&debian_program("python3"), &[script.to_str().expect("a path")]);
    let pid = running.pid();
    let is_there = |event: &Value| {
        let stacks = event["incident"]["stacks"].as_array();
        let stack = stacks.and_then(|stacks| stacks.first()).map(|first| &first["stack"]);
        event["event"] == "incident_closed" && stack.is_some_and(|stack| stack[0] == "get pool.py:13")
    };
    let tids = std::cell::RefCell::new(std::collections::HashSet::new());
    agent.wait_event(3 * PATIENCE, |event| {
        if event["event"] == "stall_opened" && event["wait"]["pid"] == pid {
            tids.borrow_mut().insert(event["wait"]["tid"].as_u64());
        }
        tids.borrow().len() == 6
    });
    // The next look sees all of them, and what it has seen last is told at the end.
    std::thread::sleep(Duration::from_secs(3));
    drop(running);
    let (event, _) = agent.wait_event(PATIENCE, is_there);
    let first = &event["incident"]["stacks"][0];
    assert_eq!(first["stack"][1], "work pool.py:15", "{event:#}");
    // Other processes may have stalls in the same look, which has so much time for all.
    let stalls = first["stalls"].as_u64().expect("a number");
    assert!((2..=6).contains(&stalls), "{event:#}");
    eprintln!("{stalls} of 6 stalls have the same stack");
    assert_eq!(first["comm"], "python3", "{event:#}");
}

/// Waits in a method, in a comprehension, in a function; a line each.
pub(crate) const PYTHON: &str = "import os, threading
ends = os.pipe()
class Pool:
    def get(self):
        return os.read(ends[0], 1)
def work():
    return [
        Pool().get()
        for _ in range(1)
    ]
threading.Thread(target=work, daemon=True).start()
work()
";

/// Debian's interpreter, and those of other versions that the environment names, with colons between.
pub(crate) fn pythons() -> Vec<PathBuf> {
    let others = std::env::var_os("TRACER_PYTHONS").unwrap_or_default();
    let others: Vec<PathBuf> = std::env::split_paths(&others).filter(|path| path.is_file()).collect();
    [debian_program("python3")].into_iter().chain(others).collect()
}

#[test]
fn threads_of_python_are_at_their_lines() {
    let dir = folder("stacks-python");
    let script = dir.join("waits.py");
    fs::write(&script, PYTHON).expect("write");
    for python in pythons() {
        let running = spawn(&python, &[script.to_str().expect("a path")]);
        let stack = until(running.pid(), |stack| {
            stack["language"] == "python" && program(stack).first().is_some_and(|top| top.ends_with("get:5"))
        });
        let frames = program(&stack);
        assert_eq!(frames.last().map(String::as_str), Some("<module>:12"), "{python:?} {frames:?}");
        assert!(frames.iter().any(|frame| frame == "work:8" || frame == "work:7"), "{python:?} {frames:?}");
        let all = stacks(&running.pid().to_string());
        let of_threads =
            all.iter().filter(|thread| program(&thread["stack"]).iter().any(|of| of.ends_with("get:5")));
        assert_eq!(of_threads.count(), 2, "{python:?} {all:#?}");
    }
}

/// A thread and a child, each of which has ids of its own where it lives.
const FORKS: &str = "import os, threading, time
def sleeps():
    time.sleep(1000)
threading.Thread(target=sleeps, daemon=True).start()
def child():
    os.read(os.pipe()[0], 1)
if os.fork() == 0:
    child()
os.wait()
";

#[test]
fn children_and_threads_in_a_namespace_of_their_own_are_at_their_lines() {
    let dir = folder("stacks-forks");
    let script = dir.join("forks.py");
    fs::write(&script, FORKS).expect("write");
    let python = debian_program("python3");
    let words =
        ["-p", "-f", "--kill-child", python.to_str().expect("a path"), script.to_str().expect("a path")];
    let running = spawn(&debian_program("unshare"), &words);
    let begin = Instant::now();
    let children = |pid: u32| -> Vec<u32> {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    };
    let (parent, child) = loop {
        let parent = children(running.pid()).first().copied();
        let child = parent.and_then(|parent| children(parent).first().copied());
        if let (Some(parent), Some(child)) = (parent, child) {
            break (parent, child);
        }
        assert!(begin.elapsed() < PATIENCE, "it does not fork");
        std::thread::sleep(Duration::from_millis(20));
    };
    let stack = until(child, |stack| program(stack).first().is_some_and(|top| top == "child:6"));
    assert_eq!(program(&stack), ["child:6", "<module>:8"]);
    let stack = until(parent, |stack| !program(stack).is_empty());
    assert_eq!(program(&stack), ["<module>:9"]);
    let all = stacks(&parent.to_string());
    let sleeps = |thread: &&Value| program(&thread["stack"]).first().is_some_and(|top| top == "sleeps:3");
    assert_eq!(all.iter().filter(sleeps).count(), 1, "{all:#?}");
}

pub(crate) const PHP: &str = "<?php
function connect($stream) {
    return fread($stream, 1);
}
class Page {
    function show($stream) {
        return array_map(fn($one) => connect($one), [$stream]);
    }
}
$pair = stream_socket_pair(STREAM_PF_UNIX, STREAM_SOCK_STREAM, 0);
(new Page)->show($pair[0]);
";

pub(crate) const RUBY: &str = "def get(io)
  io.read(1)
end
ends = IO.pipe
Thread.new { get(ends[0]) }
others = IO.pipe
[1].each do |number|
  get(others[0])
end
";

/// Sleeps in one thread, and counts in another as fast as it can.
const BUSY: &str = "
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
static volatile unsigned long counted;
static int ends[2];
__attribute__((noinline)) static void block(void)
{
	char byte;
	if (read(ends[0], &byte, 1) < 0) counted = 0;
}
static void *counts(void *argument)
{
	for (;;) counted++;
	return argument;
}
static void *says(void *argument)
{
	char byte;
	while (read(0, &byte, 1) == 1) {
		printf(\"%lu\\n\", counted);
		fflush(stdout);
	}
	return argument;
}
int main(int number, char **words)
{
	pthread_t thread;
	if (pipe(ends)) return 1;
	if (number > 1) pthread_create(&thread, 0, counts, 0);
	pthread_create(&thread, 0, says, 0);
	block();
	return 0;
}
";

/// A process whose first thread sleeps, built and started; with a thread that counts, if it is to have one.
fn sleeper(dir: &Path, counts: bool) -> Running {
    let (source, program) = (dir.join("busy.c"), dir.join("busy"));
    fs::write(&source, BUSY).expect("write");
    let mut gcc = Command::new(debian_program("gcc"));
    gcc.arg(&source).arg("-o").arg(&program).args(["-O1", "-pthread"]);
    assert!(gcc.status().expect("gcc runs").success(), "it is built");
    let mut command = Command::new(&program);
    command.args(counts.then_some("counts")).stdin(Stdio::piped()).stdout(Stdio::piped());
    start(command)
}

/// What the kernel has of each thread that a reader could change, by the lines of its `status`.
fn statuses(pid: u32) -> Vec<(u32, Vec<String>)> {
    const LINES: [&str; 8] = [
        "State:",
        "TracerPid:",
        "SigPnd:",
        "ShdPnd:",
        "SigBlk:",
        "SigIgn:",
        "voluntary_ctxt_switches:",
        "nonvoluntary_ctxt_switches:",
    ];
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it lives");
    let of = |tid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).expect("it lives");
        let lines = status.lines().filter(|line| LINES.iter().any(|begin| line.starts_with(begin)));
        (tid, lines.map(str::to_owned).collect())
    };
    let tids =
        tasks.map(|entry| entry.expect("an entry").file_name().to_string_lossy().parse().expect("a tid"));
    tids.map(of).collect()
}

#[test]
fn a_process_does_not_notice_that_its_stack_is_read() {
    let running = sleeper(&folder("stacks-unnoticed"), false);
    until(running.pid(), |stack| functions(stack).contains(&"block"));
    let before = statuses(running.pid());
    assert_eq!(before.len(), 2, "{before:#?}");
    for _ in 0..50 {
        let all = stacks(&running.pid().to_string());
        assert!(all.iter().all(|thread| thread["stack"]["complete"] == true), "{all:#?}");
    }
    assert_eq!(before, statuses(running.pid()));
}

/// How far a process counts in so long.
fn counts_in(running: &mut Running, time: Duration) -> u64 {
    use std::io::{BufRead, BufReader, Write};
    let pipes = running.pipes();
    let (mut stdin, mut stdout) =
        (pipes.stdin.take().expect("piped"), BufReader::new(pipes.stdout.take().expect("piped")));
    let mut now = || -> u64 {
        stdin.write_all(b"?").expect("it listens");
        let mut line = String::new();
        stdout.read_line(&mut line).expect("it answers");
        line.trim().parse().expect("a number")
    };
    let before = now();
    std::thread::sleep(time);
    let counted = now() - before;
    (running.pipes().stdin, running.pipes().stdout) = (Some(stdin), Some(stdout.into_inner()));
    counted
}

/// Its other threads go on as fast as while another process's stack is read, which is as much work for the machine: measured in turns, and
/// against the processor time that they got.
#[test]
fn a_neighbour_goes_on_while_a_stack_is_read() {
    // How fast a processor is depends on what its neighbours do.
    let _alone = alone();
    let mut running = sleeper(&folder("stacks-neighbour"), true);
    let pid = running.pid();
    let other = sleeper(&folder("stacks-other"), true);
    for pid in [pid, other.pid()] {
        until(pid, |stack| functions(stack).contains(&"block"));
    }
    // What the counting thread has had of processors, nanoseconds: the one that has had most.
    let had = || -> u64 {
        let tasks = fs::read_dir(format!("/proc/{pid}/task"))
            .expect("it lives")
            .map(|entry| entry.expect("an entry"));
        let of = |entry: fs::DirEntry| -> u64 {
            let text = fs::read_to_string(entry.path().join("schedstat")).expect("it lives");
            text.split(' ').next().and_then(|first| first.parse().ok()).expect("a number")
        };
        tasks.map(of).max().expect("a thread")
    };
    let mut speed = |read: u32| -> f64 {
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reads = scope.spawn(|| {
                let mut number = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    number += usize::from(!stacks(&read.to_string()).is_empty());
                }
                number
            });
            let before = had();
            let counted = counts_in(&mut running, Duration::from_millis(1500));
            let took = had() - before;
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            let number = reads.join().expect("it reads");
            assert!(number > 0, "it was not read");
            counted as f64 / took as f64
        })
    };
    let (mut alone, mut read) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        alone.push(speed(other.pid()));
        read.push(speed(pid));
    }
    // Best of each: a processor that others share is slower, never faster.
    let [alone, read] = [alone, read].map(|speeds| speeds.into_iter().fold(0.0, f64::max));
    eprintln!("counts a nanosecond: {alone:.4}, {read:.4} while its stack is read");
    // Processors that are shared drift by a third.
    assert!(read > 0.6 * alone, "{read} against {alone}");
}

/// A debugger or tracer that is attached is not in the way, and nothing is in its.
#[test]
fn a_process_under_strace_is_read_and_strace_sees_nothing() {
    let dir = folder("stacks-strace");
    let mut running = sleeper(&dir, false);
    let (pid, log) = (running.pid(), dir.join("strace.txt"));
    until(pid, |stack| functions(stack).contains(&"block"));
    let mut strace = Command::new(debian_program("strace"));
    strace.args(["-f", "-p", &pid.to_string(), "-o"]).arg(&log).stderr(Stdio::null());
    let mut strace = start_ended_by(libc::SIGINT, strace);
    let traced =
        |pid: u32| statuses(pid).iter().all(|(_, lines)| lines.iter().all(|line| line != "TracerPid:\t0"));
    let begin = Instant::now();
    while !traced(pid) {
        assert!(begin.elapsed() < PATIENCE, "strace does not attach");
        std::thread::sleep(Duration::from_millis(20));
    }
    until(pid, |stack| functions(stack).contains(&"block"));
    std::thread::sleep(Duration::from_millis(300));
    let (before, logged) = (statuses(pid), fs::read_to_string(&log).expect("it is written"));
    for _ in 0..10 {
        let all = stacks(&pid.to_string());
        assert!(all.iter().any(|thread| functions(&thread["stack"]).contains(&"block")), "{all:#?}");
    }
    assert_eq!(
        (before, logged.as_str()),
        (statuses(pid), &*fs::read_to_string(&log).expect("it is written"))
    );
    assert!(traced(pid), "strace has gone");
    // strace goes on to see what happens.
    assert_eq!(counts_in(&mut running, Duration::from_millis(10)), 0);
    strace.signal(libc::SIGINT);
    strace.wait(PATIENCE);
    let logged = fs::read_to_string(&log).expect("it is written");
    assert!(logged.contains("\"?\", 1)"), "{logged}");
}
