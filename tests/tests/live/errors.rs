//! Are failures one line that says what to do, with the right exit code, and is a closed pipe no failure?

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use tests::{NOBODY, own_dir, tracer};

/// tracer where everybody may run it: a checkout often lies where only root may look.
fn public_tracer() -> &'static PathBuf {
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    COPY.get_or_init(|| {
        std::fs::set_permissions(own_dir(), PermissionsExt::from_mode(0o755)).expect("chmod");
        let copy = own_dir().join("tracer-for-everybody");
        std::fs::copy(tracer(), &copy).expect("copy");
        std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o755)).expect("chmod");
        copy
    })
}

/// Runs tracer as nobody: exit 1, one line on standard error, which is returned, and nothing on standard output.
fn refused(args: &[&str]) -> String {
    let mut command = Command::new(public_tracer());
    command.args(args).uid(NOBODY).gid(NOBODY).current_dir("/");
    let Output { status, stdout, stderr } = loop {
        match command.output() {
            // A child that another test forked while the copy was written has it open until it execs.
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            output => break output.expect("tracer starts"),
        }
    };
    let stderr = String::from_utf8(stderr).expect("UTF-8");
    assert_eq!(status.code(), Some(1), "{args:?}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
    assert_eq!(String::from_utf8_lossy(&stdout), "", "{args:?}");
    stderr
}

#[test]
fn the_agent_needs_root_and_says_so() {
    let line = refused(&["agent", "--listen", "127.0.0.1:0"]);
    assert!(line.contains("CAP_BPF") || line.contains("root"), "{line}");
}

#[test]
fn the_bpf_source_needs_root_and_says_so() {
    let line = refused(&["ps", "--source", "bpf"]);
    assert!(line.contains("CAP_BPF") || line.contains("root"), "{line}");
}

#[test]
fn a_wrong_flag_exits_2() {
    for args in [&["ps", "--no-such-flag"][..], &["agent", "--threshold", "soon"], &["no-such-command"]] {
        let Output { status, stdout, stderr } = Command::new(tracer()).args(args).output().expect("starts");
        assert_eq!(status.code(), Some(2), "{args:?}: {}", String::from_utf8_lossy(&stderr));
        assert!(!stderr.is_empty() && stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn head_makes_no_noise() {
    let script = r#""$0" ps --all --min-age 0s | head -n 1"#;
    let output = Command::new("sh").arg("-c").arg(script).arg(tracer()).output().expect("sh starts");
    assert!(output.status.success(), "{}", output.status);
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 1);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

/// The reader is gone before the first byte: the write fails for certain, with head it may not.
#[test]
fn a_closed_pipe_makes_no_noise() {
    for args in [&["ps", "--all"][..], &["ps", "--all", "--json"], &["--help"]] {
        let mut command = Command::new(tracer());
        command.args(args).stdout(closed_pipe()).stderr(Stdio::piped());
        let output = command.spawn().and_then(std::process::Child::wait_with_output).expect("tracer starts");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
        assert_ne!(output.status.code(), Some(101), "a panic: {args:?}");
    }
}

/// The agent's process ignores the signal that ends the others, so that this is told from the error.
#[test]
fn a_configuration_that_nobody_reads_of_is_no_failure() {
    let mut command = Command::new(tracer());
    command.args(["agent", "--check-config"]).stdout(closed_pipe()).stderr(Stdio::piped());
    let output = command.spawn().and_then(std::process::Child::wait_with_output).expect("tracer starts");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.status.success(), "{}", output.status);
}

/// The write end of a pipe that nobody can read.
fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    Stdio::from(writer)
}
