//! What has nothing to do with waits: clocks, text for people, tracer's own files, who gives way where there is too much. Layer 0:
//! uses nothing else of tracer.

pub mod allocator;
pub mod clock;
pub mod exit;
pub mod fair;
#[cfg(test)]
pub mod growth;
pub mod human;
pub mod linux;
pub mod output;
pub mod regular;
pub mod seccomp;
pub mod users;
