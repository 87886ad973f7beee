//! What do the tests of tracer's behaviour share? Waiters, runs of `ps`, agents, and what they say.
//!
//! The tests themselves are one binary, `tests/live`, so that the same file runs on the host and in VMs. Nothing
//! here returns errors: a test that cannot go on panics, and says what was missing.

mod agent;
mod bpf;
mod clock;
mod exposition;
mod launch;
mod programs;
mod ps;
mod quiet;
mod vm;
mod waiter;

pub use agent::Agent;
pub use bpf::{map_holds, program_exists};
pub use clock::{DAY_NS, SECOND_NS, parse_rfc3339_ns, realtime_ns, seconds_between};
pub use exposition::{Sample, parse as parse_metrics};
pub use launch::{Running, own_dir, start};
pub use programs::{require_root, tracer, waiter_program};
pub use ps::{Snapshot, ps, ps_first};
pub use quiet::{alone, shared};
pub use vm::{UNSUPPORTED, age_tolerance, pause, slow, slowness, unsupported};
pub use waiter::Waiter;
