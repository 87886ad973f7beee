//! The one table of kernel programs: what each hooks into, since which kernel, what takes its place and what is lost
//! without it; and trying each for real.

use anyhow::{Context, Result};
use aya::{
    Btf,
    programs::{BtfTracePoint, FEntry, FExit, Iter, KProbe},
};

use super::{
    calls::DISPATCH,
    load::{explain, program},
    object::{Followed, Object, Options},
};

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
    /// The first kernel that takes it.
    pub since: &'static str,
    /// What it tells.
    pub tells: &'static str,
    /// What takes its place, and what is lost.
    pub without: &'static str,
    /// `ps`, `why` and `agent` need it.
    pub needed: bool,
}

/// All of them, but for what takes their place on Linux 5.10.
pub const PROBES: &[Probe] = &[
    Probe {
        name: "snapshot",
        hook: Hook::Iter("task"),
        since: "5.8",
        tells: "what waits now, since when",
        without: "/proc, which does not say since when",
        needed: true,
    },
    Probe {
        name: "lookup",
        hook: Hook::Iter("task"),
        since: "5.8",
        tells: "what the fds of poll, select and epoll are",
        without: "their names in /proc, without connections",
        needed: true,
    },
    Probe {
        name: "holders",
        hook: Hook::Iter("task_file"),
        since: "5.8",
        tells: "who is at the other end",
        without: "peers and holders are not named",
        needed: false,
    },
    Probe {
        name: "waits",
        hook: Hook::Tracepoint("sched_switch"),
        since: "5.5",
        tells: "how long waits took, when they end",
        without: "the agent does not run",
        needed: true,
    },
    Probe {
        name: "newtask",
        hook: Hook::Tracepoint("task_newtask"),
        since: "5.5",
        tells: "threads that begin",
        without: "the agent does not run",
        needed: true,
    },
    Probe {
        name: "call_enter_fentry",
        hook: Hook::Fentry,
        since: "6.9, and 6.1.85 and 6.6.26 of the older series, on x86-64",
        tells: "for trace: calls that begin, at the least cost",
        without: "call_enter",
        needed: false,
    },
    Probe {
        name: "call_exit_fexit",
        hook: Hook::Fexit,
        since: "6.9, and 6.1.85 and 6.6.26 of the older series, on x86-64",
        tells: "for trace: calls that end, with results, at the least cost",
        without: "call_exit",
        needed: false,
    },
    Probe {
        name: "call_enter_kprobe",
        hook: Hook::Kprobe,
        since: "5.11",
        tells: "for trace --probes kprobe: calls that begin",
        without: "call_enter",
        needed: false,
    },
    Probe {
        name: "call_exit_kprobe",
        hook: Hook::Kprobe,
        since: "5.11",
        tells: "for trace --probes kprobe: calls that end, with results",
        without: "call_exit",
        needed: false,
    },
    Probe {
        name: "call_enter",
        hook: Hook::Tracepoint("sys_enter"),
        since: "5.11",
        tells: "for trace: calls that begin",
        without: "context switches, without results",
        needed: false,
    },
    Probe {
        name: "call_exit",
        hook: Hook::Tracepoint("sys_exit"),
        since: "5.11",
        tells: "for trace: calls that end, with results",
        without: "context switches, without results",
        needed: false,
    },
];

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

/// Loads and attaches each program and takes it away again: what the kernel says of it, in one line.
pub fn try_all() -> Result<Vec<(&'static Probe, Result<(), String>)>> {
    let options = Options {
        waits: true,
        min_wait: std::time::Duration::MAX,
        report: std::time::Duration::MAX,
        calls: Some(Followed::Chosen),
        verbose: false,
    };
    let mut object = Object::open(&options)?;
    let mut one =
        |probe: &'static Probe| (probe, try_one(&mut object, probe).map_err(|error| format!("{error:#}")));
    Ok(PROBES.iter().map(&mut one).collect())
}

fn try_one(object: &mut Object, probe: &Probe) -> Result<()> {
    let Object { ebpf, types, .. } = object;
    let types: &Btf = types;
    let program = program(ebpf, probe.name)?;
    match probe.hook {
        Hook::Iter(of) => {
            let iterator: &mut Iter = program.try_into()?;
            iterator.load(of, types).map_err(explain)?;
            let link = iterator.attach().map_err(explain)?;
            iterator.detach(link).map_err(explain)?;
            iterator.unload().map_err(explain)
        }
        Hook::Tracepoint(name) => {
            let tracepoint: &mut BtfTracePoint = program.try_into()?;
            tracepoint.load(name, types).map_err(explain)?;
            let link = tracepoint.attach().map_err(explain)?;
            tracepoint.detach(link).map_err(explain)?;
            tracepoint.unload().map_err(explain)
        }
        Hook::Fentry => {
            let fentry: &mut FEntry = program.try_into()?;
            fentry.load(DISPATCH, types).map_err(explain)?;
            let link = fentry.attach().map_err(explain)?;
            fentry.detach(link).map_err(explain)?;
            fentry.unload().map_err(explain)
        }
        Hook::Fexit => {
            let fexit: &mut FExit = program.try_into()?;
            fexit.load(DISPATCH, types).map_err(explain)?;
            let link = fexit.attach().map_err(explain)?;
            fexit.detach(link).map_err(explain)?;
            fexit.unload().map_err(explain)
        }
        Hook::Kprobe => {
            let kprobe: &mut KProbe = program.try_into()?;
            kprobe.load().map_err(explain)?;
            let function = if cfg!(target_arch = "x86_64") { "__x64_sys_read" } else { "__arm64_sys_read" };
            let link = kprobe.attach(function, 0).map_err(explain).context("no kprobes")?;
            kprobe.detach(link).map_err(explain)?;
            kprobe.unload().map_err(explain)
        }
    }
}
