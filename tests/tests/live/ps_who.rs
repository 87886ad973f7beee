//! Do `ps` and the agent say which systemd unit, container and pod a process belongs to, in every hierarchy that is mounted?

use std::ffi::{CStr, CString};
use std::fs;
use std::io::Error;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use tests::{Agent, NOBODY, Waiter, own_dir, ps, shared};

const ID: &str = "4f8b2c6d9e0a1b3c5d7e9f0a2b4c6d8e0f1a3b5c7d9e1f2a4b6c8d0e2f4a6b8c";

/// Control groups of the test's own below one folder, removed when dropped: drop the waiter inside first.
pub(crate) struct Groups {
    top: PathBuf,
    /// In the order they were made: parents first.
    made: Vec<PathBuf>,
}

impl Groups {
    pub(crate) fn new(root: &Path, name: &str) -> Self {
        let top = root.join(format!("tracer-tests-{name}-{}", std::process::id()));
        fs::create_dir(&top).expect("a control group");
        Self { made: vec![top.clone()], top }
    }

    /// Moves the process to the group of this path.
    pub(crate) fn put(&mut self, waiter: &Waiter, path: &str) {
        let mut group = self.top.clone();
        for part in path.split('/') {
            group.push(part);
            if !group.exists() {
                fs::create_dir(&group).expect("a control group");
                self.made.push(group.clone());
            }
        }
        fs::write(group.join("cgroup.procs"), waiter.pid().to_string()).expect("move a process");
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for group in self.made.iter().rev() {
            // A process leaves its group some time after it was waited for.
            let removed = (0..100).any(|_| {
                thread::sleep(Duration::from_millis(5));
                fs::remove_dir(group).is_ok()
            });
            if !removed {
                eprintln!("{} is left behind", group.display());
            }
        }
    }
}

/// Where hierarchies of this type are mounted; of version 1 those that take processes without further ado.
pub(crate) fn mounted(kind: &str, controllers: &[&str]) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").expect("/proc");
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .filter(|fields| {
            let options: Vec<&str> = fields[3].split(',').collect();
            fields[2] == kind
                && (controllers.is_empty() || controllers.iter().any(|one| options.contains(one)))
        })
        .map(|fields| PathBuf::from(fields[1]))
        .collect()
}

#[test]
fn units_and_containers_are_named() {
    let mut roots = mounted("cgroup2", &[]);
    roots.extend(mounted("cgroup", &["pids"]));
    roots.extend(mounted("cgroup", &["name=systemd"]));
    assert!(!roots.is_empty(), "no hierarchy of control groups is mounted: mount cgroup2 on /sys/fs/cgroup");
    for root in roots {
        let mut groups = Groups::new(&root, "who");
        let waiter = Waiter::start("recvfrom-tcp4");
        for (path, unit, container) in [
            ("system.slice/system-worker.slice/worker@2.service", Some("worker@2.service"), None),
            (
                "user.slice/user-1000.slice/user@1000.service/app.slice/nginx.service",
                Some("user@1000.service/nginx.service"),
                None,
            ),
            ("system.slice/docker-$ID.scope", None, Some("$ID")),
            ("docker/$ID/system.slice/cron.service", Some("4f8b2c6d9e0a/cron.service"), Some("$ID")),
            ("lxc.payload.web1", None, Some("web1")),
        ] {
            let filled = |text: &str| text.replace("$ID", ID);
            groups.put(&waiter, &filled(path));
            let snapshot = ps(&["--all", "--min-age", "0s", "-p", &waiter.pid().to_string()]);
            let row = snapshot.row(waiter.tid());
            assert_eq!(row["unit"].as_str(), unit, "{path} in {}: {row:#}", root.display());
            assert_eq!(row["container"].as_str(), container.map(filled).as_deref(), "{path}: {row:#}");
            let cgroup = row["cgroup"].as_str().unwrap_or_default();
            assert!(cgroup.ends_with(&filled(path)), "{path}: {row:#}");
        }
        drop(waiter);
    }
}

/// Who may name a unit of its own does not borrow the name of one of the system's, nor the rules for it.
#[test]
fn a_borrowed_unit_is_its_users() {
    let _shared = shared();
    let config = own_dir().join("borrowed.toml");
    let rules = "[[rule]]\nunit = ['nginx', '*']\nflag = false\n";
    fs::write(&config, rules).expect("write");
    let mut roots = mounted("cgroup2", &[]);
    roots.extend(mounted("cgroup", &["pids"]));
    let root = roots.first().expect("a hierarchy of control groups");
    let mut groups = Groups::new(root, "borrowed");
    let (systems, borrowed) =
        (Waiter::start("recvfrom-tcp4"), Waiter::start_as(NOBODY, "recvfrom-tcp4", &[]));
    groups.put(&systems, "system.slice/nginx.service");
    groups.put(&borrowed, "user.slice/user-65534.slice/user@65534.service/app.slice/nginx.service");
    let mut agent = Agent::start(&["--threshold", "1s", "--config", config.to_str().expect("UTF-8")]);
    let (event, _) = agent.wait_stall("stall_opened", borrowed.pid(), Duration::from_secs(6));
    assert_eq!(event["wait"]["unit"], "user@65534.service/nginx.service", "{event:#}");
    let labels = [("pid", &*borrowed.pid().to_string()), ("unit", "user@65534.service/nginx.service")];
    agent.wait_scrape(Duration::from_secs(10), |all| {
        all.iter().any(|sample| sample.is("tracer_stall_seconds", &labels))
    });
    assert_eq!(agent.events_of(systems.pid()), [""; 0], "its rule is for it");
    drop((systems, borrowed));
}

/// Shows a process that is to be started another folder in this one's place: to it alone, in a mount namespace.
fn show_at(place: &'static CStr, folder: &Path, command: &mut Command) {
    let folder = CString::new(folder.as_os_str().as_bytes()).expect("no zero byte");
    let show = move || {
        let none = std::ptr::null();
        // SAFETY: the texts end with zero and outlive the calls; where there is none, the kernel reads none.
        let shown = unsafe {
            libc::unshare(libc::CLONE_NEWNS) == 0
                && libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast()) == 0
                && libc::mount(folder.as_ptr(), place.as_ptr(), none, libc::MS_BIND, none.cast()) == 0
        };
        shown.then_some(()).ok_or_else(Error::last_os_error)
    };
    // SAFETY: between fork and exec three system calls are made, and nothing takes memory.
    unsafe { command.pre_exec(show) };
}

/// The kubelet's folders are the test's own, and the agent's alone: a host may have others there, or none.
#[test]
fn pods_are_named_on_the_page_of_metrics() {
    const UID: &str = "0b5e7a51-8d5c-4f7e-9a43-2c7d0f6b1e22";
    let _shared = shared();
    let logs = own_dir().join("logs");
    fs::create_dir_all(logs.join(format!("pods/shop_mail-7d9f_{UID}/worker"))).expect("a folder");
    fs::create_dir_all(logs.join("containers")).expect("a folder");
    fs::write(logs.join(format!("containers/mail-7d9f_shop_worker-{ID}.log")), "").expect("a file");
    fs::create_dir_all("/var/log").expect("a folder");
    let mut roots = mounted("cgroup2", &[]);
    roots.extend(mounted("cgroup", &["pids"]));
    let mut groups = Groups::new(roots.first().expect("a hierarchy of control groups"), "pod");
    let waiter = Waiter::start("recvfrom-tcp4");
    let group = format!("kubepods-burstable-pod{}.slice/cri-containerd-{ID}.scope", UID.replace('-', "_"));
    groups.put(&waiter, &format!("kubepods.slice/kubepods-burstable.slice/{group}"));
    let mut agent = Agent::start_as(&["--threshold", "1s"], |command| show_at(c"/var/log", &logs, command));
    agent.wait_stall("stall_opened", waiter.pid(), Duration::from_secs(10));
    // The page is of the look that has told of it, and written after.
    let pid = waiter.pid().to_string();
    let is_its = |sample: &tests::Sample| sample.is("tracer_stall_seconds", &[("pid", &pid)]);
    let on_page = agent.wait_scrape(Duration::from_secs(10), |all| all.iter().any(is_its));
    let labels: Vec<[&str; 4]> = on_page
        .iter()
        .filter(|sample| is_its(sample))
        .map(|sample| ["namespace", "pod", "container", "unit"].map(|label| sample.label(label)))
        .collect();
    assert_eq!(labels, [["shop", "mail-7d9f", "worker", ""]], "{on_page:?}");
    drop(waiter);
}
