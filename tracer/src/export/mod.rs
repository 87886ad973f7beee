//! How waits and stalls leave tracer: JSON, metrics, HTTP, the Unix socket.

pub mod api;
pub mod events;
pub mod http;
pub mod json;
pub mod metrics;
mod page;
pub mod report;
pub mod socket;
pub mod token;
