//! Are the tests that pages name beside their claims there?

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
