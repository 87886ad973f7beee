//! Does the dashboard ask only for metrics that exist, and do its expressions parse?

use serde_json::Value;

use crate::{known_metrics, metrics_in, read, succeed};

#[test]
fn every_panel_asks_for_metrics_that_exist() {
    let board: Value = serde_json::from_str(&read("deploy/grafana/tracer.json")).expect("JSON");
    let panels = board["panels"].as_array().expect("panels");
    let known = known_metrics();
    let mut rules = String::from("groups:\n- name: board\n  rules:\n");
    let mut asked = Vec::new();
    for panel in panels {
        for target in panel["targets"].as_array().expect("targets") {
            let expression = target["expr"].as_str().expect("an expression");
            let names = metrics_in(expression);
            assert!(!names.is_empty() || expression.contains("process_"), "{}: {expression}", panel["title"]);
            for name in &names {
                assert!(known.contains(name), "{}: {name}", panel["title"]);
            }
            asked.extend(names);
            let expression = expression.replace("$instance", ".*");
            rules += &format!(
                "  - record: a:b:c\n    labels: {{ n: '{}' }}\n    expr: {}\n",
                asked.len(),
                Value::from(expression)
            );
        }
    }
    assert!(asked.iter().any(|name| name == "tracer_stall_seconds"));
    let variables = board["templating"]["list"].to_string();
    assert!(metrics_in(&variables).iter().all(|name| known.contains(name)), "{variables}");
    // Whether an expression is one is what the linter of rules says.
    let path = tests::own_dir().join("board.rules.yml");
    std::fs::write(&path, rules).expect("write");
    succeed("promtool", &["check", "rules", "--lint=none", path.to_str().expect("text")]);
}
