//! What is said of calls that the kernel holds up: storage, a file system's server, and whoever holds a lock inside the kernel.

use super::{on, others};
use crate::{
    model::obstacles::{Obstacle, obstacle},
    model::syscalls::Syscall,
    model::target::Target,
    resolve::Resolved,
    resolve::mounts::Mount,
    resolve::peers::{Peers, Role},
};

pub(super) fn disk(syscall: Syscall, resolved: &Resolved) -> String {
    let target = &resolved.target;
    let obstacle = resolved.stack.as_ref().and_then(obstacle);
    match (obstacle, target) {
        // Which page it is says more.
        (_, Target::Page { .. }) => storage(syscall, target) + &server(resolved),
        (None | Some(Obstacle::Storage), _) => storage(syscall, target) + &server(resolved),
        (Some(obstacle), _) => held_up(obstacle, syscall, resolved),
    }
}

/// What holds a call up that the kernel's own functions name.
fn held_up(obstacle: Obstacle, syscall: Syscall, resolved: &Resolved) -> String {
    let (call, on) = (syscall.name(), on(&resolved.target));
    let who = behind(resolved);
    let aside = who.as_ref().map_or_else(String::new, |who| format!(", {who},"));
    match obstacle {
        Obstacle::Server(kind) => {
            let article = if kind.starts_with(['A', 'N', 'O', 'S']) { "an" } else { "a" };
            let server = server(resolved);
            format!("for the server of {article} {kind} file system to answer {call}{on}{server}")
        }
        Obstacle::Automount => format!("for the automount daemon{aside} to finish its mount, in {call}{on}"),
        Obstacle::Permission => format!("for a fanotify listener{aside} to allow {call}{on}"),
        Obstacle::Lease => {
            let holder = who.unwrap_or_else(|| "another process".into());
            format!("for {holder} to give up its lease, in {call}{on}")
        }
        Obstacle::Frozen => match mount(resolved) {
            Some(Mount { place, .. }) => {
                format!("for {call}{on} to go on: the file system at {place} is frozen")
            }
            None => format!("for {call}{on} to go on: the file system is frozen"),
        },
        Obstacle::MemoryLimit => {
            format!("for memory, in {call}{on}: its control group has reached its limit")
        }
        Obstacle::Writeback => format!("for storage to catch up with writes, in {call}{on}"),
        Obstacle::Userfault => userfault(syscall, who, resolved.peers.as_ref()),
        Obstacle::Lookup => {
            format!("for another thread's lookup of the same name, in {call}{on}{}", held_by(who))
        }
        Obstacle::KernelLock => match who {
            Some(who) => format!("for a lock inside the kernel that {who} holds, in {call}{on}"),
            None => format!("for a lock inside the kernel that another thread holds, in {call}{on}"),
        },
        Obstacle::Storage => storage(syscall, &resolved.target),
    }
}

/// A page that a process is to supply, and who that is.
fn userfault(syscall: Syscall, who: Option<String>, peers: Option<&Peers>) -> String {
    let handed = match syscall {
        Syscall::PageFault => String::new(),
        call => format!(", passed to {},", call.name()),
    };
    let stopped = if peers.is_some_and(|peers| peers.stopped) { ", which is stopped," } else { "" };
    let server = match (who, peers) {
        (Some(who), _) => format!("{who}{stopped}"),
        (None, Some(Peers { own: true, .. })) => "its own process".into(),
        (None, _) => "another process".into(),
    };
    let verb = if peers.is_some_and(|peers| peers.number() > 1) { "are" } else { "is" };
    format!("for a page of memory{handed} that {server} {verb} to supply (userfaultfd)")
}

fn held_by(who: Option<String>) -> String {
    who.map_or_else(String::new, |who| format!(": {who} makes it"))
}

fn mount(resolved: &Resolved) -> Option<&Mount> {
    resolved.peers.as_ref()?.mount.as_deref()
}

/// Who has to act before the kernel goes on, with how sure that is.
fn behind(resolved: &Resolved) -> Option<String> {
    let peers = resolved.peers.as_ref()?;
    let who = match &peers.owner {
        Some(owner) => format!("thread {} ({})", owner.tid, owner.comm),
        None => others(Some(peers))?,
    };
    Some(if peers.certain { who } else { format!("probably {who}") })
}

/// Who serves a file system: a process of this host, and what has become of it, or what the mount names.
fn server(resolved: &Resolved) -> String {
    let is = |of: fn(&Peers) -> bool| resolved.peers.as_ref().is_some_and(of);
    let stopped = is(|peers| peers.stopped);
    match (behind(resolved), mount(resolved)) {
        _ if !is(|peers| peers.role == Role::Server) => String::new(),
        (Some(who), _) if stopped => format!("; its server is {who}, which is stopped"),
        (Some(who), _) => format!("; its server is {who}"),
        (None, Some(_)) if is(|peers| peers.own) => "; its server is this very process".into(),
        (None, Some(mount)) if !mount.is_fuse() => {
            format!("; {} is mounted at {}", mount.source, mount.place)
        }
        (None, _) => String::new(),
    }
}

fn storage(syscall: Syscall, target: &Target) -> String {
    match target {
        Target::Page { path } => {
            let handed = match syscall {
                Syscall::PageFault => String::new(),
                call => format!(" it passed to {}", call.name()),
            };
            format!("for a page of memory{handed} to be read in, probably from {path}")
        }
        _ if syscall == Syscall::PageFault => {
            "for a page of memory to be read in: disk, NFS, FUSE or userfaultfd".into()
        }
        Target::File { pseudo_fs: true, .. } => {
            format!("for the kernel to finish {}{}", syscall.name(), on(target))
        }
        Target::Device { .. } | Target::Tty { .. } => {
            format!("for the device to finish {}{}", syscall.name(), on(target))
        }
        _ => format!("for storage to finish {}{}", syscall.name(), on(target)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diagnose::sentence::tests::of, diagnose::verdict::tests as samples, model::stack::KernelStack,
        resolve::mounts::MountTable, resolve::peers::Peer,
    };

    /// A wait that sleeps in this function on a path, behind somebody.
    fn held_up_by(function: &str, certain: bool, stopped: bool, mount: &str) -> Resolved {
        let path = "/m/f".to_owned();
        let target = Target::File { path, inode: None, deleted: false, pseudo_fs: false };
        let others = [Peer { pid: 812, comm: "sshfs".into() }].into();
        let mount = MountTable::parse(mount).of_path("/m/f").cloned().map(Into::into);
        let served = ["fuse", "folio", "rpc"].iter().any(|begin| function.starts_with(begin));
        let role = if served { Role::Server } else { Role::LockHolder };
        let peers = Some(Peers { others, role, certain, stopped, mount, ..Peers::default() });
        let stack = Some(KernelStack::parse(function));
        Resolved { peers, stack, ..samples::on(Syscall::Stat, target) }
    }

    #[test]
    fn who_is_to_supply_a_page_is_named() {
        for (call, certain, stopped, says) in [
            (Syscall::PageFault, true, false, "for a page of memory that sshfs (pid 812) is to supply"),
            (
                Syscall::PageFault,
                false,
                false,
                "for a page of memory that probably sshfs (pid 812) is to supply",
            ),
            (
                Syscall::Write,
                true,
                true,
                "for a page of memory, passed to write, that sshfs (pid 812), which is stopped, is to supply",
            ),
        ] {
            let said = of(call, &held_up_by("handle_userfault", certain, stopped, ""));
            assert_eq!(said, format!("waiting 1m 0s {says} (userfaultfd)"));
        }
        let mut resolved = held_up_by("handle_userfault", false, false, "");
        if let Some(peers) = &mut resolved.peers {
            peers.more = 2;
        }
        let says = "probably sshfs (pid 812) and 2 more are to supply (userfaultfd)";
        assert!(of(Syscall::PageFault, &resolved).ends_with(says));
        for (own, says) in [(true, "its own process"), (false, "another process")] {
            resolved.peers = Some(Peers { own, ..Peers::default() });
            let said = of(Syscall::PageFault, &resolved);
            assert_eq!(
                said,
                format!("waiting 1m 0s for a page of memory that {says} is to supply (userfaultfd)")
            );
        }
    }

    #[test]
    fn whom_the_kernel_waits_for_is_named() {
        let (fuse, nfs) = ("36 28 0:45 / /m rw - fuse.sshfs h: rw", "36 28 0:46 / /m rw - nfs4 h:/x rw");
        for (function, certain, stopped, mount, says) in [
            (
                "fuse_lookup",
                true,
                true,
                fuse,
                "for the server of a FUSE file system to answer stat on /m/f; its server is sshfs (pid 812), which is stopped",
            ),
            (
                "fuse_lookup",
                false,
                false,
                fuse,
                "for the server of a FUSE file system to answer stat on /m/f; its server is probably sshfs (pid 812)",
            ),
            (
                "folio_wait_bit_common",
                true,
                true,
                fuse,
                "for storage to finish stat on /m/f; its server is sshfs (pid 812), which is stopped",
            ),
            (
                "fanotify_get_response",
                true,
                false,
                "",
                "for a fanotify listener, sshfs (pid 812), to allow stat on /m/f",
            ),
            (
                "autofs_wait",
                true,
                false,
                "",
                "for the automount daemon, sshfs (pid 812), to finish its mount, in stat on /m/f",
            ),
            (
                "__mutex_lock",
                false,
                false,
                "",
                "for a lock inside the kernel that probably sshfs (pid 812) holds, in stat on /m/f",
            ),
            (
                "d_alloc_parallel",
                true,
                false,
                "",
                "for another thread's lookup of the same name, in stat on /m/f: sshfs (pid 812) makes it",
            ),
        ] {
            let said = of(Syscall::Stat, &held_up_by(function, certain, stopped, mount));
            assert_eq!(said, format!("waiting 1m 0s {says}"));
        }
        let mut resolved = held_up_by("rpc_wait_bit_killable", true, false, nfs);
        if let Some(peers) = &mut resolved.peers {
            peers.others = [].into();
        }
        let says = "for the server of an NFS file system to answer stat on /m/f; h:/x is mounted at /m";
        assert_eq!(of(Syscall::Stat, &resolved), format!("waiting 1m 0s {says}"));
        let mut resolved = held_up_by("fuse_lookup", true, false, fuse);
        if let Some(peers) = &mut resolved.peers {
            (peers.others, peers.own) = ([].into(), true);
        }
        assert!(of(Syscall::Stat, &resolved).ends_with("; its server is this very process"));
    }
}
