//! `cargo xtask ebpf`: compiles the kernel programs to the committed object, the same bytes on every machine.

use std::fs;

use anyhow::{Context, Result, bail, ensure};

use crate::{
    cmd::{command, root, run as run_command},
    setup,
};

const OBJECT: &str = "tracer/bpf/tracer.bpf.o";
const TARGET: &str = "bpfel-unknown-none";

/// Compiles; with `check`, only compares.
pub fn run(check: bool) -> Result<()> {
    if let Some(missing) = setup::missing() {
        bail!("{missing} is missing: `cargo xtask setup` installs it");
    }
    let built = build()?;
    let committed = root().join(OBJECT);
    let same = fs::read(&committed).is_ok_and(|bytes| bytes == built);
    if check {
        ensure!(same, "{OBJECT} is not what the sources give: run `cargo xtask ebpf` and commit it");
        eprintln!("{OBJECT} is what the sources give ({} bytes)", built.len());
    } else if same {
        eprintln!("{OBJECT} is up to date ({} bytes)", built.len());
    } else {
        if let Some(dir) = committed.parent() {
            fs::create_dir_all(dir)?;
        }
        fs::write(&committed, &built).with_context(|| format!("cannot write {OBJECT}"))?;
        eprintln!("{OBJECT} written ({} bytes)", built.len());
    }
    Ok(())
}

fn build() -> Result<Vec<u8>> {
    let nightly = setup::nightly().context("the pinned compiler is missing: run `cargo xtask setup`")?;
    let dir = root().join("target/ebpf");
    let mut cargo = command(
        "rustup",
        &[
            "run",
            nightly,
            "cargo",
            "build",
            "--locked",
            "--package",
            "tracer-ebpf",
            "--features",
            "kernel",
            "--bin",
            "tracer-bpf",
            "--target",
            TARGET,
            "--release",
            "-Z",
            "build-std=core",
            // Without it the object carries the paths of the machine that made it.
            "-Z",
            "trim-paths",
            "--config",
            "profile.release.trim-paths=\"all\"",
            "--config",
            "profile.release.strip=\"none\"",
            "--config",
            "profile.release.lto=false",
            "--config",
            "profile.release.codegen-units=1",
            "--config",
            "profile.release.panic=\"abort\"",
        ],
    );
    // The architecture only chooses types of aya's bindings that tracer does not use.
    let flags =
        ["--cfg", "bpf_target_arch=\"x86_64\"", "-Cdebuginfo=2", "-Clinker=bpf-linker", "-Clink-arg=--btf"];
    cargo
        .arg("--target-dir")
        .arg(&dir)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env_remove("RUSTFLAGS")
        // `cargo xtask` itself runs under the stable toolchain and says so to its children.
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO")
        .env("PATH", setup::path());
    run_command(cargo)?;
    let linked = dir.join(TARGET).join("release/tracer-bpf");
    let stripped = dir.join("tracer.bpf.o");
    // BTF stays, it is no debug section; DWARF is five times as large as all the rest.
    let mut strip = command(&format!("{}/llvm-objcopy", setup::llvm_bin()), &["--strip-debug"]);
    strip.arg(&linked).arg(&stripped);
    run_command(strip)?;
    fs::read(&stripped).with_context(|| format!("cannot read {}", stripped.display()))
}
