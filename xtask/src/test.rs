//! `cargo xtask test`: everything that must hold before a change lands, step by step.

use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};

use crate::{
    beside::Beside,
    cmd::{self, command, is_root, root},
    deny, dist, ebpf, fuzz, packages, report,
    retry::{Record, Retries},
    setup, vm,
};

/// How much is tested.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// What needs stable Rust, a C compiler and root, and installs nothing.
    Quick,
    /// What must hold before a change lands: CI.
    Landing,
    /// What takes hours, before a release.
    Release,
}

/// A step: its name and what it does.
struct Step {
    name: &'static str,
    run: fn(&mut Run) -> Result<()>,
}

const fn step(name: &'static str, run: fn(&mut Run) -> Result<()>) -> Step {
    Step { name, run }
}

const QUICK: &[Step] = &[
    step("format", |_| cargo(&["fmt", "--all", "--check"])),
    step("lint", |_| cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])),
    step("unit tests", |_| cargo(&["test", "--workspace", "--exclude", "tests", "--locked"])),
    step("live tests", |run| run.on_the_kernel(&["--lib", "--bins", "--test", "live"], 64)),
];

/// What takes a processor is made beside tests that sleep, on time that they leave; not beside those that are about time, the live
/// tests and those with real clients: see docs/decisions/0044-work-beside-tests.md.
const LANDING: &[Step] = &[
    step("format", |_| cargo(&["fmt", "--all", "--check"])),
    step("licences and origin of crates", |_| deny::run()),
    step("Debian's packages", |_| install()),
    step("lint", |_| cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])),
    step("unit tests", |_| cargo(&["test", "--workspace", "--exclude", "tests", "--locked"])),
    step("what the live tests run", |run| run.programs().map(|_| ())),
    step("live tests", |run| run.on_the_kernel(&["--lib", "--bins", "--test", "live"], 64)),
    step("tests with real clients", |run| run.on_the_kernel(&["--test", "clients", "--test", "loops"], 48)),
    step("known waits, word for word", |run| {
        run.beside = Some(Beside::start()?);
        run.word_for_word()
    }),
    step("alerts and dashboard", |run| run.on_the_kernel(&["--test", "deploy"], 8)),
    step("the package", Run::package),
    step("a healthy host for a minute", |run| run.healthy(60)),
    step("streams that rest for a minute", |run| run.streams(60)),
    step("what goes on beside", |run| run.beside.take().map_or(Ok(()), Beside::join)),
    step("the agent under load for a minute", |run| run.under_load(60)),
];

const RELEASE: &[Step] = &[
    step("Debian's packages", |_| install()),
    step("BPF toolchain", |_| setup::run()),
    step("kernel programs are as committed", |_| ebpf::run(true)),
    step("what the live tests run", |run| run.programs().map(|_| ())),
    step("a healthy host for five minutes", |run| run.healthy(300)),
    step("streams that rest for eleven minutes", |run| run.streams(660)),
    step("the agent under load for half an hour", |run| run.under_load(1800)),
    step("fuzzers, an hour each", |_| fuzz::run(&[], 3600)),
    step("all kernels in full", |_| vm::run(&vm::Options::full(2))),
    step("crates by cargo-deny, and advisories", |_| deny::by_cargo_deny()),
];

/// What is done beside the tests of a landing: see [`Beside`].
const BESIDE: &[Step] = &[
    step("documentation", |_| documentation()),
    step("other kernels", |_| vm::run(&vm::Options::landing(2))),
];

/// What the steps of one run share.
struct Run {
    tier: Tier,
    retries: Retries,
    beside: Option<Beside>,
    programs: Option<Programs>,
}

/// What tests in `tests/` run, built once for all of them.
#[derive(Clone)]
struct Programs {
    tracer: PathBuf,
    waiter: PathBuf,
}

/// Runs the steps of a tier; a failed one does not keep the others from running.
///
/// # Errors
/// Not everything holds; what does not has been said.
pub fn run(tier: Tier, retries: u32) -> Result<()> {
    ensure!(is_root(), "the tests read the kernel: run `cargo xtask test` as root");
    let steps = match tier {
        Tier::Quick => QUICK,
        Tier::Landing => LANDING,
        Tier::Release => RELEASE,
    };
    let mut run = Run::new(tier, retries);
    let results = run_all(steps, &mut run);
    for test in &run.retries.needed {
        eprintln!("       {test} failed and passed when it was run again");
    }
    let again_and_again = Record::update(&run.retries.needed)?;
    for test in &again_and_again {
        eprintln!("FAILED {test} has needed that in every of the last runs: mend it");
    }
    if tier == Tier::Release {
        report::write(&results)?;
    }
    finish(&results, again_and_again.is_empty())
}

/// The work beside a landing's tests.
///
/// # Errors
/// Not everything holds.
pub fn run_beside() -> Result<()> {
    let results = run_all(BESIDE, &mut Run::new(Tier::Landing, 0));
    finish(&results, true)
}

/// How a step went.
pub struct Outcome {
    /// The step.
    pub name: &'static str,
    /// What it tests holds.
    pub passed: bool,
    /// How long it took.
    pub took: Duration,
}

fn run_all(steps: &[Step], run: &mut Run) -> Vec<Outcome> {
    let mut results = Vec::new();
    for Step { name, run: act } in steps {
        eprintln!("== {name}");
        let begun = Instant::now();
        let result = act(run);
        if let Err(error) = &result {
            eprintln!("xtask: {name}: {error:#}");
        }
        results.push(Outcome { name, passed: result.is_ok(), took: begun.elapsed() });
    }
    results
}

fn finish(results: &[Outcome], holds: bool) -> Result<()> {
    eprintln!();
    for Outcome { name, passed, took } in results {
        eprintln!("{} {name} ({:.0}s)", if *passed { "ok    " } else { "FAILED" }, took.as_secs_f64());
    }
    let passed = results.iter().filter(|outcome| outcome.passed).count();
    let took: Duration = results.iter().map(|outcome| outcome.took).sum();
    println!("{passed} passed, {} failed, in {:.0} s", results.len() - passed, took.as_secs_f64());
    if passed < results.len() || !holds {
        bail!("not everything holds");
    }
    Ok(())
}

impl Run {
    fn new(tier: Tier, retries: u32) -> Self {
        Self { tier, retries: Retries::new(retries), beside: None, programs: None }
    }

    /// The tracer to test: before a landing the static one that people are given and other kernels boot with, else what
    /// `cargo build --release` makes.
    fn programs(&mut self) -> Result<Programs> {
        if let Some(programs) = &self.programs {
            return Ok(programs.clone());
        }
        let target = root().join("target");
        let tracer = match self.tier {
            Tier::Quick => {
                cargo(&["build", "--release", "--locked", "--package", "tracer"])?;
                target.join("release/tracer")
            }
            Tier::Landing | Tier::Release => dist::build()?,
        };
        cargo(&["build", "--locked", "--package", "tests", "--bins", "--tests"])?;
        let programs = Programs { tracer, waiter: target.join("debug/waiter") };
        Ok(self.programs.insert(programs).clone())
    }

    /// Some of the tests in `tests/`, against this machine's kernel, so many at a time: most of them sleep most of the time,
    /// and those that must be alone wait until the others are through.
    fn on_the_kernel(&mut self, which: &[&str], at_a_time: usize) -> Result<()> {
        let programs = self.programs()?;
        self.retries.run(|| Ok(programs.tests(which)), &["--test-threads", &at_a_time.to_string()])
    }

    /// What is said of known waits, by a tracer with all assertions, and with another C library than the others.
    fn word_for_word(&mut self) -> Result<()> {
        cargo(&["build", "--locked", "--package", "tracer"])?;
        let tracer = root().join("target/debug/tracer");
        let programs = Programs { tracer, ..self.programs()? };
        self.retries.run(|| Ok(programs.tests(&["--test", "golden"])), &[])
    }

    /// One target in `tests/` that says what it measured, which takes so many seconds by this variable.
    fn measured(&mut self, which: &str, variable: &str, seconds: u32) -> Result<()> {
        let mut tests = self.programs()?.tests(&["--test", which]);
        tests.args(["--", "--nocapture"]).env(variable, seconds.to_string());
        cmd::run(tests)
    }

    /// The agent under load.
    fn under_load(&mut self, seconds: u32) -> Result<()> {
        self.measured("soak", "TRACER_SOAK_SECONDS", seconds)
    }

    /// A healthy host, on which nothing may be flagged.
    fn healthy(&mut self, seconds: u32) -> Result<()> {
        self.measured("healthy", "TRACER_HEALTHY_SECONDS", seconds)
    }

    /// Streams, subscriptions and pools at rest, which an agent as it is shipped does not flag. What is doubtful would be after ten minutes.
    fn streams(&mut self, seconds: u32) -> Result<()> {
        self.measured("streams", "TRACER_STREAMS_SECONDS", seconds)
    }

    /// The package, in a Debian of its own.
    fn package(&mut self) -> Result<()> {
        let programs = self.programs()?;
        dist::tested(|variables| {
            let mut tests = programs.tests(&["--test", "package"]);
            tests.envs(variables.iter().map(|(name, path)| (*name, path)));
            cmd::run(tests)
        })
    }
}

impl Programs {
    /// `cargo test` of these targets in `tests/`, with these programs.
    fn tests(&self, which: &[&str]) -> Command {
        let mut tests = command("cargo", &["test", "--locked", "--package", "tests"]);
        tests.args(which);
        tests.env("TRACER_BIN", &self.tracer).env("TRACER_WAITER", &self.waiter);
        tests
    }
}

fn cargo(args: &[&str]) -> Result<()> {
    cmd::run(command("cargo", args))
}

/// Everything that comes from Debian: two cannot do that at a time.
fn install() -> Result<()> {
    setup::packages()?;
    packages::install()?;
    packages::install_these(packages::OF_THE_PACKAGE)?;
    vm::install()
}

/// Every link in a comment leads somewhere.
fn documentation() -> Result<()> {
    let mut doc = command(
        "cargo",
        &["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items", "--locked"],
    );
    doc.env("RUSTDOCFLAGS", "-D warnings");
    cmd::run(doc)
}
