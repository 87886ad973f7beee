//! The receiver of OTLP over HTTP, and what it says to a request (<https://opentelemetry.io/docs/specs/otlp/#otlphttp-response>).

use std::{fmt, time::Duration};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    HeaderMap, Request, StatusCode, Uri,
    header::{CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::runtime::Runtime;

use super::checked;

/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answer that is read, bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Where events are sent.
pub struct OtlpReceiver {
    uri: Uri,
    headers: HeaderMap,
    runtime: Runtime,
}

/// What it says.
#[derive(Debug, PartialEq, Eq)]
pub enum PostAnswer {
    /// It has them; the body of its answer may say that some are refused.
    Taken(Bytes),
    /// They are to be sent again, after this time if it says so.
    Later(Option<Duration>, String),
    /// They are not to be sent again.
    Refused(String),
}

impl OtlpReceiver {
    /// One at this address, which gets these headers with each request.
    pub fn new(url: &str, headers: &HeaderMap) -> Result<Self> {
        let uri = checked(url)?;
        let mut headers = headers.clone();
        let host = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
        headers.insert(HOST, HeaderValue::from_str(host).context("an address")?);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("tracer/", env!("CARGO_PKG_VERSION"))));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Self { uri, headers, runtime: runtime.context("cannot wait for answers")? })
    }

    /// Sends once.
    pub fn post(&self, path: &str, body: Bytes) -> PostAnswer {
        let asked = in_time(self.ask(path, body));
        match self.runtime.block_on(asked) {
            Ok((status, headers, body)) => judge(status, &headers, body),
            Err(error) => PostAnswer::Later(None, format!("{error:#}")),
        }
    }

    async fn ask(&self, path: &str, body: Bytes) -> Result<(StatusCode, HeaderMap, Bytes)> {
        let (host, port) = (self.uri.host().unwrap_or_default(), self.uri.port_u16().unwrap_or(80));
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let stream = tokio::net::TcpStream::connect((host, port)).await?;
        let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let mut request = Request::post(format!("{}{path}", self.uri.path().trim_end_matches('/')))
            .body(Full::new(body))
            .context("a request")?;
        *request.headers_mut() = self.headers.clone();
        let response = send.send_request(request).await?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        connection.abort();
        let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
        Ok((parts.status, parts.headers, body))
    }
}

impl fmt::Display for OtlpReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.uri.authority().map(|authority| authority.as_str()).unwrap_or_default())
    }
}

async fn in_time<T>(asked: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(TIMEOUT, asked).await.context("no answer in time")?
}

/// Which answers mean that a request may be sent again is in the specification. Those that mean a wrong address or credentials are among them
/// here: events wait in the queue until that is mended.
fn judge(status: StatusCode, headers: &HeaderMap, body: Bytes) -> PostAnswer {
    let why = || {
        let text: String = String::from_utf8_lossy(&body).chars().take(200).collect();
        format!("{status} {}", text.trim()).trim_end().to_owned()
    };
    match status {
        status if status.is_success() => PostAnswer::Taken(body),
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT
        | StatusCode::UNAUTHORIZED
        | StatusCode::FORBIDDEN
        | StatusCode::NOT_FOUND => {
            let after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
            PostAnswer::Later(after.map(Duration::from_secs), why())
        }
        _ => PostAnswer::Refused(why()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_as_the_specification_has_them() {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("7"));
        let of = |code: u16| judge(StatusCode::from_u16(code).expect("a status"), &headers, Bytes::new());
        assert_eq!(of(200), PostAnswer::Taken(Bytes::new()));
        for code in [429, 502, 503, 504, 401, 403, 404] {
            let PostAnswer::Later(after, _) = of(code) else { panic!("{code} is not for ever") };
            assert_eq!(after, Some(Duration::from_secs(7)), "{code}");
        }
        for code in [400, 413, 415, 500] {
            assert!(matches!(of(code), PostAnswer::Refused(_)), "{code}");
        }
    }

    #[test]
    fn an_address_is_of_http_and_has_no_password() {
        let receiver = OtlpReceiver::new("http://192.0.2.1:4318/otlp/", &HeaderMap::new());
        assert_eq!(receiver.expect("an address").to_string(), "192.0.2.1:4318");
        for url in [
            "https://192.0.2.1",
            "192.0.2.1:4318",
            "http://",
            "ftp://192.0.2.1",
            "http://user:secret@192.0.2.1",
        ] {
            let error = checked(url).expect_err(url).to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
