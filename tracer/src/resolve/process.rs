//! Who waits: command line, cgroup, systemd unit and container of a process.

use std::{fs, path::PathBuf};

use super::guard::Guard;
use crate::wait::ProcessId;

/// What a process is, beside its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Who {
    /// Arguments joined by blanks; `None` if it could not be read or there are none.
    pub cmdline: Option<String>,
    /// Path of its cgroup.
    pub cgroup: Option<String>,
    /// systemd unit.
    pub unit: Option<String>,
    /// Container id.
    pub container: Option<String>,
    /// Kubernetes pod uid.
    pub pod: Option<String>,
}

/// Reads who a process is; what has gone meanwhile stays `None`.
pub fn read(process: ProcessId, guard: &mut Guard) -> Who {
    let dir = PathBuf::from(format!("/proc/{}", process.pid));
    // The command line lies in the process's memory.
    let file = dir.join("cmdline");
    let cmdline = guard.read(process, move || fs::read(file).ok()).and_then(|bytes| cmdline(&bytes));
    let cgroup = fs::read_to_string(dir.join("cgroup")).ok().and_then(|text| cgroup(&text));
    let (unit, container, pod) = cgroup.as_deref().map_or((None, None, None), belongs_to);
    Who { cmdline, cgroup, unit, container, pod }
}

fn cmdline(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches('\0').replace('\0', " ");
    (!text.is_empty()).then_some(text)
}

/// The path that says most: systemd's own hierarchy, else version 2, else any other that is not the root.
fn cgroup(text: &str) -> Option<String> {
    let lines: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            Some((controllers, path))
        })
        .collect();
    let of = |wanted: &str| lines.iter().find(|(controllers, path)| *controllers == wanted && *path != "/");
    of("name=systemd")
        .or_else(|| of(""))
        .or_else(|| lines.iter().find(|(_, path)| *path != "/"))
        .or_else(|| lines.first())
        .map(|(_, path)| (*path).to_owned())
}

/// systemd unit, container id and pod uid a cgroup path names.
fn belongs_to(path: &str) -> (Option<String>, Option<String>, Option<String>) {
    let (mut unit, mut container, mut pod) = (None, None, None);
    for part in path.split('/').filter(|part| !part.is_empty()) {
        if let Some(id) = container_id(part) {
            container = Some(id.to_owned());
        } else if part.ends_with(".service") || (part.ends_with(".scope") && part != "init.scope") {
            unit = Some(part.to_owned());
        }
        if let Some(uid) = pod_uid(part) {
            pod = Some(uid);
        }
    }
    (unit, container, pod)
}

/// `docker-<id>.scope`, `cri-containerd-<id>.scope`, `crio-<id>.scope`, `libpod-<id>.scope`, or the bare id.
fn container_id(part: &str) -> Option<&str> {
    let name = part.strip_suffix(".scope").unwrap_or(part);
    let id = name.rsplit(['-', ':']).next().unwrap_or(name);
    (id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

/// `pod<uid>`, or `kubepods-burstable-pod<uid>.slice` with underscores for dashes.
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

    #[test]
    fn units_containers_and_pods_are_told_from_the_path() {
        let docker = format!("/system.slice/docker-{ID}.scope");
        let kube = format!(
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0b5e7a51_8d5c_4f7e_9a43_2c7d0f6b1e22.slice/cri-containerd-{ID}.scope"
        );
        let old = format!("/docker/{ID}");
        let id = Some(ID.to_owned());
        let pod = Some("0b5e7a51-8d5c-4f7e-9a43-2c7d0f6b1e22".to_owned());
        for (path, expected) in [
            ("/system.slice/nginx.service", (Some("nginx.service".to_owned()), None, None)),
            ("/user.slice/user-0.slice/session-3.scope", (Some("session-3.scope".to_owned()), None, None)),
            ("/init.scope", (None, None, None)),
            (docker.as_str(), (None, id.clone(), None)),
            (old.as_str(), (None, id.clone(), None)),
            (kube.as_str(), (None, id, pod)),
        ] {
            assert_eq!(belongs_to(path), expected, "{path}");
        }
    }

    #[test]
    fn the_cgroup_that_says_most_is_taken() {
        assert_eq!(cgroup("0::/system.slice/a.service\n").as_deref(), Some("/system.slice/a.service"));
        assert_eq!(cgroup("4:memory:/x\n1:name=systemd:/y\n0::/\n").as_deref(), Some("/y"));
        assert_eq!(cgroup("4:memory:/x\n1:name=systemd:/\n0::/\n").as_deref(), Some("/x"));
        assert_eq!(cgroup("0::/\n").as_deref(), Some("/"));
        assert_eq!(cgroup(""), None);
    }

    #[test]
    fn arguments_are_joined() {
        assert_eq!(cmdline(b"a\0b c\0").as_deref(), Some("a b c"));
        assert_eq!(cmdline(b""), None);
    }
}
