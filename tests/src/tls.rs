//! Which TLS peer completes the handshake and then does not answer? A helper process with a certificate of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;
use std::{fs, thread};

use serde_json::Value;

use crate::launch::{Running, own_dir, start};
use crate::mute::{LastWord, Talk, Talks};
use crate::programs::debian_program;

const PATIENCE: Duration = Duration::from_secs(60);

/// When the server sends the session tickets of TLS 1.3, which nobody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tickets {
    /// Never.
    None,
    /// At the end of the handshake.
    AtOnce,
    /// After the client's first request has arrived, as happens where client and server are not in step: the
    /// client's request follows its handshake without a pause.
    Late,
}

/// What a server does after the handshake.
#[derive(Debug, Clone, Copy)]
pub struct Manners {
    /// When its tickets go out.
    pub tickets: Tickets,
    /// How many requests it answers before it falls silent.
    pub answers: u32,
    /// Whether it then sends half an answer.
    pub half: bool,
}

/// A server on a free port of loopback. It is killed when dropped.
#[derive(Debug)]
pub struct TlsServer {
    _process: Running,
    address: SocketAddr,
    talks: Talks,
}

impl TlsServer {
    /// Starts one; returns when it listens.
    pub fn start(manners: Manners) -> Self {
        let (certificate, key) = certificate();
        let tickets = match manners.tickets {
            Tickets::None => "none",
            Tickets::AtOnce => "at-once",
            Tickets::Late => "late",
        };
        let mut command = Command::new(debian_program("python3"));
        command.arg(script()).args([certificate, key]);
        command.args([tickets, &manners.answers.to_string(), if manners.half { "half" } else { "nothing" }]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = start(command);
        let stdout = process.pipes().stdout.take().expect("piped");
        let talks = Talks::default();
        let shared = Arc::clone(&talks);
        let (send, listening) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let Ok(event) = serde_json::from_str::<Value>(&line) else { panic!("no JSON: {line:?}") };
                if event["event"] == "listening" {
                    let _ = send.send(event["port"].as_u64());
                } else {
                    note(&shared, &event);
                }
            }
        });
        let port = listening.recv_timeout(PATIENCE).expect("the TLS server listens; its stderr is above");
        let port = port.and_then(|port| u16::try_from(port).ok()).expect("a port");
        Self { _process: process, address: SocketAddr::from(([127, 0, 0, 1], port)), talks }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// All connections it has seen.
    pub fn talks(&self) -> Vec<Talk> {
        self.talks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn note(talks: &Talks, event: &Value) {
    let mut talks = talks.lock().unwrap_or_else(PoisonError::into_inner);
    let moment: i128 = event["realtime_ns"].as_i64().expect("a moment").into();
    if event["event"] == "accepted" {
        let client = event["client"].as_str().and_then(|client| client.parse().ok()).expect("an address");
        talks.push(Talk { said_all: false, ..Talk::begin(client, moment) });
        return;
    }
    let talk = talks.last_mut().expect("accepted before anything else");
    match event["event"].as_str() {
        Some("received") => (talk.last_ns, talk.last_word) = (moment, LastWord::Client),
        Some("sent") => (talk.last_ns, talk.last_word) = (moment, LastWord::Server),
        // The last bytes, and no word of the server's.
        Some("tickets") => talk.last_ns = moment,
        Some("heard") => talk.said_all = true,
        Some("closed") => talk.closed = true,
        _ => {}
    }
}

/// The helper as a file of this process's own.
fn script() -> &'static Path {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| {
        let file = own_dir().join("tls_server.py");
        fs::write(&file, include_str!("tls_server.py")).expect("a file");
        file
    })
}

/// A self-signed certificate and its key, made once.
pub fn certificate() -> (&'static Path, &'static Path) {
    static FILES: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    let (certificate, key) = FILES.get_or_init(|| {
        let (certificate, key) = (own_dir().join("certificate.pem"), own_dir().join("key.pem"));
        let mut openssl = Command::new(debian_program("openssl"));
        openssl.args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
        ]);
        openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
        let output = openssl.output().expect("openssl starts");
        assert!(
            output.status.success(),
            "openssl made no certificate: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        (certificate, key)
    });
    (certificate, key)
}
