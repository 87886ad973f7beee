//! From a snapshot to waits that are judged, and everything about one process: what `ps`, `why`, `top`, the socket and the history
//! show. Layer 4.

pub mod inspect;
pub mod look;
pub mod shared;
pub mod stall;
