//! `cargo xtask ebpf`: compiles the kernel programs to the committed object, the same bytes on every machine.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    cmd::{command, output, root, run as run_command},
    setup,
    sources::{self, OBJECT},
};

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
        sources::check()?;
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
    if check { Ok(()) } else { sources::write() }
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
    let mut flags: Vec<String> =
        ["--cfg", "bpf_target_arch=\"x86_64\"", "-Cdebuginfo=2", "-Clinker=bpf-linker", "-Clink-arg=--btf"]
            .map(String::from)
            .to_vec();
    flags.extend(package_names()?);
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
    let object = fs::read(&stripped).with_context(|| format!("cannot read {}", stripped.display()))?;
    ensure_no_path(&object, &root())?;
    if let Some(home) = std::env::var_os("HOME").filter(|home| home.len() > 1) {
        ensure_no_path(&object, Path::new(&home))?;
    }
    Ok(object)
}

/// Flags that call each dependency's folder by the package's name and version, wherever cargo keeps it.
///
/// `trim-paths` alone leaves the name of the registry's folder in the object, or the whole path where sources are
/// vendored or come from a mirror: other bytes on such a machine. The compiler takes the last rule that fits.
fn package_names() -> Result<Vec<String>> {
    let metadata =
        output(command("cargo", &["metadata", "--locked", "--all-features", "--format-version", "1"]))?;
    let metadata: serde_json::Value =
        serde_json::from_str(&metadata).context("cannot read what `cargo metadata` says")?;
    let packages = metadata["packages"].as_array().context("`cargo metadata` names no packages")?;
    Ok(packages
        .iter()
        .filter(|package| !package["source"].is_null())
        .filter_map(|package| {
            let dir = Path::new(package["manifest_path"].as_str()?).parent()?.display();
            let (name, version) = (package["name"].as_str()?, package["version"].as_str()?);
            Some(format!("--remap-path-prefix={dir}={name}-{version}"))
        })
        .collect())
}

/// The object must not tell where it was made.
fn ensure_no_path(object: &[u8], path: &Path) -> Result<()> {
    let path = path.as_os_str().as_encoded_bytes();
    ensure!(
        !object.windows(path.len()).any(|bytes| bytes == path),
        "the object names this machine's folder {}: a rule of `package_names` or `trim-paths` misses it",
        String::from_utf8_lossy(path)
    );
    Ok(())
}
