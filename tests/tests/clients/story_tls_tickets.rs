//! A service behind TLS 1.3 hangs before its first answer. Its tickets have come, which are the last bytes on the wire: is each client's
//! wait for a reply still told from a stream of events that has nothing to say?

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::servers::{self, NOBODY, clean, dir_of_nobody, free_address};
use tests::{MuteServer, Running, certificate, ps, start, why};

const PATIENCE: Duration = Duration::from_secs(60);

/// A thread for each connection; the events begin, and stop at once. Each ticket goes out by itself.
const PYTHON: &str = r#"
import socket, ssl, sys, threading, time
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
listener = socket.create_server(("127.0.0.1", 0), backlog=64)
print(listener.getsockname()[1], flush=True)
def serve(accepted):
    tls = context.wrap_socket(accepted, server_side=True)
    if b"/events" in tls.recv(65536):
        tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: hello\n\n")
    time.sleep(1e6)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"#;
/// All tickets go out at once.
const NODE: &str = r"
const [certificate, key] = process.argv.slice(1).map(path => require('fs').readFileSync(path));
const server = require('https').createServer({ cert: certificate, key }, () => {});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
";

/// Clients, and what they do with an address.
const CLIENTS: &[(&str, &[&str])] = &[
    ("curl", &["-sk", "--http1.1", "https://{address}/"]),
    ("wget", &["-q", "--no-check-certificate", "-O", "/dev/null", "https://{address}/"]),
    (
        "php",
        &[
            "-d",
            "default_socket_timeout=600",
            "-r",
            "file_get_contents('https://{address}/', false, stream_context_create(['ssl' => ['verify_peer' => false, 'verify_peer_name' => false]]));",
        ],
    ),
    (
        "ruby",
        &[
            "-rnet/http",
            "-ropenssl",
            "-e",
            "h = Net::HTTP.new(*'{address}'.split(':')); h.use_ssl = true; h.verify_mode = 0; h.read_timeout = 600; h.get('/')",
        ],
    ),
    (
        "python3",
        &[
            "-c",
            "import ssl, urllib.request as u; u.urlopen('https://{address}/', context=ssl._create_unverified_context()).read()",
        ],
    ),
    // A session that is taken up again: there is no certificate, and one ticket only.
    (
        "python3",
        &[
            "-c",
            r#"
import socket, ssl
context = ssl._create_unverified_context()
host, port = "{address}".split(":")
def connect(session):
    plain = socket.create_connection((host, int(port)))
    return context.wrap_socket(plain, session=session, server_hostname="localhost")
first = connect(None)
first.settimeout(0.5)
try:
    first.read(1)
except TimeoutError:
    pass
again = connect(first.session)
assert again.session_reused
again.settimeout(None)
again.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: another\r\n\r\n")
again.read(1)
"#,
        ],
    ),
];

/// An event loop. Its connections rest after short answers as well.
const LOOP: (&str, &[&str]) = (
    "node",
    &[
        "-e",
        "require('https').get('https://{address}/', { rejectUnauthorized: false }, answer => answer.resume())",
    ],
);

/// A server that says at which port it listens.
fn announced(mut command: Command) -> (Running, String) {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut server = start(command);
    let mut port = String::new();
    let stdout = server.pipes().stdout.take().expect("piped");
    BufReader::new(stdout).read_line(&mut port).expect("a line");
    (server, format!("127.0.0.1:{}", port.trim()))
}

/// A server in a language of scripts.
fn scripted(program: &str, how: &str, script: &str, (certificate, key): (&Path, &Path)) -> (Running, String) {
    let mut command = clean(program);
    command.args([how, script]).args([certificate, key]);
    announced(command)
}

/// A client of this server.
fn client((program, args): &(&str, &[&str]), address: &str) -> Running {
    let mut command = clean(program);
    command.args(args.iter().map(|arg| arg.replace("{address}", address)));
    command.stdin(Stdio::null()).stdout(Stdio::null());
    start(command)
}

/// The wait of each of these processes on a connection, once each has one that is two seconds old.
fn waits(clients: &[(String, Running)]) -> BTreeMap<String, Value> {
    let begin = Instant::now();
    loop {
        sleep(Duration::from_millis(500));
        let snapshot = ps(&["--all"]);
        let its = |(name, client): &(String, Running)| {
            let is_it = |row: &&Value| {
                row["pid"] == client.pid()
                    && row["target"]["kind"] == "tcp"
                    && row["age_seconds"].as_f64().is_some_and(|age| age > 2.0)
            };
            Some((name.clone(), snapshot.rows.iter().find(is_it)?.clone()))
        };
        let found: BTreeMap<String, Value> = clients.iter().filter_map(its).collect();
        if found.len() == clients.len() {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "only {} of {} wait", found.len(), clients.len());
    }
}

#[test]
fn tickets_are_no_answer_and_the_begin_of_a_stream_is() {
    let files = certificate();
    let (_python, by_python) = scripted("python3", "-c", PYTHON, files);
    let (_node, by_node) = scripted("node", "-e", NODE, files);
    let mute = MuteServer::start(&[]);
    let by_nginx = free_address().to_string();
    let dir = dir_of_nobody("tickets");
    let key = dir.join("key.pem");
    fs::copy(files.1, &key).expect("a key");
    chown(&key, Some(NOBODY), Some(NOBODY)).expect("root may give a file away");
    let (certificate, key) = (files.0.display(), key.display());
    let _nginx = servers::nginx(
        dir.clone(),
        1,
        &format!(
            "listen {by_nginx} ssl; ssl_certificate {certificate}; ssl_certificate_key {key};\n\
             location / {{ proxy_read_timeout 1h; proxy_pass http://{}; }}",
            mute.address()
        ),
    );
    let servers = [("python", &by_python), ("node", &by_node), ("nginx", &by_nginx)];
    let hung = servers.iter().flat_map(|(server, address)| {
        let of = move |(at, recipe): (usize, &(&str, &[&str]))| {
            (format!("{} {at} of {server}", recipe.0), client(recipe, address))
        };
        CLIENTS.iter().enumerate().map(of)
    });
    let hung: Vec<(String, Running)> = hung.collect();
    let events = format!("{by_python}/events?");
    let streams = CLIENTS[..2].iter().chain(&CLIENTS[4..5]);
    let streams: Vec<(String, Running)> =
        streams.map(|recipe| (recipe.0.to_owned(), client(recipe, &events))).collect();

    let event_loop = client(&LOOP, &by_python);

    let wrong = |waits: BTreeMap<String, Value>, class: &str| {
        let wrong = waits.into_iter().filter(|(_, row)| row["class"] != class);
        wrong.map(|(name, row)| format!("{name}: {row:#}")).collect::<Vec<_>>()
    };
    let found = waits(&hung);
    let said = found["curl 0 of python"]["verdict"].as_str().unwrap_or_default().to_owned();
    assert!(said.contains("session tickets") || said.contains("nothing received since"), "{said}");
    assert_eq!(wrong(found, "reply"), Vec::<String>::new());
    assert_eq!(wrong(waits(&streams), "quiet"), Vec::<String>::new());

    assert!(ps(&[]).rows.iter().all(|row| row["pid"] != event_loop.pid()), "one of twelve pools is as quiet");
    let report = why(event_loop.pid());
    let perhaps = &report["sockets"]["perhaps_unanswered"];
    assert_eq!(perhaps[0]["target"]["remote"], by_python, "{report:#}");
    let headline = report["headline"].as_str().unwrap_or_default();
    assert!(headline.contains("may have no answer") && headline.contains("session tickets"), "{headline}");
}
