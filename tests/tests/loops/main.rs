//! One request of an event loop hangs, beside a pool with an idle connection and other traffic, in each of the runtimes and proxies that
//! services are made of: is it shown, flagged once, with its own connection and age, and closed once with its true length?

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::servers::{self, Server, clean, dir_of_nobody, must};
use tests::{
    Agent, LastWord, MuteServer, Running, Say, Snapshot, Talk, own_dir, parse_rfc3339_ns, ps, realtime_ns,
    seconds_between, start,
};

const PATIENCE: Duration = Duration::from_secs(60);
const THRESHOLD: f64 = 8.0;
/// A pass over all sockets each five seconds, and a look.
const LATE: f64 = 5.0 + 1.5;

/// Every request is answered but the one that is to hang; whether two at the same time have a connection each is up to the client.
const ANSWERS: &[Say] = &[ANSWER; 8];
const ANSWER: Say = Say {
    after: |heard| heard.ends_with(b"\r\n\r\n") && !heard.starts_with(b"GET /hang"),
    what: b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok",
};
/// Who has not been answered for so long will not be.
const SILENCE: f64 = 1.0;

/// A program with a request that hangs, or will.
struct Loop {
    name: &'static str,
    /// The program, or what sends requests through the proxy.
    running: Vec<Running>,
    _proxy: Option<Server>,
    service: MuteServer,
}

fn script(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/loops")).join(name)
}

/// A program of an interpreter.
fn with(program: &str, file: &str) -> Command {
    let mut command = clean(program);
    command.arg(script(file));
    command
}

/// A program in Go, with Debian's libraries.
fn go(file: &str) -> PathBuf {
    let mut go = clean("go");
    let built = own_dir().join(file.trim_end_matches(".go"));
    go.env("GOCACHE", own_dir().join("go")).env("GO111MODULE", "off").env("GOPATH", "/usr/share/gocode");
    go.args(["build", "-o"]).arg(&built).arg(script(file));
    must(go);
    built
}

/// Debian's libraries are on no path of Java's own.
fn netty() -> Command {
    let mut command = clean("java");
    command.args(["-cp", "/usr/share/java/*"]).arg(script("Netty.java"));
    command
}

/// Clients of HTTP by name, each with what comes before the two addresses.
fn of_http() -> Vec<(&'static str, Command)> {
    vec![
        ("node-http", with("node", "node_http.js")),
        ("node-fetch", with("node", "node_fetch.js")),
        ("aiohttp", with("python3", "aiohttp_client.py")),
        ("httpx", with("python3", "httpx_client.py")),
        ("asyncio-streams", with("python3", "streams.py")),
        ("go-net-http", Command::new(go("http.go"))),
        ("java-httpclient", with("java", "Http.java")),
        ("java-httpurlconnection", with("java", "Url.java")),
        ("netty", netty()),
    ]
}

/// A server of gRPC.
fn grpc() -> Server {
    let make = |port: u16, dir: &Path| {
        let mut command = servers::as_nobody("python3", dir);
        command.arg(script("grpc_server.py")).arg(port.to_string());
        command
    };
    Server::start(dir_of_nobody("grpc"), make, Server::listens)
}

/// Clients of databases and of gRPC, each with its server: what asks that for `hang` is kept from it.
fn of_databases() -> (Vec<Server>, Vec<Loop>) {
    let servers = [servers::postgresql(), servers::mariadb(), servers::redis(), grpc()];
    let sql = go("sql.go");
    let by_driver = |driver: &str| {
        let mut command = Command::new(&sql);
        command.arg(driver);
        command
    };
    let [postgresql, mariadb, redis, grpc] = &servers;
    let clients = [
        ("asyncpg", with("python3", "asyncpg_client.py"), postgresql),
        ("go-lib-pq", by_driver("postgres"), postgresql),
        ("aiomysql", with("python3", "aiomysql_client.py"), mariadb),
        ("go-sql-driver", by_driver("mysql"), mariadb),
        ("redis-py", with("python3", "redis_client.py"), redis),
        ("grpc-aio", with("python3", "grpc_client.py"), grpc),
    ];
    let loops = clients.map(|(name, command, server)| {
        let service = MuteServer::before(server.address, |asked| asked.windows(4).any(|of| of == b"hang"));
        Loop::program(name, command, service, server.address)
    });
    (servers.into(), loops.into())
}

impl Loop {
    fn program(name: &'static str, mut command: Command, service: MuteServer, healthy: SocketAddr) -> Self {
        command.args([service.address().to_string(), healthy.to_string()]).stdin(Stdio::null());
        Self { name, running: vec![start(command)], _proxy: None, service }
    }

    fn nginx() -> Self {
        let service = MuteServer::start(ANSWERS);
        let (address, kept) =
            (service.address(), "proxy_http_version 1.1; proxy_set_header Connection \"\";");
        // A block of its own is needed for connections that are kept: it closes the one that it is written into.
        let locations = format!(
            "location / {{ proxy_read_timeout 1h; {kept} proxy_pass http://kept; }} }}\n\
             upstream kept {{ server {address}; keepalive 8; "
        );
        let proxy = servers::nginx(dir_of_nobody("kept"), 1, &locations);
        Self::behind("nginx", service, proxy)
    }

    fn haproxy() -> Self {
        let service = MuteServer::start(ANSWERS);
        let proxy = servers::haproxy(service.address());
        Self::behind("haproxy", service, proxy)
    }

    /// Clients of a proxy: two that are answered, at the same time, and one that is not.
    fn behind(name: &'static str, service: MuteServer, proxy: Server) -> Self {
        let ask = |path: &str| {
            let mut client = TcpStream::connect(proxy.address).expect("connect");
            client.set_read_timeout(Some(PATIENCE)).expect("a time-out");
            write!(client, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("ask");
            client
        };
        let answered =
            [ask("/a"), ask("/b")].map(|mut client| client.read(&mut [0; 512]).expect("an answer"));
        assert!(answered.iter().all(|bytes| *bytes > 0), "{name}");
        sleep(Duration::from_secs(2));
        let mut curl = clean("curl");
        curl.args(["-s", &format!("http://{}/hang", proxy.address)]).stdin(Stdio::null());
        Self { name, running: vec![start(curl)], _proxy: Some(proxy), service }
    }

    /// The connection on which it has asked and not been answered, once it has.
    fn hanging(&self) -> Talk {
        let begin = Instant::now();
        loop {
            let talks = self.service.talks();
            let is_hanging = |talk: &&Talk| {
                let is_silent = seconds_between(talk.last_ns, realtime_ns()) > SILENCE;
                talk.last_word == LastWord::Client && !talk.closed && is_silent
            };
            if let Some(talk) = talks.iter().find(is_hanging) {
                return talk.clone();
            }
            assert!(begin.elapsed() < PATIENCE, "{} has not asked: {talks:#?}", self.name);
            sleep(Duration::from_millis(20));
        }
    }

    fn is_about(&self, wait: &Value) -> bool {
        wait["target"]["remote"] == self.service.address().to_string()
    }

    /// What is wrong with the rows of `ps` about it.
    fn shown(&self, talk: &Talk, snapshot: &Snapshot) -> Option<String> {
        let rows: Vec<&Value> = snapshot.rows.iter().filter(|row| self.is_about(row)).collect();
        let [row] = &rows[..] else { return Some(format!("{} rows: {rows:#?}", rows.len())) };
        is_it(talk, row)
    }

    /// What is wrong with the events about it.
    fn told(&self, talk: &Talk, ended_ns: i128, agent: &mut Agent) -> Option<String> {
        let events: Vec<Value> =
            agent.all_events().into_iter().filter(|event| self.is_about(&event["wait"])).collect();
        let names: Vec<&str> = events.iter().filter_map(|event| event["event"].as_str()).collect();
        if names != ["stall_opened", "stall_closed"] {
            return Some(format!("{names:?}: {events:#?}"));
        }
        let opened = events[0]["stall_seconds"].as_f64().unwrap_or(f64::NAN);
        if !(THRESHOLD..=THRESHOLD + LATE).contains(&opened) {
            return Some(format!("flagged after {opened:.3} s: {:#}", events[0]));
        }
        let off =
            events[1]["stall_seconds"].as_f64().unwrap_or(f64::NAN) - seconds_between(talk.last_ns, ended_ns);
        if off.is_nan() || off.abs() > 2.5 {
            return Some(format!("its length is off by {off:+.3} s: {:#}", events[1]));
        }
        is_it(talk, &events[0]["wait"])
    }
}

/// What is wrong with a wait that is for what this connection owes.
fn is_it(talk: &Talk, wait: &Value) -> Option<String> {
    let since = parse_rfc3339_ns(wait["since"].as_str()?);
    let off = seconds_between(talk.last_ns, since);
    let is_right = wait["class"] == "reply"
        && wait["level"] == "stuck"
        && wait["target"]["local"] == talk.client.to_string()
        && off.abs() <= 1.0;
    (!is_right).then(|| format!("not a reply on {} since {off:+.3} s: {wait:#}", talk.client))
}

#[test]
fn each_is_shown_flagged_once_and_closed_once() {
    let healthy = servers::nginx(dir_of_nobody("healthy"), 1, "location / { return 200 ok; }");
    let mut agent = Agent::start(&["--threshold", &format!("{THRESHOLD}s")]);
    let (mut healthy, mut loops) = (vec![healthy], Vec::new());
    for (name, command) in of_http() {
        loops.push(Loop::program(name, command, MuteServer::start(ANSWERS), healthy[0].address));
    }
    loops.extend([Loop::nginx(), Loop::haproxy()]);
    let (databases, of_databases) = of_databases();
    healthy.extend(databases);
    loops.extend(of_databases);
    let talks: Vec<Talk> = loops.iter().map(Loop::hanging).collect();
    let last = talks.iter().map(|talk| talk.last_ns).max().expect("there are some");
    let due = THRESHOLD + LATE - seconds_between(last, realtime_ns());
    sleep(Duration::from_secs_f64(due.max(0.0) + 1.0));

    let snapshot = ps(&[]);
    let pairs = || loops.iter().zip(&talks);
    let shown = pairs().filter_map(|(of, talk)| Some(format!("{}: {}", of.name, of.shown(talk, &snapshot)?)));
    let mut wrong: Vec<String> = shown.collect();
    let mut ended = Vec::new();
    for (of, talk) in pairs() {
        assert_eq!(of.hanging(), *talk, "{} moved meanwhile", of.name);
    }
    for of in &mut loops {
        ended.push(realtime_ns());
        of.running.iter_mut().for_each(Running::kill);
    }
    sleep(Duration::from_secs(8));
    let told = loops.iter().zip(&talks).zip(&ended).filter_map(|((of, talk), ended_ns)| {
        Some(format!("{}: {}", of.name, of.told(talk, *ended_ns, &mut agent)?))
    });
    wrong.extend(told);
    let healthy: Vec<String> = healthy.iter().map(|server| server.address.to_string()).collect();
    let of_healthy = |event: &Value| {
        event["wait"]["target"]["remote"].as_str().is_some_and(|remote| healthy.iter().any(|of| of == remote))
    };
    wrong.extend(
        agent.all_events().iter().filter(|event| of_healthy(event)).map(|event| format!("{event:#}")),
    );
    assert!(
        wrong.is_empty(),
        "{} things are wrong with {} programs:\n{}",
        wrong.len(),
        loops.len(),
        wrong.join("\n")
    );
}
