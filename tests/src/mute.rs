//! Who accepts every connection, reads everything, and then does not answer? The peer that real clients hang on.
//!
//! It writes down when the last byte passed and whose it was: that is the truth which tracer's class and age are
//! held against.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
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
        Self::serving(says.is_empty(), move |stream, talk| hold(stream, says, talk))
    }

    /// One that passes on what clients and a server say to each other, and keeps for itself what a client says from such a request on.
    pub fn before(server: SocketAddr, is_kept: fn(&[u8]) -> bool) -> Self {
        Self::serving(true, move |client, talk| pass_on(client, server, is_kept, talk))
    }

    /// One that does this with each connection.
    fn serving(said_all: bool, serve: impl Fn(TcpStream, &Note) + Clone + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let address = listener.local_addr().expect("bound");
        let talks = Talks::default();
        let shared = Arc::clone(&talks);
        let accept = move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let Ok(client) = stream.peer_addr() else { continue };
                let talk = Talk { said_all, ..Talk::begin(client, clock::realtime_ns()) };
                let note = Note::of(talk, &shared);
                let serve = serve.clone();
                thread::spawn(move || serve(stream, &note));
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

/// Where it is written down how one connection stands.
struct Note {
    talks: Talks,
    index: usize,
}

impl Note {
    fn of(talk: Talk, talks: &Talks) -> Self {
        let mut all = talks.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(talk);
        Self { talks: Arc::clone(talks), index: all.len() - 1 }
    }

    fn change(&self, change: impl Fn(&mut Talk)) {
        let mut talks = self.talks.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut talks[self.index]);
    }

    fn says(&self, who: LastWord) {
        self.change(|talk| (talk.last_ns, talk.last_word) = (clock::realtime_ns(), who));
    }
}

/// One connection: passes on until one end goes.
fn pass_on(mut client: TcpStream, server: SocketAddr, is_kept: fn(&[u8]) -> bool, note: &Note) {
    let Ok(mut server) = TcpStream::connect(server) else { return note.change(|talk| talk.closed = true) };
    let ends = (server.try_clone().expect("a descriptor"), client.try_clone().expect("a descriptor"));
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut server, mut client) = ends;
            let mut buffer = [0; 16 * 1024];
            while let Ok(count @ 1..) = server.read(&mut buffer) {
                note.says(LastWord::Server);
                if client.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            let _ = client.shutdown(Shutdown::Both);
        });
        let mut buffer = [0; 16 * 1024];
        let mut keeps = false;
        while let Ok(count @ 1..) = client.read(&mut buffer) {
            note.says(LastWord::Client);
            keeps |= is_kept(&buffer[..count]);
            if !keeps && server.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        note.change(|talk| talk.closed = true);
        let _ = server.shutdown(Shutdown::Both);
    });
}

/// One connection: reads until the client goes.
fn hold(mut stream: TcpStream, says: &[Say], note: &Note) {
    let mut heard = Vec::new();
    let mut says = says.iter().peekable();
    let mut buffer = [0; 16 * 1024];
    loop {
        if let Some(say) = says.next_if(|say| (say.after)(&heard)) {
            // Noted before the client can react: its next bytes must not be overtaken by this note.
            let said_all = says.peek().is_none();
            note.says(LastWord::Server);
            note.change(|talk| talk.said_all = said_all);
            if stream.write_all(say.what).is_err() {
                return note.change(|talk| talk.closed = true);
            }
            heard.clear();
            continue;
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return note.change(|talk| talk.closed = true),
            Ok(count) => {
                note.says(LastWord::Client);
                heard.extend_from_slice(&buffer[..count]);
            }
        }
    }
}
