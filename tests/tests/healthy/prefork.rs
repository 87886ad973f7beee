//! Which programs of a healthy host wait for each other in turns? Servers that share a lock so that one at a time accepts, workers that
//! share a queue, and a shell with its daemons.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use tests::servers::{Server, as_nobody, clean, dir_of_nobody};
use tests::{Running, start_ended_by};

use crate::fleet::write;

/// The kinds of lock that Apache can be told to use.
const OF_APACHE: [&str; 5] = ["fcntl", "flock", "posixsem", "pthread", "sysvsem"];
/// And `Net::Server` of Perl.
const OF_PERL: [&str; 3] = ["flock", "semaphore", "pipe"];

/// All of them, stopped when dropped.
pub(crate) struct Prefork {
    /// Servers that answer `fine`, by what is between their processes.
    pub(crate) apache: Vec<(&'static str, Server)>,
    pub(crate) perl: Vec<(&'static str, Server)>,
    others: Vec<(&'static str, Mutex<Running>)>,
}

impl Prefork {
    pub(crate) fn start() -> Self {
        let quiet = |farewell, mut command: Command| {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            Mutex::new(start_ended_by(farewell, command))
        };
        Self {
            apache: OF_APACHE.map(|kind| (kind, apache(kind))).into(),
            perl: OF_PERL.map(|kind| (kind, net_server(kind))).into(),
            others: vec![
                ("a shell with daemons", quiet(libc::SIGTERM, shell())),
                ("a pool of processes", quiet(libc::SIGTERM, pool())),
            ],
        }
    }

    /// All still run.
    pub(crate) fn check(&self) {
        for (name, process) in &self.others {
            let ended = process.lock().expect("no panic").ended();
            assert!(ended.is_none(), "{name} has ended: {ended:?}");
        }
    }
}

/// Two addresses, so that its processes need a lock.
fn apache(kind: &str) -> Server {
    let make = |port: u16, dir: &Path| {
        let d = dir.display();
        let modules = "/usr/lib/apache2/modules";
        let config = dir.join("apache.conf");
        write(&dir.join("index.html"), "fine");
        write(
            &config,
            &format!(
                "ServerRoot {d}\nDefaultRuntimeDir {d}\nPidFile {d}/pid\nErrorLog {d}/errors\nServerName localhost\n\
                 LoadModule mpm_prefork_module {modules}/mod_mpm_prefork.so\n\
                 LoadModule authz_core_module {modules}/mod_authz_core.so\n\
                 LoadModule dir_module {modules}/mod_dir.so\n\
                 Mutex {kind}:{d} default\nListen 127.0.0.1:{port}\nListen 127.0.0.2:{port}\n\
                 StartServers 4\nMinSpareServers 4\nDocumentRoot {d}\n"
            )
            // Not all kinds have a file.
            .replace(&format!("{kind}:{d}"), &if kind.contains('l') { format!("{kind}:{d}") } else { kind.into() }),
        );
        let mut apache = as_nobody("apache2", dir);
        apache.args(["-D", "FOREGROUND", "-f"]).arg(config);
        apache
    };
    Server::start_ended_by(libc::SIGTERM, dir_of_nobody("apache"), make, Server::listens)
}

fn net_server(kind: &str) -> Server {
    const PROGRAM: &str = "package Fine; use base 'Net::Server::PreFork';
        sub process_request { my $line = <STDIN>; print \"HTTP/1.0 200 OK\\r\\n\\r\\nfine\"; }
        my ($port, $kind, $dir) = @ARGV;
        Fine->run(port => [\"127.0.0.1:$port\", \"127.0.0.2:$port\"], ipv => 4, serialize => $kind, lock_file => \"$dir/lock\",
            min_servers => 3, max_servers => 6, min_spare_servers => 2, max_spare_servers => 4, log_level => 1);";
    let make = |port: u16, dir: &Path| {
        let mut perl = as_nobody("perl", dir);
        perl.args(["-e", PROGRAM, &port.to_string(), kind]).arg(dir);
        perl
    };
    Server::start_ended_by(libc::SIGTERM, dir_of_nobody("perl"), make, Server::listens)
}

/// Starts others, and waits until one ends.
fn shell() -> Command {
    let script = "trap 'kill $(jobs -p); exit 0' TERM
        tail -f /dev/null &
        sleep 100000 | cat &
        python3 -c 'import threading; threading.Event().wait()' &
        (while :; do sleep 2; done) &
        while :; do wait; done";
    let mut command = clean("bash");
    command.args(["-c", script]);
    command
}

/// Processes that wait for jobs, as Python's multiprocessing has them, of which the first have had one; a queue that nobody fills; and
/// threads that rest.
fn pool() -> Command {
    let program = "import multiprocessing, signal, sys, threading
def consume(queue):
    while queue.get() is not None: pass
if __name__ == '__main__':
    queue = multiprocessing.Queue()
    workers = [multiprocessing.Process(target=consume, args=(queue,), daemon=True) for _ in range(3)]
    for worker in workers: worker.start()
    queue.put(1)
    pool = multiprocessing.Pool(3)
    pool.map(abs, range(5))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    threading.Event().wait()";
    let mut command = clean("python3");
    command.args(["-c", program]);
    command
}
