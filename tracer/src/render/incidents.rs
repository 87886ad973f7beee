//! Which waits have one culprit, and what is said of that on a line: who is to blame, how many wait, for how long, and what to do. Pure.

use std::{cmp::Reverse, collections::HashSet, time::Duration};

use hashbrown::HashMap;

use crate::{
    model::{class::Level, wait::Suspended},
    util::human,
    wire::{
        culprit::{CulpritKind, CulpritObject},
        host::SuspendedObject,
        json::WaitObject,
    },
};

/// Columns of a line where nothing says how many there are, as of a page of `why`.
const USUAL_WIDTH: usize = 100;
/// Blanks before what has no room on an incident's line.
const HANG: &str = "    ";

/// The waits of one culprit.
#[derive(Clone, Debug)]
pub struct IncidentGroup<'a> {
    /// The culprit, as one of the waits has it.
    pub culprit: &'a CulpritObject,
    /// Places of the waits, in their order.
    pub waits: Vec<usize>,
    /// How many processes wait.
    pub processes: usize,
    /// The worst of the waits.
    pub level: Level,
    /// The age of the oldest.
    pub age: Duration,
    /// The oldest, as `why` takes it: the process, or the thread that is not its first.
    oldest: u32,
}

impl IncidentGroup<'_> {
    /// Whether it is said before all waits: something is stuck, and it is no matter of a single wait, or not to be seen from what that waits
    /// on.
    pub fn is_announced(&self) -> bool {
        let is_unseen = matches!(self.culprit.kind, CulpritKind::Frozen | CulpritKind::FileSystem);
        (self.waits.len() > 1 || is_unseen) && self.level == Level::Stuck
    }

    /// Whether somebody waits for one that something keeps from running: that is worth a line for a single wait, too.
    pub fn is_suspended(&self, held: &[SuspendedObject]) -> bool {
        let CulpritObject { pid, tid, .. } = self.culprit;
        let is_it = |held: &SuspendedObject| Some(held.pid) == *pid && tid.is_none_or(|tid| held.tid == tid);
        self.level == Level::Stuck && pid.is_some() && held.iter().any(is_it)
    }

    /// Its line; what has no room there follows, indented. `width`: of the terminal, `None` for none.
    pub fn lines(&self, held: &[SuspendedObject], width: Option<usize>) -> Vec<String> {
        let room = width.unwrap_or(USUAL_WIDTH);
        let name = self.name(held);
        let verb = match (self.level, self.culprit.kind) {
            // Nobody else is to blame.
            (_, CulpritKind::Deadlock) => ":",
            (Level::Stuck, CulpritKind::Circle) => " hold up",
            (Level::Stuck, _) => " holds up",
            _ => " may hold up",
        };
        let who = human::waits_of(self.waits.len(), self.processes);
        let age = human::age(self.age);
        let told = match self.waits.len() {
            1 => format!("{who}, for {age}"),
            _ => format!("{who}, the oldest for {age}"),
        };
        let next = format!("next: {}", self.next(held));
        let whole = format!("{name}{verb} {told}");
        let mut lines = match human::columns(&whole) <= room {
            true => vec![whole],
            false => vec![format!("{name}{verb}"), format!("{HANG}{told}")],
        };
        match lines.last_mut() {
            Some(last) if human::columns(last) + 2 + human::columns(&next) <= room => {
                *last += "; ";
                *last += &next;
            }
            _ => lines.push(format!("{HANG}{next}")),
        }
        lines
    }

    /// Who is to blame, and what keeps that one from running at all.
    fn name(&self, held: &[SuspendedObject]) -> String {
        let CulpritObject { kind, pid, tid, .. } = self.culprit;
        let name = self.culprit.to_string();
        let is_it = |held: &&SuspendedObject| Some(held.pid) == *pid && tid.is_none_or(|tid| held.tid == tid);
        let by = held.iter().find(is_it).map(|held| match held.by {
            Suspended::Stopped => "stopped",
            Suspended::Traced => "traced",
            Suspended::Frozen => "frozen",
        });
        let id = match (kind, pid) {
            (CulpritKind::Process, Some(pid)) => format!("(pid {pid}"),
            (CulpritKind::Thread, Some(pid)) => format!("of pid {pid}"),
            _ => return name,
        };
        // A name may look like an id, and comes before it.
        match (by, name.rfind(&id)) {
            (Some(by), Some(at)) => {
                let (before, after) = name.split_at(at + id.len());
                format!("{before}, {by}{}{after}", if *kind == CulpritKind::Thread { "," } else { "" })
            }
            _ => name,
        }
    }

    /// What to do next: to ask about the culprit, where that is a process, else about who waits longest.
    fn next(&self, held: &[SuspendedObject]) -> String {
        let CulpritObject { kind, pid, tid, path, members, .. } = self.culprit;
        let is_stopped = |held: &&SuspendedObject| {
            Some(held.pid) == *pid && held.by == Suspended::Stopped && !held.needs_terminal
        };
        if let Some(stopped) = held.iter().find(is_stopped) {
            return format!("kill -CONT {}", stopped.pid);
        }
        let about = match (kind, path) {
            (CulpritKind::Frozen, Some(place)) => return format!("fsfreeze -u {}", human::clean(place)),
            (CulpritKind::Process | CulpritKind::Thread, _) => tid.or(*pid),
            _ => members.first().map(|member| member.tid.unwrap_or(member.pid)),
        };
        format!("tracer why {}", about.unwrap_or(self.oldest))
    }
}

/// The incidents of these waits, the worst first: by level, by how many wait, and by the oldest.
pub fn grouped(waits: &[WaitObject]) -> Vec<IncidentGroup<'_>> {
    let mut places = HashMap::new();
    let mut groups: Vec<(IncidentGroup<'_>, HashSet<u32>)> = Vec::new();
    for (at, wait) in waits.iter().enumerate() {
        let Some(culprit) = &wait.culprit else { continue };
        let level = wait.worry();
        // Who only may be stuck is not held up: a service has subscribers at rest beside clients that it does not answer.
        let place = *places.entry((culprit.key(), level == Level::Stuck)).or_insert(groups.len());
        if place == groups.len() {
            let group = IncidentGroup {
                culprit,
                waits: Vec::new(),
                processes: 0,
                level: Level::Idle,
                age: Duration::ZERO,
                oldest: 0,
            };
            groups.push((group, HashSet::new()));
        }
        let (group, processes) = &mut groups[place];
        group.level = group.level.min(level);
        if wait.age >= group.age {
            let id = if wait.is_request() { wait.pid } else { wait.tid };
            (group.age, group.oldest) = (wait.age, id);
        }
        group.waits.push(at);
        processes.insert(wait.pid);
    }
    let groups = groups.into_iter();
    let mut groups: Vec<IncidentGroup<'_>> =
        groups.map(|(group, processes)| IncidentGroup { processes: processes.len(), ..group }).collect();
    groups.sort_by_key(|group| (group.level, Reverse(group.waits.len()), Reverse(group.age)));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::class::Class, top::samples::wait, wire::culprit::PartyObject};

    fn process(pid: u32, comm: &str) -> CulpritObject {
        CulpritObject {
            pid: Some(pid),
            comm: Some(comm.into()),
            ..CulpritObject::of_kind(CulpritKind::Process)
        }
    }

    fn due(pid: u32, class: Class, seconds: u64, culprit: &CulpritObject) -> WaitObject {
        WaitObject { culprit: Some(Box::new(culprit.clone())), ..wait(pid, "client", class, seconds) }
    }

    #[test]
    fn an_incident_is_one_line_with_what_to_do() {
        let postgres = process(812, "postgres");
        let waits = [
            due(1, Class::Reply, 724, &postgres),
            due(1, Class::Reply, 3, &postgres),
            due(2, Class::Reply, 5, &postgres),
            due(3, Class::Quiet, 5_000, &postgres),
        ];
        let groups = grouped(&waits);
        let [group, doubtful] = &groups[..] else { panic!("{groups:#?}") };
        assert!(group.is_announced() && !doubtful.is_announced());
        let line = "postgres (pid 812) holds up 3 waits of 2 processes, the oldest for 12m 4s";
        assert_eq!(group.lines(&[], Some(80)), [line, "    next: tracer why 812"]);
        assert_eq!(group.lines(&[], Some(100)), [&format!("{line}; next: tracer why 812")[..]]);
        let stopped = [SuspendedObject { pid: 812, tid: 812, by: Suspended::Stopped, needs_terminal: false }];
        let said = group.lines(&stopped, Some(200));
        assert!(said.len() == 1 && said[0].starts_with("postgres (pid 812, stopped) holds up 3"), "{said:?}");
        assert!(said[0].ends_with("; next: kill -CONT 812"), "{said:?}");
        let background = stopped.map(|held| SuspendedObject { needs_terminal: true, ..held });
        assert!(group.lines(&background, Some(200))[0].ends_with("; next: tracer why 812"));
    }

    /// Whatever the names: those of processes have at most 15 bytes.
    #[test]
    fn no_line_is_too_long() {
        let comm = "abcdefghijklmno";
        let member = |pid| PartyObject { pid, tid: None, comm: comm.into(), script: None };
        let members = vec![member(4_194_303), member(4_194_302)];
        let deadlock = CulpritObject { members, ..CulpritObject::of_kind(CulpritKind::Deadlock) };
        let several = CulpritObject { more: 12, probable: true, ..process(4_194_303, comm) };
        for culprit in [deadlock, several, process(4_194_303, comm)] {
            let waits: Vec<WaitObject> =
                (0..40).map(|at| due(4_000_000 + at, Class::Lock, 86_400 * 10, &culprit)).collect();
            let lines = grouped(&waits)[0].lines(&[], Some(80));
            assert!(lines.len() <= 3 && lines.iter().all(|line| human::columns(line) <= 86), "{lines:#?}");
            assert!(lines.concat().contains("40 processes"), "{lines:#?}");
            assert!(lines.concat().contains("next: tracer why 419430"), "{lines:#?}");
        }
    }

    #[test]
    fn the_worst_comes_first() {
        let many = process(1, "many");
        let waits = [
            due(5, Class::Quiet, 900, &process(4, "doubtful")),
            due(6, Class::Quiet, 900, &process(4, "doubtful")),
            due(7, Class::Reply, 5, &process(3, "young")),
            due(8, Class::Reply, 9, &process(2, "old")),
            due(9, Class::Reply, 1, &many),
            due(9, Class::Reply, 1, &many),
        ];
        let groups = grouped(&waits);
        let names: Vec<&str> = groups.iter().filter_map(|group| group.culprit.comm.as_deref()).collect();
        assert_eq!(names, ["many", "old", "young", "doubtful"]);
        let announced: Vec<bool> = groups.iter().map(IncidentGroup::is_announced).collect();
        assert_eq!(announced, [true, false, false, false], "a healthy host has subscribers at rest");
    }

    /// A path does not say that its file system is frozen, or who serves it.
    #[test]
    fn what_a_path_does_not_say_is_said_of_a_single_wait() {
        let frozen =
            CulpritObject { path: Some("/srv".into()), ..CulpritObject::of_kind(CulpritKind::Frozen) };
        let waits = [due(5, Class::Disk, 7, &frozen)];
        let groups = grouped(&waits);
        assert!(groups[0].is_announced());
        let said = "the frozen file system /srv holds up 1 process, for 7.0s";
        assert_eq!(groups[0].lines(&[], Some(200)), [format!("{said}; next: fsfreeze -u /srv")]);
        let storage = CulpritObject { kind: CulpritKind::Storage, ..frozen };
        assert!(!grouped(&[due(5, Class::Disk, 7, &storage)])[0].is_announced());
    }

    #[test]
    fn a_deadlock_is_stuck_whatever_its_waits_are() {
        let members = vec![PartyObject { pid: 7, tid: Some(8), comm: "x".into(), script: None }];
        let deadlock = CulpritObject { members, ..CulpritObject::of_kind(CulpritKind::Deadlock) };
        let waits = [Class::Mutex, Class::Child].map(|class| WaitObject {
            level: Some(Level::Stuck),
            deadlock: true,
            ..due(7, class, 5, &deadlock)
        });
        let groups = grouped(&waits);
        assert_eq!(groups[0].level, Level::Stuck);
        let lines = groups[0].lines(&[], None);
        assert!(lines[0].starts_with("a deadlock in thread 8 (x) of pid 7: "), "{lines:#?}");
        assert!(lines.last().is_some_and(|line| line.ends_with("next: tracer why 8")), "{lines:#?}");
    }

    #[test]
    fn of_what_is_no_process_the_oldest_wait_is_asked_about() {
        let remote = CulpritObject {
            address: Some("10.0.0.7:5432".into()),
            ..CulpritObject::of_kind(CulpritKind::Remote)
        };
        let waits = [due(5, Class::Reply, 5, &remote), due(6, Class::Reply, 180, &remote)];
        let line = "10.0.0.7:5432 holds up 2 processes, the oldest for 3m 0s";
        assert_eq!(grouped(&waits)[0].lines(&[], Some(90)), [&format!("{line}; next: tracer why 6")[..]]);
    }
}
