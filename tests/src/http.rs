//! What does a server answer? One request on a connection of its own. It is of HTTP/1.0, so that the answer comes in one piece and
//! ends with the connection.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::slow;

/// How long an answer may take: generous, since the machine may be loaded.
const PATIENCE: Duration = Duration::from_secs(30);

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The number that says how it went.
    pub status: u16,
    /// The lines before the body.
    pub head: String,
    /// What was asked for.
    pub body: String,
}

/// Asks for a path.
///
/// # Errors
/// Nobody listens, or what comes in time is no answer.
pub fn get(address: SocketAddr, path: &str) -> io::Result<Answer> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(slow(PATIENCE)))?;
    send(stream, &request(path))
}

/// The same on a Unix socket.
///
/// # Errors
/// As above.
pub fn get_unix(socket: &Path, path: &str) -> io::Result<Answer> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(slow(PATIENCE)))?;
    send(stream, &request(path))
}

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")
}

/// Sends a request, and reads until the other side hangs up.
///
/// # Errors
/// What comes is no answer.
pub fn send(mut stream: impl Read + Write, request: &str) -> io::Result<Answer> {
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let parsed = answer.split_once("\r\n\r\n").and_then(|(head, body)| {
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
    });
    parsed.ok_or_else(|| io::Error::other(format!("this is no answer: {answer:?}")))
}
