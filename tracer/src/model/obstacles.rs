//! What do the functions of the kernel say that a thread sleeps in? One table: function, what it means, and so whom to look for.
//! Pure.

use std::borrow::Cow;

use crate::model::stack::KernelStack;

/// What holds a thread up inside the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Obstacle {
    /// The server of this kind of file system does not answer: a process (FUSE) or a host.
    Server(&'static str),
    /// A daemon is to mount something first (autofs).
    Automount,
    /// A process that was asked for permission (fanotify) has not given it.
    Permission,
    /// Another process is to give a lease back first.
    Lease,
    /// The file system is frozen.
    Frozen,
    /// The cgroup has no memory left, and nobody was killed for it.
    MemoryLimit,
    /// What is written has to reach storage before more may be.
    Writeback,
    /// A process that serves page faults (userfaultfd) has not served this one.
    Userfault,
    /// Somebody else looks the same name up.
    Lookup,
    /// A lock inside the kernel, which another thread holds.
    KernelLock,
    /// Storage.
    Storage,
}

impl Obstacle {
    /// What it means, in a few words behind the functions that say so.
    pub fn words(self) -> Cow<'static, str> {
        match self {
            Obstacle::Server(kind) => format!("a {kind} server does not answer").into(),
            Obstacle::Automount => "an automount is not finished".into(),
            Obstacle::Permission => "a fanotify listener has not answered".into(),
            Obstacle::Lease => "a lease is not given up".into(),
            Obstacle::Frozen => "the file system is frozen".into(),
            Obstacle::MemoryLimit => "the control group has no memory left".into(),
            Obstacle::Writeback => "storage is behind with writes".into(),
            Obstacle::Userfault => "a userfaultfd handler has not supplied a page".into(),
            Obstacle::Lookup => "another thread looks the same name up".into(),
            Obstacle::KernelLock => "another thread holds a lock of the kernel's".into(),
            Obstacle::Storage => "storage has not answered".into(),
        }
    }
}

/// Beginnings of names of functions, the telling ones before those that more than one thing goes through.
#[rustfmt::skip]
const MEANINGS: &[(&str, Obstacle)] = &[
    // fs/fuse/dev.c, fs/fuse/file.c
    ("request_wait_answer", Obstacle::Server("FUSE")),
    ("fuse_", Obstacle::Server("FUSE")),
    ("virtio_fs_", Obstacle::Server("virtiofs")),
    // net/sunrpc/sched.c, fs/nfs
    ("rpc_wait", Obstacle::Server("NFS")), ("nfs_", Obstacle::Server("NFS")), ("nfs3_", Obstacle::Server("NFS")),
    ("nfs4_", Obstacle::Server("NFS")),
    ("cifs_", Obstacle::Server("SMB")), ("smb2_", Obstacle::Server("SMB")), ("compound_send_recv", Obstacle::Server("SMB")),
    ("ceph_", Obstacle::Server("Ceph")), ("v9fs_", Obstacle::Server("9p")), ("p9_client_", Obstacle::Server("9p")),
    ("afs_", Obstacle::Server("AFS")), ("ocfs2_", Obstacle::Server("OCFS2")), ("gfs2_glock", Obstacle::Server("GFS2")),
    // fs/autofs/waitq.c
    ("autofs_wait", Obstacle::Automount),
    // fs/notify/fanotify/fanotify.c
    ("fanotify_get_response", Obstacle::Permission), ("fanotify_handle_event", Obstacle::Permission),
    // fs/locks.c
    ("__break_lease", Obstacle::Lease),
    // fs/super.c: writers wait in percpu_rwsem_wait for the file system to be thawed
    ("sb_start_write", Obstacle::Frozen), ("__sb_start_write", Obstacle::Frozen), ("percpu_rwsem_wait", Obstacle::Frozen),
    ("__percpu_down_read", Obstacle::Frozen),
    // mm/memcontrol.c
    ("mem_cgroup_oom_synchronize", Obstacle::MemoryLimit), ("mem_cgroup_handle_over_high", Obstacle::MemoryLimit),
    // mm/page-writeback.c, block/blk-wbt.c
    ("balance_dirty_pages", Obstacle::Writeback), ("wbt_wait", Obstacle::Writeback),
    // fs/userfaultfd.c
    ("handle_userfault", Obstacle::Userfault),
    // fs/dcache.c
    ("d_alloc_parallel", Obstacle::Lookup), ("d_wait_lookup", Obstacle::Lookup),
    // kernel/locking
    ("rwsem_down_", Obstacle::KernelLock), ("__mutex_lock", Obstacle::KernelLock), ("mutex_lock", Obstacle::KernelLock),
    ("__down_", Obstacle::KernelLock), ("__lock_sock", Obstacle::KernelLock),
    // What waits for a page or a block, wherever that is stored
    ("folio_wait", Obstacle::Storage), ("__folio_lock", Obstacle::Storage), ("wait_on_page", Obstacle::Storage),
    ("__lock_page", Obstacle::Storage), ("io_schedule", Obstacle::Storage), ("blk_", Obstacle::Storage),
    ("submit_bio_wait", Obstacle::Storage), ("__blkdev_", Obstacle::Storage), ("blkdev_", Obstacle::Storage),
    ("jbd2_", Obstacle::Storage), ("xlog_", Obstacle::Storage), ("xfs_log_", Obstacle::Storage), ("dm_", Obstacle::Storage),
    ("md_", Obstacle::Storage), ("wait_on_buffer", Obstacle::Storage), ("__wait_on_buffer", Obstacle::Storage),
    ("scsi_", Obstacle::Storage), ("nvme_", Obstacle::Storage), ("sync_inodes_sb", Obstacle::Storage),
    ("wb_wait_for_completion", Obstacle::Storage), ("writeback_", Obstacle::Storage), ("netfs_", Obstacle::Storage),
];

/// Beginnings of names of functions that sleep for nothing but a lock, if they are the innermost: the functions in which a lock is waited
/// for are the scheduler's, which the kernel leaves out (`in_sched_functions`).
#[rustfmt::skip]
const LOCKS: &[&str] = &[
    // fs/namei.c: directories are locked while names in them are looked up, made or taken away.
    "walk_component", "lookup_slow", "__lookup_slow", "link_path_walk", "open_last_lookups", "path_openat", "lookup_open",
    "do_unlinkat", "do_rmdir", "filename_create", "lock_rename", "do_renameat2", "do_linkat", "lookup_one", "vfs_rename",
    // Files, while they are written or their attributes change.
    "fuse_file_write_iter", "fuse_cache_write_iter", "fuse_direct_write_iter", "fuse_lock_inode", "generic_file_write_iter",
    "ext4_file_write_iter", "ext4_buffered_write_iter", "ext4_dio_write_iter", "xfs_ilock", "xfs_file_", "btrfs_inode_lock",
    "nfs_start_io_", "nfs_file_write", "do_truncate", "chmod_common", "chown_common", "vfs_utimes", "vfs_setxattr",
    "vfs_removexattr", "iterate_dir", "vfs_fallocate", "vfs_setpos",
    // The position of an open file, which its readers share (fs/file.c).
    "__fdget_pos", "fdget_pos", "__f_lock_pos", "file_f_pos_lock",
    // Mounts and super blocks.
    "namespace_lock", "lock_mount", "do_lock_mount", "super_lock", "down_super", "iterate_supers", "grab_super",
];

/// Beginnings of names of functions that take the kind of lock a frozen file system has, and are about none.
const ELSEWHERE: &[&str] = &["cgroup", "copy_process", "uprobe", "register_for_each_vma"];

/// What holds a thread up that sleeps there; `None` where its functions say nothing.
///
/// The innermost telling function decides. Where that is storage, the server of a file system further out wins; a lock counts only
/// where it is innermost.
pub fn obstacle(stack: &KernelStack) -> Option<Obstacle> {
    let locks = |function: &String| LOCKS.iter().any(|begin| function.starts_with(begin));
    if stack.lock().is_some() || stack.functions().first().is_some_and(locks) {
        return Some(Obstacle::KernelLock);
    }
    let meaning = |function: &String| {
        MEANINGS.iter().find(|(begin, _)| function.starts_with(begin)).map(|(_, meaning)| *meaning)
    };
    let mut met = stack.functions().iter().filter_map(meaning);
    let innermost = met.next()?;
    match innermost {
        // Control groups and probes have such locks, too.
        Obstacle::Frozen if ELSEWHERE.iter().any(|begin| stack.has(begin)) => Some(Obstacle::KernelLock),
        // Whose lock, or whose page it is, may be said further out.
        Obstacle::Storage => {
            Some(met.find(|outer| matches!(outer, Obstacle::Server(_))).unwrap_or(innermost))
        }
        _ => Some(innermost),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::stack::KernelLock;

    #[test]
    fn functions_say_what_holds_a_thread_up() {
        for (stack, meaning) in [
            ("request_wait_answer\n__fuse_simple_request\nfuse_lookup_name", Some(Obstacle::Server("FUSE"))),
            (
                "rpc_wait_bit_killable\n__wait_on_bit\nrpc_wait_for_completion_task",
                Some(Obstacle::Server("NFS")),
            ),
            ("folio_wait_bit_common\nfuse_readahead", Some(Obstacle::Server("FUSE"))),
            ("folio_wait_bit_common\nfilemap_update_page\nfilemap_read", Some(Obstacle::Storage)),
            ("io_schedule\n__blkdev_direct_IO_simple\nblkdev_read_iter", Some(Obstacle::Storage)),
            // Behind somebody who waits for the server: who holds the lock is to be looked for.
            ("fuse_file_write_iter\nvfs_write", Some(Obstacle::KernelLock)),
            ("walk_component\nlink_path_walk\npath_lookupat", Some(Obstacle::KernelLock)),
            ("do_unlinkat\n__x64_sys_unlink", Some(Obstacle::KernelLock)),
            (
                "request_wait_answer\nfuse_lookup\n__lookup_slow\nwalk_component",
                Some(Obstacle::Server("FUSE")),
            ),
            ("rwsem_down_write_slowpath\nfuse_file_write_iter", Some(Obstacle::KernelLock)),
            ("__mutex_lock\nfdget_pos\nksys_read", Some(Obstacle::KernelLock)),
            ("d_alloc_parallel\nlookup_open\npath_openat", Some(Obstacle::Lookup)),
            ("fanotify_handle_event\nfsnotify\ndo_dentry_open", Some(Obstacle::Permission)),
            ("autofs_wait\nautofs_mount_wait\nautofs_d_automount", Some(Obstacle::Automount)),
            ("percpu_rwsem_wait\n__percpu_down_read\nmnt_want_write", Some(Obstacle::Frozen)),
            ("percpu_rwsem_wait\n__percpu_down_read\ncgroup_can_fork", Some(Obstacle::KernelLock)),
            ("__break_lease\ndo_dentry_open", Some(Obstacle::Lease)),
            ("mem_cgroup_oom_synchronize\npagefault_out_of_memory", Some(Obstacle::MemoryLimit)),
            ("handle_userfault\nhandle_mm_fault", Some(Obstacle::Userfault)),
            ("pipe_wait_readable\npipe_read\nvfs_read", None),
            ("", None),
        ] {
            assert_eq!(obstacle(&KernelStack::parse(stack)), meaning, "{stack}");
        }
    }

    #[test]
    fn the_kernel_may_say_itself_that_it_is_a_lock() {
        let stack = KernelStack::parse("vfs_write\nksys_write");
        assert_eq!(obstacle(&stack), None);
        let locked = stack.with_lock(Some(KernelLock { holder: None }));
        assert_eq!(obstacle(&locked), Some(Obstacle::KernelLock));
    }

    /// A row behind another that begins likewise would never be met.
    #[test]
    fn each_row_can_be_met() {
        for (at, (begin, _)) in MEANINGS.iter().enumerate() {
            let shadowed = MEANINGS[..at].iter().find(|(earlier, _)| begin.starts_with(earlier));
            assert_eq!(shadowed, None, "{begin}");
        }
    }
}
