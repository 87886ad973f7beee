//! A hang becomes an alert, and its end the alert's: a real Prometheus and a real Alertmanager with the rules and the route of
//! `deploy/`, and a receiver here.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::servers::{Server, as_nobody, dir_of_nobody};
use tests::{Agent, Waiter, http, pause, shared, slow};

use crate::{file, read};

const PATIENCE: Duration = Duration::from_secs(60);

/// Listens as a receiver of webhooks; its port, and the notifications as they come.
fn receiver() -> (u16, Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
    let port = listener.local_addr().expect("bound").port();
    let (send, notifications) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut reader = BufReader::new(stream.try_clone().expect("a descriptor"));
            let mut length = 0;
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap_or(0);
                }
                line.clear();
            }
            let mut body = vec![0; length];
            if reader.read_exact(&mut body).is_ok() {
                let _ =
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                if send.send(serde_json::from_slice(&body).expect("JSON")).is_err() {
                    return;
                }
            }
        }
    });
    (port, notifications)
}

/// Replaces what is there once, so that the test takes seconds where a host takes minutes.
fn hasten(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from:?} in\n{text}");
    text.replace(from, to)
}

fn alertmanager(webhook: u16) -> Server {
    let make = |port: u16, dir: &Path| {
        let text = read("deploy/alertmanager/alertmanager.example.yml");
        let text = hasten(&text, "group_wait: 10s", "group_wait: 1s");
        let text = hasten(&text, "group_interval: 1m", "group_interval: 1s");
        let text = hasten(&text, "http://127.0.0.1:9095/", &format!("http://127.0.0.1:{webhook}/"));
        fs::write(dir.join("alertmanager.yml"), text).expect("write");
        fs::copy(file("deploy/alertmanager/tracer.tmpl"), dir.join("tracer.tmpl")).expect("copy");
        let mut command = as_nobody("prometheus-alertmanager", dir);
        command.arg(format!("--config.file={}", dir.join("alertmanager.yml").display()));
        command.arg(format!("--storage.path={}", dir.join("data").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        command.arg("--cluster.listen-address=");
        command
    };
    Server::start(dir_of_nobody("alertmanager"), make, Server::listens)
}

fn prometheus(agent: &Agent, alertmanager: &Server) -> Server {
    let make = |port: u16, dir: &Path| {
        let rules = hasten(
            &read("deploy/prometheus/tracer.rules.yml"),
            "(tracer_stall_seconds) > 60",
            "(tracer_stall_seconds) > 5",
        );
        let rules = hasten(&rules, "(tracer_incident_seconds) > 60", "(tracer_incident_seconds) > 5");
        fs::write(dir.join("tracer.rules.yml"), rules).expect("write");
        let text = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}\n\
             scrape_configs: [ {{ job_name: tracer, static_configs: [ {{ targets: ['{}'] }} ] }} ]\n\
             alerting: {{ alertmanagers: [ {{ static_configs: [ {{ targets: ['{}'] }} ] }} ] }}\n\
             rule_files: [ tracer.rules.yml ]\n",
            agent.address(),
            alertmanager.address
        );
        fs::write(dir.join("prometheus.yml"), text).expect("write");
        let mut command: Command = as_nobody("prometheus", dir);
        command.arg(format!("--config.file={}", dir.join("prometheus.yml").display()));
        command.arg(format!("--storage.tsdb.path={}", dir.join("data").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        command
    };
    Server::start(dir_of_nobody("prometheus"), make, Server::listens)
}

/// Waits for the notification about this process with this status; the alert.
fn notified(notifications: &Receiver<Value>, pid: u32, status: &str) -> Value {
    let begin = Instant::now();
    let (mut others, pid) = (Vec::new(), pid.to_string());
    loop {
        let left = slow(PATIENCE).saturating_sub(begin.elapsed());
        let Ok(notification) = notifications.recv_timeout(left) else {
            panic!("no notification that {pid} is {status}; there were {others:#?}")
        };
        let alerts = notification["alerts"].as_array().expect("alerts").clone();
        let is_it =
            |alert: &&Value| alert["labels"]["pid"].as_str() == Some(&*pid) && alert["status"] == status;
        if let Some(alert) = alerts.iter().find(is_it) {
            return alert.clone();
        }
        others.push(notification);
    }
}

/// One request to Alertmanager's interface, and the body of its answer.
fn ask(alertmanager: &Server, request: &str, body: &str) -> String {
    let stream = TcpStream::connect(alertmanager.address).expect("it listens");
    let head = "Host: a\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length:";
    let whole = format!("{request} HTTP/1.0\r\n{head} {}\r\n\r\n{body}", body.len());
    let answer = http::send(stream, &whole).expect("it answers");
    assert_eq!(answer.status, 200, "{request}: {answer:?}");
    answer.body
}

/// Who waits for the dependency is not told of beside it; who waits for another peer is.
#[test]
fn a_dependency_holds_back_its_own_clients_alone() {
    let (webhook, notifications) = receiver();
    let alertmanager = alertmanager(webhook);
    let alert = |name: &str, instance: &str, remote: &str| {
        json!({ "labels": { "alertname": name, "instance": instance, "remote": remote, "pid": instance },
            "annotations": { "summary": remote } })
    };
    let alerts = json!([
        alert("TracerDependencyHangs", "", "10.0.0.9:3306"),
        alert("TracerStall", "1", "10.0.0.9:3306"),
        alert("TracerStall", "2", "127.0.0.1:3306"),
        alert("TracerStall", "3", ""),
    ]);
    ask(&alertmanager, "POST /api/v2/alerts", &alerts.to_string());
    let mut told = BTreeSet::new();
    while told.len() < 3 {
        let notification =
            notifications.recv_timeout(slow(PATIENCE)).unwrap_or_else(|_| panic!("only {told:?}"));
        for alert in notification["alerts"].as_array().expect("alerts") {
            told.insert(alert["labels"]["pid"].as_str().unwrap_or("the dependency").to_owned());
        }
    }
    assert_eq!(told.iter().map(String::as_str).collect::<Vec<_>>(), ["2", "3", "the dependency"]);
    let answer: Value = serde_json::from_str(&ask(&alertmanager, "GET /api/v2/alerts", "")).expect("JSON");
    let mut held: Vec<&str> = Vec::new();
    for alert in answer.as_array().expect("alerts") {
        if alert["status"]["state"] == "suppressed" {
            held.push(alert["labels"]["pid"].as_str().expect("a pid"));
        }
    }
    assert_eq!(held, ["1"], "{answer:#}");
}

#[test]
fn a_hang_becomes_an_alert_and_its_end_resolves_it() {
    let _shared = shared();
    let (webhook, notifications) = receiver();
    let agent = Agent::start(&["--threshold", "2s"]);
    let alertmanager = alertmanager(webhook);
    let _prometheus = prometheus(&agent, &alertmanager);
    let mut waiter = Waiter::start("recvfrom-tcp4");
    let pid = waiter.pid();

    let alert = notified(&notifications, pid, "firing");
    let label = |name: &str| alert["labels"][name].as_str().unwrap_or_default().to_owned();
    assert_eq!(
        (&*label("alertname"), &*label("comm"), &*label("class")),
        ("TracerStall", "waiter", "reply"),
        "{alert:#}"
    );
    assert_eq!(label("instance"), agent.address().to_string());
    assert_eq!(label("remote"), waiter.text("remote"));
    let summary = alert["annotations"]["summary"].as_str().unwrap_or_default();
    // Host, process, age and peer.
    let expected = format!("waiter (pid {pid}) on {} has been stuck for ", agent.address());
    assert!(summary.starts_with(&expected), "{summary}");
    assert!(summary.ends_with(&format!("waiting for {}", waiter.text("remote"))), "{summary}");

    waiter.answer();
    let alert = notified(&notifications, pid, "resolved");
    assert_eq!(alert["labels"]["alertname"], "TracerStall", "{alert:#}");
}

/// Twenty threads, three programs and a proxy wait for one service: one alert, which names it.
#[test]
fn one_cause_is_one_alert_however_many_wait() {
    let _shared = shared();
    let (webhook, notifications) = receiver();
    let agent = Agent::start(&["--threshold", "2s"]);
    let alertmanager = alertmanager(webhook);
    let _prometheus = prometheus(&agent, &alertmanager);
    let service = Waiter::start("mute-service");
    let address = service.text("address").to_owned();
    let pool = Waiter::start_with("asking-pool", &[&address, "20"]);
    let clients: Vec<Waiter> = (0..3).map(|_| Waiter::start_with("asks", &[&address, "0"])).collect();
    let proxy = Waiter::start_with("proxy", &[&address]);

    let alert = notified(&notifications, service.pid(), "firing");
    assert_eq!(alert["labels"]["alertname"], "TracerIncident", "{alert:#}");
    let summary = alert["annotations"]["summary"].as_str().unwrap_or_default();
    let expected = format!("waiter (pid {}) on {} has held up others for ", service.pid(), agent.address());
    assert!(summary.starts_with(&expected), "{summary}");

    // Whoever waits has an alert, which is held back.
    let waiters: Vec<String> =
        [&pool, &proxy].into_iter().chain(&clients).map(|waiter| waiter.pid().to_string()).collect();
    let begin = Instant::now();
    let held = || -> usize {
        let answer: Value =
            serde_json::from_str(&ask(&alertmanager, "GET /api/v2/alerts", "")).expect("JSON");
        let of = |alert: &&Value| {
            alert["status"]["state"] == "suppressed"
                && alert["labels"]["pid"].as_str().is_some_and(|pid| waiters.iter().any(|of| of == pid))
        };
        answer.as_array().expect("alerts").iter().filter(of).count()
    };
    while held() < waiters.len() {
        assert!(begin.elapsed() < slow(PATIENCE), "{} of {} are held back", held(), waiters.len());
        pause(Duration::from_millis(500));
    }
    let told: Vec<Value> = notifications.try_iter().collect();
    let about =
        |pid: &String| told.iter().any(|of| of["alerts"].to_string().contains(&format!("\"pid\":\"{pid}\"")));
    assert!(!waiters.iter().any(about), "{told:#?}");
}
