//! What everything else speaks of: a wait, its class, the table of system calls. Layer 0: uses nothing of tracer but `util`.

pub mod baseline;
pub mod cgroup;
pub mod class;
pub mod syscalls;
pub mod wait;
