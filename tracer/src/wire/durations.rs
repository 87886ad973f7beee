//! How long the waits of a process took, as the agent's socket tells it.

use serde::{Deserialize, Serialize};

use crate::model::histogram::BUCKETS;

/// How long the waits of one process took that have ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Durations {
    /// Name of the process.
    pub comm: String,
    /// Waits by duration: the first bucket has those shorter than 2 to the power of `FIRST_BUCKET_LOG2` µs, each next one
    /// those shorter than twice that, the last one all that were longer.
    pub buckets: [u64; BUCKETS],
}
