//! What the committed object of the kernel programs was made of: a list beside it, which says without a compiler whether it is of
//! the sources as they are.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context, Result, ensure};
use toml::de::DeTable;

use crate::cmd::{command, output, root};

/// The object.
pub const OBJECT: &str = "tracer/bpf/tracer.bpf.o";
/// The list: it and what it was made of, with their SHA-256 sums.
const LIST: &str = "tracer/bpf/tracer.bpf.o.sources";
/// Where the programs are.
const PACKAGE: &str = "tracer-ebpf";
/// How they are compiled, and by what.
const RECIPE: [&str; 2] = ["xtask/src/ebpf.rs", "xtask/src/setup.rs"];

/// Writes the list.
///
/// # Errors
/// Something of it cannot be read, or the list cannot be written.
pub fn write() -> Result<()> {
    fs::write(root().join(LIST), list()?).with_context(|| format!("cannot write {LIST}"))
}

/// Whether the object is of the sources as they are.
///
/// # Errors
/// It is not; the first difference is said.
pub fn check() -> Result<()> {
    let committed = fs::read_to_string(root().join(LIST)).with_context(|| format!("cannot read {LIST}"))?;
    let now = list()?;
    let differs =
        |lines: &str, from: &str| lines.lines().find(|line| !from.contains(line)).map(str::to_owned);
    let difference = differs(&now, &committed).or_else(|| differs(&committed, &now));
    ensure!(
        committed == now,
        "{OBJECT} was made of other sources, by {LIST} (see {}): run `cargo xtask ebpf` and commit both",
        difference.as_deref().and_then(|line| line.split_once("  ")).map_or("its order", |(_, name)| name)
    );
    eprintln!("{OBJECT} was made of these sources");
    Ok(())
}

/// A line for each file and crate, as `sha256sum` prints them.
fn list() -> Result<String> {
    let mut files: Vec<String> = vec![OBJECT.into()];
    files.extend(files_below(&root().join(PACKAGE))?);
    files.extend(RECIPE.map(String::from));
    let mut sums = command("sha256sum", &["--"]);
    sums.current_dir(root()).args(&files);
    Ok(output(sums)? + &crates(&fs::read_to_string(root().join("Cargo.lock"))?)?)
}

/// All files below a folder, by their paths from the repository's root, sorted.
fn files_below(folder: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(files_below(&path)?);
        } else {
            files.push(path.strip_prefix(root())?.display().to_string());
        }
    }
    files.sort();
    Ok(files)
}

/// The crates that the programs use, by a `Cargo.lock`.
fn crates(lock: &str) -> Result<String> {
    let lock = DeTable::parse(lock).context("Cargo.lock is no TOML")?.into_inner();
    let packages = lock.get("package").and_then(|packages| packages.get_ref().as_array());
    let packages =
        packages.context("Cargo.lock has no packages")?.iter().filter_map(|of| of.get_ref().as_table());
    let mut by_name: BTreeMap<&str, Vec<&DeTable<'_>>> = BTreeMap::new();
    for package in packages {
        by_name.entry(text(package, "name")).or_default().push(package);
    }
    let (mut lines, mut names) = (BTreeSet::new(), vec![PACKAGE]);
    let mut seen = BTreeSet::new();
    while let Some(name) = names.pop() {
        // A name with a version where there are several; all of them count then.
        let name = name.split(' ').next().unwrap_or_default();
        if !seen.insert(name) {
            continue;
        }
        for package in by_name.get(name).into_iter().flatten() {
            if name != PACKAGE {
                lines.insert(format!("{}  {name} {}\n", text(package, "checksum"), text(package, "version")));
            }
            let needs = package.get("dependencies").and_then(|needs| needs.get_ref().as_array());
            names.extend(needs.into_iter().flatten().filter_map(|name| name.get_ref().as_str()));
        }
    }
    Ok(lines.into_iter().collect())
}

fn text<'a>(package: &'a DeTable<'_>, key: &str) -> &'a str {
    package.get(key).and_then(|value| value.get_ref().as_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_object_is_of_these_sources() {
        check().expect("they are the same");
    }

    #[test]
    fn crates_are_followed_to_the_last() {
        let lock = "[[package]]\nname = 'tracer-ebpf'\nversion = '1'\ndependencies = ['a', 'b 2']\n\
                    [[package]]\nname = 'a'\nversion = '1'\nchecksum = 'aa'\ndependencies = ['b 2']\n\
                    [[package]]\nname = 'b'\nversion = '1'\nchecksum = 'b1'\n\
                    [[package]]\nname = 'b'\nversion = '2'\nchecksum = 'b2'\n\
                    [[package]]\nname = 'other'\nversion = '1'\nchecksum = 'cc'\n";
        assert_eq!(crates(lock).expect("is one"), "aa  a 1\nb1  b 1\nb2  b 2\n");
        assert!(crates("[").is_err() && crates("").is_err());
    }
}
