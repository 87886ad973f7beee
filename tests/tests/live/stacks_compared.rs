//! Are the frames of real programs the ones that gdb sees? The tables of docs/STACKS.md say how many; `UPDATE_DOCS=1` writes them.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tests::{Running, debian_program, start};

use crate::stacks::{FLAVOURS, PHP, PYTHON, RUBY, WAYS, build, folder, functions, spawn, stacks, until};
use crate::stacks_everywhere::build_go;

/// How long a program may take until both see the same threads asleep.
const PATIENCE: Duration = Duration::from_secs(60);

/// What gdb prints of each thread: which it is, and of each frame where it goes on.
const GDB: &str = "import gdb
gdb.execute('set backtrace past-main on')
gdb.execute('set debuginfod enabled off')
for thread in gdb.selected_inferior().threads():
    thread.switch()
    print('THREAD %d' % thread.ptid[1])
    frame = gdb.newest_frame()
    while frame is not None:
        if frame.type() not in (gdb.INLINE_FRAME, gdb.TAILCALL_FRAME): print('FRAME %d' % frame.pc())
        try: frame = frame.older()
        except gdb.error: break
";

/// A frame: its file, and where in that, as the file counts.
type Place = (String, u64);

/// The frames of each thread of a process, as gdb sees them.
pub(crate) fn by_gdb(pid: u32, dir: &Path) -> BTreeMap<u32, Vec<Place>> {
    let script = dir.join("frames.py");
    fs::write(&script, GDB).expect("write");
    let mut gdb = Command::new("timeout");
    gdb.args(["60".as_ref(), debian_program("gdb").as_os_str()])
        .args(["-nx", "-batch", "-p", &pid.to_string(), "-x"])
        .arg(&script);
    let output = gdb.stdin(Stdio::null()).output().expect("gdb runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("it lives");
    let mut threads: BTreeMap<u32, Vec<Place>> = BTreeMap::new();
    let mut last = 0;
    for line in text.lines() {
        if let Some(tid) = line.strip_prefix("THREAD ").and_then(|tid| tid.parse().ok()) {
            last = tid;
            threads.entry(tid).or_default();
        } else if let Some(address) = line.strip_prefix("FRAME ").and_then(|address| address.parse().ok()) {
            threads.entry(last).or_default().push(place(address, &maps));
        }
    }
    threads
}

/// In which file an address lies, and where in that.
fn place(address: u64, maps: &str) -> Place {
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

/// The frames of a thread, as tracer sees them.
fn places(stack: &Value) -> Vec<Place> {
    let place = |frame: &Value| {
        let module = frame["module"].as_str().unwrap_or_default().to_owned();
        (module, frame["offset"].as_u64().expect("an offset"))
    };
    stack["native"].as_array().expect("frames").iter().map(place).collect()
}

/// How far the frames of a process's threads are equal.
#[derive(Debug, Default)]
struct Compared {
    threads: usize,
    /// Frames up to the first that is not equal.
    equal: usize,
    /// Frames that either sees.
    frames: usize,
    /// Which they were.
    unequal: Vec<String>,
}

/// Compares all threads of a process that sleep, and have not moved when gdb has gone.
fn compare(pid: u32, dir: &Path) -> Compared {
    let mut compared = Compared::default();
    let ours = stacks(&pid.to_string());
    let theirs = by_gdb(pid, dir);
    for thread in ours.iter().filter(|thread| !thread["stack"].is_null()) {
        let tid = thread["tid"].as_u64().expect("an id") as u32;
        let (ours, theirs) = (places(&thread["stack"]), theirs.get(&tid).cloned().unwrap_or_default());
        let equal = ours.iter().zip(&theirs).take_while(|(one, other)| one == other).count();
        compared.threads += 1;
        compared.equal += equal;
        compared.frames += ours.len().max(theirs.len());
        if equal < ours.len().max(theirs.len()) {
            let what = format!("{tid}: frame {equal}: {:?} {:?}", ours.get(equal), theirs.get(equal));
            compared.unequal.push(what);
        }
    }
    compared
}

/// Replaces what stands between two marks of docs/STACKS.md, or says that it is something else.
fn check(name: &str, table: &str, is_same: impl Fn(&str, &str) -> bool) {
    static ONE_AFTER_THE_OTHER: Mutex<()> = Mutex::new(());
    let _alone = ONE_AFTER_THE_OTHER.lock();
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/STACKS.md");
    let page = fs::read_to_string(&path).expect("the page");
    let [begin, end] = ["begin", "end"].map(|word| format!("<!-- {name}: {word} -->\n"));
    let (before, rest) = page.split_once(&begin).expect("its beginning");
    let (is, after) = rest.split_once(&end).expect("its end");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, [before, &begin, table, &end, after].concat()).expect("written");
        return;
    }
    assert!(is_same(is, table), "docs/STACKS.md has\n{is}\nand is to have\n{table}\nUPDATE_DOCS=1 writes it");
}

#[test]
fn programs_in_c_have_the_frames_that_gdb_sees() {
    let mut rows: Vec<String> = WAYS.iter().map(|(_, words, _)| format!("| {words} |")).collect();
    let mut head = "| |".to_owned();
    for (flavour, words, options) in FLAVOURS {
        let _ = write!(head, " {words} |");
        let dir = folder("stacks-c");
        let blocks = build(&dir, options);
        for ((way, _, expected), row) in WAYS.iter().zip(&mut rows) {
            let running = spawn(&blocks, &[way]);
            let pid = running.pid();
            let stack = until(pid, |stack| functions(stack).contains(&"block"));
            assert_eq!(stack["complete"], true, "{flavour} {way}: {stack:#}");
            let mut names = functions(&stack).into_iter();
            let all = expected.iter().all(|expected| names.any(|name| name == *expected));
            assert!(all, "{flavour} {way}: {stack:#}");
            let frames = stack["native"].as_array().expect("frames");
            let guesses = frames.iter().filter(|of| of["by"] == "scan" || of["by"] == "fp");
            assert_eq!(guesses.count(), 0, "{flavour} {way}: {stack:#}");
            let theirs = by_gdb(pid, &dir).remove(&pid).unwrap_or_default();
            assert_eq!(places(&stack), theirs, "{flavour} {way}");
            let _ = write!(row, " {0} of {0} |", theirs.len());
        }
    }
    let line = format!("| --- |{}", " --- |".repeat(FLAVOURS.len()));
    let table = format!("{head}\n{line}\n{}\n", rows.join("\n"));
    check("c", &table, |is, measured| is == measured);
}

/// A server that accepts whoever comes, and says nothing.
fn silent_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    thread::spawn(move || listener.incoming().collect::<Vec<_>>());
    port
}

/// The first word of what a program says of its version that begins with a digit.
fn version(program: &Path, option: &str) -> String {
    let said = Command::new(program).arg(option).output().expect("it runs");
    let text = [said.stdout, said.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    let is_version =
        |word: &&str| word.contains('.') && word.starts_with(|first: char| first.is_ascii_digit());
    // MariaDB's client begins with a version of its protocol.
    let text = text.split_once("Distrib ").map_or(text.as_str(), |(_, behind)| behind);
    let words = text
        .split([' ', ',', '\n', '_', '(', ')'])
        .map(|word| word.trim_start_matches('v').trim_start_matches("go"));
    let word = words.clone().find(is_version).unwrap_or("");
    word.split(['-', 'p', '+']).next().unwrap_or_default().to_owned()
}

/// In Rust: functions that are compiled into others, a closure, a trait object, and a thread.
const RUST: &str = r#"
use std::io::Read;
use std::os::unix::net::UnixStream;
trait Source { fn get(&mut self) -> usize; }
impl Source for UnixStream {
    #[inline(always)]
    fn get(&mut self) -> usize { inlined(|bytes| self.read(bytes).unwrap_or(0)) }
}
#[inline(always)]
fn inlined(mut read: impl FnMut(&mut [u8]) -> usize) -> usize { let mut bytes = [0; 64]; read(&mut bytes) + usize::from(bytes[7]) }
#[inline(never)]
fn deep(left: u32, source: &mut dyn Source) -> usize { if left == 0 { source.get() } else { deep(left - 1, source) + left as usize } }
fn main() {
    let (mut one, mut other) = UnixStream::pair().expect("a pair");
    let thread = std::thread::spawn(move || deep(2, &mut one));
    let got: Vec<usize> = (1..2).map(|left| deep(left, &mut other)).collect();
    println!("{got:?} {:?}", thread.join());
}
"#;

/// The compiler that has built this test.
fn rustc() -> PathBuf {
    let beside = std::env::var_os("CARGO").map(|cargo| Path::new(&cargo).with_file_name("rustc"));
    beside.filter(|rustc| rustc.is_file()).unwrap_or_else(|| "rustc".into())
}

fn rust(dir: &Path) -> Sample {
    let (source, program) = (dir.join("waits.rs"), dir.join("waits"));
    fs::write(&source, RUST).expect("write");
    let mut compiler = Command::new(rustc());
    compiler.args(["-O", "--edition", "2024", "-o"]).arg(&program).arg(&source);
    assert!(compiler.status().expect("rustc runs").success(), "it is built");
    Sample {
        name: "Rust, `-O`, inlined",
        program,
        version: Version::Rust,
        arguments: Vec::new(),
        is_equal: true,
    }
}

/// In JavaScript: reads a pipe that stays empty, in a callback.
const NODE: &str = "const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const pipe = process.argv[1] + '.' + process.pid;
execFileSync('mkfifo', [pipe]);
const end = fs.openSync(pipe, 'r+');
function deep(left) { return left ? deep(left - 1) + 1 : fs.readSync(end, Buffer.alloc(1)); }
[1].map(() => deep(3));
";

/// In C++: a handler of an exception that waits in a destructor, called through a virtual function and a template.
const CPP: &str = r#"
#include <stdexcept>
#include <string>
#include <unistd.h>
#include <vector>
static int ends[2];
struct Waits {
	char byte;
	~Waits() noexcept(false) { if (read(ends[0], &byte, 1) != 1) throw std::runtime_error("closed"); }
};
struct Shape { virtual int area(int left) { return left; } virtual ~Shape() {} };
template <class T> struct Square : Shape {
	std::vector<T> sides;
	int area(int left) override {
		if (left > 0) return area(left - 1) + sides.size();
		try { throw std::string("deep"); }
		catch (const std::string &what) { Waits waits; sides.push_back(what.size()); }
		return sides.back();
	}
};
int main() {
	if (pipe(ends)) return 1;
	Square<long> square;
	Shape *shape = &square;
	return shape->area(3);
}
"#;

fn cpp(dir: &Path) -> Sample {
    let (source, program) = (dir.join("waits.cpp"), dir.join("waits-cpp"));
    fs::write(&source, CPP).expect("write");
    let mut compiler = Command::new(debian_program("g++"));
    compiler.args(["-O2", "-o"]).arg(&program).arg(&source);
    assert!(compiler.status().expect("g++ runs").success(), "it is built");
    let name = "C++, `-O2`, with exceptions";
    Sample { name, program, version: Version::Of("g++", "--version"), arguments: Vec::new(), is_equal: true }
}

/// gdb does not know where Go's functions begin and end as Go does: see below the table.
fn go(name: &'static str, linker: &str) -> Sample {
    let version = Version::Of("go", "version");
    Sample { name, program: build_go(linker), version, arguments: Vec::new(), is_equal: false }
}

/// Where a program's version is to be had from.
#[derive(Clone, Copy)]
enum Version {
    /// From the program itself, with this option.
    Own(&'static str),
    /// From this program of Debian's, its compiler.
    Of(&'static str, &'static str),
    /// From the compiler that has built this test.
    Rust,
}

impl Version {
    fn of(self, program: &Path) -> String {
        match self {
            Version::Own(option) => version(program, option),
            Version::Of(name, option) => version(&debian_program(name), option),
            Version::Rust => version(&rustc(), "--version"),
        }
    }
}

/// A program that is compared: what it is called, and how it is started.
struct Sample {
    name: &'static str,
    program: PathBuf,
    version: Version,
    arguments: Vec<String>,
    /// Whether its frames are all equal; else those of others' are to be explained below the table.
    is_equal: bool,
}

fn samples(dir: &Path) -> Vec<Sample> {
    let port = silent_server();
    let script = |name: &str, text: &str| {
        let path = dir.join(name);
        fs::write(&path, text).expect("write");
        path.to_str().expect("a path").to_owned()
    };
    let debian = |name: &'static str, option, arguments| Sample {
        name,
        program: debian_program(name),
        version: Version::Own(option),
        arguments,
        is_equal: true,
    };
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let port = port.to_string();
    vec![
        cpp(dir),
        rust(dir),
        go("Go", ""),
        go("Go, stripped", "-s -w"),
        Sample { is_equal: false, ..debian("node", "--version", vec![script("waits.js", NODE)]) },
        debian("python3", "--version", vec![script("waits.py", PYTHON)]),
        debian("php", "--version", vec![script("waits.php", PHP)]),
        debian("ruby", "--version", vec![script("waits.rb", RUBY)]),
        debian("curl", "--version", vec![format!("http://127.0.0.1:{port}/")]),
        debian(
            "wget",
            "--version",
            words(&["-O", "/dev/null", "--tries=1", &format!("http://127.0.0.1:{port}/")]),
        ),
        debian("ssh", "-V", words(&["-F", "/dev/null", "-p", &port, "127.0.0.1"])),
        debian("psql", "--version", words(&["-h", "127.0.0.1", "-p", &port])),
        debian("mysql", "--version", words(&["-h", "127.0.0.1", "-P", &port, "--protocol=tcp"])),
        debian("openssl", "version", words(&["s_client", "-connect", &format!("127.0.0.1:{port}")])),
    ]
}

/// One that is started directly: psql is a script in Debian, which runs the program.
fn begin(sample: &Sample) -> Running {
    let mut command = Command::new(&sample.program);
    command.args(&sample.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    start(command)
}

#[test]
fn debians_programs_have_the_frames_that_gdb_sees() {
    let dir = folder("stacks-programs");
    let mut table = "| program | version | threads | equal |\n| --- | --- | --- | --- |\n".to_owned();
    let mut row = |name: &str, version: &str, compared: &Compared| {
        let Compared { threads, equal, frames, .. } = compared;
        let _ = writeln!(table, "| {name} | {version} | {threads} | {equal} of {frames} |");
    };
    for sample in samples(&dir) {
        let running = begin(&sample);
        let compared = settled(running.pid(), &dir);
        eprintln!("{}: {compared:?}", sample.name);
        assert!(compared.equal == compared.frames || !sample.is_equal, "{}: {compared:#?}", sample.name);
        let version = sample.version.of(&sample.program);
        row(sample.name, &version, &compared);
    }
    // Versions and numbers of frames come and go with updates.
    let names = |table: &str| -> Vec<String> {
        let rows = table.lines().filter(|line| line.contains(" of "));
        rows.filter_map(|row| Some(row.split('|').nth(1)?.trim().to_owned())).collect()
    };
    check("programs", &table, |is, measured| names(is) == names(measured));
}

/// Once the process is where it will be: its stack is the same as a moment before.
fn settled(pid: u32, dir: &Path) -> Compared {
    let begin = Instant::now();
    let mut before = Vec::new();
    loop {
        let now = stacks(&pid.to_string());
        let asleep = !now.is_empty() && now.iter().all(|thread| !thread["stack"].is_null());
        if asleep && now == before {
            return compare(pid, dir);
        }
        assert!(begin.elapsed() < PATIENCE, "it does not come to rest: {now:#?}");
        before = now;
        thread::sleep(Duration::from_millis(300));
    }
}
