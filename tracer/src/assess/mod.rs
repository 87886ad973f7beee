//! From a snapshot to waits that are judged, and everything about one process: what `ps`, `why`, `top`, the socket and the history
//! show. Layer 4.

mod batches;
pub mod blamed_stalls;
pub mod blind;
mod circles;
pub mod client;
pub mod families;
pub mod incidents;
pub mod inspect;
mod object;
pub mod overview;
pub mod pipeline;
pub mod release;
mod report;
pub mod requests;
pub mod shared;
pub mod sink;
pub mod stacks;
pub mod stall;
