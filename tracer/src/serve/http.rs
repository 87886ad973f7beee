//! The agent's HTTP: `/metrics` and health on TCP, nothing else; what its Unix socket serves is in `api`. Whoever only holds a
//! connection loses it to whoever asks, and no client can make it hold much memory.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body as Contents, Incoming},
    header::{ALLOW, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, UnixListener},
    task::{AbortHandle, yield_now},
    time::{sleep, timeout},
};

use super::{api::Api, page::Pages, token::Token};
use crate::metrics::{Metrics, health::Health};
use crate::util::clock::monotonic_ns;

/// Connections served at the same time: one more ends the one that has been idle for longest, of the user who has most.
const CONNECTIONS_MAX: usize = 64;
/// The young are not ended, so that a burst of askers is answered: their requests are on the way.
const SPARED_UNTIL_AGE: Duration = Duration::from_millis(100);
/// Connections at the same time, the young among them.
const BURST_MAX: usize = 512;
/// What the kernel takes of an answer that is not read, bytes.
const SEND_BUFFER_BYTES: u32 = 64 * 1024;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// A request's head must have come within this.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection lives this long at most; Prometheus opens another.
const LIFETIME: Duration = Duration::from_secs(120);

/// A response's contents: there at once, or as they come.
pub type Body = BoxBody<Bytes, io::Error>;

/// The type of text for people.
pub const PLAIN: &str = "text/plain; charset=utf-8";

/// Takes the address.
pub fn bind(address: SocketAddr) -> Result<TcpListener> {
    let bind = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        // Its connections have it from the listener.
        socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().with_context(|| {
        format!("cannot listen on {address}: is another agent running? --listen takes another address")
    })
}

/// Serves `/metrics` and health until dropped.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    token: Option<Arc<Token>>,
) {
    let accept = || async { listener.accept().await.map(|(stream, _)| (stream, None)) };
    let pages = Arc::new(Pages::new(metrics));
    serve_with(accept, LIFETIME, move |request, _| {
        let response = answer(&request, &pages, &health, token.as_deref());
        async move { response }
    })
    .await;
}

/// Serves the API until dropped.
pub async fn serve_api(listener: UnixListener, api: Api) {
    /// Whoever listens to events does so for long.
    const LIFETIME: Duration = Duration::from_secs(86_400);
    let accept = || async {
        let (stream, _) = listener.accept().await?;
        // As the kernel has it of whoever connected (SO_PEERCRED).
        let user = stream.peer_cred().ok().map(|peer| peer.uid());
        Ok((stream, user))
    };
    serve_with(accept, LIFETIME, move |request, user| {
        let api = api.clone();
        async move {
            match only_get(&request) {
                Some(refusal) => refusal,
                None => api.answer(request, user).await,
            }
        }
    })
    .await;
}

/// Who is at the other end: a user; `None` on TCP, where nobody says.
type ConnectedUser = Option<u32>;
/// The user who always has half of the connections.
const ROOT: ConnectedUser = Some(0);

/// A connection that is served.
struct HttpConnection {
    task: AbortHandle,
    /// When it came, nanoseconds of `CLOCK_MONOTONIC`.
    since_ns: u64,
    user: ConnectedUser,
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

/// What is known of a connection when one has to end.
#[derive(Clone, Copy, Debug)]
struct ConnectionStanding {
    /// It waits for an answer, or the rest of one.
    asks: bool,
    /// When its last request came, or the connection.
    last_ns: u64,
    /// When it came.
    since_ns: u64,
    user: ConnectedUser,
}

/// Which connection ends where there is one too many: of the user who has most, the one that is idle for longest, and where none
/// is, the one that asks for longest. The young are spared while there are not too many of them.
fn whom_to_end(open: &[ConnectionStanding], now_ns: u64) -> Option<usize> {
    if open.len() <= CONNECTIONS_MAX {
        return None;
    }
    let is_young =
        |one: &ConnectionStanding| now_ns.saturating_sub(one.since_ns) < SPARED_UNTIL_AGE.as_nanos() as u64;
    let most = who_has_most(open);
    open.iter()
        .enumerate()
        .filter(|(_, one)| Some(one.user) == most && (open.len() > BURST_MAX || !is_young(one)))
        .min_by_key(|(_, one)| (one.asks, one.last_ns))
        .map(|(at, _)| at)
}

/// Who has most connections. Half of all that are served are root's before any of root's count.
fn who_has_most(open: &[ConnectionStanding]) -> Option<ConnectedUser> {
    let mut of_user: HashMap<ConnectedUser, usize> = HashMap::new();
    for one in open {
        *of_user.entry(one.user).or_default() += 1;
    }
    if let Some(number) = of_user.get_mut(&ROOT) {
        *number = number.saturating_sub(CONNECTIONS_MAX / 2);
    }
    of_user.into_iter().max_by_key(|(user, number)| (*number, *user)).map(|(user, _)| user)
}

/// Ends those that are too many.
fn end_some(open: &mut Vec<HttpConnection>) {
    open.retain(|connection| !connection.task.is_finished());
    let now_ns = monotonic_ns();
    loop {
        let standing = |HttpConnection { traffic, since_ns, user, .. }: &HttpConnection| ConnectionStanding {
            asks: traffic.pending.load(Ordering::Relaxed) > 0,
            last_ns: traffic.last_ns.load(Ordering::Relaxed),
            since_ns: *since_ns,
            user: *user,
        };
        let standings: Vec<ConnectionStanding> = open.iter().map(standing).collect();
        let Some(at) = whom_to_end(&standings, now_ns) else { return };
        open.swap_remove(at).task.abort();
    }
}

/// Serves whatever comes, so many at a time.
async fn serve_with<S, A, F>(
    accept: impl Fn() -> A,
    lifetime: Duration,
    answer: impl Fn(Request<Incoming>, ConnectedUser) -> F + Clone + Send + 'static,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Future<Output = io::Result<(S, ConnectedUser)>>,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let mut open: Vec<HttpConnection> = Vec::new();
    loop {
        // Those that came before get their turn: what they have asked is answered before somebody has to go.
        yield_now().await;
        end_some(&mut open);
        let stream = tokio::select! {
            accepted = accept() => accepted,
            // Of a burst not everybody stays.
            () = sleep(SPARED_UNTIL_AGE), if open.len() > CONNECTIONS_MAX => continue,
        };
        let Ok((stream, user)) = stream else {
            // Out of fds, most likely: they come back.
            sleep(SPARED_UNTIL_AGE).await;
            continue;
        };
        let answer = answer.clone();
        let since_ns = monotonic_ns();
        let traffic = Arc::new(Traffic { pending: AtomicUsize::new(0), last_ns: AtomicU64::new(since_ns) });
        let served = Arc::clone(&traffic);
        let task = tokio::spawn(async move {
            let service = service_fn(move |request| {
                let pending = Pending::new(&served);
                let response = answer(request, user);
                async move { Ok::<_, Infallible>(response.await.map(|body| until_written(body, pending))) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(stream), service);
            // What a client does wrong is its own affair.
            let _ = timeout(lifetime, connection).await;
        });
        open.push(HttpConnection { task: task.abort_handle(), since_ns, user, traffic });
    }
}

/// The same contents, with what lives until they are written. They still say how long they are: a reader who loses the connection
/// in the middle knows that it is not the end.
fn until_written(body: Body, pending: Pending) -> impl Contents<Data = Bytes, Error = io::Error> {
    body.map_err(move |error| {
        let _pending = &pending;
        error
    })
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
    pages: &Pages,
    health: &Health,
    token: Option<&Token>,
) -> Response<Body> {
    if let Some(refusal) = only_get(request) {
        return refusal;
    }
    match request.uri().path() {
        "/metrics" if token.is_some_and(|token| !token.is_shown(request)) => {
            let mut response = text(StatusCode::UNAUTHORIZED, "the token is missing or wrong\n");
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            response
        }
        "/metrics" => match pages.latest() {
            Ok(page) => typed(page, prometheus::TEXT_FORMAT),
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n"),
        },
        "/-/healthy" => match health.trouble() {
            None => text(StatusCode::OK, "healthy\n"),
            Some(trouble) => text(StatusCode::SERVICE_UNAVAILABLE, trouble),
        },
        "/-/ready" if health.ready.load(Ordering::Relaxed) => text(StatusCode::OK, "ready\n"),
        "/-/ready" => text(StatusCode::SERVICE_UNAVAILABLE, "no snapshot yet\n"),
        "/" => text(StatusCode::OK, "tracer: /metrics, /-/healthy, /-/ready\n"),
        _ => text(StatusCode::NOT_FOUND, "not found\n"),
    }
}

/// Contents that are there at once.
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// A response of a line or two.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = typed(whole(body), PLAIN);
    *response.status_mut() = status;
    response
}

/// A response with contents of this type.
pub fn typed(body: Body, kind: &'static str) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// So many connections; each as `of` has it by its number, in milliseconds.
    fn ends(number: u64, now: u64, of: impl Fn(u64) -> (bool, u64, u64)) -> Option<usize> {
        let standing = |number| {
            let (asks, last, since) = of(number);
            ConnectionStanding { asks, last_ns: last * 1_000_000, since_ns: since * 1_000_000, user: None }
        };
        whom_to_end(&(0..number).map(standing).collect::<Vec<_>>(), now * 1_000_000)
    }

    #[test]
    fn the_longest_idle_ends_and_the_young_do_not() {
        assert_eq!(ends(64, 1000, |_| (false, 0, 0)), None, "there is room");
        assert_eq!(ends(65, 1000, |number| (false, 100 - number, 0)), Some(64));
        assert_eq!(ends(65, 1000, |number| (number != 5, number, 0)), Some(5), "it asks nothing");
        assert_eq!(ends(65, 1000, |number| (true, 100 + number, 0)), Some(0), "it has asked for longest");
        assert_eq!(ends(512, 1000, |_| (false, 950, 950)), None, "all are young");
        assert_eq!(ends(512, 1000, |number| (number == 7, 950, if number == 7 { 0 } else { 950 })), Some(7));
        assert_eq!(ends(513, 1000, |number| (false, 950 + number % 40, 950)), Some(0), "too many are");
    }

    /// So many of each user: whose connection ends, all being equally old.
    fn whose_ends(of_user: &[(u32, usize)]) -> Option<u32> {
        let of_one = |(user, number): &(u32, usize)| {
            vec![ConnectionStanding { asks: true, last_ns: 0, since_ns: 0, user: Some(*user) }; *number]
        };
        let open: Vec<ConnectionStanding> = of_user.iter().flat_map(of_one).collect();
        whom_to_end(&open, 1_000_000_000).and_then(|at| open[at].user)
    }

    #[test]
    fn who_has_most_loses_one() {
        assert_eq!(whose_ends(&[(33, 64)]), None);
        assert_eq!(whose_ends(&[(34, 1), (33, 64)]), Some(33));
        assert_eq!(whose_ends(&[(0, 32), (34, 2), (33, 31)]), Some(33), "half are root's");
        assert_eq!(whose_ends(&[(0, 60), (33, 5)]), Some(0), "but not all");
        assert_eq!(whose_ends(&[(0, 65)]), Some(0));
        let crowd: Vec<(u32, usize)> = (1..100).map(|user| (user, 1)).chain([(0, 32)]).collect();
        assert_ne!(whose_ends(&crowd), Some(0));
    }

    /// Whoever asks again and again, too, is sent away when the time is over.
    #[tokio::test]
    async fn a_connection_lives_so_long_at_most() {
        use std::io::Write;
        let lifetime = Duration::from_millis(500);
        let listener = bind(([127, 0, 0, 1], 0).into()).expect("a port");
        let address = listener.local_addr().expect("bound");
        let accept = || async { listener.accept().await.map(|(stream, _)| (stream, None)) };
        let serves = serve_with(accept, lifetime, |_, _| async { text(StatusCode::OK, "x") });
        let asks = tokio::task::spawn_blocking(move || {
            let mut stream = std::net::TcpStream::connect(address).expect("connect");
            let begin = std::time::Instant::now();
            let mut answers = 0;
            while stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").is_ok()
                && matches!(stream.read(&mut [0; 1024]), Ok(1..))
            {
                assert!(begin.elapsed() < Duration::from_secs(20), "it is served on");
                answers += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            (answers, begin.elapsed())
        });
        let (answers, lived) = tokio::select! {
            lived = asks => lived.expect("it is sent away"),
            () = serves => unreachable!("it serves on"),
        };
        assert!(answers > 1 && lived >= lifetime - Duration::from_millis(50), "{answers}, {lived:?}");
    }
}
