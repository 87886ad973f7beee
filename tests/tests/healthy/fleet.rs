//! Which servers does a healthy host run? Each as its package's documentation starts it in the foreground.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tests::servers::{self, Server, as_nobody, clean, dir_of_nobody, must, text, versioned};
use tests::{Running, own_dir, start_ended_by};

const PATIENCE: Duration = Duration::from_secs(60);

/// A program without a port of its own.
struct Daemon {
    name: &'static str,
    process: Mutex<Running>,
    log: PathBuf,
}

impl Daemon {
    fn start(name: &'static str, mut command: Command, dir: &Path, ready: impl Fn() -> bool) -> Self {
        let log = dir.join(format!("{name}.log"));
        let said = fs::File::create(&log).expect("a file");
        command.stdin(Stdio::null()).stdout(said.try_clone().expect("a descriptor")).stderr(said);
        let daemon = Self { name, process: Mutex::new(start_ended_by(libc::SIGTERM, command)), log };
        let begin = Instant::now();
        while !ready() {
            daemon.check();
            assert!(begin.elapsed() < PATIENCE, "{name} is not ready; it said:\n{}", text(&daemon.log));
            sleep(Duration::from_millis(20));
        }
        daemon
    }

    fn check(&self) {
        let ended = self.process.lock().expect("no panic").ended();
        assert!(ended.is_none(), "{} has ended: {ended:?}; it said:\n{}", self.name, text(&self.log));
    }
}

/// All of them, stopped when dropped.
pub(crate) struct Fleet {
    pub(crate) nginx: Server,
    pub(crate) redis: Server,
    pub(crate) mariadb: Server,
    pub(crate) postgresql: Server,
    pub(crate) memcached: Server,
    pub(crate) gearmand: Server,
    pub(crate) sshd: Server,
    pub(crate) ssh_key: PathBuf,
    pub(crate) prometheus: Server,
    pub(crate) log_socket: PathBuf,
    pub(crate) supervisor_socket: PathBuf,
    pub(crate) bus_socket: PathBuf,
    dir: PathBuf,
    daemons: Vec<Daemon>,
}

impl Fleet {
    pub(crate) fn start() -> Self {
        let dir = dir_of_nobody("fleet");
        let php = php_fpm(&dir);
        let nginx = nginx(&dir);
        let (sshd, ssh_key) = sshd();
        let log_socket = dir.join("log");
        let bus_socket = dir.join("bus");
        let daemons =
            vec![php, rsyslog(&dir, &log_socket), supervisord(&dir), cron(&dir), bus(&dir, &bus_socket)];
        Self {
            nginx,
            redis: servers::redis(),
            mariadb: servers::mariadb(),
            postgresql: servers::postgresql(),
            memcached: memcached(),
            gearmand: servers::gearmand(),
            sshd,
            ssh_key,
            prometheus: prometheus(),
            log_socket,
            supervisor_socket: dir.join("supervisor.sock"),
            bus_socket,
            dir,
            daemons,
        }
    }

    /// All daemons still run.
    pub(crate) fn check(&self) {
        self.daemons.iter().for_each(Daemon::check);
    }

    /// How many jobs cron has run.
    pub(crate) fn jobs_run(&self) -> usize {
        text(&self.dir.join("cron.ran")).lines().count()
    }

    /// How many lines the log has.
    pub(crate) fn lines_logged(&self) -> usize {
        text(&self.dir.join("all.log")).lines().count()
    }
}

pub(crate) fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("write");
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("readable");
}

fn nginx(dir: &Path) -> Server {
    let d = dir.display();
    let locations = format!(
        "location /static {{ return 200 'fine'; }}\n\
         location / {{ fastcgi_pass unix:{d}/php.sock; fastcgi_param SCRIPT_FILENAME {d}/index.php;\n\
         fastcgi_param REQUEST_METHOD GET; fastcgi_param QUERY_STRING ''; }}"
    );
    servers::nginx(dir.to_owned(), 2, &locations)
}

/// A message bus, as a session has one.
fn bus(dir: &Path, socket: &Path) -> Daemon {
    let mut bus = clean("dbus-daemon");
    bus.args(["--session", "--nofork", "--nopidfile", "--address"]).arg(bus_address(socket));
    Daemon::start("dbus-daemon", bus, dir, || socket.exists())
}

/// The address of a message bus.
pub(crate) fn bus_address(socket: &Path) -> String {
    format!("unix:path={}", socket.display())
}

fn php_fpm(dir: &Path) -> Daemon {
    let d = dir.display();
    write(&dir.join("index.php"), "<?php usleep(random_int(1000, 50000)); echo 'fine';");
    let config = dir.join("php-fpm.conf");
    write(
        &config,
        &format!(
            "[global]\nerror_log = {d}/php-errors.log\ndaemonize = no\n\
             [www]\nlisten = {d}/php.sock\npm = static\npm.max_children = 3\n"
        ),
    );
    let program = versioned("/usr/sbin", "php-fpm");
    let mut command = as_nobody(program.file_name().and_then(|name| name.to_str()).expect("a name"), dir);
    command.arg("--nodaemonize").arg("--fpm-config").arg(config);
    let socket = dir.join("php.sock");
    Daemon::start("php-fpm", command, dir, || socket.exists())
}

fn rsyslog(dir: &Path, socket: &Path) -> Daemon {
    let d = dir.display();
    let config = dir.join("rsyslog.conf");
    write(
        &config,
        &format!(
            "module(load=\"imuxsock\" SysSock.Use=\"off\")\n\
             input(type=\"imuxsock\" Socket=\"{}\")\n\
             global(workDirectory=\"{d}\")\n*.* {d}/all.log\n",
            socket.display()
        ),
    );
    let mut command = as_nobody("rsyslogd", dir);
    command.arg("-n").arg("-f").arg(config).arg("-i").arg(dir.join("rsyslog.pid"));
    Daemon::start("rsyslogd", command, dir, || socket.exists())
}

/// With a program that runs for ever and one that is started again and again.
fn supervisord(dir: &Path) -> Daemon {
    let d = dir.display();
    let config = dir.join("supervisord.conf");
    write(
        &config,
        &format!(
            "[unix_http_server]\nfile={d}/supervisor.sock\n\
             [rpcinterface:supervisor]\nsupervisor.rpcinterface_factory = \
             supervisor.rpcinterface:make_main_rpcinterface\n\
             [supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile={d}/supervisor.pid\n\
             [program:resident]\ncommand=/bin/sh -c 'while read line; do :; done'\n\
             [program:periodic]\ncommand=/bin/sleep 2\nstartsecs=0\n"
        ),
    );
    let mut command = as_nobody("supervisord", dir);
    command.arg("-n").arg("-c").arg(config);
    let socket = dir.join("supervisor.sock");
    Daemon::start("supervisord", command, dir, || socket.exists())
}

/// With a table of its own, in mounts of its own: the host's jobs are not run twice.
fn cron(dir: &Path) -> Daemon {
    let d = dir.display();
    let table = dir.join("crontab");
    write(&table, &format!("* * * * * root sh -c 'date >> {d}/cron.ran; sleep 2'\n"));
    let mut command = clean("unshare");
    let script = "set -e; mount -t tmpfs none /etc/cron.d; mount -t tmpfs none /var/spool/cron; \
                  mkdir /var/spool/cron/crontabs; mount -t tmpfs none /run; mount --bind \"$0\" /etc/crontab; \
                  exec cron -f";
    command.args(["--mount", "sh", "-c", script]).arg(table);
    // cron refuses a table that is not root's.
    std::os::unix::fs::chown(dir.join("crontab"), Some(0), Some(0)).expect("chown");
    Daemon::start("cron", command, dir, || true)
}

fn memcached() -> Server {
    let make = |port: u16, dir: &Path| {
        let mut memcached = as_nobody("memcached", dir);
        memcached.args(["-l", "127.0.0.1", "-U", "0", "-p", &port.to_string()]);
        memcached
    };
    Server::start(dir_of_nobody("memcached"), make, Server::listens)
}

fn prometheus() -> Server {
    let make = |port: u16, dir: &Path| {
        let config = dir.join("prometheus.yml");
        let text = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s }}\n\
             scrape_configs: [ {{ job_name: itself, static_configs: [ {{ targets: ['127.0.0.1:{port}'] }} ] }} ]\n"
        );
        write(&config, &text);
        let mut prometheus = as_nobody("prometheus", dir);
        prometheus.arg(format!("--config.file={}", config.display()));
        prometheus.arg(format!("--storage.tsdb.path={}", dir.join("data").display()));
        prometheus.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        prometheus
    };
    Server::start(dir_of_nobody("prometheus"), make, Server::listens)
}

/// As root, who may log in with the key whose file is the second.
fn sshd() -> (Server, PathBuf) {
    let dir = own_dir().join("sshd");
    fs::create_dir(&dir).expect("a directory");
    let (host, key) = (dir.join("host"), dir.join("key"));
    for file in [&host, &key] {
        let mut keygen = clean("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(file);
        must(keygen);
    }
    // Where its children are locked up before anybody has logged in; its unit makes it elsewhere.
    fs::create_dir_all("/run/sshd").expect("a directory");
    let config = dir.join("sshd_config");
    write(
        &config,
        &format!(
            "HostKey {}\nAuthorizedKeysFile {}.pub\nPermitRootLogin yes\nStrictModes no\nUsePAM no\nPidFile none\n",
            host.display(),
            key.display()
        ),
    );
    let make = |port: u16, _: &Path| {
        // It starts itself again, by its whole path.
        let mut sshd = clean("sshd");
        sshd.args(["-D", "-e", "-o", &format!("ListenAddress=127.0.0.1:{port}"), "-f"]).arg(&config);
        sshd
    };
    (Server::start(dir.clone(), make, Server::listens), key)
}
