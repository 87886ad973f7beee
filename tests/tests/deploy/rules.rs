//! Are the rules, the examples of configuration and the page of metrics what Prometheus's own tools find right?

use std::fs;

use tests::{Agent, Waiter, shared};

use crate::{file, known_metrics, metrics_in, read, succeed};

#[test]
fn the_rules_are_right_and_do_what_they_say() {
    let rules = file("deploy/prometheus/tracer.rules.yml");
    succeed("promtool", &["check", "rules", rules.to_str().expect("text")]);
    let test = file("deploy/prometheus/tracer.rules.test.yml");
    succeed("promtool", &["test", "rules", test.to_str().expect("text")]);
}

#[test]
fn every_alert_has_a_test() {
    let (rules, tests) =
        (read("deploy/prometheus/tracer.rules.yml"), read("deploy/prometheus/tracer.rules.test.yml"));
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 8, "{alerts:?}");
    for alert in alerts {
        assert!(
            tests.contains(&format!("alertname: {alert}\n        exp_alerts:\n")),
            "{alert} never fires in the tests"
        );
    }
}

#[test]
fn rules_ask_for_metrics_that_exist() {
    let rules = read("deploy/prometheus/tracer.rules.yml");
    let mut known = known_metrics();
    known.extend(rules.lines().filter_map(|line| line.trim().strip_prefix("- record: ").map(str::to_owned)));
    for name in metrics_in(&rules) {
        assert!(known.contains(&name), "{name}");
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
    fs::write(
        &data,
        r#"{"receiver":"on-call","status":"firing","commonLabels":{"comm":"php"},"alerts":[{"status":"firing",
            "labels":{"instance":"web1:9779","comm":"php","pid":"7","remote":"10.0.0.9:3306"},
            "annotations":{"summary":"php (pid 7) on web1:9779 has been stuck for 1m 30s","description":"tracer why 7"},
            "startsAt":"2026-11-24T01:02:03Z","endsAt":"0001-01-01T00:00:00Z"}]}"#,
    )
    .expect("write");
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
    for part in
        ["host     web1:9779", "process  php (pid 7)", "peer     10.0.0.9:3306", "1m 30s", "tracer why 7"]
    {
        assert!(text.contains(part), "no {part:?}:\n{text}");
    }
    let subject = render(r#"{{ template "tracer.subject" . }}"#);
    assert!(subject.starts_with("[firing] php (pid 7) on web1:9779"), "{subject}");
}

/// Prometheus's own linter says nothing of a page with every family on it.
#[test]
fn the_page_is_clean() {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let _shared = shared();
    let mut agent = Agent::start(&["--threshold", "1s"]);
    let waiter = Waiter::start("recvfrom-tcp4");
    agent.wait_stall("stall_opened", waiter.pid(), std::time::Duration::from_secs(10));
    let page = agent.page();
    for name in known_metrics() {
        let base =
            ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part)).unwrap_or(&name);
        assert!(
            page.contains(&format!("# TYPE {base} ")) || page.contains(&format!("# TYPE {name} ")),
            "{name}\n{page}"
        );
    }
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
    let reference = read("docs/METRICS.md");
    let explained: Vec<&str> = reference
        .split_once("| reason | means |")
        .expect("a table")
        .1
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    let samples = agent.samples("tracer_lost_events_total", &[]);
    let mut on_page: Vec<&str> = samples.iter().map(|sample| sample.label("reason")).collect();
    on_page.sort_unstable();
    assert_eq!(on_page, explained);
}
