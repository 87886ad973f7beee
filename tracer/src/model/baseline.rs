//! What a baseline does to a wait: how long it keeps it from being flagged.

use std::time::Duration;

/// A baseline that keeps a wait from being flagged once it is older than its threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Excuse {
    /// How long such waits usually take.
    pub usual: Duration,
    /// The threshold.
    pub from: Duration,
    /// How old it must be to be flagged all the same.
    pub until: Duration,
}

impl Excuse {
    /// Whether it is what keeps a wait of this age from being flagged.
    pub fn holds(&self, age: Duration) -> bool {
        (self.from..self.until).contains(&age)
    }
}
