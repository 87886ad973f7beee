//! Which waits a rule is about, and what it says of them.

use std::net::SocketAddr;

use glob::{MatchOptions, Pattern};

use super::{
    Threshold,
    address::Address,
    file::{Mistake, Section, Value, expected},
};
use crate::{
    model::class::{Class, Judgement},
    model::syscalls::Syscall,
};

/// What rules see of a wait.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Name of the thread.
    pub comm: &'a str,
    /// systemd unit, with whose own it is before it.
    pub unit: Option<&'a str>,
    /// Container id or name.
    pub container: Option<&'a str>,
    /// Real user.
    pub uid: u32,
    /// Its name.
    pub user: Option<&'a str>,
    /// The call.
    pub syscall: Syscall,
    /// What the wait was judged to be.
    pub judgement: Judgement,
    /// Own address of the socket it waits on.
    pub local: Option<SocketAddr>,
    /// The peer's address.
    pub remote: Option<SocketAddr>,
    /// Path of the unix socket it waits on: there is one, of whichever end has a name.
    pub path: Option<&'a str>,
}

/// One `[[rule]]`: what is given must all match, and of a list one item.
#[derive(Debug, Default)]
pub struct Rule {
    comm: Option<Vec<Pattern>>,
    unit: Option<Vec<Pattern>>,
    container: Option<Vec<Container>>,
    user: Option<Vec<User>>,
    syscall: Option<Vec<Syscall>>,
    class: Option<Vec<Class>>,
    local: Option<Vec<Address>>,
    remote: Option<Vec<Address>>,
    /// How long such a wait may last.
    pub threshold: Option<Threshold>,
    /// Whether it is flagged at all.
    pub flag: Option<bool>,
    /// What people are told beside the verdict.
    pub note: Option<String>,
}

/// What a rule demands by name, one of each list.
pub enum Names<'a> {
    /// Of the thread.
    Comms(Vec<&'a str>),
    /// Of the unit.
    Units(Vec<&'a str>),
    /// Of the user, or its number.
    Users(Vec<&'a str>, Vec<u32>),
    /// Of the class.
    Classes(&'a [Class]),
    /// Nothing by name.
    Nothing,
}

/// The patterns as names, if none of them has a wildcard.
fn literals(patterns: &[Pattern]) -> Option<Vec<&str>> {
    let name = |pattern: &'_ Pattern| !has_wildcards(pattern.as_str());
    patterns.iter().all(name).then(|| patterns.iter().map(Pattern::as_str).collect())
}

/// A container by glob, or by the first digits of its id.
#[derive(Clone, Debug)]
pub enum Container {
    /// By its name.
    Named(Pattern),
    /// By its id.
    Id(String),
}

/// A user.
#[derive(Clone, Debug)]
pub enum User {
    /// By name.
    Name(String),
    /// By number.
    Id(u32),
}

/// The kernel keeps this many bytes of a thread's name (`TASK_COMM_LEN`, include/linux/sched.h, less the zero).
pub const LONGEST_COMM: usize = 15;
/// As many digits of a container's id as tools print, at the least.
const LEAST_ID: usize = 12;
/// The longest note, characters.
const LONGEST_NOTE: usize = 500;
/// A pattern without a slash is of the system's own units: `*` does not reach those of a user or a container.
const UNIT: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};
/// Kinds of units that have processes.
const UNITS: &[&str] = &[".service", ".scope", ".socket", ".mount", ".swap"];

impl Rule {
    /// Reads one from its table.
    pub fn read(mut table: Section<'_>) -> Result<Self, Mistake> {
        let rule = Self {
            comm: table.value("comm", |value| value.one_or_more(|one| one.string(comm)))?,
            unit: table.value("unit", |value| value.one_or_more(|one| one.string(unit)))?,
            container: table.value("container", |value| value.one_or_more(|one| one.string(container)))?,
            user: table.value("user", |value| value.one_or_more(|one| one.string_or_integer(user)))?,
            syscall: table.value("syscall", |value| value.one_or_more(|one| one.string(syscall)))?,
            class: table.value("class", |value| value.one_or_more(|one| one.string(class)))?,
            local: table.value("local", |value| value.one_or_more(|one| one.string(Address::parse)))?,
            remote: table.value("remote", |value| value.one_or_more(|one| one.string(Address::parse)))?,
            threshold: table.value("threshold", |value: Value<'_, '_>| value.threshold())?,
            flag: table.value("flag", |value| value.bool())?,
            note: table.value("note", |value| value.string(note))?,
        };
        if rule.threshold.is_none() && rule.flag.is_none() && rule.note.is_none() {
            // A setting that is misspelled explains it better.
            let mistake = table.wrong("this rule sets nothing: expected threshold, flag or note in it");
            return Err(table.end().err().unwrap_or(mistake));
        }
        if rule.matches_everything() {
            let mistake = table.wrong(
                "this rule would match every wait: expected comm, unit, container, user, syscall, class, local or \
                 remote in it (comm = \"*\" if every wait is meant)",
            );
            return Err(table.end().err().unwrap_or(mistake));
        }
        table.end()?;
        Ok(rule)
    }

    fn matches_everything(&self) -> bool {
        let Self { comm, unit, container, user, syscall, class, local, remote, .. } = self;
        comm.is_none()
            && unit.is_none()
            && container.is_none()
            && user.is_none()
            && syscall.is_none()
            && class.is_none()
            && local.is_none()
            && remote.is_none()
    }

    /// Users it names; not those that it numbers.
    pub fn users(&self) -> impl Iterator<Item = &str> {
        self.user.iter().flatten().filter_map(|one| match one {
            User::Name(name) => Some(name.as_str()),
            User::Id(_) => None,
        })
    }

    /// What a wait must have for this rule to be about it, by the most telling of its conditions that has no wildcards.
    pub fn names(&self) -> Names<'_> {
        if let Some(comms) = self.comm.as_deref().and_then(literals) {
            return Names::Comms(comms);
        }
        if let Some(units) = self.unit.as_deref().and_then(literals) {
            return Names::Units(units);
        }
        if let Some(users) = &self.user {
            let uid = |one: &User| if let User::Id(uid) = one { Some(*uid) } else { None };
            return Names::Users(self.users().collect(), users.iter().filter_map(uid).collect());
        }
        self.class.as_deref().map_or(Names::Nothing, Names::Classes)
    }

    /// Whether it is about this wait.
    pub fn matches(&self, subject: &Subject) -> bool {
        let Subject { comm, unit, container, uid, user, syscall, judgement, local, remote, path } = *subject;
        // The cheapest and most telling first.
        any(&self.class, |one| *one == judgement.class)
            && any(&self.syscall, |one| *one == syscall)
            && any(&self.remote, |one| one.has(remote, path))
            && any(&self.local, |one| one.has(local, path))
            && any(&self.comm, |one| one.matches(comm))
            && any(&self.unit, |one| unit.is_some_and(|unit| is_unit(one, unit)))
            && any(&self.container, |one| container.is_some_and(|container| one.is(container)))
            && any(&self.user, |one| one.is(uid, user))
    }

    /// Whether it may be about waits of this class.
    pub fn concerns(&self, class: Class) -> bool {
        any(&self.class, |one| *one == class)
    }
}

/// Whether one of the list matches; a list that is not given matches everything.
fn any<T>(list: &Option<Vec<T>>, matches: impl Fn(&T) -> bool) -> bool {
    list.as_ref().is_none_or(|list| list.iter().any(matches))
}

/// Whether a pattern is of this unit.
pub fn is_unit(pattern: &Pattern, unit: &str) -> bool {
    pattern.matches_with(unit, UNIT)
}

impl User {
    /// Whether it is this one.
    pub fn is(&self, uid: u32, name: Option<&str>) -> bool {
        match self {
            User::Name(known) => name == Some(known.as_str()),
            User::Id(id) => uid == *id,
        }
    }
}

impl Container {
    /// Whether it is this one.
    pub fn is(&self, container: &str) -> bool {
        match self {
            Container::Named(pattern) => pattern.matches(container),
            Container::Id(first) => container.starts_with(first.as_str()),
        }
    }
}

/// A glob: `*`, `?`, `[a-z]` and `[!a-z]`; `[*]` is a star.
pub fn pattern(text: &str) -> Result<Pattern, String> {
    if text.is_empty() {
        return Err("an empty string matches nothing: leave the key out to match everything".into());
    }
    Pattern::new(text).map_err(|error| {
        let hint = "expected *, ?, [a-z] or [!a-z] for what may vary, and [*] for a star itself";
        format!("\"{text}\" is not a pattern: {} at its character {}; {hint}", error.msg, error.pos + 1)
    })
}

/// Whether a pattern is more than a name.
pub fn has_wildcards(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// The name of a thread.
pub fn comm(text: &str) -> Result<Pattern, String> {
    if !has_wildcards(text) && text.len() > LONGEST_COMM {
        let kept = &text[..text.floor_char_boundary(LONGEST_COMM)];
        return Err(format!(
            "the kernel keeps {LONGEST_COMM} bytes of a thread's name: expected \"{kept}\", not \"{text}\""
        ));
    }
    pattern(text)
}

/// As systemctl takes it: a name without a kind is a service's.
pub fn unit(text: &str) -> Result<Pattern, String> {
    if text.ends_with(".slice") {
        return Err("a slice has no processes of its own: expected a service or a scope".into());
    }
    if text.is_empty() || has_wildcards(text) || UNITS.iter().any(|kind| text.ends_with(kind)) {
        return pattern(text);
    }
    pattern(&format!("{text}.service"))
}

/// A name, or twelve digits of an id and more.
pub fn container(text: &str) -> Result<Container, String> {
    let is_id = text.len() >= LEAST_ID && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    Ok(if is_id { Container::Id(text.to_ascii_lowercase()) } else { Container::Named(pattern(text)?) })
}

/// A name, or a number.
pub fn user(text: &str) -> Result<User, String> {
    match text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') {
        true => text.parse().map(User::Id).map_err(|_| {
            format!("expected the name of a user, or a uid from 0 to {}, not \"{text}\"", u32::MAX)
        }),
        false => Ok(User::Name(text.to_owned())),
    }
}

fn syscall(text: &str) -> Result<Syscall, String> {
    if let Some(syscall) = Syscall::named(text) {
        return Ok(syscall);
    }
    let names: Vec<&str> = Syscall::all().map(Syscall::name).collect();
    // They are too many to list them.
    let near = expected(text, &names, '"');
    let near =
        if near.starts_with("did") { near } else { "expected one such as \"read\" or \"poll\"".into() };
    Err(format!("unknown system call \"{text}\": {near}"))
}

fn class(text: &str) -> Result<Class, String> {
    let labels: Vec<&str> = Class::ALL.iter().map(|class| class.label()).collect();
    Class::ALL.iter().copied().find(|class| class.label() == text).ok_or_else(|| {
        let list = labels.join(", ");
        match expected(text, &labels, '"') {
            near if near.starts_with("did") => format!("unknown class \"{text}\": {near} Classes are {list}"),
            list => format!("unknown class \"{text}\": {list}"),
        }
    })
}

fn note(text: &str) -> Result<String, String> {
    let text = text.trim();
    match text.chars().count() {
        0 => Err("expected a sentence for whoever sees the stall".into()),
        length if length > LONGEST_NOTE => {
            Err(format!("this has {length} characters: expected at most {LONGEST_NOTE}"))
        }
        _ => Ok(text.to_owned()),
    }
}
