//! Does something else under the name of one of the agent's files hold it up? A pipe that nobody writes to would, if it were waited for.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tests::{Agent, Waiter, own_dir, shared, slow, start, tracer};

const PATIENCE: Duration = Duration::from_secs(10);

fn fifo(path: &Path) {
    let name = CString::new(path.as_os_str().as_bytes()).expect("no zero byte");
    // SAFETY: a path, which outlives the call.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0, "{}", std::io::Error::last_os_error());
}

fn dir(name: &str) -> PathBuf {
    let dir = own_dir().join(name);
    fs::create_dir_all(&dir).expect("our own directory");
    dir
}

fn until(agent: &Agent, what: &str, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < slow(PATIENCE), "not {what}\n{}", agent.stderr());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// SIGTERM ends it with 0 within a second.
fn stops_at_once(agent: Agent) {
    let (status, took) = agent.stop(libc::SIGTERM);
    assert!(status.code() == Some(0) && took < slow(Duration::from_secs(1)), "{status} {took:?}");
}

/// Of its state and history: it says so, and does without what they would have told.
#[test]
fn a_state_and_a_history_that_are_pipes_do_not_hold_it_up() {
    let _shared = shared();
    let dir = dir("pipes");
    let (state, history) = (dir.join("state.json"), dir.join("history.redb"));
    fifo(&state);
    fifo(&history);
    let mut agent = Agent::start(&["--threshold", "1s", "--state-dir", dir.to_str().expect("text")]);
    for (file, then) in [(&state, "without its baselines"), (&history, "no history is kept")] {
        let said = agent.stderr();
        let about = |line: &&str| line.contains(file.to_str().expect("text"));
        let line = said.lines().find(about).unwrap_or_default();
        assert!(line.contains("no regular file") && line.contains(then), "{said}");
    }
    let waiter = Waiter::start("recvfrom-tcp4");
    agent.wait_stall("stall_opened", waiter.pid(), PATIENCE);
    // What it writes takes the place of the pipe.
    until(&agent, "written", || {
        fs::read_to_string(&state).is_ok_and(|text| text.contains(&waiter.pid().to_string()))
    });
    assert!(fs::metadata(&history).is_ok_and(|file| file.file_type().is_fifo()), "it is left as it is");
    stops_at_once(agent);
}

/// What it must have to start: an error says which, at once.
#[test]
fn what_it_must_read_at_its_start_is_refused_at_once() {
    let _shared = shared();
    let dir = dir("refused");
    let (config, token, socket) = (dir.join("config"), dir.join("token"), dir.join("agent.sock"));
    let lock = dir.join("agent.sock.lock");
    let run = |args: &[&Path]| {
        let mut command = Command::new(tracer());
        command.args(["agent", "--listen", "127.0.0.1:0", "--state-dir"]).arg(&dir).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut agent = start(command);
        let status = agent.wait(slow(PATIENCE)).unwrap_or_else(|| panic!("{args:?}: it waits"));
        let said = std::io::read_to_string(agent.pipes().stderr.take().expect("piped")).expect("UTF-8");
        assert_eq!(status.code(), Some(1), "{said}");
        said
    };
    let (flag_config, flag_socket) = (Path::new("--config"), Path::new("--socket"));
    for odd in [&config, &token, &lock] {
        fifo(odd);
    }
    let refuses = |said: &str, file: &Path| {
        let last = said.lines().last().unwrap_or_default();
        assert!(last.contains(file.to_str().expect("text")) && last.contains("no regular file"), "{said}");
    };
    refuses(&run(&[flag_config, &config, flag_socket, &socket]), &config);
    let with_token = dir.join("with-token");
    fs::write(&with_token, format!("[agent]\ntoken_file = '{}'\n", token.display())).expect("write");
    refuses(&run(&[flag_config, &with_token, flag_socket, &socket]), &token);
    refuses(&run(&[flag_socket, &socket]), &lock);

    // A token that others could put another in the place of; the error says what to do.
    fs::remove_file(&token).expect("is removed");
    fs::write(&token, "0123456789abcdef\n").expect("write");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).expect("chmod");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("chmod");
    let said = run(&[flag_config, &with_token, flag_socket, &socket]);
    assert!(said.trim_end().ends_with(&format!("chmod go-w {}", dir.display())), "{said}");
}

/// A configuration that has become a pipe by the time it is to be read again: the old one holds, and signals work.
#[test]
fn a_configuration_that_becomes_a_pipe_does_not_hold_it_up() {
    let _shared = shared();
    let config = dir("becomes").join("config");
    fs::write(&config, "").expect("write");
    let agent = Agent::start(&["--config", config.to_str().expect("text")]);
    fs::remove_file(&config).expect("is removed");
    fifo(&config);
    agent.signal(libc::SIGHUP);
    until(&agent, "said", || agent.stderr().contains("what was configured before still holds"));
    assert!(agent.stderr().contains("no regular file"), "{}", agent.stderr());
    assert_eq!(agent.get("/-/healthy").map(|(status, _)| status), Some(200));
    stops_at_once(agent);
}
