//! Events as entries of systemd's journal, with fields of their own, where standard output is the journal
//! (systemd.exec(5), `$JOURNAL_STREAM`; <https://systemd.io/JOURNAL_NATIVE_PROTOCOL>). Never waits for the journal: an entry that it does
//! not take at once is counted as lost.

use std::{
    env,
    os::{fd::AsFd, fd::OwnedFd},
};

use rustix::{
    fs::fstat,
    net::{SendFlags, send},
};

use super::service::connected;
use crate::{
    assess::sink::{IncidentNotice, Notice, Sink},
    collect::losses::Loss,
    model::class::Level,
    wire::{incident::IncidentObject, stall::StallObject},
};

/// Where the journal takes entries.
const SOCKET: &str = "/run/systemd/journal/socket";

/// Priorities (syslog(3)).
const WARNING: &str = "4";
const NOTICE: &str = "5";
const INFO: &str = "6";

/// What tells entries of a kind from all others in the journal (`MESSAGE_ID`, systemd.journal-fields(7)).
const STALL_OPENED: &str = "565c0b3a7aad4a94a32520108de9ef85";
const STALL_CLOSED: &str = "52f2f3de1bca40bd8b3eec2e0460cc2d";
const INCIDENT_OPENED: &str = "34a15b6fad4745bf8a0bce641c9cc74f";
const INCIDENT_CLOSED: &str = "7334c0660bca49aea571164dca69b4c4";

/// The journal.
pub struct Journal {
    socket: OwnedFd,
    lost: u64,
}

impl Journal {
    /// The one that standard output goes to, if it does. Connected once, as a confined agent connects to nobody any more.
    pub fn of_standard_output() -> Option<Self> {
        let stream = env::var("JOURNAL_STREAM").ok()?;
        let is_ours = fstat(std::io::stdout().as_fd())
            .is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino));
        is_ours.then(|| Self::at(SOCKET)).flatten()
    }

    fn at(socket: &str) -> Option<Self> {
        Some(Self { socket: connected(socket.as_ref()).ok()?, lost: 0 })
    }

    fn write(&mut self, entry: &JournalEntry) {
        if send(&self.socket, &entry.0, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_err() {
            self.lost += 1;
        }
    }

    fn write_stall(&mut self, id: &str, notice: &Notice) {
        let entry = of_stall(id, &notice.stall, notice.line());
        self.write(&entry);
    }

    fn write_incident(&mut self, id: &str, notice: &IncidentNotice) {
        let entry = of_incident(id, &notice.incident, notice.line());
        self.write(&entry);
    }
}

impl Sink for Journal {
    fn stall_opened(&mut self, notice: &Notice) {
        self.write_stall(STALL_OPENED, notice);
    }

    fn stall_closed(&mut self, notice: &Notice) {
        self.write_stall(STALL_CLOSED, notice);
    }

    fn incident_opened(&mut self, notice: &IncidentNotice) {
        self.write_incident(INCIDENT_OPENED, notice);
    }

    fn incident_closed(&mut self, notice: &IncidentNotice) {
        self.write_incident(INCIDENT_CLOSED, notice);
    }

    fn losses(&mut self) -> Vec<(Loss, u64)> {
        vec![(Loss::EventsUnread, self.lost)]
    }
}

/// An entry as the journal takes it. `OBJECT_PID` is no field of ours: for it the journal would read files of a process that hangs, and might hang
/// itself.
#[derive(Default)]
struct JournalEntry(Vec<u8>);

impl JournalEntry {
    /// What every entry of ours has: text for people, how bad it is, which kind it is, and the event as it is elsewhere.
    fn new(message: &str, priority: &str, id: &str, line: &str) -> Self {
        Self::default()
            .and("MESSAGE", message)
            .and("PRIORITY", priority)
            .and("MESSAGE_ID", id)
            .and("SYSLOG_IDENTIFIER", "tracer")
            .and("TRACER_EVENT", line.trim_end())
    }

    /// Adds a field. A value of several lines has its length before it.
    fn and(mut self, name: &str, value: &str) -> Self {
        self.0.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            self.0.push(b'\n');
            self.0.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            self.0.push(b'=');
        }
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(b'\n');
        self
    }

    /// Adds one of those that has a value.
    fn and_if(self, name: &str, value: Option<impl ToString>) -> Self {
        match value.map(|value| value.to_string()).filter(|value| !value.is_empty()) {
            Some(value) => self.and(name, &value),
            None => self,
        }
    }
}

fn of_stall(id: &str, stall: &StallObject, line: &str) -> JournalEntry {
    let wait = &stall.wait;
    let priority = match &stall.ended {
        None if wait.level == Some(Level::Stuck) => WARNING,
        None => NOTICE,
        Some(_) => INFO,
    };
    let (local, remote) = wait.target.addresses();
    JournalEntry::new(&stall.headline(), priority, id, line)
        .and("TRACER_PID", &wait.pid.to_string())
        .and_if("TRACER_TID", Some(wait.tid).filter(|tid| *tid != 0))
        .and("TRACER_COMM", &wait.comm)
        .and("TRACER_SYSCALL", &wait.syscall)
        .and_if("TRACER_FD", wait.fd)
        .and_if("TRACER_CLASS", wait.class.map(|class| class.label()))
        .and_if("TRACER_LEVEL", wait.level.map(|level| level.label()))
        .and_if("TRACER_DEADLOCK", wait.deadlock.then_some("1"))
        .and_if("TRACER_LOCAL", Some(local))
        .and_if("TRACER_REMOTE", Some(remote))
        .and_if("TRACER_UNIT", wait.unit.as_ref())
        .and_if("TRACER_CONTAINER", wait.container.as_ref())
        .and_if("TRACER_NAMESPACE", wait.pod.as_ref().and_then(|pod| pod.namespace.as_ref()))
        .and_if("TRACER_POD", wait.pod.as_ref().map(|pod| pod.label()))
        .and_if("TRACER_INCIDENT", stall.incident.as_ref().map(|incident| &incident.id))
        .and_if("TRACER_PEER_PID", stall.peer.as_ref().and_then(|peer| peer.pid))
        .and_if("TRACER_PEER_COMM", stall.peer.as_ref().and_then(|peer| peer.comm.as_ref()))
        .and("TRACER_STALL_USEC", &stall.lasted.as_micros().to_string())
        .and_if("TRACER_ENDED", stall.ended.as_ref())
        .and_if("TRACER_NOTE", stall.note.as_ref())
}

fn of_incident(id: &str, incident: &IncidentObject, line: &str) -> JournalEntry {
    let priority = if incident.closed.is_none() { WARNING } else { INFO };
    JournalEntry::new(&incident.headline(), priority, id, line)
        .and("TRACER_INCIDENT", &incident.id)
        .and("TRACER_CULPRIT", &incident.name)
        .and_if("TRACER_CULPRIT_PID", incident.culprit.pid)
        .and_if("TRACER_CULPRIT_COMM", incident.culprit.comm.as_ref())
        .and("TRACER_STALLS", &incident.stalls.to_string())
        .and("TRACER_PROCESSES", &incident.processes.to_string())
        .and("TRACER_OLDEST_USEC", &incident.oldest.as_micros().to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::history::samples::flagged;

    #[test]
    fn a_value_of_several_lines_has_its_length_before_it() {
        let entry = JournalEntry::default().and("A", "b=c").and_if("EMPTY", Some("")).and("D", "e\nf");
        assert_eq!(entry.0, b"A=b=c\nD\n\x03\0\0\0\0\0\0\0e\nf\n");
    }

    /// A name may say anything: it makes no field of its own, and no line.
    #[test]
    fn a_stall_is_an_entry_with_fields() {
        let mut stall = flagged(7, 10);
        stall.wait.comm = "a\nPRIORITY=0".into();
        let stall = StallObject::open(&stall);
        let text = String::from_utf8(of_stall(STALL_OPENED, &stall, "{}\n").0).expect("text");
        for field in
            ["PRIORITY=4", "TRACER_EVENT={}", "TRACER_PID=7", "TRACER_CLASS=reply", "TRACER_SYSCALL=recvfrom"]
        {
            assert!(text.lines().any(|line| line == field), "{field}: {text}");
        }
        assert!(text.starts_with("MESSAGE=a?PRIORITY=0 (pid 7): "), "{text}");
        assert!(text.contains("TRACER_COMM\n\x0c\0\0\0\0\0\0\0a\nPRIORITY=0\n"), "{text}");
    }

    #[test]
    fn a_journal_that_takes_nothing_is_not_waited_for() {
        let path = std::env::temp_dir().join(format!("tracer-journal-{}", std::process::id()));
        let listener = UnixDatagram::bind(&path).expect("binds");
        let mut journal = Journal::at(path.to_str().expect("text")).expect("connects");
        std::fs::remove_file(&path).expect("is removed");
        let entry = JournalEntry::new("text", INFO, STALL_CLOSED, "{}");
        for _ in 0..10_000 {
            journal.write(&entry);
        }
        let mut buffer = [0; 300];
        let length = listener.recv(&mut buffer).expect("the first is there");
        assert_eq!(&buffer[..length], &entry.0[..]);
        let [(loss, number)] = journal.losses()[..] else { panic!("one kind of loss") };
        assert!(loss == Loss::EventsUnread && (1..10_000).contains(&number), "{number}");
    }
}
