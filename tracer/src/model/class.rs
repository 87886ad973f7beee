//! The classes of waits: how much each worries, and how long it may last.

use std::time::Duration;

/// How much a class worries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Shown, flagged at its threshold.
    Stuck,
    /// Flagged late, and shown; or by a rule only, and shown where its process is asked about.
    Doubtful,
    /// How healthy programs rest: hidden, and flagged only where a configuration gives it a threshold.
    Idle,
}

impl Level {
    /// Every level, the worst first.
    pub const ALL: [Level; 3] = [Level::Stuck, Level::Doubtful, Level::Idle];

    /// Its name in output.
    pub fn label(self) -> &'static str {
        match self {
            Level::Stuck => "stuck",
            Level::Doubtful => "doubtful",
            Level::Idle => "idle",
        }
    }

    /// Its sign before a line of a table.
    pub fn mark(self) -> char {
        match self {
            Level::Stuck => '!',
            Level::Doubtful => '?',
            Level::Idle => ' ',
        }
    }
}

macro_rules! classes {
    ($($(#[doc = $doc:literal])+ $name:ident = $label:literal, $level:ident, $threshold:expr;)+) => {
        /// The kind of thing a wait waits for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum)]
        pub enum Class {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Class {
            /// Every class, the worst first, in the order of the README's table.
            pub const ALL: &[Class] = &[$(Class::$name),+];

            /// Its name in output, metrics and rules.
            pub fn label(self) -> &'static str {
                match self { $(Class::$name => $label),+ }
            }

            /// How much it worries.
            pub fn level(self) -> Level {
                match self { $(Class::$name => Level::$level),+ }
            }

            /// How long a wait of it lasts before it is flagged; `None`: never by itself.
            pub fn threshold(self) -> Option<Duration> {
                match self { $(Class::$name => $threshold),+ }
            }

            /// Whether a wait of it is shown to who has not asked for any in particular: a healthy host has plenty of those
            /// that nothing flags but a rule, as readers of other processes' pipes.
            pub fn is_listed(self) -> bool {
                self.level() != Level::Idle && self.threshold().is_some()
            }
        }
    };
}

const STUCK: Option<Duration> = Some(Duration::from_secs(30));
const LATE: Option<Duration> = Some(Duration::from_secs(600));

classes! {
    /// A connection that is not answered.
    Connect = "connect", Stuck, STUCK;
    /// An answer on a connection.
    Reply = "reply", Stuck, STUCK;
    /// Room to write: the peer is not reading or not there.
    Send = "send", Stuck, STUCK;
    /// A lock on a file, or a SysV semaphore.
    Lock = "lock", Stuck, STUCK;
    /// A lock in memory.
    Mutex = "mutex", Stuck, STUCK;
    /// Storage: a disk, a network or user-space file system, a page of a file.
    Disk = "disk", Stuck, STUCK;
    /// The other end of a named pipe.
    Fifo = "fifo", Stuck, STUCK;
    /// Something that can never come.
    Orphan = "orphan", Stuck, STUCK;
    /// The rest of an answer, or a subscription's next message.
    Quiet = "quiet", Doubtful, LATE;
    /// A unix peer that waits as well: both rest, as far as can be seen.
    Dialog = "dialog", Doubtful, None;
    /// A client's request, or the rest of it.
    Request = "request", Doubtful, LATE;
    /// Another process's end of a pipe: the cause, if any, is there.
    Pipe = "pipe", Doubtful, None;
    /// Exiting, but held up in the kernel.
    Exit = "exit", Doubtful, LATE;
    /// What no other class names.
    Other = "other", Doubtful, LATE;
    /// A client's next request on a connection kept alive.
    Peer = "peer", Idle, None;
    /// A new connection.
    Listen = "listen", Idle, None;
    /// Any of many events.
    Events = "events", Idle, None;
    /// A person.
    Tty = "tty", Idle, None;
    /// The time.
    Timer = "timer", Idle, None;
    /// A child process.
    Child = "child", Idle, None;
    /// A condition in memory.
    Futex = "futex", Idle, None;
    /// A signal.
    Signal = "signal", Idle, None;
    /// News from the kernel.
    Notify = "notify", Idle, None;
    /// A completion in a ring.
    Ring = "ring", Idle, None;
    /// A datagram or message from anyone.
    Datagram = "datagram", Idle, None;
}

/// What a wait is judged to be: what it waits for, and whether it stands in a circle that nobody can leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What it waits for.
    pub class: Class,
    /// It stands in a deadlock.
    pub is_deadlock: bool,
}

impl Judgement {
    /// How much it worries: a deadlock is stuck, whatever each of it waits for.
    pub fn level(self) -> Level {
        if self.is_deadlock { Level::Stuck } else { self.class.level() }
    }

    /// What it is called where people look for why it is there.
    pub fn label(self) -> &'static str {
        if self.is_deadlock { "deadlock" } else { self.class.label() }
    }

    /// Whether it is shown to who has not asked for any in particular.
    pub fn is_listed(self) -> bool {
        self.is_deadlock || self.class.is_listed()
    }
}

impl From<Class> for Judgement {
    /// One that stands in no circle.
    fn from(class: Class) -> Self {
        Self { class, is_deadlock: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Its table has each class at its level; the thresholds are those that it names.
    #[test]
    fn levels_and_thresholds_are_what_the_readme_says() {
        let readme = include_str!("../../../README.md");
        let table = readme.split_once("| level | class | waits for |\n").expect("a table").1;
        let mut listed = Vec::new();
        let mut level = "";
        for row in table.lines().skip(1).take_while(|row| row.starts_with('|')) {
            let mut cells = row.split('|').skip(1);
            if let Some(named) = cells.next().and_then(|cell| cell.split("**").nth(1)) {
                level = named;
            }
            let names = cells.next().unwrap_or_default().split('`').skip(1).step_by(2);
            listed.extend(names.map(|name| (name, level)));
        }
        assert_eq!(listed.len(), Class::ALL.len());
        for class in Class::ALL {
            let (level, threshold) = match class.level() {
                Level::Stuck => ("stuck", Some(Duration::from_secs(30))),
                Level::Doubtful if ["pipe", "dialog"].contains(&class.label()) => ("doubtful", None),
                Level::Doubtful => ("doubtful", Some(Duration::from_secs(600))),
                Level::Idle => ("idle", None),
            };
            assert!(listed.contains(&(class.label(), level)), "{}: {listed:?}", class.label());
            assert_eq!(class.threshold(), threshold, "{}", class.label());
        }
    }
}
