//! What the agent answers on its Unix socket: waits, stalls, pages of `why`, the past. `docs/API.md` describes it.
//!
//! Requests are answered on a thread of their own, one after the other, from snapshots that the watching thread takes for it:
//! neither watching nor `/metrics` waits for whoever asks here, however often.

use std::{
    collections::HashMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{channel::Channel, combinators::BoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::{HeaderValue, RETRY_AFTER},
};
use jiff::Timestamp;
use tokio::sync::{broadcast, oneshot};

use super::{
    http::{Body, PLAIN, text, typed, whole},
    stream::Stream,
};
use crate::{
    assess::inspect::{self, Report, threads::StacksOf},
    assess::overview::{Overview, OverviewCache},
    assess::shared::{Numbers, Shared},
    collect::Source,
    history::History,
    model::class::Level,
    model::wait::{SuspendedThread, ThreadId, Wait, may_be_same_start},
    render::why,
    util::clock::cpu_time,
    util::fair::{self, Rejected, Room},
    wire::host::{ExcusedObject, HostObject, SuspendedObject},
    wire::json::Waiter,
    wire::lines::{self, ToJson},
    wire::report::ReportObject,
    wire::stall::StallObject,
};

/// Requests of one user that may wait for their answer. In all as many as there are connections, and that is bounded there.
const WAITING_MAX: Room = Room { all: 1024, of_one: 16 };
/// Whoever cannot be told by the kernel: no user has this number.
const NOBODY: u32 = u32::MAX;
/// The type of contents with an object a line.
const NDJSON: &str = "application/x-ndjson";
/// After how many seconds whoever was sent away may come again.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");
/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// An answer younger than this serves again.
const ANSWER_TTL: Duration = Duration::from_millis(200);
/// Looking takes at most one processor second in so many, however many ask.
const LOOK_SHARE: u32 = 5;
/// After so long without a request, what was remembered for requests goes.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// Whom a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// A process; for `why` also a thread.
    pub id: u32,
    /// When the process started, if it has to be that one and none that has its id now.
    pub start_ticks: Option<u64>,
}

/// What can be asked.
#[derive(Debug)]
pub enum ApiRequest {
    Waits { idle: bool },
    Stalls,
    Incidents,
    Host,
    Why { named: Named, width: Option<usize> },
    Baselines(Named),
    Durations(Named),
    PastWaits(Timestamp),
    PastStalls(Timestamp),
}

impl ApiRequest {
    /// Whether nothing seen before can serve, so that its answers have to rest in between.
    fn needs_rest(&self) -> bool {
        matches!(self, ApiRequest::Why { .. })
    }
}

enum Reply {
    Lines(Bytes),
    Object(Bytes),
    Text(String),
    /// There is no room for the question.
    Busy,
    Failed(StatusCode, String),
}

struct PendingRequest {
    asked: ApiRequest,
    reply: oneshot::Sender<Reply>,
}

/// The door: cheap to clone, for each connection.
#[derive(Clone)]
pub struct Api {
    questions: fair::Sender<u32, PendingRequest>,
    events: Stream,
}

impl Api {
    /// Starts the thread that answers.
    pub fn start(
        shared: Shared,
        interval: Duration,
        events: Stream,
        history: Option<Arc<History>>,
    ) -> Result<Self> {
        let (questions, queue) = fair::channel(WAITING_MAX);
        let responder = Responder::new(shared, interval, history);
        thread::Builder::new()
            .name("api".into())
            .spawn(move || responder.work(&queue))
            .context("cannot start the thread that answers requests")?;
        Ok(Self { questions, events })
    }

    /// Answers a user's request that only asks. Users take turns.
    pub async fn answer(self, request: Request<Incoming>, user: Option<u32>) -> Response<Body> {
        if request.uri().path() == "/v1/events" {
            return self.stream();
        }
        let asked = match parse(request.uri().path(), request.uri().query().unwrap_or_default()) {
            Ok(asked) => asked,
            Err((status, why)) => return text(status, why),
        };
        let (reply, answer) = oneshot::channel();
        match self.questions.send(user.unwrap_or(NOBODY), PendingRequest { asked, reply }) {
            Ok(()) => {}
            // Whoever asked may have gone.
            Err(Rejected::Full(question)) => drop(question.reply.send(Reply::Busy)),
            Err(Rejected::Gone) => {
                return text(StatusCode::INTERNAL_SERVER_ERROR, "nobody answers any more\n");
            }
        }
        match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
            Ok(Ok(Reply::Lines(bytes))) => typed(whole(bytes), NDJSON),
            Ok(Ok(Reply::Object(bytes))) => typed(whole(bytes), "application/json"),
            Ok(Ok(Reply::Text(page))) => typed(whole(page), PLAIN),
            Ok(Ok(Reply::Busy)) => {
                let mut response = text(StatusCode::SERVICE_UNAVAILABLE, "too many ask at once\n");
                response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
                response
            }
            Ok(Ok(Reply::Failed(status, why))) => text(status, format!("{why}\n")),
            Ok(Err(_)) => text(StatusCode::INTERNAL_SERVER_ERROR, "nobody answers any more\n"),
            Err(_) => text(StatusCode::GATEWAY_TIMEOUT, "no answer in time\n"),
        }
    }

    /// Stall events from now on, a line each. A reader that falls behind is told how many it missed.
    fn stream(self) -> Response<Body> {
        let mut events = self.events.listen();
        let (mut send, body) = Channel::<Bytes, io::Error>::new(16);
        tokio::spawn(async move {
            loop {
                let line = match events.recv().await {
                    Ok(line) => Bytes::copy_from_slice(line.as_bytes()),
                    Err(broadcast::error::RecvError::Lagged(number)) => {
                        Bytes::from(format!("{{\"event\":\"events_lost\",\"count\":{number}}}\n"))
                    }
                    Err(broadcast::error::RecvError::Closed) => return,
                };
                if send.send(Frame::data(line)).await.is_err() {
                    return;
                }
            }
        });
        typed(BoxBody::new(body), NDJSON)
    }
}

/// What a path and a query ask for.
pub fn parse(path: &str, query: &str) -> Result<ApiRequest, (StatusCode, &'static str)> {
    let value = |name: &str| {
        query.split('&').find_map(|part| match part.split_once('=') {
            Some((key, value)) => (key == name).then_some(value),
            None => (part == name).then_some(""),
        })
    };
    let moment = |name: &str| {
        value(name).map(|text| {
            text.parse::<Timestamp>()
                .map_err(|_| (StatusCode::BAD_REQUEST, "a moment is written as 2026-11-23T03:12:00Z\n"))
        })
    };
    let number = |text: &str| {
        text.parse::<u32>().map_err(|_| (StatusCode::BAD_REQUEST, "a process or thread is a number\n"))
    };
    let named = |id: &str| {
        let ticks = value("start_ticks").map(str::parse).transpose();
        let start_ticks =
            ticks.map_err(|_| (StatusCode::BAD_REQUEST, "a start is a number of clock ticks\n"))?;
        Ok(Named { id: number(id)?, start_ticks })
    };
    Ok(match path {
        "/v1/waits" => match moment("at").transpose()? {
            Some(at) => ApiRequest::PastWaits(at),
            None => ApiRequest::Waits { idle: value("all").is_some() },
        },
        "/v1/stalls" => match moment("since").transpose()? {
            Some(since) => ApiRequest::PastStalls(since),
            None => ApiRequest::Stalls,
        },
        "/v1/incidents" => ApiRequest::Incidents,
        "/v1/host" => ApiRequest::Host,
        _ => match path.split('/').collect::<Vec<_>>()[..] {
            ["", "v1", "why", id] => ApiRequest::Why {
                named: named(id)?,
                width: value("width").map(number).transpose()?.map(|width| width as usize),
            },
            ["", "v1", "baselines", id] => ApiRequest::Baselines(named(id)?),
            ["", "v1", "durations", id] => ApiRequest::Durations(named(id)?),
            _ => {
                return Err((
                    StatusCode::NOT_FOUND,
                    "there is /v1/waits, /v1/stalls, /v1/incidents, /v1/events, /v1/host, /v1/why/PID, /v1/baselines/PID and /v1/durations/PID\n",
                ));
            }
        },
    })
}

/// What a look gave.
struct Last {
    at: Instant,
    took: Duration,
    idle: bool,
    overview: Overview,
    held: Vec<SuspendedThread>,
    source: &'static str,
}

/// Where requests are answered.
struct Responder {
    shared: Shared,
    interval: Duration,
    history: Option<Arc<History>>,
    overviews: OverviewCache,
    last: Option<Last>,
    /// No page of `why`, which nothing seen before can serve, before this.
    rest: Instant,
}

impl Responder {
    fn new(shared: Shared, interval: Duration, history: Option<Arc<History>>) -> Self {
        Self { shared, interval, history, overviews: OverviewCache::new(), last: None, rest: Instant::now() }
    }

    fn work(mut self, queue: &fair::Receiver<u32, PendingRequest>) {
        while let Some(PendingRequest { asked, reply }) = self.next(queue) {
            // Whoever asked has given up: what they wanted need not be found out.
            if reply.is_closed() {
                continue;
            }
            let answer = self.guarded(|responder| responder.answer(&asked));
            let _ = reply.send(answer);
        }
    }

    /// The next request of the user whose turn it is. While pages of `why` have to rest, the requests of others go before them: nobody
    /// waits for a rest that another's page has made necessary, unless they want a page too. `None`: nobody can ask any more.
    fn next(&mut self, queue: &fair::Receiver<u32, PendingRequest>) -> Option<PendingRequest> {
        let mut patience = FORGET_AFTER;
        let begun = Instant::now();
        loop {
            let rest = self.rest.saturating_duration_since(Instant::now());
            let may = |_: &u32, pending: &PendingRequest| rest.is_zero() || !pending.asked.needs_rest();
            if let Some((_, pending)) = queue.take_if(may) {
                return Some(pending);
            }
            let waits = !queue.is_empty();
            if !queue.wait_for_more(if waits { rest } else { patience }) {
                return None;
            }
            if !waits && begun.elapsed() >= FORGET_AFTER {
                // Nobody asks any more: what was known for them need not be kept.
                self.forget();
                patience = Duration::MAX;
            }
        }
    }

    fn forget(&mut self) {
        (self.overviews, self.last) = (OverviewCache::new(), None);
    }

    /// A mistake in one answer, which standard error has been told of, is not one in all that follow.
    fn guarded(&mut self, answer: impl FnOnce(&mut Self) -> Result<Reply>) -> Reply {
        let failed = |why| Reply::Failed(StatusCode::INTERNAL_SERVER_ERROR, why);
        match catch_unwind(AssertUnwindSafe(|| answer(self))) {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => failed(format!("{error:#}")),
            Err(_) => {
                // Whatever it has left of what is remembered.
                self.forget();
                failed("this is a bug of tracer's, of which the agent's standard error has more".into())
            }
        }
    }

    fn answer(&mut self, asked: &ApiRequest) -> Result<Reply> {
        Ok(match asked {
            ApiRequest::Waits { idle } => {
                let mut waits: Vec<_> = self.look(*idle)?.overview.waits.iter().collect();
                waits.retain(|wait| *idle || wait.worry() != Level::Idle);
                waits.sort_by_key(|wait| std::cmp::Reverse(wait.age));
                as_lines(waits)?
            }
            ApiRequest::Stalls => as_lines(self.shared.stalls()?.iter().map(StallObject::open))?,
            ApiRequest::Incidents => as_lines(self.shared.incidents()?)?,
            ApiRequest::Host => {
                let interval_seconds = self.interval.as_secs_f64();
                let Numbers { waits, lost } = self.shared.numbers()?;
                let last = self.look(false)?;
                Reply::Object(
                    serde_json::to_vec(&HostObject {
                        version: env!("CARGO_PKG_VERSION").into(),
                        source: last.source.into(),
                        interval_seconds,
                        waiting: last.overview.classes.clone(),
                        held: last.held.iter().map(SuspendedObject::of).collect(),
                        waits_total: waits,
                        lost_total: lost,
                    })?
                    .into(),
                )
            }
            ApiRequest::Why { named, width } => match self.inspect(*named) {
                Ok(report) => match width {
                    Some(width) => Reply::Text(why::page(&report, (*width).clamp(20, 1000), None)),
                    None => Reply::Object(serde_json::to_vec(&ReportObject::new(&report))?.into()),
                },
                Err(error) => Reply::Failed(StatusCode::NOT_FOUND, format!("{error:#}")),
            },
            ApiRequest::Baselines(Named { id, start_ticks }) => as_lines(
                self.shared
                    .excuses(*id, *start_ticks)?
                    .into_iter()
                    .map(|(tid, excuse)| ExcusedObject { tid, baseline: excuse.into() }),
            )?,
            ApiRequest::Durations(Named { id, start_ticks }) => {
                let none = || Reply::Failed(StatusCode::NOT_FOUND, "no wait of it has ended".into());
                match self.shared.durations(*id, *start_ticks)? {
                    Some(durations) => Reply::Object(serde_json::to_vec(&durations)?.into()),
                    None => none(),
                }
            }
            ApiRequest::PastWaits(at) => match &self.history {
                Some(history) => Reply::Object(serde_json::to_vec(&history.waits_at(*at)?)?.into()),
                None => no_history(),
            },
            ApiRequest::PastStalls(since) => match &self.history {
                Some(history) => {
                    let mut stalls = history.stalls_since(*since)?;
                    self.age_open(&mut stalls)?;
                    as_lines(stalls)?
                }
                None => no_history(),
            },
        })
    }

    /// How long the open ones have lasted is known by the watcher: the wall clock may have been set since they began.
    fn age_open(&self, stalls: &mut [StallObject]) -> Result<()> {
        let open = self.shared.stalls()?;
        let waiter = |wait: &Wait| -> Waiter {
            let ThreadId { process, tid, .. } = wait.thread;
            (process.pid, tid, wait.fd.filter(|_| wait.thread.is_request()))
        };
        let by_waiter: HashMap<Waiter, &Wait> =
            open.iter().map(|stall| (waiter(&stall.wait), &stall.wait)).collect();
        for stall in stalls.iter_mut().filter(|stall| stall.closed.is_none()) {
            if let Some(wait) = by_waiter.get(&stall.wait.waiter())
                && may_be_same_start(stall.wait.start_ticks, wait.thread.process.start_ticks())
            {
                stall.lasted = wait.age;
            }
        }
        Ok(())
    }

    /// Looks into one process. What the agent used of the processor for it is followed by a rest of such looks. This thread and the one
    /// that watches take turns, so that is no more than the time it took, whatever else the agent did meanwhile.
    fn inspect(&mut self, Named { id, start_ticks }: Named) -> Result<Report> {
        let (begun, before) = (Instant::now(), cpu_time());
        let report =
            inspect::inspect(id, start_ticks, StacksOf::First, &mut self.shared).and_then(|mut report| {
                let process = report.process;
                report.excuse(&self.shared.excuses(process.pid, process.start_ticks())?);
                Ok(report)
            });
        let used = cpu_time().saturating_sub(before).min(begun.elapsed());
        self.rest = Instant::now() + used * (LOOK_SHARE - 1);
        report
    }

    /// All waits of now, or of a moment ago.
    fn look(&mut self, idle: bool) -> Result<&Last> {
        let fresh = self.last.as_ref().is_some_and(|last| {
            (last.idle || !idle) && last.at.elapsed() < ANSWER_TTL.max(last.took * LOOK_SHARE)
        });
        if !fresh {
            let begun = Instant::now();
            let snapshot = self.shared.snapshot()?;
            let up_to = if idle { Level::Idle } else { Level::Doubtful };
            let overview = self.overviews.see(&snapshot, &mut self.shared, up_to, |_| true)?;
            let (held, source) = (snapshot.suspended, snapshot.source);
            self.last =
                Some(Last { at: Instant::now(), took: begun.elapsed(), idle, overview, held, source });
        }
        self.last.as_ref().context("nothing was seen")
    }
}

fn no_history() -> Reply {
    Reply::Failed(StatusCode::NOT_FOUND, "this agent keeps no history".into())
}

/// An object a line.
fn as_lines<T: ToJson>(objects: impl IntoIterator<Item = T>) -> Result<Reply> {
    let mut out = Vec::new();
    for object in objects {
        lines::write(&mut out, &object)?;
    }
    Ok(Reply::Lines(out.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assess::shared;

    #[test]
    fn paths_and_queries() {
        let asked = |path: &str, query: &str| parse(path, query).map_err(|(status, _)| status.as_u16());
        assert!(matches!(asked("/v1/waits", ""), Ok(ApiRequest::Waits { idle: false })));
        assert!(matches!(asked("/v1/incidents", ""), Ok(ApiRequest::Incidents)));
        assert!(matches!(asked("/v1/waits", "all"), Ok(ApiRequest::Waits { idle: true })));
        assert!(matches!(asked("/v1/waits", "x=1&all="), Ok(ApiRequest::Waits { idle: true })));
        assert!(matches!(asked("/v1/waits", "at=2026-11-23T03:12:00Z"), Ok(ApiRequest::PastWaits(_))));
        assert!(matches!(asked("/v1/waits", "at=yesterday"), Err(400)));
        assert!(matches!(
            asked("/v1/why/7", "width=80&start_ticks=9"),
            Ok(ApiRequest::Why { named: Named { id: 7, start_ticks: Some(9) }, width: Some(80) })
        ));
        assert!(matches!(
            asked("/v1/baselines/7", ""),
            Ok(ApiRequest::Baselines(Named { id: 7, start_ticks: None }))
        ));
        assert!(matches!(
            asked("/v1/durations/7", "start_ticks=18446744073709551615"),
            Ok(ApiRequest::Durations(Named { id: 7, start_ticks: Some(u64::MAX) }))
        ));
        assert!(matches!(asked("/v1/durations/7", "start_ticks="), Err(400)));
        assert!(matches!(asked("/v1/why/7", "start_ticks=-1"), Err(400)));
        assert!(matches!(asked("/v1/why/init", ""), Err(400)));
        assert!(matches!(asked("/v1/why/7/8", ""), Err(404)));
        assert!(matches!(asked("/v2/waits", ""), Err(404)));
    }

    #[test]
    fn while_pages_rest_what_others_ask_goes_first() {
        let (shared, _asked) = shared::pair().expect("two ends");
        let mut responder = Responder::new(shared, Duration::from_secs(1), None);
        let (questions, queue) = fair::channel(WAITING_MAX);
        let ask = |user: u32, path: &str| {
            let asked = parse(path, "").expect("a request");
            assert!(questions.send(user, PendingRequest { asked, reply: oneshot::channel().0 }).is_ok());
        };
        for (user, path) in [(1, "/v1/why/7"), (1, "/v1/why/7"), (2, "/v1/stalls"), (3, "/v1/host")] {
            ask(user, path);
        }
        let over = Instant::now() + Duration::from_millis(200);
        responder.rest = over;
        let mut next = || responder.next(&queue).map(|pending| (pending.asked, Instant::now() >= over));
        assert!(matches!(next(), Some((ApiRequest::Stalls, _))));
        assert!(matches!(next(), Some((ApiRequest::Host, _))));
        assert!(matches!(next(), Some((ApiRequest::Why { .. }, true))));
        ask(2, "/v1/waits");
        assert!(matches!(next(), Some((ApiRequest::Why { .. }, true))), "it has waited for longer");
        assert!(matches!(next(), Some((ApiRequest::Waits { .. }, true))));
        drop(questions);
        assert!(next().is_none());
    }

    #[test]
    fn a_panic_ends_one_answer() {
        let (shared, _asked) = shared::pair().expect("two ends");
        let mut responder = Responder::new(shared, Duration::from_secs(1), None);
        let Reply::Failed(status, why) = responder.guarded(|_| panic!("on purpose")) else {
            panic!("it failed")
        };
        assert!(status.is_server_error() && why.contains("a bug"), "{why}");
        let answer = responder.guarded(|_| Ok(Reply::Text("fine".into())));
        assert!(matches!(answer, Reply::Text(text) if text == "fine"));
    }
}
