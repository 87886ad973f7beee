//! A client's connection is translated on its way, as in front of a container or a service of Kubernetes. Is the process behind the
//! translation named, and not the address that nobody has?

use std::io::Write;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::servers::clean;
use tests::{Agent, Running, ps, start, why_page};

const PATIENCE: Duration = Duration::from_secs(30);

/// Accepts one connection, reads from it, and never answers.
const SERVER: &str = "import socket, sys, time
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
print('listens', flush=True)
peer, _ = listener.accept()
peer.recv(100)
time.sleep(1000)
";
/// Asks there.
const CLIENT: &str = "import socket, sys
service = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20)
service.settimeout(None)
service.send(b'hello')
service.recv(100)
";

/// Network namespaces of this test's own, gone when dropped.
struct Networks(Vec<String>);

impl Networks {
    fn make(names: &[&str]) -> Self {
        let mut networks = Self(Vec::new());
        for name in names {
            let name = networks.called(name);
            run("ip", &["netns", "add", &name]);
            networks.0.push(name.clone());
            run("ip", &["-n", &name, "link", "set", "lo", "up"]);
        }
        networks
    }

    /// What one of them is called on this host.
    fn called(&self, name: &str) -> String {
        format!("tracer-{}-{name}", std::process::id())
    }

    /// Joins two of them by a cable: `(network, interface, address)` of each end.
    fn join(&self, ends: [(&str, &str, &str); 2]) {
        let [(one, first, _), (other, second, _)] = ends;
        let names = [self.called(one), self.called(other)];
        let peer = ["type", "veth", "peer", "name", second, "netns", &names[1]];
        run("ip", &[&["link", "add", first, "netns", &names[0]], &peer[..]].concat());
        for (network, interface, address) in ends {
            let name = self.called(network);
            run("ip", &["-n", &name, "addr", "add", address, "dev", interface]);
            run("ip", &["-n", &name, "link", "set", interface, "up"]);
        }
    }

    /// A command that runs in one of them.
    fn inside(&self, name: &str, program: &str, args: &[&str]) -> Command {
        let mut command = clean("ip");
        command.args(["netns", "exec", &self.called(name), program]).args(args);
        command
    }

    /// Loads rules into one of them.
    fn rules(&self, name: &str, rules: &str) {
        let mut nft = self.inside(name, "nft", &["-f", "-"]);
        let mut nft = start_piped(nft.stdin(Stdio::piped()));
        let mut stdin = nft.pipes().stdin.take().expect("piped");
        stdin.write_all(rules.as_bytes()).expect("nft reads");
        drop(stdin);
        let status = nft.wait(PATIENCE).expect("nft ends");
        assert!(status.success(), "nft: {status}");
    }

    /// A server that does not answer, once it listens.
    fn server(&self, name: &str, address: &str, port: &str) -> Running {
        let mut command = self.inside(name, "python3", &["-c", SERVER, address, port]);
        let mut server = start_piped(command.stdout(Stdio::piped()));
        let mut line = String::new();
        let stdout = server.pipes().stdout.take().expect("piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("it says so");
        assert_eq!(line, "listens\n");
        server
    }

    fn client(&self, name: &str, address: &str, port: &str) -> Running {
        start_piped(&mut self.inside(name, "python3", &["-c", CLIENT, address, port]))
    }
}

impl Drop for Networks {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

fn start_piped(command: &mut Command) -> Running {
    start(std::mem::replace(command, Command::new("true")))
}

fn run(program: &str, args: &[&str]) {
    let status = clean(program).args(args).status().expect("it starts");
    assert!(status.success(), "{program} {args:?}: {status}");
}

/// What `ps` says of a process, once it waits for an answer.
fn until_it_asks(pid: u32) -> Value {
    let begin = Instant::now();
    loop {
        let rows = ps(&["-p", &pid.to_string()]).rows;
        if let [row] = &rows[..]
            && row["class"] == "reply"
        {
            return row.clone();
        }
        assert!(begin.elapsed() < PATIENCE, "it does not ask: {rows:#?}");
        sleep(Duration::from_millis(100));
    }
}

/// Through a router that gives the service another address and hides the client's, and that no process is in.
#[test]
fn the_process_behind_a_router_is_named() {
    let networks = Networks::make(&["client", "router", "server"]);
    networks.join([("client", "uplink", "10.91.1.2/24"), ("router", "clients", "10.91.1.1/24")]);
    networks.join([("server", "uplink", "10.91.2.2/24"), ("router", "servers", "10.91.2.1/24")]);
    run("ip", &["-n", &networks.called("client"), "route", "add", "default", "via", "10.91.1.1"]);
    let forward = networks.inside("router", "sysctl", &["-qw", "net.ipv4.ip_forward=1"]).status();
    assert!(forward.expect("sysctl starts").success());
    networks.rules(
        "router",
        "table ip nat {
            chain pre {
                type nat hook prerouting priority -100;
                ip daddr 10.96.0.1 tcp dport 80 dnat to 10.91.2.2:8080;
            }
            chain post {
                type nat hook postrouting priority 100;
                oifname \"servers\" masquerade;
            }
        }\n",
    );
    let server = networks.server("server", "10.91.2.2", "8080");
    let client = networks.client("client", "10.96.0.1", "80");
    let row = until_it_asks(client.pid());
    assert_eq!(row["culprit"]["pid"], server.pid(), "{row:#}");
    assert_eq!(row["target"]["remote"], "10.96.0.1:80", "{row:#}");
    assert_eq!(row["translated"]["local"], "10.91.2.2:8080", "{row:#}");
    let verdict = row["verdict"].as_str().expect("a sentence");
    let says =
        format!("from 10.96.0.1:80 (translated to 10.91.2.2:8080), which is python3 (pid {})", server.pid());
    assert!(verdict.contains(&says), "{verdict}");
    let page = why_page(client.pid());
    assert!(page.contains(&format!("tracer why {}", server.pid())), "{page}");
}

/// To another port of the same host. The agent may ask nobody by netlink, but reads the kernel's table.
#[test]
fn the_process_behind_a_redirection_is_named_by_the_agent_as_well() {
    let networks = Networks::make(&["redirected"]);
    networks.rules(
        "redirected",
        "table ip nat {
            chain out {
                type nat hook output priority -100;
                ip daddr 127.0.0.1 tcp dport 80 redirect to :8081;
            }
        }\n",
    );
    let server = networks.server("redirected", "127.0.0.1", "8081");
    let mut agent = Agent::start(&["--threshold", "2s"]);
    let client = networks.client("redirected", "127.0.0.1", "80");
    assert_eq!(until_it_asks(client.pid())["culprit"]["pid"], server.pid());
    let (opened, _) = agent.wait_stall("stall_opened", client.pid(), PATIENCE);
    let verdict = opened["wait"]["verdict"].as_str().expect("a sentence");
    assert!(verdict.contains(&format!("which is python3 (pid {})", server.pid())), "{verdict}");
}
