//! What everything else speaks of: a wait, its class, what it waits on, the table of system calls. Layer 0: uses nothing of tracer but `util`.

pub mod backlog;
pub mod baseline;
pub mod cgroup;
pub mod class;
pub mod connection_groups;
pub mod file;
pub mod histogram;
pub mod holder;
pub mod obstacles;
pub mod pod;
pub mod registers;
pub mod request;
pub mod script;
pub mod stack;
pub mod syscalls;
pub mod target;
pub mod tcp;
pub mod user_stack;
pub mod wait;
