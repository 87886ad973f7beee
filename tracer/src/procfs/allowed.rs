//! What a reader reads, and nothing else: an agent that somebody has taken over may ask for anything, but gets no file's
//! contents by it. Pure.

use super::{ask::ReadRequest, symbols::ADDRESSES_MAX};

/// Files of `/proc/PID`, and of a thread's directory there, that are read.
const FILES: &[&str] = &[
    "auxv",
    "cgroup",
    "children",
    "cmdline",
    "comm",
    "io",
    "maps",
    "mountinfo",
    "sched",
    "schedstat",
    "stack",
    "stat",
    "status",
    "syscall",
    "wchan",
];
/// Tables of a process's network namespace.
const TABLES: &[&str] = &["fib_trie", "if_inet6", "nf_conntrack", "tcp", "tcp6", "udp", "udp6", "unix"];
/// Links that are followed by name only: what they lead to is not opened.
const LINKS: &[&str] = &["cwd", "exe"];
/// Namespaces, which may be told apart, and of which the network's may be entered by who has the right to.
const NAMESPACES: &[&str] = &["ipc", "mnt", "net"];
/// Files of the host's that are about no process, or about pods by name.
const HOST_FILES: &[&str] = &["/proc/locks"];
const HOST_FOLDERS: &[&str] = &["/proc", "/var/log/containers", "/var/log/pods"];
/// Sections of programs that are looked for: the rules for unwinding, where no index leads to them, and Go's table of functions.
const SECTIONS: &[&str] = &[".eh_frame", ".gopclntab", ".data.rel.ro.gopclntab"];
/// As much of a process's memory as is read at a time: a set of 4,096 fds, a path.
const MEMORY_BYTES_MAX: usize = 64 * 1024;

/// Whether a question may be answered.
pub fn is_allowed(ask: &ReadRequest) -> bool {
    match ask {
        ReadRequest::File { path, .. } => {
            HOST_FILES.contains(&path.as_str())
                || is_cgroup_switch(path)
                || is_fuse_queue(path)
                || below(path, |parts| match parts {
                    [file] => FILES.contains(file),
                    ["net", table] => TABLES.contains(table),
                    ["fdinfo", fd] => is_number(fd),
                    _ => false,
                })
        }
        ReadRequest::Link { path } => below(path, |parts| match parts {
            [link] => LINKS.contains(link),
            ["fd", fd] => is_number(fd),
            ["ns", namespace] => NAMESPACES.contains(namespace),
            _ => false,
        }),
        ReadRequest::Names { path } => {
            HOST_FOLDERS.contains(&path.as_str()) || below(path, |parts| matches!(parts, ["task" | "fd"]))
        }
        ReadRequest::Links { path } => below(path, |parts| matches!(parts, ["fd" | "ns"])),
        ReadRequest::Stat { path } => below(path, |parts| match parts {
            [] | ["task"] => true,
            ["fd", fd] => is_number(fd),
            ["ns", namespace] => NAMESPACES.contains(namespace),
            // Whether it is a FIFO: what it is, not what is in it.
            ["root", rest @ ..] => !rest.contains(&".."),
            _ => false,
        }),
        ReadRequest::Open { path } => below(path, |parts| matches!(parts, ["ns", "net"])),
        ReadRequest::Memory { length, .. } => *length <= MEMORY_BYTES_MAX,
        ReadRequest::Text { limit, .. } => *limit <= MEMORY_BYTES_MAX,
        // The names of its functions, and where sections belong, are all that comes of a file, and only of an ELF file or a map of
        // compiled code.
        ReadRequest::Symbols { path, inode, addresses } => {
            let is_map = |path: &[&str]| matches!(path, ["root", "tmp", map] if is_perf_map(map));
            addresses.len() <= ADDRESSES_MAX
                && below(path, |parts| if *inode == 0 { is_map(parts) } else { is_program(parts) })
        }
        ReadRequest::Section { path, inode, section } => {
            SECTIONS.contains(&section.as_str()) && *inode != 0 && below(path, is_program)
        }
        ReadRequest::Drain => true,
    }
}

/// Whether a path is one of a process's directory, or of a thread's in it, and the rest of it as it should be.
fn below(path: &str, is_so: impl Fn(&[&str]) -> bool) -> bool {
    let Some(rest) = path.strip_prefix("/proc/") else { return false };
    let parts: Vec<&str> = rest.split('/').collect();
    match &parts[..] {
        [pid, "task", tid, rest @ ..] if is_number(pid) && is_number(tid) => is_so(rest),
        [pid, rest @ ..] if is_number(pid) => is_so(rest),
        _ => false,
    }
}

/// Whether a path below a process's directory may lead to its program or a library.
fn is_program(parts: &[&str]) -> bool {
    match parts {
        ["exe"] | ["map_files", _] => true,
        ["root", rest @ ..] => !rest.contains(&".."),
        _ => false,
    }
}

/// The files that say whether a cgroup is frozen, wherever the hierarchy is mounted.
fn is_cgroup_switch(path: &str) -> bool {
    let name = path.rsplit_once('/').map_or("", |(_, name)| name);
    path.starts_with("/sys/fs/cgroup/")
        && !path.split('/').any(|part| part == "..")
        && matches!(name, "cgroup.freeze" | "freezer.self_freezing")
}

/// Whether a file's name is one that a compiler gives to its map (tools/perf/Documentation/jit-interface.txt).
pub fn is_perf_map(name: &str) -> bool {
    name.strip_prefix("perf-").and_then(|name| name.strip_suffix(".map")).is_some_and(is_number)
}

/// The files that say how many requests a FUSE file system has not answered.
fn is_fuse_queue(path: &str) -> bool {
    let of = |rest: &str| rest.strip_suffix("/waiting").is_some_and(is_number);
    path.strip_prefix("/sys/fs/fuse/connections/").is_some_and(of)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> ReadRequest {
        ReadRequest::File { path: path.into(), limit: 1 }
    }

    fn symbols(path: &str, inode: u64) -> ReadRequest {
        ReadRequest::Symbols { path: path.into(), inode, addresses: vec![1] }
    }

    #[test]
    fn what_tracer_looks_at_may_be_read() {
        for ask in [
            file("/proc/1/status"),
            file("/proc/1/task/2/stat"),
            file("/proc/1/net/tcp6"),
            file("/proc/1/net/fib_trie"),
            file("/proc/1/fdinfo/3"),
            file("/proc/1/task/2/fdinfo/3"),
            file("/proc/locks"),
            file("/sys/fs/cgroup/freezer/a/freezer.self_freezing"),
            file("/sys/fs/fuse/connections/45/waiting"),
            ReadRequest::Link { path: "/proc/1/exe".into() },
            ReadRequest::Link { path: "/proc/1/task/1/fd/7".into() },
            ReadRequest::Names { path: "/proc".into() },
            ReadRequest::Names { path: "/proc/1/task".into() },
            ReadRequest::Links { path: "/proc/1/fd".into() },
            ReadRequest::Stat { path: "/proc/1".into() },
            ReadRequest::Stat { path: "/proc/1/task/2".into() },
            ReadRequest::Stat { path: "/proc/1/ns/net".into() },
            ReadRequest::Link { path: "/proc/1/ns/mnt".into() },
            ReadRequest::Stat { path: "/proc/1/root/srv/fifo".into() },
            ReadRequest::Open { path: "/proc/1/ns/net".into() },
            ReadRequest::Memory { pid: 1, address: 0, length: 32_768 },
            ReadRequest::Drain,
            symbols("/proc/1/map_files/7f00-7f10", 7),
            symbols("/proc/1/exe", 7),
            symbols("/proc/1/root/usr/lib/libc.so.6", 7),
            symbols("/proc/1/root/tmp/perf-12.map", 0),
            ReadRequest::Section { path: "/proc/1/exe".into(), inode: 7, section: ".eh_frame".into() },
        ] {
            assert!(is_allowed(&ask), "{ask:?}");
        }
    }

    #[test]
    fn nothing_else_may() {
        for ask in [
            file("/etc/shadow"),
            file("/proc/1/environ"),
            file("/proc/1/mem"),
            file("/proc/1/fd/3"),
            file("/proc/1/root/etc/shadow"),
            file("/proc/1/cwd/secret"),
            file("/proc/1/exe"),
            file("/proc/self/status"),
            file("/proc/1/../kcore"),
            file("/proc/1/task/../mem"),
            file("/proc/1/net/../environ"),
            file("/proc/1/fdinfo/"),
            file("/proc/kcore"),
            file("/sys/fs/cgroup/../../../etc/cgroup.freeze"),
            file("/sys/fs/cgroup/a/cgroup.procs"),
            file("/sys/fs/fuse/connections/45/abort"),
            file("/sys/fs/fuse/connections/../waiting"),
            ReadRequest::Open { path: "/proc/1/fd/3".into() },
            ReadRequest::Open { path: "/etc/shadow".into() },
            ReadRequest::Stat { path: "/proc/1/cwd/x".into() },
            ReadRequest::Stat { path: "/proc/1/root/a/../b".into() },
            ReadRequest::Names { path: "/root".into() },
            ReadRequest::Names { path: "/proc/1/cwd".into() },
            ReadRequest::Links { path: "/proc/1/map_files".into() },
            ReadRequest::Link { path: "/proc/1/root/x".into() },
            ReadRequest::Memory { pid: 1, address: 0, length: 1 << 20 },
            symbols("/proc/1/root/etc/shadow", 0),
            symbols("/proc/1/root/tmp/perf-x.map", 0),
            symbols("/proc/1/root/a/../b", 7),
            symbols("/proc/1/fd/3", 7),
            ReadRequest::Section { path: "/proc/1/exe".into(), inode: 7, section: ".data".into() },
            ReadRequest::Section { path: "/proc/1/exe".into(), inode: 0, section: ".eh_frame".into() },
            symbols("/usr/bin/php", 7),
            ReadRequest::Symbols { path: "/proc/1/exe".into(), inode: 7, addresses: vec![0; 257] },
        ] {
            assert!(!is_allowed(&ask), "{ask:?}");
        }
    }
}
