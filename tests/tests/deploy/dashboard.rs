//! Does the dashboard ask only for metrics and labels that exist, and do its expressions parse?

use serde_json::Value;

use crate::{asks_for_what_exists, grouping, named_in, read, succeed};

#[test]
fn every_panel_asks_for_what_exists() {
    let board: Value = serde_json::from_str(&read("deploy/grafana/tracer.json")).expect("JSON");
    let panels = board["panels"].as_array().expect("panels");
    let mut rules = String::from("groups:\n- name: board\n  rules:\n");
    let mut asked = Vec::new();
    for panel in panels {
        for target in panel["targets"].as_array().expect("targets") {
            let expression = target["expr"].as_str().expect("an expression");
            let title = panel["title"].as_str().expect("a title");
            let names = asks_for_what_exists(title, expression);
            assert!(!names.is_empty() || expression.contains("process_"), "{title}: {expression}");
            asked.extend(names);
            // Without a `by` nothing is left to name but what each scrape has.
            let left = grouping(expression).into_iter().next().unwrap_or_else(|| vec!["instance".to_owned()]);
            for label in named_in(target["legendFormat"].as_str().unwrap_or_default(), "{{") {
                assert!(
                    left.iter().any(|has| has == label),
                    "{title}: the legend's {label} is not in {left:?}"
                );
            }
            let expression = expression.replace("$instance", ".*");
            rules += &format!(
                "  - record: a:b:c\n    labels: {{ n: '{}' }}\n    expr: {}\n",
                asked.len(),
                Value::from(expression)
            );
        }
    }
    assert!(asked.iter().any(|name| name == "tracer_stall_seconds"));
    asks_for_what_exists("variables", &board["templating"]["list"].to_string());
    // Whether an expression is one is what the linter of rules says.
    let path = tests::own_dir().join("board.rules.yml");
    std::fs::write(&path, rules).expect("write");
    succeed("promtool", &["check", "rules", "--lint=none", path.to_str().expect("text")]);
}
