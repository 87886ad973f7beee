//! Are the frames of interpreters the ones that they print themselves, wherever and however they run, in each version that is here?
//!
//! Debian's own are; more are named by the environment: `TRACER_PYTHONS` has interpreters, `TRACER_ROOTS` folders with other Debians, both
//! with colons between.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tests::{Running, debian_program, start};

use crate::stacks::{PHP, RUBY, folder, program, pythons, spawn, stacks, until};

/// How long an interpreter may take until it is where it will be.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits in threads, methods, comprehensions and generators, in a child too if it is asked to, and writes where, at SIGUSR1: to a file with
/// its id behind the name that it is given.
const TELLS: &str = "import faulthandler, os, signal, sys, threading
def tell():
    place = open(sys.argv[1] + '-' + str(os.getpid()), 'w')
    faulthandler.register(signal.SIGUSR1, file=place, all_threads=True)
ends = os.pipe()
class Pool:
    def get(self):
        return os.read(
            ends[0],
            1)
def each():
    yield Pool().get()
def work():
    return [
        one
        for one in each()
    ]
def deep(left):
    return deep(left - 1) if left else work()
tell()
for number in range(3):
    threading.Thread(target=deep, args=(number,), daemon=True).start()
if len(sys.argv) > 2 and os.fork() == 0:
    parent = os.getppid()
    tell()
    threading.Thread(target=lambda: work(), daemon=True).start()
    (lambda: deep(5))()
deep(2)
";

/// A frame as an interpreter has it: file, line and function.
type Told = (String, u64, String);

/// The frames of threads as `faulthandler` writes them.
fn told(text: &str) -> Vec<Vec<Told>> {
    let mut threads: Vec<Vec<Told>> = Vec::new();
    for line in text.lines() {
        if line.ends_with("(most recent call first):") {
            threads.push(Vec::new());
        }
        let frame = line.strip_prefix("  File \"").and_then(|rest| rest.split_once("\", line "));
        if let (Some((file, rest)), Some(thread)) = (frame, threads.last_mut()) {
            let (line, function) = rest.split_once(" in ").expect("a function");
            thread.push((file.to_owned(), line.parse().expect("a line"), function.to_owned()));
        }
    }
    threads.sort();
    threads
}

/// The frames of threads as tracer has them. Functions by their last name: since 3.11 it has the class before that.
fn seen(pid: u32) -> Vec<Vec<Told>> {
    let frame = |frame: &Value| {
        let function = frame["function"].as_str().expect("a function");
        let function = function.rsplit('.').next().unwrap_or(function).to_owned();
        let file = frame["file"].as_str().expect("a file").to_owned();
        (file, frame["line"].as_u64().expect("a line"), function)
    };
    let frames = |thread: &Value| -> Vec<Told> {
        thread["stack"]["frames"]
            .as_array()
            .map(|frames| frames.iter().map(frame).collect())
            .unwrap_or_default()
    };
    let all = stacks(&pid.to_string());
    let mut threads: Vec<Vec<Told>> = all.iter().map(frames).filter(|frames| !frames.is_empty()).collect();
    threads.sort();
    threads
}

/// Compares what both have of a process with so many threads, which writes to a file with this name and its id behind it.
fn compare(what: &str, pid: u32, threads: usize, file: &Path) {
    let begin = Instant::now();
    let is_at_rest = |threads: &[Vec<Told>]| threads.iter().all(|frames| frames[0].2 == "get");
    let ours = loop {
        let ours = seen(pid);
        if ours.len() == threads && is_at_rest(&ours) {
            break ours;
        }
        assert!(begin.elapsed() < PATIENCE, "{what}: {ours:#?}");
        thread::sleep(Duration::from_millis(100));
    };
    let file = PathBuf::from(format!("{}-{pid}", file.display()));
    // SAFETY: kill takes numbers; the process is a child of this one or of that, and has not been waited for.
    assert_eq!(unsafe { libc::kill(pid.cast_signed(), libc::SIGUSR1) }, 0, "{what}");
    let theirs = loop {
        let theirs = told(&fs::read_to_string(&file).unwrap_or_default());
        if theirs.len() == threads && is_at_rest(&theirs) {
            break theirs;
        }
        assert!(begin.elapsed() < PATIENCE, "{what}: {theirs:#?}");
        thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(ours, theirs, "{what}");
    assert_eq!(seen(pid), ours, "{what}: it has told, and sleeps again where it did");
}

/// The script, in this folder.
fn script(dir: &Path) -> PathBuf {
    let script = dir.join("tells.py");
    fs::write(&script, TELLS).expect("write");
    script
}

fn words(paths: &[&Path]) -> Vec<String> {
    paths.iter().map(|path| path.to_str().expect("a path").to_owned()).collect()
}

fn run(program: &Path, arguments: &[String]) -> Running {
    spawn(program, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn each_python_tells_the_same_of_itself_and_of_its_child() {
    for python in pythons() {
        let dir = folder("stacks-tells");
        let (script, file) = (script(&dir), dir.join("told"));
        let mut arguments = words(&[&script, &file]);
        arguments.push("forks".into());
        let running = run(&python, &arguments);
        let what = python.display().to_string();
        let begin = Instant::now();
        let child = loop {
            let children = format!("/proc/{0}/task/{0}/children", running.pid());
            let children = fs::read_to_string(children).unwrap_or_default();
            if let Some(child) = children.split_whitespace().next().and_then(|child| child.parse().ok()) {
                break child;
            }
            assert!(begin.elapsed() < PATIENCE, "{what} does not fork");
            thread::sleep(Duration::from_millis(20));
        };
        compare(&what, running.pid(), 4, &file);
        compare(&format!("{what}, a child"), child, 2, &file);
        // SAFETY: as above: it is a child of a process that lives.
        unsafe { libc::kill(i32::try_from(child).expect("a pid"), libc::SIGKILL) };
        fs::remove_dir_all(&dir).expect("it is there");
    }
}

#[test]
fn a_python_in_a_virtual_environment_tells_the_same() {
    let dir = folder("stacks-venv");
    let venv = dir.join("venv");
    let mut make = Command::new(debian_program("python3"));
    make.args(["-m", "venv", "--without-pip"]).arg(&venv);
    assert!(make.status().expect("it runs").success(), "it is made");
    let (script, file) = (script(&dir), dir.join("told"));
    let running = run(&venv.join("bin/python"), &words(&[&script, &file]));
    compare("in a virtual environment", running.pid(), 4, &file);
}

/// The program has gone, and what is on its way now is another.
#[test]
fn a_python_whose_program_was_deleted_tells_the_same() {
    let dir = folder("stacks-gone");
    let python = fs::canonicalize(debian_program("python3")).expect("it is there");
    let copy = dir.join(python.file_name().expect("a name"));
    fs::copy(&python, &copy).expect("it is copied");
    let (script, file) = (script(&dir), dir.join("told"));
    let running = run(&copy, &words(&[&script, &file]));
    until(running.pid(), |stack| !stack.is_null());
    fs::remove_file(&copy).expect("it is there");
    fs::write(&copy, "another").expect("write");
    compare("deleted", running.pid(), 4, &file);
}

/// A folder in which Debian's programs are by a mount of their own: nothing is where its names say, as seen from here.
#[test]
fn a_python_in_a_chroot_tells_the_same() {
    let dir = folder("stacks-chroot");
    script(&dir);
    let root = dir.to_str().expect("a path");
    let enter = format!(
        "mkdir -p {root}/usr {root}/proc && mount --bind /usr {root}/usr && \
         for name in bin lib lib64; do ln -sfn usr/$name {root}/$name; done && \
         exec chroot {root} /usr/bin/python3 /tells.py /told"
    );
    let running = spawn(&debian_program("unshare"), &["-m", "/bin/sh", "-c", &enter]);
    compare("in a chroot", running.pid(), 4, &dir.join("told"));
}

/// Other Debians, unpacked in these folders.
fn roots() -> Vec<PathBuf> {
    let roots = std::env::var_os("TRACER_ROOTS").unwrap_or_default();
    std::env::split_paths(&roots).filter(|path| path.is_dir()).collect()
}

/// The interpreters of roots, each in its own.
#[test]
fn pythons_of_other_debians_tell_the_same() {
    let is_python = |name: &str| {
        let minor = name.strip_prefix("python3.").unwrap_or("none");
        minor.bytes().all(|digit| digit.is_ascii_digit())
    };
    for root in roots() {
        script(&root);
        let names = fs::read_dir(root.join("usr/bin")).expect("it has programs");
        let names = names.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        for name in names.filter(|name| is_python(name)) {
            let mut command = Command::new("chroot");
            command.arg(&root).args([&name, "/tells.py", "/told"]).stdin(Stdio::null()).stderr(Stdio::null());
            let running = start(command);
            let file = root.join("told");
            compare(&format!("{root:?} {name}"), running.pid(), 4, &file);
            eprintln!("{root:?} {name} tells the same");
            fs::remove_file(format!("{}-{}", file.display(), running.pid())).expect("it is there");
        }
    }
}

/// A script with one of a root's interpreters, else with Debian's own; and its path as it is told.
fn in_root(root: Option<&Path>, interpreter: &str, name: &str, text: &str) -> (Running, String) {
    match root {
        None => {
            let script = folder("stacks-scripts").join(name);
            fs::write(&script, text).expect("write");
            let script = words(&[&script]).remove(0);
            (spawn(&debian_program(interpreter), &[&script]), script)
        }
        Some(root) => {
            fs::write(root.join(name), text).expect("write");
            let mut command = Command::new("chroot");
            command.arg(root).arg(interpreter).arg(format!("/{name}"));
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            (start(command), format!("/{name}"))
        }
    }
}

/// Debian's own, and each root that has this interpreter.
fn places(interpreter: &str) -> Vec<Option<PathBuf>> {
    let has = |root: &PathBuf| fs::symlink_metadata(root.join("usr/bin").join(interpreter)).is_ok();
    [None].into_iter().chain(roots().into_iter().filter(has).map(Some)).collect()
}

#[test]
fn a_script_of_php_is_at_its_line() {
    for root in places("php") {
        let (running, script) = in_root(root.as_deref(), "php", "waits.php", PHP);
        let stack = until(running.pid(), |stack| stack["language"] == "php" && program(stack).len() == 6);
        let mut frames = program(&stack);
        // Since 8.4 a closure says where it was made.
        if frames[2] == "Page::{closure:Page::show():7}:7" {
            frames[2] = "Page::{closure}:7".into();
        }
        assert_eq!(
            frames,
            ["fread:null", "connect:3", "Page::{closure}:7", "array_map:null", "Page::show:7", "(main):11"],
            "{root:?}"
        );
        assert_eq!(stack["frames"][1]["file"], *script, "{root:?}");
    }
}

#[test]
fn threads_of_ruby_are_at_their_lines() {
    for root in places("ruby") {
        let (running, _) = in_root(root.as_deref(), "ruby", "waits.rb", RUBY);
        let stack = until(running.pid(), |stack| stack["language"] == "ruby" && program(stack).len() == 3);
        assert_eq!(program(&stack), ["get:2", "block in <main>:8", "<main>:7"], "{root:?}");
        let all = stacks(&running.pid().to_string());
        let of_thread = |thread: &&Value| program(&thread["stack"]) == ["get:2", "block in <main>:5"];
        assert_eq!(all.iter().filter(of_thread).count(), 1, "{root:?} {all:#?}");
    }
}
