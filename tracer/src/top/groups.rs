//! Which waits stand together in one line of the table, and what is below a line that is unfolded? Pure.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashSet},
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash},
    sync::Arc,
    time::Duration,
};

use crate::{
    model::{class::Level, script::script},
    wire::{culprit::CulpritKind, json::WaitObject},
};

/// What a line stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A culprit, where several wait for one; else a thread.
    Culprit,
    /// A thread.
    Thread,
    /// A process.
    Process,
    /// A systemd unit.
    Unit,
    /// A container.
    Container,
    /// The address or path of a peer.
    Remote,
    /// A program.
    Program,
}

impl By {
    /// The next of those that `g` goes through.
    pub fn next(self) -> Self {
        match self {
            By::Culprit => By::Remote,
            By::Remote => By::Unit,
            By::Unit => By::Program,
            By::Program => By::Thread,
            By::Thread | By::Process | By::Container => By::Culprit,
        }
    }

    /// As the footer calls it.
    pub fn label(self) -> &'static str {
        match self {
            By::Culprit => "culprit",
            By::Thread => "thread",
            By::Process => "process",
            By::Unit => "unit",
            By::Container => "container",
            By::Remote => "remote",
            By::Program => "program",
        }
    }
}

/// Tells a group from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupKey(u64);

impl GroupKey {
    fn of(what: &impl Hash) -> Self {
        Self(BuildHasherDefault::<DefaultHasher>::default().hash_one(what))
    }
}

/// A line of the table.
#[derive(Clone, Debug)]
pub struct Line {
    /// The worst of its waits.
    pub wait: Arc<WaitObject>,
    /// How many waits it stands for.
    pub number: usize,
    /// What it stands for, where that is more than a thread: culprit, unit, container, peer or program; empty: none.
    pub group: Option<String>,
    /// Which group that is.
    pub key: Option<GroupKey>,
    /// The other waits that it stands for.
    pub others: Vec<Arc<WaitObject>>,
    /// It is one of the waits of the group above it.
    pub is_member: bool,
}

impl Line {
    /// Of a wait that stands for itself.
    pub fn of(wait: Arc<WaitObject>) -> Self {
        Self { wait, number: 1, group: None, key: None, others: Vec::new(), is_member: false }
    }

    /// All waits that it stands for.
    pub fn waits(&self) -> impl Iterator<Item = &Arc<WaitObject>> {
        std::iter::once(&self.wait).chain(&self.others)
    }

    /// Whether it is unfolded and folded again.
    pub fn folds(&self) -> bool {
        self.number > 1 && self.key.is_some()
    }

    /// How many processes it stands for.
    pub fn processes(&self) -> usize {
        self.waits().map(|wait| (wait.pid, wait.start_ticks)).collect::<HashSet<_>>().len()
    }
}

/// The lines of these waits, in no order.
pub fn lines(waits: impl Iterator<Item = Arc<WaitObject>>, by: By) -> Vec<Line> {
    match by {
        By::Thread => waits.map(Line::of).collect(),
        By::Culprit => {
            let mut lines = grouped(waits, culprit, |wait| {
                wait.culprit.as_ref().map(|culprit| culprit.to_string()).unwrap_or_default()
            });
            // One that nobody waits for with it is no incident.
            for line in lines.iter_mut().filter(|line| line.number == 1) {
                *line = Line::of(Arc::clone(&line.wait));
            }
            lines
        }
        By::Process => {
            let mut lines =
                grouped(waits, |wait| GroupKey::of(&(wait.pid, wait.start_ticks)), |_| String::new());
            lines.iter_mut().for_each(|line| line.group = None);
            lines
        }
        By::Unit => named(waits, |wait| wait.unit.clone()),
        By::Container => named(waits, |wait| wait.container.clone()),
        By::Remote => named(waits, remote),
        By::Program => named(waits, |wait| Some(program(wait))),
    }
}

/// Whose incident it is; a wait that has only itself to blame is alone.
fn culprit(wait: &WaitObject) -> GroupKey {
    match &wait.culprit {
        // Who only may be stuck is not held up: a service has subscribers at rest beside clients that it does not answer.
        Some(culprit) if culprit.kind != CulpritKind::Itself => {
            GroupKey::of(&(culprit.key(), wait.worry() == Level::Stuck))
        }
        _ => GroupKey::of(&(wait.waiter(), wait.start_ticks)),
    }
}

/// The peer's address, or its path.
fn remote(wait: &WaitObject) -> Option<String> {
    let peers = wait.target.peers();
    let (address, path) = peers.iter().find(|(address, path)| address.is_some() || path.is_some())?;
    address.map(|address| address.to_string()).or(path.map(str::to_owned))
}

/// The name of its executable, by its command line, or of what that interprets; else its own.
fn program(wait: &WaitObject) -> String {
    let cmdline = wait.cmdline.as_deref().unwrap_or_default();
    let first = cmdline.split_whitespace().next();
    let name = first.and_then(|word| word.rsplit('/').next()).filter(|name| !name.is_empty());
    let name = name.unwrap_or(&wait.comm);
    script(name, cmdline).unwrap_or_else(|| name.to_owned())
}

fn named(
    waits: impl Iterator<Item = Arc<WaitObject>>,
    name: impl Fn(&WaitObject) -> Option<String>,
) -> Vec<Line> {
    grouped(waits, |wait| GroupKey::of(&name(wait)), |wait| name(wait).unwrap_or_default())
}

/// One line for each key, of its worst wait.
fn grouped(
    waits: impl Iterator<Item = Arc<WaitObject>>,
    key: impl Fn(&WaitObject) -> GroupKey,
    name: impl Fn(&WaitObject) -> String,
) -> Vec<Line> {
    let mut lines: BTreeMap<GroupKey, Line> = BTreeMap::new();
    for mut wait in waits {
        let key = key(&wait);
        match lines.get_mut(&key) {
            Some(line) => {
                line.number += 1;
                if worst(&wait) < worst(&line.wait) {
                    std::mem::swap(&mut wait, &mut line.wait);
                }
                line.others.push(wait);
            }
            None => {
                let group = Some(name(&wait));
                lines.insert(key, Line { group, key: Some(key), ..Line::of(wait) });
            }
        }
    }
    lines.into_values().collect()
}

/// What worries most is least.
pub fn worst(wait: &WaitObject) -> (Level, Reverse<Duration>) {
    (wait.worry(), Reverse(wait.age))
}

/// The same lines, with the waits of those that are unfolded below them, the worst first.
pub fn unfold(lines: Vec<Line>, unfolded: &HashSet<GroupKey>) -> Vec<Line> {
    let mut all = Vec::with_capacity(lines.len());
    for line in lines {
        let mut members = Vec::new();
        if line.folds() && line.key.is_some_and(|key| unfolded.contains(&key)) {
            members.extend(line.waits().map(|wait| Line { is_member: true, ..Line::of(Arc::clone(wait)) }));
            members.sort_by_key(|member: &Line| (worst(&member.wait), member.wait.waiter()));
        }
        all.push(line);
        all.append(&mut members);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::{super::samples, *};
    use crate::{model::class::Class, wire::culprit::CulpritObject};

    fn due(pid: u32, class: Class, seconds: u64, culprit: u32) -> Arc<WaitObject> {
        let culprit = CulpritObject {
            pid: Some(culprit),
            comm: Some("postgres".into()),
            ..CulpritObject::of_kind(CulpritKind::Process)
        };
        let wait = samples::wait(pid, "php", class, seconds);
        Arc::new(WaitObject { culprit: Some(Box::new(culprit)), ..wait })
    }

    fn told(lines: &[Line]) -> Vec<(u32, usize, bool)> {
        lines.iter().map(|line| (line.wait.pid, line.number, line.is_member)).collect()
    }

    #[test]
    fn who_waits_for_one_culprit_is_one_line_that_unfolds() {
        let waits = [
            due(1, Class::Reply, 5, 812),
            due(2, Class::Reply, 9, 812),
            due(3, Class::Quiet, 99, 812),
            due(4, Class::Reply, 7, 900),
            Arc::new(samples::wait(5, "sleep", Class::Timer, 3)),
        ];
        let mut lines = lines(waits.into_iter(), By::Culprit);
        lines.sort_by_key(|line| worst(&line.wait));
        // A doubtful one is not held up, and one alone is no incident.
        assert_eq!(told(&lines), [(2, 2, false), (4, 1, false), (3, 1, false), (5, 1, false)]);
        assert_eq!(lines[0].group.as_deref(), Some("postgres (pid 812)"));
        assert!(lines[1].group.is_none() && !lines[1].folds());
        assert_eq!(lines[0].processes(), 2);
        let unfolded = unfold(lines.clone(), &lines[0].key.into_iter().collect());
        assert_eq!(
            told(&unfolded)[..4],
            [(2, 2, false), (2, 1, true), (1, 1, true), (4, 1, false)],
            "the members, the worst first"
        );
    }

    #[test]
    fn programs_are_executables() {
        let with = |cmdline: Option<&str>| {
            let wait = samples::wait(1, "gunicorn: worke", Class::Reply, 1);
            program(&WaitObject { cmdline: cmdline.map(str::to_owned), ..wait })
        };
        assert_eq!(with(Some("/usr/bin/php-fpm8.2 -F")), "php-fpm8.2");
        assert_eq!(with(Some("/usr/bin/python3 /srv/app.py")), "app.py");
        assert_eq!(with(Some("/")), "gunicorn: worke");
        assert_eq!(with(None), "gunicorn: worke");
    }

    /// `g` comes round.
    #[test]
    fn the_groups_are_gone_through() {
        let mut by = By::Culprit;
        let mut seen = Vec::new();
        for _ in 0..5 {
            seen.push(by.label());
            by = by.next();
        }
        assert_eq!((by, seen), (By::Culprit, vec!["culprit", "remote", "unit", "program", "thread"]));
    }
}
