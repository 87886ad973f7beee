//! The one table of metrics, and that of losses. `docs/METRICS.md` is written from them.

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

/// Reasons of `tracer_lost_events_total`, and what each means. Those of the kernel programs are [`Counter::LOSSES`]'s.
///
/// [`Counter::LOSSES`]: tracer_ebpf::abi::Counter::LOSSES
#[cfg(test)]
pub const LOSSES: &[(&str, &str)] = &[
    ("calls_full", "A call was not followed: too many at once (`--probes calls` only)."),
    (
        "end_unseen",
        "A wait was not timed: the kernel did not show the thread getting the CPU back. Some virtual machines hide switches from \
         threads of their own.",
    ),
    ("events_unread", "A stall event nobody took from standard output."),
    ("histogram_full", "An ended wait was not counted: more than 8,192 kinds of them in one interval."),
    (
        "history_unwritten",
        "A stall's opening or end, or a minute's worst waits, that could not be written to the history: a full disk, mostly. \
         Stalls are written later if they can be, minutes are not.",
    ),
    ("hook_failed", "A stall that `on_stall` failed for, both times."),
    ("hook_not_run", "A stall that `on_stall` was not run for: more of them than it may be told of."),
    (
        "look_cut",
        "A wait that was due to be looked into, or to be flagged, was not reached: a look has half of the interval for that, half a \
         second at the least. It comes first in the next one.",
    ),
    (
        "look_failed",
        "A whole look at the host failed, for want of descriptors mostly: the next one makes up for it.",
    ),
    (
        "read_failed",
        "A kernel pointer on the way to a wait's target could not be read: the target is unknown.",
    ),
    (
        "reads_abandoned",
        "A read of another process did not come back in time: a page that never comes, or a lock that a hanging process holds. It is left alone for a while.",
    ),
    (
        "ring_full",
        "The end of a long wait was not reported: the agent got no CPU for long. A snapshot finds it ended.",
    ),
    ("runs_skipped", "The kernel skipped a program because it was running already on that CPU."),
    (
        "slot_failed",
        "The kernel had no memory for a thread's slot, mostly for want of it in the agent's control group: its waits are seen by \
         snapshots only, until one of them has made the slot.",
    ),
    ("slot_missing", "A thread ran before it had a slot: its first wait is not timed."),
    (
        "state_unsaved",
        "Baselines and announced stalls could not be written, each time, also because an earlier write has not come back: a restart may announce stalls again.",
    ),
];

/// Those that cost a message or a record of a stall: somebody is to be told. The others cost statistics.
#[cfg(test)]
const UNTOLD: &[&str] =
    &["events_unread", "history_unwritten", "hook_failed", "hook_not_run", "state_unsaved"];

#[cfg(test)]
mod tests {
    use tracer_ebpf::abi::Counter;

    use crate::metrics::blind::Cause;

    use super::{
        super::{EXPIRY, FOLDED, OTHER, SERIES, STALL_SERIES},
        *,
    };

    /// `docs/METRICS.md`, as the tables here have it.
    fn reference() -> String {
        let mut text = String::from(
            "# Metrics\n\n\
             Of `/metrics`, in Prometheus's text format. Written by the test of `tracer/src/metrics/table.rs` from the table\n\
             there (`UPDATE_DOCS=1 cargo test -p tracer`), which the agent's page is held against.\n\n\
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
        for (reason, means) in LOSSES {
            let severity = if UNTOLD.contains(reason) { "warning" } else { "info" };
            text += &format!("| `{reason}` | {means} | {severity} |\n");
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
        for (_, reason) in Counter::LOSSES {
            assert!(LOSSES.iter().any(|(known, _)| *known == reason), "{reason}");
        }
        for reason in UNTOLD {
            assert!(LOSSES.iter().any(|(known, _)| known == reason), "{reason}");
        }
        assert!(LOSSES.is_sorted());
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
