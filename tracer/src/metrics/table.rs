//! The one table of metrics. `docs/METRICS.md` is written from it.

use prometheus::proto::MetricType;

/// One metric as it is declared.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: MetricType,
    /// What it says.
    pub help: &'static str,
    /// Names of its labels, in order.
    pub labels: &'static [&'static str],
}

macro_rules! metrics {
    ($($name:ident = $metric:literal, $kind:ident, [$($label:literal)*], $help:literal;)+) => {
        $(pub const $name: Definition = Definition {
            name: $metric, kind: MetricType::$kind, help: $help, labels: &[$($label),*],
        };)+
        /// Every metric of tracer's own; `process_*` come from the library.
        #[cfg(test)]
        pub const DEFINITIONS: &[Definition] = &[$($name),+];
    };
}

metrics! {
    STALL_SECONDS = "tracer_stall_seconds", GAUGE,
        ["pid" "tid" "comm" "unit" "namespace" "pod" "container" "syscall" "fd" "class" "local" "remote"],
        "Age of each open stall; of more than 200, the oldest of each owner.";
    WITHOUT_SERIES = "tracer_stalls_without_series", GAUGE, [],
        "Open stalls that are not among those 200.";
    OPEN_STALLS = "tracer_open_stalls", GAUGE, ["class"], "Stalls open now.";
    STALLS = "tracer_stalls_total", COUNTER, ["class"], "Stalls opened.";
    WAITING = "tracer_waiting_threads", GAUGE, ["class"], "Threads waiting at the last snapshot.";
    EXCUSED = "tracer_waits_excused", GAUGE, [],
        "Waits that are older than their threshold and not flagged, because answers there usually take as long.";
    DURATION = "tracer_wait_duration_seconds", HISTOGRAM, ["comm" "syscall" "kind"],
        "Waits that have ended, those shorter than --min-wait left out.";
    BLOCKED = "tracer_blocked_seconds_total", COUNTER, ["pid" "comm" "syscall" "kind"],
        "Time spent waiting; grows while a wait lasts.";
    LOST = "tracer_lost_events_total", COUNTER, ["reason"], "What could not be recorded, by reason.";
    DROPPED = "tracer_dropped_series_total", COUNTER, ["reason"],
        "Series folded into \"other\" because their family was full, by family.";
    SNAPSHOT = "tracer_snapshot_duration_seconds", HISTOGRAM, ["source"], "How long a snapshot took.";
    PROBE = "tracer_probe_up", GAUGE, ["probe" "mechanism"], "1 where the kernel program is attached.";
    BLIND = "tracer_blind", GAUGE, ["cause"],
        "1 while something keeps the agent from seeing, and for a minute after it, by cause.";
    BUILD = "tracer_build_info", GAUGE, ["version"], "1, with the version as label.";
}

#[cfg(test)]
mod tests {
    use crate::{collect::losses::Loss, metrics::blind::Cause};

    use super::{
        super::{EXPIRY, FOLDED, OTHER, SERIES, STALL_SERIES},
        *,
    };

    /// `docs/METRICS.md`, as the tables here have it.
    fn reference() -> String {
        let mut text = String::from(
            "# Metrics\n\n\
             Of `/metrics`, in Prometheus's text format. Written by the test of `tracer/src/metrics/table.rs` from the tables\n\
             there and in `tracer/src/collect/losses.rs` (`UPDATE_DOCS=1 cargo test -p tracer`).\n\n\
             | metric | type | labels | says |\n| --- | --- | --- | --- |\n",
        );
        for Definition { name, kind, help, labels } in DEFINITIONS {
            let kind = format!("{kind:?}").to_lowercase();
            text += &format!("| `{name}` | {kind} | {} | {help} |\n", labels.join(" "));
        }
        text += "\n`process_cpu_seconds_total`, `process_resident_memory_bytes` and their like are the agent's own, by the library's names.\n\n\
                 ## `tracer_lost_events_total`\n\n\
                 Every reason is there from the start, so that `increase()` sees the first loss. The last column is the severity of\n\
                 its alert: `warning` where a message or a record of a stall is lost, `info` where statistics are.\n\n\
                 | reason | means | alert |\n| --- | --- | --- |\n";
        for loss in Loss::ALL {
            let severity = loss.cost().severity();
            text += &format!("| `{}` | {} | {severity} |\n", loss.reason(), loss.means());
        }
        text += "\n## `tracer_blind`\n\n\
                 While one of them is 1, the agent may miss a hang or say less about it, and `TracerBlind` fires. Its standard error\n\
                 has a line when that begins and one when it ends.\n\n\
                 | cause | means |\n| --- | --- |\n";
        for cause in Cause::ALL {
            text += &format!("| `{}` | {} |\n", cause.label(), cause.means());
        }
        text += &format!(
            "\n## How many series\n\n\
             A family with labels of processes has {SERIES} series at most; what is more is folded into one whose labels all say\n\
             `{OTHER}`, and counted in `tracer_dropped_series_total` (`reason` is the family). A series that is folded counts once;\n\
             beyond {FOLDED} of them some count again.\n\n\
             `tracer_stall_seconds` has {STALL_SERIES} stalls at most. They are shared between owners: a container, a unit of the system,\n\
             or a user, who owns all that is below `user.slice`. Whoever has most gives way first, and of one owner the oldest stay.\n\
             `tracer_open_stalls` counts them all, `tracer_stalls_without_series` those that gave way.\n\n\
             `tracer_blocked_seconds_total` is shared between users: a process of a user with fewer series takes the place of the latest\n\
             one of whoever has most, whose time is then part of `{OTHER}`. `tracer_wait_duration_seconds` is by names, which belong to\n\
             nobody, and is not shared: first come, first served. No stall depends on it.\n\n\
             A series of `tracer_wait_duration_seconds` that nothing was added to for {0} minutes goes; one of\n\
             `tracer_blocked_seconds_total` does if its process has gone as well. The page is written at most once a look.\n\n\
             Labels of pods (`namespace`, `pod`) are empty outside Kubernetes, `unit` outside systemd, `local` and `remote` where\n\
             there is no socket. Control characters in names are as the process has them; Prometheus escapes them.\n",
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
    fn definitions_follow_the_conventions() {
        for definition in DEFINITIONS {
            assert!(definition.name.starts_with("tracer_"), "{definition:?}");
            assert!(definition.help.ends_with('.'), "{definition:?}");
            assert_eq!(
                definition.kind == MetricType::COUNTER,
                definition.name.ends_with("_total"),
                "{definition:?}"
            );
        }
    }
}
