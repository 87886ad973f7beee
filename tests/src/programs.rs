//! Where are the programs under test? The environment says, or they lie beside the test binary.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// tracer: `TRACER_BIN`, else beside the test binary, else the release build of the same target directory.
pub fn tracer() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    require_root();
    PATH.get_or_init(|| find("tracer", "TRACER_BIN", "cargo build --release -p tracer"))
}

/// The helper that blocks: `TRACER_WAITER`, else beside the test binary.
pub fn waiter_program() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    require_root();
    PATH.get_or_init(|| find("waiter", "TRACER_WAITER", "cargo build -p tests"))
}

/// Fails a test that does not run as root: BPF and other processes' descriptors need it, and a skipped test
/// would look like a passed one.
pub fn require_root() {
    // SAFETY: geteuid has no arguments and cannot fail.
    let user = unsafe { libc::geteuid() };
    assert!(user == 0, "these tests need root (they run as user {user}): sudo -E cargo test -p tests");
}

/// A program of a Debian package. Those of other origin, which may come first in PATH, behave otherwise.
pub fn debian_program(name: &str) -> PathBuf {
    let places = ["/usr/bin", "/usr/sbin"].map(|place| Path::new(place).join(name));
    match places.into_iter().find(|path| path.is_file()) {
        Some(path) => path,
        None => panic!("{name} is not installed: `cargo xtask test --all` installs its package"),
    }
}

fn find(name: &str, variable: &str, build: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        let path = PathBuf::from(path);
        assert!(path.is_file(), "{variable} names {}, which is no file", path.display());
        return path;
    }
    let own = std::env::current_exe().expect("a test knows its own path");
    let here = own.parent().expect("a file has a directory");
    // cargo puts test binaries into target/PROFILE/deps; in a VM everything lies in one directory.
    let mut places = vec![here.to_owned()];
    if let Some(profile) = here.parent() {
        places.push(profile.to_owned());
        places.extend(profile.parent().map(|target| target.join("release")));
    }
    match places.iter().map(|place| place.join(name)).find(|path| path.is_file()) {
        Some(path) => path,
        None => panic!("no {name} in {places:?}: build it with `{build}`, or name it with {variable}"),
    }
}

/// What `tracer doctor` says of this kernel.
pub fn doctor() -> serde_json::Value {
    let output = Command::new(tracer()).args(["doctor", "--json"]).output().expect("tracer starts");
    serde_json::from_slice(&output.stdout).expect("one object")
}
