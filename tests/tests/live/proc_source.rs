//! Does `/proc` alone tell the same, and does `ps` say why it had to do? Where the kernel programs cannot be had: without
//! rights, without the kernel's types, under lockdown.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use serde_json::Value;
use tests::{
    NOBODY, Running, Waiter, age_tolerance, is_footer, own_dir, parse_rfc3339_ns, ps, seconds_between,
    shared, start, tracer, unsupported, with_few,
};

use crate::aged::{ROLES, old_waiter, stolen_meanwhile};

/// What both sources show of each waiter; the waiters stay as they are meanwhile.
#[test]
fn both_sources_agree() {
    // A 32-bit call of a 64-bit program is not to be told from one of its own.
    let roles = ROLES.iter().filter(|&&role| role != "i386-read");
    let waiters: Vec<(&str, &Waiter)> = roles.filter_map(|role| Some((*role, old_waiter(role)?))).collect();
    // One look of each source at all of them: an emulated machine takes seconds for a look.
    let mut args = ["--all", "--min-age", "0s"].map(str::to_owned).to_vec();
    args.extend(waiters.iter().flat_map(|(_, waiter)| ["-p".to_owned(), waiter.pid().to_string()]));
    let look = |source| {
        let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
        args.extend(["--source", source]);
        ps(&args)
    };
    let (by_bpf, by_proc) = (look("bpf"), look("proc"));
    let stolen = stolen_meanwhile();
    let mut blind_to = Vec::new();
    for (role, waiter) in waiters {
        let (bpf, proc) = (by_bpf.row(waiter.tid()), by_proc.row(waiter.tid()));
        let context = format!("{role}:\nbpf {bpf:#}\nproc {proc:#}");
        for name in ["pid", "tid", "comm", "cmdline", "uid", "state", "syscall", "args", "fd", "cgroup"] {
            assert_eq!(bpf[name], proc[name], "{name} of {context}");
        }
        let since = |row: &Value| parse_rfc3339_ns(row["since"].as_str().expect("a time"));
        let off = seconds_between(since(bpf), since(proc));
        // A window that is shut is tried between the two looks, and a byte may get in.
        let tried = if bpf["class"] == "send" { 1.5 } else { 0.0 };
        let most = 2.0 * age_tolerance() + stolen + tried;
        // Old kernels' diagnostics do not say when the last byte moved: by `/proc` it is at least since the call began.
        let is_lower_bound = proc["verdict"].as_str().is_some_and(|verdict| verdict.contains(" at least "));
        let latest = seconds_between(waiter.begun_ns(), waiter.number("called_ns").into()) + most;
        let agree = off.abs() < most || is_lower_bound && (0.0..latest).contains(&off) || is_moved(waiter);
        assert!(agree, "off by {off:.3} s of {most:.3}: since of {context}");
        let blind = is_blind(&bpf["target"], &proc["target"]);
        let mut both = vec!["inode"];
        if !(blind && bpf["target"]["kind"] == "unix") {
            let more =
                ["kind", "local", "remote", "path", "state", "deleted", "name", "address", "unacknowledged"];
            both.extend(more);
        }
        for name in both {
            assert_eq!(bpf["target"][name], proc["target"][name], "the target's {name} of {context}");
        }
        if blind {
            blind_to.push(role);
            continue;
        }
        for name in ["bytes_sent", "bytes_received", "retransmits", "peer_inode"] {
            // An attempt to connect is repeated meanwhile.
            if name == "retransmits" && bpf["class"] == "connect" {
                continue;
            }
            assert_eq!(bpf["target"][name], proc["target"][name], "the target's {name} of {context}");
        }
        for name in ["class", "level"] {
            assert_eq!(bpf[name], proc[name], "{name} of {context}");
        }
    }
    if !blind_to.is_empty() {
        unsupported(&format!(
            "its socket diagnostics are a module that is not there: stamps and peers of {} are not to be seen",
            blind_to.join(", ")
        ));
    }
}

/// Whether the kernel has moved a sleeping thread to another CPU, and forgotten when it last ran: since Linux 6.12 it may.
fn is_moved(waiter: &Waiter) -> bool {
    let sched = fs::read(format!("/proc/{}/task/{}/sched", waiter.pid(), waiter.tid())).unwrap_or_default();
    let sched = String::from_utf8_lossy(&sched);
    let line = sched.lines().rev().find(|line| line.starts_with("se.exec_start"));
    line.is_some_and(|line| line.ends_with(" 0.000000"))
}

/// Whether `/proc` has only the tables: no stamps of a connection on which something was sent, no peer of a unix socket.
fn is_blind(bpf: &Value, proc: &Value) -> bool {
    ["sent_seconds", "received_seconds", "peer_inode"]
        .iter()
        .any(|name| !bpf[*name].is_null() && proc[*name].is_null())
}

/// What `ps` prints for people, and the lines after the table.
fn page(command: &mut Command) -> (String, Vec<String>) {
    let output = command.output().expect("tracer starts");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let footer = text.lines().skip_while(|line| !is_footer(line)).map(ToOwned::to_owned).collect();
    (text, footer)
}

/// A process of an ordinary user that waits for a line from us.
fn reader() -> Running {
    let mut command = Command::new("cat");
    command.uid(NOBODY).gid(NOBODY).stdin(Stdio::piped()).stdout(Stdio::null());
    let reader = start(command);
    std::thread::sleep(std::time::Duration::from_millis(2_500));
    reader
}

fn as_nobody(args: &[&str]) -> Command {
    let mut command = Command::new(tracer());
    command.args(args).uid(NOBODY).gid(NOBODY);
    command
}

#[test]
fn an_ordinary_user_sees_its_own_and_is_told_why_not_more() {
    let _shared = shared();
    let (own, other) = (reader(), old_waiter("read-pipe").expect("every kernel has pipes"));
    let (own, other) = (own.pid().to_string(), other.pid().to_string());
    let (text, footer) = page(&mut as_nobody(&["ps", "--all", "-p", &own, "-p", &other]));
    assert!(text.contains(&format!("{own}  cat")) && text.contains("read(0)"), "{text}");
    assert!(!text.contains(&other), "{text}");
    assert_eq!(footer.len(), 2, "{text}");
    assert!(footer[0].ends_with("seen through /proc.") && footer[1].contains("CAP_BPF"), "{text}");
}

/// With Yama's mode 1 nobody may attach a debugger to what is not a child, and `/proc/PID/syscall` is closed.
#[test]
fn where_calls_are_kept_from_their_owner() {
    const SCOPE: &str = "/proc/sys/kernel/yama/ptrace_scope";
    let _few = with_few();
    let Ok(before) = fs::read_to_string(SCOPE) else { return unsupported("it has no Yama") };
    let own = reader();
    fs::write(SCOPE, "1").expect("root may");
    let result =
        std::panic::catch_unwind(|| page(&mut as_nobody(&["ps", "--all", "-p", &own.pid().to_string()])));
    fs::write(SCOPE, before).expect("root may");
    let (text, footer) = result.expect("ps runs");
    let function = fs::read_to_string(format!("/proc/{}/wchan", own.pid())).expect("root may");
    // Some kernels show nobody where a thread sleeps.
    let call = if function == "0" { "unknown" } else { "read" };
    assert!(text.contains("cat") && text.contains(call), "{function}: {text}");
    assert!(footer.len() == 2 && footer[1].contains("Yama"), "{text}");
}

/// The kernel's types from a file, and from one that is not there.
#[test]
fn types_come_from_a_file() {
    let file = own_dir().join("types");
    let ps = |file: &std::path::Path| page(Command::new(tracer()).args(["ps", "--btf"]).arg(file));
    let (text, footer) = ps(&file);
    assert!(footer.len() == 2 && footer[0].ends_with("seen through /proc."), "{text}");
    let why = lacks().unwrap_or_else(|| "cannot read the kernel's types from".into());
    assert!(footer[1].contains(&why), "{text}");
    if lacks().is_none() {
        fs::copy("/sys/kernel/btf/vmlinux", &file).expect("the kernel shows its types");
        let (text, footer) = ps(&file);
        assert!(footer.len() == 1 && !footer[0].contains("/proc"), "{text}");
    }
}

/// What the machine was made without, in a word that the reason must have.
fn lacks() -> Option<String> {
    std::env::var("TRACER_TESTS_LACK").ok()
}

/// On a machine that lacks nothing `ps` uses the kernel programs; on one that does, one line says what.
#[test]
fn a_footer_says_what_this_machine_lacks() {
    let waiter = old_waiter("read-pipe").expect("every kernel has pipes");
    let (text, footer) = page(Command::new(tracer()).args(["ps", "--all", "-p", &waiter.pid().to_string()]));
    assert!(text.contains(&format!("{}  waiter", waiter.pid())) && text.contains("read("), "{text}");
    match lacks() {
        None => assert!(footer.len() == 1 && !footer[0].contains("/proc"), "{text}"),
        Some(what) => {
            assert!(footer.len() == 2 && footer[0].ends_with("seen through /proc."), "{text}");
            assert!(footer[1].contains(&what), "{text}");
        }
    }
}
