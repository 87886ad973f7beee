//! Who holds a process that neither waits nor runs: its debugger, or the freezer of its cgroup.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    model::wait::ProcessId,
    procfs::{Reads, by_pid},
    resolve::peers::Peer,
};

/// A frozen cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrozenGroup {
    /// Its path below the hierarchy's root.
    pub path: String,
    /// The file that thaws it.
    pub switch: PathBuf,
    /// What to write there.
    pub thaw: &'static str,
}

/// The process that traces a thread.
pub fn tracer(tid: u32, reads: &mut Reads) -> Option<Peer> {
    // It is a thread that traces, and its id that the kernel shows.
    let by = field(tid, "TracerPid:", reads)?;
    let pid = field(by, "Tgid:", reads)?;
    Some(Peer { pid, comm: reads.comm(by_pid(pid))? })
}

/// A number in the status of a process or thread.
fn field(id: u32, name: &str, reads: &mut Reads) -> Option<u32> {
    let status = reads.text(by_pid(id), "status")?;
    status.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
}

/// The group, its own or one above, whose switch froze a process.
pub fn frozen_group(process: ProcessId, reads: &mut Reads) -> Option<FrozenGroup> {
    let groups = reads.text(process, "cgroup")?;
    // Its own mounts, which the kernel lists without asking any of them.
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let of = |line: &str| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let unified = controllers.is_empty();
        if !unified && !controllers.split(',').any(|controller| controller == "freezer") {
            return None;
        }
        let root = mounted(&mounts, unified)?;
        Path::new(path).ancestors().find_map(|group| switch(&root, group, unified, reads))
    };
    groups.lines().find_map(of)
}

/// The switch of a group, if it is on.
fn switch(root: &Path, group: &Path, unified: bool, reads: &mut Reads) -> Option<FrozenGroup> {
    let dir = root.join(group.strip_prefix("/").unwrap_or(group));
    let (file, on, thaw) =
        if unified { ("cgroup.freeze", "1", "0") } else { ("freezer.self_freezing", "1", "THAWED") };
    let state = reads.host_file(dir.join(file).to_str()?)?;
    let switch = dir.join(if unified { file } else { "freezer.state" });
    (state.trim_ascii() == on.as_bytes()).then(|| FrozenGroup {
        path: group.display().to_string(),
        switch,
        thaw,
    })
}

/// Where the hierarchy with the freezer is mounted.
pub fn mounted(mounts: &str, unified: bool) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (place, kind, options) = (words.next()?, words.next()?, words.next()?);
        let this = match unified {
            true => kind == "cgroup2",
            false => kind == "cgroup" && options.split(',').any(|option| option == "freezer"),
        };
        this.then(|| PathBuf::from(place))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hierarchy_is_found_where_it_is_mounted() {
        let mounts = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw,nosuid 0 0\n\
                      cgroup /sys/fs/cgroup/freezer cgroup rw,freezer 0 0\n";
        assert_eq!(mounted(mounts, true), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mounted(mounts, false), Some("/sys/fs/cgroup/freezer".into()));
        assert_eq!(mounted("", true), None);
    }

    #[test]
    fn nobody_traces_this_test() {
        // Pid 0 has no name.
        assert_eq!(tracer(std::process::id(), &mut Reads::new()), None);
    }
}
