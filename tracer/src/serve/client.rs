//! Asks a running agent over its Unix socket: what `ps`, `why`, `top` and `stalls` use where they may not look themselves.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, Response, StatusCode, body::Incoming, header::HOST};
use hyper_util::rt::TokioIo;
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
};
use tokio::{runtime::Runtime, task::JoinHandle};

use crate::{
    util::users,
    wire::lines::{self, FromJson},
};

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(25);
/// How long one may take to whom it is an addition only.
pub const OPTIONAL_TIMEOUT: Duration = Duration::from_millis(500);
/// The longest answer that is read, bytes: that of a hundred thousand waits.
const ANSWER_BYTES_MAX: usize = 128 * 1024 * 1024;

/// The longest line of a stream, bytes.
const LINE_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a stream that are worth handing out.
const LINES_BYTES: usize = 256 * 1024;

/// How long is waited where it has more askers than it takes.
const CONNECT_PAUSE: Duration = Duration::from_millis(20);
/// How often it is asked again where too many of this user's questions wait, before that is said; each time after twice as long
/// as before: six seconds in all.
const RETRIES_MAX: u32 = 6;
/// After this for the first time.
const FIRST_RETRY_AFTER: Duration = Duration::from_millis(100);

/// A running agent.
pub struct AgentClient {
    socket: PathBuf,
    patience: Duration,
    runtime: Runtime,
}

/// Why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No agent listens.
    Absent,
    /// One does, but not to this user.
    Denied(String),
}

impl Refusal {
    /// What is said where no history can be read instead.
    pub fn without_history(self) -> String {
        match self {
            Refusal::Denied(why) => why,
            Refusal::Absent => "no agent runs, and none has left a history".to_owned(),
        }
    }
}

impl AgentClient {
    /// Finds out whether an agent listens to this user.
    pub fn connect(socket: &Path) -> Result<Self, Refusal> {
        match probe(socket) {
            // With more askers than it takes it is there, too.
            Ok(()) | Err(Errno::AGAIN) => {}
            Err(Errno::ACCESS | Errno::PERM) => {
                let group = fs::metadata(socket).ok().map(|socket| socket.gid());
                let whom = match group {
                    Some(0) | None => "only root".to_owned(),
                    Some(gid) => {
                        let name = users::group_name(gid).unwrap_or_else(|| gid.to_string());
                        format!("only root and members of the group {name}")
                    }
                };
                return Err(Refusal::Denied(format!("{whom} may ask the agent on {}", socket.display())));
            }
            Err(_) => return Err(Refusal::Absent),
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime
            .map(|runtime| Self { socket: socket.to_owned(), patience: ANSWER_TIMEOUT, runtime })
            .map_err(|_| Refusal::Absent)
    }

    /// For whoever can do without an answer: how long one may take.
    pub fn within(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The body of an answer.
    pub fn get(&self, path: &str) -> Result<Bytes> {
        let asked = async {
            let mut rest = FIRST_RETRY_AFTER;
            for _ in 0..RETRIES_MAX {
                match self.ask(path).await? {
                    (StatusCode::SERVICE_UNAVAILABLE, _) => tokio::time::sleep(rest).await,
                    answer => return Ok(answer),
                }
                rest *= 2;
            }
            self.ask(path).await
        };
        let answer = self.runtime.block_on(async { tokio::time::timeout(self.patience, asked).await });
        let (status, body) = answer
            .context("no answer in time")
            .and_then(|answer| answer)
            .with_context(|| format!("cannot ask the agent on {}", self.socket.display()))?;
        if status != StatusCode::OK {
            bail!("{}", String::from_utf8_lossy(&body).trim());
        }
        Ok(body)
    }

    /// Begins to read a stream of objects, a line each. What happens from now on is in it.
    pub fn follow(&self, path: &str) -> Result<LineStream<'_>> {
        let begun = async { tokio::time::timeout(self.patience, self.begin(path)).await };
        let begun = self.runtime.block_on(begun).context("no answer in time").and_then(|begun| begun);
        let (response, connection) =
            begun.with_context(|| format!("cannot ask the agent on {}", self.socket.display()))?;
        ensure!(response.status() == StatusCode::OK, "the agent answers {}", response.status());
        Ok(LineStream { client: self, body: response.into_body(), _connection: connection, rest: Vec::new() })
    }

    /// Asks once: what the agent says of it, and the body.
    async fn ask(&self, path: &str) -> Result<(StatusCode, Bytes)> {
        let (response, connection) = self.begin(path).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
        drop(connection);
        Ok((status, body))
    }

    /// Asks: the answer, of which the body is still to come, and the connection that it comes by.
    async fn begin(&self, path: &str) -> Result<(Response<Incoming>, Connection)> {
        let stream = loop {
            match tokio::net::UnixStream::connect(&self.socket).await {
                // Too many ask at the moment.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    tokio::time::sleep(CONNECT_PAUSE).await
                }
                other => break other?,
            }
        };
        let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = Connection(tokio::spawn(connection));
        let request = Request::get(path).header(HOST, "tracer").body(Empty::<Bytes>::new())?;
        Ok((send.send_request(request).await?, connection))
    }

    /// One object.
    pub fn object<T: FromJson>(&self, path: &str) -> Result<T> {
        serde_json::from_slice(&self.get(path)?).context("cannot understand the agent's answer")
    }

    /// An object a line.
    pub fn objects<T: FromJson>(&self, path: &str) -> Result<Vec<T>> {
        lines::read(&self.get(path)?).context("cannot understand the agent's answer")
    }
}

/// A connection, which ends when it is dropped.
struct Connection(JoinHandle<hyper::Result<()>>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A stream of lines that is being read.
pub struct LineStream<'a> {
    client: &'a AgentClient,
    body: Incoming,
    _connection: Connection,
    /// The beginning of a line whose end has not come.
    rest: Vec<u8>,
}

impl LineStream<'_> {
    /// The lines that have come, once there are any, or after this time none; `None` when the stream has ended.
    ///
    /// # Errors
    /// The connection has failed, or a line is longer than any can be.
    pub fn next(&mut self, at_most: Option<Duration>) -> Result<Option<Vec<Vec<u8>>>> {
        let mut lines = Vec::new();
        while lines.is_empty() {
            let (body, rest) = (&mut self.body, &mut self.rest);
            // Given up at any moment, it has lost nothing: what has come is in `rest`.
            let read = async {
                let Some(frame) = body.frame().await else { return hyper::Result::Ok(false) };
                rest.extend(frame?.into_data().unwrap_or_default());
                // What else is there already.
                while rest.len() < LINES_BYTES
                    && let Ok(Some(frame)) = tokio::time::timeout(Duration::ZERO, body.frame()).await
                {
                    rest.extend(frame?.into_data().unwrap_or_default());
                }
                Ok(true)
            };
            let read = async {
                match at_most {
                    Some(time) => tokio::time::timeout(time, read).await.ok(),
                    None => Some(read.await),
                }
            };
            match self.client.runtime.block_on(read) {
                Some(Ok(true)) => {}
                Some(Ok(false)) => return Ok(None),
                Some(Err(error)) => return Err(error.into()),
                None => break,
            }
            while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.rest.drain(..=end).collect();
                line.pop();
                lines.push(line);
            }
            ensure!(self.rest.len() <= LINE_BYTES_MAX, "the agent has sent a line without an end");
        }
        Ok(Some(lines))
    }
}

/// The path of a question about a process, of this start if it is known, and how wide a page may be.
pub fn about(question: &str, id: u32, start_ticks: Option<u64>, width: Option<usize>) -> String {
    let start_ticks = start_ticks.map(|ticks| format!("start_ticks={ticks}"));
    let width = width.map(|columns| format!("width={columns}"));
    let query: Vec<String> = start_ticks.into_iter().chain(width).collect();
    format!("/v1/{question}/{id}?{}", query.join("&"))
}

/// Connects, and waits for nothing: an agent that hangs does not take whom it has.
fn probe(socket: &Path) -> Result<(), Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let probe = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&probe, &SocketAddrUnix::new(socket)?)
}
