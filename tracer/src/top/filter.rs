//! Which waits does a filter keep? Words that must all be found, whatever their case; `key:pattern` looks at one thing, with `*`
//! for anything.

use glob::{MatchOptions, Pattern};

use crate::{model::class::Class, util::users, wire::json::WaitObject};

/// A filter as typed.
#[derive(Clone, Debug, Default)]
pub struct Filter(Vec<Term>);

#[derive(Clone, Debug)]
enum Term {
    /// Somewhere in what is shown, whatever the case.
    Anywhere(String),
    /// This very thing.
    Field(Field, Pattern),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Class,
    Comm,
    Unit,
    Container,
    Syscall,
    Pid,
    User,
}

const FIELDS: &[(&str, Field)] = &[
    ("class", Field::Class),
    ("comm", Field::Comm),
    ("unit", Field::Unit),
    ("container", Field::Container),
    ("syscall", Field::Syscall),
    ("pid", Field::Pid),
    ("user", Field::User),
];

impl Filter {
    /// Any text is a filter: what is no `key:pattern` is a word.
    pub fn parse(text: &str) -> Self {
        Self(text.split_whitespace().map(Term::parse).collect())
    }

    /// Whether it keeps everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it keeps this wait.
    pub fn keeps(&self, wait: &WaitObject) -> bool {
        self.0.iter().all(|term| term.keeps(wait))
    }
}

impl Term {
    fn parse(word: &str) -> Self {
        let field = word.split_once(':').and_then(|(key, pattern)| {
            let (_, field) = FIELDS.iter().find(|(name, _)| *name == key)?;
            Some(Term::Field(*field, Pattern::new(pattern).ok()?))
        });
        field.unwrap_or_else(|| Term::Anywhere(word.to_lowercase()))
    }

    fn keeps(&self, wait: &WaitObject) -> bool {
        match self {
            Term::Field(field, pattern) => {
                let options = MatchOptions { case_sensitive: false, ..MatchOptions::default() };
                let is = |text: Option<&str>| text.is_some_and(|text| pattern.matches_with(text, options));
                match field {
                    Field::Class => is(Some(wait.label())) || is(wait.class.map(Class::label)),
                    Field::Comm => is(Some(&wait.comm)),
                    Field::Unit => is(wait.unit.as_deref()),
                    // Nobody types a whole id.
                    Field::Container => {
                        let id = wait.container.as_deref();
                        is(id) || id.is_some_and(|id| id.starts_with(pattern.as_str()))
                    }
                    Field::Syscall => is(Some(&wait.syscall)),
                    Field::Pid => is(Some(&wait.pid.to_string())),
                    Field::User => wait.uid.is_some_and(|uid| {
                        // A container has users of its own.
                        let name = users::name(uid).filter(|_| wait.container.is_none() || uid == 0);
                        is(Some(&uid.to_string())) || is(name.as_deref())
                    }),
                }
            }
            Term::Anywhere(word) => {
                let has = |text: &str| text.to_lowercase().contains(word);
                has(&wait.comm)
                    || has(wait.label())
                    || wait.class.is_some_and(|class| has(class.label()))
                    || has(&wait.syscall)
                    || has(&wait.target.to_string())
                    || [&wait.cmdline, &wait.unit, &wait.container]
                        .into_iter()
                        .flatten()
                        .any(|text| has(text))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::samples::wait as sample, *};

    #[test]
    fn all_words_must_be_found() {
        let mut php = sample(7, "php-fpm", Class::Reply, 60);
        for (text, keeps) in [
            ("", true),
            ("php", true),
            ("PHP fpm", true),
            ("php nginx", false),
            ("class:reply", true),
            ("class:re*", true),
            ("class:rep", false),
            ("comm:php*", true),
            ("comm:PHP*", true),
            ("comm:php* class:lock", false),
            ("pid:7", true),
            ("unit:shop.service", false),
            ("10.0.0.2", true),
            // No key of ours: a word.
            ("0.2:443", true),
            ("[", false),
            ("class:[", false),
        ] {
            assert_eq!(Filter::parse(text).keeps(&php), keeps, "{text:?}");
        }
        php.uid = Some(33);
        assert!(Filter::parse("user:33").keeps(&php));
    }
}
