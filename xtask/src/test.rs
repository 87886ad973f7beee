//! `cargo xtask test`: everything that must hold before a change lands, step by step.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};

use crate::{
    cmd::{self, command, is_root, root},
    dist, ebpf, fuzz, packages,
    retry::Retries,
    setup,
};

/// A step: its name and what it does.
type Step = (&'static str, fn(&mut Retries) -> Result<()>);

/// Needs stable Rust and root, installs nothing.
const STEPS: &[Step] = &[
    ("format", |_| cargo(&["fmt", "--all", "--check"])),
    ("lint", |_| cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])),
    ("unit tests", |_| cargo(&["test", "--workspace", "--exclude", "tests", "--locked"])),
    ("live tests", |retries| on_the_kernel(retries, &["--lib", "--bins", "--test", "live"], 64)),
];

/// What `--all` adds: steps that install what they need.
const EXTRA: &[Step] = &[
    ("BPF toolchain", |_| setup::run()),
    ("kernel programs are as committed", |_| ebpf::run(true)),
    ("clients and servers", |_| packages::install()),
    ("tests with real clients", |retries| on_the_kernel(retries, &["--test", "clients"], 48)),
    ("alerts and dashboard", |retries| on_the_kernel(retries, &["--test", "deploy"], 8)),
    ("a healthy host for a minute", |_| healthy(60)),
    ("the agent under load for two minutes", |_| under_load(120)),
    ("the package", |_| package()),
    ("fuzzers, ten seconds each", |_| fuzz::run(&[], 10)),
];

/// What `--soak` adds: steps that take long.
const SOAK: &[Step] = &[
    ("clients and servers", |_| packages::install()),
    ("a healthy host for five minutes", |_| healthy(300)),
    ("the agent under load for half an hour", |_| under_load(1800)),
];

/// Runs the steps; a failed one does not keep the others from running.
pub fn run(all: bool, extra: bool, soak: bool, retries: u32) -> Result<()> {
    ensure!(is_root(), "the tests read the kernel: run `cargo xtask test` as root");
    let steps: Vec<&Step> = match (all, extra, soak) {
        (true, ..) => STEPS.iter().chain(EXTRA).collect(),
        (_, true, _) => EXTRA.iter().collect(),
        (_, _, true) => SOAK.iter().collect(),
        _ => STEPS.iter().collect(),
    };
    let mut retries = Retries { allowed: retries, needed: Vec::new() };
    let mut results: Vec<(&str, bool, Duration)> = Vec::new();
    for (name, step) in steps {
        eprintln!("== {name}");
        let begun = Instant::now();
        let result = step(&mut retries);
        if let Err(error) = &result {
            eprintln!("xtask: {name}: {error:#}");
        }
        results.push((name, result.is_ok(), begun.elapsed()));
    }
    eprintln!();
    for (name, passed, took) in &results {
        eprintln!("{} {name} ({:.0}s)", if *passed { "ok    " } else { "FAILED" }, took.as_secs_f64());
    }
    for test in &retries.needed {
        eprintln!("       {test} failed and passed when it was run again");
    }
    let passed = results.iter().filter(|(_, passed, _)| *passed).count();
    println!("{passed} passed, {} failed", results.len() - passed);
    if passed < results.len() {
        bail!("not everything holds");
    }
    Ok(())
}

fn cargo(args: &[&str]) -> Result<()> {
    cmd::run(command("cargo", args))
}

/// The agent under load, so many seconds long.
fn under_load(seconds: u32) -> Result<()> {
    let mut tests = prepared(&["--test", "soak"])?;
    tests.args(["--", "--nocapture"]).env("TRACER_SOAK_SECONDS", seconds.to_string());
    cmd::run(tests)
}

/// The package, in a Debian of its own.
fn package() -> Result<()> {
    packages::install_these(&["debootstrap", "fish", "man-db", "zsh"])?;
    dist::tested(|variables| {
        let mut tests = prepared(&["--test", "package"])?;
        tests.envs(variables.iter().map(|(name, path)| (*name, path)));
        cmd::run(tests)
    })
}

/// The healthy host's test, so many seconds long.
fn healthy(seconds: u32) -> Result<()> {
    let mut tests = prepared(&["--test", "healthy"])?;
    tests.args(["--", "--nocapture"]).env("TRACER_HEALTHY_SECONDS", seconds.to_string());
    cmd::run(tests)
}

/// Some of the tests in `tests/`, against this machine's kernel and the released tracer, so many at a time: most of
/// them sleep most of the time, and those that must be alone wait until the others are through.
fn on_the_kernel(retries: &mut Retries, which: &[&str], at_a_time: usize) -> Result<()> {
    retries.run(|| prepared(which), &["--test-threads", &at_a_time.to_string()])
}

/// `cargo test` of these targets in `tests/`, with the released tracer.
fn prepared(which: &[&str]) -> Result<Command> {
    cargo(&["build", "--release", "--locked", "--package", "tracer"])?;
    cargo(&["build", "--locked", "--package", "tests", "--bins"])?;
    let target = root().join("target");
    let mut tests = command("cargo", &["test", "--locked", "--package", "tests"]);
    tests.args(which);
    tests.env("TRACER_BIN", target.join("release/tracer")).env("TRACER_WAITER", target.join("debug/waiter"));
    Ok(tests)
}
