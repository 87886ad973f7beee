//! The one table of kernel programs: what each hooks into, since which kernel, what takes its place and what is lost
//! without it; and trying each for real.

use anyhow::{Context, Result};
use aya::{
    Btf,
    programs::{BtfTracePoint, FEntry, FExit, Iter, KProbe},
};

use super::{
    error::ProgramError,
    load::program,
    object::{Followed, Object, Options, has_rights, kernel_version},
};

/// The function that hands each call of a 64-bit process out.
pub const DISPATCH: &str = "x64_sys_call";

/// Where a program hooks in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// An iterator over this.
    Iter(&'static str),
    /// A tracepoint with typed arguments.
    Tracepoint(&'static str),
    /// The entry of the function that hands system calls out.
    Fentry,
    /// Its return.
    Fexit,
    /// Functions that serve system calls, at their entry or return.
    Kprobe,
}

/// A kernel program.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Its name.
    pub name: &'static str,
    /// Where it hooks in.
    pub hook: Hook,
    /// The first kernel that can take it: major and minor version. Fentry and fexit need [`DISPATCH`] as well, which Linux
    /// has on x86-64 since 6.9, 6.6.26 and 6.1.85.
    pub since: (u32, u32),
    /// What it tells.
    pub tells: &'static str,
    /// What takes its place, and what is lost.
    pub without: &'static str,
    /// `ps`, `why` and `agent` need it.
    pub needed: bool,
}

/// All of them. Those that are attached together are in the order in which they are: what ends before what begins, so that
/// nothing begins that is not seen to end, and what gives threads their slots before what looks for them.
pub const PROBES: &[Probe] = &[
    Probe {
        name: "snapshot",
        hook: Hook::Iter("task"),
        since: (5, 8),
        tells: "what waits now, since when",
        without: "/proc, which does not say since when",
        needed: true,
    },
    Probe {
        name: "lookup",
        hook: Hook::Iter("task"),
        since: (5, 8),
        tells: "what the fds of poll, select and epoll are",
        without: "their names in /proc, without connections",
        needed: true,
    },
    Probe {
        name: "holders",
        hook: Hook::Iter("task_file"),
        since: (5, 8),
        tells: "who is at the other end",
        without: "peers and holders are not named",
        needed: false,
    },
    Probe {
        name: "sockets",
        hook: Hook::Iter("task_file"),
        since: (5, 8),
        tells: "which requests of event loops have no answer",
        without: "requests are seen where a thread waits for the answer",
        needed: false,
    },
    Probe {
        name: "stacks",
        hook: Hook::Iter("task"),
        since: (5, 9),
        tells: "which kernel functions threads sleep in",
        without: "some waits remain unexplained",
        needed: false,
    },
    Probe {
        name: "rings",
        hook: Hook::Iter("task"),
        since: (5, 8),
        tells: "what threads wait for in io_uring",
        without: "who waits for completions is idle, whatever they are for",
        needed: false,
    },
    Probe {
        name: "registers",
        hook: Hook::Iter("task"),
        since: (5, 8),
        tells: "where in the program threads sleep",
        without: "the line of code is not named",
        needed: false,
    },
    Probe {
        name: "exited",
        hook: Hook::Tracepoint("sched_process_exit"),
        since: (5, 5),
        tells: "threads that end, before Linux 5.11",
        without: "the agent does not run there",
        needed: false,
    },
    Probe {
        name: "newtask",
        hook: Hook::Tracepoint("task_newtask"),
        since: (5, 5),
        tells: "threads that begin",
        without: "the agent sees waits end by calls",
        needed: true,
    },
    Probe {
        name: "waits",
        hook: Hook::Tracepoint("sched_switch"),
        since: (5, 5),
        tells: "how long waits took, when they end",
        without: "the agent sees waits end by calls",
        needed: true,
    },
    Probe {
        name: "answers",
        hook: Hook::Tracepoint("tcp_rcv_space_adjust"),
        since: (5, 11),
        tells: "for response_times: how long services take to answer",
        without: "response times are not measured",
        needed: false,
    },
    Probe {
        name: "call_fork",
        hook: Hook::Tracepoint("task_newtask"),
        since: (5, 5),
        tells: "for trace: children",
        without: "trace by waits",
        needed: false,
    },
    Probe {
        name: "call_exec",
        hook: Hook::Tracepoint("sched_process_exec"),
        since: (5, 5),
        tells: "for trace of a thread: it runs another program, and changes its id",
        without: "trace by waits",
        needed: false,
    },
    Probe {
        name: "call_gone",
        hook: Hook::Tracepoint("sched_process_exit"),
        since: (5, 5),
        tells: "for trace: threads that end",
        without: "trace by waits",
        needed: false,
    },
    Probe {
        name: "call_exit",
        hook: Hook::Tracepoint("sys_exit"),
        since: (5, 11),
        tells: "for trace: calls that end, with results",
        without: "trace by waits, without results",
        needed: false,
    },
    Probe {
        name: "call_enter",
        hook: Hook::Tracepoint("sys_enter"),
        since: (5, 11),
        tells: "for trace: calls that begin",
        without: "trace by waits, without results",
        needed: false,
    },
    Probe {
        name: "call_exit_fexit",
        hook: Hook::Fexit,
        since: (5, 11),
        tells: "for trace: calls that end, with results, at the least cost",
        without: "call_exit",
        needed: false,
    },
    Probe {
        name: "call_enter_fentry",
        hook: Hook::Fentry,
        since: (5, 11),
        tells: "for trace: calls that begin, at the least cost",
        without: "call_enter",
        needed: false,
    },
    Probe {
        name: "call_exit_kprobe",
        hook: Hook::Kprobe,
        since: (5, 11),
        tells: "for trace --probes kprobe: calls that end, with results",
        without: "call_exit",
        needed: false,
    },
    Probe {
        name: "call_enter_kprobe",
        hook: Hook::Kprobe,
        since: (5, 11),
        tells: "for trace --probes kprobe: calls that begin",
        without: "call_enter",
        needed: false,
    },
];

/// How the entry and exit of calls are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// Programs at the entry and return of the kernel's function that hands calls out.
    Fentry,
    /// Probes on the kernel's functions that serve calls which can block.
    Kprobe,
    /// The tracepoints at every call's entry and exit.
    Tracepoint,
}

/// Whom calls are followed by, whatever sees them begin and end.
pub const FOLLOW: [&str; 2] = ["call_fork", "call_gone"];
/// The same for single threads, beside those.
pub const FOLLOW_THREADS: &str = "call_exec";
/// For `trace`, the best first. Only tracepoints see calls end that began before: the others take a call's return from its
/// entry. Kprobes take seconds to end, and are used only where they are asked for.
pub const TRACE_ORDER: [Mechanism; 2] = [Mechanism::Tracepoint, Mechanism::Fentry];
/// For an agent, which stays: what costs least first.
pub const AGENT_ORDER: [Mechanism; 2] = [Mechanism::Fentry, Mechanism::Tracepoint];

impl Mechanism {
    /// Its name.
    pub fn label(self) -> &'static str {
        match self {
            Mechanism::Fentry => "fentry",
            Mechanism::Kprobe => "kprobe",
            Mechanism::Tracepoint => "tracepoint",
        }
    }

    /// Its programs, in the order in which they are attached.
    pub fn programs(self) -> [&'static str; 2] {
        match self {
            Mechanism::Fentry => ["call_exit_fexit", "call_enter_fentry"],
            Mechanism::Kprobe => ["call_exit_kprobe", "call_enter_kprobe"],
            Mechanism::Tracepoint => ["call_exit", "call_enter"],
        }
    }
}

/// What stands in the way of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A right, which this process lacks.
    Missing,
    /// The kernel: it is too old, or was built without what the program hooks into.
    Unsupported,
    /// Nothing that is known of: the kernel has it, and refuses the program.
    Broken,
}

impl Trouble {
    /// What a refusal means.
    fn of(probe: &Probe, kernel: (u32, u32), error: &ProgramError, privileged: bool) -> Self {
        // The kernel's own number for what is not supported, which no C library knows (include/linux/errno.h).
        const ENOTSUPP: i32 = 524;
        if kernel < probe.since {
            return Self::Unsupported;
        }
        match error {
            ProgramError::NoPlace(_) => Self::Unsupported,
            ProgramError::NotCompiled(_) => Self::Broken,
            ProgramError::Refused { errno, .. } => match *errno {
                libc::ENOENT | libc::EOPNOTSUPP | ENOTSUPP => Self::Unsupported,
                libc::EPERM | libc::EACCES if !privileged => Self::Missing,
                _ => Self::Broken,
            },
        }
    }

    /// Its name.
    pub fn label(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unsupported => "unsupported",
            Self::Broken => "broken",
        }
    }
}

/// The row of a program.
pub fn find(name: &str) -> Result<&'static Probe> {
    PROBES.iter().find(|probe| probe.name == name).with_context(|| format!("no program is named {name}"))
}

impl Hook {
    /// Its kind, as libraries name sections.
    pub fn mechanism(self) -> &'static str {
        match self {
            Hook::Iter(_) => "iter",
            Hook::Tracepoint(_) => "tp_btf",
            Hook::Fentry => "fentry",
            Hook::Fexit => "fexit",
            Hook::Kprobe => "kprobe",
        }
    }

    /// Kind and place.
    pub fn label(self) -> String {
        match self {
            Hook::Iter(place) | Hook::Tracepoint(place) => format!("{}/{place}", self.mechanism()),
            Hook::Fentry | Hook::Fexit => format!("{}/{DISPATCH}", self.mechanism()),
            Hook::Kprobe => self.mechanism().into(),
        }
    }
}

/// What came of a program: it works, or what stands in its way and the kernel's reason in one line.
pub type ProbeVerdict = Result<(), (Trouble, String)>;

/// Loads and attaches each program and takes it away again.
pub fn try_all() -> Result<Vec<(&'static Probe, ProbeVerdict)>> {
    let options = Options {
        snapshot: true,
        waits: true,
        min_wait: std::time::Duration::MAX,
        report: std::time::Duration::MAX,
        calls: Some(Followed::Threads),
        answers: false,
        verbose: false,
    };
    let mut object = Object::open(&options)?;
    let (kernel, privileged) = (kernel_version(), has_rights());
    // Where threads' slots go by themselves, nothing is to take them away.
    let hash_slots = object.hash_slots;
    let mut one = |probe: &'static Probe| {
        let refused =
            |error: ProgramError| (Trouble::of(probe, kernel, &error, privileged), error.to_string());
        (probe, try_one(&mut object, probe).map_err(refused))
    };
    Ok(PROBES.iter().filter(|probe| probe.name != "exited" || hash_slots).map(&mut one).collect())
}

fn try_one(object: &mut Object, probe: &Probe) -> Result<(), ProgramError> {
    let Object { ebpf, types, .. } = object;
    let types: &Btf = types;
    let program = program(ebpf, probe.name)?;
    match probe.hook {
        Hook::Iter(of) => {
            let iterator: &mut Iter = program.try_into()?;
            iterator.load(of, types)?;
            let link = iterator.attach()?;
            iterator.detach(link)?;
            iterator.unload()?;
        }
        Hook::Tracepoint(name) => {
            let tracepoint: &mut BtfTracePoint = program.try_into()?;
            tracepoint.load(name, types)?;
            let link = tracepoint.attach()?;
            tracepoint.detach(link)?;
            tracepoint.unload()?;
        }
        Hook::Fentry => {
            let fentry: &mut FEntry = program.try_into()?;
            fentry.load(DISPATCH, types)?;
            let link = fentry.attach()?;
            fentry.detach(link)?;
            fentry.unload()?;
        }
        Hook::Fexit => {
            let fexit: &mut FExit = program.try_into()?;
            fexit.load(DISPATCH, types)?;
            let link = fexit.attach()?;
            fexit.detach(link)?;
            fexit.unload()?;
        }
        Hook::Kprobe => {
            let kprobe: &mut KProbe = program.try_into()?;
            kprobe.load()?;
            let function = if cfg!(target_arch = "x86_64") { "__x64_sys_read" } else { "__arm64_sys_read" };
            let no_kprobes = |error| ProgramError::from(error).while_it("no kprobes");
            let link = kprobe.attach(function, 0).map_err(no_kprobes)?;
            kprobe.detach(link)?;
            kprobe.unload()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_program_of_a_mechanism_is_in_the_table_in_that_order() {
        let at = |name: &str| PROBES.iter().position(|probe| probe.name == name);
        for mechanism in [Mechanism::Fentry, Mechanism::Kprobe, Mechanism::Tracepoint] {
            let [exit, enter] = mechanism.programs().map(at);
            assert!(exit.is_some() && exit < enter, "{}", mechanism.label());
        }
        assert!(FOLLOW.iter().chain([&FOLLOW_THREADS]).all(|name| at(name).is_some()));
        assert!(at("exited") < at("newtask") && at("newtask") < at("waits"));
    }

    #[test]
    fn what_stands_in_the_way_is_told_by_version_errno_and_rights() {
        let probe = find("call_exit").expect("it is there");
        let none = || ProgramError::NoPlace(String::new());
        let refused = |errno| ProgramError::Refused { why: String::new(), errno };
        let of = |kernel, error, privileged| Trouble::of(probe, kernel, &error, privileged);
        assert_eq!(of((5, 10), refused(libc::EINVAL), true), Trouble::Unsupported, "too old");
        assert_eq!(of((6, 1), none(), true), Trouble::Unsupported, "no such function");
        assert_eq!(of((6, 1), refused(libc::ENOENT), true), Trouble::Unsupported, "no kprobes");
        assert_eq!(of((6, 1), refused(libc::EPERM), false), Trouble::Missing);
        assert_eq!(of((6, 1), refused(libc::EPERM), true), Trouble::Broken);
        assert_eq!(of((6, 1), refused(libc::EINVAL), true), Trouble::Broken);
        assert_eq!(of((6, 1), ProgramError::NotCompiled("x".into()), true), Trouble::Broken);
    }
}
