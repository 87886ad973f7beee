//! What did one run of `tracer why` say?

use std::process::{Command, Output};

use serde_json::Value;

use crate::programs;

/// Exit code, standard output and standard error of `tracer why` with these arguments.
pub fn why_run(args: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(programs::tracer()).arg("why").args(args).output().expect("tracer starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code(), text(stdout), text(stderr))
}

/// The object of `tracer why --json`; panics unless it exits 0 and prints just that.
pub fn why(id: u32) -> Value {
    let (code, stdout, stderr) = why_run(&["--json", &id.to_string()]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    assert_eq!(stdout.lines().count(), 1, "one object: {stdout}");
    serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"))
}

/// What people see: it fits a screen.
pub fn why_page(id: u32) -> String {
    let (code, stdout, stderr) = why_run(&[&id.to_string()]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    assert!(stdout.lines().count() <= 40, "{stdout}");
    assert!(stdout.lines().all(|line| line.chars().count() <= 100), "{stdout}");
    stdout
}

/// Whether the report names this process as one it waits for, at any link of the chain.
pub fn names(report: &Value, pid: u32) -> bool {
    fn in_chain(others: &Value, pid: u32) -> bool {
        let list = others.as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().any(|other| other["pid"] == pid || in_chain(&other["then"], pid))
    }
    in_chain(&report["others"], pid)
}
