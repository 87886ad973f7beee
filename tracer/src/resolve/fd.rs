//! What an open fd is by its name in `/proc/PID/fd`.

use std::fs;

use super::target::Target;

/// Reads the fd's link; `expected` is the inode the kernel's record gave, if it did.
pub fn look_up(pid: u32, tid: u32, fd: i32, expected: Option<u64>) -> Target {
    let dir = format!("/proc/{pid}/task/{tid}");
    let link = match fs::read_link(format!("{dir}/fd/{fd}")) {
        Ok(link) => link,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return Target::Unreadable { reason: "permission denied".into() };
        }
        // Either the fd has been closed or the thread has gone.
        Err(_) if fs::exists(&dir).unwrap_or(false) => return Target::Gone,
        Err(_) => return Target::Unreadable { reason: "the thread has gone".into() },
    };
    let info = fs::read_to_string(format!("{dir}/fdinfo/{fd}")).unwrap_or_default();
    // fdinfo names the inode since Linux 5.14.
    let inode = field(&info, "ino:").and_then(|ino| ino.parse().ok());
    if let (Some(expected), Some(inode)) = (expected, inode)
        && expected != inode
    {
        return Target::Reused;
    }
    named(&link.to_string_lossy(), &info, inode.or(expected))
}

/// The target that a link in `/proc/PID/fd` names, with its fdinfo.
fn named(link: &str, info: &str, inode: Option<u64>) -> Target {
    let number =
        |kind: &str| link.strip_prefix(kind)?.strip_prefix(":[")?.strip_suffix(']')?.parse::<u64>().ok();
    if let Some(inode) = number("pipe") {
        return Target::Pipe { inode };
    }
    if let Some(inode) = number("socket") {
        return Target::Socket { family: None, inode };
    }
    if let Some(name) = link.strip_prefix("anon_inode:") {
        return anonymous(name.trim_matches(['[', ']']), info);
    }
    // Since Linux 6.9 a pidfd has a file system of its own.
    if number("pidfd").is_some() {
        return Target::Pidfd { pid: field(info, "Pid:").and_then(|pid| pid.parse().ok()) };
    }
    let (path, deleted) = link.strip_suffix(" (deleted)").map_or((link, false), |path| (path, true));
    if let Some(name) = path.strip_prefix("/memfd:") {
        return Target::Memfd { name: name.to_owned(), inode };
    }
    Target::File { path: path.to_owned(), inode, deleted }
}

fn anonymous(name: &str, info: &str) -> Target {
    match name {
        "eventfd" => Target::Eventfd { id: field(info, "eventfd-id:").and_then(|id| id.parse().ok()) },
        "eventpoll" => {
            Target::Epoll { watched: info.lines().filter(|line| line.starts_with("tfd:")).count() }
        }
        "timerfd" => Target::Timerfd,
        "signalfd" => Target::Signalfd { mask: field(info, "sigmask:").map(str::to_owned) },
        "inotify" => Target::Inotify,
        "fanotify" => Target::Fanotify,
        "io_uring" => Target::IoUring,
        "pidfd" => Target::Pidfd { pid: field(info, "Pid:").and_then(|pid| pid.parse().ok()) },
        other => Target::Anonymous { name: other.to_owned() },
    }
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_name_their_targets() {
        for (link, info, expected) in [
            ("pipe:[7]", "", Target::Pipe { inode: 7 }),
            ("socket:[8]", "", Target::Socket { family: None, inode: 8 }),
            ("anon_inode:[eventfd]", "eventfd-id: 3\n", Target::Eventfd { id: Some(3) }),
            ("anon_inode:inotify", "", Target::Inotify),
            ("anon_inode:[eventpoll]", "pos:\t0\ntfd: 5\ntfd: 6\n", Target::Epoll { watched: 2 }),
            ("anon_inode:[pidfd]", "Pid:\t42\n", Target::Pidfd { pid: Some(42) }),
            ("pidfd:[99]", "Pid:\t42\n", Target::Pidfd { pid: Some(42) }),
            ("anon_inode:kvm-vcpu:0", "", Target::Anonymous { name: "kvm-vcpu:0".into() }),
            ("/memfd:cache (deleted)", "", Target::Memfd { name: "cache".into(), inode: Some(1) }),
            ("/var/a b", "", Target::File { path: "/var/a b".into(), inode: Some(1), deleted: false }),
            ("/var/a (deleted)", "", Target::File { path: "/var/a".into(), inode: Some(1), deleted: true }),
        ] {
            assert_eq!(named(link, info, Some(1)), expected, "{link}");
        }
    }
}
