//! Threads that look asleep in their calls and do not wait: stopped, traced or frozen ones.

use super::ids::ThreadId;

/// Why a thread that looks asleep in its call is not waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspended {
    /// By a stop signal.
    Stopped,
    /// By a debugger.
    Traced,
    /// By the freezer of its cgroup.
    Frozen,
}

impl Suspended {
    /// Every one of them.
    pub const ALL: [Suspended; 3] = [Suspended::Stopped, Suspended::Traced, Suspended::Frozen];

    /// Its name in output.
    pub fn label(self) -> &'static str {
        match self {
            Suspended::Stopped => "stopped",
            Suspended::Traced => "traced",
            Suspended::Frozen => "frozen",
        }
    }
}

/// A thread that is stopped, traced or frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuspendedThread {
    /// Which thread.
    pub thread: ThreadId,
    /// By what.
    pub by: Suspended,
    /// The signal that stopped it; `None`: none did, or the source does not say which.
    pub signal: Option<StopSignal>,
}

/// The signals that stop a process (signal(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopSignal {
    /// SIGSTOP: somebody sent it.
    Stop,
    /// SIGTSTP: Ctrl-Z at its terminal.
    Suspend,
    /// SIGTTIN: it read its terminal from the background.
    BackgroundRead,
    /// SIGTTOU: it wrote to its terminal, or changed it, from the background.
    BackgroundWrite,
}

impl StopSignal {
    /// By its number.
    pub fn of(number: i32) -> Option<Self> {
        match number {
            libc::SIGSTOP => Some(Self::Stop),
            libc::SIGTSTP => Some(Self::Suspend),
            libc::SIGTTIN => Some(Self::BackgroundRead),
            libc::SIGTTOU => Some(Self::BackgroundWrite),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "SIGSTOP",
            Self::Suspend => "SIGTSTP",
            Self::BackgroundRead => "SIGTTIN",
            Self::BackgroundWrite => "SIGTTOU",
        }
    }

    /// Whether its terminal stopped it, as it is not in the foreground: it stops again when it goes on there.
    pub fn is_for_background(self) -> bool {
        matches!(self, Self::BackgroundRead | Self::BackgroundWrite)
    }
}
