//! Does tracer end, see and tell while a file system's server does not answer? A real FUSE mount, and processes that hang on it
//! in every way there is.
//!
//! Whatever fails here, the mount is let go first: see `tests::HungMount`.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{
    ANY_PORT, Agent, Family, HungMount, Planted, Running, SECOND_NS, Waiter, address_of, alone, http,
    own_dir, realtime_ns, slow, slowness, start, tracer, unused_id,
};

use crate::top::Terminal;

/// What a command may take, whatever hangs.
const COMMAND: Duration = Duration::from_secs(2);
/// What "at once" means: the machine may be loaded.
const AT_ONCE: Duration = Duration::from_secs(1);
const THRESHOLD: &str = "3s";
/// A stall is flagged so long after its wait began at the latest.
const FLAGGED: Duration = Duration::from_secs(3 + 5);
const PATIENCE: Duration = Duration::from_secs(20);
/// More readers at a time than this are not "a few".
const FEW: usize = 8;

/// How a server stops answering.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// It takes requests: who waits cannot be killed.
    Took,
    /// It does not run: who waits can be killed, and mostly interrupted.
    Stopped,
}

/// Everything that hangs while it looks up a path.
const CALLS: &[&str] = &["open", "stat", "statfs", "chdir", "execve"];

/// A mount that has stopped answering, and who hangs on it.
fn hang(fault: Fault, roles: &[&str]) -> Option<(HungMount, Vec<Planted>)> {
    let mount = HungMount::start()?;
    prepare(&mount, roles);
    let planted = begin(&mount, fault);
    Some((mount, planted))
}

/// One waiter a role, each on a file of its own, but for df, which asks of the mount.
fn prepare(mount: &HungMount, roles: &[&str]) {
    for (number, role) in roles.iter().enumerate() {
        match *role {
            "df" => mount.prepare("statfs", mount.path()),
            role => mount.prepare(role, &mount.file(number)),
        }
    }
}

fn begin(mount: &HungMount, fault: Fault) -> Vec<Planted> {
    match fault {
        Fault::Took => mount.hang(),
        Fault::Stopped => mount.stop(),
    }
    let planted = mount.begin();
    assert_eq!(mount.woken(), [""; 0], "they hang");
    if matches!(fault, Fault::Took) && !planted.is_empty() {
        assert!(mount.held() > 0, "the server has taken requests");
    }
    planted
}

/// What all of this rests on: who waits sleeps as it does on a real one, SIGKILL ends it or not, and whoever is left is let go.
#[test]
fn the_mount_hangs_as_it_is_told_to() {
    let _alone = alone();
    for (fault, can_be_killed) in [(Fault::Took, false), (Fault::Stopped, true)] {
        let Some((mount, planted)) = hang(fault, EVERYTHING) else { return };
        let state = |planted: &Planted| {
            let status = fs::read_to_string(format!("/proc/{}/status", planted.pid)).unwrap_or_default();
            status.lines().find_map(|line| line.strip_prefix("State:")?.trim().chars().next())
        };
        for one in planted.iter().filter(|planted| matches!(&*planted.role, "fault" | "write")) {
            assert_eq!(state(one), Some('D'), "{}: a page that does not come", one.role);
        }
        let open = &planted[0];
        // SAFETY: kill takes two numbers; the process is waited for only when the mount is let go.
        assert_eq!(unsafe { libc::kill(open.pid as libc::pid_t, libc::SIGKILL) }, 0);
        sleep(slow(AT_ONCE));
        assert_eq!(state(open), Some(if can_be_killed { 'Z' } else { 'D' }), "{fault:?}");
        mount.answer();
        let begin = Instant::now();
        let mut woken = 0;
        // The killed one says nothing more; the set of descriptors waits for a pipe.
        while woken < planted.len() - 2 {
            assert!(begin.elapsed() < slow(PATIENCE), "{woken} of {} go on", planted.len());
            woken += mount.woken().len();
            sleep(Duration::from_millis(20));
        }
        let path = mount.path().to_owned();
        drop(mount);
        let mounts = fs::read_to_string("/proc/mounts").expect("/proc");
        assert!(!mounts.contains(path.to_str().expect("text")), "{mounts}");
    }
}

/// `ps`, `why` and `top` end, of whomever they are asked.
fn commands_end(mount: &HungMount, planted: &[Planted]) {
    // Of all these tests: it hangs elsewhere, and grows old once.
    static CLIENT: LazyLock<Waiter> = LazyLock::new(|| Waiter::start("poll-tcp4"));
    let client = &*CLIENT;
    client.until_age(1.5);
    let at_most = slow(COMMAND);
    for args in [
        &["ps"][..],
        &["ps", "--all"],
        &["ps", "--json", "--all", "--min-age", "0s"],
        &["ps", "--source", "proc"],
        &["ps", "--source", "proc", "--all"],
    ] {
        let ended = mount.run(args, at_most);
        assert_eq!(ended.code, Some(0), "{args:?}: {}", ended.stderr);
        // What hangs elsewhere is seen as ever, by whatever source.
        assert!(ended.stdout.contains(&client.pid().to_string()), "{args:?}:\n{}", ended.stdout);
    }
    let client_is_stuck = |page: &str| page.starts_with(&format!("waiter (pid {}) is stuck", client.pid()));
    let ended = mount.run(&["why", &client.pid().to_string()], at_most);
    assert!(client_is_stuck(&ended.stdout), "{}{}", ended.stdout, ended.stderr);
    let roles: BTreeSet<&str> = planted.iter().map(|planted| &*planted.role).collect();
    for role in roles {
        let one = planted.iter().find(|planted| planted.role == role).expect("it is of them");
        let ended = mount.run(&["why", &one.pid.to_string()], at_most);
        assert!(ended.stdout.contains(&one.pid.to_string()), "{role}: {}{}", ended.stdout, ended.stderr);
    }
    // The mount's server itself, which is in no call of the mount.
    mount.run(&["why", &mount.server().to_string()], at_most);

    let mut top = Terminal::start(200, 50, &[]);
    let shown = |text: &str| text.split_whitespace().any(|word| word == client.pid().to_string());
    top.wait("the client", shown);
    top.press("q");
    assert!(top.top.wait(at_most).is_some(), "top runs {at_most:?} after q");
}

#[test]
fn commands_end_when_a_server_has_taken_requests() {
    let _alone = alone();
    let Some((mount, planted)) = hang(Fault::Took, CALLS) else { return };
    commands_end(&mount, &planted);
}

#[test]
fn commands_end_when_a_server_is_stopped() {
    let _alone = alone();
    let Some((mount, planted)) = hang(Fault::Stopped, CALLS) else { return };
    commands_end(&mount, &planted);
}

#[test]
fn commands_end_beside_two_dozen_df() {
    let _alone = alone();
    for fault in [Fault::Took, Fault::Stopped] {
        let Some((mount, planted)) = hang(fault, &["df"; 24]) else { return };
        commands_end(&mount, &planted);
    }
}

/// Pages of a file there: one that is read, one that is written elsewhere, and one that a set of descriptors lies in.
#[test]
fn commands_end_when_a_mapping_does_not_come() {
    let _alone = alone();
    for fault in [Fault::Took, Fault::Stopped] {
        let Some((mount, planted)) = hang(fault, &["fault", "write", "poll"]) else { return };
        commands_end(&mount, &planted);
    }
}

/// One that is inside `execve`, where the kernel closes a file there, keeps whoever reads its `stat`, `wchan` or `maps` waiting.
#[test]
fn commands_end_when_a_program_is_stuck_in_its_start() {
    let _alone = alone();
    for fault in [Fault::Took, Fault::Stopped] {
        let Some((mount, planted)) = hang(fault, &["exec-closing"]) else { return };
        commands_end(&mount, &planted);
    }
}

#[test]
fn a_signal_ends_a_command_at_once() {
    let _alone = alone();
    let Some((mount, planted)) = hang(Fault::Took, &["open", "stat", "write", "exec-closing"]) else {
        return;
    };
    let pids: Vec<String> = planted.iter().map(|planted| planted.pid.to_string()).collect();
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGKILL] {
        for after in [50, 400].map(Duration::from_millis).map(slow) {
            for args in [&["ps"][..], &["ps", "--all"], &["why", &pids[0]], &["why", &pids[3]]] {
                mount.interrupt(args, after, signal, slow(AT_ONCE));
            }
        }
        // What it follows began before it, and it looks at it all the same.
        let after = slow(Duration::from_millis(1_500));
        thread::scope(|scope| {
            for pid in &pids {
                scope.spawn(|| mount.interrupt(&["trace", "-p", pid], after, signal, slow(COMMAND)));
            }
        });
        let mut top = Terminal::start(200, 50, &["--all", "--interval", "200ms"]);
        top.wait("a frame", |text| text.contains("PID/TID"));
        // It looks again, and again.
        sleep(slow(AT_ONCE) / 2);
        match signal {
            libc::SIGINT => top.press("\x03"),
            signal => top.top.signal(signal),
        }
        assert!(top.top.wait(slow(AT_ONCE)).is_some(), "top runs {AT_ONCE:?} after signal {signal}");
    }
}

/// What other processes hang in meanwhile, and none of them on the mount.
struct Others {
    client: Waiter,
    fifo: Waiter,
    deadlock: Waiter,
}

impl Others {
    fn start() -> Self {
        Self {
            client: Waiter::start("poll-tcp4"),
            fifo: Waiter::start("open-fifo"),
            deadlock: Waiter::start("deadlock"),
        }
    }

    /// Each is flagged in time.
    fn are_flagged(&self, agent: &mut Agent) {
        for (what, waiter) in [("client", &self.client), ("fifo", &self.fifo), ("deadlock", &self.deadlock)] {
            is_flagged(agent, what, waiter.pid(), waiter.begun_ns());
        }
    }
}

/// The stall's opening, which has come in time.
fn is_flagged(agent: &mut Agent, what: &str, pid: u32, begun_ns: i128) -> Value {
    let due_ns = begun_ns + slow(FLAGGED).as_nanos() as i128;
    // Those flagged while another was waited for are there already.
    let left = u64::try_from(due_ns - realtime_ns()).unwrap_or(0);
    let left = (Duration::from_nanos(left) / slowness()).max(Duration::from_millis(100));
    let (event, arrived_ns) =
        agent.wait_event(left, |event| event["event"] == "stall_opened" && event["wait"]["pid"] == pid);
    let took = (arrived_ns - begun_ns) as f64 / SECOND_NS as f64;
    assert!(arrived_ns <= due_ns, "{what}: flagged after {took:.1} s");
    event
}

/// Everything that hangs on the mount, each with the name of a role.
const EVERYTHING: &[&str] =
    &["open", "stat", "statfs", "df", "chdir", "execve", "fault", "write", "poll", "exec-closing"];

fn everybody_is_flagged(fault: Fault) {
    let Some(mount) = HungMount::start() else { return };
    prepare(&mount, EVERYTHING);
    let mut agent = Agent::start(&["--threshold", THRESHOLD]);
    // Each of its threads that look keeps a reader, once it has looked.
    let own = format!("/v1/why/{}", std::process::id());
    http::get_unix(&agent.socket(), &own).unwrap_or_else(|error| panic!("{own}: {error}"));
    let idle = Family::below(agent.pid()).len();
    let planted = begin(&mount, fault);
    let others = Others::start();
    others.are_flagged(&mut agent);
    // A set in a page of the mount waits for a pipe of its own, and not for the mount.
    for one in planted.iter().filter(|planted| planted.role != "poll") {
        let event = is_flagged(&mut agent, &one.role, one.pid, one.begun_ns);
        is_of_the_mount(&mount, one, &event["wait"]);
    }
    let socket = agent.socket();
    let socket = socket.to_str().expect("a path of ours");
    for source in [&["--source", "bpf"][..], &["--source", "agent", "--socket", socket]] {
        let ended = mount.run(&[&["ps", "--json"], source].concat(), slow(COMMAND));
        let rows: Vec<Value> =
            ended.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        for one in planted.iter().filter(|planted| planted.role != "poll") {
            let row = rows.iter().find(|row| row["tid"] == one.tid);
            let row = row.unwrap_or_else(|| panic!("{}: not in ps {source:?}:\n{}", one.role, ended.stdout));
            is_of_the_mount(&mount, one, row);
        }
    }
    let busy = Family::below(agent.pid()).len();
    assert!(busy <= idle + FEW, "{busy} processes, {idle} when idle");
    assert_eq!(agent.get("/-/healthy").map(|(status, _)| status), Some(200));
    answers_on_its_socket(&agent, &planted);

    // All of it ends with the hang.
    mount.answer();
    let begin = Instant::now();
    let closed = |agent: &mut Agent| {
        let flagged = planted.iter().filter(|planted| planted.role != "poll");
        let open = |one: &&Planted| !agent.events_of(one.pid).contains(&"stall_closed".to_owned());
        flagged.filter(open).map(|one| one.role.clone()).collect::<Vec<_>>()
    };
    let mut open = closed(&mut agent);
    while !open.is_empty() {
        assert!(begin.elapsed() < slow(PATIENCE), "stalls that do not close: {open:?}\n{}", agent.stderr());
        sleep(Duration::from_millis(100));
        open = closed(&mut agent);
    }
    let mut left = Family::below(agent.pid()).len();
    while left > idle {
        assert!(begin.elapsed() < slow(PATIENCE), "{left} processes, {idle} when idle");
        sleep(Duration::from_millis(100));
        left = Family::below(agent.pid()).len();
    }
}

/// A process that hangs on the mount is shown as one that waits for storage, with what it hangs on.
fn is_of_the_mount(mount: &HungMount, planted: &Planted, wait: &Value) {
    let role = &planted.role;
    assert_eq!(wait["class"], "disk", "{role}: {wait:#}");
    // Which file the kernel closes in an execve is nowhere to be read.
    if role != "exec-closing" {
        let place = mount.path().to_str().expect("a path of ours");
        let told = wait["target"].to_string() + wait["verdict"].as_str().unwrap_or_default();
        assert!(told.contains(place), "{role}: {wait:#}");
    }
}

/// One question about who hangs does not keep others from asking.
fn answers_on_its_socket(agent: &Agent, planted: &[Planted]) {
    for one in planted {
        for path in [format!("/v1/why/{}", one.pid), "/v1/host".to_owned()] {
            let begin = Instant::now();
            let answer = http::get_unix(&agent.socket(), &path);
            assert!(
                answer.as_ref().is_ok_and(|answer| answer.status == 200),
                "{path} of {}: {answer:?}",
                one.role
            );
            // Pages are made one after the other, a fifth of the time.
            assert!(begin.elapsed() < slow(5 * COMMAND), "{path} of {}: {:?}", one.role, begin.elapsed());
        }
    }
}

#[test]
fn everybody_is_flagged_when_a_server_has_taken_requests() {
    let _alone = alone();
    everybody_is_flagged(Fault::Took);
}

#[test]
fn everybody_is_flagged_when_a_server_is_stopped() {
    let _alone = alone();
    everybody_is_flagged(Fault::Stopped);
}

#[test]
fn others_are_flagged_beside_two_dozen_df() {
    let _alone = alone();
    for fault in [Fault::Took, Fault::Stopped] {
        let Some(mount) = HungMount::start() else { return };
        prepare(&mount, &["df"; 24]);
        let mut agent = Agent::start(&["--threshold", THRESHOLD]);
        let planted = begin(&mount, fault);
        let others = Others::start();
        others.are_flagged(&mut agent);
        for one in &planted {
            is_flagged(&mut agent, "df", one.pid, one.begun_ns);
        }
    }
}

/// An agent of which nothing is the test's but where it is.
struct Bare {
    /// Its first start is told to take any port, and the others the same.
    address: SocketAddr,
    dir: PathBuf,
}

impl Bare {
    fn new(name: &str) -> Self {
        Self { address: ANY_PORT.parse().expect("an address"), dir: own_dir().join(name) }
    }

    /// Starts it, and waits until it is ready.
    fn start(&mut self) -> Running {
        fs::create_dir_all(&self.dir).expect("a directory");
        let mut command = Command::new(tracer());
        command.args(["agent", "--threshold", THRESHOLD, "--listen", &self.address.to_string()]);
        command.arg("--state-dir").arg(self.dir.join("state")).arg("--socket").arg(self.dir.join("sock"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut agent = start(command);
        let begin = Instant::now();
        while !self.is_ready(agent.pid()) {
            if let Some(status) = agent.ended() {
                let mut said = String::new();
                let _ = agent.pipes().stderr.take().map(|mut stream| stream.read_to_string(&mut said));
                panic!("the agent ends: {status}\n{said}");
            }
            assert!(begin.elapsed() < slow(Duration::from_secs(5)), "the agent is not ready after 5 s");
            sleep(Duration::from_millis(20));
        }
        agent
    }

    fn is_ready(&mut self, pid: u32) -> bool {
        let Some(address) = address_of(pid) else { return false };
        self.address = address;
        http::get(address, "/-/ready").is_ok_and(|answer| answer.status == 200)
    }

    /// Waits until it shows a stall of this process.
    fn until_stalled(&self, pid: u32) {
        let label = format!("tracer_stall_seconds{{pid=\"{pid}\"");
        let begin = Instant::now();
        while !http::get(self.address, "/metrics").is_ok_and(|answer| answer.body.contains(&label)) {
            assert!(begin.elapsed() < slow(PATIENCE), "no series of pid {pid}");
            sleep(Duration::from_millis(100));
        }
    }
}

/// Whatever it is ended by, its port, its socket, its history and its output are free at once, and the next agent takes them.
#[test]
fn a_killed_agent_leaves_nothing_taken() {
    let _alone = alone();
    for signal in [libc::SIGKILL, libc::SIGTERM] {
        let roles = &["open", "stat", "statfs", "fault", "write", "poll", "exec-closing"];
        let Some((mount, planted)) = hang(Fault::Took, roles) else { return };
        let client = Waiter::start("poll-tcp4");
        let mut bare = Bare::new(&format!("killed-{signal}"));
        for round in 0..2 {
            let mut agent = bare.start();
            // It has looked at all of them by now.
            bare.until_stalled(client.pid());
            bare.until_stalled(planted[0].pid);
            let output = agent.pipes().stdout.take().expect("piped");
            let begin = Instant::now();
            agent.signal(signal);
            assert!(agent.wait(slow(AT_ONCE)).is_some(), "round {round}: it runs after signal {signal}");
            let bound = TcpListener::bind(bare.address);
            assert!(bound.is_ok(), "round {round}: the port is taken {:?} later: {bound:?}", begin.elapsed());
            assert!(ends(output, slow(AT_ONCE)), "round {round}: somebody holds its output");
        }
        assert_eq!(mount.woken(), [""; 0], "they hang all the while");
    }
}

/// Whether a stream ends in time.
fn ends(mut stream: impl Read + Send + 'static, at_most: Duration) -> bool {
    let (send, receive) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let _ = stream.read_to_end(&mut Vec::new());
        let _ = send.send(());
    });
    receive.recv_timeout(at_most).is_ok()
}

/// A group that only processes of one test have.
static MARK: LazyLock<u32> = LazyLock::new(unused_id);

/// The processes with that mark, and whether each has ended and is not waited for.
fn marked() -> Vec<(u32, String)> {
    let all = fs::read_dir("/proc").expect("/proc").flatten();
    let marked = all.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        let of_test = field("Groups:")?.split_whitespace().any(|group| group == MARK.to_string());
        of_test.then(|| (pid, field("State:").unwrap_or_default().trim().to_owned()))
    });
    marked.collect()
}

/// `tracer ps` with that mark.
fn marked_run() -> Running {
    let mut command = Command::new(tracer());
    command.arg("ps").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mark = *MARK;
    // SAFETY: setgroups is a system call here, which takes a list that outlives it.
    unsafe {
        command.pre_exec(move || match libc::setgroups(1, [mark].as_ptr()) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    start(command)
}

/// A hundred runs leave nobody who could go: no zombie, and nobody who does not hang on the mount.
#[test]
fn a_hundred_runs_leave_nobody_behind() {
    let _alone = alone();
    let Some((mount, _planted)) =
        hang(Fault::Took, &["open", "stat", "statfs", "write", "poll", "exec-closing"])
    else {
        return;
    };
    for _ in 0..25 {
        // As many at a time as wait for their readers more than for a processor.
        let mut runs: Vec<Running> = (0..4).map(|_| marked_run()).collect();
        if !runs.iter_mut().all(|run| run.wait(slow(COMMAND)).is_some()) {
            drop(mount);
            panic!("tracer ps runs after {COMMAND:?}");
        }
    }
    // Whoever sleeps in D hangs on the mount; everybody else could have gone.
    let could_go = || marked().into_iter().filter(|(_, state)| !state.starts_with('D')).collect::<Vec<_>>();
    let begin = Instant::now();
    while !could_go().is_empty() {
        assert!(begin.elapsed() < slow(AT_ONCE), "they could have gone: {:?}", could_go());
        sleep(Duration::from_millis(50));
    }
    mount.answer();
    let begin = Instant::now();
    while !marked().is_empty() {
        assert!(begin.elapsed() < slow(PATIENCE), "they stay: {:?}", marked());
        sleep(Duration::from_millis(50));
    }
}
