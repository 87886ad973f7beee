//! The JSON of `tracer doctor`: what a host can do.

use serde::Serialize;

/// What is said of one thing.
#[derive(Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// `ok`; `missing`: a right or a setting; `unsupported`: the kernel has no such thing; `broken`: it has, and refuses.
    pub state: &'static str,
    /// What was found, or why not.
    pub found: String,
    /// What is lost, and what to do.
    pub without: Option<String>,
}

/// The whole report.
#[derive(Serialize)]
pub struct DoctorReport {
    /// Of tracer.
    pub version: &'static str,
    /// The kernel's own name of its version.
    pub kernel: String,
    /// The processor's architecture.
    pub machine: String,
    /// What was found of each thing that tracer needs.
    pub checks: Vec<Check>,
    /// The source that `ps` and `why` use.
    pub source: &'static str,
    /// The agent runs.
    pub agent: bool,
    /// How `trace` can see calls, the best first.
    pub trace: Vec<&'static str>,
}
