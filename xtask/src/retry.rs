//! Running tests, and once more those that failed: most are about time, and a machine may be held up. Which they were is said.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufRead, BufReader, Read},
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::cmd::root;

/// How long what a test has left behind may keep the output open.
const LEFT: Duration = Duration::from_secs(10);

/// How often tests that failed may be run again, and which needed it.
pub struct Retries {
    /// Further runs of the tests that failed.
    pub allowed: u32,
    /// Tests that failed and then passed.
    pub needed: Vec<String>,
}

/// In how many runs in a row each test has needed to be run again, in this checkout.
pub struct Record;

impl Record {
    /// A test that has needed it so often is broken.
    const ENOUGH: u32 = 3;

    /// Notes which needed it in this run; those that have in every one of the last three.
    ///
    /// # Errors
    /// The record cannot be written.
    pub fn update(needed: &[String]) -> Result<Vec<String>> {
        let path = root().join("target/retried.json");
        let before =
            fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let (after, broken) = Self::next(&before, needed);
        let text = serde_json::to_vec(&after).context("cannot write down which tests were run again")?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(broken)
    }

    fn next(before: &BTreeMap<String, u32>, needed: &[String]) -> (BTreeMap<String, u32>, Vec<String>) {
        let in_a_row = |name: &String| before.get(name).copied().unwrap_or(0) + 1;
        let after: BTreeMap<String, u32> = needed.iter().map(|name| (name.clone(), in_a_row(name))).collect();
        let broken = after.iter().filter(|(_, times)| **times >= Self::ENOUGH).map(|(name, _)| name.clone());
        let broken = broken.collect();
        (after, broken)
    }
}

impl Retries {
    /// None needed so far.
    pub fn new(allowed: u32) -> Self {
        Self { allowed, needed: Vec::new() }
    }

    /// Runs `cargo test`: what `tests` makes, with these arguments for the tests' own programs.
    pub fn run(&mut self, tests: impl Fn() -> Result<Command>, arguments: &[&str]) -> Result<()> {
        let mut chosen: Vec<String> = Vec::new();
        for further in 0..=self.allowed {
            let mut command = tests()?;
            command.args(["--no-fail-fast", "--"]).args(arguments);
            if further > 0 {
                command.arg("--exact").args(&chosen);
            }
            let (succeeded, told) = watched(command)?;
            if succeeded && (further == 0 || told.passed == chosen.len()) {
                self.needed.append(&mut chosen);
                return Ok(());
            }
            ensure!(!told.failed.is_empty() && told.is_whole(), "the tests ended before they were done");
            eprintln!("xtask: failed: {}", told.failed.join(", "));
            self.needed.extend(chosen.into_iter().filter(|name| !told.failed.contains(name)));
            chosen = told.failed;
        }
        bail!("{} did not pass", chosen.join(", "))
    }
}

/// What test programs have said.
#[derive(Default)]
struct Told {
    /// Programs that have begun.
    begun: usize,
    /// Programs that have told how it went.
    ended: usize,
    /// Tests that passed, by their own count.
    passed: usize,
    /// Tests that did not, by their own count.
    not_passed: usize,
    /// Those, by name.
    failed: Vec<String>,
}

impl Told {
    fn line(&mut self, line: &str) {
        let count = |what: &str| -> usize {
            let before = line.split_once(what).map_or("", |(before, _)| before);
            before.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        if line.starts_with("running ") && (line.ends_with(" tests") || line.ends_with(" test")) {
            self.begun += 1;
        } else if line.starts_with("test result: ") {
            self.ended += 1;
            self.passed += count(" passed;");
            self.not_passed += count(" failed;");
        } else if let Some(name) =
            line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.failed.push(name.to_owned());
        }
    }

    /// Whether each program got through its tests, and each that failed is known by name.
    fn is_whole(&self) -> bool {
        self.begun == self.ended && self.not_passed == self.failed.len()
    }
}

/// Runs tests and shows what they print: whether all passed, and what they said.
fn watched(mut command: Command) -> Result<(bool, Told)> {
    eprintln!("+ {}", crate::cmd::shown(&command));
    let mut tests = command.stdout(Stdio::piped()).spawn().context("cannot run the tests")?;
    let output = tests.stdout.take().context("the tests have no output")?;
    let told = Arc::new(Mutex::new(Told::default()));
    let reader = {
        let told = Arc::clone(&told);
        thread::spawn(move || read(output, &told))
    };
    let succeeded = tests.wait()?.success();
    let until = Instant::now() + LEFT;
    while !reader.is_finished() && Instant::now() < until {
        thread::sleep(Duration::from_millis(10));
    }
    let told = std::mem::take(&mut *told.lock().unwrap_or_else(PoisonError::into_inner));
    Ok((succeeded, told))
}

fn read(output: impl Read, told: &Mutex<Told>) -> io::Result<()> {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        print!("{text}");
        told.lock().unwrap_or_else(PoisonError::into_inner).line(text.trim_end());
        line.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `sh` in place of `cargo test`, with what it would be given but the first.
    fn ran(allowed: u32, script: &str) -> (bool, Vec<String>) {
        let mut retries = Retries::new(allowed);
        let tests = || {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            Ok(command)
        };
        let passed = retries.run(tests, &["--quiet"]).is_ok();
        (passed, retries.needed)
    }

    const FLAKY: &str = r#"case "$*" in
        *--exact*) [ "$*" = "-- --quiet --exact b::c" ] || exit 101
            echo "running 1 test"; echo "test b::c ... ok"
            echo "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out" ;;
        *) echo "running 2 tests"; echo "test a ... ok"; echo "test b::c ... FAILED"
            echo "test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 6 filtered out"; exit 101 ;;
    esac"#;

    #[test]
    fn what_failed_alone_is_run_again() {
        assert_eq!(ran(1, FLAKY), (true, vec!["b::c".to_owned()]));
        assert_eq!(ran(0, FLAKY), (false, vec![]));
    }

    #[test]
    fn one_that_needs_it_again_and_again_is_broken() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let mut record = BTreeMap::new();
        let mut broken = Vec::new();
        for needed in [&["a", "b"][..], &["a"], &["a", "b"]] {
            assert!(broken.is_empty());
            (record, broken) = Record::next(&record, &names(needed));
        }
        assert_eq!(broken, ["a"]);
        assert_eq!(Record::next(&record, &[]), (BTreeMap::new(), vec![]), "it has passed");
    }

    #[test]
    fn what_fails_again_has_failed() {
        let script = r#"echo "running 1 test"; echo "test b::c ... FAILED"
            echo "test result: FAILED. 0 passed; 1 failed; 0 ignored"; exit 101"#;
        assert_eq!(ran(2, script), (false, vec![]));
    }

    /// One that dies half-way has named the first that failed, and not run the rest.
    #[test]
    fn tests_that_did_not_run_have_not_passed() {
        assert_eq!(ran(2, "exit 101"), (false, vec![]));
        assert_eq!(
            ran(2, &FLAKY.replace("; exit 101", "; echo 'running 9 tests'; exit 101")),
            (false, vec![])
        );
        assert_eq!(ran(2, &FLAKY.replace("echo \"test b::c ... ok\"", "exit 0")), (false, vec![]));
        assert_eq!(ran(2, &FLAKY.replace("1 passed; 0 failed", "0 passed; 0 failed")), (false, vec![]));
    }
}
