//! Are the rules, the examples of configuration and the page of metrics what Prometheus's own tools find right?

use std::fs;

use serde_json::json;
use tests::{Agent, Waiter, shared, slow};

use crate::{asks_for_what_exists, file, grouping, known_metrics, named_in, read, rules, succeed};

#[test]
fn the_rules_are_right_and_do_what_they_say() {
    let rules = file("deploy/prometheus/tracer.rules.yml");
    succeed("promtool", &["check", "rules", rules.to_str().expect("text")]);
    let test = file("deploy/prometheus/tracer.rules.test.yml");
    succeed("promtool", &["test", "rules", test.to_str().expect("text")]);
}

#[test]
fn every_alert_has_a_test() {
    let tests = read("deploy/prometheus/tracer.rules.test.yml");
    for alert in rules("alert") {
        let (name, fires) = (&alert.name, format!("alertname: {}\n        exp_alerts:\n", alert.name));
        assert!(tests.contains(&fires), "{name} never fires in the tests");
    }
}

#[test]
fn every_alert_has_its_part_of_the_runbook() {
    let page = read("docs/RUNBOOKS.md");
    let parts: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let names: Vec<String> = rules("alert").into_iter().map(|alert| alert.name).collect();
    assert_eq!(parts, names, "in the order of the rules");
}

#[test]
fn rules_ask_for_what_exists() {
    for rule in rules("record").iter().chain(&rules("alert")) {
        asks_for_what_exists(&rule.name, &rule.expression);
        // A record keeps the labels that it is grouped by; its name says which ones it comes from.
        let left = grouping(&rule.expression).into_iter().next();
        for label in named_in(&rule.rest, "$labels.") {
            let Some(left) = &left else { continue };
            assert!(left.iter().any(|has| has == label), "{}: $labels.{label} is not in {left:?}", rule.name);
        }
    }
}

#[test]
fn examples_of_configuration_are_right() {
    let scrape = file("deploy/prometheus/scrape.example.yml");
    succeed("promtool", &["check", "config", scrape.to_str().expect("text")]);
    let route = file("deploy/alertmanager/alertmanager.example.yml");
    succeed("amtool", &["check-config", route.to_str().expect("text")]);
}

#[test]
fn the_message_names_host_process_peer_and_age() {
    let data = tests::own_dir().join("notification.json");
    // Two programs in one group: nothing of a process is common to them.
    let alert = |comm: &str, pid: &str| {
        json!({ "status": "firing", "startsAt": "2026-11-24T01:02:03Z", "endsAt": "0001-01-01T00:00:00Z",
            "labels": { "instance": "web1:9779", "comm": comm, "pid": pid, "remote": "10.0.0.9:3306" },
            "annotations": {
                "summary": format!("{comm} (pid {pid}) on web1:9779 has been stuck for 1m 30s"),
                "description": format!("tracer why {pid}") } })
    };
    let common = json!({ "instance": "web1:9779", "remote": "10.0.0.9:3306" });
    let notification = json!({ "receiver": "on-call", "status": "firing", "commonLabels": common,
        "alerts": [alert("php", "7"), alert("cron", "8")] });
    fs::write(&data, notification.to_string()).expect("write");
    let render = |text: &str| {
        succeed(
            "amtool",
            &[
                "template",
                "render",
                &format!("--template.glob={}", file("deploy/alertmanager/tracer.tmpl").display()),
                &format!("--template.data={}", data.display()),
                &format!("--template.text={text}"),
            ],
        )
    };
    let text = render(r#"{{ template "tracer.text" . }}"#);
    for part in [
        "host     web1:9779",
        "process  php (pid 7)",
        "process  cron (pid 8)",
        "peer     10.0.0.9:3306",
        "1m 30s",
        // Not the wait's begin: that is what the age says.
        "alert    since 2026-11-24 01:02:03 UTC",
        "tracer why 7",
    ] {
        assert!(text.contains(part), "no {part:?}:\n{text}");
    }
    let subject = render(r#"{{ template "tracer.subject" . }}"#);
    assert!(subject.starts_with("[firing] php (pid 7) on web1:9779"), "{subject}");
}

/// The reasons of losses in `docs/METRICS.md`, each with the severity of its alert.
fn reasons() -> Vec<(String, String)> {
    let reference = read("docs/METRICS.md");
    let table = reference.split_once("| reason | meaning | alert |").expect("a table").1;
    let cells = |line: &str| -> Option<(String, String)> {
        let (reason, rest) = line.strip_prefix("| `")?.split_once('`')?;
        Some((reason.to_owned(), rest.trim_end_matches(" |").rsplit("| ").next()?.to_owned()))
    };
    // Up to the end of that table.
    table.lines().skip(1).take_while(|line| line.starts_with('|')).filter_map(cells).collect()
}

/// A loss that means that somebody was not told wakes somebody; one alert is for these reasons, the other for all others.
#[test]
fn losses_are_as_grave_as_their_reasons() {
    let of = |severity: &str| -> Vec<String> {
        reasons().into_iter().filter(|(_, has)| has == severity).map(|(reason, _)| reason).collect()
    };
    let (grave, light) = (of("warning"), of("info"));
    assert!(grave.len() + light.len() == reasons().len() && !grave.is_empty() && !light.is_empty());
    for (name, operator, severity) in [("TracerUntold", "=~", "warning"), ("TracerLosses", "!~", "info")] {
        let rule = rules("alert").into_iter().find(|rule| rule.name == name).expect("an alert");
        let matcher = format!("{{reason{operator}\"{}\"}}", grave.join("|"));
        assert!(rule.expression.contains(&matcher), "{name}: {matcher} is not in {}", rule.expression);
        assert!(rule.rest.contains(&format!("severity: {severity}\n")), "{name}: {}", rule.rest);
    }
}

/// Prometheus's own linter says nothing of a page with every family on it.
#[test]
fn the_page_is_clean() {
    use std::io::Write;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};
    let _shared = shared();
    // Whoever reads the page gets an answer, which is timed.
    let config = tests::own_dir().join("clean.toml");
    std::fs::write(&config, "[agent]\nresponse_times = true\n").expect("write");
    let mut agent = Agent::start(&["--threshold", "1s", "--config", config.to_str().expect("UTF-8")]);
    let waiter = Waiter::start("recvfrom-tcp4");
    agent.wait_stall("stall_opened", waiter.pid(), Duration::from_secs(10));
    // A family appears with its first series: a wait has to end, and a snapshot to come after.
    let begin = Instant::now();
    let page = loop {
        let page = agent.page();
        // One takes a minute, and has a test of its own.
        let known = known_metrics().into_keys().filter(|name| name != "tracer_unclosed_connections");
        let missing = known.into_iter().find(|name| {
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
            ![Some(&**name), family].iter().flatten().any(|name| page.contains(&format!("# TYPE {name} ")))
        });
        let Some(name) = missing else { break page };
        assert!(begin.elapsed() < slow(Duration::from_secs(15)), "{name}\n{page}");
        std::thread::sleep(Duration::from_millis(100));
    };
    let mut promtool = Command::new(tests::debian_program("promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    promtool.stdin.take().expect("piped").write_all(page.as_bytes()).expect("it reads");
    let output = promtool.wait_with_output().expect("it ends");
    let said =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success() && said.trim().is_empty(), "{}: {said}", output.status);
    // Every reason of a loss is on the page, and every one on the page is explained.
    let reference = reasons();
    let explained: Vec<&str> = reference.iter().map(|(reason, _)| reason.as_str()).collect();
    let samples = agent.samples("tracer_lost_events_total", &[]);
    let mut on_page: Vec<&str> = samples.iter().map(|sample| sample.label("reason")).collect();
    on_page.sort_unstable();
    assert_eq!(on_page, explained);
}
