//! Where do the kernels come from? Debian's archive, through apt, by the mirror this machine already uses; kept in a
//! cache outside the tree.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use super::arch::{AARCH64, Arch, X86_64};
use crate::cmd::{self, command, is_root};

/// A kernel of the matrix.
pub struct Kernel {
    /// Also the cache's name for it.
    pub name: &'static str,
    pub arch: &'static Arch,
    suite: Suite,
    /// The package that depends on the newest image.
    package: &'static str,
}

/// Where apt finds a package.
#[derive(Clone, Copy)]
struct Suite {
    name: &'static str,
    /// The label of its archive, as `Release` files have it.
    archive: &'static str,
}

const BULLSEYE_SECURITY: Suite = Suite { name: "bullseye-security", archive: "Debian-Security" };
const BOOKWORM: Suite = Suite { name: "bookworm", archive: "Debian" };
const BOOKWORM_SECURITY: Suite = Suite { name: "bookworm-security", archive: "Debian-Security" };
const TRIXIE_BACKPORTS: Suite = Suite { name: "trixie-backports", archive: "Debian" };

pub static V5_10: Kernel =
    Kernel { name: "5.10", arch: &X86_64, suite: BULLSEYE_SECURITY, package: "linux-image-cloud-amd64" };
pub static V6_1: Kernel =
    Kernel { name: "6.1", arch: &X86_64, suite: BOOKWORM_SECURITY, package: "linux-image-cloud-amd64" };
pub static V6_12: Kernel =
    Kernel { name: "6.12", arch: &X86_64, suite: BOOKWORM_SECURITY, package: "linux-image-6.12-cloud-amd64" };
pub static V7: Kernel =
    Kernel { name: "7", arch: &X86_64, suite: TRIXIE_BACKPORTS, package: "linux-image-cloud-amd64" };
pub static V6_12_AARCH64: Kernel = Kernel {
    name: "6.12-aarch64",
    arch: &AARCH64,
    suite: BOOKWORM_SECURITY,
    package: "linux-image-6.12-cloud-arm64",
};

/// Installs the emulator if it is not there.
pub fn emulator(arch: &Arch) -> Result<()> {
    install_if_missing(Path::new(arch.qemu), &[arch.package])
}

/// Installs packages if this program of theirs is not there.
pub fn install_if_missing(program: &Path, packages: &[&str]) -> Result<()> {
    if program.exists() {
        return Ok(());
    }
    let names = packages.join(" and ");
    ensure!(is_root(), "installing {names} needs root: run `cargo xtask vm` as root");
    let mut install = command("apt-get", &["-o", "DPkg::Lock::Timeout=300", "install", "-q", "-y"]);
    install.arg("--no-install-recommends").args(packages).env("DEBIAN_FRONTEND", "noninteractive");
    cmd::run(install).with_context(|| format!("cannot install {names}: is `apt-get update` due?"))
}

/// Packages of Debian 12 for a processor, unpacked into one folder; fetched if it is not cached.
pub fn unpacked(arch: &Arch, name: &str, packages: &[&str]) -> Result<PathBuf> {
    let path = cache()?.join(format!("{name}-{}", arch.debian));
    if path.exists() {
        return Ok(path);
    }
    let options = second_list(arch, BOOKWORM)?;
    let unfinished = path.with_extension("unpacked");
    // What an earlier run left that was interrupted.
    let _ = fs::remove_dir_all(&unfinished);
    for package in packages {
        unpack(&options, package, &unfinished).with_context(|| format!("cannot fetch {package}"))?;
    }
    fs::rename(&unfinished, &path).with_context(|| format!("cannot keep {}", path.display()))?;
    Ok(path)
}

/// A static busybox. Not installed: the package excludes the machine's own.
pub fn busybox(arch: &Arch) -> Result<PathBuf> {
    let path = cache()?.join(format!("busybox-{}", arch.debian));
    if !path.exists() {
        let options = second_list(arch, BOOKWORM)?;
        let files = ["bin/busybox".to_owned(), "usr/bin/busybox".to_owned()];
        download(&options, "busybox-static", &files, &path).context("cannot fetch busybox")?;
    }
    Ok(path)
}

/// The kernel's image; fetched if it is not cached, or `again`.
pub fn image(kernel: &Kernel, again: bool) -> Result<PathBuf> {
    let path = cache()?.join(format!("vmlinuz-{}", kernel.name));
    if path.exists() && !again {
        return Ok(path);
    }
    fetch(kernel, &path).with_context(|| format!("cannot fetch the kernel {}", kernel.name))?;
    Ok(path)
}

fn cache() -> Result<PathBuf> {
    let dir = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
        (Some(cache), _) if !cache.is_empty() => PathBuf::from(cache),
        (_, Some(home)) => Path::new(&home).join(".cache"),
        _ => bail!("neither XDG_CACHE_HOME nor HOME says where kernels can be kept"),
    };
    let dir = dir.join("tracer-vm");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}

fn fetch(kernel: &Kernel, to: &Path) -> Result<()> {
    let options = second_list(kernel.arch, kernel.suite)?;
    let depends = cmd::output(apt("apt-cache", &options, &["depends", kernel.package]))?;
    // "Depends: linux-image-6.1.0-56-cloud-amd64": the one whose name goes on with a version.
    let image = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: linux-image-"))
        .find(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        .with_context(|| format!("{} depends on no image", kernel.package))?;
    // Newer packages keep the image itself in a package of its own.
    let binary = format!("linux-binary-{image}");
    let known = cmd::output(apt("apt-cache", &options, &["pkgnames", &binary]))?;
    let package =
        if known.lines().any(|line| line == binary) { binary } else { format!("linux-image-{image}") };
    let files = [format!("boot/vmlinuz-{image}"), format!("usr/lib/modules/{image}/vmlinuz")];
    download(&options, &package, &files, to)
}

/// Options that make apt look at one suite only, with lists and caches of its own, which are brought up to date: the
/// machine's stay as they are.
fn second_list(arch: &Arch, suite: Suite) -> Result<Vec<String>> {
    let archives = cmd::output(command(
        "apt-get",
        &["indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages", "Origin: Debian"],
    ))?;
    let mirror = archives
        .lines()
        .find_map(|line| line.strip_prefix(suite.archive)?.strip_prefix(' '))
        .with_context(|| format!("this machine's apt has no source labelled {}: add one", suite.archive))?;
    let dir = cache()?.join(format!("{}-{}", suite.name, arch.debian));
    for made in ["lists/partial", "archives/partial"] {
        fs::create_dir_all(dir.join(made)).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    let (sources, status) = (dir.join("sources.list"), dir.join("status"));
    fs::write(&sources, format!("deb {mirror} {} main\n", suite.name))?;
    fs::write(&status, "")?;
    let option = |name: &str, value: &Path| format!("{name}={}", value.display());
    let options = vec![
        format!("APT::Architecture={}", arch.debian),
        format!("APT::Architectures={}", arch.debian),
        // As root apt drops its rights to fetch, and then may not write into the cache.
        "APT::Sandbox::User=root".to_owned(),
        // Suites that are no longer updated expire.
        "Acquire::Check-Valid-Until=false".to_owned(),
        option("Dir::Etc::sourcelist", &sources),
        "Dir::Etc::sourceparts=-".to_owned(),
        option("Dir::State::lists", &dir.join("lists")),
        option("Dir::State::status", &status),
        option("Dir::Cache", &dir),
    ];
    cmd::run(apt("apt-get", &options, &["update", "-q"]))?;
    Ok(options)
}

fn apt(program: &str, options: &[String], args: &[&str]) -> Command {
    let mut apt = command(program, &[]);
    for option in options {
        apt.arg("-o").arg(option);
    }
    apt.args(args);
    apt
}

/// Takes out of a package the one of these files that it has.
fn download(options: &[String], package: &str, files: &[String], to: &Path) -> Result<()> {
    let dir = to.with_file_name(format!("{package}.unpacked"));
    // What an earlier run left that was interrupted.
    let _ = fs::remove_dir_all(&dir);
    unpack(options, package, &dir)?;
    let from = files
        .iter()
        .map(|file| dir.join(file))
        .find(|path| path.exists())
        .with_context(|| format!("{package} has no {}", files.join(" and no ")))?;
    fs::rename(&from, to).with_context(|| format!("cannot keep {}", to.display()))?;
    fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))
}

/// Fetches a package and unpacks it into a folder, which may have others in it.
fn unpack(options: &[String], package: &str, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let mut apt = apt("apt-get", options, &["download", "-q", package]);
    cmd::run({
        apt.current_dir(dir);
        apt
    })?;
    let archive = fs::read_dir(dir)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt downloaded no package {package}"))?;
    let mut unpack = command("dpkg-deb", &["--extract"]);
    unpack.arg(&archive).arg(dir);
    cmd::run(unpack)?;
    fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))
}
