//! How waits and stalls leave tracer: JSON, metrics, HTTP.

pub mod events;
pub mod http;
pub mod json;
pub mod metrics;
pub mod report;
