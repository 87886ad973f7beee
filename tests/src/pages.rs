//! Are the tests and functions that pages name there?

use std::fs;
use std::path::Path;

/// Live tests that a page names: `module` or `module::beginning_of_a_test`, between backticks.
fn named(page: &str) -> Vec<&str> {
    let inside = page.split('`').skip(1).step_by(2);
    inside.filter(|word| word.starts_with("agent_") || word.starts_with("ps_")).collect()
}

#[test]
fn tests_that_pages_name_exist() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read =
        |path: &str| fs::read_to_string(tests.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    for page in ["../docs/PRODUCTION.md", "../docs/RELIABILITY.md"] {
        let text = read(page);
        let named = named(&text);
        assert!(named.len() > 10, "{page}: {named:?}");
        for name in named {
            let (module, test) = name.split_once("::").unwrap_or((name, ""));
            let source = read(&format!("tests/live/{module}.rs"));
            let is_it = format!("#[test]\nfn {test}");
            assert!(source.contains(&is_it), "{page} names {name}, and no test in {module} begins so");
        }
    }
}

/// Rows of a table whose first two cells are a file and something in it.
fn places(page: &str) -> Vec<(&str, &str)> {
    let rows = page.lines().filter_map(|row| row.strip_prefix("| `"));
    rows.filter_map(|row| {
        let (file, rest) = row.split_once("` | `")?;
        Some((file, rest.split_once("` | ")?.0)).filter(|(file, _)| file.ends_with(".rs"))
    })
    .collect()
}

#[test]
fn a_waits_way_leads_through_files_and_functions_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("docs/ARCHITECTURE.md")).expect("the page");
    let (_, way) = page.split_once("\n## A wait's way\n").expect("a section");
    let places = places(way);
    assert!(places.len() > 20, "{places:?}");
    for (file, name) in places {
        let source = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let is_there = ["fn", "struct", "enum", "const"].iter().any(|kind| {
            let after = |rest: &str| rest.starts_with(['(', '<', ' ', ':', ';', '{']);
            source.split(&format!("{kind} {name}")).skip(1).any(after)
        });
        assert!(is_there, "there is no {name} in {file}");
    }
}
