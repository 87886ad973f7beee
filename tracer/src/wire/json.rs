//! The JSON contract: one object a wait, these names always. What `ps` prints, the agent serves and the history keeps; it can
//! be read again.

use std::{borrow::Cow, net::SocketAddr, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{culprit::CulpritObject, target::TargetObject};
use crate::{
    model::cgroup::Owner,
    model::class::{Class, Judgement, Level},
    model::pod::Pod,
    model::script::script,
    model::wait::may_be_same_start,
};

/// Process, thread, and of a request the fd: see [`WaitObject::waiter`].
pub type Waiter = (u32, u32, Option<i32>);

/// A wait as `ps --json` prints it and stall events carry it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WaitObject {
    /// Process.
    pub pid: u32,
    /// Thread; 0 for a request of an event loop, which no thread waits for.
    pub tid: u32,
    /// Name of the thread.
    pub comm: String,
    /// Command line of the process, if it could be read.
    pub cmdline: Option<String>,
    /// User of the thread.
    pub uid: Option<u32>,
    /// `S` or `D`.
    pub state: Cow<'static, str>,
    /// Name of the call.
    pub syscall: Cow<'static, str>,
    /// As `0x…`: JSON numbers lose the low bits of addresses.
    #[serde(with = "hexadecimal")]
    pub args: [u64; 6],
    /// The fd that matters.
    pub fd: Option<i32>,
    /// When it began.
    #[serde(serialize_with = "to_the_millisecond")]
    pub since: Timestamp,
    /// How long it has lasted.
    #[serde(rename = "age_seconds", with = "in_seconds")]
    pub age: Duration,
    /// Its start was seen; otherwise it is derived, from the connection's own stamps or as a lower bound.
    pub age_exact: bool,
    /// These three are null for a wait that is over: what is seen of its connection now does not say what it waited for.
    pub class: Option<Class>,
    /// How much that worries.
    pub level: Option<Level>,
    /// Whether it stands in a circle that nobody can leave: it is stuck then, whatever its class.
    #[serde(default)]
    pub deadlock: bool,
    /// Why, for people.
    pub verdict: Option<String>,
    /// What it waits on.
    pub target: TargetObject,
    /// Path of the cgroup.
    pub cgroup: Option<String>,
    /// systemd unit.
    pub unit: Option<String>,
    /// Container id.
    pub container: Option<String>,
    /// Kubernetes pod.
    #[serde(default)]
    pub pod: Option<Pod>,
    /// Of a stall, who is to blame for it: those with the same culprit are one incident. Left out where that was not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub culprit: Option<Box<CulpritObject>>,
    /// The addresses of the socket at the other end, where the connection is translated on its way (NAT). Left out where it is not, or that
    /// is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub translated: Option<TranslatedObject>,
    /// When the process started, clock ticks since boot: with its id, which process it is. Left out where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_ticks: Option<u64>,
}

/// The addresses of a socket, as it has them itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TranslatedObject {
    /// Its own.
    pub local: SocketAddr,
    /// The one that it sees this end by.
    pub remote: SocketAddr,
}

impl WaitObject {
    /// Whether both are of one thread.
    pub fn is_of_same_thread(&self, other: &Self) -> bool {
        self.waiter() == other.waiter() && may_be_same_start(self.start_ticks, other.start_ticks)
    }

    /// Who waits: process and thread, and of a request, which has no thread, the fd.
    pub fn waiter(&self) -> Waiter {
        (self.pid, self.tid, self.fd.filter(|_| self.is_request()))
    }

    /// Whose share of what is bounded it takes.
    pub fn owner(&self) -> Owner {
        Owner::at(self.cgroup.as_deref(), self.uid.unwrap_or_default())
    }

    /// How much it worries.
    pub fn worry(&self) -> Level {
        self.level.unwrap_or(Level::Idle)
    }

    /// What it is judged to be; `None` of a wait that is over.
    pub fn judgement(&self) -> Option<Judgement> {
        self.class.map(|class| Judgement { class, is_deadlock: self.deadlock })
    }

    /// What it is called in tables: its class, or that it stands in a deadlock.
    pub fn label(&self) -> &'static str {
        self.judgement().map_or("", Judgement::label)
    }

    /// `recvfrom(13)`, or the call alone where it has no fd.
    pub fn call(&self) -> String {
        match self.fd {
            Some(fd) => format!("{}({fd})", self.syscall),
            None => self.syscall.clone().into_owned(),
        }
    }

    /// Whether it is no thread's: its process has asked on a connection, and no thread waits for the answer.
    pub fn is_request(&self) -> bool {
        self.tid == 0
    }

    /// `PID`, or `PID/TID` for a thread that is not the first of its process.
    pub fn id(&self) -> String {
        if self.pid == self.tid || self.is_request() {
            self.pid.to_string()
        } else {
            format!("{}/{}", self.pid, self.tid)
        }
    }

    /// What its process runs, if that is an interpreter whose command line is known.
    pub fn script(&self) -> Option<String> {
        script(&self.comm, self.cmdline.as_deref()?)
    }

    /// What it belongs to: the container, by the first letters of its id, else the unit.
    pub fn home(&self) -> Option<&str> {
        self.container.as_deref().map(short_id).or(self.unit.as_deref())
    }
}

/// A container's id is long, and known by its first letters; what is only a name is not cut.
pub fn short_id(id: &str) -> &str {
    let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id { &id[..12] } else { id }
}

/// A call that `trace --json` prints: a wait, and what came of it.
#[derive(Serialize)]
pub struct CallObject {
    /// `waiting` or `ended`.
    event: &'static str,
    /// What it returned, as the kernel has it: an error is its number, negative.
    result: Option<i64>,
    /// The error's name.
    errno: Option<String>,
    /// How long it has lasted, from its entry.
    #[serde(with = "in_seconds")]
    seconds: Duration,
    #[serde(flatten)]
    wait: WaitObject,
}

impl CallObject {
    /// Of a call that waits.
    pub fn waiting(wait: WaitObject) -> Self {
        Self { event: "waiting", result: None, errno: None, seconds: wait.age, wait }
    }

    /// Of a call that has ended.
    pub fn ended(mut wait: WaitObject, uid: Option<u32>, result: Option<i64>, errno: Option<String>) -> Self {
        (wait.class, wait.level, wait.verdict) = (None, None, None);
        wait.uid = uid;
        Self { event: "ended", result, errno, seconds: wait.age, wait }
    }
}

/// A line of the live view that stands for several waits: the worst of them, how many they are, and their unit or container.
#[derive(Serialize)]
pub struct GroupObject<'a> {
    /// The unit or container.
    pub group: Option<&'a str>,
    /// How many they are.
    pub waits: usize,
    /// The worst of them.
    #[serde(flatten)]
    pub worst: &'a WaitObject,
}

/// A duration in seconds, to the millisecond.
pub fn seconds(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1000.0
}

/// Milliseconds: the clock is not known better.
pub fn to_the_millisecond<S: serde::Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{at:.3}"))
}

/// Durations as numbers of seconds.
pub mod in_seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// To the millisecond.
    pub fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(super::seconds(*duration))
    }

    /// Back again.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(from)?).map_err(D::Error::custom)
    }
}

mod hexadecimal {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub fn serialize<S: Serializer>(args: &[u64; 6], to: S) -> Result<S::Ok, S::Error> {
        args.map(|arg| format!("{arg:#x}")).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u64; 6], D::Error> {
        let mut args = [0; 6];
        for (arg, text) in args.iter_mut().zip(<[String; 6]>::deserialize(from)?) {
            let digits = text.strip_prefix("0x").unwrap_or(&text);
            *arg = u64::from_str_radix(digits, 16).map_err(D::Error::custom)?;
        }
        Ok(args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::verdict::tests as samples,
        model::syscalls::{Direction, Syscall},
        model::target::{Interest, Target, WatchedFd},
        model::tcp::tests::facts,
        model::wait::SocketFacts,
        resolve::{Resolved, process::ProcessMeta},
    };

    #[test]
    fn what_is_written_can_be_read_again() {
        let wait = samples::wait(Syscall::Recvfrom, [13, u64::MAX, 0, 0, 0, 0]);
        let interest = Interest { read: true, write: false };
        let watched =
            vec![WatchedFd { fd: 3, interest, target: samples::tcp(), facts: Some(Box::new(facts(517, 3))) }];
        for target in [
            samples::tcp(),
            Target::None,
            Target::Pipe { inode: 7 },
            Target::Unreadable { reason: "why not".into() },
            Target::Socket { family: Some("netlink"), inode: 9 },
            Target::Fds { watched },
            Target::Futex { address: 0x7f00 },
        ] {
            let resolved = Resolved::new(Some(13), target, Some(Direction::Receive));
            let resolved = Resolved { socket: SocketFacts::Tcp(Box::new(facts(517, 3))), ..resolved };
            let verdict = crate::diagnose::verdict::judge(&wait, &resolved);
            let object = WaitObject::new(&wait, &resolved, &verdict, &ProcessMeta::default());
            let text = serde_json::to_string(&object).expect("is written");
            let again: WaitObject = serde_json::from_str(&text).expect("is read");
            assert_eq!(serde_json::to_string(&again).expect("is written"), text);
            assert_eq!(again.target.to_string(), object.target.to_string());
        }
    }
}
