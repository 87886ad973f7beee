//! The agent's HTTP: `/metrics` and health on TCP, nothing else; what its Unix socket serves is in `api`. Whoever only holds a
//! connection loses it to whoever asks.

use std::{
    convert::Infallible,
    fs::File,
    io::Read,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use subtle::ConstantTimeEq;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    task::AbortHandle,
    time::timeout,
};

use super::{
    api::Api,
    metrics::{self, Metrics},
};
use crate::clock::monotonic_ns;

/// Connections served at the same time: one more ends the one that has been idle for longest.
const CONNECTIONS: usize = 64;
/// A request's head must have come within this.
const HEAD: Duration = Duration::from_secs(5);
/// A connection lives this long at most; Prometheus opens another.
const LIFETIME: Duration = Duration::from_secs(120);

/// A response's contents: there at once, or as they come.
pub type Body = BoxBody<Bytes, Infallible>;

/// How the agent is, for the health endpoints.
#[derive(Default)]
pub struct Health {
    /// The first snapshot has been taken.
    pub ready: AtomicBool,
    /// When the last snapshot was taken, nanoseconds of `CLOCK_MONOTONIC`.
    pub last_snapshot_ns: AtomicU64,
    /// Without a snapshot for this long the agent is not healthy, nanoseconds.
    pub patience_ns: u64,
}

impl Health {
    /// Whether it looks as often as it should.
    pub fn is_well(&self) -> bool {
        let last = self.last_snapshot_ns.load(Ordering::Relaxed);
        monotonic_ns().saturating_sub(last) < self.patience_ns
    }
}

/// Takes the address.
pub async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}: is another agent running? --listen takes another address")
    })
}

/// What those who read `/metrics` must know.
pub struct Token(String);

impl Token {
    /// The first line of a file, which only its owner may read.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display();
        let file = File::open(path).with_context(|| format!("cannot read the token in {name}"))?;
        let mode = file.metadata()?.permissions().mode();
        ensure!(mode & 0o007 == 0, "{name} can be read by everybody, so it is no secret: chmod o= {name}");
        let mut text = String::new();
        file.take(4096)
            .read_to_string(&mut text)
            .with_context(|| format!("cannot read the token in {name}"))?;
        let token = text.lines().next().unwrap_or_default().trim();
        ensure!(token.len() >= 16, "the token in {name} is shorter than 16 characters");
        Ok(Self(format!("Bearer {token}")))
    }

    /// Whether the request shows it. The comparison takes as long wherever the two differ.
    fn is_shown(&self, request: &Request<Incoming>) -> bool {
        let shown = request.headers().get(AUTHORIZATION).map_or(&b""[..], HeaderValue::as_bytes);
        shown.ct_eq(self.0.as_bytes()).into()
    }
}

/// Serves `/metrics` and health until dropped.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    token: Option<Arc<Token>>,
) {
    let accept = || async { listener.accept().await.map(|(stream, _)| stream) };
    serve_with(accept, LIFETIME, move |request| {
        let response = answer(&request, &metrics, &health, token.as_deref());
        async move { response }
    })
    .await;
}

/// Serves the API until dropped.
pub async fn serve_api(listener: UnixListener, api: Api) {
    /// Whoever listens to events does so for long.
    const LIFETIME: Duration = Duration::from_secs(86_400);
    let accept = || async { listener.accept().await.map(|(stream, _)| stream) };
    serve_with(accept, LIFETIME, move |request| {
        let api = api.clone();
        async move {
            match only_get(&request) {
                Some(refusal) => refusal,
                None => api.answer(request).await,
            }
        }
    })
    .await;
}

/// A connection that is served.
struct Connection {
    task: AbortHandle,
    traffic: Arc<Traffic>,
}

/// What a connection does.
struct Traffic {
    /// Requests whose answers have not been written whole.
    pending: AtomicUsize,
    /// When the last request came, or the connection: nanoseconds of `CLOCK_MONOTONIC`.
    last_ns: AtomicU64,
}

/// An answer that is being made and written: as long as this lives.
struct Pending(Arc<Traffic>);

impl Pending {
    fn new(traffic: &Arc<Traffic>) -> Self {
        traffic.pending.fetch_add(1, Ordering::Relaxed);
        traffic.last_ns.store(monotonic_ns(), Ordering::Relaxed);
        Self(Arc::clone(traffic))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Makes room for one more: ends those that are idle for longest, and where none is, those that ask for longest.
fn make_room(open: &mut Vec<Connection>) {
    open.retain(|connection| !connection.task.is_finished());
    while open.len() >= CONNECTIONS {
        let idle_since = |connection: &Connection| {
            let Traffic { pending, last_ns } = &*connection.traffic;
            (pending.load(Ordering::Relaxed) > 0, last_ns.load(Ordering::Relaxed))
        };
        let Some((at, _)) = open.iter().enumerate().min_by_key(|(_, connection)| idle_since(connection))
        else {
            return;
        };
        open.swap_remove(at).task.abort();
    }
}

/// Serves whatever comes, so many at a time.
async fn serve_with<S, A, F>(
    accept: impl Fn() -> A,
    lifetime: Duration,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Future<Output = std::io::Result<S>>,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let mut open: Vec<Connection> = Vec::new();
    loop {
        let Ok(stream) = accept().await else {
            // Out of fds, most likely: they come back.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        make_room(&mut open);
        let answer = answer.clone();
        let traffic =
            Arc::new(Traffic { pending: AtomicUsize::new(0), last_ns: AtomicU64::new(monotonic_ns()) });
        let served = Arc::clone(&traffic);
        let task = tokio::spawn(async move {
            let service = service_fn(move |request| {
                let pending = Pending::new(&served);
                let response = answer(request);
                async move {
                    let whole = move |body: Body| {
                        body.map_frame(move |frame| {
                            let _until_it_is_written = &pending;
                            frame
                        })
                        .boxed()
                    };
                    Ok::<_, Infallible>(response.await.map(whole))
                }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(stream), service);
            // What a client does wrong is its own affair.
            let _ = timeout(lifetime, connection).await;
        });
        open.push(Connection { task: task.abort_handle(), traffic });
    }
}

/// The refusal of a request that does more than ask.
fn only_get(request: &Request<Incoming>) -> Option<Response<Body>> {
    if request.method() == Method::GET || request.method() == Method::HEAD {
        return None;
    }
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    Some(response)
}

fn answer(
    request: &Request<Incoming>,
    metrics: &Arc<Metrics>,
    health: &Health,
    token: Option<&Token>,
) -> Response<Body> {
    if let Some(refusal) = only_get(request) {
        return refusal;
    }
    match request.uri().path() {
        "/metrics" if token.is_some_and(|token| !token.is_shown(request)) => {
            let mut response = text(StatusCode::UNAUTHORIZED, "the token is missing or another\n");
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            response
        }
        "/metrics" => match metrics::page(metrics) {
            Ok(page) => {
                let mut response = Response::new(Full::new(Bytes::from(page)).boxed());
                response
                    .headers_mut()
                    .insert(CONTENT_TYPE, HeaderValue::from_static(prometheus::TEXT_FORMAT));
                response
            }
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n"),
        },
        "/-/healthy" if health.is_well() => text(StatusCode::OK, "healthy\n"),
        "/-/healthy" => text(StatusCode::SERVICE_UNAVAILABLE, "no snapshot for too long\n"),
        "/-/ready" if health.ready.load(Ordering::Relaxed) => text(StatusCode::OK, "ready\n"),
        "/-/ready" => text(StatusCode::SERVICE_UNAVAILABLE, "no snapshot yet\n"),
        "/" => text(StatusCode::OK, "tracer: /metrics, /-/healthy, /-/ready\n"),
        _ => text(StatusCode::NOT_FOUND, "not found\n"),
    }
}

/// A response of a line or two.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
