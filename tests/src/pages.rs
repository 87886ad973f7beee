//! Are the tests, functions and files that pages name there?

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

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

/// Files of the repository that the package installs among its pages, by where the assets of the manifest put them.
fn installed(root: &Path) -> BTreeMap<PathBuf, PathBuf> {
    let manifest = fs::read_to_string(root.join("tracer/Cargo.toml")).expect("a manifest");
    let assets = manifest.lines().filter_map(|line| {
        let words: Vec<&str> = line.trim().strip_prefix("[\"../")?.split('"').collect();
        let [from, _, to, ..] = words[..] else { return None };
        Some((from, to.strip_prefix("usr/share/doc/tracer/")?))
    });
    let files = assets.flat_map(|(from, to)| {
        let (dir, pattern) = from.rsplit_once('/').unwrap_or(("", from));
        let (begin, end) = pattern.split_once('*').unwrap_or((pattern, ""));
        let names = fs::read_dir(root.join(dir)).expect("a folder").flatten();
        let names = names
            .filter(|entry| entry.path().is_file())
            .filter_map(|entry| entry.file_name().into_string().ok());
        let names = names.filter(move |name| name.starts_with(begin) && name.ends_with(end));
        names.map(move |name| (Path::new(to).join(&name), Path::new(dir).join(&name)))
    });
    files.collect()
}

/// Where the links of a page lead that lead to no other host, as it would be written from the same folder as `page`.
fn links(page: &Path, text: &str) -> Vec<PathBuf> {
    let links = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    let local = links.filter(|link| !link.is_empty() && !link.contains(':'));
    let resolved = local.map(|link| {
        let mut path = page.parent().expect("a folder").to_owned();
        for part in Path::new(link).components() {
            match part {
                Component::ParentDir => _ = path.pop(),
                part => path.push(part),
            }
        }
        path
    });
    resolved.collect()
}

/// In the repository, and in the package, but for sources, which are not in it.
#[test]
fn links_of_pages_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let installed = installed(&root);
    let pages = installed.iter().filter(|(page, _)| page.extension().is_some_and(|end| end == "md"));
    let mut followed = 0;
    for (page, from) in pages {
        assert_eq!(page, from, "pages lie as they do in the repository");
        for link in links(page, &fs::read_to_string(root.join(from)).expect("a page")) {
            assert!(root.join(&link).exists(), "{}: there is no {}", page.display(), link.display());
            let is_installed = installed.keys().any(|file| file.starts_with(&link));
            assert!(
                is_installed || link.starts_with("tracer"),
                "{}: {} is not installed",
                page.display(),
                link.display()
            );
            followed += 1;
        }
    }
    assert!(followed > 60, "{followed}");
}
