//! What would people call a function whose compiler gave it a longer name? Rust's and C++'s, as far as that is short. Pure.

use std::fmt::{self, Write};

/// Characters of a name that are shown.
const SHOWN_MAX: usize = 160;

/// Takes so many characters, and no more: names can unfold to many times their length.
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if self.0.len() >= SHOWN_MAX {
                return Err(fmt::Error);
            }
            self.0.push(character);
        }
        Ok(())
    }
}

/// A name as people write it, cut where it is too long.
pub fn readable(name: &str) -> String {
    let mut out = Bounded(String::new());
    let written = match rustc_demangle::try_demangle(name) {
        // Without the hash.
        Ok(rust) => write!(out, "{rust:#}"),
        Err(_) => match cpp(name) {
            Some(cpp) => out.write_str(&cpp),
            None => out.write_str(name),
        },
    };
    if written.is_err() {
        out.0.push('…');
    }
    out.0
}

/// The name of a function in its namespaces and classes, without its parameters (Itanium C++ ABI, 5.1). `None`: it is of another kind, or has
/// parts that this leaves to debuggers.
fn cpp(name: &str) -> Option<String> {
    let mut rest = name.strip_prefix("_Z")?;
    // What is inside a function, such as a closure, has that one's name.
    if let Some(inside) = rest.strip_prefix('Z') {
        return Some(cpp(&format!("_Z{inside}")).filter(|_| !inside.starts_with('Z'))? + "::{…}");
    }
    rest = rest.strip_prefix('L').unwrap_or(rest);
    let nested = rest.strip_prefix('N');
    rest = nested.unwrap_or(rest).trim_start_matches(['K', 'V', 'r', 'R', 'O']);
    let mut parts: Vec<String> = Vec::new();
    loop {
        // Within a file, or of a version of the library: neither is part of what people call it.
        let is_digit = |first: char| first.is_ascii_digit();
        if let Some(behind) = rest.strip_prefix('L').filter(|behind| behind.starts_with(is_digit)) {
            rest = behind;
        } else if let Some(tag) = rest.strip_prefix('B').filter(|_| !parts.is_empty()) {
            rest = behind_name(tag)?.1;
            continue;
        }
        if let Some(behind) = rest.strip_prefix("St") {
            parts.push("std".into());
            rest = behind;
        } else if let Some(behind) = rest.strip_prefix('I') {
            // What a template is made for.
            parts.last_mut()?.push_str("<…>");
            match behind_template(behind) {
                Some(behind) => rest = behind,
                // What follows them is not known.
                None => return Some(parts.join("::") + "…"),
            }
            continue;
        } else if rest.starts_with(is_digit) {
            let (part, behind) = behind_name(rest)?;
            parts.push(if part.starts_with("_GLOBAL__N") { "(anonymous)".into() } else { part.into() });
            rest = behind;
        } else if let Some(kind) =
            rest.get(..2).filter(|kind| matches!(*kind, "C1" | "C2" | "C3" | "D0" | "D1" | "D2"))
        {
            let class = parts.last()?.clone();
            parts.push(if kind.starts_with('D') { format!("~{class}") } else { class });
            rest = rest.get(2..)?;
        } else {
            break;
        }
        if nested.is_none() && parts != ["std"] {
            break;
        }
    }
    if nested.is_some() && !rest.starts_with('E') || parts.is_empty() {
        return None;
    }
    Some(parts.join("::"))
}

/// A name that begins with its length, and what follows it.
fn behind_name(text: &str) -> Option<(&str, &str)> {
    let digits = text.len() - text.trim_start_matches(|digit: char| digit.is_ascii_digit()).len();
    let length: usize = text.get(..digits)?.parse().ok()?;
    let end = digits.checked_add(length)?;
    Some((text.get(digits..end)?, text.get(end..)?))
}

/// What follows the arguments of a template, if they are of the simple kinds only: names and built-in types.
fn behind_template(mut rest: &str) -> Option<&str> {
    loop {
        let first = rest.chars().next()?;
        if first.is_ascii_digit() {
            rest = behind_name(rest)?.1;
        } else if first == 'E' {
            return rest.get(1..);
        } else if first.is_ascii_lowercase() || matches!(first, 'P' | 'R' | 'O' | 'K') {
            rest = rest.get(1..)?;
        } else {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_as_people_write_them() {
        for (name, expected) in [
            ("read", "read"),
            ("_ZN4core3fmt9Formatter3pad17h0123456789abcdefE", "core::fmt::Formatter::pad"),
            ("_RNvNtCs1234_7mycrate3foo3bar", "mycrate::foo::bar"),
            ("_ZN3Foo3barEv", "Foo::bar"),
            ("_ZNK3Foo3barEi", "Foo::bar"),
            ("_Z4waitv", "wait"),
            ("_ZL4waitv", "wait"),
            ("_ZNSt6thread4joinEv", "std::thread::join"),
            ("_ZN3FooC2Ev", "Foo::Foo"),
            ("_ZN3FooD1Ev", "Foo::~Foo"),
            ("_ZN12_GLOBAL__N_13fooEv", "(anonymous)::foo"),
            ("_ZN3FooIiE3barEv", "Foo<…>::bar"),
            ("_ZN4node12_GLOBAL__N_1L20PlatformWorkerThreadEPv", "node::(anonymous)::PlatformWorkerThread"),
            ("_ZZN4node9Scheduler5StartEvENUlPvE_4_FUNES2_", "node::Scheduler::Start::{…}"),
            ("_ZNK3Foo4nameB5cxx11Ev", "Foo::name"),
            ("_ZZZN3Foo3barEvENKUlvE_clEvE3baz", "_ZZZN3Foo3barEvENKUlvE_clEvE3baz"),
            ("_ZN3FooISaIcEE3barEv", "Foo<…>…"),
            ("_ZN9999999999999999999993bar", "_ZN9999999999999999999993bar"),
        ] {
            assert_eq!(readable(name), expected);
        }
        assert!(readable(&"x".repeat(10_000)).len() < 200);
    }

    proptest! {
        /// Whatever a symbol is called, its name is short.
        #[test]
        fn no_name_is_long(name in "(_Z|_R|_ZN)?[A-Za-z0-9_$.]{0,300}") {
            prop_assert!(readable(&name).len() <= 4 * SHOWN_MAX);
        }
    }
}
