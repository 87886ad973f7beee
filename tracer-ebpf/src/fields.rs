//! Every kernel field the programs read, once: the global that carries its offset and where it is found.
//!
//! Rust emits no CO-RE relocations, so tracer looks the offsets up in the running kernel's BTF when it starts and hands
//! them to the programs as read-only globals, which the verifier knows as constants.
//!
//! A path may name alternatives (`"__state" | "state"`): the first that the running kernel has is taken, older names
//! and other machines' names last. Elements of arrays are written `regs[2]`. `optional` fields become
//! [`MISSING`](crate::abi::MISSING) where no alternative exists; without a required one tracer cannot use BPF.

/// Calls `$callback!` with the table, so that the kernel's half can make globals of it and tracer's a list.
#[macro_export]
macro_rules! kernel_fields {
    ($callback:ident) => {
        $callback! {
            // The thread.
            TASK_STATE: required "task_struct" "__state" | "state";
            TASK_FLAGS: required "task_struct" "flags";
            TASK_TGID: required "task_struct" "tgid";
            TASK_PID: required "task_struct" "pid";
            TASK_COMM: required "task_struct" "comm";
            TASK_LEADER: required "task_struct" "group_leader";
            TASK_START: required "task_struct" "start_boottime" | "real_start_time";
            TASK_STACK: required "task_struct" "stack";
            TASK_FILES: required "task_struct" "files";
            TASK_CGROUPS: optional "task_struct" "cgroups";
            TASK_CRED: required "task_struct" "cred";
            TASK_NVCSW: required "task_struct" "nvcsw";
            TASK_NIVCSW: required "task_struct" "nivcsw";
            TASK_JOBCTL: required "task_struct" "jobctl";
            TASK_ARRIVAL: required "task_struct" "sched_info.last_arrival";
            TASK_EXEC: required "task_struct" "se.sum_exec_runtime";
            TASK_PREV_EXEC: required "task_struct" "se.prev_sum_exec_runtime";
            TASK_POLICY: required "task_struct" "policy";
            TASK_RESTART_FN: required "task_struct" "restart_block.fn";
            TASK_PENDING: required "task_struct" "pending.signal";
            TASK_SIGNAL: required "task_struct" "signal";
            SIGNAL_FLAGS: required "signal_struct" "flags";
            SIGNAL_LIVE: required "signal_struct" "live.counter";
            SIGNAL_PENDING: required "signal_struct" "shared_pending.signal";
            // TS_COMPAT on x86 is a status bit, on aarch64 TIF_32BIT is a flag.
            TASK_COMPAT: optional "task_struct" "thread_info.status" | "thread_info.flags";
            // Where the thread's own variables are: the base of a segment, or a register.
            TASK_TLS: optional "task_struct" "thread.fsbase" | "thread.uw.tp_value";
            CRED_UID: required "cred" "uid.val";
            // The saved user registers.
            REGS_NR: required "pt_regs" "orig_ax" | "orig_rax" | "syscallno";
            REGS_RESULT: required "pt_regs" "ax" | "rax" | "regs[0]";
            REGS_ARG0: required "pt_regs" "di" | "orig_x0";
            REGS_ARG1: required "pt_regs" "si" | "regs[1]";
            REGS_ARG2: required "pt_regs" "dx" | "regs[2]";
            REGS_ARG3: required "pt_regs" "r10" | "regs[3]";
            REGS_ARG4: required "pt_regs" "r8" | "regs[4]";
            REGS_ARG5: required "pt_regs" "r9" | "regs[5]";
            REGS_COMPAT_ARG0: required "pt_regs" "bx" | "orig_x0";
            REGS_COMPAT_ARG1: required "pt_regs" "cx" | "regs[1]";
            REGS_COMPAT_ARG2: required "pt_regs" "dx" | "regs[2]";
            REGS_COMPAT_ARG3: required "pt_regs" "si" | "regs[3]";
            REGS_COMPAT_ARG4: required "pt_regs" "di" | "regs[4]";
            REGS_COMPAT_ARG5: required "pt_regs" "bp" | "regs[5]";
            // From the fd to the file.
            FILES_FDT: required "files_struct" "fdt";
            FDT_MAX: required "fdtable" "max_fds";
            FDT_FD: required "fdtable" "fd";
            FILE_INODE: required "file" "f_inode";
            FILE_PRIVATE: required "file" "private_data";
            INODE_MODE: required "inode" "i_mode";
            INODE_INO: required "inode" "i_ino";
            INODE_RDEV: required "inode" "i_rdev";
            INODE_SB: required "inode" "i_sb";
            FILE_MODE: required "file" "f_mode";
            SB_DEV: required "super_block" "s_dev";
            // Its mount: `f_path.mnt` points into the middle of one.
            FILE_MNT: optional "file" "f_path.mnt";
            MOUNT_MNT: optional "mount" "mnt";
            MOUNT_ID: optional "mount" "mnt_id";
            // From the file to the terminal. Before Linux 5.16 a bit field begins with it.
            TTY_FILE_TTY: optional "tty_file_private" "tty";
            TTY_STOPPED: optional "tty_struct" "flow.stopped" | "stopped";
            // The lock that a thread sleeps on, since Linux 6.16 (CONFIG_DETECT_HUNG_TASK_BLOCKER), and who holds it.
            TASK_BLOCKER: optional "task_struct" "blocker";
            MUTEX_OWNER: optional "mutex" "owner";
            RWSEM_OWNER: optional "rw_semaphore" "owner";
            // From the ring of io_uring to its requests.
            TASK_RINGS: optional "task_struct" "io_uring";
            RINGS_REGISTERED: optional "io_uring_task" "registered_rings";
            RING_TABLE: optional "io_ring_ctx" "cancel_table_locked.hbs" | "cancel_table.hbs" | "cancel_hash";
            RING_BITS: optional "io_ring_ctx" "cancel_table_locked.hash_bits" | "cancel_table.hash_bits" | "cancel_hash_bits";
            BUCKET_LIST: optional "io_hash_bucket" "list";
            REQUEST_NODE: optional "io_kiocb" "hash_node";
            REQUEST_FILE: optional "io_kiocb" "file";
            REQUEST_OPCODE: optional "io_kiocb" "opcode";
            REQUEST_FLAGS: optional "io_kiocb" "flags";
            REQUEST_FD: optional "io_kiocb" "cqe.fd";
            // From the file to the socket.
            SOCKET_SK: required "socket" "sk";
            // Who waits for its events; a pointer to it before Linux 5.6.
            SOCKET_WAITERS: optional "socket" "wq.wait.head";
            SOCK_FAMILY: required "sock_common" "skc_family";
            SOCK_STATE: required "sock_common" "skc_state";
            SOCK_DPORT: required "sock_common" "skc_dport";
            SOCK_LPORT: required "sock_common" "skc_num";
            SOCK_DADDR: required "sock_common" "skc_daddr";
            SOCK_LADDR: required "sock_common" "skc_rcv_saddr";
            SOCK_DADDR6: optional "sock_common" "skc_v6_daddr";
            SOCK_LADDR6: optional "sock_common" "skc_v6_rcv_saddr";
            SOCK_TYPE: required "sock" "sk_type";
            SOCK_PROTOCOL: required "sock" "sk_protocol";
            SOCK_SOCKET: required "sock" "sk_socket";
            SOCK_PEER_PID: required "sock" "sk_peer_pid";
            SOCK_RCVTIMEO: required "sock" "sk_rcvtimeo";
            SOCK_SNDTIMEO: required "sock" "sk_sndtimeo";
            SOCK_RECEIVE_QLEN: required "sock" "sk_receive_queue.qlen";
            // Without CONFIG_NET_NS there is one network only.
            SOCK_NET: optional "sock_common" "skc_net.net";
            NET_INUM: optional "net" "ns.inum";
            SOCK_FLAGS: required "sock_common" "skc_flags";
            SOCK_STAMP: required "sock" "sk_stamp";
            SOCK_BACKLOG: required "sock" "sk_ack_backlog";
            SOCK_BACKLOG_MAX: required "sock" "sk_max_ack_backlog";
            PID_NR: required "pid" "numbers[0].nr";
            SOCKET_ALLOC_INODE: required "socket_alloc" "vfs_inode";
            // A unix socket's two ends.
            UNIX_PEER: optional "unix_sock" "peer";
            UNIX_ADDR: optional "unix_sock" "addr";
            UNIX_ADDR_LEN: optional "unix_address" "len";
            UNIX_ADDR_NAME: optional "unix_address" "name";
            // A TCP connection's state.
            TCP_BYTES_SENT: optional "tcp_sock" "bytes_sent";
            TCP_BYTES_RETRANS: optional "tcp_sock" "bytes_retrans";
            TCP_BYTES_ACKED: required "tcp_sock" "bytes_acked";
            TCP_BYTES_RECEIVED: required "tcp_sock" "bytes_received";
            TCP_LSNDTIME: required "tcp_sock" "lsndtime";
            TCP_LRCVTIME: required "inet_connection_sock" "icsk_ack.lrcvtime";
            TCP_RCV_TSTAMP: required "tcp_sock" "rcv_tstamp";
            TCP_SND_UNA: required "tcp_sock" "snd_una";
            TCP_SND_NXT: required "tcp_sock" "snd_nxt";
            TCP_WRITE_SEQ: required "tcp_sock" "write_seq";
            TCP_SND_WL1: required "tcp_sock" "snd_wl1";
            TCP_RCV_NXT: required "tcp_sock" "rcv_nxt";
            TCP_COPIED_SEQ: required "tcp_sock" "copied_seq";
            TCP_SND_WND: required "tcp_sock" "snd_wnd";
            TCP_TOTAL_RETRANS: required "tcp_sock" "total_retrans";
            TCP_KEEPALIVE_TIME: required "tcp_sock" "keepalive_time";
            TCP_RETRANSMITS: required "inet_connection_sock" "icsk_retransmits";
            TCP_BACKOFF: required "inet_connection_sock" "icsk_backoff";
            TCP_SRTT: required "tcp_sock" "srtt_us";
            TCP_USER_TIMEOUT: required "inet_connection_sock" "icsk_user_timeout";
            TCP_KEEPALIVE_INTVL: required "tcp_sock" "keepalive_intvl";
            TCP_KEEPALIVE_PROBES: required "tcp_sock" "keepalive_probes";
            TCP_RTO: required "inet_connection_sock" "icsk_rto";
            TCP_BIND_HASH: optional "inet_connection_sock" "icsk_bind_hash";
            BIND_FASTREUSE: optional "inet_bind_bucket" "fastreuse";
            TCP_DELIVERED: optional "tcp_sock" "delivered_mstamp";
            // When the newest acknowledged segment was sent, and when the last one came or went.
            TCP_FIRST_TX: optional "tcp_sock" "first_tx_mstamp";
            TCP_MSTAMP: optional "tcp_sock" "tcp_mstamp";
            TCP_RETRANS_STAMP: optional "tcp_sock" "retrans_stamp";
            TCP_PROBES_OUT: required "inet_connection_sock" "icsk_probes_out";
        }
    };
}

/// Where one kernel field is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// The global that carries its offset.
    pub symbol: &'static str,
    /// The kernel struct it is in.
    pub structure: &'static str,
    /// Paths inside the struct, the preferred first.
    pub paths: &'static [&'static str],
    /// Whether tracer can do without it.
    pub optional: bool,
}

macro_rules! list {
    ($($symbol:ident: $need:ident $structure:literal $($path:literal)|+;)+) => {
        /// The table as values, in its order.
        pub const FIELDS: &[Field] = &[$(Field {
            symbol: stringify!($symbol),
            structure: $structure,
            paths: &[$($path),+],
            optional: list!(@ $need),
        }),+];
    };
    (@ required) => { false };
    (@ optional) => { true };
}

kernel_fields!(list);
