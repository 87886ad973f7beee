//! `tracer doctor`: what this host can do, tried for real.

use std::{fs, io::Write, path::Path};

use anyhow::{Result, bail};
use rustix::thread::{CapabilitySet as Cap, capabilities};

use crate::{
    collect::{
        agreement::{self, ComparedValue},
        bpf::Bpf,
    },
    config::cli::{Doctor, SOCKET},
    kernel::{
        btf, object,
        probes::{self, Mechanism, Trouble},
    },
    serve::client::{AgentClient, Refusal},
    util::human,
    util::output::output,
    wire::doctor::{Check, DoctorReport},
    wire::lines,
};

/// The source of whoever may ask the agent, and cannot do better.
const BY_AGENT: &str = "bpf, by the agent";

/// Looks, tries and prints; fails if the main job does not work.
pub fn run(args: &Doctor) -> Result<()> {
    let report = examine();
    let mut out = output();
    if args.json {
        lines::write(&mut out, &report)?;
    } else {
        out.write_all(page(&report).as_bytes())?;
    }
    out.flush()?;
    if report.source == BY_AGENT {
        return Ok(());
    }
    if report.source != "bpf" || !report.agent {
        bail!(
            "ages and the agent need the kernel programs, which do not work here: see above for what is missing"
        );
    }
    Ok(())
}

fn examine() -> DoctorReport {
    let name = rustix::system::uname();
    let mut checks = vec![types(), rights(), namespace(), lockdown(), tracefs()];
    let mut works = [false; 2];
    let mut up: Vec<&str> = Vec::new();
    match probes::try_all() {
        Ok(tried) => {
            let needed = |only: fn(&str) -> bool| {
                tried
                    .iter()
                    .filter(|(probe, _)| probe.needed && only(probe.name))
                    .all(|(_, result)| result.is_ok())
            };
            works = [needed(|name| matches!(name, "snapshot" | "lookup")), needed(|_| true)];
            for (probe, result) in tried {
                let name = format!("{} ({})", probe.name, probe.hook.label());
                checks.push(match result {
                    Ok(()) => {
                        up.push(probe.name);
                        Check { name, state: "ok", found: probe.tells.into(), without: None }
                    }
                    Err((trouble, why)) => Check {
                        name,
                        state: trouble.label(),
                        found: why,
                        without: Some(instead(probe.without, probe.since, trouble)),
                    },
                });
            }
        }
        Err(why) => checks.push(Check {
            name: "kernel programs".into(),
            state: "missing",
            found: format!("{why:#}"),
            without: Some("`ps` and `why` read /proc".into()),
        }),
    }
    if works[0] {
        checks.push(values());
    }
    let (asked, answers) = agent();
    checks.push(asked);
    let follows = |by: &Mechanism| by.programs().iter().chain(&probes::FOLLOW).all(|name| up.contains(name));
    let by = [probes::TRACE_ORDER.as_slice(), &[Mechanism::Kprobe]].concat();
    let mut trace: Vec<&'static str> =
        by.into_iter().filter(follows).map(Mechanism::label).filter(|_| works[0]).collect();
    if works[1] {
        trace.push("waits");
    }
    // As `ps` chooses: root asks the agent only where it cannot look itself, others ask first.
    let root = rustix::process::geteuid().is_root();
    let source = match (works[0], answers) {
        (true, true) if !root => BY_AGENT,
        (true, _) => "bpf",
        (false, true) => BY_AGENT,
        (false, false) => "proc",
    };
    DoctorReport {
        version: env!("CARGO_PKG_VERSION"),
        kernel: name.release().to_string_lossy().into_owned(),
        machine: name.machine().to_string_lossy().into_owned(),
        checks,
        source,
        // Without context switches it sees calls end.
        agent: trace.iter().any(|by| *by != "kprobe"),
        trace,
    }
}

/// What is to be done without a program.
fn instead(without: &str, (major, minor): (u32, u32), trouble: Trouble) -> String {
    let too_old = trouble == Trouble::Unsupported && object::kernel_version() < (major, minor);
    if too_old { format!("{without} (Linux {major}.{minor} has it)") } else { without.to_owned() }
}

/// Whether an agent answers this user.
fn agent() -> (Check, bool) {
    let name = "running agent".into();
    let client = AgentClient::connect(Path::new(SOCKET));
    let answers = client.is_ok();
    let (state, found, without) = match client {
        Ok(_) => ("ok", format!("answers on {SOCKET}"), None),
        Err(Refusal::Denied(why)) => ("missing", why, Some("ask to be made a member of that group".into())),
        Err(Refusal::Absent) => ("ok", "none, and none is needed".to_owned(), None),
    };
    (Check { name, state, found, without }, answers)
}

/// It is where perf and others find their probes; nothing here needs it.
fn tracefs() -> Check {
    let dirs = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
    let mounted = dirs.into_iter().find(|dir| fs::metadata(format!("{dir}/trace")).is_ok());
    let found = mounted
        .map_or_else(|| "not mounted, or closed to this user".to_owned(), |dir| format!("mounted on {dir}"));
    Check { name: "tracefs".into(), state: "ok", found: format!("{found}; not needed"), without: None }
}

/// Whether the programs read what `/proc` shows.
fn values() -> Check {
    let name = "what is read".into();
    let values = Bpf::once().and_then(|mut bpf| agreement::values(&mut bpf));
    let (state, found) = match &values {
        Ok(values) => {
            let wrong: Vec<String> = values
                .iter()
                .filter(|value| value.read != value.shown)
                .map(|ComparedValue { name, read, shown }| format!("{name} is {shown} and read as {read}"))
                .collect();
            match wrong.is_empty() {
                true => ("ok", format!("{} values are as /proc shows them", values.len())),
                false => ("missing", wrong.join("; ")),
            }
        }
        Err(error) => ("missing", format!("{error:#}")),
    };
    let without =
        (state != "ok").then(|| "do not trust its output on this host, and report this as a bug".into());
    Check { name, state, found, without }
}

fn types() -> Check {
    let name = "kernel types (BTF)".into();
    let path = btf::file().display();
    match fs::metadata(btf::file()) {
        Ok(file) => {
            let found = format!("{path}, {:.1} MiB", file.len() as f64 / f64::from(1 << 20));
            Check { name, state: "ok", found, without: None }
        }
        Err(error) => Check {
            name,
            state: "missing",
            found: format!("{path}: {error}"),
            without: Some("a kernel with CONFIG_DEBUG_INFO_BTF, or its types in a file: --btf FILE".into()),
        },
    }
}

fn rights() -> Check {
    let held = capabilities(None).map(|sets| sets.effective).unwrap_or(Cap::empty());
    let needed = [
        (Cap::BPF, "CAP_BPF", "the kernel programs"),
        (Cap::PERFMON, "CAP_PERFMON", "the kernel programs"),
        (Cap::SYS_PTRACE, "CAP_SYS_PTRACE", "other users' processes"),
    ];
    let admin = held.contains(Cap::SYS_ADMIN);
    let has = |cap: &Cap| held.contains(*cap) || admin && (*cap == Cap::BPF || *cap == Cap::PERFMON);
    let missing: Vec<String> = needed
        .iter()
        .filter(|(cap, ..)| !has(cap))
        .map(|(_, name, what)| format!("{name} ({what})"))
        .collect();
    let name = "rights".into();
    if missing.is_empty() {
        let found = match held.contains(Cap::DAC_READ_SEARCH) {
            true => "all that are needed",
            false => "all that are needed; the names of other users' files need CAP_DAC_READ_SEARCH as well",
        };
        return Check { name, state: "ok", found: found.into(), without: None };
    }
    let found = format!("lacks {}", missing.join(", "));
    Check { name, state: "missing", found, without: Some("run it as root".into()) }
}

fn namespace() -> Check {
    let name = "PID namespace".into();
    match fs::read_link("/proc/self/ns/pid") {
        // The initial one's inode number is fixed (PROC_PID_INIT_INO, include/linux/proc_ns.h).
        Ok(link) if link.as_os_str() == "pid:[4026531836]" => {
            Check { name, state: "ok", found: "the host's".into(), without: None }
        }
        Ok(_) => Check {
            name,
            state: "missing",
            found: "a container's own".into(),
            without: Some("run it with the host's (hostPID, --pid=host)".into()),
        },
        Err(error) => {
            Check { name, state: "missing", found: error.to_string(), without: Some("mount /proc".into()) }
        }
    }
}

fn lockdown() -> Check {
    let mode = object::lockdown();
    let name = "lockdown".into();
    match mode.as_str() {
        "confidentiality" => Check {
            name,
            state: "missing",
            found: mode,
            without: Some("boot with lockdown=integrity, so that programs may read kernel memory".into()),
        },
        _ => Check { name, state: "ok", found: mode, without: None },
    }
}

fn page(report: &DoctorReport) -> String {
    let mut page = format!("tracer {} on Linux {}, {}\n\n", report.version, report.kernel, report.machine);
    let width = report.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    for check in &report.checks {
        let line = format!("{:11}  {:width$}  {}", check.state, check.name, check.found);
        page += human::clean(&line).trim_end();
        page.push('\n');
        if let Some(without) = &check.without {
            page += &format!("{:11}  {:width$}    instead: {}\n", "", "", human::clean(without));
        }
    }
    let agent = if report.agent { "works" } else { "does not work" };
    page += &format!(
        "\nps and why use the source {}; the agent {agent}; trace sees calls by {}.\n",
        report.source,
        if report.trace.is_empty() { "nothing".to_owned() } else { report.trace.join(" or ") }
    );
    page
}
