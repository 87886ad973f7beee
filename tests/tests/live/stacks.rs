//! Does a stack say where in its program a thread sleeps, as a debugger and as the program itself would?

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tests::{Agent, HungMount, Running, debian_program, own_dir, shared, start, why_page};

/// How long a program may take until it is where it will be.
const PATIENCE: Duration = Duration::from_secs(20);

/// A program in C that sleeps in a function of this name, called by `middle` and that by `main`, in several ways.
pub(crate) const BLOCKS: &str = r#"
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static int ends[2];
static const char *how;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
__attribute__((noinline)) int block(const char *how)
{
	char byte;
	volatile char *room = __builtin_alloca(64 + strlen(how));
	room[0] = 0;
	if (!strcmp(how, "poll")) {
		struct pollfd fd = { ends[0], POLLIN, 0 };
		return poll(&fd, 1, -1) + room[0];
	}
	if (!strcmp(how, "condition")) {
		pthread_mutex_lock(&lock);
		return pthread_cond_wait(&condition, &lock) + room[0];
	}
	if (!strcmp(how, "mutex")) {
		pthread_mutex_lock(&lock);
		return pthread_mutex_lock(&lock) + room[0];
	}
	return read(ends[0], &byte, 1) + room[0];
}
__attribute__((noinline)) int compare(const void *a, const void *b)
{
	return block("read") + (a < b);
}
__attribute__((noinline)) void handler(int signal)
{
	static volatile int after;
	after = block("read") + signal;
}
__attribute__((noinline)) void *in_thread(void *argument)
{
	block("read");
	return argument;
}
__attribute__((noinline)) int middle(void)
{
	int values[4] = { 3, 1, 2, 0 };
	pthread_t thread;
	if (!strcmp(how, "qsort")) {
		qsort(values, 4, sizeof *values, compare);
		return values[0];
	}
	if (!strcmp(how, "signal")) {
		signal(SIGUSR1, handler);
		return raise(SIGUSR1) + 1;
	}
	if (!strcmp(how, "thread")) {
		pthread_create(&thread, 0, in_thread, 0);
		return pthread_join(thread, 0) + 1;
	}
	return block(how) + 1;
}
int main(int number, char **words)
{
	how = number > 1 ? words[1] : "read";
	return pipe(ends) ? 1 : middle() + 1;
}
"#;

/// The flavours in which it is built: how they are called, and with which options.
const FLAVOURS: &[(&str, &[&str])] = &[
    ("-O0", &["-O0"]),
    ("-O2", &["-O2", "-fomit-frame-pointer"]),
    ("static", &["-O2", "-static"]),
    ("static-pie", &["-O2", "-static-pie"]),
];

/// The ways in which it sleeps, with its own functions that have called each other then, the innermost first.
const WAYS: &[(&str, &[&str])] = &[
    ("read", &["block", "middle", "main"]),
    ("poll", &["block", "middle", "main"]),
    ("condition", &["block", "middle", "main"]),
    ("mutex", &["block", "middle", "main"]),
    ("qsort", &["block", "compare", "middle", "main"]),
    ("signal", &["block", "handler", "<signal handler called>", "middle", "main"]),
];

/// What gdb prints of each frame: where it goes on.
const GDB: &str = "import gdb
gdb.execute('set backtrace past-main on')
gdb.execute('set debuginfod enabled off')
frame = gdb.newest_frame()
while frame is not None:
    if frame.type() not in (gdb.INLINE_FRAME, gdb.TAILCALL_FRAME): print('FRAME %d' % frame.pc())
    try: frame = frame.older()
    except gdb.error: break
";

/// A folder for the files of one test.
pub(crate) fn folder(name: &str) -> PathBuf {
    let dir = own_dir().join(name);
    fs::create_dir_all(&dir).expect("it is made");
    dir
}

fn build(dir: &Path, flavour: &[&str]) -> PathBuf {
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
        assert!(begin.elapsed() < PATIENCE, "not as it should be: {found:#}");
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

/// Where each of gdb's frames is: its file, and where in that, as the file counts.
fn by_gdb(pid: u32, dir: &Path) -> Vec<(String, u64)> {
    let script = dir.join("frames.py");
    fs::write(&script, GDB).expect("write");
    let mut gdb = Command::new("timeout");
    gdb.args(["60".as_ref(), debian_program("gdb").as_os_str()])
        .args(["-nx", "-batch", "-p", &pid.to_string(), "-x"])
        .arg(&script);
    let output = gdb.stdin(Stdio::null()).output().expect("gdb runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("it lives");
    let frames = text.lines().filter_map(|line| line.strip_prefix("FRAME ")?.parse().ok());
    frames.map(|address| place(address, &maps)).collect()
}

fn place(address: u64, maps: &str) -> (String, u64) {
    let mut base = (String::new(), 0);
    for line in maps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (start, end) = words[0].split_once('-').expect("a range");
        let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).expect("a number"));
        let path = words.get(5).copied().unwrap_or_default().to_owned();
        if path != base.0 || words[2] == "00000000" {
            base = (path, start);
        }
        if (start..end).contains(&address) {
            let is_fixed = fs::read(&base.0).is_ok_and(|file| file.get(16) == Some(&2));
            return (base.0.clone(), if is_fixed { address } else { address - base.1 });
        }
    }
    (String::new(), address)
}

pub(crate) fn spawn(program: &Path, arguments: &[&str]) -> Running {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    start(command)
}

#[test]
fn programs_in_c_have_the_frames_that_gdb_sees() {
    for (flavour, options) in FLAVOURS {
        let dir = folder("stacks-c");
        let blocks = build(&dir, options);
        for (way, expected) in WAYS {
            let running = spawn(&blocks, &[way]);
            let pid = running.pid();
            let stack = until(pid, |stack| functions(stack).contains(&"block"));
            assert_eq!(stack["complete"], true, "{flavour} {way}: {stack:#}");
            let mut names = functions(&stack).into_iter();
            let all = expected.iter().all(|expected| names.any(|name| name == *expected));
            assert!(all, "{flavour} {way}: {stack:#}");
            let guesses = stack["native"]
                .as_array()
                .expect("frames")
                .iter()
                .filter(|of| of["by"] == "scan" || of["by"] == "fp");
            assert_eq!(guesses.count(), 0, "{flavour} {way}: {stack:#}");
            let ours: Vec<(String, u64)> = stack["native"]
                .as_array()
                .expect("frames")
                .iter()
                .map(|frame| {
                    let module = frame["module"].as_str().unwrap_or_default().to_owned();
                    (module, frame["offset"].as_u64().expect("an offset"))
                })
                .collect();
            assert_eq!(ours, by_gdb(pid, &dir), "{flavour} {way}");
        }
    }
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
    for _ in 0..6 {
        agent.wait_stall("stall_opened", pid, PATIENCE);
    }
    // The next look sees all of them, and what it has seen last is told at the end.
    std::thread::sleep(Duration::from_secs(3));
    drop(running);
    let (event, _) = agent.wait_event(PATIENCE, is_there);
    let first = &event["incident"]["stacks"][0];
    assert_eq!(first["stack"][1], "work pool.py:15", "{event:#}");
    assert_eq!(first["stalls"], 6, "{event:#}");
    assert_eq!(first["comm"], "python3", "{event:#}");
}

/// Waits in a method, in a comprehension, in a function; a line each.
const PYTHON: &str = "import os, threading
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
fn pythons() -> Vec<PathBuf> {
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

const PHP: &str = "<?php
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

#[test]
fn a_script_of_php_is_at_its_line() {
    let dir = folder("stacks-php");
    let script = dir.join("waits.php");
    fs::write(&script, PHP).expect("write");
    let running = spawn(&debian_program("php"), &[script.to_str().expect("a path")]);
    let stack = until(running.pid(), |stack| stack["language"] == "php" && program(stack).len() == 6);
    assert_eq!(
        program(&stack),
        ["fread:null", "connect:3", "Page::{closure}:7", "array_map:null", "Page::show:7", "(main):11"]
    );
    assert_eq!(stack["frames"][1]["file"], *script.to_str().expect("a path"));
}

const RUBY: &str = "def get(io)
  io.read(1)
end
ends = IO.pipe
Thread.new { get(ends[0]) }
others = IO.pipe
[1].each do |number|
  get(others[0])
end
";

#[test]
fn threads_of_ruby_are_at_their_lines() {
    let dir = folder("stacks-ruby");
    let script = dir.join("waits.rb");
    fs::write(&script, RUBY).expect("write");
    let running = spawn(&debian_program("ruby"), &[script.to_str().expect("a path")]);
    let stack = until(running.pid(), |stack| stack["language"] == "ruby" && program(stack).len() == 3);
    assert_eq!(program(&stack), ["get:2", "block in <main>:8", "<main>:7"]);
    let all = stacks(&running.pid().to_string());
    let of_thread = |thread: &&Value| program(&thread["stack"]) == ["get:2", "block in <main>:5"];
    assert_eq!(all.iter().filter(of_thread).count(), 1, "{all:#?}");
}
