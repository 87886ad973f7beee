//! How waits and stalls leave tracer: JSON, metrics, HTTP.

pub mod json;
