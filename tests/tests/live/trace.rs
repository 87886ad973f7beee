//! Does `trace` report each call that blocked, once, with its result and length, and leave nothing behind?

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{Agent, Running, Waiter, alone, own_dir, program_exists, slow, start, tracer, with_few};

const PATIENCE: Duration = Duration::from_secs(20);

/// A `tracer trace --json` that is under way.
struct Trace {
    process: Running,
    lines: Receiver<Value>,
    said: String,
    said_later: JoinHandle<String>,
}

impl Trace {
    /// Starts it and waits until it follows; what it says instead, if it ends.
    fn start(args: &[&str]) -> Result<Self, String> {
        let mut command = Command::new(tracer());
        command.args(["trace", "--json"]).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = start(command);
        let stdout = process.pipes().stdout.take().expect("piped");
        let stderr = process.pipes().stderr.take().expect("piped");
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("no JSON: {line}: {e}"));
                if send.send(value).is_err() {
                    break;
                }
            }
        });
        let mut errors = BufReader::new(stderr);
        let mut said = String::new();
        while errors.read_line(&mut said).expect("text") > 0 {
            if said.contains("Ctrl-C") {
                let said_later = std::thread::spawn(move || {
                    let mut rest = String::new();
                    errors.read_to_string(&mut rest).expect("text");
                    rest
                });
                return Ok(Self { process, lines, said, said_later });
            }
        }
        Err(said)
    }

    /// Ends it as Ctrl-C does; all it has printed.
    fn end(self) -> Vec<Value> {
        self.end_and_say().0
    }

    /// The same, and what it has said since it follows.
    fn end_and_say(mut self) -> (Vec<Value>, String) {
        let ids = self.program_ids();
        self.process.signal(libc::SIGINT);
        let status = self.process.wait(slow(PATIENCE)).expect("it ends");
        assert!(status.success(), "{status}");
        // The kernel gives them back when no processor can be in them any more.
        let begin = Instant::now();
        while ids.iter().any(|id| program_exists(*id)) {
            assert!(begin.elapsed() < slow(PATIENCE), "programs stay: {ids:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        (self.lines.iter().collect(), self.said_later.join().expect("no panic"))
    }

    fn program_ids(&self) -> Vec<u32> {
        tests::program_ids(self.process.pid())
    }
}

/// How many records it says are lost, for this reason.
fn lost(said: &str, reason: &str) -> usize {
    let mut lines = said.lines().filter(|line| line.ends_with(&format!("lost: {reason}")));
    let number = lines.next().and_then(|line| line.split(' ').nth(1));
    number.map_or(0, |number| number.parse().expect("tracer: 3 records lost"))
}

/// By each mechanism this kernel has: what is reported is what the process did.
fn hundred_calls(mechanism: &str) {
    let _few = with_few();
    let mut waiter = Waiter::start("hundred-calls");
    let pid = waiter.pid().to_string();
    let trace = match Trace::start(&["-p", &pid, "--min", "50ms", "--probes", mechanism]) {
        Ok(trace) => trace,
        Err(said) => {
            // A kernel without kprobes or fentry, and one older than what tells a program the running thread.
            assert!(
                ["takes no kprobes", "takes no fentry", "refuses the program call_"]
                    .iter()
                    .any(|why| said.contains(why)),
                "{said}"
            );
            return tests::unsupported(said.trim());
        }
    };
    assert!(trace.said.contains(&format!("by {mechanism}")), "{}", trace.said);
    waiter.command("go");
    let done = waiter.next_line();
    // The last line is on its way.
    std::thread::sleep(Duration::from_millis(500));
    let (lines, losses) = trace.end_and_say();
    let own = |line: &&Value| line["tid"] == waiter.tid() && line["event"] == "ended";
    // Before it was told to go, it read its standard input.
    let seen = lines.iter().filter(own).filter(|line| line["fd"] != 0);
    // In an emulated machine any call may take that long.
    let truth = done["blocked"].as_array().expect("a list");
    let known = ["recvfrom", "ppoll", "clock_nanosleep"];
    // One connect is refused late, on a descriptor of its own, the others at once.
    let late = |line: &&Value| line["syscall"] == "connect" && truth.iter().any(|of| of["fd"] == line["fd"]);
    let is_known = |line: &&Value| known.iter().any(|name| line["syscall"] == *name) || late(line);
    let seen: Vec<&Value> = seen.filter(|line| tests::slowness() == 1 || is_known(line)).collect();
    let mut truth: Vec<&Value> = truth.iter().collect();
    let is_of = |seen: &Value, truth: &Value| {
        // What becomes of an interrupted call is decided after its return: the program saw EINTR.
        let interrupted = seen["errno"] == "ERESTARTSYS" && truth["result"] == -4;
        seen["syscall"] == truth["syscall"] && (seen["result"] == truth["result"] || interrupted)
    };
    // Linux 7 may switch to another thread in the middle of a program, and does not run it for that one: which is counted. It
    // takes a machine as slow as an emulated one to see it.
    let mut skipped = if tests::slowness() > 1 { lost(&losses, "runs_skipped") } else { 0 };
    while truth.len() > seen.len() && skipped > 0 {
        let missing = seen.iter().zip(&truth).position(|(seen, truth)| !is_of(seen, truth));
        truth.remove(missing.unwrap_or(truth.len() - 1));
        skipped -= 1;
    }
    assert_eq!(seen.len(), truth.len(), "{losses}{seen:#?}");
    let mut off: Vec<f64> = Vec::new();
    for (seen, truth) in seen.iter().zip(truth) {
        let result = seen["result"].as_i64();
        assert!(is_of(seen, truth), "{seen:#}\n{truth:#}");
        assert_eq!(seen["errno"].is_string(), result < Some(0), "{seen:#}");
        // The kernel takes the port back from a connect that failed: it is known from a look while it lasted, for which an
        // emulated machine may be too slow.
        let unknown = tests::slowness() > 1 && seen["target"]["local"] == "127.0.0.1:0";
        for (value, of) in [("fd", seen), ("local", &&seen["target"]), ("remote", &&seen["target"])] {
            let left_out = truth[value].is_null() || value == "local" && result < Some(0) && unknown;
            if !left_out {
                assert_eq!(of[value], truth[value], "{value}: {seen:#}\n{truth:#}");
            }
        }
        let took = seen["seconds"].as_f64().expect("seconds");
        let [most, least] = ["ns", "least_ns"].map(|name| truth[name].as_f64().expect("ns") / 1e9);
        // Seconds are cut to the millisecond, and a machine may do something else between the alarm and the call.
        let slack = if tests::slowness() == 1 { 0.005 } else { 0.025 };
        assert!((least - slack..=most).contains(&took), "{seen:#}\n{truth:#}");
        off.push(most - took);
    }
    for name in ["EAGAIN", "ERESTARTSYS", "EINTR", "ECONNREFUSED"] {
        assert!(seen.iter().any(|line| line["errno"] == name), "{name}: {seen:#?}");
    }
    // The truth has the time until the thread runs on after the call, which a busy machine makes long for some of them:
    // the middle one tells, in an emulated machine, where all are late after a signal, the least.
    off.sort_by(f64::total_cmp);
    let typical = off[if tests::slowness() == 1 { off.len() / 2 } else { 0 }];
    assert!(typical < 0.005, "{off:?}");
}

#[test]
fn a_hundred_calls_by_tracepoint() {
    hundred_calls("tracepoint");
}

#[test]
fn a_hundred_calls_by_fentry() {
    hundred_calls("fentry");
}

#[test]
fn a_hundred_calls_by_kprobe() {
    hundred_calls("kprobe");
}

/// What began before it attached is told to wait, and ends with its whole length; so do those it starts.
#[test]
fn a_call_that_began_before() {
    let mut waiter = Waiter::start("recvfrom-tcp4");
    waiter.until_age(1.0);
    let trace = Trace::start(&["-p", &waiter.pid().to_string()]).unwrap_or_else(|said| panic!("{said}"));
    std::thread::sleep(Duration::from_millis(1500));
    let woke = waiter.answer();
    std::thread::sleep(Duration::from_millis(500));
    let lines = trace.end();
    let states: Vec<&Value> = lines.iter().filter(|line| line["syscall"] == "recvfrom").collect();
    let [waits, ended] = states[..] else { panic!("{lines:#?}") };
    assert_eq!((&waits["event"], &ended["event"]), (&"waiting".into(), &"ended".into()), "{lines:#?}");
    let truth = tests::seconds_between(waiter.begun_ns(), woke);
    let took = ended["seconds"].as_f64().expect("seconds");
    assert!((took - truth).abs() < 0.2, "{truth:.3} s: {ended:#}");
    for line in [waits, ended] {
        assert_eq!(line["target"]["remote"], waiter.text("remote"), "{line:#}");
        assert_eq!(line["uid"], 0, "{line:#}");
    }
    assert_eq!((&waits["class"], &ended["class"]), (&"reply".into(), &Value::Null), "{lines:#?}");
}

/// The `ended` lines of sleeps of programs of this name.
fn sleeps<'a>(lines: &'a [Value], comm: &str) -> Vec<&'a Value> {
    // C libraries differ in which call sleeps.
    let slept = |line: &Value| line["syscall"].as_str().is_some_and(|name| name.ends_with("nanosleep"));
    let ended = lines.iter().filter(|line| line["comm"] == comm && line["event"] == "ended");
    ended.filter(|line| slept(line)).collect()
}

/// Follows a waiter that ends by itself when it is told to go; all that was printed.
fn until_it_ends(role: &str) -> Option<(Waiter, Vec<Value>)> {
    let mut waiter = Waiter::start(role);
    waiter.until_age(0.3);
    let mut trace = Trace::start(&["-p", &waiter.pid().to_string()]).unwrap_or_else(|said| panic!("{said}"));
    if trace.said.contains("results will be missing") {
        tests::unsupported("by context switches, a child that was not seen to wait is a stranger");
        return None;
    }
    waiter.command("go");
    let status = trace.process.wait(slow(PATIENCE));
    assert!(status.is_some_and(|status| status.success()), "it goes on: {status:?}");
    Some((waiter, trace.lines.iter().collect()))
}

/// The first thread's end is not the process's, whose id another thread takes with the program that it runs.
#[test]
fn an_exec_by_another_thread_is_followed() {
    let Some((waiter, lines)) = until_it_ends("exec-by-thread") else { return };
    assert_eq!(sleeps(&lines, "sleep").len(), 3, "{lines:#?}");
    let waited = lines.iter().filter(|line| line["syscall"] == "wait4" && line["pid"] == waiter.pid());
    assert_eq!(waited.filter(|line| line["event"] == "ended").count(), 3, "{lines:#?}");
}

#[test]
fn the_end_of_the_first_thread_is_not_the_end() {
    let Some((_, lines)) = until_it_ends("first-thread-ends") else { return };
    assert_eq!(sleeps(&lines, "waiter").len(), 3, "{lines:#?}");
}

/// Children that were there before are followed, and go on being followed when their parent has ended.
#[test]
fn children_outlive_their_parent() {
    outliving("auto");
}

#[test]
fn children_outlive_their_parent_by_context_switches() {
    let _few = with_few();
    outliving("waits");
}

fn outliving(probes: &str) {
    let enough = own_dir().join(format!("outliving-{probes}"));
    let mut command = Command::new("sh");
    let inner = "until [ -e \"$0\" ]; do /bin/sleep 0.4; done; /bin/sleep 2; /bin/sleep 2";
    let outer = "until [ -e \"$0\" ]; do /bin/sleep 0.2; done";
    command.args(["-c", &format!("({inner}) & {outer}")]).arg(&enough);
    let sh = start(command);
    std::thread::sleep(Duration::from_millis(500));
    let args = ["-p", &sh.pid().to_string(), "--probes", probes];
    let mut trace = Trace::start(&args).unwrap_or_else(|said| panic!("{said}"));
    std::thread::sleep(slow(Duration::from_secs(2)).min(Duration::from_secs(10)));
    std::fs::write(&enough, "").expect("write");
    let status = trace.process.wait(slow(PATIENCE));
    assert!(status.is_some_and(|status| status.success()), "it goes on: {status:?}");
    drop(sh);
    let lines: Vec<Value> = trace.lines.iter().collect();
    let took = |line: &&Value| line["seconds"].as_f64().expect("seconds");
    let took: Vec<f64> = sleeps(&lines, "sleep").iter().map(took).collect();
    // Of one whose end a machine hides, the look before.
    let least = 2.0 - slow(Duration::from_millis(400)).as_secs_f64().min(0.9);
    assert!(took.iter().any(|seconds| (0.1..least).contains(seconds)), "{lines:#?}");
    assert_eq!(took.iter().filter(|seconds| **seconds > least).count(), 2, "{lines:#?}");
}

/// It is no call: it is told, and its end, which has no result.
#[test]
fn a_page_fault_is_told_and_ends() {
    let mut waiter = Waiter::start("page-fault");
    if let Some(why) = waiter.unsupported() {
        return tests::unsupported(why);
    }
    let mut trace = Trace::start(&["-p", &waiter.pid().to_string()]).unwrap_or_else(|said| panic!("{said}"));
    std::thread::sleep(slow(Duration::from_millis(1500)));
    let age = waiter.age();
    waiter.kill();
    let status = trace.process.wait(slow(PATIENCE));
    assert!(status.is_some_and(|status| status.success()), "it goes on: {status:?}");
    let lines: Vec<Value> = trace.lines.iter().filter(|line| line["syscall"] == "page_fault").collect();
    let [waits, ended] = &lines[..] else { panic!("{lines:#?}") };
    assert_eq!((&waits["event"], &ended["event"]), (&"waiting".into(), &"ended".into()), "{lines:#?}");
    assert!(ended["result"].is_null(), "{ended:#}");
    let took = ended["seconds"].as_f64().expect("seconds");
    assert!(
        (age - slow(Duration::from_millis(700)).as_secs_f64()..age + 0.2).contains(&took),
        "{age} {ended:#}"
    );
}

/// The kernel takes the addresses of a connection back that could not be made.
#[test]
fn a_connect_that_fails_has_its_peer() {
    let mut waiter = Waiter::start("connect-times-out");
    let trace = Trace::start(&["-p", &waiter.pid().to_string()]).unwrap_or_else(|said| panic!("{said}"));
    waiter.command("go");
    waiter.next_line();
    std::thread::sleep(Duration::from_millis(500));
    let lines: Vec<Value> = trace.end().into_iter().filter(|line| line["syscall"] == "connect").collect();
    let [waits, ended] = &lines[..] else { panic!("{lines:#?}") };
    for line in [waits, ended] {
        assert_eq!(line["target"]["remote"], waiter.text("remote"), "{line:#}");
    }
    assert_eq!(waits["target"]["local"], ended["target"]["local"], "{lines:#?}");
    if !ended["result"].is_null() {
        assert_eq!(ended["errno"], "ETIMEDOUT", "{ended:#}");
    }
    // As soon as it counts as blocked, or at the next look.
    assert!(waits["seconds"].as_f64() < Some(slow(Duration::from_millis(700)).as_secs_f64()), "{waits:#}");
}

/// A poll is about the one fd that matters, whether a look fell into it or not.
#[test]
fn an_ended_poll_has_its_target() {
    let mut waiter = Waiter::start("polls");
    let trace = Trace::start(&["-p", &waiter.pid().to_string(), "--min", "50ms"])
        .unwrap_or_else(|said| panic!("{said}"));
    if trace.said.contains("results will be missing") {
        return tests::unsupported("what short polls wait on is known at the end of a call only");
    }
    waiter.command("go");
    waiter.next_line();
    std::thread::sleep(Duration::from_millis(500));
    let lines = trace.end();
    let calls = waiter.line()["calls"].as_array().expect("a list");
    for call in calls {
        let ended: Vec<&Value> = lines
            .iter()
            .filter(|line| (&line["syscall"], &line["event"]) == (call, &"ended".into()))
            .filter(|line| line["pid"] == line["tid"])
            .collect();
        // One that is short, which is told if its set is known from its end, and one that is long.
        assert_eq!(ended.len(), 2, "{call}: {lines:#?}");
        let known = if *call == "pselect6" { &ended[1..] } else { &ended[..] };
        for line in known {
            assert_eq!(line["target"]["remote"], waiter.text("remote"), "{line:#}");
            assert_eq!(line["result"], 0, "{line:#}");
        }
    }
}

#[test]
fn a_child_is_followed_and_its_end_is_the_end() {
    a_child("auto");
}

/// Without the kernel's help to follow children: they are found while they wait, four times a second.
#[test]
fn a_child_is_followed_by_context_switches() {
    let _few = with_few();
    a_child("waits");
}

fn a_child(probes: &str) {
    let enough = own_dir().join(format!("enough-{probes}"));
    let mut command = Command::new("sh");
    // By its path, so that no shell does it itself.
    command.args(["-c", "while [ ! -e \"$0\" ]; do /bin/sleep 0.5; done"]).arg(&enough);
    let sh = start(command);
    let args = ["-p", &sh.pid().to_string(), "--probes", probes];
    let mut trace = Trace::start(&args).unwrap_or_else(|said| panic!("{said}"));
    std::thread::sleep(slow(Duration::from_secs(3)).min(Duration::from_secs(10)));
    std::fs::write(&enough, "").expect("write");
    drop(sh_ends(sh));
    let begin = Instant::now();
    let status = trace.process.wait(slow(PATIENCE));
    assert!(status.is_some_and(|status| status.success()), "it goes on after {:?}", begin.elapsed());
    let lines: Vec<Value> = trace.lines.iter().collect();
    // C libraries differ in which call sleeps.
    let slept = |line: &Value| line["syscall"].as_str().is_some_and(|name| name.ends_with("nanosleep"));
    let child = |line: &Value| line["comm"] == "sleep" && slept(line);
    let sleeps = lines.iter().filter(|line| child(line) && line["event"] == "ended").count();
    // On a machine that is overloaded, a child that was not looked at in time is a stranger to context switches.
    assert!(sleeps >= 2, "{lines:#?}");
}

fn sh_ends(mut sh: Running) -> Running {
    sh.wait(PATIENCE).expect("it ends");
    sh
}

#[test]
fn a_thread_is_followed_alone() {
    a_thread("tracepoint");
}

#[test]
fn a_thread_is_followed_alone_by_context_switches() {
    a_thread("waits");
}

/// Its calls and those of the child that it starts, not those of the thread beside it, which does the same. Its end is the end.
fn a_thread(probes: &str) {
    let _few = with_few();
    let mut waiter = Waiter::start("two-sleepers");
    let (pid, tid) = (waiter.pid(), waiter.number("second"));
    let args = ["-p", &tid.to_string(), "--min", "50ms", "--probes", probes];
    let mut trace = match Trace::start(&args) {
        Ok(trace) => trace,
        Err(said) => {
            assert!(said.contains("refuses the program call_"), "{said}");
            return tests::unsupported(said.trim());
        }
    };
    assert!(trace.said.contains(&format!("following 1 thread by {probes}")), "{}", trace.said);
    let seconds = slow(Duration::from_secs(2)).as_secs().min(6);
    let mut child_of = |name: &str| {
        waiter.command(&format!("{name} child {seconds}"));
        let child = waiter.next_line()["child"].as_u64().expect("a child");
        assert_eq!(waiter.next_line()["ended"], child);
        child
    };
    let [stranger, child] = ["first", "second"].map(&mut child_of);
    assert!(trace.process.ended().is_none(), "it goes on while the thread does");
    waiter.command("second end");
    let status = trace.process.wait(slow(PATIENCE));
    assert!(status.is_some_and(|status| status.success()), "it goes on: {status:?}");
    // The process does go on.
    waiter.command("first child 0");
    waiter.next_line();
    let lines: Vec<Value> = trace.lines.iter().collect();
    let other = |line: &&Value| line["tid"] != tid && line["pid"] != child;
    assert_eq!(lines.iter().find(other), None, "thread {tid} of {pid}, child {child}, not {stranger}");
    let ended = |id: u64, name: &str| {
        let is_it = |line: &&Value| {
            (line["tid"] == id && line["event"] == "ended")
                && line["syscall"].as_str().is_some_and(|call| call.ends_with(name))
        };
        lines.iter().filter(is_it).count()
    };
    assert!(ended(tid, "nanosleep") >= 5, "{lines:#?}");
    assert!(lines.iter().filter(|line| line["tid"] == tid).all(|line| line["pid"] == pid), "{lines:#?}");
    assert_eq!(ended(child, "nanosleep"), 1, "{lines:#?}");
}

/// Whose a child is that was there before, it is told by its thread.
#[test]
fn the_children_that_a_thread_had_are_followed() {
    let mut waiter = Waiter::start("two-sleepers");
    let seconds = slow(Duration::from_secs(4)).as_secs();
    let mut child_of = |name: &str| {
        waiter.command(&format!("{name} child {seconds}"));
        waiter.next_line()["child"].as_u64().expect("a child")
    };
    let [stranger, child] = ["first", "second"].map(&mut child_of);
    let trace = Trace::start(&["-p", &waiter.number("second").to_string(), "--min", "50ms"])
        .unwrap_or_else(|said| panic!("{said}"));
    for _ in ["first", "second"] {
        waiter.next_line();
    }
    std::thread::sleep(Duration::from_millis(500));
    let lines = trace.end();
    let of: Vec<&Value> = sleeps(&lines, "sleep").iter().map(|line| &line["pid"]).collect();
    assert_eq!(of, [&Value::from(child)], "not {stranger}: {lines:#?}");
}

/// It takes its process's id and is the only thread left: it is followed on, and what it starts.
#[test]
fn a_thread_that_runs_another_program_is_followed_on() {
    let mut waiter = Waiter::start("two-sleepers");
    let tid = waiter.number("first").to_string();
    let mut trace = Trace::start(&["-p", &tid]).unwrap_or_else(|said| panic!("{said}"));
    if trace.said.contains("results will be missing") {
        return tests::unsupported("by context switches it has ended");
    }
    waiter.command("first exec");
    let status = trace.process.wait(slow(PATIENCE));
    assert!(status.is_some_and(|status| status.success()), "it goes on: {status:?}");
    let lines: Vec<Value> = trace.lines.iter().collect();
    assert_eq!(sleeps(&lines, "sleep").len(), 2, "{lines:#?}");
    let waited = lines.iter().filter(|line| line["syscall"] == "wait4" && line["tid"] == waiter.pid());
    assert_eq!(waited.filter(|line| line["event"] == "ended").count(), 2, "{lines:#?}");
    let second = lines.iter().find(|line| line["tid"] == waiter.number("second"));
    assert_eq!(second, None, "{lines:#?}");
}

/// A process that is asked for is followed whole, whichever of its threads is named beside it.
#[test]
fn a_process_wins_over_its_thread() {
    let (waiter, other) = (Waiter::start("two-sleepers"), Waiter::start("two-sleepers"));
    let [pid, first, others] =
        [waiter.pid().into(), waiter.number("first"), other.number("first")].map(|id| id.to_string());
    let trace = Trace::start(&["-p", &first, "-p", &others, "-p", &pid, "--min", "50ms"])
        .unwrap_or_else(|said| panic!("{said}"));
    assert!(trace.said.contains("following 1 process and 1 thread by"), "{}", trace.said);
    std::thread::sleep(slow(Duration::from_secs(1)));
    let lines = trace.end();
    let seen: BTreeSet<u64> = lines.iter().filter_map(|line| line["tid"].as_u64()).collect();
    let expected = [&waiter, &waiter, &waiter, &other].into_iter().zip(["tid", "first", "second", "first"]);
    let expected: BTreeSet<u64> = expected.map(|(waiter, name)| waiter.number(name)).collect();
    assert_eq!(seen, expected, "{lines:#?}");
}

/// Each of its waits is told once or counted as lost, and nothing of its name reaches a terminal.
#[test]
fn a_hostile_process() {
    let _alone = alone();
    let mut waiter = Waiter::start("hostile");
    let mut command = Command::new(tracer());
    command.args(["trace", "--min", "50ms", "-p", &waiter.pid().to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut trace = start(command);
    let mut said = BufReader::new(trace.pipes().stderr.take().expect("piped"));
    let mut stdout = trace.pipes().stdout.take().expect("piped");
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stdout.read_to_end(&mut bytes).map(|_| bytes)
    });
    let mut first = String::new();
    while !first.contains("Ctrl-C") {
        assert!(said.read_line(&mut first).expect("text") > 0, "{first}");
    }
    waiter.command("go");
    let done = waiter.next_line();
    assert_eq!(done["result"], 1, "{done}");
    let status = trace.wait(slow(Duration::from_secs(10))).expect("it ends when the process does");
    let mut rest = String::new();
    said.read_to_string(&mut rest).expect("text");
    assert!(status.success(), "{status}: {rest}");
    let bytes = reader.join().expect("no panic").expect("it can be read");
    let text = String::from_utf8(bytes).expect("UTF-8");
    let raw = text.chars().find(|c| c.is_control() && *c != '\n');
    assert_eq!(raw, None, "{text}");

    if first.contains("results will be missing") {
        return tests::unsupported("by context switches a child that was not seen to wait is a stranger");
    }
    let ended = |who: &str, what: &str| {
        let is_it = |line: &&str| line.contains(who) && line.contains(what) && line.contains(" after ");
        text.lines().filter(is_it).count()
    };
    // The kernel skips a program that a preempted thread is in the middle of, and a full ring takes no more: both say so.
    let lost = if rest.contains("ring_full") || rest.contains("runs_skipped") { 1000 } else { 0 };
    let sleeps = ended("", "nanosleep(");
    // The child's, and the thread's that wrote.
    assert!((2000 - lost..=2002).contains(&sleeps), "{sleeps} sleeps; {rest}");
    if lost == 0 {
        assert_eq!(ended("", "read(1500 pipe"), 1, "{text}");
        assert_eq!(ended(&format!(" {} ", done["child"]), "nanosleep("), 1, "{text}");
    }
}

/// A snapshot that is larger than the kernel's buffer comes in parts, and nothing is lost or said to be.
#[test]
fn a_thousand_sleepers_lose_nothing() {
    let _alone = alone();
    // An emulated machine takes minutes to look at a thousand.
    let sleepers = if tests::slowness() == 1 { 1000 } else { 300 };
    let agent = Agent::start(&["--interval", "200ms"]);
    let waiter = Waiter::start_with("pipes", &[&sleepers.to_string()]);
    waiter.until_age(1.0);
    let trace = Trace::start(&["-p", &waiter.pid().to_string()]).unwrap_or_else(|said| panic!("{said}"));
    std::thread::sleep(slow(Duration::from_secs(2)).min(Duration::from_secs(6)));
    let (lines, said) = trace.end_and_say();
    // Its first thread reads what it is told.
    let waits = |line: &&Value| line["event"] == "waiting" && line["tid"] != line["pid"];
    let told: BTreeSet<u64> = lines.iter().filter(waits).filter_map(|line| line["tid"].as_u64()).collect();
    // What some kernels skip, or some machines hide, has nothing to do with how many wait. An emulated one does not reach
    // all of them in a look.
    let slow_machine = tests::slowness() > 1;
    let theirs = |text: &str| {
        text.contains("runs_skipped")
            || text.contains("end_unseen")
            || slow_machine && text.contains("look_cut")
    };
    let said: Vec<&str> = said.lines().filter(|line| !theirs(line)).collect();
    assert_eq!((told.len(), said), (sleepers, vec![]));
    let mut lost = agent.samples("tracer_lost_events_total", &[]);
    lost.retain(|reason| !theirs(reason.label("reason")));
    assert!(!lost.is_empty());
    assert!(lost.iter().all(|reason| reason.value == 0.0), "{lost:#?}");
}

#[test]
fn who_is_not_there_is_one_line() {
    for args in [["-p", "4194305"], ["-c", "no-such-name"]] {
        let said = Trace::start(&args).err().expect("it ends");
        assert!(said.starts_with("tracer: there is no process ") && said.lines().count() == 1, "{said}");
    }
}

/// Its output is its own, and so is its status; what it did first is not missed.
#[test]
fn a_command_is_followed_from_its_first_call() {
    let _turn = with_few();
    let lines = own_dir().join("trace-command");
    let said = lines.to_str().expect("a path");
    let command = ["sh", "-c", "sleep 0.3; echo done; exit 3"];
    let output = Command::new(tracer())
        .args(["trace", "--json", "--output", said, "--"])
        .args(command)
        .stdin(Stdio::null())
        .output()
        .expect("tracer starts");
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(3), &b"done\n"[..]), "{output:?}");
    let text = std::fs::read_to_string(&lines).expect("it was written");
    let slept = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")).any(|call| {
        call["comm"] == "sleep" && call["event"] == "ended" && call["seconds"].as_f64() >= Some(0.3)
    });
    assert!(slept, "{text}");
    assert!(!text.contains("\"tracer\""), "it is followed from where it is itself: {text}");
    // Without a file the lines go to standard error, where the command's own output is not.
    let output = Command::new(tracer()).args(["trace", "--"]).args(command).output().expect("tracer starts");
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(3), &b"done\n"[..]), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.lines().any(|line| line.contains(" sleep ") && line.contains("after")), "{text}");
}

#[test]
fn a_command_that_is_not_there_is_said_to_be_missing_as_shells_do() {
    let output = Command::new(tracer()).args(["trace", "--", "/not/there"]).output().expect("tracer starts");
    assert_eq!(output.status.code(), Some(127), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot run /not/there"), "{output:?}");
}

/// Whoever ends tracer ends the command.
#[test]
fn a_command_ends_with_what_follows_it() {
    let _turn = with_few();
    let mut command = Command::new(tracer());
    command.args(["trace", "--", "sleep", "1000"]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut running = start(command);
    let begin = Instant::now();
    let child = loop {
        let children = format!("/proc/{0}/task/{0}/children", running.pid());
        let all = std::fs::read_to_string(children).unwrap_or_default();
        let is_sleep = |pid: &&str| {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n")
        };
        match all.split_whitespace().find(is_sleep) {
            Some(pid) => break pid.to_owned(),
            None => assert!(begin.elapsed() < slow(PATIENCE), "it does not start: {all}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    // SAFETY: kill takes numbers; the process is ours and has not been waited for.
    assert_eq!(unsafe { libc::kill(running.pid().cast_signed(), libc::SIGTERM) }, 0);
    while running.ended().is_none() {
        assert!(begin.elapsed() < slow(PATIENCE), "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!std::path::Path::new(&format!("/proc/{child}")).exists(), "it was waited for");
}
