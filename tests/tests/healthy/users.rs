//! Who uses the servers of a healthy host? Requests a few times a second, and connections that rest.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;

use tests::servers::{Server, Way, clean, gearman, must, mysql, psql, redis_cli, text};
use tests::{Running, http, own_dir, start};

use crate::fleet::{Fleet, bus_address};
use crate::prefork::Prefork;

/// How often each service is used.
const EVERY: Duration = Duration::from_millis(300);
/// How many connections to each database are open and rest.
pub(crate) const POOL: usize = 6;
/// A healthy server answers long before that.
const PATIENCE: Duration = Duration::from_secs(20);

/// The users; they leave when dropped.
pub(crate) struct Users {
    stop: Arc<AtomicBool>,
    used: Vec<(&'static str, Arc<AtomicU64>)>,
    threads: Vec<JoinHandle<()>>,
    /// Sessions that rest, and workers that wait for their next job.
    resting: Vec<(&'static str, Mutex<Running>)>,
    _connections: Vec<TcpStream>,
}

impl Users {
    pub(crate) fn start(fleet: &Fleet, prefork: &Prefork) -> Self {
        let resting = resting(fleet).into_iter().map(|(name, process)| (name, Mutex::new(process))).collect();
        let mut users = Self {
            stop: Arc::default(),
            used: Vec::new(),
            threads: Vec::new(),
            resting,
            _connections: keep_alive(fleet),
        };
        let (nginx, memcached, prometheus) =
            (fleet.nginx.address, fleet.memcached.address, fleet.prometheus.address);
        users.begin("nginx", move || assert_eq!(body(nginx, "/static"), "fine"));
        users.begin("php-fpm", move || assert_eq!(body(nginx, "/"), "fine"));
        users.begin("memcached", move || {
            let answer = talk(memcached, "set k 0 0 1\r\nx\r\nget k\r\nquit\r\n");
            assert_eq!(answer, "STORED\r\nVALUE k 0 1\r\nx\r\nEND\r\n");
        });
        users.begin("prometheus", move || {
            let answer = body(prometheus, "/api/v1/query?query=up");
            assert!(answer.contains("success"), "{answer}");
        });
        for (name, servers) in [("apache", &prefork.apache), ("perl", &prefork.perl)] {
            let mut addresses =
                servers.iter().map(|(_, server)| server.address).collect::<Vec<_>>().into_iter().cycle();
            users.begin(name, move || {
                let mut address = addresses.next().expect("there are some");
                assert_eq!(body(address, "/"), "fine");
                address.set_ip([127, 0, 0, 2].into());
                assert_eq!(body(address, "/"), "fine");
            });
        }
        let uwsgi = prefork.uwsgi[0].address;
        users.begin("uwsgi", move || assert_eq!(body(uwsgi, "/"), "fine"));
        assert_eq!(body(prefork.uwsgi[1].address, "/"), "fine");
        let supervisor = fleet.supervisor_socket.clone();
        users.begin("supervisord", move || {
            let stream = UnixStream::connect(&supervisor).expect("it listens");
            stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
            let call = "<methodCall><methodName>supervisor.getState</methodName></methodCall>";
            let head = format!("POST /RPC2 HTTP/1.0\r\nContent-Length: {}\r\n\r\n", call.len());
            let answer = exchange(stream, &(head + call));
            assert!(answer.contains("RUNNING"), "{answer}");
        });
        users.repeat("redis", redis_cli(&fleet.redis, &["LPUSH", "jobs", "one"]));
        users.repeat("gearmand", gearman(&fleet.gearmand, &["-f", "job", "work"]));
        users.repeat("mariadb", mysql(&fleet.mariadb, Way::Tcp, &["-e", "SELECT 1"]));
        users.repeat("mariadb over its socket", mysql(&fleet.mariadb, Way::Unix, &["-e", "SELECT 1"]));
        users.repeat("postgresql", psql(&fleet.postgresql, Way::Tcp, &["-c", "SELECT 1"]));
        users.repeat("postgresql over its socket", psql(&fleet.postgresql, Way::Unix, &["-c", "SELECT 1"]));
        users.repeat("sshd", ssh(fleet, &["true"]));
        let mut logger = clean("logger");
        logger.arg("--socket").arg(&fleet.log_socket).arg("all is well");
        users.repeat("rsyslogd", logger);
        users
    }

    /// Does something again and again.
    fn begin(&mut self, name: &'static str, mut act: impl FnMut() + Send + 'static) {
        let (stop, count) = (Arc::clone(&self.stop), Arc::new(AtomicU64::new(0)));
        self.used.push((name, Arc::clone(&count)));
        let user = move || {
            while !stop.load(Ordering::Relaxed) {
                act();
                count.fetch_add(1, Ordering::Relaxed);
                sleep(EVERY);
            }
        };
        self.threads.push(thread::Builder::new().name(name.into()).spawn(user).expect("a thread"));
    }

    /// Runs a command again and again, which must succeed, and soon.
    fn repeat(&mut self, name: &'static str, command: Command) {
        let program = command.get_program().to_owned();
        let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let log = own_dir().join(format!("user-{name}.log"));
        self.begin(name, move || {
            let mut command =
                clean(program.to_str().and_then(|path| path.rsplit('/').next()).expect("a name"));
            let said = File::create(&log).expect("a file");
            command.args(&args).stdin(Stdio::null());
            command.stdout(said.try_clone().expect("a descriptor")).stderr(said);
            let status = start(command).wait(PATIENCE);
            let well = status.is_some_and(|status| status.success());
            assert!(well, "{program:?} {args:?}: {status:?}; it said:\n{}", text(&log));
        });
    }

    /// Nobody has failed or left.
    pub(crate) fn check(&self) {
        for thread in &self.threads {
            let name = thread.thread().name().unwrap_or_default();
            assert!(!thread.is_finished(), "the user of {name} has failed; why is above");
        }
        for (name, process) in &self.resting {
            let ended = process.lock().expect("no panic").ended();
            assert!(ended.is_none(), "{name} has ended: {ended:?}");
        }
    }

    /// How often each service was used.
    pub(crate) fn used(&self) -> Vec<(&'static str, u64)> {
        self.used.iter().map(|(name, count)| (*name, count.load(Ordering::Relaxed))).collect()
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // Its panic has been reported.
            let _ = thread.join();
        }
    }
}

/// Processes with a connection that rests.
fn resting(fleet: &Fleet) -> Vec<(&'static str, Running)> {
    let silent = |mut command: Command| {
        command.stdout(Stdio::null()).stderr(Stdio::null());
        start(command)
    };
    // A client at its prompt: it waits for its user, who has gone for lunch.
    let at_prompt = |mut command: Command, first: &str| {
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut process = start(command);
        let input = process.pipes().stdin.as_mut().expect("piped");
        input.write_all(first.as_bytes()).expect("it reads");
        process
    };
    let worker = ["-r", "-1", "BLPOP", "jobs", "0"];
    let subscriber = ["SUBSCRIBE", "news"];
    let mut resting = Vec::new();
    for way in [Way::Tcp, Way::Unix].into_iter().cycle().take(POOL) {
        let mysql = mysql(&fleet.mariadb, way, &["--unbuffered"]);
        resting.push(("a mysql session", at_prompt(mysql, "SELECT 1;\n")));
        resting.push(("a psql session", at_prompt(psql(&fleet.postgresql, way, &[]), "SELECT 1;\n")));
    }
    resting.extend([
        ("a redis session", at_prompt(redis_cli(&fleet.redis, &[]), "PING\n")),
        ("an ssh session", at_prompt(ssh(fleet, &["cat"]), "hello\n")),
        ("a redis worker", silent(redis_cli(&fleet.redis, &worker))),
        ("a redis subscriber", silent(redis_cli(&fleet.redis, &subscriber))),
        ("a D-Bus monitor of GLib's", silent(gdbus(fleet))),
        ("a D-Bus monitor", silent(dbus_monitor(fleet))),
        ("an asyncio program with timers", silent(asyncio(fleet, "0.2"))),
        ("an asyncio program", silent(asyncio(fleet, "3600"))),
        ("a gearman worker", silent(gearman(&fleet.gearmand, &["-w", "-f", "job", "--", "/bin/cat"]))),
    ]);
    resting
}

/// Watches the bus's names come and go, of which there are none, in GLib's event loop.
fn gdbus(fleet: &Fleet) -> Command {
    let mut command = clean("gdbus");
    command.args(["monitor", "--address", &bus_address(&fleet.bus_socket), "--dest", "org.freedesktop.DBus"]);
    command
}

fn dbus_monitor(fleet: &Fleet) -> Command {
    let mut command = clean("dbus-monitor");
    command.args(["--address", &bus_address(&fleet.bus_socket), "type='signal',interface='none.such'"]);
    command
}

/// Has used its only pooled connection once, and wakes for a timer every so many seconds.
fn asyncio(fleet: &Fleet, seconds: &str) -> Command {
    let program = "import asyncio, sys
async def main():
    reader, writer = await asyncio.open_connection('127.0.0.1', int(sys.argv[1]))
    writer.write(b'PING\\r\\n')
    assert await reader.readline() == b'+PONG\\r\\n'
    while True:
        await asyncio.sleep(float(sys.argv[2]))
asyncio.run(main())";
    let mut command = clean("python3");
    command.args(["-c", program, &fleet.redis.port(), seconds]);
    command
}

/// How many connections have rested for five seconds, as the databases have it.
pub(crate) fn at_rest(fleet: &Fleet) -> [(&'static str, usize); 2] {
    let number = |answer: String| answer.trim().parse().expect("a number");
    let sleeping =
        "SELECT COUNT(*) FROM information_schema.processlist WHERE command = 'Sleep' AND time >= 5";
    let idle = "SELECT COUNT(*) FROM pg_stat_activity WHERE state = 'idle' AND state_change < now() - interval '5 s'";
    [
        ("mariadb", number(must(mysql(&fleet.mariadb, Way::Unix, &["-e", sleeping])))),
        ("postgresql", number(must(psql(&fleet.postgresql, Way::Unix, &["-c", idle])))),
    ]
}

/// Connections of this process that were used once and are kept.
fn keep_alive(fleet: &Fleet) -> Vec<TcpStream> {
    let to = |server: &Server, question: &str| {
        let mut stream = TcpStream::connect(server.address).expect("it listens");
        stream.write_all(question.as_bytes()).expect("it reads");
        assert!(stream.read(&mut [0; 4096]).expect("it answers") > 0);
        stream
    };
    let request = "GET /static HTTP/1.1\r\nHost: localhost\r\n\r\n";
    vec![
        to(&fleet.nginx, request),
        to(&fleet.nginx, &request.replace("/static", "/")),
        to(&fleet.redis, "PING\r\n"),
        to(&fleet.memcached, "version\r\n"),
        to(&fleet.prometheus, "GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    ]
}

fn ssh(fleet: &Fleet, args: &[&str]) -> Command {
    let mut command = clean("ssh");
    command.args(["-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]);
    command.args(["-o", "LogLevel=ERROR", "-p", &fleet.sshd.port(), "-i"]).arg(&fleet.ssh_key);
    command.arg("root@127.0.0.1").args(args);
    command
}

/// Asks and reads until the server hangs up.
fn talk(address: SocketAddr, question: &str) -> String {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    exchange(stream, question)
}

fn exchange(mut stream: impl Read + Write, question: &str) -> String {
    stream.write_all(question.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}

/// The body of an answer with status 200.
fn body(address: SocketAddr, path: &str) -> String {
    let answer = http::get(address, path).expect("it answers");
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.body
}
