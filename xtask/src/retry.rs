//! Running tests, and once more those that failed: most are about time, and a machine may be held up. Which they were is said.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// How often tests that failed may be run again, and which needed it.
pub struct Retries {
    /// Further runs of the tests that failed.
    pub allowed: u32,
    /// Tests that failed and then passed.
    pub needed: Vec<String>,
}

impl Retries {
    /// Runs `cargo test`: what `tests` makes, with these arguments for the tests' own programs.
    pub fn run(&mut self, tests: impl Fn() -> Result<Command>, arguments: &[&str]) -> Result<()> {
        let mut chosen: Vec<String> = Vec::new();
        for further in 0..=self.allowed {
            let mut command = tests()?;
            command.args(["--no-fail-fast", "--"]).args(arguments);
            if further > 0 {
                command.arg("--exact").args(&chosen);
            }
            let (passed, failed) = watched(command)?;
            if passed {
                self.needed.append(&mut chosen);
                return Ok(());
            }
            if failed.is_empty() {
                bail!("the tests ended before they were done");
            }
            eprintln!("xtask: failed: {}", failed.join(", "));
            self.needed.extend(chosen.into_iter().filter(|name| !failed.contains(name)));
            chosen = failed;
        }
        bail!("{} did not pass", chosen.join(", "))
    }
}

/// Runs tests and shows what they print: whether all passed, and the names of those that did not.
fn watched(mut command: Command) -> Result<(bool, Vec<String>)> {
    eprintln!("+ {}", crate::cmd::shown(&command));
    let mut tests = command.stdout(Stdio::piped()).spawn().context("cannot run the tests")?;
    let mut failed = Vec::new();
    for line in tests.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines) {
        let line = line.context("cannot read what the tests print")?;
        println!("{line}");
        failed.extend(failed_test(&line).map(str::to_owned));
    }
    Ok((tests.wait()?.success(), failed))
}

/// The name of the test that a line of the test program's says has failed.
fn failed_test(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `sh` in place of `cargo test`: `$0` is its first own argument, so it sees whether it is a further run.
    fn ran(allowed: u32, script: &str) -> (bool, Vec<String>) {
        let mut retries = Retries { allowed, needed: Vec::new() };
        let tests = || {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            Ok(command)
        };
        let passed = retries.run(tests, &["--quiet"]).is_ok();
        (passed, retries.needed)
    }

    const FLAKY: &str = r#"case "$*" in
        *--exact*) [ "$*" = "-- --quiet --exact b::c" ] ;;
        *) echo "test a ... ok"; echo "test b::c ... FAILED"; exit 101 ;;
    esac"#;

    #[test]
    fn what_failed_alone_is_run_again() {
        assert_eq!(ran(1, FLAKY), (true, vec!["b::c".to_owned()]));
        assert_eq!(ran(0, FLAKY), (false, vec![]));
    }

    #[test]
    fn what_fails_again_has_failed() {
        let script = r#"echo "test b::c ... FAILED"; exit 101"#;
        assert_eq!(ran(2, script), (false, vec![]));
    }

    #[test]
    fn tests_that_did_not_run_have_not_passed() {
        assert_eq!(ran(2, "exit 101"), (false, vec![]));
    }
}
