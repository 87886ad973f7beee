//! Does what is in `deploy/` work with the programs it is for? With Debian's Prometheus and Alertmanager, which `cargo xtask
//! test --all` installs; a missing one is a failure.

mod alerts;
mod dashboard;
mod rules;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

/// A file of the repository.
fn file(path: &str) -> PathBuf {
    let tests = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the repository").join(path)
}

/// Its text.
fn read(path: &str) -> String {
    std::fs::read_to_string(file(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Runs one of Debian's programs, which must succeed; what it printed.
fn succeed(program: &str, args: &[&str]) -> String {
    let output = Command::new(tests::debian_program(program)).args(args).output().expect("it starts");
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{program} {args:?}: {}\n{text}", output.status);
    text
}

/// Metrics of `docs/METRICS.md`, with what a histogram adds, and their labels.
fn known_metrics() -> BTreeMap<String, Vec<String>> {
    let page = read("docs/METRICS.md");
    let mut known = BTreeMap::new();
    for row in page.lines().filter(|line| line.starts_with("| `tracer_")) {
        let cells: Vec<&str> = row.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let labels: Vec<String> = cells[3].split_whitespace().map(str::to_owned).collect();
        if cells[2] == "histogram" {
            for (part, more) in [("bucket", Some("le")), ("sum", None), ("count", None)] {
                let labels = labels.iter().cloned().chain(more.map(str::to_owned)).collect();
                known.insert(format!("{}_{part}", cells[1]), labels);
            }
        }
        known.insert(cells[1].to_owned(), labels);
    }
    assert!(known.len() > 10, "{known:?}");
    known
}

/// The same, and what the rules record: by the labels of its outermost `by`.
fn known_series() -> BTreeMap<String, Vec<String>> {
    let mut known = known_metrics();
    for rule in rules("record") {
        let labels = grouping(&rule.expression).into_iter().next().expect("an aggregation");
        known.insert(rule.name, labels);
    }
    known
}

/// A rule of `tracer.rules.yml`.
struct Rule {
    name: String,
    expression: String,
    /// What comes after the expression: labels, annotations.
    rest: String,
}

/// Its rules of a kind: `record` or `alert`.
fn rules(kind: &str) -> Vec<Rule> {
    let text = read("deploy/prometheus/tracer.rules.yml");
    let mut rules = Vec::new();
    for rule in text.split("\n      - ").filter_map(|part| part.strip_prefix(&format!("{kind}: "))) {
        let (name, rest) = rule.split_once("\n        expr: ").expect("an expression");
        // The expression goes on as long as lines are further in than its key.
        let further_in = |line: &&str| line.starts_with("          ");
        let expression: Vec<&str> =
            rest.lines().take(1).chain(rest.lines().skip(1).take_while(further_in)).collect();
        let rest = rest.lines().skip(expression.len()).collect::<Vec<_>>().join("\n");
        rules.push(Rule { name: name.to_owned(), expression: expression.join(" "), rest });
    }
    assert!(rules.len() > 5, "{kind}: {}", rules.len());
    rules
}

/// Whether a letter can be part of a name.
fn in_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_' || letter == ':'
}

/// Series that an expression asks for, tracer's own and what its rules record, with the labels that it matches.
fn series_in(expression: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(at) = rest.find(in_name) {
        let word = &rest[at..];
        let end = word.find(|letter| !in_name(letter)).unwrap_or(word.len());
        let (name, after) = word.split_at(end);
        rest = after;
        if !(name.starts_with("tracer_") || name.contains(":tracer_")) {
            continue;
        }
        let mut labels = Vec::new();
        if let Some(matchers) = after.strip_prefix('{') {
            // What is between quotes is a value; before each stands a label.
            let mut pieces = matchers.split('"');
            while let Some(before) = pieces.next().filter(|piece| !piece.trim_start().starts_with('}')) {
                labels.push(before.trim_matches(|letter| !in_name(letter)).to_owned());
                pieces.next();
            }
        }
        found.push((name.to_owned(), labels));
    }
    found
}

/// The labels of each `by (…)`, the outermost first.
fn grouping(expression: &str) -> Vec<Vec<String>> {
    expression
        .split("by (")
        .skip(1)
        .map(|list| {
            list.split(')')
                .next()
                .unwrap_or_default()
                .split(',')
                .map(|label| label.trim().to_owned())
                .collect()
        })
        .collect()
}

/// Labels that a template names: `{{instance}}` of a panel's legend, `$labels.instance` of an alert.
fn named_in<'a>(template: &'a str, before: &str) -> Vec<&'a str> {
    template
        .split(before)
        .skip(1)
        .map(|rest| rest.trim_start())
        .map(|rest| &rest[..rest.find(|letter| !in_name(letter)).unwrap_or(rest.len())])
        .collect()
}

/// Asserts that an expression asks for series that exist, by labels that they have; the names it asks for.
fn asks_for_what_exists(what: &str, expression: &str) -> Vec<String> {
    // Of the scrape itself.
    const EVERYWHERE: [&str; 2] = ["instance", "job"];
    let known = known_series();
    let mut all: Vec<&str> = EVERYWHERE.to_vec();
    let series = series_in(expression);
    for (name, matched) in &series {
        let labels = known.get(name).unwrap_or_else(|| panic!("{what}: there is no {name}"));
        for label in matched {
            assert!(
                labels.contains(label) || EVERYWHERE.contains(&&**label),
                "{what}: {name} has no label {label:?}: {labels:?}"
            );
        }
        all.extend(labels.iter().map(String::as_str));
    }
    for label in grouping(expression).iter().flatten() {
        assert!(all.contains(&&**label), "{what}: by {label:?}, which no series of {expression} has");
    }
    series.into_iter().map(|(name, _)| name).collect()
}
