//! The kernel programs: where its fields lie, loading, attaching, and what of the kernel's is read beside them.
//!
//! Layer 2: uses the model.

pub mod asked;
pub mod batch;
pub mod btf;
pub mod calls;
pub mod error;
pub mod histograms;
mod iterate;
pub mod legacy;
pub mod load;
pub mod log;
pub mod object;
pub mod probes;
pub mod record;
pub mod rows;
pub mod symbols;
