//! Which real clients hang on a server that does not answer? All start together, once, and ten seconds pass before
//! tracer is run; what must be true of each is checked here.

use std::fs::File;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{
    LastWord, Manners, MuteServer, Running, Say, Talk, Tickets, TlsServer, debian_program, own_dir, ps,
    realtime_ns, seconds_between, start,
};

use crate::blocked::{call_of, check_age, fd_of};

/// How old a client's wait is before tracer looks, in seconds.
pub(crate) const AGE: f64 = 10.0;

/// How long a client may take until it hangs: interpreters start slowly on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which server a client gets: one of its own, so that nothing can be mistaken.
#[derive(Clone, Copy)]
enum Peer {
    Plain(&'static [Say]),
    Tls(Manners),
}

/// A client and its server.
struct Recipe {
    name: &'static str,
    peer: Peer,
    program: &'static str,
    /// `{address}`, `{host}` and `{port}` are the server's.
    args: &'static [&'static str],
}

/// It only listens.
const MUTE: Peer = Peer::Plain(&[]);
const TLS: Manners = Manners { tickets: Tickets::None, answers: 0, half: false };

const HALF_HTTP: Peer = Peer::Plain(&[Say {
    after: |heard| heard.ends_with(b"\r\n\r\n"),
    what: b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\nhalf of the body",
}]);
const HALF_REDIS: Peer =
    Peer::Plain(&[Say { after: |heard| heard.ends_with(b"\r\n"), what: b"$100\r\nhalf" }]);
/// The beginning of its first packet: length, number, protocol 10, version.
const HALF_MYSQL: Peer = Peer::Plain(&[Say { after: |_| true, what: b"\x4a\0\0\0\x0a10.11.0-Ma" }]);
/// The beginning of `AuthenticationOk`.
const HALF_POSTGRES: Peer = Peer::Plain(&[Say { after: |heard| heard.len() > 8, what: b"R\0\0\0\x08\0\0" }]);
const HALF_SSH: Peer = Peer::Plain(&[Say { after: |heard| heard.ends_with(b"\r\n"), what: b"SSH-2.0-Ope" }]);
/// Its whole banner: the client then begins the key exchange.
const SSH_BANNER: Peer =
    Peer::Plain(&[Say { after: |heard| heard.ends_with(b"\r\n"), what: b"SSH-2.0-OpenSSH_9.2\r\n" }]);

const SSH: &[&str] = &[
    "-F",
    "none",
    "-o",
    "BatchMode=yes",
    "-o",
    "StrictHostKeyChecking=no",
    "-o",
    "UserKnownHostsFile=/dev/null",
    "-p",
    "{port}",
    "nobody@{host}",
];
const REDIS: &[&str] = &["-h", "{host}", "-p", "{port}", "GET", "key"];
const MYSQL: &[&str] = &["--no-defaults", "-h", "{host}", "-P", "{port}", "-u", "nobody", "-e", "SELECT 1"];
const PSQL: &[&str] = &["-X", "-w", "-c", "SELECT 1", "host={host} port={port} user=nobody dbname=nothing"];
const PSQL_PLAIN: &[&str] =
    &["-X", "-w", "-c", "SELECT 1", "host={host} port={port} user=nobody dbname=nothing sslmode=disable"];
const CURL: &[&str] = &["--silent", "http://{address}/"];
const WGET: &[&str] = &["--quiet", "--tries=1", "--output-document=/dev/null", "http://{address}/"];
const PHP_HTTP: &[&str] =
    &["-d", "default_socket_timeout=600", "-r", "file_get_contents('http://{address}/');"];
/// It asks again and again whether there is something, as a client with its own idea of a time-out does.
const PHP_AGAIN: &[&str] = &[
    "-d",
    "default_socket_timeout=2",
    "-r",
    "$s = stream_socket_client('tcp://{address}'); fwrite($s, \"question\\r\\n\\r\\n\"); while (true) fread($s, 100);",
];
const PHP_HTTPS: &[&str] = &[
    "-d",
    "default_socket_timeout=600",
    "-r",
    "file_get_contents('https://{address}/', false, stream_context_create(['ssl' => \
     ['verify_peer' => false, 'verify_peer_name' => false]]));",
];
/// It asks when the handshake is long over and the server's tickets have come.
const PHP_TLS_LATER: &[&str] = &[
    "-d",
    "default_socket_timeout=600",
    "-r",
    "$c = stream_context_create(['ssl' => ['verify_peer' => false, 'verify_peer_name' => false]]); \
     $s = stream_socket_client('tls://{address}', $code, $text, 60, STREAM_CLIENT_CONNECT, $c); \
     sleep(1); fwrite($s, \"question\\r\\n\\r\\n\"); fread($s, 100);",
];
const RUBY: &[&str] =
    &["-rnet/http", "-e", "Net::HTTP.start('{host}', {port}, read_timeout: 600) { |http| http.get('/') }"];
const URLLIB: &[&str] = &["-c", "import urllib.request as u; u.urlopen('http://{address}/').read()"];
const URLLIB_TIMEOUT: &[&str] =
    &["-c", "import urllib.request as u; u.urlopen('http://{address}/', timeout=600).read()"];

const fn recipe(
    name: &'static str,
    peer: Peer,
    program: &'static str,
    args: &'static [&'static str],
) -> Recipe {
    Recipe { name, peer, program, args }
}

const RECIPES: &[Recipe] = &[
    recipe("ssh", MUTE, "ssh", SSH),
    recipe("ssh-key-exchange", SSH_BANNER, "ssh", SSH),
    recipe("redis-cli", MUTE, "redis-cli", REDIS),
    recipe("mysql", MUTE, "mysql", MYSQL),
    recipe("psql", MUTE, "psql", PSQL),
    recipe("curl", MUTE, "curl", CURL),
    recipe("wget", MUTE, "wget", WGET),
    recipe("php-http", MUTE, "php", PHP_HTTP),
    recipe("php-again", MUTE, "php", PHP_AGAIN),
    recipe("php-tls", Peer::Tls(TLS), "php", PHP_HTTPS),
    recipe("php-tls-later", Peer::Tls(Manners { tickets: Tickets::AtOnce, ..TLS }), "php", PHP_TLS_LATER),
    recipe("ruby", MUTE, "ruby", RUBY),
    recipe("urllib", MUTE, "python3", URLLIB),
    recipe("urllib-timeout", MUTE, "python3", URLLIB_TIMEOUT),
    recipe("half-ssh", HALF_SSH, "ssh", SSH),
    recipe("half-redis-cli", HALF_REDIS, "redis-cli", REDIS),
    recipe("half-mysql", HALF_MYSQL, "mysql", MYSQL),
    recipe("half-psql", HALF_POSTGRES, "psql", PSQL_PLAIN),
    recipe("half-curl", HALF_HTTP, "curl", CURL),
    recipe("half-wget", HALF_HTTP, "wget", WGET),
    recipe("half-php-http", HALF_HTTP, "php", PHP_HTTP),
    recipe("half-php-again", HALF_HTTP, "php", PHP_AGAIN),
    recipe("half-php-tls", Peer::Tls(Manners { half: true, ..TLS }), "php", PHP_HTTPS),
    recipe("late-tickets-php-tls", Peer::Tls(Manners { tickets: Tickets::Late, ..TLS }), "php", PHP_HTTPS),
    recipe("half-ruby", HALF_HTTP, "ruby", RUBY),
    recipe("half-urllib", HALF_HTTP, "python3", URLLIB),
    recipe("half-urllib-timeout", HALF_HTTP, "python3", URLLIB_TIMEOUT),
];

enum Server {
    Plain(MuteServer),
    Tls(TlsServer),
}

/// A client that hangs, or is about to.
pub(crate) struct Client {
    pub(crate) name: &'static str,
    process: Mutex<Running>,
    pid: u32,
    server: Server,
}

/// All of them, in the order of the table. They start when the first is asked for and end with the test process.
pub(crate) fn all() -> &'static [Client] {
    static ALL: LazyLock<Vec<Client>> = LazyLock::new(|| RECIPES.iter().map(Client::start).collect());
    &ALL
}

/// One of them, ten seconds after its last progress.
pub(crate) fn stuck(name: &str) -> (&'static Client, Talk) {
    let client = all().iter().find(|client| client.name == name);
    let client = client.unwrap_or_else(|| panic!("no such client: {name}"));
    (client, client.until_stuck())
}

impl Client {
    fn start(recipe: &Recipe) -> Self {
        let server = match recipe.peer {
            Peer::Plain(says) => Server::Plain(MuteServer::start(says)),
            Peer::Tls(manners) => Server::Tls(TlsServer::start(manners)),
        };
        let address = match &server {
            Server::Plain(server) => server.address(),
            Server::Tls(server) => server.address(),
        };
        let mut command = Command::new(debian_program(recipe.program));
        command.args(recipe.args.iter().map(|arg| filled(arg, address)));
        // No proxy, no configuration of whoever runs the tests, no other language.
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", own_dir()).env("LC_ALL", "C");
        let said = File::create(own_dir().join(recipe.name)).expect("a file");
        let also = said.try_clone().expect("a descriptor");
        command.stdin(Stdio::null()).stdout(said).stderr(also);
        let process = start(command);
        Self { name: recipe.name, pid: process.pid(), process: Mutex::new(process), server }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn address(&self) -> SocketAddr {
        match &self.server {
            Server::Plain(server) => server.address(),
            Server::Tls(server) => server.address(),
        }
    }

    /// The connection, if there is exactly one, open, and all was said on it that the server says.
    pub(crate) fn talk(&self) -> Option<Talk> {
        let talks = match &self.server {
            Server::Plain(server) => server.talks(),
            Server::Tls(server) => server.talks(),
        };
        let status = self.process.lock().unwrap_or_else(PoisonError::into_inner).ended();
        let said = || std::fs::read_to_string(own_dir().join(self.name)).unwrap_or_default();
        assert!(status.is_none(), "{} has ended, {status:?}; it said:\n{}", self.name, said());
        match &talks[..] {
            [] => None,
            [talk] => {
                assert!(!talk.closed, "{} has hung up; it said:\n{}", self.name, said());
                talk.said_all.then(|| talk.clone())
            }
            more => panic!("{} came {} times: {more:#?}", self.name, more.len()),
        }
    }

    /// Waits until nothing has moved for ten seconds.
    pub(crate) fn until_stuck(&self) -> Talk {
        let begin = Instant::now();
        loop {
            let talk = self.talk();
            let age = talk.as_ref().map(|talk| seconds_between(talk.last_ns, realtime_ns()));
            match (talk, age) {
                (Some(talk), Some(age)) if age >= AGE => return talk,
                _ => assert!(begin.elapsed() < PATIENCE, "{} does not come to rest: {age:?}", self.name),
            }
            sleep(Duration::from_millis(50));
        }
    }
}

fn filled(arg: &str, address: SocketAddr) -> String {
    arg.replace("{address}", &address.to_string())
        .replace("{host}", &address.ip().to_string())
        .replace("{port}", &address.port().to_string())
}

/// Looks at a stuck client with `ps`, without `--all`: one wait of this class, the connection's own descriptor, the
/// age since the server saw the last byte pass.
pub(crate) fn check(name: &str, class: &str) -> Value {
    let (client, talk) = stuck(name);
    let meant = if talk.last_word == LastWord::Server { "quiet" } else { "reply" };
    assert_eq!(meant, class, "the test is wrong about {name}: {talk:?}");
    // One at a time: all clients come of age together, and thirty tracers at once are another test.
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let snapshot = ps(&["-p", &client.pid().to_string()]);
    drop(turn);
    assert_eq!(Some(&talk), client.talk().as_ref(), "{name} moved meanwhile");
    let [row] = &snapshot.rows[..] else {
        let all = ps(&["--all", "--min-age", "0s", "-p", &client.pid().to_string()]);
        panic!("not one row for {name}: {:#?}; a moment later, with --all: {:#?}", snapshot.rows, all.rows)
    };
    assert_eq!((&row["pid"], &row["tid"]), (&client.pid().into(), &client.pid().into()), "{row:#}");
    assert_eq!(row["syscall"], call_of(client.pid()), "{row:#}");
    check_wait(row, client.pid(), talk.client, client.address());
    check_age(row, talk.last_ns, talk.last_ns, &snapshot);
    let level = if class == "reply" { "stuck" } else { "doubtful" };
    assert_eq!((&row["class"], &row["level"]), (&class.into(), &level.into()), "{name}: {row:#}");
    row.clone()
}

/// The descriptor and the addresses against `/proc`.
pub(crate) fn check_wait(row: &Value, pid: u32, local: SocketAddr, remote: SocketAddr) {
    let (fd, inode) = fd_of(pid, local, remote);
    assert_eq!(row["fd"], fd, "{row:#}");
    let target = &row["target"];
    assert_eq!((&target["kind"], &target["inode"]), (&"tcp".into(), &inode.into()), "{row:#}");
    assert_eq!(target["local"], local.to_string(), "{row:#}");
    assert_eq!(target["remote"], remote.to_string(), "{row:#}");
}
