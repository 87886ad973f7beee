//! What do the tests of tracer's behaviour share? Waiters, runs of `ps`, agents, and what they say.
//!
//! The tests that need nothing installed are one binary, `tests/live`, so that the same file runs on the host and in
//! VMs; those with real clients and servers are another, `tests/clients`. Nothing here returns errors: a test that cannot go on panics, and says what was missing.

mod agent;
mod bpf;
mod clock;
mod ended;
mod exposition;
mod family;
#[cfg(test)]
mod foreign;
pub mod http;
mod hung_mount;
mod launch;
#[cfg(test)]
mod layers;
mod limited;
mod mute;
#[cfg(test)]
mod names;
#[cfg(test)]
mod pages;
mod programs;
mod ps;
mod quiet;
pub mod servers;
mod small_disk;
mod tls;
mod traced;
mod unused;
mod vm;
mod waiter;
mod why;

pub use agent::Agent;
pub use bpf::{map_holds, program_exists, program_ids};
pub use clock::{DAY_NS, SECOND_NS, parse_rfc3339_ns, realtime_ns, seconds_between};
pub use ended::{Ended, Program};
pub use exposition::{Sample, parse as parse_metrics};
pub use family::Family;
pub use hung_mount::{HungMount, Planted};
pub use launch::{Running, own_dir, start, start_ended_by};
pub use limited::{Group, Limited, limit};
pub use mute::{LastWord, MuteServer, Say, Talk};
pub use programs::{debian_program, doctor, require_root, tracer, waiter_program};
pub use ps::{Snapshot, is_footer, ps, ps_first};
pub use quiet::{Turn, alone, shared, shared_for_minutes, with_crowds, with_few};
pub use servers::NOBODY;
pub use small_disk::SmallDisk;
pub use tls::{Manners, Tickets, TlsServer, certificate};
pub use traced::Traced;
pub use unused::{ANY_PORT, address_in, address_of, unused_id};
pub use vm::{UNSUPPORTED, age_tolerance, pause, slow, slowness, stolen_seconds, unsupported};
pub use waiter::Waiter;
pub use why::{names, why, why_page, why_run};
