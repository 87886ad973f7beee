//! Events as OpenTelemetry takes them: OTLP in its JSON form (<https://opentelemetry.io/docs/specs/otlp/#otlphttp>), a log record for each
//! event and a span for each stall that is over. OtlpAttributes have the names of the semantic conventions, and `tracer.` before the name where
//! those have none.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddr,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    event::{ReceivedEvent, What},
    incident::IncidentObject,
    json::WaitObject,
    stall::StallObject,
    target::TargetObject,
};
use crate::{model::class::Level, util::human};

/// `SEVERITY_NUMBER_INFO` and `SEVERITY_NUMBER_WARN` (logs.proto).
const INFO: (u8, &str) = (9, "INFO");
const WARN: (u8, &str) = (13, "WARN");
/// `SPAN_KIND_INTERNAL` (trace.proto).
const INTERNAL: u8 = 1;
/// `STATUS_CODE_ERROR` (trace.proto).
const ERROR: u8 = 2;

/// `ExportLogsServiceRequest`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogsRequest {
    resource_logs: Vec<ResourceLogs>,
}

/// `ExportTraceServiceRequest`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TracesRequest {
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceLogs {
    resource: OtlpResource,
    scope_logs: [ScopeLogs; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSpans {
    resource: OtlpResource,
    scope_spans: [ScopeSpans; 1],
}

#[derive(Serialize)]
struct OtlpResource {
    attributes: OtlpAttributes,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ScopeLogs {
    scope: OtlpScope,
    log_records: Vec<LogRecord>,
}

#[derive(Serialize)]
struct ScopeSpans {
    scope: OtlpScope,
    spans: Vec<OtlpSpan>,
}

/// What has made the records.
#[derive(Serialize)]
struct OtlpScope {
    name: &'static str,
    version: &'static str,
}

const SCOPE: OtlpScope = OtlpScope { name: "tracer", version: env!("CARGO_PKG_VERSION") };

/// `LogRecord`; numbers of 64 bits are texts in this form.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LogRecord {
    time_unix_nano: String,
    observed_time_unix_nano: String,
    severity_number: u8,
    severity_text: &'static str,
    event_name: &'static str,
    body: AnyValue,
    attributes: OtlpAttributes,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    span_id: Option<String>,
}

/// `Span`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OtlpSpan {
    trace_id: String,
    span_id: String,
    name: String,
    kind: u8,
    start_time_unix_nano: String,
    end_time_unix_nano: String,
    attributes: OtlpAttributes,
    status: SpanStatus,
}

#[derive(Serialize)]
struct SpanStatus {
    code: u8,
    message: String,
}

#[derive(Serialize)]
struct KeyValue {
    key: &'static str,
    value: AnyValue,
}

/// `AnyValue`, as far as tracer has such.
#[derive(Serialize)]
enum AnyValue {
    #[serde(rename = "stringValue")]
    Text(String),
    #[serde(rename = "intValue")]
    Int(String),
    #[serde(rename = "doubleValue")]
    Double(f64),
    #[serde(rename = "boolValue")]
    Bool(bool),
}

impl From<&str> for AnyValue {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for AnyValue {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<u64> for AnyValue {
    fn from(value: u64) -> Self {
        Self::Int(value.to_string())
    }
}

impl From<f64> for AnyValue {
    fn from(value: f64) -> Self {
        Self::Double(value)
    }
}

/// OtlpAttributes in the order in which they were added.
#[derive(Serialize, Default)]
#[serde(transparent)]
struct OtlpAttributes(Vec<KeyValue>);

impl OtlpAttributes {
    fn and(mut self, key: &'static str, value: impl Into<AnyValue>) -> Self {
        self.0.push(KeyValue { key, value: value.into() });
        self
    }

    fn and_if(self, key: &'static str, value: Option<impl Into<AnyValue>>) -> Self {
        match value {
            Some(value) => self.and(key, value),
            None => self,
        }
    }
}

/// What a receiver says of a request that it has taken: `ExportLogsServiceResponse`, or the one of spans.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct OtlpResponse {
    partial_success: Option<PartialSuccess>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct PartialSuccess {
    rejected_log_records: OtlpCount,
    rejected_spans: OtlpCount,
    error_message: String,
}

/// A number of 64 bits, which is a text in this form; some receivers write a number.
#[derive(Deserialize)]
#[serde(untagged)]
enum OtlpCount {
    Text(String),
    Number(u64),
}

impl Default for OtlpCount {
    fn default() -> Self {
        Self::Number(0)
    }
}

impl OtlpCount {
    fn get(&self) -> u64 {
        match self {
            Self::Text(text) => text.parse().unwrap_or(0),
            Self::Number(number) => *number,
        }
    }
}

/// How many records a receiver has refused of those it was sent, and why, by the answer to a request that it has taken. An answer that is not
/// understood refuses none.
pub fn rejected(answer: &[u8]) -> (u64, String) {
    let response: OtlpResponse = serde_json::from_slice(answer).unwrap_or_default();
    let partial = response.partial_success.unwrap_or_default();
    (partial.rejected_log_records.get() + partial.rejected_spans.get(), partial.error_message)
}

/// A log record for each event; `lost` events that there was no room for are a record of their own, before the others.
pub fn logs(events: &[ReceivedEvent], lost: u64, now: Timestamp) -> LogsRequest {
    let mut of_hosts: Vec<ResourceLogs> = Vec::new();
    for run in events.chunk_by(|one, next| one.host == next.host) {
        let records = run.iter().map(|event| record(event, now)).collect();
        let scope_logs = [ScopeLogs { scope: SCOPE, log_records: records }];
        of_hosts.push(ResourceLogs { resource: resource(&run[0].host), scope_logs });
    }
    if lost > 0
        && let Some(first) = of_hosts.first_mut()
    {
        first.scope_logs[0].log_records.insert(0, lost_record(lost, now));
    }
    LogsRequest { resource_logs: of_hosts }
}

/// A span for each stall that is over; `None` if there is none.
pub fn traces(events: &[ReceivedEvent]) -> Option<TracesRequest> {
    let mut of_hosts: Vec<ResourceSpans> = Vec::new();
    for run in events.chunk_by(|one, next| one.host == next.host) {
        let spans: Vec<OtlpSpan> = run.iter().filter_map(span).collect();
        if !spans.is_empty() {
            let scope_spans = [ScopeSpans { scope: SCOPE, spans }];
            of_hosts.push(ResourceSpans { resource: resource(&run[0].host), scope_spans });
        }
    }
    (!of_hosts.is_empty()).then_some(TracesRequest { resource_spans: of_hosts })
}

fn resource(host: &str) -> OtlpResource {
    OtlpResource {
        attributes: OtlpAttributes::default()
            .and("service.name", "tracer")
            .and("service.version", SCOPE.version)
            .and("host.name", host),
    }
}

fn record(event: &ReceivedEvent, now: Timestamp) -> LogRecord {
    let (event_name, (number, text), body, attributes, ids) = match &event.what {
        What::StallOpened(stall) => {
            let severity = if stall.wait.level == Some(Level::Stuck) { WARN } else { INFO };
            ("tracer.stall.opened", severity, stall.headline(), of_stall(stall), None)
        }
        What::StallClosed(stall) => {
            let ids = Some(ids_of(&event.host, stall));
            ("tracer.stall.closed", INFO, stall.headline(), of_stall(stall), ids)
        }
        What::IncidentOpened(incident) => {
            ("tracer.incident.opened", WARN, incident.headline(), of_incident(incident), None)
        }
        What::IncidentClosed(incident) => {
            ("tracer.incident.closed", INFO, incident.headline(), of_incident(incident), None)
        }
    };
    let (trace_id, span_id) = ids.unzip();
    LogRecord {
        time_unix_nano: nanoseconds(event.time),
        observed_time_unix_nano: nanoseconds(now),
        severity_number: number,
        severity_text: text,
        event_name,
        body: body.into(),
        attributes,
        trace_id,
        span_id,
    }
}

fn lost_record(lost: u64, now: Timestamp) -> LogRecord {
    let events = human::count(usize::try_from(lost).unwrap_or(usize::MAX), "event");
    LogRecord {
        time_unix_nano: nanoseconds(now),
        observed_time_unix_nano: nanoseconds(now),
        severity_number: WARN.0,
        severity_text: WARN.1,
        event_name: "tracer.export.lost",
        body: format!("{events} could not be sent: the queue was full, or they were refused").into(),
        attributes: OtlpAttributes::default().and("tracer.events.lost", lost),
        trace_id: None,
        span_id: None,
    }
}

fn span(event: &ReceivedEvent) -> Option<OtlpSpan> {
    let What::StallClosed(stall) = &event.what else { return None };
    let (trace_id, span_id) = ids_of(&event.host, stall);
    let wait = &stall.wait;
    let class = wait.class.map_or("wait", |class| class.label());
    Some(OtlpSpan {
        trace_id,
        span_id,
        name: format!("stall {class} {}", human::clean(&wait.comm)),
        kind: INTERNAL,
        start_time_unix_nano: nanoseconds(event.time - stall.lasted),
        end_time_unix_nano: nanoseconds(event.time),
        attributes: of_stall(stall),
        status: SpanStatus { code: ERROR, message: wait.verdict.clone().unwrap_or_default() },
    })
}

fn of_stall(stall: &StallObject) -> OtlpAttributes {
    let wait = &stall.wait;
    let seconds = stall.lasted.as_secs_f64();
    let attributes = of_wait(wait)
        .and("tracer.stall.duration", seconds)
        .and_if("tracer.stall.ended", stall.ended.as_deref())
        .and_if("tracer.stall.note", stall.note.as_deref())
        .and_if("tracer.incident.id", stall.incident.as_ref().map(|of| of.id.as_str()))
        .and_if("tracer.incident.name", stall.incident.as_ref().map(|of| of.name.as_str()));
    let attributes = match &stall.peer {
        Some(peer) => attributes
            .and_if("tracer.peer.pid", peer.pid.map(u64::from))
            .and_if("tracer.peer.comm", peer.comm.as_deref())
            .and_if("tracer.peer.address", peer.address.as_deref()),
        None => attributes,
    };
    let stack = (!stall.stack.is_empty()).then(|| stall.stack.join("\n"));
    attributes.and_if("code.stacktrace", stack)
}

fn of_wait(wait: &WaitObject) -> OtlpAttributes {
    let pod = wait.pod.as_ref();
    let attributes = OtlpAttributes::default()
        .and("process.pid", u64::from(wait.pid))
        .and("process.executable.name", wait.comm.as_str())
        .and_if("process.command_line", wait.cmdline.as_deref())
        .and_if("process.user.id", wait.uid.map(u64::from))
        .and_if("thread.id", (wait.tid != 0).then_some(u64::from(wait.tid)))
        .and("tracer.syscall", wait.syscall.as_ref())
        .and_if("tracer.fd", wait.fd.and_then(|fd| u64::try_from(fd).ok()))
        .and_if("tracer.class", wait.class.map(|class| class.label()))
        .and_if("tracer.level", wait.level.map(|level| level.label()))
        .and("tracer.deadlock", AnyValue::Bool(wait.deadlock))
        .and_if("tracer.verdict", wait.verdict.as_deref())
        .and_if("tracer.unit", wait.unit.as_deref())
        .and_if("container.id", wait.container.as_deref())
        .and_if("k8s.namespace.name", pod.and_then(|pod| pod.namespace.as_deref()))
        .and_if("k8s.pod.name", pod.and_then(|pod| pod.name.as_deref()))
        .and_if("k8s.pod.uid", pod.map(|pod| pod.uid.as_str()))
        .and_if("k8s.container.name", pod.and_then(|pod| pod.container.as_deref()));
    let network = match &wait.target {
        TargetObject::Tcp { local, remote, .. } => of_network("tcp", *local, Some(*remote)),
        TargetObject::Udp { local, remote, .. } => of_network("udp", *local, *remote),
        TargetObject::Unix { path, .. } => OtlpAttributes::default()
            .and("network.transport", "unix")
            .and_if("network.peer.address", path.as_deref()),
        _ => OtlpAttributes::default(),
    };
    OtlpAttributes(attributes.0.into_iter().chain(network.0).collect())
}

fn of_network(transport: &str, local: SocketAddr, remote: Option<SocketAddr>) -> OtlpAttributes {
    OtlpAttributes::default()
        .and("network.transport", transport)
        .and("network.type", if local.is_ipv4() { "ipv4" } else { "ipv6" })
        .and("network.local.address", local.ip().to_string())
        .and("network.local.port", u64::from(local.port()))
        .and_if("network.peer.address", remote.map(|remote| remote.ip().to_string()))
        .and_if("network.peer.port", remote.map(|remote| u64::from(remote.port())))
}

fn of_incident(incident: &IncidentObject) -> OtlpAttributes {
    let culprit = &incident.culprit;
    let units: Vec<&str> = incident.units.keys().map(String::as_str).collect();
    OtlpAttributes::default()
        .and("tracer.incident.id", incident.id.as_str())
        .and("tracer.incident.name", incident.name.as_str())
        .and("tracer.incident.stalls", incident.stalls as u64)
        .and("tracer.incident.processes", incident.processes as u64)
        .and("tracer.incident.oldest", incident.oldest.as_secs_f64())
        .and_if("tracer.incident.units", (!units.is_empty()).then(|| units.join(" ")))
        .and_if("process.pid", culprit.pid.map(u64::from))
        .and_if("process.executable.name", culprit.comm.as_deref())
}

/// The ids of a stall's trace and of its span: the stalls of an incident are one trace. The same stall has the same ids whenever it is sent.
fn ids_of(host: &str, stall: &StallObject) -> (String, String) {
    let wait = &stall.wait;
    let who = (host, wait.pid, wait.tid, wait.fd, wait.start_ticks, wait.since.as_millisecond());
    let hash = |what: &dyn Fn(&mut DefaultHasher)| {
        let mut hasher = DefaultHasher::new();
        what(&mut hasher);
        // An id of zeros is none.
        hasher.finish().max(1)
    };
    let trace = |salt: u8| match &stall.incident {
        Some(incident) => hash(&|hasher| (salt, host, &incident.id).hash(hasher)),
        None => hash(&|hasher| (salt, who).hash(hasher)),
    };
    (format!("{:016x}{:016x}", trace(0), trace(1)), format!("{:016x}", hash(&|hasher| who.hash(hasher))))
}

fn nanoseconds(at: Timestamp) -> String {
    at.as_nanosecond().max(0).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{history::samples::stall, wire::event::StreamLine};

    fn closed(pid: u32) -> ReceivedEvent {
        let stall = stall(pid, 100, Some(130));
        let time = stall.closed.expect("it is over");
        ReceivedEvent { time, host: "web1".into(), what: What::StallClosed(Box::new(stall)) }
    }

    #[test]
    fn the_same_stall_has_the_same_ids_and_an_incident_is_a_trace() {
        let ids = |event: &ReceivedEvent| match &event.what {
            What::StallClosed(stall) => ids_of(&event.host, stall),
            other => panic!("{other:?}"),
        };
        let of_incident = |pid| {
            let mut event = closed(pid);
            if let What::StallClosed(stall) = &mut event.what {
                stall.incident =
                    Some(crate::wire::stall::StallIncident { id: "1-2".into(), name: "db".into() });
            }
            event
        };
        assert_eq!(ids(&closed(1)), ids(&closed(1)));
        assert_ne!(ids(&closed(1)).0, ids(&closed(2)).0);
        let (one, other) = (ids(&of_incident(1)), ids(&of_incident(2)));
        assert!(one.0 == other.0 && one.1 != other.1, "{one:?} {other:?}");
        assert!(one.0.len() == 32 && one.1.len() == 16);
    }

    #[test]
    fn numbers_of_64_bits_are_texts_and_hosts_have_resources_of_their_own() {
        let elsewhere = ReceivedEvent { host: "web2".into(), ..closed(8) };
        let events = [closed(7), elsewhere];
        let logs = serde_json::to_value(logs(&events, 3, Timestamp::UNIX_EPOCH)).expect("JSON");
        let of = |host: usize| &logs["resourceLogs"][host]["scopeLogs"][0]["logRecords"];
        assert_eq!(of(0)[0]["eventName"], "tracer.export.lost");
        assert_eq!(of(0)[1]["timeUnixNano"], "130000000000");
        assert_eq!(of(1)[0]["attributes"][0]["value"]["intValue"], "8");
        let traces = serde_json::to_value(traces(&events).expect("both are over")).expect("JSON");
        let span = &traces["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
        assert_eq!(
            (&span["startTimeUnixNano"], &span["traceId"]),
            (&"100000000000".into(), &of(0)[1]["traceId"])
        );
        assert!(super::traces(&[]).is_none());
    }

    #[test]
    fn what_receivers_refuse_is_counted_however_they_write_it() {
        assert_eq!(rejected(b"{}"), (0, String::new()));
        assert_eq!(rejected(b""), (0, String::new()));
        let said = br#"{"partialSuccess":{"rejectedLogRecords":"3","errorMessage":"too old"}}"#;
        assert_eq!(rejected(said), (3, "too old".into()));
        assert_eq!(rejected(br#"{"partialSuccess":{"rejectedSpans":2}}"#).0, 2);
        assert_eq!(rejected(br#"{"partialSuccess":{"rejectedSpans":-2}}"#).0, 0);
    }

    /// What the agent writes is what its reader gets.
    #[test]
    fn lines_of_the_stream_are_events() {
        let line = br#"{"event":"events_lost","count":7}"#;
        assert_eq!(StreamLine::parse(line).expect("one"), StreamLine::Lost(7));
        assert_eq!(StreamLine::parse(br#"{"event":"of_2031"}"#).expect("one"), StreamLine::Unknown);
        assert!(StreamLine::parse(b"{}").is_err());
    }
}
