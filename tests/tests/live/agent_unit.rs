//! Does the agent do with the rights of the unit file, and no others, all that it does as root? Does a real systemd run it so?

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tests::servers::dir_of_nobody;
use tests::{
    ANY_PORT, HungMount, NOBODY, Running, Waiter, address_of, alone, http, own_dir, shared, slow, start,
    start_ended_by, tracer, unsupported,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// The unit as it is shipped.
const UNIT: &str = include_str!("../../../deploy/systemd/tracer.service");

/// What it says of a setting.
fn unit(setting: &str) -> String {
    let values: Vec<&str> =
        UNIT.lines().filter_map(|line| line.strip_prefix(setting)?.strip_prefix('=')).collect();
    assert_eq!(values.len(), 1, "{setting}: {values:?}");
    values[0].to_owned()
}

#[test]
fn the_capabilities_of_the_unit_are_enough() {
    let _shared = shared();
    assert_eq!(unit("ExecStart"), "/usr/bin/tracer agent");
    assert_eq!(unit("NoNewPrivileges"), "yes");
    let capabilities: Vec<String> = unit("CapabilityBoundingSet")
        .split_whitespace()
        .map(|name| format!("+{}", name.trim_start_matches("CAP_").to_lowercase()))
        .collect();
    assert!(capabilities.len() <= 5, "{capabilities:?}");
    let waiters = ["poll-tcp4", "recvfrom-tcp4"].map(Waiter::start);
    // Another user's process: its memory has the name of a pipe in a folder that only it may enter.
    let fifo = dir_of_nobody("unit").join("fifo");
    let made = Command::new("mkfifo").arg(&fifo).status().expect("mkfifo");
    assert!(made.success());
    let mut reader = Command::new("setpriv");
    reader
        .args([&format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}"), "--clear-groups", "cat"])
        .arg(&fifo)
        .stdin(Stdio::null());
    let reader = start(reader);
    let expected: Vec<(u32, String)> = waiters
        .iter()
        .map(|waiter| (waiter.pid(), waiter.text("remote").to_owned()))
        .chain([(reader.pid(), fifo.to_str().expect("text").to_owned())])
        .collect();
    let (socket, state) = (own_dir().join("unit.sock"), own_dir().join("unit-state"));
    let log = own_dir().join("unit.log");
    let mut agent = Command::new("setpriv");
    agent
        .arg(format!("--bounding-set=-all,{}", capabilities.join(",")))
        .args(["--inh-caps=-all", "--no-new-privs", "--"])
        .arg(tracer())
        .args(["agent", "--threshold", "2s", "--listen", ANY_PORT, "--socket"])
        .arg(&socket)
        .arg("--state-dir")
        .arg(&state)
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&log).expect("a file"))
        .stderr(Stdio::null());
    let mut agent = start(agent);
    let begin = Instant::now();
    for (pid, what) in &expected {
        let line = loop {
            assert!(agent.ended().is_none(), "it ends");
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let about =
                |line: &&str| line.contains("stall_opened") && line.contains(&format!("\"pid\":{pid},"));
            if let Some(line) = text.lines().find(about) {
                break line.to_owned();
            }
            assert!(begin.elapsed() < slow(PATIENCE), "pid {pid} is not flagged:\n{text}");
            std::thread::sleep(Duration::from_millis(50));
        };
        assert!(line.contains(&**what), "{what}: {line}");
    }
    // What root sees of it, so does the agent.
    let as_root = Command::new(tracer())
        .args(["ps", "--json", "--source", "bpf", "-p", &waiters[0].pid().to_string()])
        .output()
        .expect("tracer starts");
    let by_agent = Command::new(tracer())
        .args(["ps", "--json", "--source", "agent", "-p", &waiters[0].pid().to_string(), "--socket"])
        .arg(&socket)
        .output()
        .expect("tracer starts");
    let read = |bytes: &[u8]| -> serde_json::Value { serde_json::from_slice(bytes).expect("one object") };
    let (mut one, mut other) = (read(&as_root.stdout), read(&by_agent.stdout));
    for value in [&mut one, &mut other] {
        let wait = value.as_object_mut().expect("an object");
        // These go on.
        for name in ["since", "age_seconds", "age_exact", "verdict"] {
            wait.remove(name);
        }
        for name in ["sent_seconds", "received_seconds"] {
            wait["target"].as_object_mut().expect("a target").remove(name);
        }
    }
    assert_eq!(one, other);
}

const SYSTEMD: &str = "/lib/systemd/systemd";

/// A manager of services with root's rights, which runs the shipped unit: of it only the program, the group, and where it writes are
/// the test's. It has a `/run` of its own, so that it is a system's manager to what it starts, and leaves nothing.
struct Manager {
    process: Running,
    errors: PathBuf,
    /// Its control groups.
    groups: Vec<PathBuf>,
}

impl Manager {
    /// Starts it, and waits until the agent says that it is ready.
    fn start(name: &str, settings: &str) -> Self {
        let dir = own_dir().join(name);
        std::fs::create_dir_all(&dir).expect("a directory");
        let (errors, service, settled) =
            (dir.join("errors"), dir.join("tracer.service"), dir.join("settings.conf"));
        std::fs::write(&service, UNIT).expect("the unit");
        let settings = format!(
            "[Service]\nGroup=root\nExecStart=\nExecStart=/run/tracer-bin agent --threshold 2s --listen {ANY_PORT}\n\
             StandardError=append:{}\n{settings}",
            errors.display()
        );
        std::fs::write(&settled, settings).expect("its settings");
        // A manager takes all processes of its control group for its own: it must have groups to itself, or it does not start.
        let group = format!("tracer-tests-{name}-{}", std::process::id());
        let hierarchies = hierarchies();
        let places: Vec<&str> = hierarchies.iter().map(|place| place.to_str().expect("text")).collect();
        // The manager of a user looks for these as if it were the system's, which has made them.
        let script = "set -e
            for place in $GROUPS_AT; do
                mkdir $place/$GROUP
                echo $$ > $place/$GROUP/cgroup.procs
            done
            mount --make-rprivate /
            mount -t tmpfs tmpfs /run
            mkdir -p /run/systemd/system /run/systemd/inaccessible/dir /run/manager
            touch /run/systemd/inaccessible/reg
            mkdir -p /run/home/.config/systemd/user/tracer.service.d
            cp \"$2\" /run/home/.config/systemd/user
            cp \"$3\" /run/home/.config/systemd/user/tracer.service.d
            cp \"$1\" /run/tracer-bin
            export XDG_RUNTIME_DIR=/run/manager HOME=/run/home
            unset NOTIFY_SOCKET
            # In no group with anybody else, whatever has gone wrong.
            if grep --invert-match cpuset /proc/self/cgroup | grep --invert-match --quiet \"/$GROUP\\$\"; then exit 1; fi
            exec \"$0\" --user --unit=tracer.service --log-target=null";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, SYSTEMD]).arg(tracer()).args([&service, &settled]);
        command.env("GROUP", &group).env("GROUPS_AT", places.join(" "));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = start_ended_by(libc::SIGTERM, command);
        let groups = hierarchies.iter().map(|place| place.join(&group)).collect();
        let manager = Self { process, errors, groups };
        manager.until("it is not active", |manager| manager.show("ActiveState") == "active");
        manager
    }

    /// systemctl(1), in its file systems.
    fn ctl(&self, args: &[&str]) -> String {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &self.process.pid().to_string()]);
        command.args(["systemctl", "--user"]).args(args).env("XDG_RUNTIME_DIR", "/run/manager");
        String::from_utf8_lossy(&command.output().expect("nsenter starts").stdout).trim().to_owned()
    }

    /// A property of the service.
    fn show(&self, property: &str) -> String {
        self.ctl(&["show", "tracer.service", "--value", "--property", property])
    }

    fn pid(&self) -> u32 {
        self.show("MainPID").parse().expect("a pid")
    }

    /// The body of what the agent answers, of success only.
    fn get(&self, path: &str) -> Option<String> {
        let answer = http::get(address_of(self.show("MainPID").parse().ok()?)?, path).ok()?;
        (answer.status == 200).then_some(answer.body)
    }

    fn errors(&self) -> String {
        std::fs::read_to_string(&self.errors).unwrap_or_default()
    }

    fn until(&self, otherwise: &str, is_so: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        while !is_so(self) {
            assert!(
                begin.elapsed() < slow(PATIENCE),
                "{otherwise}: {}\n{}",
                self.ctl(&["status", "tracer.service"]),
                self.errors()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if self.process.ended().is_none() {
            self.process.signal(libc::SIGTERM);
            self.process.wait(PATIENCE);
        }
        for group in &self.groups {
            for inner in std::fs::read_dir(group).into_iter().flatten().flatten() {
                let _ = std::fs::remove_dir(inner.path());
            }
            let _ = std::fs::remove_dir(group);
        }
    }
}

/// Where control groups are made: at the top of version 2's only hierarchy, or of each that version 1 has.
fn hierarchies() -> Vec<PathBuf> {
    let top = PathBuf::from("/sys/fs/cgroup");
    if top.join("cgroup.controllers").exists() {
        return vec![top];
    }
    let all = std::fs::read_dir(top).into_iter().flatten().flatten().map(|entry| entry.path());
    // A group of processors takes nobody before it has been given some; systemd makes none.
    all.filter(|place| place.join("cgroup.procs").exists() && !place.ends_with("cpuset")).collect()
}

/// With the unit's mounts and filter it confines itself, is seen to be ready, finds a stall, and reads its configuration again.
#[test]
fn systemd_runs_the_unit() {
    if !Path::new(SYSTEMD).exists() {
        return unsupported("no systemd");
    }
    let _shared = shared();
    let waiter = Waiter::start("poll-tcp4");
    let manager = Manager::start("unit-run", "");
    let label = format!("tracer_stall_seconds{{pid=\"{}\"", waiter.pid());
    manager.until("it finds no stall", |manager| {
        manager.get("/metrics").is_some_and(|page| page.contains(&label))
    });
    assert!(!manager.errors().contains("keeps more rights"), "{}", manager.errors());
    let pid = manager.pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("an agent");
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("").trim();
    assert_eq!(field("CapEff:"), "000000c000000000", "{status}");
    assert_eq!(field("NoNewPrivs:"), "1");
    let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("its mounts");
    for place in ["/", "/proc", "/sys"] {
        let of_it = |line: &&str| line.split(' ').nth(4) == Some(place);
        let line = mounts.lines().rfind(of_it).unwrap_or("");
        assert!(line.split(' ').nth(5).is_some_and(|options| options.starts_with("ro")), "{place}: {mounts}");
    }
    manager.ctl(&["reload", "tracer.service"]);
    manager.until("it says nothing of its configuration", |manager| {
        manager.show("StatusText").contains("built-in values hold")
    });
    assert_eq!((manager.pid(), &*manager.show("NRestarts")), (pid, "0"));
}

/// An agent that does not go on is started again.
#[test]
fn systemd_starts_one_again_that_hangs() {
    if !Path::new(SYSTEMD).exists() {
        return unsupported("no systemd");
    }
    let _shared = shared();
    let manager = Manager::start("unit-hangs", "WatchdogSec=2s\nTimeoutAbortSec=1s\nRestartSec=1s\n");
    let pid = manager.pid();
    std::thread::sleep(slow(Duration::from_secs(4)));
    assert_eq!(manager.pid(), pid, "it is well, and says so in time");
    // SAFETY: kill takes two numbers; the process is the manager's child, which waits for it only once it has ended.
    assert_eq!(unsafe { libc::kill(pid as libc::pid_t, libc::SIGSTOP) }, 0);
    manager.until("it is not started again", |manager| {
        manager.show("NRestarts") == "1" && manager.get("/-/healthy").is_some()
    });
    assert_ne!(manager.pid(), pid);
}

/// An agent that is killed while a file system hangs is started again at once: readers that hang there hold up neither its end nor
/// the next one's start.
#[test]
fn systemd_starts_one_again_while_a_mount_hangs() {
    if !Path::new(SYSTEMD).exists() {
        return unsupported("no systemd");
    }
    let _alone = alone();
    let Some(mount) = HungMount::start() else { return };
    for (number, role) in ["open", "stat", "statfs", "write", "poll", "exec-closing"].iter().enumerate() {
        mount.prepare(role, &mount.file(number));
    }
    let manager = Manager::start("unit-mount", "RestartSec=100ms\n");
    mount.hang();
    let planted = mount.begin();
    let waiter = Waiter::start("poll-tcp4");
    let stalled = |pid: u32| {
        let label = format!("tracer_stall_seconds{{pid=\"{pid}\"");
        manager.until(&format!("it shows no stall of {pid}"), |manager| {
            manager.get("/metrics").is_some_and(|page| page.contains(&label))
        });
    };
    // It has met all of them.
    stalled(waiter.pid());
    stalled(planted[0].pid);
    for signal in [libc::SIGKILL, libc::SIGABRT] {
        let (pid, starts) = (manager.pid(), manager.show("NRestarts"));
        let begin = Instant::now();
        // SAFETY: kill takes two numbers; the process is the manager's child, which waits for it only once it has ended.
        assert_eq!(unsafe { libc::kill(pid as libc::pid_t, signal) }, 0);
        manager.until("it is not started again", |manager| {
            manager.show("NRestarts") != starts && manager.get("/-/healthy").is_some()
        });
        let took = begin.elapsed();
        assert!(took < slow(Duration::from_secs(5)), "it is there again {took:?} after signal {signal}");
        stalled(waiter.pid());
    }
    assert_eq!(mount.woken(), [""; 0], "they hang all the while");
}

/// A process that no signal ends until this is dropped: it is frozen, by version 1 of control groups, which a machine need not use
/// otherwise.
struct Frozen {
    process: Running,
    hierarchy: PathBuf,
    group: PathBuf,
}

impl Frozen {
    /// None where the kernel has no such groups.
    fn start() -> Option<Self> {
        let hierarchy = own_dir().join("freezer");
        std::fs::create_dir_all(&hierarchy).expect("a directory");
        let place = std::ffi::CString::new(hierarchy.to_str().expect("text")).expect("no zero byte");
        // SAFETY: strings, which outlive the call.
        let mounted = unsafe {
            libc::mount(c"none".as_ptr(), place.as_ptr(), c"cgroup".as_ptr(), 0, c"freezer".as_ptr().cast())
        };
        if mounted != 0 {
            return None;
        }
        let group = hierarchy.join(format!("tracer-tests-{}", std::process::id()));
        std::fs::create_dir(&group).expect("a group");
        let mut command = Command::new("sleep");
        command.arg("1000");
        let frozen = Self { process: start(command), hierarchy, group };
        std::fs::write(frozen.group.join("cgroup.procs"), frozen.process.pid().to_string()).expect("a group");
        std::fs::write(frozen.group.join("freezer.state"), "FROZEN").expect("it freezes");
        Some(frozen)
    }

    /// From now on it is one of the processes of the service that the manager runs.
    fn is_taken_in(&self, by: &Manager) {
        let text = std::fs::read_to_string(format!("/proc/{}/cgroup", by.pid())).expect("an agent");
        let all = text.lines().filter_map(|line| line.strip_suffix("/tracer.service"));
        for line in all {
            let path = line.rsplit(':').next().unwrap_or_default().trim_start_matches('/');
            // Which hierarchies there are is known by the groups in them.
            for hierarchy in hierarchies() {
                let procs = hierarchy.join(path).join("tracer.service/cgroup.procs");
                if procs.exists() {
                    std::fs::write(procs, self.process.pid().to_string()).expect("it is taken in");
                }
            }
        }
    }

    /// It has been killed for nothing, or not at all.
    fn is_there(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid()));
        status.is_ok_and(|status| !status.contains("State:\tZ"))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = std::fs::write(self.group.join("freezer.state"), "THAWED");
        self.process.kill();
        let _ = std::fs::remove_dir(&self.group);
        let place = std::ffi::CString::new(self.hierarchy.to_str().expect("text")).expect("no zero byte");
        // SAFETY: a string, which outlives the call.
        unsafe { libc::umount2(place.as_ptr(), libc::MNT_DETACH) };
    }
}

/// One of its processes hangs in the kernel and cannot be ended, as on a dead mount: the agent runs again within five seconds.
#[test]
fn systemd_starts_it_again_although_a_process_cannot_be_ended() {
    if !Path::new(SYSTEMD).exists() {
        return unsupported("no systemd");
    }
    let _shared = shared();
    let manager = Manager::start("unit-left", "");
    let Some(frozen) = Frozen::start() else { return unsupported("no freezer") };
    for restarts in [false, true] {
        let before = manager.pid().to_string();
        frozen.is_taken_in(&manager);
        let begin = Instant::now();
        if restarts {
            manager.ctl(&["restart", "--no-block", "tracer.service"]);
        } else {
            manager.ctl(&["kill", "--kill-who=main", "--signal=SIGKILL", "tracer.service"]);
        }
        // How long it takes to start is another matter.
        manager
            .until("it is not started again", |manager| !["0", &before].contains(&&*manager.show("MainPID")));
        let took = begin.elapsed();
        assert!(
            took < slow(Duration::from_secs(4)),
            "{took:?}: {}",
            manager.ctl(&["status", "tracer.service"])
        );
        manager.until("it is not well", |manager| manager.get("/-/healthy").is_some());
        assert!(frozen.is_there(), "it cannot have been ended");
        let status = manager.ctl(&["status", "tracer.service"]);
        assert!(status.contains(&frozen.process.pid().to_string()), "it was one of the service's: {status}");
    }
}
