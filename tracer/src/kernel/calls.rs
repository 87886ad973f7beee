//! Seeing calls begin and end, by one of three mechanisms: those of chosen processes and threads for `trace`, those of all
//! for an agent that cannot use `waits`.

use anyhow::{Context, Result, anyhow, bail};
use aya::{
    maps::{HashMap, MapData, RingBuf},
    programs::{FEntry, FExit, KProbe},
};
use tracer_ebpf::abi::{EndedCall, FOLLOWED_PROCESS, FOLLOWED_THREAD};

use super::{
    btf,
    error::ProgramError,
    load::{Kernel, attach_tracepoint, load_tracepoint, next, program, take},
    object::Followed,
    probes::{AGENT_ORDER, DISPATCH, FOLLOW, FOLLOW_THREADS, Mechanism, TRACE_ORDER},
};
use crate::model::syscalls::Syscall;

/// What passes between the attached programs and tracer.
pub struct Calls {
    traced: HashMap<MapData, u32, u32>,
    begun: HashMap<MapData, u32, u64>,
    ends: RingBuf<MapData>,
    /// There may be single threads among the followed.
    threads: bool,
    /// How they are seen.
    pub mechanism: Mechanism,
}

/// Whose calls are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FollowedId {
    /// Those of all threads of a process.
    Process(u32),
    /// Those of a thread alone.
    Thread(u32),
}

/// Less than this of the functions found means that they have other names here.
const LEAST_FUNCTIONS: usize = 10;

impl Kernel {
    /// Attaches for `trace`, by this mechanism or by the best that works. The programs were loaded for the same whom.
    pub fn follow_calls(&mut self, whom: Followed, wanted: Option<Mechanism>) -> Result<Calls> {
        let btf = btf::for_loading()?;
        let threads = whom == Followed::Threads;
        for name in FOLLOW.into_iter().chain(threads.then_some(FOLLOW_THREADS)) {
            self.attach_tracepoint(name, &btf)?;
        }
        let mechanism = match wanted {
            Some(wanted) => self.attach_calls(&[wanted], &btf)?,
            None => self.attach_calls(&TRACE_ORDER, &btf)?,
        };
        Ok(Calls {
            traced: HashMap::try_from(take(&mut self.ebpf, "TRACED")?)?,
            begun: HashMap::try_from(take(&mut self.ebpf, "BEGUN")?)?,
            ends: RingBuf::try_from(take(&mut self.ebpf, "CALL_ENDS")?)?,
            threads,
            mechanism,
        })
    }

    /// Attaches for the agent, which stays: calls are counted as ended waits are.
    pub fn count_calls(&mut self) -> Result<Mechanism> {
        let btf = btf::for_loading()?;
        for name in FOLLOW {
            self.attach_tracepoint(name, &btf)?;
        }
        self.attach_calls(&AGENT_ORDER, &btf)
    }

    /// By the first of these that works; else the first one's error.
    fn attach_calls(&mut self, order: &[Mechanism], btf: &aya::Btf) -> Result<Mechanism> {
        let mut refused = None;
        for mechanism in order {
            let attached = match mechanism {
                Mechanism::Fentry => self.attach_fentry(btf),
                Mechanism::Kprobe => self.attach_kprobes(),
                Mechanism::Tracepoint => self.attach_tracepoints(btf),
            };
            match attached {
                Ok(()) => return Ok(*mechanism),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        Err(refused.unwrap_or_else(|| anyhow!("no mechanism was asked for")))
    }

    fn attach_fentry(&mut self, btf: &aya::Btf) -> Result<()> {
        let refused = || format!("this kernel takes no fentry on system calls ({DISPATCH})");
        let [exit_name, enter_name] = Mechanism::Fentry.programs();
        let exit: &mut FExit = program(&mut self.ebpf, exit_name)?.try_into()?;
        exit.load(DISPATCH, btf).map_err(ProgramError::from).with_context(refused)?;
        let exit_link = exit.attach().map_err(ProgramError::from).with_context(refused)?;
        let enter: &mut FEntry = program(&mut self.ebpf, enter_name)?.try_into()?;
        let attached = enter.load(DISPATCH, btf).and_then(|()| enter.attach());
        if let Err(error) = attached {
            // Without an entry it would only cost.
            let exit: &mut FExit = program(&mut self.ebpf, exit_name)?.try_into()?;
            exit.detach(exit_link).map_err(ProgramError::from)?;
            return Err(ProgramError::from(error)).with_context(refused);
        }
        self.attached.extend([exit_name, enter_name]);
        Ok(())
    }

    fn attach_tracepoints(&mut self, btf: &aya::Btf) -> Result<()> {
        for name in Mechanism::Tracepoint.programs() {
            self.attach_tracepoint(name, btf)?;
            self.attached.push(name);
        }
        Ok(())
    }

    fn attach_tracepoint(&mut self, name: &str, btf: &aya::Btf) -> Result<()> {
        load_tracepoint(&mut self.ebpf, name, btf)?;
        attach_tracepoint(&mut self.ebpf, name)
    }

    fn attach_kprobes(&mut self) -> Result<()> {
        let prefix = if cfg!(target_arch = "x86_64") { "__x64_sys_" } else { "__arm64_sys_" };
        for name in Mechanism::Kprobe.programs() {
            let probe: &mut KProbe = program(&mut self.ebpf, name)?.try_into()?;
            probe
                .load()
                .map_err(ProgramError::from)
                .with_context(|| format!("the kernel refuses the program {name}"))?;
            let mut attached = 0;
            let mut refused = None;
            for syscall in Syscall::blocking() {
                match probe.attach(format!("{prefix}{}", syscall.name()), 0) {
                    Ok(_) => attached += 1,
                    // This kernel has no such call, or no kprobes at all.
                    Err(error) => refused = Some(error),
                }
                if attached == 0 && refused.is_some() {
                    break;
                }
            }
            if attached < LEAST_FUNCTIONS {
                let why =
                    refused.map_or("no such functions".into(), |error| ProgramError::from(error).to_string());
                bail!("this kernel takes no kprobes on system calls: {why}");
            }
        }
        Ok(())
    }
}

impl Calls {
    /// Follows a process and those it will start.
    pub fn follow(&mut self, pid: u32) -> Result<()> {
        self.insert(pid, FOLLOWED_PROCESS).with_context(|| format!("cannot follow process {pid}"))
    }

    /// Follows a thread without its process, and the processes that it will start. It is not its process's first one.
    pub fn follow_thread(&mut self, tid: u32) -> Result<()> {
        self.insert(tid, FOLLOWED_THREAD).with_context(|| format!("cannot follow thread {tid}"))
    }

    fn insert(&mut self, id: u32, value: u32) -> Result<()> {
        Ok(self.traced.insert(id, value, 0)?)
    }

    /// Whether a thread is followed, with its process or alone.
    pub fn follows(&self, pid: u32, tid: u32) -> bool {
        let alone = || self.threads && self.traced.get(&tid, 0).is_ok_and(|value| value == FOLLOWED_THREAD);
        self.traced.get(&pid, 0).is_ok() || alone()
    }

    /// The ids of the processes and threads that are followed.
    pub fn followed(&self) -> Vec<FollowedId> {
        let entries = self.traced.iter().flatten();
        let id = |(id, value)| {
            if value == FOLLOWED_THREAD { FollowedId::Thread(id) } else { FollowedId::Process(id) }
        };
        entries.map(id).collect()
    }

    /// A process or thread that has ended is not followed. The kernel's programs see to it where they see it end.
    pub fn forget(&mut self, id: FollowedId) {
        let (FollowedId::Process(id) | FollowedId::Thread(id)) = id;
        // It may have gone meanwhile.
        let _ = self.traced.remove(&id);
    }

    /// A thread is in a call that began before it was followed, nanoseconds of `CLOCK_MONOTONIC`.
    pub fn began(&mut self, tid: u32, began_ns: u64) {
        const BPF_NOEXIST: u64 = 1;
        // It may have begun another call meanwhile, which then counts.
        let _ = self.begun.insert(tid, began_ns, BPF_NOEXIST);
    }

    /// Becomes readable when a call has ended.
    pub fn fd(&self) -> std::os::fd::RawFd {
        use std::os::fd::AsRawFd;
        self.ends.as_raw_fd()
    }

    /// The next call that has ended.
    pub fn next(&mut self) -> Option<EndedCall> {
        next(&mut self.ends)
    }
}
