//! The compiled programs made ready for this kernel: offsets and constants set, maps made, nothing loaded yet.

use std::{thread, time::Duration};

use anyhow::{Context, Result, anyhow, bail, ensure};
use aya::{Ebpf, EbpfLoader};
use tracer_ebpf::{
    abi::{COMMON_BLOCK_LEN, MISSING, TCP_BLOCK_MAX},
    fields::{FIELDS, Field},
};

use super::{
    btf::{self, Btf},
    error::in_short,
    legacy,
};
use crate::model::syscalls::{CallTable, Syscall};
use crate::util::linux::{PF_FROZEN, PF_IO_WORKER, PF_KTHREAD, PF_USER_WORKER};

/// The compiled programs; `cargo xtask ebpf` makes them.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/tracer.bpf.o");

/// What to load and with which constants.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Load `snapshot` and `lookup`, of which the kernel takes a quarter of all the time to check them. Without them single threads can
    /// be asked about, and nothing else.
    pub snapshot: bool,
    /// Attach `waits` too.
    pub waits: bool,
    /// Ended waits shorter than this are not resolved.
    pub min_wait: Duration,
    /// Ended waits of this length and more come one by one through the ring.
    pub report: Duration,
    /// Calls will be followed, by `follow_calls` or `count_calls`.
    pub calls: Option<Followed>,
    /// Time answers too: needs Linux 5.11.
    pub answers: bool,
    /// Let the programs log.
    pub verbose: bool,
}

/// Whose calls are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Followed {
    /// Those of chosen processes and their descendants.
    Chosen,
    /// The same, and of single threads and the processes that they start.
    Threads,
    /// Those of every process.
    All,
    /// Those of every process, counted as ended waits are: instead of `waits`.
    Counted,
}

/// The compiled programs with this kernel's offsets in them, their maps made, none of them loaded.
pub(super) struct Object {
    pub(super) ebpf: Ebpf,
    pub(super) types: aya::Btf,
    /// Slots are in a hash.
    pub(super) hash_slots: bool,
    /// An iterator may be run over one thread.
    pub(super) visits_threads: bool,
}

impl Object {
    /// The error says what is missing and what to do.
    pub(super) fn open(options: &Options) -> Result<Self> {
        check_rights()?;
        check_namespace()?;
        check_lockdown()?;
        // Before Linux 5.11 maps count as locked memory; where raising the limit is refused, it was not needed or
        // creating the maps says so.
        let unlimited = rustix::process::Rlimit { current: None, maximum: None };
        let _ = rustix::process::setrlimit(rustix::process::Resource::Memlock, unlimited);

        let types = Btf::open(btf::file())
            .context("the bpf source needs the kernel's types (CONFIG_DEBUG_INFO_BTF, or --btf FILE)")?;
        let (fields, constants) = (types.resolve_fields()?, Constants::of(&types)?);
        let aya_btf = types.for_loading()?;
        let mut loader = loader()?;
        loader.btf(Some(&aya_btf)).allow_unsupported_maps();
        for (symbol, offset) in &fields {
            loader.override_global(symbol, offset, false);
        }
        let (waits, has_prev) = (u32::from(options.waits), u32::from(constants.has_prev_state));
        let (floor, report) = (options.min_wait.as_nanos() as u64, options.report.as_nanos() as u64);
        let trace_all = u32::from(matches!(options.calls, Some(Followed::All | Followed::Counted)));
        let trace_threads = u32::from(options.calls == Some(Followed::Threads));
        let counted = options.calls == Some(Followed::Counted);
        let count_calls = u32::from(counted);
        // aya's levels; 0 turns all logging off, and the verifier drops its code.
        let level = if options.verbose { aya_log::Level::Debug as u8 } else { 0 };
        let (restart, compat_restart) =
            (restart_number(CallTable::Native), restart_number(CallTable::Compat));
        let (tcp_block, tcp_block_len) = tcp_block(&fields)?;
        let arm_registers = u32::from(cfg!(target_arch = "aarch64"));
        loader
            .override_global("COMPAT_MASK", &constants.compat_mask, true)
            .override_global("WORKER_FLAGS", &constants.worker_flags, true)
            .override_global("FROZEN_FLAG", &constants.frozen_flag, true)
            .override_global("HAS_PREV_STATE", &has_prev, true)
            .override_global("TCP_BLOCK", &tcp_block, true)
            .override_global("TCP_BLOCK_LEN", &tcp_block_len, true)
            .override_global("STACK_REGS", &constants.stack_regs, true)
            .override_global("ARM_REGISTERS", &arm_registers, true)
            .override_global("HASH_SLOTS", &constants.hash_slots, true)
            .override_global("TYPED_SOCKETS", &constants.typed_sockets, true)
            .override_global("RING_BUCKET", &constants.ring_bucket, true)
            .override_global("TRACE_ALL", &trace_all, true)
            .override_global("TRACE_THREADS", &trace_threads, true)
            .override_global("COUNT_CALLS", &count_calls, true)
            .override_global("WAITS_ON", &waits, true)
            .override_global("FLOOR_NS", &floor, true)
            .override_global("REPORT_NS", &report, true)
            .override_global("RESTART_NR", &restart, true)
            .override_global("COMPAT_RESTART_NR", &compat_restart, true)
            .override_global(aya_log::LEVEL, &level, true);
        if !options.waits && !counted {
            loader.map_max_entries("WAITS_A", 1).map_max_entries("WAITS_B", 1).map_max_entries("ENDED", 4096);
        }
        if !options.answers {
            loader.map_max_entries("ANSWERS_A", 1).map_max_entries("ANSWERS_B", 1);
        }
        if options.calls.is_none() {
            loader.map_max_entries("BEGUN", 1).map_max_entries("TRACED", 1);
        }
        if options.calls.is_none() || counted {
            loader.map_max_entries("CALL_ENDS", 4096);
        }
        let hash_slots = constants.hash_slots != 0;
        let changed = if hash_slots { Some(legacy::with_hash(OBJECT, "SLOTS")?) } else { None };
        if hash_slots {
            loader.map_max_entries("SLOTS", if options.waits { legacy::SLOTS } else { 1 });
        }
        let object = changed.as_deref().unwrap_or(OBJECT);
        let ebpf = loader
            .load(object)
            .map_err(|error| anyhow!(in_short(&error)))
            .context("cannot load the kernel programs")?;
        Ok(Self { ebpf, types: aya_btf, hash_slots, visits_threads: constants.visits_threads })
    }
}

/// A loader of programs. The library has each of them read all of the kernel's types first, at the place where the kernel shows them, whatever types it
/// is given then: 20 ms and fifteen megabytes. In a thread whose root directory is another there is nothing at that place; where the right to
/// have one is lacking, the time is lost.
fn loader() -> Result<EbpfLoader<'static>> {
    let make = || {
        // SAFETY: what this thread shares no longer is its root and working directory, and it opens nothing by path but what is to fail.
        if unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }.is_ok() {
            let _ = rustix::process::chroot("/sys");
        }
        EbpfLoader::new()
    };
    thread::spawn(make).join().map_err(|_| anyhow!("cannot make a loader of programs"))
}

/// Which part of a `struct tcp_sock` has all of a connection's fields: where it begins and how long it is, bytes. The programs copy it at once;
/// likewise the beginning of a `struct sock_common`, as long as the fields are there.
fn tcp_block(fields: &[(&'static str, u32)]) -> Result<(u32, u32)> {
    let of = |structures: &[&str]| -> Vec<u32> {
        let is_copied = |field: &Field| structures.contains(&field.structure) && field.symbol != "SOCK_FLAGS";
        let offsets = FIELDS.iter().zip(fields).filter(|(field, _)| is_copied(field));
        offsets.map(|(_, (_, offset))| *offset).filter(|offset| *offset != MISSING).collect()
    };
    let connection = of(&["tcp_sock", "inet_connection_sock"]);
    let start = connection.iter().min().map_or(0, |least| least / 8 * 8);
    // No field is longer than eight bytes, and an address is sixteen.
    let length = connection.iter().max().map_or(8, |most| most + 8 - start);
    let fits = length <= TCP_BLOCK_MAX as u32
        && of(&["sock_common"]).iter().all(|offset| offset + 16 <= COMMON_BLOCK_LEN as u32);
    ensure!(
        fits,
        "this kernel's sockets have their fields in other places: tracer does not know this kernel"
    );
    Ok((start, length))
}

/// What differs between kernels beside offsets.
struct Constants {
    compat_mask: u32,
    worker_flags: u32,
    frozen_flag: u32,
    has_prev_state: bool,
    stack_regs: u32,
    hash_slots: u32,
    ring_bucket: u32,
    typed_sockets: u32,
    visits_threads: bool,
}

impl Constants {
    fn of(btf: &Btf) -> Result<Self> {
        let version = kernel_version();
        let user_workers = btf.offset("kernel_clone_args", "user_worker")?.is_some();
        Ok(Self {
            compat_mask: if cfg!(target_arch = "x86_64") { 0x2 } else { 1 << 22 },
            worker_flags: PF_KTHREAD | PF_IO_WORKER | if user_workers { PF_USER_WORKER } else { 0 },
            frozen_flag: if version < (6, 1) { PF_FROZEN } else { 0 },
            has_prev_state: btf.tracepoint_args("sched_switch")? == Some(4),
            stack_regs: legacy::stack_regs(btf, version)?,
            hash_slots: u32::from(legacy::needs_hash(version)),
            // Linux 5.11 brings both.
            typed_sockets: u32::from(!legacy::needs_hash(version)),
            // Before Linux 6.0 a bucket was a mere list.
            ring_bucket: btf.size_of("io_hash_bucket")?.unwrap_or(8),
            // Linux 6.1 has it; others would walk all threads, once for each.
            visits_threads: btf.offset("bpf_iter_aux_info", "task")?.is_some(),
        })
    }
}

/// Major and minor version of the running kernel; (0, 0) if it does not say.
pub fn kernel_version() -> (u32, u32) {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The number of `restart_syscall` in a table; one that no call has where it has none.
fn restart_number(table: CallTable) -> i32 {
    Syscall::Restart.number(table).unwrap_or(-2)
}

fn check_rights() -> Result<()> {
    use rustix::thread::CapabilitySet as Cap;
    let held =
        rustix::thread::capabilities(None).context("cannot read the process's capabilities")?.effective;
    if held.contains(Cap::SYS_ADMIN) || held.contains(Cap::BPF | Cap::PERFMON) {
        return Ok(());
    }
    let missing: Vec<&str> = [(Cap::BPF, "CAP_BPF"), (Cap::PERFMON, "CAP_PERFMON")]
        .iter()
        .filter(|(cap, _)| !held.contains(*cap))
        .map(|(_, name)| *name)
        .collect();
    bail!(
        "reading the kernel needs {}, which this process lacks: run it as root (sudo tracer …)",
        missing.join(" and ")
    )
}

/// Whether capabilities are worth what they say: in a user namespace of its own a process has them all, and the kernel
/// grants none of what they are needed for here.
pub(super) fn has_rights() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    check_rights().is_ok() && map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

fn check_namespace() -> Result<()> {
    // The initial PID namespace has a fixed inode number (PROC_PID_INIT_INO, include/linux/proc_ns.h).
    let link = std::fs::read_link("/proc/self/ns/pid")
        .context("cannot read /proc/self/ns/pid: is /proc mounted?")?;
    ensure!(
        link.as_os_str() == "pid:[4026531836]",
        "this is a container's PID namespace, and the kernel programs see the host's: run tracer with the host's (hostPID, --pid=host)"
    );
    Ok(())
}

/// The kernel's lockdown mode: `none`, `integrity` or `confidentiality`.
pub fn lockdown() -> String {
    let modes = std::fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    modes.split(['[', ']']).nth(1).unwrap_or("none").to_owned()
}

fn check_lockdown() -> Result<()> {
    ensure!(
        lockdown() != "confidentiality",
        "under lockdown=confidentiality the kernel lets no program read its memory: boot with lockdown=integrity"
    );
    Ok(())
}
