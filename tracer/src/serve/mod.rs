//! How the agent answers: HTTP for `/metrics` and health, a Unix socket for everything else, and the client that asks there. Layer 5:
//! uses `metrics` and `history`.

pub mod api;
pub mod client;
pub mod feed;
pub mod http;
mod page;
pub mod socket;
pub mod stream;
pub mod token;
