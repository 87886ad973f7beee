//! Is a wait let be for its baseline's sake, and is that said; and can another user of the host make the agent let a hang be?

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tests::{Agent, NOBODY, Sample, Waiter, ps, shared, slow, why_run, with_few};

use super::agent_api::{documented, keys, object};
const PATIENCE: Duration = Duration::from_secs(30);
/// How long an answer takes.
const TAKES: Duration = Duration::from_secs(3);
/// The agent's threshold is a second: with a baseline of [`TAKES`] a hang is flagged after nine, and has to be after six.
const THRESHOLD: &[&str] = &["--threshold", "1s"];
const SOON: Duration = Duration::from_secs(6);

/// A server that answers `y` after a while and `n` never, for as long as the test process lives.
fn serve(listener: TcpListener) -> SocketAddr {
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() {
                    if byte == *b"y" {
                        thread::sleep(TAKES);
                        let _ = stream.write_all(b"!");
                    }
                }
            });
        }
    });
    address
}

fn server() -> SocketAddr {
    serve(TcpListener::bind("127.0.0.1:0").expect("a port"))
}

/// Two servers, on the same port of two addresses.
fn two_servers() -> (SocketAddr, SocketAddr) {
    let other = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));
    for _ in 0..100 {
        let first = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = first.local_addr().expect("bound").port();
        // Somebody may have it there.
        if let Ok(second) = TcpListener::bind((other, port)) {
            return (serve(first), serve(second));
        }
    }
    panic!("each port is taken at {other}");
}

fn excused(samples: &[Sample]) -> f64 {
    samples.iter().filter(|sample| sample.is("tracer_waits_excused", &[])).map(|sample| sample.value).sum()
}

fn why(agent: &Agent, args: &[&str], pid: u32) -> String {
    let socket = agent.socket();
    let pid = pid.to_string();
    let args = [args, &["--socket", socket.to_str().expect("UTF-8"), &pid]].concat();
    let (code, stdout, stderr) = why_run(&args);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    stdout
}

/// What `ps` makes of the client, by each way to see it.
fn seen(agent: &Agent, pid: u32) -> Vec<Value> {
    let socket = agent.socket();
    let look = |source: &str| {
        let pid = pid.to_string();
        let args = ["--source", source, "--socket", socket.to_str().expect("UTF-8"), "-p", &pid];
        ps(&args).rows.into_iter().next().unwrap_or_else(|| panic!("no wait by {source}"))
    };
    ["bpf", "agent"].map(look).to_vec()
}

/// Flagged as soon as it should be, and shown, whoever asks.
fn is_found(agent: &mut Agent, victim: &Waiter) {
    let (event, _) = agent.wait_stall("stall_opened", victim.pid(), slow(SOON));
    assert_eq!(event["wait"]["class"], "reply", "{event:#}");
    let seconds = event["stall_seconds"].as_f64().unwrap_or(f64::NAN);
    assert!(seconds <= slow(SOON).as_secs_f64(), "flagged after {seconds} s: {event:#}");
    for row in seen(agent, victim.pid()) {
        assert_eq!(row["class"], "reply", "{row:#}");
    }
}

/// Two answers after three seconds: from then on a wait there is flagged after nine, and until then it is said why not.
#[test]
fn a_wait_that_its_baseline_excuses() {
    // It asks four times in six seconds.
    let _few = with_few();
    let mut agent = Agent::start(THRESHOLD);
    let client = Waiter::start_with("asks", &[&server().to_string(), "2"]);
    client.until_age(1.0);
    // Those before it may have been flagged, as nothing was known then.
    agent.wait_scrape(PATIENCE, |all| excused(all) == 1.0);
    agent.events_of(client.pid());
    agent.forget(client.pid());
    for args in [&["--json", "--source", "bpf"][..], &["--json", "--source", "agent"]] {
        let report: Value = serde_json::from_str(&why(&agent, args, client.pid())).expect("an object");
        let baseline = &report["threads"][0]["baseline"];
        let seconds = |name: &str| baseline[name].as_f64().unwrap_or_else(|| panic!("no {name}: {report:#}"));
        assert_eq!(seconds("threshold_seconds"), 1.0, "{report:#}");
        let usual = seconds("usual_seconds");
        assert!((2.9..4.5).contains(&usual), "{report:#}");
        assert!((seconds("flagged_after_seconds") - 3.0 * usual).abs() < 0.01, "{report:#}");
    }
    for args in [&["--source", "bpf"][..], &["--source", "agent"]] {
        let page = why(&agent, args, client.pid());
        let text = page.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            text.contains("not flagged before ") && text.contains("answers from there usually take up to "),
            "{page}"
        );
    }
    let excused_wait = object(&agent, &format!("/v1/baselines/{}", client.pid()));
    assert_eq!(keys(&excused_wait), documented("/v1/baselines/PID"));
    assert_eq!(excused_wait["tid"], client.tid());
    client.until_age(8.5);
    assert_eq!(agent.events_of(client.pid()), [""; 0], "flagged in spite of its baseline");
    // It is no excuse for ever.
    agent.wait_stall("stall_opened", client.pid(), PATIENCE);
    agent.wait_scrape(PATIENCE, |all| excused(all) == 0.0);
    let report: Value = serde_json::from_str(&why(&agent, &["--json"], client.pid())).expect("an object");
    assert!(report["threads"][0]["baseline"].is_null(), "{report:#}");
}

/// An agent that does not answer is not waited for, and not taken for one that excuses nothing.
#[test]
fn an_agent_that_does_not_say() {
    let _shared = shared();
    let agent = Agent::start(&[]);
    let client = Waiter::start_with("asks", &[&server().to_string(), "0"]);
    client.until_age(1.2);
    agent.signal(libc::SIGSTOP);
    let page = why(&agent, &["--source", "bpf"], client.pid());
    let text = page.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("is stuck: waiting"), "{page}");
    assert!(
        text.contains("Could not ask the agent whether answers usually take this long: cannot ask the agent"),
        "{page}"
    );
}

/// A user's program of the same name, and even of the same file, teaches the agent nothing about root's: neither with a server of its
/// own on the same port, nor with the very server.
#[test]
fn another_user_trains_nothing() {
    let _shared = shared();
    let (service, own) = two_servers();
    let mut agent = Agent::start(THRESHOLD);
    let trainers: Vec<Waiter> = thread::scope(|scope| {
        let train =
            |to: SocketAddr| scope.spawn(move || Waiter::start_as(NOBODY, "asks", &[&to.to_string(), "3"]));
        [service, own]
            .map(train)
            .into_iter()
            .map(|trainer| trainer.join().expect("it was answered"))
            .collect()
    });
    agent.wait_scrape(PATIENCE, |all| excused(all) == trainers.len() as f64);
    let victim = Waiter::start_with("asks", &[&service.to_string(), "0"]);
    is_found(&mut agent, &victim);
}

/// A user who listens on the port of root's client, at other addresses, does not make a server of it: whether its socket is one of IPv4,
/// or one of IPv6 that speaks IPv4.
#[test]
fn another_users_listener_is_not_the_clients() {
    let _shared = shared();
    let mut agent = Agent::start(THRESHOLD);
    let service = server();
    for address in [service.to_string(), format!("[::ffff:127.0.0.1]:{}", service.port())] {
        let victim = Waiter::start_with("asks", &[&address, "0"]);
        let local: SocketAddr = victim.text("local").parse().expect("an address");
        let _attacker = Waiter::start_as(NOBODY, "shadow", &[&local.port().to_string()]);
        is_found(&mut agent, &victim);
    }
}
