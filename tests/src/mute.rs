//! Who accepts every connection, reads everything, and then does not answer? The peer that real clients hang on.
//!
//! It writes down when the last byte passed and whose it was: that is the truth which tracer's class and age are
//! held against.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::clock;

/// Something the server says once, before it falls silent.
#[derive(Clone, Copy)]
pub struct Say {
    /// Whether enough of the client's bytes have come, since the connection began or we last said something.
    pub after: fn(&[u8]) -> bool,
    /// What.
    pub what: &'static [u8],
}

/// Whose bytes were the last on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastWord {
    /// Neither has said anything.
    Nobody,
    /// The client's: it has asked.
    Client,
    /// The server's: it has begun to answer.
    Server,
}

/// What the server knows of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Talk {
    /// The client's end.
    pub client: SocketAddr,
    /// The last progress: it was accepted, the client's last byte arrived, or ours was sent. Realtime clock.
    pub last_ns: i128,
    /// Who made it.
    pub last_word: LastWord,
    /// Whether everything was said that there was to say.
    pub said_all: bool,
    /// Whether the client has hung up.
    pub closed: bool,
}

impl Talk {
    /// A connection that begins now.
    pub fn begin(client: SocketAddr, last_ns: i128) -> Self {
        Self { client, last_ns, last_word: LastWord::Nobody, said_all: true, closed: false }
    }
}

/// The connections of a server, as they stand.
pub type Talks = Arc<Mutex<Vec<Talk>>>;

/// A server on a free port of loopback. Its threads end with the test process.
#[derive(Debug)]
pub struct MuteServer {
    address: SocketAddr,
    talks: Talks,
}

impl MuteServer {
    /// A server that says these things, each when its time has come, and no more.
    pub fn start(says: &'static [Say]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let address = listener.local_addr().expect("bound");
        let talks = Talks::default();
        let shared = Arc::clone(&talks);
        let accept = move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let Ok(client) = stream.peer_addr() else { continue };
                let talk = Talk { said_all: says.is_empty(), ..Talk::begin(client, clock::realtime_ns()) };
                let index = {
                    let mut talks = shared.lock().unwrap_or_else(PoisonError::into_inner);
                    talks.push(talk);
                    talks.len() - 1
                };
                let talks = Arc::clone(&shared);
                thread::spawn(move || hold(stream, says, &talks, index));
            }
        };
        thread::Builder::new().name("mute".into()).spawn(accept).expect("a thread");
        Self { address, talks }
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

/// One connection: reads until the client goes.
fn hold(mut stream: TcpStream, says: &[Say], talks: &Talks, index: usize) {
    let note = |change: &dyn Fn(&mut Talk)| {
        let mut talks = talks.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut talks[index]);
    };
    let mut heard = Vec::new();
    let mut says = says.iter().peekable();
    let mut buffer = [0; 16 * 1024];
    loop {
        if let Some(say) = says.next_if(|say| (say.after)(&heard)) {
            // Noted before the client can react: its next bytes must not be overtaken by this note.
            let said_all = says.peek().is_none();
            note(&|talk| {
                (talk.last_ns, talk.last_word) = (clock::realtime_ns(), LastWord::Server);
                talk.said_all = said_all;
            });
            if stream.write_all(say.what).is_err() {
                return note(&|talk| talk.closed = true);
            }
            heard.clear();
            continue;
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return note(&|talk| talk.closed = true),
            Ok(count) => {
                note(&|talk| (talk.last_ns, talk.last_word) = (clock::realtime_ns(), LastWord::Client));
                heard.extend_from_slice(&buffer[..count]);
            }
        }
    }
}
