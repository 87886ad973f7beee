//! What deny.toml says: of cargo-deny's keys those that are checked here, and an error for any other.

use anyhow::{Context, Result, bail, ensure};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// What may be in the tree.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rules {
    /// What the tree is built for.
    pub(super) targets: Vec<String>,
    /// With everything that may be in it.
    pub(super) all_features: bool,
    /// What is enough.
    pub(super) licences: Vec<String>,
    /// Crates that may not be there, and why.
    pub(super) denied: Vec<(String, String)>,
    /// Versions that may be there beside another.
    pub(super) twice: Vec<Twice>,
}

/// A version of a crate that may be there beside another.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Twice {
    pub(super) name: String,
    /// The first of its numbers.
    pub(super) version: String,
}

impl Twice {
    pub(super) fn is(&self, name: &str, version: &str) -> bool {
        let rest = version.strip_prefix(self.version.as_str());
        self.name == name && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

impl Rules {
    /// From the text of the file.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let file = DeTable::parse(text).context("deny.toml is no TOML")?;
        let mut file = Table { name: "deny.toml", table: file.into_inner() };
        let (mut graph, mut licences) = (file.table("graph")?, file.table("licenses")?);
        let (mut bans, mut sources) = (file.table("bans")?, file.table("sources")?);
        bans.only("multiple-versions", "deny")?;
        sources.only("unknown-registry", "deny")?;
        sources.only("unknown-git", "deny")?;
        bans.only("wildcards", "deny")?;
        ensure!(bans.yes("allow-wildcard-paths")?, "the repository's own crates have no versions to ask for");
        let twice = bans.crates("skip")?.into_iter().map(|(of, _)| {
            let (name, version) = of.split_once('@').with_context(|| format!("which version of {of}?"))?;
            Ok(Twice { name: name.into(), version: version.into() })
        });
        let rules = Self {
            targets: graph.texts("targets")?,
            all_features: graph.yes("all-features")?,
            licences: licences.texts("allow")?,
            twice: twice.collect::<Result<_>>()?,
            denied: bans.crates("deny")?,
        };
        ensure!(!rules.targets.is_empty(), "deny.toml names no target: nothing would be looked at");
        for table in [file, graph, licences, bans, sources] {
            table.end()?;
        }
        Ok(rules)
    }
}

/// A table, of which each key is taken once.
struct Table<'t> {
    name: &'static str,
    table: DeTable<'t>,
}

impl<'t> Table<'t> {
    fn take(&mut self, key: &str) -> Result<DeValue<'t>> {
        let taken = self.table.remove(key).map(Spanned::into_inner);
        taken.with_context(|| format!("{} has no {key}", self.name))
    }

    fn table(&mut self, key: &'static str) -> Result<Self> {
        match self.take(key)? {
            DeValue::Table(table) => Ok(Self { name: key, table }),
            _ => bail!("{key} is no table"),
        }
    }

    fn yes(&mut self, key: &str) -> Result<bool> {
        match self.take(key)? {
            DeValue::Boolean(value) => Ok(value),
            _ => bail!("{key} is neither true nor false"),
        }
    }

    /// A key with this value: no other is checked here.
    fn only(&mut self, key: &str, value: &str) -> Result<()> {
        let said = text(self.take(key)?)?;
        ensure!(said == value, "{key} is {said:?}: only {value:?} is checked");
        Ok(())
    }

    fn texts(&mut self, key: &str) -> Result<Vec<String>> {
        let DeValue::Array(values) = self.take(key)? else { bail!("{key} is no list") };
        values.into_iter().map(|value| text(value.into_inner())).collect()
    }

    /// Crates, each with the reason why it is in the list.
    fn crates(&mut self, key: &str) -> Result<Vec<(String, String)>> {
        let DeValue::Array(values) = self.take(key)? else { bail!("{key} is no list") };
        let one = |value: Spanned<DeValue<'t>>| {
            let DeValue::Table(table) = value.into_inner() else { bail!("{key} has no tables") };
            let mut row = Table { name: "a row", table };
            let found = (text(row.take("crate")?)?, text(row.take("reason")?)?);
            row.end()?;
            Ok(found)
        };
        values.into_iter().map(one).collect()
    }

    fn end(self) -> Result<()> {
        let unread: Vec<String> = self.table.keys().map(|key| key.get_ref().to_string()).collect();
        ensure!(unread.is_empty(), "{} has {}, which nobody checks", self.name, unread.join(" and "));
        Ok(())
    }
}

fn text(value: DeValue<'_>) -> Result<String> {
    match value {
        DeValue::String(text) => Ok(text.into_owned()),
        other => bail!("{other:?} is no text"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = include_str!("../../../deny.toml");

    #[test]
    fn the_file_is_understood() {
        let rules = Rules::parse(TEXT).expect("deny.toml");
        assert!(rules.licences.contains(&"MIT".to_owned()) && rules.all_features);
        assert!(rules.twice.iter().any(|twice| twice.is("syn", "2.0.1")));
        assert!(rules.denied.iter().any(|(name, reason)| name == "openssl-sys" && !reason.is_empty()));
    }

    #[test]
    fn what_is_not_checked_is_an_error() {
        for (from, to, said) in [
            ("[sources]", "[sources]\nallow-git = []", "sources has allow-git, which nobody checks"),
            ("[sources]", "[advisories]\n[sources]", "deny.toml has advisories, which nobody checks"),
            (
                "unknown-git = \"deny\"",
                "unknown-git = \"warn\"",
                "unknown-git is \"warn\": only \"deny\" is checked",
            ),
            ("unknown-git = \"deny\"", "", "sources has no unknown-git"),
            ("all-features = true", "all-features = 1", "all-features is neither true nor false"),
        ] {
            assert_eq!(TEXT.matches(from).count(), 1, "{from}");
            let error = Rules::parse(&TEXT.replace(from, to)).expect_err(to);
            assert_eq!(error.to_string(), said);
        }
    }

    #[test]
    fn a_version_is_told_by_its_first_numbers() {
        let of = |version: &str| Twice { name: "a".into(), version: version.into() };
        assert!(of("1").is("a", "1.2.3") && of("0.17").is("a", "0.17.0") && of("1.2.3").is("a", "1.2.3"));
        assert!(!of("1").is("a", "10.2.3") && !of("0.1").is("a", "0.17.0") && !of("1").is("b", "1.2.3"));
    }
}
