//! Can one user of a host keep another's hang from being seen? Everything that has once worked, as an ordinary user where it needs
//! no more, and beside it a victim that must be flagged in time, with its series, its hook run, and its line for who asks.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{
    Agent, HungMount, MuteServer, NOBODY, Program, SECOND_NS, Sample, Waiter, alone, own_dir, realtime_ns,
    shared, slow, slowness, unsupported, unused_id,
};

use crate::ps_who::{Groups, mounted};

/// Whose processes hang: a user who has no others, whatever else happens on the host.
static VICTIM: LazyLock<u32> = LazyLock::new(unused_id);
/// Another ordinary user, and the group whose members may ask.
static SOMEBODY: LazyLock<u32> = LazyLock::new(unused_id);
static MEMBERS: LazyLock<u32> = LazyLock::new(unused_id);
/// A stall is flagged so long after its wait began at the latest: the threshold and five seconds.
const THRESHOLD: &str = "3s";
const FLAGGED: Duration = Duration::from_secs(3 + 5);
const PATIENCE: Duration = Duration::from_secs(30);
/// Beside other tests there are stalls of other owners as well: runs enough for all of them, where it is not about their number.
const RUNS: &str = "on_stall_a_minute = 60\n";
/// Where several other owners had their runs, the next one's comes when the first of these is a minute old.
const A_RUN: Duration = Duration::from_secs(65);

/// An agent with a hook that writes down what it is told.
struct Watched {
    agent: Agent,
    told: PathBuf,
}

impl Watched {
    /// With these lines more in its configuration, and these arguments.
    fn start(name: &str, config: &str, args: &[&str]) -> Self {
        let file = own_dir().join(format!("attack-{name}.toml"));
        let told = own_dir().join(format!("attack-{name}.told"));
        let hook = format!("[agent]\non_stall = ['/bin/sh', '-c', 'cat >> {}']\n", told.display());
        // What root waits for in other tests would have its share of the runs.
        let others = "[[rule]]\nuser = 'root'\nflag = false\n";
        fs::write(&file, hook + config + others).expect("write");
        fs::set_permissions(own_dir(), fs::Permissions::from_mode(0o755)).expect("our own directory");
        let file = file.to_str().expect("a path of ours");
        let agent = Agent::start(&[&["--threshold", THRESHOLD, "--config", file], args].concat());
        Self { agent, told }
    }

    /// The victim is flagged in time, has its series, the hook is told of it, and who asks the agent is shown it. The stall's
    /// opening.
    fn sees(&mut self, victim: &Waiter) -> Value {
        let due_ns = victim.begun_ns() + slow(FLAGGED).as_nanos() as i128;
        let left = Duration::from_nanos(u64::try_from(due_ns - realtime_ns()).unwrap_or(0)) / slowness();
        let (event, arrived_ns) =
            self.agent.wait_stall("stall_opened", victim.pid(), left.max(Duration::from_millis(100)));
        let took = (arrived_ns - victim.begun_ns()) as f64 / SECOND_NS as f64;
        assert!(arrived_ns <= due_ns, "flagged after {took:.1} s");

        let pid = victim.pid().to_string();
        let series = |all: &[Sample]| all.iter().any(|s| s.is("tracer_stall_seconds", &[("pid", &pid)]));
        self.agent.wait_scrape(Duration::from_secs(5), series);

        let begin = Instant::now();
        let about = format!("\"pid\":{pid},");
        while !fs::read_to_string(&self.told).is_ok_and(|told| told.contains(&about)) {
            let stderr = self.agent.stderr();
            assert!(begin.elapsed() < slow(A_RUN), "the hook is not told of pid {pid}\n{stderr}");
            std::thread::sleep(Duration::from_millis(50));
        }
        self.shows(victim);
        event
    }

    /// The line of the victim, for who asks the agent: it answers once in a while what it has found a moment ago, where that takes a
    /// processor that others want.
    fn shows(&self, victim: &Waiter) -> Value {
        let begin = Instant::now();
        loop {
            let (row, said) = self.asked_about(victim);
            if let Some(row) = row {
                return row;
            }
            assert!(begin.elapsed() < slow(PATIENCE), "not shown: {said}");
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// The same, if the agent has it in its answer; and that answer.
    fn asked_about(&self, victim: &Waiter) -> (Option<Value>, String) {
        let (socket, pid) = (self.agent.socket(), victim.pid().to_string());
        let socket = socket.to_str().expect("a path of ours");
        let args = ["ps", "--source", "agent", "--socket", socket, "--json", "-p", &pid];
        let ended = Program::tracer(&args).end(Instant::now() + slow(PATIENCE)).expect("ps ends");
        let row = ended.stdout.lines().find_map(|line| {
            let row: Value = serde_json::from_str(line).expect("JSON");
            (row["tid"] == victim.tid()).then_some(row)
        });
        (row, format!("{}{}", ended.stdout, ended.stderr))
    }

    /// How often it has looked.
    fn looks(&self) -> f64 {
        let counts = self.agent.samples("tracer_snapshot_duration_seconds_count", &[]);
        counts.iter().map(|sample| sample.value).sum()
    }
}

fn victim(role: &str, args: &[&str]) -> Waiter {
    Waiter::start_as(*VICTIM, role, args)
}

/// What an agent may use, of which the unit's limit is a multiple.
const MEMORY_KIB: u64 = 64 << 10;

#[test]
fn two_thousand_processes_on_one_pipe() {
    let _alone = alone();
    let mut watched = Watched::start("pipe", "", &[]);
    let _crowd = Waiter::start_as(NOBODY, "one-pipe", &["2000"]);
    let begin = Instant::now();
    let before = watched.looks();
    let victim = victim("poll-tcp4", &[]);
    watched.sees(&victim);
    // It goes on looking: once a second, and a second or two for the first look at so many.
    let looks = watched.looks() - before;
    let expected = begin.elapsed().as_secs_f64() / f64::from(slowness()) - 3.0;
    assert!(looks >= expected, "{looks} looks in {:?}", begin.elapsed());
    let status = fs::read_to_string(format!("/proc/{}/status", watched.agent.pid())).expect("an agent");
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    let most: u64 = most.and_then(|kib| kib.parse().ok()).expect("a number");
    assert!(most < MEMORY_KIB, "{most} KiB at its peak");
}

/// Twenty sets of descriptors in memory that is never served: whoever reads one does not come back.
#[test]
fn reads_that_do_not_come_back() {
    let _alone = alone();
    // Without privileges only where the system lets everybody use it.
    let free =
        fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd").is_ok_and(|text| text.trim() == "1");
    let uid = if free { NOBODY } else { 0 };
    let mut watched = Watched::start("reads", "", &[]);
    let holders: Vec<Waiter> = (0..20).map(|_| Waiter::start_as(uid, "poll-missing", &[])).collect();
    if let Some(why) = holders[0].unsupported() {
        return unsupported(why);
    }
    // Each has been looked into by now, as often as that is done.
    std::thread::sleep(slow(Duration::from_secs(4)));
    let victim = victim("poll-tcp4", &[]);
    watched.sees(&victim);
}

/// The same with a file system of their own that does not answer, which every user can mount.
#[test]
fn reads_of_pages_that_do_not_come_back() {
    let _alone = alone();
    let Some(mount) = HungMount::start() else { return };
    fs::set_permissions(own_dir(), fs::Permissions::from_mode(0o755)).expect("our own directory");
    for number in 0..20 {
        mount.prepare_as(NOBODY, "poll", &mount.file(number % 10));
    }
    let mut watched = Watched::start("pages", "", &[]);
    mount.hang();
    mount.begin();
    std::thread::sleep(slow(Duration::from_secs(4)));
    let victim = victim("poll-tcp4", &[]);
    watched.sees(&victim);
    assert!(mount.woken().is_empty(), "they hold it all the while");
}

/// Somebody listens on the port that `connect` chose for the victim, at other addresses: the victim is no server for that.
#[test]
fn a_listener_on_the_port_of_a_client() {
    let _shared = shared();
    let mut watched = Watched::start("listener", RUNS, &[]);
    for role in ["poll-tcp4", "recvfrom-tcp4"] {
        let victim = victim(role, &[]);
        let port = victim.text("local").rsplit(':').next().expect("a port").to_owned();
        let shadow = Waiter::start_as(NOBODY, "shadow", &[&port]);
        assert_eq!((&shadow.line()["six"], &shadow.line()["other"]), (&true.into(), &true.into()));
        let event = watched.sees(&victim);
        assert_eq!(event["wait"]["class"], "reply", "{event:#}");
    }
}

/// A namesake of the victim's program that always waits for long, on the same port of another address.
#[test]
fn a_baseline_of_somebody_elses() {
    let _shared = shared();
    let mut watched = Watched::start("baseline", RUNS, &[]);
    let server = MuteServer::start(&[]);
    let address = server.address().to_string();
    let elsewhere = format!("127.0.0.3:{}", server.address().port());
    let trainer = Waiter::start_as(NOBODY, "trainer", &[&elsewhere, "mailer", "3", "5"]);
    assert_eq!(trainer.next_line()["event"], "trained");
    watched.sees(&victim("ask", &[&address, "mailer"]));
    // Nor is it one of a third user's.
    watched.sees(&Waiter::start_as(*SOMEBODY, "ask", &[&address, "mailer"]));
}

/// More stalls of one user than there are series, and than the hook may be run for.
#[test]
fn a_flood_of_stalls() {
    const FLOOD: usize = 250;
    let _alone = alone();
    let mut watched = Watched::start("flood", "", &[]);
    let _flood = Waiter::start_as(NOBODY, "threads", &[&FLOOD.to_string()]);
    let open = |all: &[Sample]| {
        all.iter().filter(|s| s.is("tracer_open_stalls", &[("class", "reply")])).map(|s| s.value).sum::<f64>()
    };
    watched.agent.wait_scrape(PATIENCE, |all| open(all) >= FLOOD as f64);
    let victim = victim("recvfrom-tcp4", &[]);
    watched.sees(&victim);
}

/// One member of the group asks without a pause, on more connections than the agent has patience for.
#[test]
fn a_socket_that_somebody_keeps_busy() {
    let _alone = alone();
    let mut watched = Watched::start("busy", "", &["--socket-group", &MEMBERS.to_string()]);
    let victim = victim("recvfrom-tcp4", &[]);
    let socket = watched.agent.socket();
    let socket = socket.to_str().expect("a path of ours");
    let url = format!("/v1/why/{}", victim.pid());
    let mut busy = Waiter::start_prepared("ask-socket", &[socket, "40", &url], |command| {
        command.uid(NOBODY).gid(*MEMBERS);
    });
    let mut answers = || {
        busy.command("count");
        busy.next_line()["answers"].as_u64().expect("a number")
    };
    std::thread::sleep(Duration::from_secs(1));
    let before = answers();
    // Another member, again and again.
    for _ in 0..3 {
        let pid = victim.pid().to_string();
        for args in [&["ps", "--json", "-p", &pid][..], &["why", &pid]] {
            let asker = Program::tracer_as(&[args, &["--socket", socket]].concat(), |command| {
                command.uid(*SOMEBODY).gid(*MEMBERS);
            });
            let mut asker = asker;
            let ended = asker.end(Instant::now() + slow(Duration::from_secs(10))).expect("it is answered");
            assert_eq!(ended.code, Some(0), "{args:?}: {}", ended.stderr);
            assert!(ended.stdout.contains(&pid), "{args:?}: {}{}", ended.stdout, ended.stderr);
        }
    }
    watched.sees(&victim);
    assert!(answers() > before, "it goes on asking");
}

/// A user's own manager may call its units what it likes: the name is no unit of the system's.
#[test]
fn a_unit_with_a_borrowed_name() {
    let _shared = shared();
    let mut roots = mounted("cgroup2", &[]);
    roots.extend(mounted("cgroup", &["name=systemd"]));
    let mut groups = Groups::new(roots.first().expect("a hierarchy of control groups"), "attack");
    let rule = "[[rule]]\nunit = 'nginx.service'\nflag = false\n";
    let mut watched = Watched::start("unit", &[RUNS, rule].concat(), &[]);
    // Those that the rule is about, and one that only claims to be.
    let of_system = Waiter::start("recvfrom-tcp4");
    groups.put(&of_system, "system.slice/nginx.service");
    let borrower = Waiter::start_as(NOBODY, "recvfrom-tcp4", &[]);
    let group = "user.slice/user-65534.slice/user@65534.service/app.slice/nginx.service";
    groups.put(&borrower, group);
    let victim = victim("recvfrom-tcp4", &[]);
    let event = watched.sees(&borrower);
    assert_ne!(event["wait"]["unit"], "nginx.service", "{event:#}");
    assert_ne!(watched.shows(&borrower)["unit"], "nginx.service");
    watched.sees(&victim);
    assert_eq!(watched.agent.events_of(of_system.pid()), [""; 0], "the rule is about it");
    drop((of_system, borrower));
}

/// A pipe in the place of the agent's own file: nobody ever writes to it.
#[test]
fn a_fifo_in_the_place_of_the_state() {
    let _shared = shared();
    let dir = own_dir().join("attack-fifo");
    fs::create_dir_all(&dir).expect("a directory");
    let fifo = CString::new(dir.join("state.json").as_os_str().as_bytes()).expect("no NUL");
    // SAFETY: the path is NUL-terminated.
    assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
    let mut watched = Watched::start("fifo", RUNS, &["--state-dir", dir.to_str().expect("a path of ours")]);
    let victim = victim("recvfrom-tcp4", &[]);
    watched.sees(&victim);
    assert!(watched.agent.stderr().contains("state.json"), "{}", watched.agent.stderr());
    let (status, took) = watched.agent.stop(libc::SIGTERM);
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(took < slow(Duration::from_secs(2)), "{took:?}");
}
