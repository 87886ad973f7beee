//! What did a guest say? Runs it under plain emulation, within a time limit, and reads its console.
//!
//! Only the guest's own last line, which it prints after the tests have passed, makes a success: a kernel that panics,
//! hangs or reboots never prints it.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::arch::Arch;

/// Longer than any run that will still succeed.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// What a kernel says that has met a mistake of its own, or of a program that it has let in: nothing that it does then is a success.
const OOPSES: &[&str] = &[
    "BUG: kernel NULL pointer",
    "BUG: unable to handle",
    "Oops: ",
    "general protection fault, ",
    "Unable to handle kernel ",
];

/// A machine to boot.
pub struct Guest<'a> {
    pub name: &'a str,
    pub arch: &'a Arch,
    pub image: &'a Path,
    pub disk: &'a Path,
    /// Where its console goes.
    pub console: &'a Path,
    pub boot: &'a str,
}

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The kernel's own name of its version.
    pub release: String,
    pub passed: u32,
    pub failed: u32,
    /// Tests whose kernel feature this kernel lacks, with the reason.
    pub unsupported: Vec<String>,
    /// Names of the tests that the harness says are `ok`.
    pub ok: Vec<String>,
    /// Names of those that it says are `FAILED`.
    pub not_ok: Vec<String>,
    /// What `tracer doctor --json` said there.
    pub doctor: serde_json::Value,
    /// The first line in which its kernel says that it has failed itself.
    pub oops: Option<String>,
    /// The guest said so itself, and its kernel did not fail.
    pub succeeded: bool,
}

impl Guest<'_> {
    /// Boots it and waits for its end; prints its console if it did not succeed.
    pub fn run(&self) -> Result<Outcome> {
        eprintln!("{}: boots {}", self.name, self.image.display());
        let log =
            File::create(self.console).with_context(|| format!("cannot write {}", self.console.display()))?;
        let mut child = Command::new(self.arch.qemu)
            // With a thread for each processor, one of them may still run what the kernel has just patched (a
            // tracepoint that was switched on): an oops in the scheduler that no real machine has.
            .args(["-accel", "tcg,thread=single", "-smp", "2", "-m", "2048"])
            .args(self.arch.machine)
            .args(["-display", "none", "-nodefaults", "-no-user-config", "-no-reboot", "-serial", "stdio"])
            .arg("-kernel")
            .arg(self.image)
            .arg("-initrd")
            .arg(self.disk)
            .arg("-append")
            .arg(format!("console={} panic=-1 quiet {}", self.arch.console, self.boot))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot run {}", self.arch.qemu))?;
        let begun = Instant::now();
        let mut why = String::new();
        loop {
            if child.try_wait().context("cannot wait for the emulator")?.is_some() {
                break;
            }
            if begun.elapsed() > LIMIT {
                why = format!(" within {} minutes", LIMIT.as_secs() / 60);
                let _ = child.kill();
                let _ = child.wait();
                break;
            }
            thread::sleep(Duration::from_millis(100));
        }
        let text =
            fs::read(self.console).with_context(|| format!("cannot read {}", self.console.display()))?;
        let text = String::from_utf8_lossy(&text);
        let outcome = Outcome::of(&text);
        if outcome.succeeded {
            eprintln!("{}: passed ({} s)", self.name, begun.elapsed().as_secs());
        } else {
            eprintln!("{}: did not succeed{why}; its console:\n{text}\n{0}: end of its console", self.name);
        }
        Ok(outcome)
    }
}

impl Outcome {
    /// Reads a console.
    fn of(text: &str) -> Self {
        let mut outcome = Self::default();
        for line in text.lines().map(str::trim) {
            if outcome.oops.is_none() && OOPSES.iter().any(|oops| line.contains(oops)) {
                outcome.oops = Some(line.to_owned());
            }
            match line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
                Some((name, "ok")) => outcome.ok.push(name.to_owned()),
                Some((name, "FAILED")) => outcome.not_ok.push(name.to_owned()),
                _ => {}
            }
            let Some(said) = line.strip_prefix("guest: ") else { continue };
            if let Some(release) = said.strip_prefix("kernel ") {
                outcome.release = release.to_owned();
            } else if let Some(what) = said.strip_prefix("unsupported ") {
                outcome.unsupported.push(what.to_owned());
            } else if let Some(object) = said.strip_prefix("doctor ") {
                outcome.doctor = serde_json::from_str(object).unwrap_or_default();
            } else if let Some(counts) = said.strip_prefix("counts ") {
                let mut counts = counts.split(' ').map(|count| count.parse().unwrap_or(0));
                (outcome.passed, outcome.failed) = (counts.next().unwrap_or(0), counts.next().unwrap_or(0));
            } else if said == "success" {
                outcome.succeeded = outcome.passed > 0 && outcome.failed == 0;
            }
        }
        outcome.succeeded &= outcome.oops.is_none();
        outcome
    }
}

impl Outcome {
    /// The tests that a further boot has to run, if all have been run and only some failed.
    pub fn to_repeat(&self) -> Option<&[String]> {
        let all_known = self.failed > 0 && self.not_ok.len() == self.failed as usize;
        (self.passed > 0 && all_known).then_some(&self.not_ok)
    }

    /// What it is together with a further boot that has run only what failed in this one.
    pub fn repeated(mut self, again: Self) -> Self {
        // One that ended early leaves everything as it was.
        self.oops = self.oops.or(again.oops);
        if again.passed + again.failed == self.failed {
            self.passed += again.passed;
            self.ok.extend(again.ok);
            self.unsupported.extend(again.unsupported);
            (self.failed, self.not_ok, self.succeeded) = (again.failed, again.not_ok, again.succeeded);
        }
        self.succeeded &= self.oops.is_none();
        self
    }

    /// The tests whose feature this kernel lacks.
    pub fn lacking(&self) -> BTreeSet<&str> {
        self.unsupported.iter().filter_map(|what| what.split(": ").next()).collect()
    }

    /// How many tests have passed that had something to do.
    pub fn done(&self) -> usize {
        (self.passed as usize).saturating_sub(self.lacking().len())
    }

    /// Of the tests whose names begin so, how many have passed that had something to do; nothing where none was run.
    pub fn proved(&self, names: &[&str]) -> String {
        let is_of = |name: &&String| names.iter().any(|begin| name.starts_with(begin));
        let lacking = self.lacking();
        let run: Vec<&String> = self.ok.iter().filter(is_of).collect();
        let done = run.iter().filter(|name| !lacking.contains(name.as_str())).count();
        if run.is_empty() { String::new() } else { format!("{done} of {}", run.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "boot noise\r\nguest: kernel 6.1.0\r\nguest: doctor {\"agent\":true}\r\nguest: unsupported a::b: no gate\r\n\
                        test a::b ... ok\r\ntest a::c ... ok\r\n\
                        guest: counts 12 0\r\nguest: success\r\n";

    #[test]
    fn only_the_line_of_success_is_one() {
        let outcome = Outcome::of(GOOD);
        let expected = Outcome {
            release: "6.1.0".into(),
            passed: 12,
            failed: 0,
            unsupported: vec!["a::b: no gate".into()],
            ok: vec!["a::b".into(), "a::c".into()],
            not_ok: vec![],
            doctor: serde_json::json!({"agent": true}),
            oops: None,
            succeeded: true,
        };
        assert_eq!(outcome, expected);
        assert_eq!(
            (outcome.done(), &*outcome.proved(&["a::"]), &*outcome.proved(&["b::"])),
            (11, "1 of 2", "")
        );
        assert!(!Outcome::of(&GOOD.replace("guest: success", "Kernel panic")).succeeded);
        assert!(!Outcome::of(&GOOD.replace("counts 12", "counts 0")).succeeded);
        assert!(!Outcome::of(&GOOD.replace("12 0", "11 1")).succeeded);
    }

    /// A test may have passed beside it.
    #[test]
    fn a_kernel_that_fails_is_no_success_whatever_passes() {
        let line = "[  133.2] BUG: kernel NULL pointer dereference, address: 00000000000000e4";
        let oops = Outcome::of(&format!("{line}\r\n{GOOD}"));
        assert_eq!((oops.oops.as_deref(), oops.succeeded), (Some(line), false));
        let bad = GOOD.replace("a::c ... ok", "a::c ... FAILED").replace("12 0", "11 1");
        let first = Outcome::of(&format!("{line}\r\n{bad}"));
        let whole =
            first.repeated(Outcome::of("test a::c ... ok\r\nguest: counts 1 0\r\nguest: success\r\n"));
        assert_eq!((whole.failed, whole.succeeded), (0, false));
    }

    #[test]
    fn a_further_boot_runs_what_failed() {
        let bad = GOOD.replace("a::c ... ok", "a::c ... FAILED").replace("12 0", "11 1");
        let first = || Outcome::of(&bad.replace("guest: success", ""));
        assert_eq!(first().to_repeat(), Some(&["a::c".to_owned()][..]));
        let again = |text: &str| first().repeated(Outcome::of(text));
        let whole = again("test a::c ... ok\r\nguest: counts 1 0\r\nguest: success\r\n");
        assert_eq!((whole.passed, whole.failed, whole.succeeded), (12, 0, true));
        assert_eq!(whole.proved(&["a::"]), "1 of 2");
        let failed = again("test a::c ... FAILED\r\nguest: counts 0 1\r\n");
        assert_eq!((failed.passed, failed.failed, failed.succeeded), (11, 1, false));
        let ended = again("Kernel panic");
        assert_eq!((ended.passed, ended.failed, ended.succeeded), (11, 1, false));
        assert_eq!(ended.to_repeat(), first().to_repeat());
        // One that did not get through its tests runs all of them again.
        assert_eq!(Outcome::of("test a::c ... FAILED\r\nKernel panic").to_repeat(), None);
        assert_eq!(Outcome::of(GOOD).to_repeat(), None);
    }
}
