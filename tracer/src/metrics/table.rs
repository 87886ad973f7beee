//! The one table of metrics: the page of `/metrics` and docs/METRICS.md come from it.

use prometheus::proto::MetricType;

use super::{
    families::{Histogram, Number},
    stalls::IncidentSeries,
    state::{State, by_class},
};
use crate::{assess::blind::Cause, model::request::RequestNumbers};

/// One metric: what is declared of it, and where its values come from.
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Names of its labels, in order.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
    /// Its type, and its series. A metric without series is not on the page.
    pub series: Series,
}

/// The series of a metric, as the state has them, in any order.
pub enum Series {
    /// Numbers that go up and down.
    Gauge(fn(&State) -> Vec<Number>),
    /// Numbers that only grow.
    Counter(fn(&State) -> Vec<Number>),
    /// Distributions.
    Histogram(fn(&State) -> Vec<Histogram>),
}

impl Series {
    /// The type of such a metric.
    pub fn kind(&self) -> MetricType {
        match self {
            Series::Gauge(_) => MetricType::GAUGE,
            Series::Counter(_) => MetricType::COUNTER,
            Series::Histogram(_) => MetricType::HISTOGRAM,
        }
    }
}

/// Labels of incidents: which, who is to blame as people are told, and the culprit's process or address, where it has one.
const INCIDENT_LABELS: &[&str] = &["incident", "culprit", "pid", "comm", "remote"];

/// Labels of requests that were received: who has them, and the address that they came to.
const INCOMING_LABELS: &[&str] = &["comm", "unit", "namespace", "pod", "container", "local"];

/// Every metric of tracer's own; `process_*` come from the library.
pub const METRICS: &[Metric] = &[
    Metric {
        name: "tracer_stall_seconds",
        labels: &[
            "pid",
            "tid",
            "comm",
            "unit",
            "namespace",
            "pod",
            "container",
            "syscall",
            "fd",
            "class",
            "local",
            "remote",
            "incident",
        ],
        help: "Age of each open stall. If there are more than 200, the oldest of each owner.",
        series: Series::Gauge(|state| {
            state
                .stalls
                .iter()
                .map(|stall| Number::of(stall.labels.to_vec(), stall.age.as_secs_f64()))
                .collect()
        }),
    },
    Metric {
        name: "tracer_incident_seconds",
        labels: INCIDENT_LABELS,
        help: "Age of the oldest stall of each open incident: one culprit and all that waits for it. If there are more than 50, those of \
               most stalls of each owner.",
        series: Series::Gauge(|state| {
            let of = |incident: &IncidentSeries| {
                Number::of(incident.labels.to_vec(), incident.oldest.as_secs_f64())
            };
            state.incidents.iter().map(of).collect()
        }),
    },
    Metric {
        name: "tracer_incident_stalls",
        labels: INCIDENT_LABELS,
        help: "How many stalls each open incident has; it has the same series as `tracer_incident_seconds`.",
        series: Series::Gauge(|state| {
            let of = |incident: &IncidentSeries| Number::of(incident.labels.to_vec(), incident.stalls as f64);
            state.incidents.iter().map(of).collect()
        }),
    },
    Metric {
        name: "tracer_open_incidents",
        labels: &[],
        help: "Incidents open now.",
        series: Series::Gauge(|state| vec![Number::alone(state.open_incidents as f64)]),
    },
    Metric {
        name: "tracer_stalls_without_series",
        labels: &[],
        help: "Open stalls without a series of their own.",
        series: Series::Gauge(|state| vec![Number::alone(state.without_series as f64)]),
    },
    Metric {
        name: "tracer_open_stalls",
        labels: &["class"],
        help: "Stalls open now.",
        series: Series::Gauge(|state| by_class(&state.open_stalls)),
    },
    Metric {
        name: "tracer_stalls_total",
        labels: &["class"],
        help: "Stalls opened.",
        series: Series::Counter(|state| by_class(&state.opened)),
    },
    Metric {
        name: "tracer_waiting_threads",
        labels: &["class"],
        help: "Threads waiting at the last snapshot.",
        series: Series::Gauge(|state| by_class(&state.waiting)),
    },
    Metric {
        name: "tracer_waits_excused",
        labels: &[],
        help: "Waits past their threshold that a baseline keeps from being flagged.",
        series: Series::Gauge(|state| vec![Number::alone(state.excused as f64)]),
    },
    Metric {
        name: "tracer_wait_duration_seconds",
        labels: &["comm", "syscall", "kind"],
        help: "Duration of ended waits of at least --min-wait.",
        series: Series::Histogram(State::durations),
    },
    Metric {
        name: "tracer_response_seconds",
        labels: &["comm", "remote"],
        help: "How long services took to answer programs of this host, from the last byte of what was asked to the first of the answer; \
               with `response_times = true` only.",
        series: Series::Histogram(State::responses),
    },
    Metric {
        name: "tracer_blocked_seconds_total",
        labels: &["pid", "comm", "syscall", "kind"],
        help: "Time spent waiting, including waits that still last.",
        series: Series::Counter(State::blocked),
    },
    Metric {
        name: "tracer_lost_events_total",
        labels: &["reason"],
        help: "Records that were lost, by reason.",
        series: Series::Counter(|state| {
            state.lost.iter().map(|(loss, number)| Number::of([loss.reason()], *number as f64)).collect()
        }),
    },
    Metric {
        name: "tracer_dropped_series_total",
        labels: &["reason"],
        help: "Series folded into \"other\" because their family was full. The reason is the family.",
        series: Series::Counter(|state| state.folded.by_family()),
    },
    Metric {
        name: "tracer_snapshot_duration_seconds",
        labels: &["source"],
        help: "How long a snapshot took.",
        series: Series::Histogram(State::snapshots),
    },
    Metric {
        name: "tracer_look_interval_seconds",
        labels: &[],
        help: "Time between two looks: --interval, or up to three times as long where looks take more than 0.9 % of a core.",
        series: Series::Gauge(|state| vec![Number::alone(state.interval.as_secs_f64())]),
    },
    Metric {
        name: "tracer_open_requests",
        labels: &["answer"],
        help: "Connections of event loops without an answer for a second, by whether one is due: yes, unknown (they were the last \
               bytes, at once after an answer), no (nobody would see it come, or their programs also speak when nothing is due).",
        series: Series::Gauge(|state| {
            let RequestNumbers { due, unknown, not_due, .. } = state.requests;
            let numbers = [("yes", due), ("unknown", unknown), ("no", not_due)];
            numbers.into_iter().map(|(answer, number)| Number::of([answer], number as f64)).collect()
        }),
    },
    Metric {
        name: "tracer_incoming_requests",
        labels: INCOMING_LABELS,
        help: "Requests that others have sent to a program's address and that have had no answer for a second. A program that \
               only takes messages, such as a log collector, never answers. If there are more than 50 such addresses, the oldest of \
               each user; the rest is one series, whose labels are \"other\".",
        series: Series::Gauge(|state| {
            state.incoming.iter().map(|of| Number::of(of.labels.to_vec(), of.number as f64)).collect()
        }),
    },
    Metric {
        name: "tracer_incoming_request_seconds",
        labels: INCOMING_LABELS,
        help: "For how long the oldest of them has had no answer; it has the same series as `tracer_incoming_requests`.",
        series: Series::Gauge(|state| {
            state.incoming.iter().map(|of| Number::of(of.labels.to_vec(), of.oldest.as_secs_f64())).collect()
        }),
    },
    Metric {
        name: "tracer_unclosed_connections",
        labels: &["comm", "unit", "namespace", "pod", "container"],
        help: "Connections that the other end closed a minute ago or more, and the program has not. A pool has some; more and more of them \
               are a leak of descriptors. Its series are bounded as those of `tracer_incoming_requests` are.",
        series: Series::Gauge(|state| {
            state.unclosed.iter().map(|of| Number::of(of.labels[..5].to_vec(), of.number as f64)).collect()
        }),
    },
    Metric {
        name: "tracer_request_pass_seconds",
        labels: &[],
        help: "How long the last walk over all sockets took, which finds the requests of event loops.",
        series: Series::Gauge(|state| vec![Number::alone(state.requests.pass.as_secs_f64())]),
    },
    Metric {
        name: "tracer_request_pass_interval_seconds",
        labels: &[],
        help: "Time between two such walks: 5 s, or up to a minute where they take more than 0.5 % of a core.",
        series: Series::Gauge(|state| vec![Number::alone(state.requests.interval.as_secs_f64())]),
    },
    Metric {
        name: "tracer_probe_up",
        labels: &["probe", "mechanism"],
        help: "1 if the kernel program is attached.",
        series: Series::Gauge(|state| {
            let probes = state.probes.iter();
            probes.map(|(probe, mechanism, is_up)| Number::is([*probe, *mechanism], *is_up)).collect()
        }),
    },
    Metric {
        name: "tracer_blind",
        labels: &["cause"],
        help: "1 while something keeps the agent from seeing everything, and for a minute afterwards.",
        series: Series::Gauge(|state| {
            Cause::ALL.iter().map(|cause| Number::is([cause.label()], state.blind.is_so(*cause))).collect()
        }),
    },
    Metric {
        name: "tracer_build_info",
        labels: &["version"],
        help: "1, with the version as a label.",
        series: Series::Gauge(|_| vec![Number::of([env!("CARGO_PKG_VERSION")], 1.0)]),
    },
];

#[cfg(test)]
mod tests {
    use super::{
        super::{
            series::{FOLDED_MAX, OTHER, SERIES_MAX},
            stalls::STALL_SERIES,
            state::{EXPIRY, tests},
        },
        *,
    };
    use crate::collect::losses::Loss;

    /// `docs/METRICS.md`, as the tables here have it.
    fn reference() -> String {
        let mut text = String::from(
            "# Metrics\n\n\
             What `/metrics` exports, in Prometheus's text format. A test in `tracer/src/metrics/table.rs` writes this page from the\n\
             tables there and in `tracer/src/collect/losses.rs` (`UPDATE_DOCS=1 cargo test -p tracer`).\n\n\
             | metric | type | labels | meaning |\n| --- | --- | --- | --- |\n",
        );
        for Metric { name, labels, help, series } in METRICS {
            let kind = format!("{:?}", series.kind()).to_lowercase();
            text += &format!("| `{name}` | {kind} | {} | {help} |\n", labels.join(" "));
        }
        text += "\n`process_cpu_seconds_total`, `process_resident_memory_bytes` and the other `process_*` metrics are about the agent itself.\n\n\
                 ## `tracer_lost_events_total`\n\n\
                 Every reason is exported from the start, so that `increase()` sees the first loss. The last column is the severity of\n\
                 the alert: `warning` if a message or record about a stall is lost, `info` if only statistics are.\n\n\
                 | reason | meaning | alert |\n| --- | --- | --- |\n";
        for loss in Loss::ALL {
            let severity = loss.cost().severity();
            text += &format!("| `{}` | {} | {severity} |\n", loss.reason(), loss.means());
        }
        text += "\n## `tracer_blind`\n\n\
                 While one of these is 1, the agent may miss a hang or say less about it, and `TracerBlind` fires. The agent logs a line\n\
                 to standard error when this begins and another when it ends.\n\n\
                 | cause | meaning |\n| --- | --- |\n";
        for cause in Cause::ALL {
            text += &format!("| `{}` | {} |\n", cause.label(), cause.means());
        }
        text += &format!(
            "\n## How many series\n\n\
             A family whose labels name processes has at most {SERIES_MAX} series. The rest are folded into one series whose labels\n\
             all say `{OTHER}`, and counted in `tracer_dropped_series_total` (its `reason` is the family). Each folded series is counted\n\
             once; if there are more than {FOLDED_MAX} of them, some are counted again.\n\n\
             `tracer_stall_seconds` has at most {STALL_SERIES} series. They are shared between owners: containers, system units, and\n\
             users, who own everything below `user.slice`. The owner with the most series gives way first, and each owner keeps its\n\
             oldest stalls. `tracer_open_stalls` counts all of them, `tracer_stalls_without_series` those that gave way.\n\n\
             `tracer_blocked_seconds_total` is shared between users: when it is full, a process of a user with few series replaces the\n\
             latest process of the user with the most, whose time is then part of `{OTHER}`. `tracer_wait_duration_seconds` and\n\
             `tracer_response_seconds` are keyed by names, which have no owner, so they are first come, first served. No stall depends\n\
             on them.\n\n\
             A series of these two is dropped after {0} minutes without an update. One of\n\
             `tracer_blocked_seconds_total` is dropped then too, if its process has ended. The page is rendered at most once per\n\
             snapshot.\n\n\
             `namespace` and `pod` are empty outside Kubernetes, `unit` is empty outside systemd, and `local` and `remote` are empty\n\
             if there is no socket. Control characters in names are exported as they are; Prometheus escapes them.\n",
            EXPIRY.as_secs() / 60
        );
        text
    }

    #[test]
    fn the_reference_is_what_the_tables_say() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/METRICS.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, reference()).expect("it is written");
        }
        let is = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(is, reference(), "UPDATE_DOCS=1 cargo test -p tracer writes it");
    }

    #[test]
    fn names_and_help_follow_the_conventions() {
        for Metric { name, help, series, .. } in METRICS {
            assert!(name.starts_with("tracer_"), "{name}");
            assert!(help.ends_with('.'), "{name}: {help}");
            assert_eq!(matches!(series, Series::Counter(_)), name.ends_with("_total"), "{name}");
        }
    }

    /// A value without a label, or a label without a value, is on no page.
    #[test]
    fn each_series_has_a_value_for_each_label() {
        let state = tests::full();
        for metric in METRICS {
            let series: Vec<usize> = match metric.series {
                Series::Gauge(values) | Series::Counter(values) => {
                    values(&state).iter().map(|number| number.labels.len()).collect()
                }
                Series::Histogram(values) => {
                    values(&state).iter().map(|histogram| histogram.labels.len()).collect()
                }
            };
            assert!(!series.is_empty(), "{}: the state of the test has none", metric.name);
            assert!(
                series.iter().all(|number| *number == metric.labels.len()),
                "{}: {series:?}",
                metric.name
            );
        }
    }
}
