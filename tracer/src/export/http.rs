//! The agent's HTTP: `/metrics` and health on TCP, nothing else; what its Unix socket serves is in `api`. Only to those who
//! ask briefly.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
    time::timeout,
};

use super::{
    api::Api,
    metrics::{self, Metrics},
};
use crate::clock::monotonic_ns;

/// Connections served at the same time; more wait in the kernel's queue.
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
    fn is_well(&self) -> bool {
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

/// Serves `/metrics` and health until dropped.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>, health: Arc<Health>) {
    let accept = || async { listener.accept().await.map(|(stream, _)| stream) };
    serve_with(accept, LIFETIME, move |request| {
        let response = answer(&request, &metrics, &health);
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
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok(stream) = accept().await else {
            // Out of fds, most likely: they come back.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let answer = answer.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let response = answer(request);
                async move { Ok::<_, Infallible>(response.await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(stream), service);
            // What a client does wrong is its own affair.
            let _ = timeout(lifetime, connection).await;
            drop(place);
        });
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

fn answer(request: &Request<Incoming>, metrics: &Arc<Metrics>, health: &Health) -> Response<Body> {
    if let Some(refusal) = only_get(request) {
        return refusal;
    }
    match request.uri().path() {
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
