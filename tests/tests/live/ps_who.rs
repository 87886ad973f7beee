//! Does `ps` say which systemd unit and which container a process belongs to, in every hierarchy that is mounted?

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use tests::{Waiter, ps};

const ID: &str = "4f8b2c6d9e0a1b3c5d7e9f0a2b4c6d8e0f1a3b5c7d9e1f2a4b6c8d0e2f4a6b8c";

/// Control groups of the test's own below one folder, removed when dropped: drop the waiter inside first.
struct Groups {
    top: PathBuf,
    /// In the order they were made: parents first.
    made: Vec<PathBuf>,
}

impl Groups {
    fn new(root: &Path) -> Self {
        let top = root.join(format!("tracer-tests-who-{}", std::process::id()));
        fs::create_dir(&top).expect("a control group");
        Self { made: vec![top.clone()], top }
    }

    /// Moves the process to the group of this path.
    fn put(&mut self, waiter: &Waiter, path: &str) {
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
fn mounted(kind: &str, controllers: &[&str]) -> Vec<PathBuf> {
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
        let mut groups = Groups::new(&root);
        let waiter = Waiter::start("recvfrom-tcp4");
        for (path, unit, container) in [
            ("system.slice/system-worker.slice/worker@2.service", Some("worker@2.service"), None),
            ("user.slice/user-1000.slice/user@1000.service/app.slice/job.service", Some("job.service"), None),
            ("system.slice/docker-$ID.scope", None, Some("$ID")),
            ("docker/$ID/system.slice/cron.service", Some("cron.service"), Some("$ID")),
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
