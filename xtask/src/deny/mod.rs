//! `cargo xtask deny`: are the crates that tracer is made of those that deny.toml allows? The file is cargo-deny's, which takes
//! longer to build than all else before a landing: see docs/decisions/0045-dependencies-are-held-to-a-list.md.

mod licence;
mod rules;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use self::rules::Rules;
use crate::cmd::{self, command, output, root};

const CARGO_DENY: &str = "0.20.2";

/// A crate of the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Package {
    name: String,
    version: String,
    /// Under which licences it comes, as it says.
    licence: Option<String>,
    /// Where it comes from; `None`: from this repository.
    source: Option<String>,
    /// What it takes in any version.
    any_version_of: Vec<String>,
    /// What it takes from a registry that is not cargo's own, or from elsewhere.
    from_elsewhere: Vec<String>,
}

/// Checks the tree, and says what is in it.
///
/// # Errors
/// Something in it is not allowed, or something is allowed that is not in it.
pub fn run() -> Result<()> {
    let text = std::fs::read_to_string(root().join("deny.toml")).context("cannot read deny.toml")?;
    let rules = Rules::parse(&text)?;
    let mut tree = BTreeSet::new();
    for target in &rules.targets {
        let mut metadata = command("cargo", &["metadata", "--format-version", "1", "--locked"]);
        metadata.args(["--filter-platform", target]).args(rules.all_features.then_some("--all-features"));
        tree.extend(packages(&output(metadata)?)?);
    }
    let problems = rules.problems(&tree)?;
    ensure!(problems.is_empty(), "deny.toml is not kept:\n  {}", problems.join("\n  "));
    println!("{} crates are as deny.toml allows", tree.len());
    Ok(())
}

/// The same by cargo-deny, which is installed if it is not there, and what is known against these crates. The database of that
/// cannot be had everywhere.
///
/// # Errors
/// cargo-deny finds something, or cannot be installed.
pub fn by_cargo_deny() -> Result<()> {
    let version = || output(command("cargo", &["deny", "--version"]));
    if !version().is_ok_and(|said| said.split_whitespace().any(|word| word == CARGO_DENY)) {
        cmd::run(command(
            "cargo",
            &["install", "cargo-deny", "--version", CARGO_DENY, "--locked", "--force"],
        ))?;
    }
    cmd::run(command("cargo", &["deny", "check", "licenses", "bans", "sources"]))?;
    if let Err(error) = cmd::run(command("cargo", &["deny", "fetch", "db"])) {
        eprintln!("xtask: advisories are not looked at, since their database cannot be had: {error:#}");
        return Ok(());
    }
    cmd::run(command("cargo", &["deny", "check", "--disable-fetch", "advisories"]))
}

/// What `cargo metadata` says of each crate that is built.
fn packages(metadata: &str) -> Result<Vec<Package>> {
    let metadata: Value = serde_json::from_str(metadata).context("cargo metadata is no JSON")?;
    let nodes = metadata["resolve"]["nodes"].as_array().context("cargo metadata has no nodes")?;
    let built: BTreeSet<&str> = nodes.iter().filter_map(|node| node["id"].as_str()).collect();
    let all = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    all.iter()
        .filter(|package| package["id"].as_str().is_some_and(|id| built.contains(id)))
        .map(|package| package_of(package).context("cargo metadata has a package without a name"))
        .collect()
}

fn package_of(package: &Value) -> Option<Package> {
    let text = |name: &str| package[name].as_str().map(str::to_owned);
    let takes = |is_it: &dyn Fn(&Value) -> bool| {
        let all = package["dependencies"].as_array().into_iter().flatten();
        all.filter(|takes| is_it(takes))
            .filter_map(|takes| takes["name"].as_str().map(str::to_owned))
            .collect()
    };
    Some(Package {
        name: text("name")?,
        version: text("version")?,
        licence: text("license"),
        source: text("source"),
        // A crate of this repository is taken as it is.
        any_version_of: takes(&|takes| takes["req"] == "*" && !takes["path"].is_string()),
        from_elsewhere: takes(&|takes| {
            takes["registry"].is_string()
                || takes["source"].as_str().is_some_and(|source| !is_registry(source))
        }),
    })
}

fn is_registry(source: &str) -> bool {
    source.starts_with("registry+") || source.starts_with("sparse+")
}

impl Rules {
    /// What of the tree is not allowed, and what is allowed that is not in it.
    fn problems(&self, tree: &BTreeSet<Package>) -> Result<Vec<String>> {
        let mut problems = self.of_licences(tree)?;
        problems.extend(self.of_versions(tree));
        for package in tree {
            let Package { name, version, .. } = package;
            if let Some((_, reason)) = self.denied.iter().find(|(denied, _)| denied == name) {
                problems.push(format!("{name} {version} is denied: {reason}"));
            }
            if package.source.as_ref().is_some_and(|source| !is_registry(source)) {
                problems.push(format!("{name} {version} comes from no registry"));
            }
            for taken in &package.from_elsewhere {
                problems.push(format!("{name} {version} takes {taken} from elsewhere"));
            }
            for taken in &package.any_version_of {
                problems.push(format!("{name} {version} takes {taken} in any version"));
            }
        }
        Ok(problems)
    }

    fn of_licences(&self, tree: &BTreeSet<Package>) -> Result<Vec<String>> {
        let (mut problems, mut needed) = (Vec::new(), BTreeSet::new());
        for Package { name, version, licence, .. } in tree {
            let Some(licence) = licence else {
                problems.push(format!("{name} {version} has no licence"));
                continue;
            };
            match licence::enough(licence, &self.licences).with_context(|| format!("{name} {version}"))? {
                Some(found) => needed.extend(found),
                None => {
                    problems.push(format!("{name} {version} comes under {licence}, which is not allowed"))
                }
            }
        }
        let unneeded = self.licences.iter().filter(|licence| !needed.contains(licence.as_str()));
        problems.extend(unneeded.map(|licence| format!("no crate needs the licence {licence}: take it out")));
        Ok(problems)
    }

    fn of_versions(&self, tree: &BTreeSet<Package>) -> Vec<String> {
        let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for Package { name, version, .. } in tree {
            versions.entry(name).or_default().push(version);
        }
        let mut problems = Vec::new();
        for (name, versions) in &versions {
            let is_known = |version: &&&str| !self.twice.iter().any(|twice| twice.is(name, version));
            let others: Vec<&str> = versions.iter().filter(is_known).copied().collect();
            if others.len() > 1 {
                problems.push(format!("{name} is there {} times: {}", others.len(), others.join(", ")));
            }
        }
        for twice in &self.twice {
            let more = versions.get(twice.name.as_str()).is_some_and(|versions| {
                versions.len() > 1 && versions.iter().any(|version| twice.is(&twice.name, version))
            });
            if !more {
                problems
                    .push(format!("{} {} is there no second time: take it out", twice.name, twice.version));
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = r#"
        [graph]
        targets = ["x"]
        all-features = true
        [licenses]
        allow = ["MIT"]
        [bans]
        multiple-versions = "deny"
        wildcards = "deny"
        allow-wildcard-paths = true
        deny = [{ crate = "bad", reason = "it is" }]
        skip = [{ crate = "two@1", reason = "for two" }]
        [sources]
        unknown-registry = "deny"
        unknown-git = "deny"
    "#;

    fn package(name: &str, version: &str) -> Package {
        let (licence, source) = (Some("MIT".into()), Some("registry+here".into()));
        Package { name: name.into(), version: version.into(), licence, source, ..Package::default() }
    }

    /// With these beside what is right.
    fn problems(more: &[Package]) -> Vec<String> {
        let right = [package("a", "1.0.0"), package("two", "1.2.3"), package("two", "2.0.0")];
        let tree = right.into_iter().chain(more.iter().cloned()).collect();
        Rules::parse(RULES).expect("rules").problems(&tree).expect("licences")
    }

    #[test]
    fn each_rule_finds_what_breaks_it() {
        assert_eq!(problems(&[]), [""; 0]);
        let b = || package("b", "0.1.0");
        for (package, problem) in [
            (Package { licence: None, ..b() }, "b 0.1.0 has no licence"),
            (Package { licence: Some("X".into()), ..b() }, "b 0.1.0 comes under X, which is not allowed"),
            (package("bad", "1.0.0"), "bad 1.0.0 is denied: it is"),
            (package("a", "2.0.0"), "a is there 2 times: 1.0.0, 2.0.0"),
            (package("two", "3.0.0"), "two is there 2 times: 2.0.0, 3.0.0"),
            (Package { source: Some("git+there".into()), ..b() }, "b 0.1.0 comes from no registry"),
            (Package { from_elsewhere: vec!["c".into()], ..b() }, "b 0.1.0 takes c from elsewhere"),
            (Package { any_version_of: vec!["c".into()], ..b() }, "b 0.1.0 takes c in any version"),
        ] {
            assert_eq!(problems(&[package]), [problem]);
        }
        // This repository's own.
        assert_eq!(problems(&[Package { source: None, ..b() }]), [""; 0]);
    }

    #[test]
    fn what_is_allowed_in_vain_is_said() {
        let rules = Rules::parse(&RULES.replace("\"MIT\"", "\"MIT\", \"Zlib\"")).expect("rules");
        let problems =
            rules.problems(&[package("a", "1.0.0"), package("two", "1.0.0")].into()).expect("licences");
        assert_eq!(
            problems,
            ["no crate needs the licence Zlib: take it out", "two 1 is there no second time: take it out"]
        );
    }

    #[test]
    fn crates_are_read_as_cargo_tells_them() {
        let told = r#"{
            "packages": [
                { "id": "a 1", "name": "a", "version": "1.0.0", "license": "MIT", "source": "registry+here", "dependencies": [
                    { "name": "b", "req": "*", "source": "registry+here", "registry": null },
                    { "name": "c", "req": "^1", "source": "registry+there", "registry": "there" },
                    { "name": "d", "req": "^1", "source": "git+there", "registry": null },
                    { "name": "e", "req": "*", "source": null, "registry": null, "path": "/e" }
                ] },
                { "id": "b 1", "name": "b", "version": "1.0.0", "license": null, "source": null, "dependencies": [] },
                { "id": "not built", "name": "w", "version": "1.0.0", "license": null, "source": null, "dependencies": [] }
            ],
            "resolve": { "nodes": [{ "id": "a 1" }, { "id": "b 1" }] }
        }"#;
        let a = Package {
            any_version_of: vec!["b".into()],
            from_elsewhere: vec!["c".into(), "d".into()],
            ..package("a", "1.0.0")
        };
        let b = Package { licence: None, source: None, ..package("b", "1.0.0") };
        assert_eq!(packages(told).expect("metadata"), [a, b]);
        packages("{}").expect_err("it has no nodes");
    }
}
