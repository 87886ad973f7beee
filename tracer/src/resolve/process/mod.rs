//! Who waits: command line, executable, user, parents, start, and where it lives (unit, container, pod) of a process.
//!
//! Part of `resolve`, layer 3, and uses what that may use.

pub mod pods;
mod remembered;

use std::{
    collections::HashMap,
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use crate::{
    model::cgroup::{self, Owner, Runtime, Workload},
    model::pod::Pod,
    model::wait::ProcessId,
    procfs::{
        Reads, Unread, Wanted, by_pid,
        stat::{self, Stat, parse_stat, same_start},
    },
    util::clock,
    util::users,
};

/// As much of a command line as is kept, bytes.
const CMDLINE_MAX: usize = 4096;
/// Parents that are named at most.
const PARENTS_MAX: usize = 8;

/// What a process is, beside its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessMeta {
    /// Arguments joined by blanks; `None` if it could not be read or there are none. Longer ones are cut, with `…`.
    pub cmdline: Option<String>,
    /// Its executable; `None` for kernel threads and where `/proc` refuses.
    pub exe: Option<HeldPath>,
    /// Its working directory.
    pub cwd: Option<HeldPath>,
    /// Its real user.
    pub uid: Option<u32>,
    /// Name of that user on the host. A container has users of its own: there only root has a name.
    pub user: Option<String>,
    /// Its parents as they are now, nearest first, up to init, at most eight.
    pub parents: Vec<Parent>,
    /// When it started, by today's wall clock.
    pub started: Option<Timestamp>,
    /// Path of its cgroup.
    pub cgroup: Option<String>,
    /// systemd unit, with the name of the user's manager or of the container before it whose own it is: `nginx.service`,
    /// `user@1000.service/nginx.service`, `web1/nginx.service`.
    pub unit: Option<String>,
    /// Container id, or name where the runtime has names only.
    pub container: Option<String>,
    /// What runs the container, if the cgroup's path tells.
    pub runtime: Option<Runtime>,
    /// Kubernetes pod.
    pub pod: Option<Pod>,
    /// On whose account it runs, by its cgroup's path alone; [`ProcessMeta::owner`] knows more.
    pub account: Option<Owner>,
}

impl ProcessMeta {
    /// On whose account it runs: of its unit or container, or else of its user. A container that Kubernetes replaces has the name of the one before.
    pub fn owner(&self) -> Option<Owner> {
        let pod = self.pod.as_ref().filter(|_| matches!(self.account, Some(Owner::Container(_))));
        let named =
            pod.and_then(|pod| Some(format!("{}/{}", pod.namespace.as_ref()?, pod.container.as_ref()?)));
        named.map(Owner::Container).or_else(|| self.account.clone()).or(self.uid.map(Owner::User))
    }
}

/// A file or directory that a process holds by its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldPath {
    /// Where it is, or was.
    pub path: String,
    /// It has been deleted since: a release that was cleaned away, a package that was upgraded.
    pub deleted: bool,
}

/// A process's parent, or its parent's parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Process id in the host's PID namespace.
    pub pid: u32,
    /// Its name.
    pub comm: String,
}

/// What is read of a process: what answers whatever it hangs in comes first.
pub fn wanted() -> [Wanted<'static>; 6] {
    let (file, link) =
        (|name: &'static str| Wanted::File(name.into()), |name: &'static str| Wanted::Link(name.into()));
    [file("cgroup"), file("status"), file("stat"), file("cmdline"), link("exe"), link("cwd")]
}

/// Reads who a process is; what has gone meanwhile, or hangs, stays `None`, and all of it if the pid is another process's by
/// now.
pub fn read(process: ProcessId, reads: &mut Reads, ancestors: &mut Ancestors) -> ProcessMeta {
    let [cgroup, status, stat, cmdline, exe, cwd] = reads.many(process, wanted());
    let text =
        |bytes: Result<Vec<u8>, Unread>| bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let stat = text(stat).map(|stat| parse_stat(&stat));
    // One that hangs has not given its pid to another.
    let is_it = match &stat {
        Ok(stat) => stat.as_ref().is_some_and(|stat| same_start(process.start_ns, stat)),
        Err(unread) => !matches!(unread, Unread::Failed(_)),
    };
    let (Ok(status), true) = (text(status), is_it) else { return ProcessMeta::default() };
    let who = at_home(text(cgroup).ok().as_deref(), reads);
    let uid = field(&status, "Uid:");
    let user = uid.and_then(|uid| user(uid, who.container.is_some()));
    let link = |link: Result<Vec<u8>, Unread>| link.ok().map(|link| place(&link));
    ProcessMeta {
        cmdline: cmdline.ok().and_then(|bytes| self::cmdline(&bytes)),
        exe: link(exe),
        cwd: link(cwd),
        uid,
        user,
        parents: ancestors.of(&status, stat.ok().flatten(), reads),
        started: Some(clock::wall_at_boottime(process.start_ns)),
        ..who
    }
}

/// Reads only the command line of a process; `None` if it has none, has gone or hangs.
pub fn read_cmdline(process: ProcessId, reads: &mut Reads) -> Option<String> {
    let [cmdline] = reads.many(process, [Wanted::File("cmdline".into())]);
    cmdline.ok().and_then(|bytes| self::cmdline(&bytes))
}

/// Reads only where a process is at home, its cgroup and what that tells: what a line of a table shows; `None` if it has gone or hangs.
pub fn read_home(process: ProcessId, reads: &mut Reads) -> Option<ProcessMeta> {
    let cgroup = reads.text(process, "cgroup")?;
    Some(at_home(Some(&cgroup), reads))
}

/// Where a process is at home, by its `cgroup` file.
fn at_home(cgroup: Option<&str>, reads: &mut Reads) -> ProcessMeta {
    let Some((path, home)) = cgroup.and_then(cgroup::of) else { return ProcessMeta::default() };
    let Workload { unit, container, runtime, pod, owner } = home;
    let pod = pod.map(|uid| pods::pod(uid, container.as_deref(), reads));
    ProcessMeta {
        cgroup: Some(path),
        unit,
        container,
        runtime,
        pod,
        account: owner,
        ..ProcessMeta::default()
    }
}

/// The kernel adds ` (deleted)` to the path of what has no name any more (`d_path`, fs/d_path.c).
fn place(link: &[u8]) -> HeldPath {
    let (path, deleted) = match link.strip_suffix(b" (deleted)") {
        Some(path) => (path, true),
        None => (link, false),
    };
    HeldPath { path: OsStr::from_bytes(path).to_string_lossy().into_owned(), deleted }
}

/// The first number of a line of a `status` file.
fn field(status: &str, name: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// What the host calls a user. A container has users of its own under the same numbers; root is root everywhere.
fn user(uid: u32, in_container: bool) -> Option<String> {
    if in_container && uid != 0 { None } else { users::name(uid) }
}

/// Processes that others descend from. Thousands may have the same parents, each of which is read once while that is fresh.
#[derive(Default)]
pub struct Ancestors(HashMap<u32, (Instant, Option<Ancestor>)>);

/// What of a process its descendants show.
#[derive(Clone)]
struct Ancestor {
    comm: String,
    parent: u32,
    /// Not known of one that hangs.
    start_ticks: Option<u64>,
}

impl Ancestors {
    /// For how long what was read counts as true.
    const TTL: Duration = Duration::from_secs(1);

    /// The parents of a process, as long as each can be read.
    fn of(&mut self, status: &str, stat: Option<Stat>, reads: &mut Reads) -> Vec<Parent> {
        let mut parents = Vec::new();
        let mut pid = field(status, "PPid:").unwrap_or(0);
        let mut youngest = stat.map(|stat| stat.start_ticks);
        while pid != 0 && parents.len() < PARENTS_MAX {
            let Some(ancestor) = self.get(pid, reads) else { break };
            // Nobody is older than its parent: a younger one got the pid of a parent that has just exited.
            if let (Some(started), Some(youngest)) = (ancestor.start_ticks, youngest)
                && started > youngest
            {
                break;
            }
            parents.push(Parent { pid, comm: ancestor.comm });
            (pid, youngest) = (ancestor.parent, ancestor.start_ticks.or(youngest));
        }
        parents
    }

    fn get(&mut self, pid: u32, reads: &mut Reads) -> Option<Ancestor> {
        if let Some((read, ancestor)) = self.0.get(&pid)
            && read.elapsed() < Self::TTL
        {
            return ancestor.clone();
        }
        let ancestor = Ancestor::read(pid, reads);
        self.0.insert(pid, (Instant::now(), ancestor.clone()));
        ancestor
    }

    /// Forgets what is not fresh any more.
    pub fn forget(&mut self) {
        self.0.retain(|_, (read, _)| read.elapsed() < Self::TTL);
    }
}

impl Ancestor {
    fn read(pid: u32, reads: &mut Reads) -> Option<Self> {
        let [status, comm, stat] = reads.texts(by_pid(pid), ["status", "comm", "stat"]);
        let start_ticks = stat.and_then(|stat| parse_stat(&stat)).map(|stat| stat.start_ticks);
        let parent = field(&status?, "PPid:").unwrap_or(0);
        Some(Self { comm: stat::comm(&comm?), parent, start_ticks })
    }
}

/// Arguments joined by blanks. What a process writes over them it often pads with blanks or zeros.
fn cmdline(bytes: &[u8]) -> Option<String> {
    let cut = bytes.len() > CMDLINE_MAX;
    let kept = &bytes[..bytes.len().min(CMDLINE_MAX)];
    let text = String::from_utf8_lossy(kept).replace('\0', " ");
    let trimmed = text.trim_end();
    // Half a character at the cut.
    let trimmed = if cut { trimmed.trim_end_matches(char::REPLACEMENT_CHARACTER) } else { trimmed };
    if trimmed.is_empty() {
        None
    } else if cut && text.ends_with(|last: char| !last.is_whitespace()) {
        Some(format!("{trimmed}…"))
    } else {
        Some(trimmed.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::process::CommandExt,
        path::{Path, PathBuf},
        process::{Child, Command, Stdio},
        thread,
        time::{Duration, Instant, SystemTime},
    };

    use super::*;

    /// A process that waits for its standard input, ended with the test.
    struct Waits(Child);

    impl Waits {
        fn begin(command: &mut Command) -> Self {
            let child = Self(command.stdin(Stdio::piped()).spawn().expect("starts"));
            // The kernel lets go of `spawn` before the new program's arguments are in place.
            let asleep = || Reads::new().stat(by_pid(child.0.id())).is_some_and(|s| s.state == 'S');
            let deadline = Instant::now() + Duration::from_secs(10);
            while !asleep() {
                assert!(Instant::now() < deadline, "does not come to rest");
                thread::sleep(Duration::from_millis(1));
            }
            child
        }

        fn who(&self) -> ProcessMeta {
            who(self.0.id())
        }
    }

    impl Drop for Waits {
        fn drop(&mut self) {
            // It may have ended by itself.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// A folder that goes with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("tracer-who-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("makes a folder");
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            // The test may have removed it.
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn id(pid: u32) -> ProcessId {
        let ticks = Reads::new().stat(by_pid(pid)).expect("lives").start_ticks;
        ProcessId { pid, start_ns: ticks * (1_000_000_000 / rustix::param::clock_ticks_per_second()) }
    }

    fn who(pid: u32) -> ProcessMeta {
        read(id(pid), &mut Reads::new(), &mut Ancestors::default())
    }

    fn at(path: &Path, deleted: bool) -> Option<HeldPath> {
        Some(HeldPath { path: path.to_string_lossy().into_owned(), deleted })
    }

    #[test]
    fn a_process_is_told_in_full() {
        let child = Waits::begin(Command::new("/bin/cat").arg("-").current_dir("/"));
        let who = child.who();
        assert_eq!(who.cmdline.as_deref(), Some("/bin/cat -"));
        assert_eq!(who.exe, at(&fs::canonicalize("/bin/cat").expect("is there"), false));
        assert_eq!(who.cwd, at(Path::new("/"), false));
        assert_eq!(who.uid, Some(rustix::process::getuid().as_raw()));
        assert_eq!(who.user, users::name(rustix::process::getuid().as_raw()));
        assert_eq!(who.parents.first().map(|parent| parent.pid), Some(std::process::id()));
        assert!(who.parents.len() == PARENTS_MAX || who.parents.last().is_some_and(|last| last.pid == 1));
        let started = SystemTime::from(who.started.expect("has started"));
        let ago = SystemTime::now().duration_since(started).expect("in the past");
        // Ticks are rounded down.
        assert!(ago < Duration::from_secs(10), "started {ago:?} ago");
    }

    #[test]
    fn another_process_of_the_same_pid_is_not_told() {
        let child = Waits::begin(&mut Command::new("/bin/cat"));
        let mut process = id(child.0.id());
        process.start_ns += 1_000_000_000;
        let read = |process| read(process, &mut Reads::new(), &mut Ancestors::default());
        assert_eq!(read(process), ProcessMeta::default());
        assert_eq!(read(ProcessId { pid: u32::MAX, start_ns: 0 }), ProcessMeta::default());
    }

    #[test]
    fn a_release_that_was_cleaned_away_is_told() {
        let folder = Folder::new("release");
        let program = folder.0.join("worker");
        fs::copy("/bin/cat", &program).expect("copies");
        let child = Waits::begin(Command::new(&program).current_dir(&folder.0));
        assert_eq!(child.who().exe, at(&program, false));
        fs::remove_dir_all(&folder.0).expect("removes");
        assert_eq!(child.who().exe, at(&program, true));
        assert_eq!(child.who().cwd, at(&folder.0, true));
    }

    #[test]
    fn long_and_padded_command_lines_are_cut() {
        let child = Waits::begin(Command::new("/bin/cat").arg0(format!("cat: worker 1{}", " ".repeat(5000))));
        assert_eq!(child.who().cmdline.as_deref(), Some("cat: worker 1"));
        let argument = "é".repeat(60_000);
        let child = Waits::begin(Command::new("/bin/sh").args(["-c", "read line", &argument]));
        let cmdline = child.who().cmdline.expect("has one");
        assert!(cmdline.starts_with("/bin/sh -c read line éé") && cmdline.ends_with("é…"), "{cmdline}");
        assert!(cmdline.len() <= CMDLINE_MAX + '…'.len_utf8(), "{}", cmdline.len());
    }

    #[test]
    fn arguments_are_joined() {
        let exactly = [b'a'; CMDLINE_MAX];
        for (bytes, expected) in [
            (&b"a\0b c\0"[..], Some("a b c")),
            (b"a\0\0b\0", Some("a  b")),
            (b"nginx: worker process\0\0\0\0\0", Some("nginx: worker process")),
            (b"postgres: walwriter    \0   \0", Some("postgres: walwriter")),
            (b"caf\xe9\0", Some("caf\u{fffd}")),
            (b"   \0\0", None),
            (b"", None),
            (&exactly, std::str::from_utf8(&exactly).ok()),
        ] {
            assert_eq!(cmdline(bytes).as_deref(), expected, "{bytes:?}");
        }
    }

    #[test]
    fn deleted_is_told_from_the_link() {
        for (link, path, deleted) in [
            (&b"/usr/bin/php8.2"[..], "/usr/bin/php8.2", false),
            (b"/srv/app/releases/7 (deleted)", "/srv/app/releases/7", true),
            (b"/memfd:runc_cloned:/proc/self/exe (deleted)", "/memfd:runc_cloned:/proc/self/exe", true),
            (b"/tmp/\xff", "/tmp/\u{fffd}", false),
        ] {
            assert_eq!(place(link), HeldPath { path: path.to_owned(), deleted });
        }
    }

    #[test]
    fn users_of_containers_have_numbers_only() {
        let daemon = 1;
        assert_eq!(user(daemon, false), users::name(daemon));
        assert!(user(daemon, false).is_some(), "every Unix has a user 1");
        assert_eq!(user(daemon, true), None);
        assert_eq!(user(0, true).as_deref(), Some("root"));
    }

    #[test]
    fn the_real_user_is_read() {
        assert_eq!(field("Name:\ta\nUid:\t33\t0\t0\t0\nGid:\t1\t1\t1\t1\n", "Uid:"), Some(33));
        assert_eq!(field("Name:\tUid:\n", "Uid:"), None);
    }
}
