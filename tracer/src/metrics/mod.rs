//! What `/metrics` shows: the one table of metrics, the state behind it, which the watching thread keeps, and the page.
//!
//! Layer 5: a sink, which uses what lies below.

mod account;
mod blocked;
mod families;
pub mod health;
mod series;
mod services;
mod stalls;
mod state;
mod table;

use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use prometheus::{Encoder, TextEncoder, core::Collector, process_collector::ProcessCollector};

pub use self::{account::Account, state::State};

/// The state shared between the thread that watches and the one that serves.
#[derive(Default)]
pub struct Metrics(Mutex<State>);

impl Metrics {
    /// The state, to read or change.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while it was held leaves numbers, and numbers are always whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The whole page, in Prometheus's text format. What there is nothing of is not on it.
pub fn page(metrics: &Metrics) -> Result<Vec<u8>> {
    let state = metrics.lock();
    let mut page: Vec<_> = table::METRICS.iter().map(|metric| families::family(metric, &state)).collect();
    drop(state);
    page.retain(|family| !family.get_metric().is_empty());
    page.extend(ProcessCollector::for_self().collect());
    page.sort_by(|a, b| a.name().cmp(b.name()));
    let mut text = Vec::new();
    TextEncoder::new().encode(&page, &mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::{series::DurationKey, state::tests::full, *};
    use crate::{
        assess::blind::Cause,
        model::histogram::{BUCKETS, WaitHistogram},
    };

    /// The text of a state, without what the library says of the process.
    fn text(state: State) -> String {
        let metrics = Metrics(Mutex::new(state));
        let page = String::from_utf8(page(&metrics).expect("encodes")).expect("is text");
        let own = page.lines().filter(|line| !line.contains("process_"));
        own.map(|line| line.replace(env!("CARGO_PKG_VERSION"), "VERSION") + "\n").collect()
    }

    #[test]
    fn the_page_is_the_same_byte_for_byte() {
        insta::assert_snapshot!("full", text(full()));
        insta::assert_snapshot!("empty", text(State::default()));
    }

    #[test]
    fn every_cause_of_blindness_is_on_the_page() {
        let metrics = Metrics::default();
        metrics.lock().blind.report(Cause::Series);
        assert_eq!(metrics.lock().blind.settle(1).len(), 1);
        let page = String::from_utf8(page(&metrics).expect("encodes")).expect("is text");
        for cause in Cause::ALL {
            let value = u8::from(*cause == Cause::Series);
            assert!(
                page.contains(&format!("tracer_blind{{cause=\"{}\"}} {value}\n", cause.label())),
                "{page}"
            );
        }
    }

    #[test]
    fn the_page_is_text_with_every_kind_of_metric() {
        let metrics = Metrics::default();
        let empty = WaitHistogram { count: 1, sum_ns: 2, buckets: [1; BUCKETS] };
        metrics
            .lock()
            .add_durations(DurationKey { comm: "a\"b".into(), syscall: "read", kind: "tcp" }, &empty);
        let page = String::from_utf8(page(&metrics).expect("encodes")).expect("is text");
        assert!(page.contains("# TYPE tracer_stalls_total counter"), "{page}");
        assert!(
            page.contains(
                "tracer_wait_duration_seconds_count{comm=\"a\\\"b\",syscall=\"read\",kind=\"tcp\"} 1"
            )
        );
        assert!(page.contains("process_resident_memory_bytes"));
    }
}
