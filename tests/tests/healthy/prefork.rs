//! Which programs of a healthy host wait for each other in turns? Servers that share a lock so that one at a time accepts, workers that
//! share a queue, a shell with its daemons, and a pipe whose reader takes its time.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use tests::servers::{Server, as_nobody, clean, dir_of_nobody, must, versioned};
use tests::{Running, own_dir, start_ended_by};

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
    /// uWSGI that answers `fine`, in use and not.
    pub(crate) uwsgi: [Server; 2],
    /// Postfix after a burst: its processes take turns, and have nothing to do.
    postfix: Server,
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
            uwsgi: [uwsgi(), uwsgi()],
            postfix: postfix(),
            others: vec![
                ("a shell with daemons", quiet(libc::SIGTERM, shell())),
                ("a pool of processes", quiet(libc::SIGTERM, pool())),
                ("pools of asyncio", quiet(libc::SIGTERM, executors())),
                ("a pipe whose reader takes its time", quiet(libc::SIGTERM, slow_reader())),
            ],
        }
    }

    /// The processes that Postfix has for those who connect: after the burst one for each of them.
    pub(crate) fn of_postfix(&self) -> usize {
        let children = format!("/proc/{0}/task/{0}/children", self.postfix.pid());
        let children = fs::read_to_string(children).expect("Postfix runs");
        let comm = |pid: &str| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        children.split_whitespace().filter(|pid| comm(pid).trim() == "smtpd").count()
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

/// How many send a mail at the same moment.
pub(crate) const BURST: usize = 6;

/// A mail server of its own, which throws all mails away, and a burst of them.
fn postfix() -> Server {
    let dir = own_dir().join("postfix");
    ["etc", "spool", "data"].iter().for_each(|name| fs::create_dir_all(dir.join(name)).expect("a directory"));
    let mut owner = clean("chown");
    owner.arg("postfix").arg(dir.join("data"));
    must(owner);
    let make = |port: u16, dir: &Path| {
        let d = dir.display();
        write(
            &dir.join("etc/main.cf"),
            &format!(
                "compatibility_level = 3.6\nqueue_directory = {d}/spool\ndata_directory = {d}/data\n\
                 inet_interfaces = 127.0.0.1\ninet_protocols = ipv4\nmydestination =\nmax_idle = 1h\nmaillog_file = {d}/mail.log\n\
                 maillog_file_prefixes = {d}\ndefault_transport = discard:\nsmtpd_relay_restrictions = permit_mynetworks, reject\n"
            ),
        );
        let services = [
            ("cleanup", "unix n - n - 0 cleanup"),
            ("qmgr", "unix n - n 300 1 qmgr"),
            ("rewrite", "unix - - n - - trivial-rewrite"),
            ("bounce", "unix - - n - 0 bounce"),
            ("proxymap", "unix - - n - - proxymap"),
            ("anvil", "unix - - n - 1 anvil"),
            ("discard", "unix - - n - - discard"),
            ("postlog", "unix-dgram n - n - 1 postlogd"),
        ];
        let services: String = services.map(|(name, service)| format!("{name} {service}\n")).concat();
        write(&dir.join("etc/master.cf"), &format!("127.0.0.1:{port} inet n - n - - smtpd\n{services}"));
        let mut check = clean("postfix");
        check.arg("-c").arg(dir.join("etc")).arg("check");
        must(check);
        let mut master = clean("env");
        master.arg(versioned("/usr/lib/postfix/sbin", "master")).arg("-c").arg(dir.join("etc")).arg("-d");
        master
    };
    let server = Server::start_ended_by(libc::SIGTERM, dir.clone(), make, Server::listens);
    // None is served before all are greeted: each has a process of Postfix to itself.
    let senders = [(); BURST].map(|()| TcpStream::connect(server.address).expect("it listens"));
    let senders = senders.map(Sender::greeted);
    let senders = senders.map(|sender| thread::spawn(move || sender.send_mail()));
    senders.into_iter().for_each(|sender| sender.join().expect("the mail is sent"));
    server
}

/// Somebody who sends a mail.
struct Sender(BufReader<TcpStream>);

impl Sender {
    fn greeted(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a time-out");
        let mut sender = Self(BufReader::new(stream));
        sender.expect("220");
        sender
    }

    fn expect(&mut self, code: &str) {
        let mut answer = String::new();
        self.0.read_line(&mut answer).expect("an answer");
        assert!(answer.starts_with(code), "{answer}");
    }

    fn send_mail(mut self) {
        let said = [
            ("HELO localhost\r\n", "250"),
            ("MAIL FROM:<a@localhost.test>\r\n", "250"),
            ("RCPT TO:<b@localhost.test>\r\n", "250"),
            ("DATA\r\n", "354"),
            ("Subject: all is well\r\n\r\nIt is.\r\n.\r\n", "250"),
            ("QUIT\r\n", "221"),
        ];
        for (line, code) in said {
            self.0.get_mut().write_all(line.as_bytes()).expect("it reads");
            self.expect(code);
        }
    }
}

/// Processes with threads that take turns by a lock in shared memory.
fn uwsgi() -> Server {
    let make = |port: u16, dir: &Path| {
        let program = dir.join("app.py");
        write(
            &program,
            "def application(environ, start):\n    start('200 OK', [('Content-Length', '4')])\n    return [b'fine']\n",
        );
        let mut uwsgi = as_nobody("uwsgi-core", dir);
        uwsgi.args([
            "--plugin",
            "python3",
            "--master",
            "--processes",
            "3",
            "--threads",
            "2",
            "--thunder-lock",
        ]);
        uwsgi
            .args(["--die-on-term", "--http-socket", &format!("127.0.0.1:{port}"), "--wsgi-file"])
            .arg(program);
        uwsgi
    };
    Server::start_ended_by(libc::SIGTERM, dir_of_nobody("uwsgi"), make, Server::listens)
}

/// A pipe that is full, as its reader does something else: that is for the reader to decide.
fn slow_reader() -> Command {
    let large = own_dir().join("large");
    fs::write(&large, vec![0; 5_000_000]).expect("our own file");
    let mut command = clean("bash");
    command
        .args(["-c", "trap 'kill $(jobs -p); exit 0' TERM; sleep 100000 < <(pv -q \"$0\") & wait"])
        .arg(large);
    command
}

/// Threads and processes that have done what they were asked for, a manager, a child that reads what nobody writes, and a loop that
/// waits for an event.
fn executors() -> Command {
    let program = "import asyncio, multiprocessing, signal, sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
async def main():
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: sys.exit(0))
    with ProcessPoolExecutor(2) as processes, ThreadPoolExecutor(3) as threads, multiprocessing.Manager() as manager:
        await asyncio.gather(*(loop.run_in_executor(pool, abs, -1) for pool in (processes, threads) for _ in range(5)))
        shared = manager.dict(one=1)
        child = await asyncio.create_subprocess_exec('cat', stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
        server = await asyncio.start_server(lambda *_: None, '127.0.0.1', 0)
        await asyncio.gather(asyncio.Event().wait(), child.stdout.readline(), asyncio.to_thread(abs, 1))
if __name__ == '__main__': asyncio.run(main())";
    let mut command = clean("python3");
    command.args(["-c", program]);
    command
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
