//! Loading and attaching the kernel programs, and everything that passes between them and tracer.

use std::{
    fs::File,
    io::{ErrorKind, Read},
    os::fd::{AsFd, AsRawFd, RawFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, PerCpuArray, RingBuf},
    programs::{BtfTracePoint, Iter},
};
use tracer_ebpf::abi::{
    Counter, EndedWait, FdRecord, FileKey, Header, HolderRecord, Plain, SYSCALLS, TupleKey,
};

use super::{
    asked::ThreadProgram,
    error::ProgramError,
    histograms::{Counted, Histograms},
    iterate,
    object::{Followed, Object, Options},
    probes::{Hook, PROBES, Probe, find},
    record::{Record, plain, take_all},
    rows::rows,
};
use crate::{
    model::syscalls::CallTable,
    procfs::{Reads, Unread},
    util::clock::monotonic_ns,
};

/// Indices of the map `LIVE`, see `settings.rs` of the kernel's half.
const CLOCK_OFFSET: u32 = 0;
const REQUEST_TICKS: u32 = 2;
const ANSWERED_ONE_IN: u32 = 3;
const INCOMING: u32 = 4;
const UNCLOSED_TICKS: u32 = 5;
const ATTACHED_US: u32 = 6;

/// Entries of each of the maps `WANTED_FILES` and `WANTED_TUPLES`.
pub const WANTED_AT_ONCE: usize = 1024;

/// Entries of the map `ASKED`.
const ASKED_AT_ONCE: usize = 1024;

/// The loaded programs. Dropping it detaches them.
pub struct Kernel {
    pub(super) ebpf: Ebpf,
    /// The kernel's types, for programs that are loaded later; kept by what ends soon, as they take ten megabytes.
    pub(super) types: Option<aya::Btf>,
    live: Array<MapData, u64>,
    asked: HashMap<MapData, u32, i32>,
    wanted_files: HashMap<MapData, MapKey<FileKey>, u32>,
    wanted_tuples: HashMap<MapData, MapKey<TupleKey>, u32>,
    /// The program `holders` is loaded when it is first needed, which few runs of `ps` do.
    holders: Optional,
    /// Likewise.
    sockets: Optional,
    /// Loaded where that is asked for.
    answers: Optional,
    /// The programs that look at single threads, likewise.
    pub(super) stacks: ThreadProgram,
    pub(super) rings: ThreadProgram,
    pub(super) registers: ThreadProgram,
    counters: PerCpuArray<MapData, u64>,
    ended: RingBuf<MapData>,
    histograms: Histograms,
    /// Programs beside the iterators that are attached.
    pub(super) attached: Vec<&'static str>,
    /// Of the machine: scheduler ticks a second.
    hz: u64,
    buffer: Vec<u8>,
    /// Whether an iterator may be run over one thread.
    visits_threads: bool,
    /// What the last walk over all threads took.
    walk_took: Option<Duration>,
}

/// Which connections `sockets` is to write of.
#[derive(Clone, Copy, Debug)]
pub struct WantedSockets {
    /// Those on which a process may have asked so many scheduler ticks ago and not been answered.
    pub ticks: u64,
    /// Of those that have been answered one in so many; 0: none.
    pub answered_one_in: u32,
    /// Those as well on which a process has been asked and has not answered, and those that only the other end has closed, so many scheduler
    /// ticks ago.
    pub unclosed_ticks: Option<u64>,
}

/// One clock beside another, read at the start of a pass.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    /// The pass's first record.
    pub header: Header,
    /// `CLOCK_MONOTONIC` minus the scheduler's clock, nanoseconds.
    pub offset_ns: i64,
}

impl Kernel {
    /// Loads what is asked for, and attaches it. The error says what is missing and what to do.
    pub fn load(options: Options) -> Result<Self> {
        let Object { mut ebpf, types: aya_btf, hash_slots, visits_threads } = Object::open(&options)?;
        if options.snapshot {
            fill_table(&mut ebpf, "CALLS", CallTable::Native)?;
            fill_table(&mut ebpf, "COMPAT_CALLS", CallTable::Compat)?;
            load_iterator(&mut ebpf, "snapshot", &aya_btf)?;
            load_iterator(&mut ebpf, "lookup", &aya_btf)?;
        }
        if options.waits {
            load_tracepoint(&mut ebpf, "newtask", &aya_btf)?;
            load_tracepoint(&mut ebpf, "waits", &aya_btf)?;
            if hash_slots {
                load_tracepoint(&mut ebpf, "exited", &aya_btf)?;
            }
        }
        let answers = match options.answers {
            true => load_answers(&mut ebpf, &aya_btf),
            false => Optional::NotLoaded,
        };
        // Reading the kernel's types once more would cost an agent that stays for months ten megabytes.
        let stays = options.waits || options.calls == Some(Followed::Counted);
        let (mut stacks, mut rings) = (ThreadProgram::stacks(&mut ebpf)?, ThreadProgram::rings(&mut ebpf)?);
        let mut registers = ThreadProgram::registers(&mut ebpf)?;
        let (mut holders, mut sockets) = (Optional::NotLoaded, Optional::NotLoaded);
        if stays {
            holders = load_holders(&mut ebpf, &aya_btf);
            sockets = load_sockets(&mut ebpf, &aya_btf);
            stacks.load(&mut ebpf, &aya_btf);
            rings.load(&mut ebpf, &aya_btf);
            registers.load(&mut ebpf, &aya_btf);
        }
        // Only now: a map taken out and dropped is gone for programs loaded later.
        let live = Array::try_from(take(&mut ebpf, "LIVE")?)?;
        let asked = HashMap::try_from(take(&mut ebpf, "ASKED")?)?;
        let wanted_files = HashMap::try_from(take(&mut ebpf, "WANTED_FILES")?)?;
        let wanted_tuples = HashMap::try_from(take(&mut ebpf, "WANTED_TUPLES")?)?;
        let counters = PerCpuArray::try_from(take(&mut ebpf, "COUNTERS")?)?;
        let ended = RingBuf::try_from(take(&mut ebpf, "ENDED")?)?;
        let histograms = Histograms::take(&mut ebpf)?;
        let mut kernel = Self {
            ebpf,
            types: (!stays && options.calls.is_none()).then_some(aya_btf),
            live,
            asked,
            wanted_files,
            wanted_tuples,
            holders,
            sockets,
            answers,
            stacks,
            rings,
            registers,
            counters,
            ended,
            histograms,
            attached: Vec::new(),
            hz: ticks_per_second(),
            buffer: Vec::new(),
            visits_threads,
            walk_took: None,
        };
        if options.waits {
            kernel.attach_waits(hash_slots)?;
        }
        if kernel.answers == Optional::Loaded {
            kernel.attach_answers()?;
        }
        Ok(kernel)
    }

    /// Whether one thread is found without a walk over all of them.
    pub fn visits_threads(&self) -> bool {
        self.visits_threads
    }

    /// The kernel's types, to be put back: those that it has, or read once more.
    pub(super) fn take_types(&mut self) -> Result<aya::Btf> {
        self.types.take().map_or_else(super::btf::for_loading, Ok)
    }

    /// Order matters: every thread has a slot before `waits` looks for one, and what makes slots comes after what
    /// removes them.
    fn attach_waits(&mut self, hash_slots: bool) -> Result<()> {
        if hash_slots {
            self.attach("exited")?;
        }
        self.attach("newtask")?;
        self.pass(|_, _| {})?;
        self.attach("waits")
    }

    /// From now on answers are timed; those to what was asked before are not.
    fn attach_answers(&mut self) -> Result<()> {
        let now_us = monotonic_ns() / 1000;
        self.live.set(ATTACHED_US, now_us, 0).context("cannot tell the programs the time")?;
        self.attach("answers")
    }

    fn attach(&mut self, name: &'static str) -> Result<()> {
        attach_tracepoint(&mut self.ebpf, name)?;
        self.attached.push(name);
        Ok(())
    }

    /// Runs this iterator over all it walks; `each` gets the bytes of one or more records at a time and says how many of them it
    /// used.
    pub(super) fn stream(&mut self, name: &str, each: impl FnMut(&[u8]) -> Result<usize>) -> Result<()> {
        let began = Instant::now();
        let file = self.open_iterator(name)?;
        self.stream_from(file, name, each)?;
        self.walk_took = Some(began.elapsed());
        Ok(())
    }

    /// The same over these threads alone, where that is cheaper than to walk all of them and leave the others out.
    pub(super) fn stream_of(
        &mut self,
        name: &str,
        tids: &[u32],
        mut each: impl FnMut(&[u8]) -> Result<usize>,
    ) -> Result<()> {
        if !self.visits_threads || !iterate::is_cheaper(tids.len(), self.walk_took) {
            return self.stream(name, each);
        }
        for tid in tids {
            let iterator: &mut Iter = program(&mut self.ebpf, name)?.try_into()?;
            let fd = iterator.fd().map_err(ProgramError::from)?.as_fd();
            let file = iterate::over_thread(fd, *tid)
                .with_context(|| format!("cannot start the program {name} for a thread"))?;
            self.stream_from(file, name, &mut each)?;
        }
        Ok(())
    }

    fn stream_from(
        &mut self,
        mut file: File,
        name: &str,
        mut each: impl FnMut(&[u8]) -> Result<usize>,
    ) -> Result<()> {
        self.buffer.resize(1 << 17, 0);
        let mut filled = 0;
        loop {
            let read = match file.read(&mut self.buffer[filled..]) {
                // It has visited a million threads or files without a record, and asks for a pause.
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                read => read.with_context(|| format!("cannot read what {name} writes"))?,
            };
            if read == 0 {
                ensure!(filled == 0, "what {name} writes ends in the middle of a record");
                return Ok(());
            }
            filled += read;
            let used = each(&self.buffer[..filled])?;
            self.buffer.copy_within(used..filled, 0);
            filled -= used;
        }
    }

    /// Everything that an iterator over open files writes, read by a reader: the kernel takes a reference on every file it visits, so
    /// that whoever reads may be the last to let go of one that others close meanwhile, and wait for its file system. `None`: it
    /// did not come to its end.
    fn walk(&mut self, name: &str) -> Result<Option<Vec<u8>>> {
        let file = self.open_iterator(name)?;
        match Reads::new().drain(file.as_fd()) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Unread::Failed(error)) => {
                Err(error).with_context(|| format!("cannot read what {name} writes"))
            }
            Err(_) => Ok(None),
        }
    }

    fn open_iterator(&mut self, name: &str) -> Result<File> {
        let iterator: &mut Iter = program(&mut self.ebpf, name)?.try_into()?;
        let link = iterator
            .attach()
            .map_err(ProgramError::from)
            .with_context(|| format!("cannot start the program {name}"))?;
        Ok(iterator.take_link(link)?.into_file()?)
    }

    /// One snapshot: `each` gets the clocks and, record by record, what the kernel wrote.
    pub fn pass(&mut self, mut each: impl FnMut(&Clocks, Record<'_>)) -> Result<()> {
        let offset_ns = self.measure_clock()?;
        self.live.set(CLOCK_OFFSET, offset_ns as u64, 0).context("cannot tell the programs the time")?;
        let mut clocks: Option<Clocks> = None;
        self.stream("snapshot", |bytes| {
            take_all(bytes, |record| {
                match (record, &clocks) {
                    // The kernel starts over, header included, where its buffer was too small.
                    (Record::Header(header), None) => clocks = Some(Clocks { header, offset_ns }),
                    (Record::Header(_), Some(_)) => {}
                    (
                        Record::Fd(..)
                        | Record::Holder(..)
                        | Record::Socket(..)
                        | Record::Stack(..)
                        | Record::Request(..)
                        | Record::Registers(..),
                        _,
                    ) => {
                        bail!("the snapshot has a record of another program")
                    }
                    (record, Some(clocks)) => each(clocks, record),
                    (_, None) => bail!("the snapshot does not begin with its header"),
                }
                Ok(())
            })
        })
    }

    /// `CLOCK_MONOTONIC` minus the scheduler's clock.
    ///
    /// This thread sleeps for a moment; then the kernel's record of when it got the CPU back is "now" on the
    /// scheduler's clock, short of the time since, which can only make the difference too large: the least of a few
    /// tries counts.
    fn measure_clock(&mut self) -> Result<i64> {
        let mut least = i64::MAX;
        for _ in 0..3 {
            std::thread::sleep(Duration::from_micros(20));
            let header = self.header()?;
            least = least.min(header.monotonic_ns.wrapping_sub(header.arrival_ns) as i64);
        }
        Ok(least)
    }

    /// The clocks now.
    fn header(&mut self) -> Result<Header> {
        let mut file = self.open_iterator("snapshot")?;
        // A short read ends the pass after its first record.
        let mut bytes = [0u8; size_of::<Header>()];
        file.read_exact(&mut bytes).context("cannot read the snapshot")?;
        let mut rest = &bytes[..];
        match Record::take(&mut rest)? {
            Some(Record::Header(header)) => Ok(header),
            _ => bail!("the snapshot does not begin with its header"),
        }
    }

    /// What these fds are. A thread is visited for each of its fds, alone, or with others of the host in a walk that asks
    /// [`ASKED_AT_ONCE`] threads at most.
    pub fn look_up(&mut self, asked: &[(u32, i32)], mut each: impl FnMut(FdRecord, &[u8])) -> Result<()> {
        for round in rounds(asked, ASKED_AT_ONCE) {
            for (tid, fd) in &round {
                self.asked.insert(tid, fd, 0).context("cannot tell the program lookup what to look up")?;
            }
            let tids: Vec<u32> = round.iter().map(|(tid, _)| *tid).collect();
            let walked = self.stream_of("lookup", &tids, |bytes| {
                take_all(bytes, |record| {
                    if let Record::Fd(record, tail) = record {
                        each(record, tail);
                    }
                    Ok(())
                })
            });
            for (tid, _) in round {
                self.asked.remove(&tid).context("cannot empty the list of what to look up")?;
            }
            walked?;
        }
        Ok(())
    }

    /// Every fd of every process that is one of these files or connections; none where the kernel refuses to tell. One walk over all open files of the host
    /// for each [`WANTED_AT_ONCE`] of them. False: a walk did not come to its end.
    pub fn holders(
        &mut self,
        files: &[FileKey],
        tuples: &[TupleKey],
        mut each: impl FnMut(HolderRecord),
    ) -> Result<bool> {
        if self.holders == Optional::NotLoaded {
            let types = self.take_types()?;
            self.holders = load_holders(&mut self.ebpf, &types);
            self.types = Some(types);
        }
        if self.holders == Optional::Refused {
            return Ok(true);
        }
        let (mut files, mut tuples) = (files.chunks(WANTED_AT_ONCE), tuples.chunks(WANTED_AT_ONCE));
        loop {
            let (some, others) = (files.next().unwrap_or(&[]), tuples.next().unwrap_or(&[]));
            if some.is_empty() && others.is_empty() {
                return Ok(true);
            }
            for file in some {
                self.wanted_files
                    .insert(MapKey(*file), 0, 0)
                    .context("cannot tell holders what is wanted")?;
            }
            for tuple in others {
                self.wanted_tuples
                    .insert(MapKey(*tuple), 0, 0)
                    .context("cannot tell holders what is wanted")?;
            }
            let walked = self.walk("holders");
            for file in some {
                self.wanted_files.remove(&MapKey(*file)).context("cannot empty what holders wants")?;
            }
            for tuple in others {
                self.wanted_tuples.remove(&MapKey(*tuple)).context("cannot empty what holders wants")?;
            }
            let Some(bytes) = walked? else { return Ok(false) };
            let used = take_all(&bytes, |record| {
                if let Record::Holder(record) = record {
                    each(record);
                }
                Ok(())
            })?;
            ensure!(used == bytes.len(), "what holders writes ends in the middle of a record");
        }
    }

    /// What `sockets` writes of connections, with the clocks to read it by. `None` if the walk did not come to its end, nothing if the kernel
    /// refuses the program.
    pub fn sockets(&mut self, wanted: &WantedSockets) -> Result<(Clocks, Option<Vec<u8>>)> {
        if self.sockets == Optional::NotLoaded {
            let types = self.take_types()?;
            self.sockets = load_sockets(&mut self.ebpf, &types);
            self.types = Some(types);
        }
        for (index, value) in [
            (REQUEST_TICKS, wanted.ticks),
            (ANSWERED_ONE_IN, wanted.answered_one_in.into()),
            (INCOMING, wanted.unclosed_ticks.is_some().into()),
            (UNCLOSED_TICKS, wanted.unclosed_ticks.unwrap_or_default()),
        ] {
            self.live
                .set(index, value, 0)
                .context("cannot tell the programs which connections to tell of")?;
        }
        // By clocks read before, nothing is older than it seems.
        let clocks = Clocks { header: self.header()?, offset_ns: 0 };
        let bytes = if self.sockets == Optional::Loaded { self.walk("sockets")? } else { Some(Vec::new()) };
        Ok((clocks, bytes))
    }

    /// Scheduler ticks a second.
    pub fn hz(&self) -> u64 {
        self.hz
    }

    /// A counter, summed over the CPUs.
    pub fn counter(&self, counter: Counter) -> Result<u64> {
        Ok(self
            .counters
            .get(&(counter as u32), 0)
            .context("cannot read the programs' counters")?
            .iter()
            .sum())
    }

    /// How many runs of its programs the kernel has skipped, since another was under way on the same CPU: Linux 5.12 and
    /// later count them.
    pub fn skipped(&self) -> u64 {
        let misses = |entry: std::fs::DirEntry| -> Option<u64> {
            let info = std::fs::read_to_string(entry.path()).ok()?;
            info.lines().find_map(|line| line.strip_prefix("recursion_misses:"))?.trim().parse().ok()
        };
        std::fs::read_dir("/proc/self/fdinfo").into_iter().flatten().flatten().filter_map(misses).sum()
    }

    /// The programs that the agent uses, or would: name, mechanism, and whether it works.
    pub fn probes(&self) -> Vec<(&'static str, &'static str, bool)> {
        let up = |probe: &Probe| match probe.hook {
            Hook::Iter(_) if probe.name == "holders" => self.holders == Optional::Loaded,
            Hook::Iter(_) if probe.name == "stacks" => self.stacks.state == Optional::Loaded,
            Hook::Iter(_) if probe.name == "registers" => self.registers.state == Optional::Loaded,
            Hook::Iter(_) if probe.name == "rings" => self.rings.state == Optional::Loaded,
            Hook::Iter(_) => true,
            _ => self.attached.contains(&probe.name),
        };
        let is_asked_for = |probe: &Probe| probe.name == "answers" && self.answers != Optional::NotLoaded;
        let used = PROBES.iter().filter(|probe| {
            probe.needed || matches!(probe.hook, Hook::Iter(_)) || is_asked_for(probe) || up(probe)
        });
        used.map(|probe| (probe.name, probe.hook.mechanism(), up(probe))).collect()
    }

    /// Whether a wait ends with the sleep, not with the call.
    pub fn sees_sleeps_end(&self) -> bool {
        self.attached.contains(&"waits")
    }

    /// Becomes readable when a long wait has ended.
    pub fn ended_fd(&self) -> RawFd {
        self.ended.as_raw_fd()
    }

    /// The next long wait that has ended.
    pub fn next_ended(&mut self) -> Option<EndedWait> {
        next(&mut self.ended)
    }

    /// Takes all ended waits and answers counted since the last call.
    pub fn drain(&mut self, each: impl FnMut(Counted)) -> Result<()> {
        self.histograms.drain(&mut self.live, each)
    }

    /// Opens the programs' log.
    pub fn log(&mut self) -> Result<super::log::KernelLog> {
        super::log::open(&mut self.ebpf)
    }
}

/// The next value in a ring.
pub(super) fn next<T: Plain>(ring: &mut RingBuf<MapData>) -> Option<T> {
    let item = ring.next()?;
    plain(&mut &item[..])
}

/// What is asked in each walk: one fd of a thread at a time, and so many threads at most.
fn rounds(asked: &[(u32, i32)], at_once: usize) -> Vec<Vec<(u32, i32)>> {
    let mut turns: std::collections::HashMap<u32, usize> = std::collections::HashMap::new();
    let mut layers: Vec<Vec<(u32, i32)>> = Vec::new();
    for (tid, fd) in asked {
        let turn = turns.entry(*tid).or_default();
        if layers.len() <= *turn {
            layers.push(Vec::new());
        }
        layers[*turn].push((*tid, *fd));
        *turn += 1;
    }
    layers.iter().flat_map(|layer| layer.chunks(at_once)).map(<[_]>::to_vec).collect()
}

/// A key of a map as its bytes.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct MapKey<T>(T);

// SAFETY: Plain values are integers without padding.
unsafe impl<T: Plain + 'static> aya::Pod for MapKey<T> {}

/// Scheduler ticks a second: `CLOCK_MONOTONIC_COARSE` advances by one tick at a time.
fn ticks_per_second() -> u64 {
    let tick = rustix::time::clock_getres(rustix::time::ClockId::MonotonicCoarse);
    1_000_000_000 / u64::try_from(tick.tv_nsec).unwrap_or(0).clamp(1, 1_000_000_000)
}

pub(super) fn take(ebpf: &mut Ebpf, name: &str) -> Result<aya::maps::Map> {
    ebpf.take_map(name)
        .with_context(|| format!("the compiled programs have no map {name}: run `cargo xtask ebpf`"))
}

pub(super) fn program<'a>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> Result<&'a mut aya::programs::Program, ProgramError> {
    ebpf.program_mut(name).ok_or_else(|| ProgramError::NotCompiled(name.to_owned()))
}

fn load_sockets(ebpf: &mut Ebpf, btf: &aya::Btf) -> Optional {
    load_optional(ebpf, "sockets", "cannot see requests of event loops", btf)
}

fn load_answers(ebpf: &mut Ebpf, btf: &aya::Btf) -> Optional {
    loaded_or_said(load_tracepoint(ebpf, "answers", btf), "response times are not measured")
}

/// Without it tracer does not say who is at the other end, and goes on.
fn load_holders(ebpf: &mut Ebpf, btf: &aya::Btf) -> Optional {
    load_optional(ebpf, "holders", "cannot tell who is at the other end", btf)
}

/// Loads an iterator that tracer can do without, and says what is lost where the kernel refuses it.
fn load_optional(ebpf: &mut Ebpf, name: &str, without: &str, btf: &aya::Btf) -> Optional {
    loaded_or_said(load_iterator(ebpf, name, btf), without)
}

/// What came of loading a program that tracer can do without; what is lost is said.
fn loaded_or_said(result: Result<()>, without: &str) -> Optional {
    match result {
        Ok(()) => Optional::Loaded,
        Err(error) => {
            crate::util::human::say(&format!("{without}: {error:#}"));
            Optional::Refused
        }
    }
}

/// Loads a program for the place that the table says.
pub(super) fn load_iterator(ebpf: &mut Ebpf, name: &str, btf: &aya::Btf) -> Result<()> {
    let Hook::Iter(of) = find(name)?.hook else { bail!("the program {name} is no iterator") };
    let iterator: &mut Iter = program(ebpf, name)?.try_into()?;
    iterator
        .load(of, btf)
        .map_err(ProgramError::from)
        .with_context(|| format!("the kernel refuses the program {name}"))
}

/// The same of one on a typed tracepoint.
pub(super) fn load_tracepoint(ebpf: &mut Ebpf, name: &str, btf: &aya::Btf) -> Result<()> {
    let Hook::Tracepoint(at) = find(name)?.hook else { bail!("the program {name} is on no tracepoint") };
    let probe: &mut BtfTracePoint = program(ebpf, name)?.try_into()?;
    probe
        .load(at, btf)
        .map_err(ProgramError::from)
        .with_context(|| format!("the kernel refuses the program {name}"))
}

/// Attaches one that is loaded.
pub(super) fn attach_tracepoint(ebpf: &mut Ebpf, name: &str) -> Result<()> {
    let probe: &mut BtfTracePoint = program(ebpf, name)?.try_into()?;
    let attached = probe.attach().map_err(ProgramError::from);
    attached.map(drop).with_context(|| format!("cannot attach the program {name}"))
}

fn fill_table(ebpf: &mut Ebpf, name: &str, table: CallTable) -> Result<()> {
    let map = ebpf
        .map_mut(name)
        .with_context(|| format!("the compiled programs have no map {name}: run `cargo xtask ebpf`"))?;
    let mut map: Array<&mut MapData, u32> = Array::try_from(map)?;
    let rows: [u32; SYSCALLS] = rows(table);
    for (number, row) in rows.iter().enumerate().filter(|(_, row)| **row != 0) {
        map.set(number as u32, row, 0).with_context(|| format!("cannot fill the map {name}"))?;
    }
    Ok(())
}

/// A program that tracer can do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Optional {
    NotLoaded,
    Loaded,
    Refused,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_walk_asks_one_fd_of_a_thread() {
        assert_eq!(rounds(&[], 2), [] as [Vec<(u32, i32)>; 0]);
        let asked = [(1, 10), (1, 11), (2, 20), (3, 30), (1, 12), (2, 21)];
        let expected = [vec![(1, 10), (2, 20)], vec![(3, 30)], vec![(1, 11), (2, 21)], vec![(1, 12)]];
        assert_eq!(rounds(&asked, 2), expected);
    }

    #[test]
    fn what_is_asked_is_divided_once() {
        let asked =
            |number: usize| (0..number as u32).flat_map(|tid| [(tid, 3), (tid, 4)]).collect::<Vec<_>>();
        crate::util::growth::assert_linear("fds of threads", asked, |asked| {
            assert_eq!(rounds(&asked, 1024).len(), 2 * (asked.len() / 2).div_ceil(1024));
        });
    }
}
