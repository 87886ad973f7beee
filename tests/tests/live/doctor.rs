//! Does `doctor` say what this host can do, and is it true?

use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use serde_json::Value;
use tests::{Agent, NOBODY, shared, tracer};

fn doctor(command: &mut Command) -> (Option<i32>, Value, String) {
    let Output { status, stdout, stderr } =
        command.args(["doctor", "--json"]).output().expect("tracer starts");
    let report = serde_json::from_slice(&stdout).expect("one object");
    (status.code(), report, String::from_utf8(stderr).expect("UTF-8"))
}

fn state<'a>(report: &'a Value, name: &str) -> &'a str {
    let checks = report["checks"].as_array().expect("a list");
    let check = checks.iter().find(|check| check["name"].as_str().is_some_and(|text| text.starts_with(name)));
    check.and_then(|check| check["state"].as_str()).unwrap_or_else(|| panic!("nothing of {name}: {report:#}"))
}

/// As root the main job works, and what it says of each program is what the agent finds.
#[test]
fn root_can_do_the_main_job() {
    let _shared = shared();
    let (code, report, stderr) = doctor(&mut Command::new(tracer()));
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{report:#}");
    assert_eq!((&report["source"], &report["agent"]), (&"bpf".into(), &true.into()), "{report:#}");
    // The offsets of fields are this kernel's: what is read through them is what `/proc` shows.
    let checks = report["checks"].as_array().expect("a list");
    let read = checks.iter().find(|check| check["name"] == "what is read").expect("it is checked");
    assert_eq!(read["state"], "ok", "{read:#}");
    let number = read["found"].as_str().and_then(|text| text.split(' ').next()?.parse::<u32>().ok());
    assert!(number.is_some_and(|number| number >= 70), "{read:#}");
    let agent = Agent::start(&[]);
    let probes = agent.samples("tracer_probe_up", &[]);
    assert!(probes.len() >= 5, "{probes:?}");
    for probe in probes {
        let works = state(&report, &format!("{} (", probe.label("probe"))) == "ok";
        assert_eq!(works, probe.value == 1.0, "{}: {report:#}", probe.label("probe"));
    }
}

/// What README says suffices is said to suffice, and does.
#[test]
fn the_rights_that_suffice_are_said_to() {
    let caps = "-all,+bpf,+perfmon,+sys_ptrace";
    let with_rights = |program: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &NOBODY.to_string(), "--clear-groups"]);
        command.args(["--inh-caps", caps, "--ambient-caps", caps]).args(program);
        command
    };
    if with_rights(&["--", "true"]).status().is_ok_and(|status| status.success()) {
        let (code, report, stderr) = doctor(with_rights(&[]).arg(tracer()));
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{report:#}");
        assert_eq!((&report["source"], &report["agent"]), (&"bpf".into(), &true.into()), "{report:#}");
        for name in ["rights", "tracefs", "running agent"] {
            assert_eq!(state(&report, name), "ok", "{report:#}");
        }
    } else {
        tests::unsupported("it has no setpriv(1)");
    }
}

/// An ordinary user is told what is missing, in one line each, and the command fails.
#[test]
fn an_ordinary_user_is_told_what_is_missing() {
    let mut command = Command::new(tracer());
    command.uid(NOBODY).gid(NOBODY);
    let (code, report, stderr) = doctor(&mut command);
    assert_eq!(
        (code, &report["source"], &report["agent"]),
        (Some(1), &"proc".into(), &false.into()),
        "{report:#}"
    );
    assert_eq!(state(&report, "rights"), "missing", "{report:#}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}
