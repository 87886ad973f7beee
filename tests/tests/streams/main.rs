//! Does an agent as it is shipped stay silent about streams, subscriptions and pools that rest? Real clients and servers, whose
//! protocols have heartbeats of all kinds, or none.
//!
//! `TRACER_STREAMS_SECONDS` says for how long; a minute by default, in which a wait for an answer would be flagged. What is flagged after
//! ten minutes a longer run shows.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::servers::{self, Server, as_nobody, clean, dir_of_nobody, must, text};
use tests::{Agent, MuteServer, Running, own_dir, ps, start};

const PATIENCE: Duration = Duration::from_secs(60);

fn script(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/streams")).join(name)
}

fn python_server(name: &'static str, file: &'static str) -> Server {
    let make = |port: u16, dir: &Path| {
        let mut command = as_nobody("python3", dir);
        command.arg(script(file)).arg(port.to_string());
        command
    };
    Server::start(dir_of_nobody(name), make, Server::listens)
}

/// A broker of MQTT.
fn mosquitto() -> Server {
    let make = |port: u16, dir: &Path| {
        let mut command = as_nobody("mosquitto", dir);
        command.args(["-p", &port.to_string()]);
        command
    };
    Server::start(dir_of_nobody("mosquitto"), make, Server::listens)
}

/// A client that has said on its output that it is at rest.
struct Client {
    name: String,
    process: Running,
    log: PathBuf,
    /// What its output has once it rests; nothing for one that says nothing.
    rests: &'static str,
}

impl Client {
    fn start(name: &str, mut command: Command, rests: &'static str) -> Self {
        let log = own_dir().join(format!("{name}.log"));
        let said = File::create(&log).expect("a file");
        command.stdin(Stdio::null()).stdout(said.try_clone().expect("a descriptor")).stderr(said);
        Self { name: name.into(), process: start(command), log, rests }
    }

    fn check(&mut self) {
        assert!(self.process.ended().is_none(), "{} has ended: {}", self.name, text(&self.log));
    }

    fn until_at_rest(&mut self) {
        let begin = Instant::now();
        while !text(&self.log).contains(self.rests) {
            self.check();
            assert!(begin.elapsed() < PATIENCE, "{} says only: {}", self.name, text(&self.log));
            sleep(Duration::from_millis(50));
        }
    }
}

fn with(program: &str, file: &str, args: &[&str]) -> Command {
    let mut command = clean(program);
    command.arg(script(file)).args(args);
    command
}

/// Each server has streams of one kind: one that usually says something is expected to.
fn over_http([silent, ticking]: [SocketAddr; 2]) -> Vec<Client> {
    let mut go = clean("go");
    let events = own_dir().join("events");
    go.env("GOCACHE", own_dir().join("go")).env("GO111MODULE", "off");
    go.args(["build", "-o"]).arg(&events).arg(script("events.go"));
    must(go);
    let mut clients = Vec::new();
    for (path, server) in [("silent", silent), ("ticking", ticking)] {
        let url = format!("http://{server}/{path}");
        let mut curl = clean("curl");
        curl.args(["-sN", &url]);
        let mut go = Command::new(&events);
        go.arg(&url);
        let of = [
            ("curl", curl),
            ("aiohttp", with("python3", "events.py", &[&url])),
            ("node", with("node", "events.js", &[&url])),
            ("go", go),
        ];
        clients.extend(
            of.map(|(name, command)| Client::start(&format!("{name}-{path}"), command, "data: hello")),
        );
    }
    for (name, heartbeat, ping) in
        [("silent", "0", "0"), ("of-the-server", "20", "0"), ("of-the-client", "0", "20")]
    {
        let server = if (heartbeat, ping) == ("0", "0") { silent } else { ticking };
        let url = format!("ws://{server}/socket?heartbeat={heartbeat}");
        let command = with("python3", "websocket_client.py", &[&url, ping]);
        clients.push(Client::start(&format!("websocket-{name}"), command, "hello"));
    }
    let url = format!("http://{ticking}/poll");
    clients.push(Client::start("long-poll", with("python3", "poll.py", &[&url]), ""));
    clients
}

fn subscribers(broker: &Server) -> Vec<Client> {
    let of_quality = |quality: &str| {
        let mut command = clean("mosquitto_sub");
        command.args(["-h", "127.0.0.1", "-p", &broker.port(), "-k", "10", "-t", "news", "-q", quality]);
        Client::start(&format!("mqtt-{quality}"), command, "")
    };
    ["0", "1", "2"].map(of_quality).into()
}

/// What the agent says of these processes.
fn told(agent: &mut Agent, of: &[u32]) -> Vec<Value> {
    let is_of = |event: &Value| of.iter().any(|pid| event["wait"]["pid"] == *pid);
    agent.all_events().into_iter().filter(is_of).collect()
}

#[test]
fn streams_that_rest_are_not_flagged() {
    let http = ["silent", "ticking"].map(|name| python_server(name, "http_server.py"));
    let grpc = python_server("grpc", "grpc_server.py");
    let (broker, redis, postgresql) = (mosquitto(), servers::redis(), servers::postgresql());
    let mut agent = Agent::start(&[]);
    let mut clients = over_http([http[0].address, http[1].address]);
    clients.extend(subscribers(&broker));
    for ping in ["0", "10000"] {
        let command = with("python3", "grpc_client.py", &[&grpc.address.to_string(), ping]);
        clients.push(Client::start(&format!("grpc-{ping}"), command, "b'a'"));
    }
    let databases = [&postgresql, &redis].map(|server| server.address.to_string());
    let command = with("python3", "pool.py", &[&databases[0], &databases[1]]);
    clients.push(Client::start("pool", command, ""));
    clients.iter_mut().for_each(Client::until_at_rest);

    let mute = MuteServer::start(&[]);
    let mut hung = clean("curl");
    hung.args(["-s", &format!("http://{}", mute.address())]).stdin(Stdio::null());
    let hung = start(hung);
    let seconds = std::env::var("TRACER_STREAMS_SECONDS").ok();
    let length =
        Duration::from_secs(seconds.map_or(60, |seconds| seconds.parse().expect("a number of seconds")));
    let servers = [&http[0], &http[1], &grpc, &broker, &redis, &postgresql].map(Server::pid);
    let pids: Vec<u32> = clients.iter().map(|client| client.process.pid()).chain(servers).collect();
    let begin = Instant::now();
    while begin.elapsed() < length {
        sleep(Duration::from_secs(5).min(length.saturating_sub(begin.elapsed())));
        clients.iter_mut().for_each(Client::check);
        // A long poll of twenty seconds has the right to.
        let rows = ps(&[
            "--min-age",
            "25s",
            "--pid",
            &pids.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
        ])
        .rows;
        let stuck: Vec<&Value> = rows.iter().filter(|row| row["level"] == "stuck").collect();
        assert!(stuck.is_empty(), "after {:?}: {stuck:#?}", begin.elapsed());
    }
    let flagged = told(&mut agent, &pids);
    let names: Vec<String> =
        clients.iter().map(|client| format!("{} {}", client.process.pid(), client.name)).collect();
    assert!(flagged.is_empty(), "flagged in {length:?} of {names:?}: {flagged:#?}");

    // It was awake.
    let names: Vec<Value> =
        told(&mut agent, &[hung.pid()]).into_iter().map(|event| event["event"].clone()).collect();
    assert_eq!(names, ["stall_opened"]);
}
