//! Whether a licence expression (SPDX) can be kept with a list of licences. Pure.

use anyhow::{Result, bail};

/// The licences of `allowed` that are enough for an expression; `None` if they are not.
///
/// # Errors
/// The expression makes no sense.
pub fn enough<'a>(expression: &str, allowed: &'a [String]) -> Result<Option<Vec<&'a str>>> {
    // Older crates have it for OR.
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = &words[..];
    let found = any_of(&mut rest, allowed)?;
    if !rest.is_empty() {
        bail!("{expression:?} is no licence expression: what is {:?}?", rest.join(" "));
    }
    Ok(found)
}

/// Whatever licences are enough.
type Enough<'a> = Option<Vec<&'a str>>;

/// Of alternatives the first that is enough.
fn any_of<'a>(rest: &mut &[&str], allowed: &'a [String]) -> Result<Enough<'a>> {
    let mut found = all_of(rest, allowed)?;
    while let [word, others @ ..] = *rest
        && *word == "OR"
    {
        *rest = others;
        let other = all_of(rest, allowed)?;
        found = found.or(other);
    }
    Ok(found)
}

/// Of what must be kept together all.
fn all_of<'a>(rest: &mut &[&str], allowed: &'a [String]) -> Result<Enough<'a>> {
    let mut found = one(rest, allowed)?;
    while let [word, others @ ..] = *rest
        && *word == "AND"
    {
        *rest = others;
        let other = one(rest, allowed)?;
        found = found.zip(other).map(|(found, other)| [found, other].concat());
    }
    Ok(found)
}

/// A licence, with its exception, or an expression in parentheses.
fn one<'a>(rest: &mut &[&str], allowed: &'a [String]) -> Result<Enough<'a>> {
    match *rest {
        ["(", others @ ..] => {
            *rest = others;
            let found = any_of(rest, allowed)?;
            let [")", others @ ..] = *rest else { bail!("a parenthesis is not closed") };
            *rest = others;
            Ok(found)
        }
        [name, "WITH", exception, others @ ..] => {
            *rest = others;
            let name = format!("{name} WITH {exception}");
            Ok(allowed.iter().find(|allowed| **allowed == name).map(|name| vec![name.as_str()]))
        }
        [name, others @ ..] if !["OR", "AND", "WITH", ")"].contains(name) => {
            *rest = others;
            Ok(allowed.iter().find(|allowed| allowed == name).map(|name| vec![name.as_str()]))
        }
        _ => bail!("a licence is missing"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alternatives_and_what_goes_together_are_told_apart() {
        let allowed = ["MIT", "Zlib", "Unicode-3.0"].map(String::from);
        for (expression, expected) in [
            ("MIT", Some(&["MIT"][..])),
            ("GPL-2.0-only", None),
            ("Apache-2.0 OR MIT", Some(&["MIT"])),
            ("Apache-2.0/MIT", Some(&["MIT"])),
            ("Apache-2.0 / MIT", Some(&["MIT"])),
            ("MIT AND GPL-2.0-only", None),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", Some(&["MIT", "Unicode-3.0"])),
            ("GPL-2.0-only OR (MIT AND Zlib)", Some(&["MIT", "Zlib"])),
            // AND binds more closely.
            ("GPL-2.0-only AND MIT OR Zlib", Some(&["Zlib"])),
            ("Zlib OR GPL-2.0-only AND MIT", Some(&["Zlib"])),
            ("Apache-2.0 WITH LLVM-exception OR MIT", Some(&["MIT"])),
            ("MIT WITH LLVM-exception", None),
        ] {
            let found = enough(expression, &allowed).expect("it is an expression");
            assert_eq!(found.as_deref(), expected, "{expression}");
        }
        for wrong in ["", "MIT OR", "MIT Zlib", "(MIT", "MIT)", "AND MIT", "WITH"] {
            enough(wrong, &allowed).expect_err(wrong);
        }
    }
}
