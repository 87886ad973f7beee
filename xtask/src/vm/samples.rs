//! Programs whose stacks are read in the guests: in C and Go, built here for the guest's processor, and Debian's Python for it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{arch::Arch, cpio::Cpio, kernels};
use crate::cmd::{self, command, root};

/// Where they lie in the guest.
const PLACE: &str = "samples";
/// The flavours of the program in C, as `tests/tests/live/stacks.rs` has them.
const FLAVOURS: &[(&str, &[&str])] = &[
    ("-O0", &["-O0"]),
    ("-O2", &["-O2", "-fomit-frame-pointer"]),
    ("static", &["-O2", "-static"]),
    ("static-pie", &["-O2", "-static-pie"]),
];
/// Those of the program in Go, with options of its linker.
const GO_FLAVOURS: &[(&str, &str)] = &[("", ""), ("-stripped", "-s -w")];
/// Python and what it is linked to.
const PYTHON: &[&str] = &["python3.11-minimal", "libpython3.11-minimal", "libc6", "libexpat1", "zlib1g"];
/// Folders of these packages that no test needs.
const LEFT_OUT: &[&str] = &["share", "gconv", "audit", "perl-base", "pydist"];

/// What goes into each guest of a processor.
pub struct Samples {
    programs: Vec<(String, PathBuf)>,
    /// A folder that is laid over the guest's root.
    debian: PathBuf,
}

/// Installs the compiler for the guest's processor, if it is not there.
pub fn install(arch: &Arch) -> Result<()> {
    kernels::install_if_missing(&Path::new("/usr/bin").join(arch.gcc), arch.gcc_packages)?;
    kernels::install_if_missing(Path::new("/usr/bin/go"), &["golang-go"])?;
    kernels::unpacked(arch, "python", PYTHON).map(drop)
}

/// Builds and fetches them.
pub fn make(arch: &Arch) -> Result<Samples> {
    install(arch)?;
    let sources = root().join("tests/tests/live/samples");
    let made = root().join("target/vm").join(format!("samples-{}", arch.debian));
    fs::create_dir_all(&made).with_context(|| format!("cannot create {}", made.display()))?;
    let mut programs = Vec::new();
    for (flavour, options) in FLAVOURS {
        let name = format!("blocks{flavour}");
        let program = made.join(&name);
        let mut gcc = Command::new(arch.gcc);
        gcc.arg(sources.join("blocks.c")).arg("-o").arg(&program).args(*options).arg("-pthread");
        cmd::run(gcc)?;
        programs.push((name, program));
    }
    for (flavour, linker) in GO_FLAVOURS {
        let name = format!("waits-go{flavour}");
        let program = made.join(&name);
        let mut go = command("go", &["build", "-ldflags", linker, "-o"]);
        go.arg(&program).arg(sources.join("waits.go"));
        go.envs([("GOARCH", arch.debian), ("GO111MODULE", "off"), ("CGO_ENABLED", "0")]);
        go.env("GOCACHE", made.join("cache"));
        cmd::run(go)?;
        programs.push((name, program));
    }
    Ok(Samples { programs, debian: kernels::unpacked(arch, "python", PYTHON)? })
}

impl Samples {
    /// Puts them into a guest's root file system.
    pub fn add_to(&self, cpio: &mut Cpio) -> Result<()> {
        cpio.dir(PLACE);
        for (name, path) in &self.programs {
            let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            cpio.program(&format!("{PLACE}/{name}"), &bytes);
        }
        add_folder(cpio, &self.debian, "")?;
        cpio.link("usr/bin/python3", "python3.11");
        Ok(())
    }
}

/// All that is in a folder.
fn add_folder(cpio: &mut Cpio, folder: &Path, inside: &str) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().and_then(|name| name.to_str()).context("a name that is no text")?;
        if LEFT_OUT.contains(&name) {
            continue;
        }
        let place = if inside.is_empty() { name.to_owned() } else { format!("{inside}/{name}") };
        let kind = fs::symlink_metadata(&path)?.file_type();
        if kind.is_symlink() {
            cpio.link(&place, fs::read_link(&path)?.to_str().context("a link that is no text")?);
        } else if kind.is_dir() {
            cpio.dir(&place);
            add_folder(cpio, &path, &place)?;
        } else {
            cpio.program(
                &place,
                &fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?,
            );
        }
    }
    Ok(())
}
