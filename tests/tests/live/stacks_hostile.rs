//! Does reading a stack end, with little memory, whatever a program does to its stack, its files and what an interpreter would keep?

use std::{
    fs::{self, File, OpenOptions},
    io::{BufWriter, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tests::{HungMount, Running, debian_program};

use crate::stacks::{BLOCKS, folder, functions, spawn, until};

/// How long reading may take, in a build that is not optimised, of a process that does what it can against it.
const ENDS: Duration = Duration::from_secs(20);
/// Memory that it may take, KiB.
const MEMORY_KIB: u64 = 250 * 1024;

/// Compiles a program in C.
fn compile(source: &str, dir: &Path, name: &str, options: &[&str]) -> std::path::PathBuf {
    let (text, made) = (dir.join("source.c"), dir.join(name));
    fs::write(&text, source).expect("write");
    let mut gcc = Command::new(debian_program("gcc"));
    gcc.arg(&text).arg("-o").arg(&made).args(options);
    assert!(gcc.status().expect("gcc runs").success(), "{name} is built");
    made
}

/// What `tracer stack` says of a process's threads, how long it took, and what memory, KiB.
#[expect(clippy::zombie_processes, reason = "wait4 waits for it")]
fn read(pid: u32) -> (Vec<Value>, Duration, u64) {
    let begin = Instant::now();
    let mut command = Command::new(tests::tracer());
    command.args(["stack", &pid.to_string(), "--json"]).stdout(Stdio::piped());
    let mut child = command.spawn().expect("tracer runs");
    let mut stdout = child.stdout.take().expect("piped");
    let text = thread::spawn(move || std::io::read_to_string(&mut stdout).expect("text"));
    let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
    // SAFETY: both places outlive the call, and nobody else waits for this child.
    let ended = unsafe { libc::wait4(child.id().cast_signed(), &raw mut status, 0, usage.as_mut_ptr()) };
    assert!(ended > 0 && status == 0, "tracer ends with {status:#x}");
    // SAFETY: zero is a value of it, and the kernel has written it.
    let kib = unsafe { usage.assume_init() }.ru_maxrss.cast_unsigned();
    let text = text.join().expect("it was read");
    let threads = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    (threads, begin.elapsed(), kib)
}

/// The same, of one that takes little time and memory. Native frames are bounded.
fn read_in_time(what: &str, running: &Running) -> Vec<Value> {
    let (threads, took, kib) = read(running.pid());
    assert!(took < ENDS, "{what}: took {took:?}");
    assert!(kib < MEMORY_KIB, "{what}: took {kib} KiB");
    assert!(!threads.is_empty(), "{what}");
    for thread in &threads {
        let [frames, native] =
            ["frames", "native"].map(|of| thread["stack"][of].as_array().map_or(0, Vec::len));
        assert!(frames <= 128 && native <= 128, "{what}: {frames} {native}");
    }
    eprintln!("{what}: {took:?}, {kib} KiB");
    threads
}

/// Sleeps with a stack that a debugger would follow for ever, or by rules that take for ever.
const LOOPS: &str = r#"
#include <string.h>
#include <unistd.h>
#define SLEEP "xor %eax, %eax\n syscall\n ud2\n"
#define PUSH "mov $4000, %ecx\n lea 9f(%rip), %rax\n 1: push %rax\n dec %ecx\n jnz 1b\n 9:\n"
/* Its caller's frame begins where its own does. */
__asm__("still:\n .cfi_startproc\n .cfi_def_cfa %rsp, 0\n push %rbx\n" SLEEP ".cfi_endproc\n");
/* It has called itself, as often as there is room. */
__asm__("itself:\n .cfi_startproc\n .cfi_def_cfa %rsp, 8\n" PUSH SLEEP ".cfi_endproc\n");
/* Where its caller's frame begins is computed for ever. */
__asm__("endless:\n .cfi_startproc\n .cfi_escape 0x0f, 3, 0x2f, 0xfd, 0xff\n" SLEEP ".cfi_endproc\n");
/* Or by 60,000 operations that do nothing. */
__asm__("huge:\n .cfi_startproc\n .cfi_escape 0x0f, 0xe0, 0xd4, 0x03\n .rept 60000\n .cfi_escape 0x96\n .endr\n" SLEEP ".cfi_endproc\n");
/* No rules, and a frame pointer that leads to itself; or ever further, to the same caller. */
__asm__("own:\n call 1f\n 1: push %rbp\n mov %rsp, %rbp\n mov %rbp, (%rbp)\n" SLEEP);
__asm__("chain:\n call 1f\n 1: pop %rax\n mov $4000, %ecx\n 2: push %rax\n push %rbp\n mov %rsp, %rbp\n dec %ecx\n jnz 2b\n" SLEEP);
void still(int, char *, long), itself(int, char *, long), endless(int, char *, long), huge(int, char *, long), own(int, char *, long), chain(int, char *, long);
int main(int number, char **words)
{
	static char byte;
	int ends[2];
	if (number != 2 || pipe(ends)) return 1;
	const char *how = words[1];
	void (*function)(int, char *, long) = !strcmp(how, "still") ? still : !strcmp(how, "itself") ? itself
		: !strcmp(how, "endless") ? endless : !strcmp(how, "huge") ? huge : !strcmp(how, "own") ? own : chain;
	function(ends[0], &byte, 1);
}
"#;

#[test]
fn a_stack_that_never_ends_is_left_and_says_why() {
    let dir = folder("stacks-loops");
    let program = compile(LOOPS, &dir, "loops", &["-O1"]);
    for (way, end, least, most) in [
        ("still", "the stack does not grow", 1, 1),
        ("itself", "more frames than are read", 128, 128),
        ("endless", "the unwind rules need what is not known", 1, 1),
        ("huge", "the unwind rules need what is not known", 1, 1),
        ("own", "no caller found: there are no unwind rules and no frame pointer", 1, 64),
        ("chain", "more frames than are read", 128, 128),
    ] {
        let running = spawn(&program, &[way]);
        until(running.pid(), |stack| !stack.is_null());
        let threads = read_in_time(way, &running);
        let stack = &threads[0]["stack"];
        let frames = stack["native"].as_array().map_or(0, Vec::len);
        assert!(stack["complete"] == false || way == "own", "{way}: {stack:#}");
        assert!(stack["end"] == end || way == "own", "{way}: {stack:#}");
        assert!((least..=most).contains(&frames), "{way}: {stack:#}");
    }
}

/// A library that is truncated and written again while its functions are looked up.
#[test]
fn a_library_may_lose_its_end_while_it_is_read() {
    let dir = folder("stacks-truncated");
    let library = compile(BLOCKS, &dir, "libblocks.so", &["-O2", "-shared", "-fPIC", "-Dmain=run", "-g"]);
    let source = "int run(int, char **);\nint main(int number, char **words) { return run(number, words); }";
    let path = dir.to_str().expect("a path");
    let rpath = format!("-Wl,-rpath,{path}");
    let program = compile(source, &dir, "runs", &["-L", path, "-lblocks", &rpath]);
    let running = spawn(&program, &["poll"]);
    until(running.pid(), |stack| functions(stack).contains(&"block"));
    let whole = fs::read(&library).expect("it is read");
    let stop = AtomicBool::new(false);
    let (mut with, mut without) = (0, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let file = OpenOptions::new().write(true).open(&library).expect("it is opened");
            while !stop.load(Ordering::Relaxed) {
                file.set_len(0).expect("it is truncated");
                thread::sleep(Duration::from_millis(1));
                // Not where the sleeping thread would have to go on from zeros: the same bytes as before.
                file.write_all_at(&whole, 0).expect("it is written");
                thread::sleep(Duration::from_millis(2));
            }
        });
        for _ in 0..12 {
            let threads = read_in_time("truncated", &running);
            match functions(&threads[0]["stack"]).contains(&"block") {
                true => with += 1,
                false => without += 1,
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    eprintln!("its functions had their names {with} times, and {without} times not");
    let threads = read_in_time("whole again", &running);
    assert!(functions(&threads[0]["stack"]).contains(&"block"), "{threads:#?}");
}

/// A program whose file system has gone silent is not opened: its server gets no request.
#[test]
fn a_program_on_a_silent_file_system_is_not_opened() {
    let dir = folder("stacks-silent");
    let program = compile(BLOCKS, &dir, "blocks", &["-O2", "-pthread"]);
    let Some(mount) = HungMount::start_with(&program) else { return };
    let running = spawn(&mount.file(0), &["poll"]);
    let names = |stack: &Value| functions(stack).contains(&"__poll") || functions(stack).contains(&"poll");
    until(running.pid(), names);
    mount.hang();
    let threads = read_in_time("silent", &running);
    assert_eq!(mount.held(), 0, "the server was asked");
    let stack = &threads[0]["stack"];
    assert!(names(stack), "{stack:#}");
    // Its own functions have places, and no names but those that lie in memory.
    let own = |frame: &&Value| frame["module"] == *mount.file(0).to_str().expect("a path");
    assert!(stack["native"].as_array().expect("frames").iter().any(|frame| own(&frame)), "{stack:#}");
    assert!(!functions(stack).contains(&"middle"), "{stack:#}");
    mount.answer();
}

/// Gives a program another table of symbols: so many that cover all of it, with one name.
fn add_symbols(program: &Path, number: u32, name: &[u8]) {
    let mut file = OpenOptions::new().read(true).write(true).open(program).expect("it is opened");
    let table = file.seek(SeekFrom::End(0)).expect("its end").next_multiple_of(64);
    file.seek(SeekFrom::Start(table)).expect("there");
    let mut out = BufWriter::new(file);
    for place in 0..number {
        // Name, kind, section, where it begins, how long it is: each covers what is behind its beginning.
        let [start, size] = [u64::from(place % 4096), 1 << 46].map(u64::to_le_bytes);
        let symbol = [&1u32.to_le_bytes()[..], &[2, 0, 1, 0], &start, &size].concat();
        out.write_all(&symbol).expect("written");
    }
    let names = table + u64::from(number) * 24;
    out.write_all(&[b"\0", name, b"\0"].concat()).expect("written");
    let sections = (names + 2 + name.len() as u64).next_multiple_of(64);
    out.write_all(&vec![0; (sections - names) as usize - 2 - name.len()]).expect("written");
    let mut section = |kind: u32, offset: u64, bytes: u64, link: u32| {
        let mut section = [0; 64];
        section[4..8].copy_from_slice(&kind.to_le_bytes());
        section[24..32].copy_from_slice(&offset.to_le_bytes());
        section[32..40].copy_from_slice(&bytes.to_le_bytes());
        section[40..44].copy_from_slice(&link.to_le_bytes());
        out.write_all(&section).expect("written");
    };
    section(0, 0, 0, 0);
    section(2, table, u64::from(number) * 24, 2);
    section(3, names, name.len() as u64 + 2, 0);
    let file: File = out.into_inner().expect("all is written");
    file.write_all_at(&sections.to_le_bytes(), 40).expect("written");
    file.write_all_at(&[3, 0, 0, 0], 60).expect("written");
}

#[test]
fn millions_of_symbols_and_endless_names_take_little() {
    let dir = folder("stacks-symbols");
    for (what, number, length) in [("millions of symbols", 3_000_000, 8), ("a long name", 10, 100_000)] {
        let program = compile(BLOCKS, &dir, "blocks", &["-O2", "-pthread"]);
        add_symbols(&program, number, &vec![b'n'; length]);
        let running = spawn(&program, &["poll"]);
        until(running.pid(), |stack| !stack.is_null());
        let threads = read_in_time(what, &running);
        let stack = &threads[0]["stack"];
        assert!(functions(stack).iter().any(|name| name.starts_with("nnnnnnnn")), "{what}: {stack:#}");
        assert!(functions(stack).iter().all(|name| name.len() < 1000), "{what}: {stack:#}");
        drop(running);
        fs::remove_file(&program).expect("it is there");
    }
}

/// What interpreters keep, made such that lists lead back into themselves and lengths are beyond all memory. Built as a library with the
/// name of an interpreter's, or, for Go, into the program.
const FAKES: &str = r#"
#define _GNU_SOURCE
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
typedef unsigned long word;
#define ENDLESS (1ul << 60)
/* CPython 3.8: a thread whose next is itself, a frame that has called itself, strings and tables of lines of that length. */
word _PyRuntime[512], text[512];
static void python(void)
{
	for (int at = 0; at < 512; at++) _PyRuntime[at] = (word)_PyRuntime;
	text[2] = ENDLESS;
	text[4] = 0x60;
	_PyRuntime[0] = 0;
	_PyRuntime[104 / 8] = _PyRuntime[112 / 8] = _PyRuntime[120 / 8] = (word)text;
	_PyRuntime[176 / 8] = (word)pthread_self();
}
/* PHP: likewise. */
word executor_globals[512];
__attribute__((noinline)) word zend_get_executed_scope(void) { return executor_globals[61]; }
static void php(void)
{
	for (int at = 0; at < 512; at++) executor_globals[at] = (word)executor_globals;
	text[0] = 6ul << 32;
	text[2] = ENDLESS;
	executor_globals[0] = 2;
	executor_globals[1] = (word)text;
	executor_globals[2] = 0;
}
/* Ruby 3.1: control frames without end. */
const char ruby_version[] = "3.1.2";
__thread void *ruby_current_ec;
static void ruby(void)
{
	static word context[3];
	char *frames = mmap(0, 1ul << 30, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	context[0] = (word)frames;
	context[1] = 1ul << 32;
	context[2] = (word)frames;
	ruby_current_ec = context;
}
/* Go 1.20: one function, whose tables of lines never come to an instruction. */
__asm__(".section .note.go.buildid, \"a\", @note\n .long 4, 4, 4\n .ascii \"Go\\0\\0\"\n .long 0\n .text\n");
__attribute__((section(".gopclntab"))) word table[65536] = { 1 };
static void go(void)
{
	unsigned *functions = (unsigned *)(table + 32);
	memcpy(table, "\xf1\xff\xff\xff\0\0\1\10", 8);
	table[1] = 1;
	table[3] = (word)go & ~0xffful;
	table[4] = table[5] = table[6] = 512;
	table[7] = 1024;
	table[8] = 256;
	functions[0] = 0;
	functions[1] = 64;
	functions[2] = 0x7fffffff;
	for (int at = 0; at < 250000; at++) ((unsigned short *)(table + 128))[at] = 2;
}
static int ends[2];
static void *waits(void *argument)
{
	char byte;
	return read(ends[0], &byte, 1) ? argument : 0;
}
int run(int number, char **words)
{
	pthread_t thread;
	const char *how = number > 1 ? words[1] : "";
	if (pipe(ends)) return 1;
	if (!strcmp(how, "python")) python();
	if (!strcmp(how, "php")) php();
	if (!strcmp(how, "ruby")) ruby();
	if (!strcmp(how, "go")) go();
	for (int at = 0; at < 300; at++) pthread_create(&thread, 0, waits, 0);
	waits(0);
	return 0;
}
"#;

#[test]
fn what_interpreters_keep_may_lead_in_circles() {
    let dir = folder("stacks-fakes");
    let path = dir.to_str().expect("a path");
    let rpath = format!("-Wl,-rpath,{path}");
    let main = "int run(int, char **);\nint main(int number, char **words) { return run(number, words); }";
    for (way, library) in
        [("python", "libpython3.8.so"), ("php", "libphp.so"), ("ruby", "libruby.so"), ("go", "")]
    {
        let program = match library {
            "" => compile(FAKES, &dir, "go", &["-O1", "-pthread", "-Drun=main"]),
            _ => {
                compile(FAKES, &dir, library, &["-O1", "-pthread", "-shared", "-fPIC"]);
                compile(main, &dir, way, &[&format!("-L{path}"), &format!("-l:{library}"), &rpath])
            }
        };
        let running = spawn(&program, &[way]);
        let of = |thread: &Value| thread["stack"]["language"] == way;
        let begin = Instant::now();
        let threads = loop {
            let threads = read_in_time(way, &running);
            if threads.len() == 301 || begin.elapsed() > ENDS {
                break threads;
            }
        };
        assert_eq!(threads.len(), 301, "{way}");
        // It was taken for what it is not.
        let taken = threads.iter().filter(|thread| of(thread)).count();
        eprintln!("{way}: {taken} threads have frames");
        assert!(taken > 0 || way == "ruby", "{way}: {:#}", threads[0]);
    }
}
