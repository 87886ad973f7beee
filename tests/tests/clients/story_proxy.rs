//! A client waits for a proxy, and the proxy for a service that does not answer. The proxy's threads rest in their event loop: are its
//! requests flagged, each once and with the service, and does the client's chain lead to it?

use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::servers::{self, Server, clean, dir_of_nobody};
use tests::{Agent, MuteServer, Talk, parse_rfc3339_ns, ps, seconds_between, start, why_page};

const PATIENCE: Duration = Duration::from_secs(30);

/// A proxy with one worker, in front of this service.
fn proxy_of(service: &MuteServer) -> Server {
    let location =
        format!("location / {{ proxy_read_timeout 1h; proxy_pass http://{}; }}", service.address());
    servers::nginx(dir_of_nobody("proxy"), 1, &location)
}

/// The request that the proxy has sent, once it has.
fn asked(service: &MuteServer) -> Talk {
    let begin = Instant::now();
    loop {
        if let [talk] = &service.talks()[..]
            && talk.last_word == tests::LastWord::Client
        {
            return talk.clone();
        }
        assert!(begin.elapsed() < PATIENCE, "the proxy has not asked: {:?}", service.talks());
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_proxys_request_is_a_stall_and_the_clients_chain_leads_to_the_service() {
    let service = MuteServer::start(&[]);
    let proxy = proxy_of(&service);
    let mut agent = Agent::start(&["--threshold", "5s"]);
    let mut curl = clean("curl");
    curl.args(["-s", &format!("http://127.0.0.1:{}/", proxy.port())]).stdin(Stdio::null());
    let mut curl = start(curl);
    let talk = asked(&service);

    let is_proxys =
        |name: &'static str| move |event: &Value| event["event"] == name && event["wait"]["comm"] == "nginx";
    let (opened, arrived) = agent.wait_event(PATIENCE, is_proxys("stall_opened"));
    let wait = &opened["wait"];
    let told =
        [&wait["tid"], &wait["syscall"], &wait["class"], &wait["target"]["local"], &wait["target"]["remote"]];
    let truth = [
        Value::from(0),
        "request".into(),
        "reply".into(),
        talk.client.to_string().into(),
        service.address().to_string().into(),
    ];
    assert_eq!(told, truth.each_ref(), "{opened:#}");
    let since = parse_rfc3339_ns(wait["since"].as_str().expect("a time"));
    assert!(seconds_between(talk.last_ns, since).abs() < 1.0, "since is off: {opened:#}");
    // The threshold, a pass over all sockets each five seconds, and a look.
    let after = seconds_between(talk.last_ns, arrived);
    assert!((4.5..=5.0 + 5.0 + 3.5).contains(&after), "flagged after {after:.3} s: {opened:#}");
    agent.wait_stall("stall_opened", curl.pid(), PATIENCE);

    let worker = u32::try_from(wait["pid"].as_u64().expect("a pid")).expect("a pid");
    let rows = ps(&["-p", &worker.to_string()]).rows;
    assert!(rows.iter().any(|row| row["syscall"] == "request" && row["level"] == "stuck"), "{rows:#?}");
    let page = why_page(curl.pid());
    assert!(page.contains(&service.address().to_string()), "the chain does not reach the service: {page}");

    curl.kill();
    let (closed, arrived) = agent.wait_event(PATIENCE, is_proxys("stall_closed"));
    let lasted = closed["stall_seconds"].as_f64().expect("a number");
    let off = lasted - seconds_between(talk.last_ns, arrived);
    assert!(off.abs() < 4.0, "off by {off:+.3} s: {closed:#}");
    assert_eq!(agent.events_of(worker), ["stall_opened", "stall_closed"]);
}
