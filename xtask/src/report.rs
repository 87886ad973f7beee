//! The dated result of the release tier: docs/RELEASE_TIER.md, which is committed.

use std::{fmt::Write, fs};

use anyhow::{Context, Result};

use crate::{
    cmd::{command, output, root},
    test::Outcome,
};

/// Writes it.
///
/// # Errors
/// Git or the file system refuses.
pub fn write(outcomes: &[Outcome]) -> Result<()> {
    let said =
        |program: &str, args: &[&str]| output(command(program, args)).map(|text| text.trim().to_owned());
    let mut text = format!(
        "# The release tier\n\nWhat takes hours, as `cargo xtask test --release-tier` found it on {} at commit {}, on Linux {} with {} \
         processors.\n\n| step | result | took |\n| --- | --- | --- |\n",
        said("date", &["-u", "+%F"])?,
        said("git", &["rev-parse", "--short=12", "HEAD"])?,
        said("uname", &["-r"])?,
        said("nproc", &[])?,
    );
    for Outcome { name, passed, took } in outcomes {
        let result = if *passed { "holds" } else { "does not hold" };
        writeln!(text, "| {name} | {result} | {} min |", took.as_secs().div_ceil(60))?;
    }
    let path = root().join("docs/RELEASE_TIER.md");
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}
