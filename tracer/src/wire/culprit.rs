//! Who is to blame for a wait, as JSON has it, and the name of that one for people.

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use serde::{Deserialize, Serialize};

use crate::util::human;

/// Columns of what an interpreter runs, in its name: a file's may have hundreds.
const SCRIPT_MAX: usize = 32;
/// Members of a circle that a line names.
const NAMED_MEMBERS_MAX: usize = 2;

/// What a culprit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CulpritKind {
    /// A process of this host: `pid`, `comm`.
    Process,
    /// A thread that holds a lock: `pid`, `tid`, `comm`.
    Thread,
    /// An address whose process is not on this host, or was not found there: `protocol`, `address`.
    Remote,
    /// A file system whose server is another host, or was not found: `path` is where it is mounted, `server`.
    FileSystem,
    /// What a file system is stored on: `path` is where that is mounted, `server` the device.
    Storage,
    /// A frozen file system: `path` is where it is mounted.
    Frozen,
    /// A device: `path`.
    Device,
    /// A file's lock whose holder is not known: `path`.
    FileLock,
    /// A named pipe whose other end nobody has opened: `path`.
    Fifo,
    /// A Unix socket whose owner was not found: `path`.
    Socket,
    /// A lock in memory whose holder is not known or has gone: `pid`, `comm`, `address`.
    MemoryLock,
    /// System V semaphores that nobody is known to have: `id`.
    Semaphores,
    /// A System V message queue that nobody is known to use: `id`.
    MessageQueue,
    /// Those who wait for each other and can never go on: `members`.
    Deadlock,
    /// Those who wait for each other, and may have threads that go on: `members`.
    Circle,
    /// Nobody but the one that waits: `pid`, `tid`.
    Itself,
}

/// A process, or a thread of it. Names tell nobody from another: they change, and are not always known.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PartyObject {
    /// Its process.
    pub pid: u32,
    /// Its thread, where only that is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tid: Option<u32>,
    /// Its name.
    pub comm: String,
    /// What it runs, if it is an interpreter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
}

impl PartialEq for PartyObject {
    fn eq(&self, other: &Self) -> bool {
        (self.pid, self.tid) == (other.pid, other.tid)
    }
}

impl Eq for PartyObject {}

impl Hash for PartyObject {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.pid, self.tid).hash(state);
    }
}

/// Who is to blame for a wait: the `culprit` object of the JSON contract. What does not apply to its kind is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CulpritObject {
    /// What it is.
    pub kind: CulpritKind,
    /// Its process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Its thread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tid: Option<u32>,
    /// The name of the process or thread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comm: Option<String>,
    /// What the process runs, if it is an interpreter: the last name of a script, a module or a class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
    /// When its process started, clock ticks since boot, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_ticks: Option<u64>,
    /// `tcp` or `udp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// `192.0.2.1:5432`; without the port, the host of clients; of a lock in memory `0x…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The network namespace of a loopback address, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<u32>,
    /// Its path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Who serves it, or on what it is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The id of semaphores or of a message queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<i32>,
    /// Those who wait for each other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<PartyObject>,
    /// How many others it may be as well.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: usize,
    /// It is only likely that it is they.
    #[serde(default, skip_serializing_if = "is_false")]
    pub probable: bool,
    /// Whom this wait waits for, where that one is not the culprit but waits itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through: Option<PartyObject>,
    /// The stuck process that `through` waits for: its only child, or a child's. Left out where there is none between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<PartyObject>,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

fn is_false(is: &bool) -> bool {
    !is
}

/// What tells one culprit from another.
pub type CulpritKey<'a> = (
    CulpritKind,
    (Option<u32>, Option<u32>, Option<i32>, Option<u32>),
    Option<&'a str>,
    Option<&'a str>,
    &'a [PartyObject],
);

impl CulpritObject {
    /// Whether people call it so: by the number or name of its process, by its address, with or without the port, or by its path.
    pub fn is_called(&self, text: &str) -> bool {
        let is_party = |pid: Option<u32>, tid: Option<u32>, names: [Option<&str>; 2]| {
            let id = text.parse().ok();
            id.is_some() && (id == pid || id == tid) || names.contains(&Some(text))
        };
        let is_address =
            |address: &str| address == text || address.rsplit_once(':').is_some_and(|(host, _)| host == text);
        is_party(self.pid, self.tid, [self.comm.as_deref(), self.script.as_deref()])
            || self.members.iter().any(|member| {
                is_party(Some(member.pid), member.tid, [Some(&member.comm), member.script.as_deref()])
            })
            || self.address.as_deref().is_some_and(is_address)
            || [&self.path, &self.server].into_iter().flatten().any(|of| of == text)
    }

    /// One of this kind of which nothing is known.
    pub fn of_kind(kind: CulpritKind) -> Self {
        Self {
            kind,
            pid: None,
            tid: None,
            comm: None,
            script: None,
            start_ticks: None,
            protocol: None,
            address: None,
            netns: None,
            path: None,
            server: None,
            id: None,
            members: Vec::new(),
            more: 0,
            probable: false,
            through: None,
            behind: None,
        }
    }

    /// What tells it from others: equal for all waits of an incident.
    pub fn key(&self) -> CulpritKey<'_> {
        let numbers = (self.pid, self.tid, self.id, self.netns);
        (self.kind, numbers, self.address.as_deref(), self.path.as_deref(), &self.members)
    }

    /// Who of this host a wait waits for itself, by id and name, if that is known: of a thread that is meant alone, its own id.
    pub fn waited_for(&self) -> Option<(u32, &str)> {
        match &self.through {
            Some(PartyObject { pid, tid, comm, script }) => {
                Some((tid.unwrap_or(*pid), script.as_ref().unwrap_or(comm)))
            }
            None if matches!(self.kind, CulpritKind::Process | CulpritKind::Thread) => {
                Some((self.tid.or(self.pid)?, self.script.as_deref().or(self.comm.as_deref())?))
            }
            None => None,
        }
    }
}

impl fmt::Display for PartyObject {
    /// `nginx (pid 7)`, `python3 pool.py (pid 7)`, `thread 12 (worker) of pid 7`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let comm = program_name(&self.comm, self.script.as_deref());
        match self.tid {
            Some(tid) => write!(f, "thread {tid} ({comm}) of pid {}", self.pid),
            None => write!(f, "{comm} (pid {})", self.pid),
        }
    }
}

impl fmt::Display for CulpritObject {
    /// Its name within a sentence: `postgres (pid 812)`, `10.0.0.7:5432`, `a deadlock of python3 (pid 7) and python3 (pid 9)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |text: &Option<String>| human::clean(text.as_deref().unwrap_or("?"));
        let (path, server) = (text(&self.path), text(&self.server));
        if self.probable {
            write!(f, "probably ")?;
        }
        match self.kind {
            CulpritKind::Process => {
                let name = program_name(self.comm.as_deref().unwrap_or("?"), self.script.as_deref());
                write!(f, "{name} (pid {})", self.pid.unwrap_or_default())
            }
            CulpritKind::Thread => {
                let (tid, pid) = (self.tid.unwrap_or_default(), self.pid.unwrap_or_default());
                write!(f, "thread {tid} ({}) of pid {pid}", text(&self.comm))
            }
            CulpritKind::Remote if self.protocol.as_deref() == Some("udp") => {
                write!(f, "{} (udp)", text(&self.address))
            }
            CulpritKind::Remote => write!(f, "{}", text(&self.address)),
            CulpritKind::FileSystem => write!(f, "{server}, the server of {path},"),
            CulpritKind::Storage => write!(f, "{server}, which {path} is on,"),
            CulpritKind::Frozen => write!(f, "the frozen file system {path}"),
            CulpritKind::Device => write!(f, "{path}"),
            CulpritKind::FileLock => write!(f, "the lock on {path}"),
            CulpritKind::Fifo => write!(f, "the fifo {path}"),
            CulpritKind::Socket => write!(f, "the socket {path}"),
            CulpritKind::MemoryLock => {
                write!(f, "a lock in memory of {} (pid {})", text(&self.comm), self.pid.unwrap_or_default())
            }
            CulpritKind::Semaphores => write!(f, "semaphore set {}", self.id.unwrap_or_default()),
            CulpritKind::MessageQueue => write!(f, "message queue {}", self.id.unwrap_or_default()),
            CulpritKind::Deadlock if self.members.len() == 1 => {
                write!(f, "a deadlock in {}", listed(&self.members))
            }
            CulpritKind::Deadlock => write!(f, "a deadlock of {}", listed(&self.members)),
            CulpritKind::Circle => write!(f, "{}, waiting for each other,", listed(&self.members)),
            CulpritKind::Itself => write!(f, "nobody else"),
        }?;
        match self.more {
            0 => Ok(()),
            1 => write!(f, " or one other"),
            more => write!(f, " or one of {more} others"),
        }
    }
}

/// The name of a program for people: of an interpreter with what it runs.
pub fn program_name(comm: &str, script: Option<&str>) -> String {
    match script {
        Some(script) => human::clean(&format!("{comm} {}", human::fit(script, SCRIPT_MAX))),
        None => human::clean(comm),
    }
}

/// The first of them, and how many more there are.
fn listed(members: &[PartyObject]) -> String {
    let named = members.iter().take(NAMED_MEMBERS_MAX);
    let more = members.len().saturating_sub(NAMED_MEMBERS_MAX);
    let list = |mut names: Vec<String>| {
        if more > 0 {
            names.push(format!("{more} more"));
        }
        match names.split_last() {
            Some((last, [])) => last.clone(),
            Some((last, first)) => format!("{} and {last}", first.join(", ")),
            None => String::new(),
        }
    };
    // Threads of one process.
    if let [first, _, ..] = members
        && members.iter().all(|member| member.pid == first.pid && member.tid.is_some())
    {
        let tids = named.filter_map(|member| member.tid).map(|tid| tid.to_string());
        return format!("threads {} of pid {}", list(tids.collect()), first.pid);
    }
    list(named.map(PartyObject::to_string).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn party(pid: u32, tid: Option<u32>) -> PartyObject {
        PartyObject { pid, tid, comm: "python3".into(), script: None }
    }

    #[test]
    fn culprits_have_names() {
        let of = CulpritObject::of_kind;
        let postgres = CulpritObject {
            pid: Some(812),
            comm: Some("postgres".into()),
            ..CulpritObject::of_kind(CulpritKind::Process)
        };
        let members = |number| (0..number).map(|at| party(7 + at, None)).collect();
        let path = || Some("/srv".to_owned());
        for (culprit, name) in [
            (postgres.clone(), "postgres (pid 812)"),
            (CulpritObject { probable: true, ..postgres.clone() }, "probably postgres (pid 812)"),
            (CulpritObject { more: 1, ..postgres.clone() }, "postgres (pid 812) or one other"),
            (CulpritObject { more: 3, ..postgres.clone() }, "postgres (pid 812) or one of 3 others"),
            (
                CulpritObject { tid: Some(9), kind: CulpritKind::Thread, ..postgres.clone() },
                "thread 9 (postgres) of pid 812",
            ),
            (
                CulpritObject { address: Some("10.0.0.7:5432".into()), ..of(CulpritKind::Remote) },
                "10.0.0.7:5432",
            ),
            (
                CulpritObject { members: members(2), ..of(CulpritKind::Deadlock) },
                "a deadlock of python3 (pid 7) and python3 (pid 8)",
            ),
            (
                CulpritObject { members: members(5), ..of(CulpritKind::Deadlock) },
                "a deadlock of python3 (pid 7), python3 (pid 8) and 3 more",
            ),
            (
                CulpritObject { members: members(1), ..of(CulpritKind::Deadlock) },
                "a deadlock in python3 (pid 7)",
            ),
            (
                CulpritObject {
                    members: vec![party(7, Some(8)), party(7, Some(9)), party(7, Some(10))],
                    ..of(CulpritKind::Deadlock)
                },
                "a deadlock of threads 8, 9 and 1 more of pid 7",
            ),
            (
                CulpritObject { members: members(2), ..of(CulpritKind::Circle) },
                "python3 (pid 7) and python3 (pid 8), waiting for each other,",
            ),
            (
                CulpritObject { path: path(), server: Some("nas".into()), ..of(CulpritKind::FileSystem) },
                "nas, the server of /srv,",
            ),
            (CulpritObject { path: path(), ..of(CulpritKind::Frozen) }, "the frozen file system /srv"),
            (CulpritObject { comm: Some("a\nb".into()), ..postgres.clone() }, "a?b (pid 812)"),
            (
                CulpritObject { comm: Some("python3".into()), script: Some("pool.py".into()), ..postgres },
                "python3 pool.py (pid 812)",
            ),
        ] {
            assert_eq!(culprit.to_string(), name);
        }
    }

    #[test]
    fn what_does_not_apply_is_left_out_and_what_is_written_is_read() {
        let remote = CulpritObject {
            address: Some("10.0.0.7:5432".into()),
            protocol: Some("tcp".into()),
            through: Some(party(7, None)),
            ..CulpritObject::of_kind(CulpritKind::Remote)
        };
        let text = serde_json::to_string(&remote).expect("is written");
        let expected = r#"{"kind":"remote","protocol":"tcp","address":"10.0.0.7:5432","through":{"pid":7,"comm":"python3"}}"#;
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<CulpritObject>(&text).expect("is read"), remote);
    }

    #[test]
    fn the_waits_of_an_incident_have_one_key_whoever_they_wait_for_first() {
        let of = |pid| CulpritObject { pid: Some(pid), ..CulpritObject::of_kind(CulpritKind::Process) };
        let behind = CulpritObject { through: Some(party(7, None)), ..of(9) };
        assert_eq!(behind.key(), of(9).key());
        assert_ne!(of(8).key(), of(9).key());
    }
}
