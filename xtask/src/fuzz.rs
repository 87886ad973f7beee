//! `cargo xtask fuzz`: each fuzzer for a while, from the seeds in `fuzz/seeds` and what earlier runs have found.

use std::{fs, path::PathBuf, process::Command, sync::Mutex, thread, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{
    cmd::{self, command, output, root},
    setup,
};

const CARGO_FUZZ: &str = "0.13.2";
/// An input that takes longer hangs, seconds.
const HANGS: &str = "10";

/// From so many seconds a fuzzer on, to build it optimised makes up for the time that takes.
const WORTH_IT: u64 = 60;

/// Runs these, or all, so long each, two at a time.
pub fn run(names: &[String], seconds: u64) -> Result<()> {
    let all = targets()?;
    for name in names {
        ensure!(all.contains(name), "there is no fuzzer {name}: there are {}", all.join(", "));
    }
    let chosen: Vec<String> =
        all.into_iter().filter(|name| names.is_empty() || names.contains(name)).collect();
    build(seconds)?;
    let (left, failed) = (Mutex::new(chosen.clone()), Mutex::new(Vec::new()));
    let next = || left.lock().ok()?.pop();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(name) = next() {
                    match one(&name, Duration::from_secs(seconds)) {
                        Ok(said) => eprintln!("fuzz: {name}: {said}"),
                        Err(error) => {
                            eprintln!("fuzz: {name}: {error:#}");
                            failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(name);
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_default();
    ensure!(failed.is_empty(), "findings of {}: inputs are in target/fuzz", failed.join(", "));
    println!("{} fuzzers, {seconds} s each: nothing found", chosen.len());
    Ok(())
}

fn targets() -> Result<Vec<String>> {
    let files = fs::read_dir(root().join("fuzz/fuzz_targets")).context("no fuzzers")?;
    let mut names: Vec<String> =
        files.flatten().filter_map(|file| Some(file.path().file_stem()?.to_str()?.to_owned())).collect();
    names.sort();
    Ok(names)
}

fn tools() -> PathBuf {
    root().join("target/tools")
}

/// Installs cargo-fuzz, once.
fn install() -> Result<()> {
    let mut version = Command::new(tools().join("bin/cargo-fuzz"));
    version.arg("--version");
    if !output(version).is_ok_and(|said| said.contains(CARGO_FUZZ)) {
        let mut install =
            command("cargo", &["install", "--quiet", "cargo-fuzz", "--locked", "--version", CARGO_FUZZ]);
        install.arg("--root").arg(tools());
        cmd::run(install)?;
    }
    Ok(())
}

/// Builds all of them, for runs of so many seconds. Without a sanitizer: there is hardly any unsafe code, and overflow and
/// out-of-bounds panic by themselves.
pub fn build(seconds: u64) -> Result<()> {
    install()?;
    let nightly = setup::nightly().context("fuzzers need the nightly compiler: cargo xtask setup")?;
    let mut build =
        command("cargo", &[&format!("+{nightly}"), "fuzz", "build", "--sanitizer", "none", "--dev"]);
    build.env("PATH", format!("{}:{}", tools().join("bin").display(), setup::path()));
    build.env("CARGO_TARGET_DIR", made());
    if seconds < WORTH_IT {
        build.env("CARGO_PROFILE_DEV_OPT_LEVEL", "0");
    }
    cmd::run(build)
}

fn made() -> PathBuf {
    root().join("target/fuzz/build")
}

fn one(name: &str, long: Duration) -> Result<String> {
    let corpus = root().join("target/fuzz/corpus").join(name);
    fs::create_dir_all(&corpus).context("cannot make target/fuzz")?;
    let triple = output(command("rustc", &["--print", "host-tuple"]))?;
    let mut fuzzer = Command::new(made().join(triple.trim()).join("debug").join(name));
    fuzzer.arg(&corpus);
    let seeds = root().join("fuzz/seeds").join(name);
    if seeds.exists() {
        fuzzer.arg(seeds);
    }
    fuzzer.args([
        &format!("-max_total_time={}", long.as_secs()),
        &format!("-timeout={HANGS}"),
        &format!("-artifact_prefix={}-", root().join("target/fuzz").join(name).display()),
        "-rss_limit_mb=1024",
        "-use_value_profile=1",
        "-verbosity=0",
        "-print_final_stats=1",
    ]);
    let ran = fuzzer.output().with_context(|| format!("cannot run the fuzzer {name}"))?;
    let said = String::from_utf8_lossy(&ran.stderr);
    ensure!(ran.status.success(), "{}\n{said}", ran.status);
    let units = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    Ok(format!("{} inputs", units.unwrap_or_default().trim()))
}
