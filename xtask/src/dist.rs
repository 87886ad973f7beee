//! `cargo xtask dist`: a static binary and a Debian package, in `target/dist`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{
    cmd::{self, command, output, root},
    vm,
};

/// The tool that makes packages, installed beside what is built.
const CARGO_DEB: &str = "3.8.0";
const TARGET: &str = "x86_64-unknown-linux-musl";

/// Where everything goes.
pub fn dir() -> PathBuf {
    root().join("target/dist")
}

/// Builds all of it.
pub fn run() -> Result<()> {
    made().map(|_| ())
}

/// The binary and the package, where people look for them; the package's name.
fn made() -> Result<PathBuf> {
    let tracer = build()?;
    fs::copy(&tracer, dir().join("tracer")).context("cannot copy the binary")?;
    let package = deb(None)?;
    println!("{}\n{}", dir().join("tracer").display(), package.display());
    Ok(package)
}

/// The static binary, and what packages have beside it.
///
/// # Errors
/// It cannot be built.
pub fn build() -> Result<PathBuf> {
    let generated = dir().join("generated");
    fs::create_dir_all(&generated).context("cannot make target/dist")?;
    vm::static_target(TARGET)?;
    let mut cargo = command(
        "cargo",
        &["build", "--quiet", "--package", "tracer", "--release", "--locked", "--target", TARGET],
    );
    cargo.env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    cmd::run(cargo)?;
    let tracer = root().join("target").join(TARGET).join("release/tracer");
    let mut generate = Command::new(&tracer);
    generate.arg("generate").arg(&generated);
    cmd::run(generate)?;
    Ok(tracer)
}

fn tools() -> PathBuf {
    root().join("target/tools")
}

fn tool() -> PathBuf {
    tools().join("bin/cargo-deb")
}

/// Installs the tool that makes packages, once.
fn install() -> Result<()> {
    if has(&tool()) {
        return Ok(());
    }
    let mut install =
        command("cargo", &["install", "--quiet", "cargo-deb", "--locked", "--version", CARGO_DEB]);
    install.arg("--root").arg(tools());
    cmd::run(install)
}

/// The package, of this version or of what the manifest says.
fn deb(version: Option<&str>) -> Result<PathBuf> {
    install()?;
    let program = tool();
    let mut make = Command::new(&program);
    make.current_dir(root()).args([
        "--package",
        "tracer",
        "--target",
        TARGET,
        "--no-build",
        "--no-strip",
        "--quiet",
    ]);
    make.arg("--output").arg(dir()).args(version.iter().flat_map(|version| ["--deb-version", version]));
    let made = output(make)?;
    let path = root().join(made.lines().last().unwrap_or_default().trim());
    ensure!(path.extension().is_some_and(|ending| ending == "deb"), "cargo-deb says {made:?}");
    Ok(path)
}

fn has(program: &Path) -> bool {
    let mut version = Command::new(program);
    version.arg("--version");
    program.exists() && output(version).is_ok_and(|said| said.contains(CARGO_DEB))
}

/// The package, the same of a later version, and the tests that install them.
pub fn tested(run: impl FnOnce(&[(&str, PathBuf)]) -> Result<()>) -> Result<()> {
    let (package, later) = (made()?, deb(Some("999.0-1"))?);
    run(&[("TRACER_DEB", package), ("TRACER_DEB_LATER", later), ("TRACER_STATIC", dir().join("tracer"))])
}
