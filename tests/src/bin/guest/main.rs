//! What is process 1 of a test VM? Starts itself again, reaps what others leave, and powers off at the end. Its second
//! self makes the machine fit for the live tests, runs them and says what came of it on the console, which
//! `cargo xtask vm` reads.
//!
//! `/plan` has a line for each wish: `slew SECONDS` lets the clock run fast for so long before, `hide DIRECTORY` makes one
//! look empty, `lacks WORD` tells the tests what the machine is made without, `argument WORD` goes to them.

mod clock;
mod machine;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

/// Latencies may be so many times as long as on a real machine.
const SLOW: &str = "10";

fn main() {
    if std::process::id() != 1 {
        return run();
    }
    // A panic here is a panic of the kernel, which ends without the line of success: as it should be.
    let program = std::env::current_exe().unwrap_or_else(|_| "/bin/guest".into());
    #[expect(clippy::zombie_processes, reason = "it is reaped with all others")]
    let child = Command::new(program).spawn().expect("the guest starts itself");
    machine::reap_until(child.id());
    machine::power_off();
}

fn run() {
    machine::mount();
    machine::loopback_up();
    machine::raise_limits();
    say(&format!("kernel {}", machine::release()));
    let plan = std::fs::read_to_string("/plan").expect("/plan");
    let wishes =
        |name: &'static str| plan.lines().filter_map(move |line| line.strip_prefix(name)?.strip_prefix(' '));
    for seconds in wishes("slew") {
        let ahead = clock::slew(seconds.parse().expect("seconds"));
        say(&format!("the clock is {ahead:.3} s ahead of the scheduler's"));
    }
    wishes("hide").for_each(machine::hide);
    if let Some(word) = wishes("lacks").next() {
        // SAFETY: this process has one thread.
        unsafe { std::env::set_var("TRACER_TESTS_LACK", word) };
    }
    say(&format!("doctor {}", doctor()));
    let words: Vec<&str> = wishes("argument").collect();
    if run_tests(&words) {
        say("success");
    }
}

/// What tracer itself says of this kernel, one JSON object.
fn doctor() -> String {
    let output = Command::new("/bin/tracer").args(["doctor", "--json"]).stdin(Stdio::null()).output();
    let output = output.expect("/bin/tracer starts");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Runs the tests, repeating on the console what they say; whether they passed.
fn run_tests(words: &[&str]) -> bool {
    // Both streams into one pipe: their order tells what a line on standard error belongs to.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut command = Command::new("/bin/live");
    command.args(words).args(["--test-threads", "4"]).env("TRACER_TESTS_SLOW", SLOW);
    command.env("PATH", "/bin").stdin(Stdio::null());
    command.stdout(writer.try_clone().expect("a descriptor")).stderr(writer);
    let mut child = command.spawn().expect("/bin/live starts");
    drop(command);
    let mut counts = None;
    for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        if let Some(what) = line.strip_prefix(tests::UNSUPPORTED) {
            say(&format!("unsupported {}", what.trim()));
        } else {
            println!("{line}");
        }
        counts = read_counts(&line).or(counts);
    }
    let status = child.wait().expect("waiting for an own child");
    match counts {
        Some((passed, failed)) => say(&format!("counts {passed} {failed}")),
        None => say("the tests said no result"),
    }
    status.success() && counts.is_some_and(|(passed, failed)| passed > 0 && failed == 0)
}

/// The numbers of `test result: ok. 12 passed; 0 failed; …`.
fn read_counts(line: &str) -> Option<(u32, u32)> {
    let rest = line.strip_prefix("test result: ")?;
    let number = |word: &str| {
        let before = rest.split(word).next()?.trim_end();
        before.rsplit([' ', ';']).next()?.parse().ok()
    };
    Some((number("passed")?, number("failed")?))
}

fn say(what: &str) {
    println!("guest: {what}");
    let _ = std::io::stdout().flush();
}
