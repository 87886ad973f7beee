//! Where a process lives, by its cgroup: systemd unit, container and who runs it, Kubernetes pod. Pure.
//!
//! A name in the path is worth as much as whoever gave it. systemd's system manager puts units below slices and nothing below a
//! unit; what is further in belongs to whom that unit was delegated: a user's own manager below `user@UID.service`, a container,
//! or a service with `Delegate=`. A unit that one of the first two has named is told with its name before it.

use std::fmt;

/// What runs a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// Docker, by itself or under Kubernetes.
    Docker,
    /// containerd: Kubernetes, nerdctl.
    Containerd,
    /// CRI-O.
    CriO,
    /// Podman.
    Podman,
    /// LXC, and LXD, Incus and Proxmox on top of it.
    Lxc,
    /// systemd-nspawn.
    Nspawn,
}

impl Runtime {
    /// Its name in output.
    pub fn label(self) -> &'static str {
        match self {
            Runtime::Docker => "docker",
            Runtime::Containerd => "containerd",
            Runtime::CriO => "cri-o",
            Runtime::Podman => "podman",
            Runtime::Lxc => "lxc",
            Runtime::Nspawn => "systemd-nspawn",
        }
    }
}

/// What a cgroup path says of the processes in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// systemd unit: `nginx.service` of the system, `user@1000.service/nginx.service` of a user's own manager,
    /// `web1/nginx.service` or, by the first digits of its id, `4f8b2c6d9e0a/nginx.service` of a container.
    pub unit: Option<String>,
    /// Id of the innermost container, or its name where the runtime has names only (LXC, systemd-nspawn).
    pub container: Option<String>,
    /// What runs that container, if the path tells.
    pub runtime: Option<Runtime>,
    /// Kubernetes pod uid.
    pub pod: Option<String>,
    /// On whose account the process runs, if the path tells: nothing below it can take another's place.
    pub owner: Option<Owner>,
}

/// On whose account a process runs: what bounded tables are shared between, and baselines are kept for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    /// A unit of the system.
    Unit(String),
    /// A container that the system runs, by its id, or by its name where that outlives it.
    Container(String),
    /// A user: of a login, of a manager of their own, or of neither.
    User(u32),
}

impl Owner {
    /// Of a process in this cgroup; of one that is in none that tells, its user.
    pub fn at(cgroup: Option<&str>, uid: u32) -> Self {
        cgroup.and_then(|path| home(path).owner).unwrap_or(Owner::User(uid))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Container(id) => write!(out, "container {id}"),
            Owner::Unit(name) => write!(out, "unit {name}"),
            Owner::User(uid) => write!(out, "user {uid}"),
        }
    }
}

/// The path that says most of the lines in `/proc/PID/cgroup` (cgroups(7)), with what it says. The two versions may be
/// mounted side by side, and a runtime may have moved the process in some hierarchies only.
pub fn of(file: &str) -> Option<(String, Workload)> {
    let mut paths: Vec<(&str, &str)> = file
        .lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            // A cgroup that was removed under its last process.
            Some((controllers, path.strip_suffix(" (deleted)").unwrap_or(path)))
        })
        .collect();
    // systemd's own hierarchy first, then version 2, then the others as they come.
    paths.sort_by_key(|(controllers, _)| match *controllers {
        "name=systemd" => 0,
        "" => 1,
        _ => 2,
    });
    let says_most = |(_, path): &&(&str, &str)| {
        let home = home(path);
        match (home.container, home.unit) {
            (Some(_), _) => 0,
            (None, Some(_)) => 1,
            (None, None) if *path != "/" => 2,
            (None, None) => 3,
        }
    };
    let (_, path) = paths.iter().min_by_key(says_most)?;
    Some(((*path).to_owned(), home(path)))
}

/// What one path says. `..` in front (the cgroup lies outside the reader's namespace, cgroup_namespaces(7)) says
/// nothing.
pub fn home(path: &str) -> Workload {
    let mut home = Workload::default();
    // Whoever names what is further in, outermost first.
    let mut namers: Vec<&str> = Vec::new();
    let mut in_unit = false;
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | "..")).collect();
    for (at, part) in parts.iter().enumerate() {
        let before = at.checked_sub(1).map(|before| parts[before]);
        let of_user = matches!(home.owner, Some(Owner::User(_)));
        if let Some(uid) = user(part) {
            home.owner.get_or_insert(Owner::User(uid));
        }
        // The kubelet is the system's: a user who names a group like one of its pods has no pod.
        if let Some(uid) = part.split(':').find_map(pod_uid).filter(|_| !of_user) {
            home.pod = Some(uid);
        }
        if let Some((name, runtime)) = container(part, before, parts.get(at + 1).copied()) {
            // Podman's `--cgroups=split` puts the container below the unit that it is the main process of; any other
            // unit around a container is the runtime's or a manager's.
            if !part.starts_with("libpod-payload-") {
                home.unit = None;
            }
            home.container = Some(name.to_owned());
            home.runtime = runtime;
            home.owner.get_or_insert_with(|| Owner::Container(name.to_owned()));
            namers.push(short(name));
            in_unit = false;
        } else if let Some(unit) = unit(part).filter(|_| !in_unit) {
            let named: Vec<&str> = namers.iter().copied().chain([unit]).collect();
            home.unit = Some(named.join("/"));
            match is_user_manager(unit) {
                true => namers.push(unit),
                false => in_unit = true,
            }
            home.owner.get_or_insert_with(|| Owner::Unit(unit.to_owned()));
        }
    }
    home
}

/// A container's id is long, and known by its first digits.
fn short(name: &str) -> &str {
    if is_id(name) { &name[..12] } else { name }
}

fn is_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whose this is: `user-UID.slice` has a user's logins and manager, `user@UID.service` is the manager.
fn user(part: &str) -> Option<u32> {
    let of_slice = || part.strip_prefix("user-")?.strip_suffix(".slice");
    part.strip_prefix("user@").and_then(|rest| rest.strip_suffix(".service")).or_else(of_slice)?.parse().ok()
}

fn is_user_manager(unit: &str) -> bool {
    unit.starts_with("user@") && user(unit).is_some()
}

/// The name of a unit that has processes. Slices only have other units.
fn unit(part: &str) -> Option<&str> {
    // systemd puts `_` before a name that would collide with a file of the cgroup (`_cpu.service`).
    let name = part.strip_prefix('_').unwrap_or(part);
    let (stem, kind) = name.rsplit_once('.')?;
    let has_processes = matches!(kind, "service" | "scope" | "socket" | "mount" | "swap");
    (has_processes && !stem.is_empty() && name != "init.scope").then_some(name)
}

/// Container id or name, and the runtime if the part of the path or the one before it tells.
fn container<'a>(
    part: &'a str,
    before: Option<&str>,
    after: Option<&str>,
) -> Option<(&'a str, Option<Runtime>)> {
    let name = part.strip_suffix(".scope").unwrap_or(part);
    // Since 3.1 `lxc.payload/NAME`, since 4.0 `lxc.payload.NAME`; before `lxc/NAME`. The monitor is on the host.
    if let Some(name) = name.strip_prefix("lxc.payload.") {
        return Some((name, Some(Runtime::Lxc)));
    }
    if matches!(before, Some("lxc" | "lxc.payload")) {
        return Some((name, Some(Runtime::Lxc)));
    }
    if let Some(machine) = part
        .strip_prefix("systemd-nspawn@")
        .and_then(|name| name.strip_suffix(".service"))
        .or_else(|| machine_scope(part))
    {
        // What supervises the container is on the host.
        return (after != Some("supervisor")).then_some((machine, Some(Runtime::Nspawn)));
    }
    let (prefix, id) = name.rsplit_once(['-', ':']).unwrap_or(("", name));
    if !is_id(id) {
        return None;
    }
    // The monitors of Podman and CRI-O are on the host.
    if prefix.ends_with("-conmon") {
        return None;
    }
    let runtime = match prefix.rsplit(':').next().unwrap_or(prefix) {
        "docker" => Some(Runtime::Docker),
        "cri-containerd" | "containerd" | "nerdctl" => Some(Runtime::Containerd),
        "crio" => Some(Runtime::CriO),
        "libpod" | "libpod-payload" => Some(Runtime::Podman),
        "" => match before {
            Some("docker") => Some(Runtime::Docker),
            Some("libpod_parent") => Some(Runtime::Podman),
            Some("containerd") => Some(Runtime::Containerd),
            _ => None,
        },
        _ => None,
    };
    Some((id, runtime))
}

/// `machine-NAME.scope` of a container that machined registered; virtual machines have a scope of that form too.
fn machine_scope(part: &str) -> Option<&str> {
    let name = part.strip_prefix("machine-")?.strip_suffix(".scope")?;
    let virtual_machine = ["qemu\\x2d", "qemu-", "vmspawn", "lxc\\x2d", "libvirt"];
    (!virtual_machine.iter().any(|kind| name.starts_with(kind))).then_some(name)
}

/// `pod<uid>`, or `kubepods-burstable-pod<uid>.slice` with underscores for dashes. A static pod's uid has no dashes.
fn pod_uid(part: &str) -> Option<String> {
    let name = part.strip_suffix(".slice").unwrap_or(part);
    let uid =
        name.strip_prefix("pod").or_else(|| name.rsplit_once("-pod").map(|(_, uid)| uid))?.replace('_', "-");
    let hex = |c: char| c.is_ascii_hexdigit() || c == '-';
    (uid.len() >= 32 && uid.chars().all(hex)).then_some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4f8b2c6d9e0a1b3c5d7e9f0a2b4c6d8e0f1a3b5c7d9e1f2a4b6c8d0e2f4a6b8c";
    const OUTER: &str = "0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9";
    const POD: &str = "0b5e7a51-8d5c-4f7e-9a43-2c7d0f6b1e22";
    const POD_: &str = "0b5e7a51_8d5c_4f7e_9a43_2c7d0f6b1e22";

    /// The path with the names above in it.
    fn filled(path: &str) -> String {
        path.replace("$ID", ID).replace("$OUTER", OUTER).replace("$POD_", POD_).replace("$POD", POD)
    }

    #[test]
    fn units_are_told_from_the_path() {
        for (path, unit) in [
            ("/system.slice/nginx.service", Some("nginx.service")),
            ("/system.slice/system-getty.slice/getty@tty1.service", Some("getty@tty1.service")),
            (
                "/system.slice/system-postgresql.slice/postgresql@15-main.service",
                Some("postgresql@15-main.service"),
            ),
            ("/system.slice/foo.service/worker", Some("foo.service")),
            ("/system.slice/_cpu.service", Some("cpu.service")),
            ("/system.slice/dev-mapper-a\\x2db.swap", Some("dev-mapper-a\\x2db.swap")),
            ("/system.slice/srv-data.mount", Some("srv-data.mount")),
            ("/user.slice/user-0.slice/session-3.scope", Some("session-3.scope")),
            ("/user.slice/user-1000.slice/user@1000.service/init.scope", Some("user@1000.service")),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/foo.service",
                Some("user@1000.service/foo.service"),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-x-42.scope",
                Some("user@1000.service/app-gnome-x-42.scope"),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/app-worker.slice/worker@2.service",
                Some("user@1000.service/worker@2.service"),
            ),
            // A name that was borrowed: by a user, by whom a service was delegated to, by a user of such a user.
            (
                "/user.slice/user-1000.slice/user@1000.service/nginx.service",
                Some("user@1000.service/nginx.service"),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/system.slice/nginx.service",
                Some("user@1000.service/nginx.service"),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/user-0.slice/user@0.service/nginx.service",
                Some("user@1000.service/user@0.service/nginx.service"),
            ),
            ("/../user@1000.service/app.slice/nginx.service", Some("user@1000.service/nginx.service")),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/mine.service/nginx.service",
                Some("user@1000.service/mine.service"),
            ),
            ("/system.slice/ci-runner.service/system.slice/nginx.service", Some("ci-runner.service")),
            ("/user.slice/user-1000.slice/session-3.scope/nginx.service", Some("session-3.scope")),
            // No user's manager.
            ("/system.slice/user@.service/nginx.service", Some("user@.service")),
            (
                "/user.slice/user-1000.slice/user-runtime-dir@1000.service",
                Some("user-runtime-dir@1000.service"),
            ),
            // Desktops and tools that put programs into units of the user's manager.
            (
                "/user.slice/user-1000.slice/user@1000.service/session.slice/dbus.service",
                Some("user@1000.service/dbus.service"),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.gnome.Terminal.slice/vte-spawn-1.scope",
                Some("user@1000.service/vte-spawn-1.scope"),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/snap.firefox.firefox-2.scope",
                Some("user@1000.service/snap.firefox.firefox-2.scope"),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/run-r4.scope",
                Some("user@1000.service/run-r4.scope"),
            ),
            ("/system.slice/run-u7.service", Some("run-u7.service")),
            // As version 1 has it, before user managers were delegated to.
            ("/user/1000.user/c2.session", None),
            ("/../../system.slice/cron.service", Some("cron.service")),
            ("/../cron.service", Some("cron.service")),
            ("/machine.slice/machine-qemu\\x2d1\\x2ddb.scope", Some("machine-qemu\\x2d1\\x2ddb.scope")),
            (
                "/machine.slice/machine-qemu\\x2d1\\x2ddb.scope/libvirt/vcpu0",
                Some("machine-qemu\\x2d1\\x2ddb.scope"),
            ),
            ("/machine.slice/systemd-nspawn@web1.service/supervisor", Some("systemd-nspawn@web1.service")),
            ("/user.slice/libpod-conmon-$ID.scope", Some("libpod-conmon-$ID.scope")),
            ("/system.slice/crio-conmon-$ID.scope", Some("crio-conmon-$ID.scope")),
            ("/system.slice/containerd.service", Some("containerd.service")),
            ("/system.slice", None),
            ("/init.scope", None),
            ("/lxc.monitor.web1", None),
            ("/..", None),
            ("/", None),
            ("", None),
            ("/.service/.scope/..", None),
            ("/batch_api/38a80b8ade573ac3943a3f0647b5a330", None),
        ] {
            let home = home(&filled(path));
            let expected =
                Workload { unit: unit.map(filled), owner: home.owner.clone(), ..Workload::default() };
            assert_eq!(home, expected, "{path}");
        }
    }

    #[test]
    fn containers_are_told_from_the_path() {
        use Runtime::{Containerd, CriO, Docker, Lxc, Nspawn, Podman};
        for (path, container, runtime, unit) in [
            // Docker: systemd's and its own way of naming, version 1 below its own unit, a parent of one's choice.
            ("/system.slice/docker-$ID.scope", "$ID", Some(Docker), None),
            ("/docker/$ID", "$ID", Some(Docker), None),
            ("/system.slice/docker.service/docker/$ID", "$ID", Some(Docker), None),
            ("/actions_job/$ID", "$ID", None, None),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-$ID.scope",
                "$ID",
                Some(Docker),
                None,
            ),
            // systemd inside.
            (
                "/docker/$ID/system.slice/nginx.service",
                "$ID",
                Some(Docker),
                Some("4f8b2c6d9e0a/nginx.service"),
            ),
            ("/system.slice/docker-$ID.scope/init.scope", "$ID", Some(Docker), None),
            // Docker in Docker.
            ("/docker/$OUTER/docker/$ID", "$ID", Some(Docker), None),
            ("/system.slice/docker-$OUTER.scope/docker/$ID", "$ID", Some(Docker), None),
            (
                "/docker/$OUTER/system.slice/containerd.service",
                "$OUTER",
                Some(Docker),
                Some("0a1b2c3d4e5f/containerd.service"),
            ),
            // Outside the reader's namespace.
            ("/../docker-$ID.scope", "$ID", Some(Docker), None),
            ("/../../../docker/$ID", "$ID", Some(Docker), None),
            ("/../$ID", "$ID", None, None),
            // containerd on its own.
            ("/system.slice/nerdctl-$ID.scope", "$ID", Some(Containerd), None),
            ("/default/$ID", "$ID", None, None),
            // ECS.
            ("/ecs/9d2f0c5b7e3a4f61/$ID", "$ID", None, None),
            ("/ecstasks.slice/ecstasks-9d2f0c5b.slice/docker-$ID.scope", "$ID", Some(Docker), None),
            // Podman: root and not, as a unit of its own (Quadlet), before systemd.
            ("/machine.slice/libpod-$ID.scope", "$ID", Some(Podman), None),
            ("/machine.slice/libpod-$ID.scope/container", "$ID", Some(Podman), None),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-$ID.scope/container",
                "$ID",
                Some(Podman),
                None,
            ),
            ("/system.slice/web.service/libpod-payload-$ID", "$ID", Some(Podman), Some("web.service")),
            ("/libpod_parent/libpod-$ID", "$ID", Some(Podman), None),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/web.service/libpod-payload-$ID",
                "$ID",
                Some(Podman),
                Some("user@1000.service/web.service"),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-$ID.scope/container/system.slice/nginx.service",
                "$ID",
                Some(Podman),
                Some("user@1000.service/4f8b2c6d9e0a/nginx.service"),
            ),
            // A user of a container that runs systemd.
            (
                "/lxc.payload.web1/user.slice/user-1000.slice/user@1000.service/app.slice/nginx.service",
                "web1",
                Some(Lxc),
                Some("web1/user@1000.service/nginx.service"),
            ),
            // One who was given a service puts what looks like a container below it.
            (
                "/system.slice/ci-runner.service/docker-$ID.scope/system.slice/nginx.service",
                "$ID",
                Some(Docker),
                Some("4f8b2c6d9e0a/nginx.service"),
            ),
            // LXC through the ages, LXD, Proxmox.
            ("/lxc/web1", "web1", Some(Lxc), None),
            ("/lxc/100/ns/system.slice/cron.service", "100", Some(Lxc), Some("100/cron.service")),
            ("/lxc.payload/web1", "web1", Some(Lxc), None),
            ("/lxc.payload.web1/system.slice/cron.service", "web1", Some(Lxc), Some("web1/cron.service")),
            ("/lxc.payload.web1/system.slice/docker-$ID.scope", "$ID", Some(Docker), None),
            // systemd-nspawn, as a service and from a shell.
            (
                "/machine.slice/systemd-nspawn@web1.service/payload/system.slice/cron.service",
                "web1",
                Some(Nspawn),
                Some("web1/cron.service"),
            ),
            ("/machine.slice/systemd-nspawn@web1.service/payload", "web1", Some(Nspawn), None),
            ("/machine.slice/machine-web1.scope/payload/init.scope", "web1", Some(Nspawn), None),
        ] {
            let home = home(&filled(path));
            let expected = Workload {
                unit: unit.map(str::to_owned),
                container: Some(filled(container)),
                runtime,
                pod: None,
                owner: home.owner.clone(),
            };
            assert_eq!(home, expected, "{path}");
        }
        assert_eq!(CriO.label(), "cri-o");
    }

    #[test]
    fn pods_are_told_from_the_path() {
        use Runtime::{Containerd, CriO, Docker};
        let static_pod = "6c6e1d8b3b1c4f7e9a432c7d0f6b1e22";
        for (path, runtime, pod) in [
            ("/kubepods/burstable/pod$POD/$ID", None, POD),
            ("/kubepods/pod$POD/$ID", None, POD),
            ("/kubepods/burstable/pod$POD/crio-$ID", Some(CriO), POD),
            ("/kubepods.slice/kubepods-pod$POD_.slice/docker-$ID.scope", Some(Docker), POD),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod$POD_.slice/cri-containerd-$ID.scope",
                Some(Containerd),
                POD,
            ),
            (
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod$POD_.slice/crio-$ID.scope/container",
                Some(CriO),
                POD,
            ),
            (
                "/system.slice/containerd.service/kubepods-burstable-pod$POD_.slice:cri-containerd:$ID",
                Some(Containerd),
                POD,
            ),
            // Kubernetes in Docker: a node is a container.
            (
                "/docker/$OUTER/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod$POD_.slice/cri-containerd-$ID.scope",
                Some(Containerd),
                POD,
            ),
            ("/kubepods/besteffort/pod6c6e1d8b3b1c4f7e9a432c7d0f6b1e22/$ID", None, static_pod),
        ] {
            let home = home(&filled(path));
            let expected = Workload {
                unit: None,
                container: Some(ID.to_owned()),
                runtime,
                pod: Some(pod.to_owned()),
                owner: home.owner.clone(),
            };
            assert_eq!(home, expected, "{path}");
        }
        let borrowed = "/user.slice/user-1000.slice/user@1000.service/kubepods.slice/kubepods-pod$POD_.slice/crio-$ID.scope";
        assert_eq!(home(&filled(borrowed)).pod, None);
        assert_eq!(home("/podman/pod-of-peas/podcast.service").pod, None);
    }

    #[test]
    fn nobody_runs_on_anothers_account() {
        use Owner::{Container, Unit, User};
        for (path, owner) in [
            ("/system.slice/nginx.service", Some(Unit("nginx.service".into()))),
            ("/system.slice/nginx.service/a/b.service", Some(Unit("nginx.service".into()))),
            ("/system.slice/ci-runner.service/docker-$ID.scope", Some(Unit("ci-runner.service".into()))),
            ("/user.slice/user-1000.slice/session-3.scope", Some(User(1000))),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/nginx.service", Some(User(1000))),
            ("/user.slice/user-1000.slice/user@1000.service/user-0.slice/user@0.service", Some(User(1000))),
            ("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-$ID.scope", Some(User(1000))),
            ("/../user@1000.service/app.slice/nginx.service", Some(User(1000))),
            ("/system.slice/docker-$ID.scope", Some(Container(ID.into()))),
            ("/docker/$OUTER/docker/$ID", Some(Container(OUTER.into()))),
            ("/lxc.payload.web1/user.slice/user-0.slice/session-1.scope", Some(Container("web1".into()))),
            ("/kubepods/burstable/pod$POD/$ID", Some(Container(ID.into()))),
            ("/system.slice/web.service/libpod-payload-$ID", Some(Unit("web.service".into()))),
            ("/user/1000.user/c2.session", None),
            ("/init.scope", None),
            ("/", None),
        ] {
            assert_eq!(home(&filled(path)).owner, owner, "{path}");
        }
    }

    #[test]
    fn the_path_that_says_most_is_taken() {
        for (file, path) in [
            // Version 2.
            ("0::/system.slice/a.service\n", "/system.slice/a.service"),
            ("0::/\n", "/"),
            ("0::/system.slice/a.service (deleted)\n", "/system.slice/a.service"),
            // Version 1.
            ("4:memory:/x\n3:cpu,cpuacct:/\n1:name=systemd:/y\n", "/y"),
            ("4:memory:/x\n1:name=systemd:/\n", "/x"),
            (
                "4:memory:/system.slice\n1:name=systemd:/user.slice/user-0.slice/session-1.scope\n",
                "/user.slice/user-0.slice/session-1.scope",
            ),
            // Both.
            (
                "1:name=systemd:/system.slice/a.service\n0::/system.slice/a.service\n",
                "/system.slice/a.service",
            ),
            ("4:memory:/x\n1:name=systemd:/\n0::/\n", "/x"),
            ("4:memory:/batch_api/1\n9:name=systemd:/\n0::/\n", "/batch_api/1"),
            // A runtime that moves its processes in its own hierarchies only.
            ("4:memory:/docker/$ID\n0::/system.slice/containerd.service\n", "/docker/$ID"),
            (
                "2:pids:/kubepods/pod$POD/$ID\n1:name=systemd:/system.slice/x.service\n",
                "/kubepods/pod$POD/$ID",
            ),
        ] {
            assert_eq!(of(&filled(file)).map(|(path, _)| path), Some(filled(path)), "{file}");
        }
        for nothing in ["", "\n", "0:", "no colons here\n"] {
            assert_eq!(of(nothing), None, "{nothing}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_file_is_too_strange(file in ".*") {
            of(&file);
            of(&format!("0::{file}"));
        }

        #[test]
        fn parts_come_in_any_order(parts in proptest::collection::vec("(lxc|docker|\\.\\.|machine-a\\.scope|_\\.service|pod|:|-|\\.scope)", 0..6)) {
            home(&parts.join("/"));
        }
    }
}
