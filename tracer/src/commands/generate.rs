//! `tracer generate` and `tracer completions`: manual pages and completions from the command line's own definition, for packages.

use std::{fs, io::Write, path::Path};

use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_complete::Shell;

use crate::{config::cli::Cli, util::output::output};

/// Writes `DIR/man` and `DIR/completions`.
pub fn run(dir: &Path) -> Result<()> {
    let (man, completions) = (dir.join("man"), dir.join("completions"));
    for dir in [&man, &completions] {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    clap_mangen::generate_to(Cli::command(), &man).context("cannot write the manual pages")?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut offered(&Cli::command()), "tracer", &completions)
            .context("cannot write the completions")?;
    }
    Ok(())
}

/// Prints the completions of one shell.
pub fn completions(shell: Shell) -> Result<()> {
    let (mut script, mut out) = (Vec::new(), output());
    clap_complete::generate(shell, &mut offered(&Cli::command()), "tracer", &mut script);
    out.write_all(&script)?;
    out.flush()?;
    Ok(())
}

/// The command line without what is hidden, which not every shell's generator leaves out. A command cannot lose subcommands: this
/// is another with the others.
fn offered(command: &Command) -> Command {
    Command::new("tracer")
        .version(env!("CARGO_PKG_VERSION"))
        .args(command.get_arguments())
        .subcommands(command.get_subcommands().filter(|command| !command.is_hide_set()))
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn no_shell_offers_what_is_hidden() {
        let whole = Cli::command();
        let (hidden, shown): (Vec<&Command>, Vec<&Command>) =
            whole.get_subcommands().partition(|command| command.is_hide_set());
        assert!(hidden.len() > 1 && shown.len() > 5);
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut offered(&whole), "tracer", &mut script);
            let script = String::from_utf8(script).expect("text");
            for (commands, expected) in [(&hidden, false), (&shown, true)] {
                for name in commands.iter().map(|command| command.get_name()) {
                    let word = |letter: char| letter.is_alphanumeric() || letter == '-';
                    let is_there = script.split(|letter| !word(letter)).any(|part| part == name);
                    assert_eq!(is_there, expected, "{shell}: {name}");
                }
            }
            assert!(script.contains("version") && script.contains("btf"), "{shell}");
        }
    }
}
