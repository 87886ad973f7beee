//! Which real servers do tests start for themselves? On a free port of loopback, with their data in a directory of their
//! own, under an unprivileged user, and gone when dropped.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::{Running, debian_program, own_dir, start_ended_by};

/// The user and group `nobody` of Debian.
pub const NOBODY: u32 = 65534;
/// How long a server may take until it answers: generous, since the machine may be loaded.
const PATIENCE: Duration = Duration::from_secs(90);

/// A server that answers. It is killed when dropped.
#[derive(Debug)]
pub struct Server {
    process: Running,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its directory.
    pub dir: PathBuf,
}

impl Server {
    /// Starts a server that is told its port; `ready` says when it answers.
    pub fn start(dir: PathBuf, make: impl Fn(u16, &Path) -> Command, ready: impl Fn(&Self) -> bool) -> Self {
        Self::start_ended_by(libc::SIGKILL, dir, make, ready)
    }

    /// The same for a server with processes of its own, which it ends when it gets this signal.
    pub fn start_ended_by(
        farewell: i32,
        dir: PathBuf,
        make: impl Fn(u16, &Path) -> Command,
        ready: impl Fn(&Self) -> bool,
    ) -> Self {
        // Between choosing a free port and the server's bind another process can take it.
        for _ in 0..3 {
            let address = free_address();
            let log = dir.join("log");
            let said = File::create(&log).expect("a file");
            let mut command = make(address.port(), &dir);
            let program = command.get_program().to_owned();
            command.stdin(Stdio::null()).stdout(said.try_clone().expect("a descriptor")).stderr(said);
            let mut server = Self { process: start_ended_by(farewell, command), address, dir: dir.clone() };
            let begin = Instant::now();
            while server.process.ended().is_none() {
                if ready(&server) && server.process.ended().is_none() {
                    return server;
                }
                assert!(begin.elapsed() < PATIENCE, "{program:?} does not answer; it said:\n{}", text(&log));
                sleep(Duration::from_millis(20));
            }
            let said = text(&log);
            assert!(said.to_lowercase().contains("in use"), "{program:?} ended; it said:\n{said}");
        }
        panic!("a server found its port taken three times; its directory is {}", dir.display());
    }

    /// The port it listens on, as text.
    pub fn port(&self) -> String {
        self.address.port().to_string()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Whether it accepts connections.
    pub fn listens(&self) -> bool {
        TcpStream::connect(self.address).is_ok()
    }
}

/// An address on loopback that was free a moment ago.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port on loopback")
}

/// What a file says; nothing where it cannot be read.
pub fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// A program that runs as nobody, with nothing in its environment that it could take for its configuration.
pub fn as_nobody(program: &str, dir: &Path) -> Command {
    let mut command = clean(program);
    command.uid(NOBODY).gid(NOBODY).current_dir(dir).env("HOME", dir).env("TMPDIR", dir);
    command
}

/// A program with an environment of the test's own.
pub fn clean(program: &str) -> Command {
    let mut command = Command::new(debian_program(program));
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", own_dir())
        .env("LC_ALL", "C");
    command
}

/// A new directory that nobody may write to, so to say: the user nobody.
pub fn dir_of_nobody(name: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let dir = own_dir().join(format!("{name}-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir(&dir).expect("a directory");
    chown(&dir, Some(NOBODY), Some(NOBODY)).expect("root may give a directory away");
    dir
}

/// Runs a command to its end, which must be a good one; what it wrote.
pub fn must(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("it starts");
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{command:?}: {status}\n{stderr}");
    String::from_utf8(stdout).expect("text")
}

/// nginx with so many workers and these locations, as nobody, with everything that it writes in `dir`.
pub fn nginx(dir: PathBuf, workers: u32, locations: &str) -> Server {
    let make = |port: u16, dir: &Path| {
        let d = dir.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {d}/{name};\n"))
            .concat();
        let config = dir.join("nginx.conf");
        let text = format!(
            "daemon off; worker_processes {workers}; pid {d}/nginx.pid; error_log stderr;\n\
             events {{ worker_connections 256; }}\n\
             http {{ access_log off; keepalive_timeout 1h; {temporary}\n\
             server {{ listen 127.0.0.1:{port};\n{locations} }} }}\n"
        );
        fs::write(&config, text).expect("write");
        fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).expect("readable");
        let mut nginx = as_nobody("nginx", dir);
        nginx.arg("-e").arg("stderr").arg("-p").arg(dir).arg("-c").arg(config);
        nginx
    };
    Server::start_ended_by(libc::SIGTERM, dir, make, Server::listens)
}

/// HAProxy in front of this service, with the connections to it kept.
pub fn haproxy(service: SocketAddr) -> Server {
    let make = |port: u16, dir: &Path| {
        let config = dir.join("haproxy.cfg");
        let text = format!(
            "defaults\n mode http\n http-reuse always\n option abortonclose\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n\
             frontend front\n bind 127.0.0.1:{port}\n default_backend back\n\
             backend back\n server one {service}\n"
        );
        fs::write(&config, text).expect("write");
        fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).expect("readable");
        let mut haproxy = as_nobody("haproxy", dir);
        haproxy.arg("-db").arg("-f").arg(config);
        haproxy
    };
    Server::start_ended_by(libc::SIGTERM, dir_of_nobody("haproxy"), make, Server::listens)
}

/// Redis, which keeps nothing.
pub fn redis() -> Server {
    let make = |port: u16, dir: &Path| {
        let mut redis = as_nobody("redis-server", dir);
        redis.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        redis.arg("--dir").arg(dir);
        redis
    };
    Server::start(dir_of_nobody("redis"), make, Server::listens)
}

/// `redis-cli` on that server.
pub fn redis_cli(server: &Server, args: &[&str]) -> Command {
    let mut command = clean("redis-cli");
    command.args(["-h", "127.0.0.1", "-p", &server.port()]).args(args).stdin(Stdio::null());
    command
}

/// The job server of Gearman.
pub fn gearmand() -> Server {
    let make = |port: u16, dir: &Path| {
        let mut gearmand = as_nobody("gearmand", dir);
        gearmand.args(["--port", &port.to_string(), "--listen", "127.0.0.1", "--log-file", "stderr"]);
        // With fewer it now and then forgets a job for seconds (gearmand's issue 301), which tracer rightly flags.
        gearmand.args(["--threads", "4"]);
        gearmand
    };
    Server::start(dir_of_nobody("gearmand"), make, Server::listens)
}

/// Gearman's command on that server.
pub fn gearman(server: &Server, args: &[&str]) -> Command {
    let mut command = clean("gearman");
    command.args(["-h", "127.0.0.1", "-p", &server.port()]).args(args).stdin(Stdio::null());
    command
}

/// What gearmand says of its functions, a line each: name, jobs, running, workers.
pub fn gearman_status(server: &Server) -> String {
    let mut stream = TcpStream::connect(server.address).expect("gearmand listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream.write_all(b"status\n").expect("gearmand reads");
    let lines = BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| line != ".");
    lines.map(|line| line + "\n").collect()
}

/// MariaDB with an empty database `test`; its root needs no password.
pub fn mariadb() -> Server {
    let dir = dir_of_nobody("mariadb");
    let mut install = as_nobody("mariadb-install-db", &dir);
    install.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
    install.arg(format!("--datadir={}", dir.join("data").display()));
    must(install);
    let make = |port: u16, dir: &Path| {
        let mut mariadbd = as_nobody("mariadbd", dir);
        mariadbd.args(["--no-defaults", "--bind-address=127.0.0.1", "--innodb-buffer-pool-size=16M"]);
        // Whoever waits for a row's lock is to wait.
        mariadbd.args(["--innodb-lock-wait-timeout=3600", "--skip-name-resolve"]);
        mariadbd.arg(format!("--port={port}")).arg(format!("--datadir={}", dir.join("data").display()));
        mariadbd.arg(format!("--socket={}", socket(dir).display()));
        mariadbd.arg(format!("--pid-file={}", dir.join("pid").display()));
        mariadbd
    };
    let ready = |server: &Server| {
        let select = mysql(server, Way::Unix, &["-e", "SELECT 1"]).output();
        select.is_ok_and(|output| output.status.success())
    };
    let server = Server::start(dir, make, ready);
    must(mysql(&server, Way::Unix, &["-e", "CREATE DATABASE test"]));
    server
}

/// PostgreSQL, whose user `postgres` needs no password.
pub fn postgresql() -> Server {
    let dir = dir_of_nobody("postgresql");
    let programs = versioned("/usr/lib/postgresql", "").join("bin");
    let as_nobody = |program: &str| {
        let mut command = as_nobody("env", &dir);
        command.arg(programs.join(program));
        command
    };
    let mut init = as_nobody("initdb");
    init.arg("-D").arg(dir.join("data")).args(["-A", "trust", "-U", "postgres", "--no-sync"]);
    must(init);
    let make = |port: u16, dir: &Path| {
        let mut postgres = as_nobody("postgres");
        postgres.arg("-D").arg(dir.join("data")).args(["-p", &port.to_string()]);
        postgres.arg("-c").arg(format!("unix_socket_directories={}", dir.display()));
        postgres.args(["-c", "listen_addresses=127.0.0.1"]);
        postgres
    };
    let ready = |server: &Server| {
        let select = psql(server, Way::Tcp, &["-c", "SELECT 1"]).output();
        select.is_ok_and(|out| out.status.success())
    };
    // Told by SIGTERM it would wait until its last client has gone.
    Server::start_ended_by(libc::SIGINT, dir.clone(), make, ready)
}

/// The client `psql`.
pub fn psql(server: &Server, way: Way, args: &[&str]) -> Command {
    let mut command = clean("psql");
    match way {
        Way::Tcp => command.args(["-h", "127.0.0.1"]),
        Way::Unix => command.arg("-h").arg(&server.dir),
    };
    command.args(["-X", "-q", "-t", "-p", &server.port(), "-U", "postgres"]).args(args);
    command.stdin(Stdio::null());
    command
}

/// The one file in a directory whose name begins so: packages carry their version in it.
pub fn versioned(dir: &str, prefix: &str) -> PathBuf {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let found = entries.map(|entry| entry.path()).find(|path| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(prefix))
    });
    found.unwrap_or_else(|| panic!("no {dir}/{prefix}*: `cargo xtask test --all` installs its package"))
}

/// How a client reaches a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By its address.
    Tcp,
    /// By its unix socket.
    Unix,
}

/// The server's unix socket.
pub fn socket(dir: &Path) -> PathBuf {
    dir.join("socket")
}

/// The client `mysql` as root.
pub fn mysql(server: &Server, way: Way, args: &[&str]) -> Command {
    let mut command = clean("mysql");
    command.args(["--no-defaults", "--user=root", "--batch", "--skip-column-names"]);
    match way {
        Way::Tcp => {
            command.args(["--protocol=tcp", "--host=127.0.0.1", &format!("--port={}", server.port())])
        }
        Way::Unix => command.arg(format!("--socket={}", socket(&server.dir).display())),
    };
    command.args(args).stdin(Stdio::null());
    command
}
