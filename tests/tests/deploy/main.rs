//! Does what is in `deploy/` work with the programs it is for? With Debian's Prometheus and Alertmanager, which `cargo xtask
//! test --all` installs; a missing one is a failure.

mod alerts;
mod dashboard;
mod rules;

use std::path::PathBuf;
use std::process::Command;

/// A file of the repository.
fn file(path: &str) -> PathBuf {
    let tests = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the repository").join(path)
}

/// Its text.
fn read(path: &str) -> String {
    std::fs::read_to_string(file(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Runs one of Debian's programs, which must succeed; what it printed.
fn succeed(program: &str, args: &[&str]) -> String {
    let output = Command::new(tests::debian_program(program)).args(args).output().expect("it starts");
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{program} {args:?}: {}\n{text}", output.status);
    text
}

/// Names of the metrics of `docs/METRICS.md`, with what a histogram adds.
fn known_metrics() -> Vec<String> {
    let page = read("docs/METRICS.md");
    let mut names = Vec::new();
    for row in page.lines().filter_map(|line| line.strip_prefix("| `tracer_")) {
        let (name, rest) = row.split_once('`').expect("a name");
        names.push(format!("tracer_{name}"));
        if rest.starts_with(" | histogram") {
            names.extend(["bucket", "sum", "count"].map(|part| format!("tracer_{name}_{part}")));
        }
    }
    assert!(names.len() > 10, "{names:?}");
    names
}

/// Names of metrics in an expression: those of tracer's own, and what its rules record.
fn metrics_in(expression: &str) -> Vec<String> {
    expression
        .split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_' || letter == ':'))
        .filter(|word| word.starts_with("tracer_") || word.contains(":tracer_"))
        .map(str::to_owned)
        .collect()
}
