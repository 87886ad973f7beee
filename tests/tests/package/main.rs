//! Does the Debian package install, start, upgrade and purge cleanly? In a fresh Debian of its own, made by debootstrap;
//! `TRACER_DEB` and `TRACER_DEB_LATER` are the packages, `TRACER_STATIC` is the binary for containers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use tests::{ANY_PORT, Waiter, own_dir, shared, slow, start};

const PATIENCE: Duration = Duration::from_secs(20);

/// A Debian of the test's own. What is mounted in it goes when it is dropped, before its files do.
struct Debian {
    root: PathBuf,
    mounted: Vec<PathBuf>,
}

impl Debian {
    fn new() -> Self {
        let root = own_dir().join("debian");
        let mut made = Command::new(tests::debian_program("debootstrap"));
        made.args(["--variant=minbase", "--include=passwd", "bookworm"]).arg(&root).args(mirror());
        succeed(made);
        let mut debian = Self { root, mounted: Vec::new() };
        debian.mount();
        debian
    }

    fn mount(&mut self) {
        for (what, kind) in [("proc", "proc"), ("sys", "sysfs")] {
            let place = self.root.join(what);
            let mut mount = Command::new("mount");
            mount.args(["-t", kind, kind]).arg(&place);
            succeed(mount);
            self.mounted.push(place);
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("chroot");
        command.arg(&self.root).args(args).env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    fn run(&self, args: &[&str]) -> String {
        succeed(self.command(args))
    }

    /// Installs one of the packages.
    fn install(&self, variable: &str) {
        let package = std::env::var(variable).unwrap_or_else(|_| panic!("{variable} names the package"));
        fs::copy(package, self.root.join("tracer.deb")).expect("copy");
        self.run(&["dpkg", "--force-confold", "-i", "/tracer.deb"]);
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}

impl Drop for Debian {
    fn drop(&mut self) {
        for place in self.mounted.iter().rev() {
            let _ = Command::new("umount").arg("--lazy").arg(place).status();
        }
    }
}

/// The mirror of this machine's own apt, if it is one of Debian's suites.
fn mirror() -> Option<String> {
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", "$(SITE)", "Codename: bookworm"])
        .output()
        .ok()?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}

fn succeed(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().expect("it starts");
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {status}\n{text}");
    text
}

/// Starts the agent as the unit does, and waits until it has flagged a stall.
fn the_agent_works(debian: &Debian) {
    let unit = fs::read_to_string(debian.path("/lib/systemd/system/tracer.service"))
        .or_else(|_| fs::read_to_string(debian.path("/usr/lib/systemd/system/tracer.service")))
        .expect("the unit");
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("a command");
    let mut words: Vec<&str> = line.split(' ').collect();
    words.extend(["--threshold", "2s", "--listen", ANY_PORT]);
    let log = debian.path("/log");
    let mut agent = debian.command(&words);
    agent.stdin(Stdio::null()).stdout(fs::File::create(&log).expect("a file")).stderr(Stdio::null());
    let mut agent = start(agent);
    let waiter = Waiter::start("recvfrom-tcp4");
    let begin = Instant::now();
    while !fs::read_to_string(&log).is_ok_and(|text| text.contains(&format!("\"pid\":{},", waiter.pid()))) {
        assert!(agent.ended().is_none() && begin.elapsed() < slow(PATIENCE), "nothing is flagged");
        std::thread::sleep(Duration::from_millis(100));
    }
    // Who asks it is told the same, and the group may.
    let pid = waiter.pid().to_string();
    let row = debian.run(&["tracer", "ps", "--source", "agent", "--json", "-p", &pid]);
    assert!(row.contains("\"class\":\"reply\""), "{row}");
    let socket = fs::symlink_metadata(debian.path("/run/tracer/agent.sock")).expect("the socket");
    assert_eq!(socket.permissions().mode() & 0o777, 0o660);
    agent.signal(libc::SIGTERM);
    assert!(agent.wait(slow(PATIENCE)).is_some_and(|status| status.success()));
}

fn all_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(all_files(&entry.path())),
            _ => found.push(entry.path()),
        }
    }
    found
}

/// What a shell says, or man(1); the last argument is what it reads.
fn said_by(program: &str, args: &[&str], file: &Path) -> String {
    let mut command = Command::new(tests::debian_program(program));
    command.args(args).arg(file).env("LC_ALL", "C.UTF-8").env("MANWIDTH", "100");
    succeed(command)
}

/// Each shell completes `tracer ps --cl`, or at least takes the function for it; pages render without a warning.
fn shells_and_man_read_what_is_for_them(debian: &Debian) {
    let bash = r#"source "$1" && COMP_WORDS=(tracer ps --cl) COMP_CWORD=2 && "$(complete -p tracer | sed 's/.*-F \([^ ]*\) .*/\1/')" tracer --cl ps
        echo "${COMPREPLY[@]}""#;
    let file = debian.path("/usr/share/bash-completion/completions/tracer");
    assert_eq!(said_by("bash", &["--norc", "-c", bash, "bash"], &file).trim(), "--class");

    let fish = "source $argv[1]; complete --do-complete 'tracer ps --cl'";
    let file = debian.path("/usr/share/fish/vendor_completions.d/tracer.fish");
    assert!(said_by("fish", &["--no-config", "-c", fish], &file).starts_with("--class\t"));

    let zsh = "fpath=($1 $fpath); autoload -Uz compinit && compinit -u -D && autoload +X $_comps[tracer] && whence -w $_comps[tracer]";
    let dir = debian.path("/usr/share/zsh/vendor-completions");
    assert_eq!(said_by("zsh", &["-f", "-c", zsh, "zsh"], &dir).trim(), "_tracer: function");

    let pages = all_files(&debian.path("/usr/share/man/man1"));
    let is_ours =
        |page: &&PathBuf| page.file_name().is_some_and(|name| name.to_string_lossy().starts_with("tracer"));
    let pages: Vec<&PathBuf> = pages.iter().filter(is_ours).collect();
    assert!(pages.len() >= 8, "{pages:?}");
    for page in pages {
        // A warning stands where the text does.
        let text = said_by("man", &["--warnings", "--local-file", "-Tutf8"], page);
        let (name, _) = page
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.split_once('.'))
            .expect("a name");
        assert!(text.starts_with(&format!("{name}(1)")), "{page:?}: {text}");
        assert!(!text.contains("warning:"), "{page:?}: {text}");
    }
}

/// The image for containers has the binary and nothing else.
#[test]
fn the_binary_needs_nothing_beside_it() {
    let root = own_dir().join("empty");
    for dir in ["usr/bin", "proc", "sys", "tmp"] {
        fs::create_dir_all(root.join(dir)).expect("a directory");
    }
    let binary = std::env::var("TRACER_STATIC").expect("TRACER_STATIC names the binary");
    fs::copy(binary, root.join("usr/bin/tracer")).expect("copy");
    let mut empty = Debian { root, mounted: Vec::new() };
    empty.mount();
    let waiter = Waiter::start("recvfrom-tcp4");
    waiter.until_age(1.5);
    let pid = waiter.pid().to_string();
    let row = empty.run(&["/usr/bin/tracer", "ps", "--source", "bpf", "--json", "-p", &pid]);
    assert!(row.contains("\"class\":\"reply\""), "{row}");
    let page = empty.run(&["/usr/bin/tracer", "why", "--source", "bpf", &pid]);
    assert!(page.starts_with(&format!("waiter (pid {pid}) is stuck")), "{page}");
}

#[test]
fn it_installs_starts_upgrades_and_purges() {
    let _shared = shared();
    let debian = Debian::new();
    debian.install("TRACER_DEB");
    assert!(debian.run(&["tracer", "--version"]).starts_with("tracer "));
    assert!(debian.run(&["getent", "group", "tracer"]).starts_with("tracer:"));
    for path in [
        "/usr/share/man/man1/tracer.1.gz",
        "/usr/share/man/man1/tracer-agent.1.gz",
        "/usr/share/bash-completion/completions/tracer",
        "/usr/share/tracer/prometheus/tracer.rules.yml",
        "/usr/share/tracer/grafana/tracer.json",
    ] {
        assert!(
            debian.path(path).exists(),
            "no {path}: {:#?}",
            all_files(&debian.path("/usr/share/man/man1"))
        );
    }
    shells_and_man_read_what_is_for_them(&debian);
    assert_eq!(
        debian.run(&["tracer", "agent", "--check-config"]).trim(),
        "/etc/tracer/tracer.toml: fine, 0 rules"
    );
    assert!(
        debian.path("/etc/systemd/system/multi-user.target.wants/tracer.service").is_symlink(),
        "it is enabled"
    );
    the_agent_works(&debian);
    assert!(debian.path("/var/lib/tracer/history.redb").exists());

    // An upgrade keeps what its owner has configured, and what the agent knows.
    let own = "[thresholds]\nreply = \"1m\"\n";
    fs::write(debian.path("/etc/tracer/tracer.toml"), own).expect("write");
    debian.install("TRACER_DEB_LATER");
    assert!(debian.run(&["dpkg-query", "-W", "-f", "${Version}", "tracer"]).starts_with("999.0"));
    assert_eq!(fs::read_to_string(debian.path("/etc/tracer/tracer.toml")).expect("there"), own);
    assert!(debian.path("/var/lib/tracer/history.redb").exists());
    the_agent_works(&debian);

    debian.run(&["dpkg", "--purge", "tracer"]);
    for dir in ["/etc", "/usr", "/lib", "/var/lib/tracer", "/run"] {
        let left: Vec<PathBuf> = all_files(&debian.path(dir))
            .into_iter()
            .filter(|path| {
                path.strip_prefix(&debian.root).is_ok_and(|path| path.to_string_lossy().contains("tracer"))
            })
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
