//! `cargo xtask setup`: installs what compiling the kernel programs needs, and nothing twice.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::cmd::{self, command, is_root, output};

/// The compiler the committed object is made with.
const NIGHTLY_COMMIT: &str = "e50aa6fba4e63ab34c72bf9acfd2c307c1155d1a";
/// The toolchain that has it, where `nightly` itself is another.
const NIGHTLY_DATED: &str = "nightly-2026-05-20";
const LINKER_VERSION: &str = "0.13.0";
const LLVM: &str = "/usr/lib/llvm-22";

/// LLVM's programs.
pub fn llvm_bin() -> String {
    format!("{LLVM}/bin")
}

/// `PATH` with LLVM's programs first.
pub fn path() -> String {
    format!("{}:{}", llvm_bin(), std::env::var("PATH").unwrap_or_default())
}

/// The toolchain to compile the kernel programs with, if it is installed.
pub fn nightly() -> Option<&'static str> {
    ["nightly", NIGHTLY_DATED].into_iter().find(|toolchain| {
        output(command("rustc", &[&format!("+{toolchain}"), "-vV"]))
            .is_ok_and(|text| text.contains(NIGHTLY_COMMIT))
    })
}

/// What is missing, in words; `None` if nothing is.
pub fn missing() -> Option<String> {
    let Some(nightly) = nightly() else { return Some(format!("the toolchain {NIGHTLY_DATED}")) };
    if !has_source(nightly) {
        return Some(format!("rust-src of {nightly}"));
    }
    if !has_llvm() {
        return Some("LLVM 22".into());
    }
    (!has_linker()).then(|| format!("bpf-linker {LINKER_VERSION}"))
}

/// Installs what is missing, saying each step.
pub fn run() -> Result<()> {
    let nightly = match nightly() {
        Some(nightly) => {
            eprintln!("setup: compiler {nightly} ({}): present", &NIGHTLY_COMMIT[..9]);
            nightly
        }
        None => {
            eprintln!("setup: compiler {NIGHTLY_DATED}: installing");
            cmd::run(command("rustup", &["toolchain", "install", NIGHTLY_DATED, "--profile", "minimal"]))?;
            nightly()
                .with_context(|| format!("{NIGHTLY_DATED} is not the compiler of commit {NIGHTLY_COMMIT}"))?
        }
    };
    step("rust-src", has_source(nightly), || {
        cmd::run(command("rustup", &["component", "add", "rust-src", "--toolchain", nightly]))
    })?;
    packages()?;
    step(&format!("bpf-linker {LINKER_VERSION}"), has_linker(), || {
        let mut install = command(
            "cargo",
            &[
                "install",
                "bpf-linker",
                "--version",
                LINKER_VERSION,
                "--no-default-features",
                "--features",
                "llvm-22",
                "--locked",
                "--force",
            ],
        );
        install.env("PATH", path());
        cmd::run(install)
    })
}

/// What of it is Debian's.
pub fn packages() -> Result<()> {
    step("LLVM 22", has_llvm(), || {
        ensure!(is_root(), "installing packages needs root: run `cargo xtask setup` as root");
        let apt = |args: &[&str]| {
            let mut apt = command("apt-get", args);
            apt.env("DEBIAN_FRONTEND", "noninteractive");
            cmd::run(apt)
        };
        apt(&["update", "-q"])?;
        apt(&["install", "-q", "-y", "--no-install-recommends", "llvm-22-dev", "libpolly-22-dev"])
    })
}

fn step(what: &str, present: bool, install: impl FnOnce() -> Result<()>) -> Result<()> {
    if present {
        eprintln!("setup: {what}: present");
        return Ok(());
    }
    eprintln!("setup: {what}: installing");
    install().with_context(|| format!("cannot install {what}"))
}

fn has_source(nightly: &str) -> bool {
    output(command("rustc", &[&format!("+{nightly}"), "--print", "sysroot"])).is_ok_and(|sysroot| {
        Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs").exists()
    })
}

fn has_llvm() -> bool {
    Path::new(LLVM).join("bin/llvm-config").exists() && Path::new(LLVM).join("lib/libPolly.a").exists()
}

fn has_linker() -> bool {
    output(command("bpf-linker", &["--version"])).is_ok_and(|text| text.contains(LINKER_VERSION))
}
