//! The source `bpf`: decodes what the kernel programs write into waits.

use std::{
    mem,
    num::{NonZeroU32, NonZeroU64},
    sync::OnceLock,
    time::{Duration, Instant},
};

use anyhow::Result;
use compact_str::CompactString;
use hashbrown::HashMap;
use tracer_ebpf::abi::{
    CALL_COMPAT, CLOCKS, FD_OPEN, FLOW_RUNS, FLOW_STOPPED, File, NR_CORE_DUMP, NR_EXIT, TAIL_TCP, TAIL_UDP,
    TAIL_UNIX, THREAD_FAIR, THREAD_FROZEN, THREAD_PTRACED, THREAD_STOPPED, Tcp, ThreadRecord, Udp, Unix,
    WAIT_DERIVED,
};

use super::{
    SeenConnections, SleepRegisters, Source, Stacks, UNCLOSED_AGE, WantedConnections,
    records::{self, fd_state, file_key, holder, known, open_file, port_chooser, tuple_key, wanted_by},
};
use crate::{
    kernel::{
        load::{Clocks, Kernel, WantedSockets},
        object::Options,
        record::{Record, plain, take_all},
        symbols::Restarts,
    },
    model::backlog::QueueKind,
    model::connection_groups::ConnectionTally,
    model::file::SocketKind,
    model::holder::{ConnectionEnd, FileId, Holder},
    model::registers::UserRegisters,
    model::request::AskedConnection,
    model::stack::{KernelLock, KernelStack},
    model::syscalls::{CallTable, Operation, Syscall},
    model::tcp::{TcpActivity, TcpFacts, TcpInternals, TcpState},
    model::wait::{
        Call, OutputFlow, ProcessId, Queued, RingRequest, SeenFd, Sleep, Sleeper, Snapshot, SocketFacts,
        StopSignal, Suspended, SuspendedThread, ThreadId, UdpFacts, UnixFacts, Wait,
    },
    procfs,
    util::clock::Now,
};

/// State bit of an interruptible sleep (`TASK_INTERRUPTIBLE`).
const TASK_INTERRUPTIBLE: u32 = 1;
/// Bits of `jobctl` that hold the signal of the last stop (include/linux/sched/jobctl.h).
const JOBCTL_STOP_SIGMASK: u32 = 0xffff;
/// `sk_flags` bit of `SO_KEEPALIVE` (`SOCK_KEEPOPEN`, include/net/sock.h).
const SOCK_KEEPOPEN: u64 = 1 << 3;
/// A socket time-out that is none (`MAX_SCHEDULE_TIMEOUT`).
const NO_TIMEOUT: i64 = i64::MAX;

/// What the stamps of sockets are held against.
#[derive(Clone, Copy, Debug)]
struct StampClock {
    /// Scheduler ticks now.
    jiffies: u64,
    /// How many there are a second.
    hz: u64,
    /// `CLOCK_MONOTONIC` now, nanoseconds.
    monotonic_ns: u64,
}

impl StampClock {
    fn new(clocks: &Clocks, hz: u64) -> Self {
        let header = &clocks.header;
        Self { jiffies: header.jiffies, hz, monotonic_ns: header.monotonic_ns }
    }

    /// How long so many ticks are.
    fn ticks(&self, ticks: u64) -> Duration {
        Duration::from_nanos((u128::from(ticks) * 1_000_000_000 / u128::from(self.hz)) as u64)
    }

    /// Since a stamp of 32 bits in ticks.
    fn since_ticks(&self, stamp: u32) -> Duration {
        self.ticks(u64::from(units_since(self.jiffies as u32, stamp, self.hz)))
    }

    /// Since a stamp of 32 bits in milliseconds.
    fn since_ms(&self, stamp: u32) -> Duration {
        let now = (self.monotonic_ns / 1_000_000) as u32;
        Duration::from_millis(u64::from(units_since(now, stamp, 1000)))
    }

    /// Since a stamp of 64 bits in microseconds.
    fn since_us(&self, stamp: u64) -> Duration {
        Duration::from_micros((self.monotonic_ns / 1000).saturating_sub(stamp))
    }

    /// A socket's time-out, which it has in ticks.
    fn timeout(&self, value: i64) -> Option<Duration> {
        (value != NO_TIMEOUT && value > 0).then(|| self.ticks(value as u64))
    }
}

/// The kernel programs as a source.
pub struct Bpf {
    /// The loaded programs.
    pub kernel: Kernel,
    /// Read when the first restarted call is seen.
    pub restarts: Option<Restarts>,
    /// As of the last snapshot.
    clock: StampClock,
    /// Room for the waits of the next.
    room: Vec<Wait>,
}

impl Bpf {
    /// Loads the programs. The error says what is missing and what to do.
    pub fn load(options: Options) -> Result<Self> {
        let kernel = Kernel::load(options)?;
        let clock = StampClock { jiffies: 0, hz: kernel.hz(), monotonic_ns: 0 };
        Ok(Self { kernel, restarts: None, clock, room: Vec::new() })
    }

    /// Reads what takes rights that may be given up before it is needed: the kernel shows addresses to few.
    pub fn learn_symbols(&mut self) {
        self.restarts.get_or_insert_with(Restarts::read);
    }

    /// Takes back the room of a snapshot's waits, for the next: memory that is new to the process costs it a tenth of a look. Not
    /// after there were many more waits than now.
    pub fn take_back(&mut self, mut waits: Vec<Wait>) {
        let used = waits.len();
        waits.clear();
        waits.shrink_to(used.saturating_mul(2));
        self.room = waits;
    }

    /// Loads what a single snapshot needs.
    pub fn once() -> Result<Self> {
        Self::for_a_look(true)
    }

    /// Loads what asking about single threads needs: there are no snapshots.
    pub fn of_threads() -> Result<Self> {
        Self::for_a_look(false)
    }

    fn for_a_look(snapshot: bool) -> Result<Self> {
        Self::load(Options {
            snapshot,
            waits: false,
            min_wait: Duration::ZERO,
            report: Duration::ZERO,
            calls: None,
            answers: false,
            verbose: false,
        })
    }
}

impl Source for Bpf {
    fn snapshot(&mut self) -> Result<Snapshot> {
        let begun = Instant::now();
        let hz = self.kernel.hz();
        let own = procfs::own();
        let (restarts, clock) = (&mut self.restarts, &mut self.clock);
        let now = Now::read();
        let mut snapshot = Snapshot::empty(&now, "bpf");
        snapshot.waits = mem::take(&mut self.room);
        self.kernel.pass(|clocks, record| {
            let Record::Thread(record, tail) = record else { return };
            *clock = StampClock::new(clocks, hz);
            if own.contains(&record.tgid) {
                return;
            }
            if let Some(by) = suspended(record.flags) {
                let signal = StopSignal::of((record.jobctl & JOBCTL_STOP_SIGMASK) as i32);
                let signal = signal.filter(|_| by == Suspended::Stopped);
                snapshot.suspended.push(SuspendedThread { thread: thread(&record), by, signal });
            } else {
                snapshot.waits.push(decode(&record, tail, clocks, &now, hz, restarts));
            }
        })?;
        snapshot.duration = begun.elapsed();
        Ok(snapshot)
    }

    fn look_up(&mut self, fds: &[(ThreadId, i32)]) -> Result<Vec<SeenFd>> {
        if fds.is_empty() {
            return Ok(Vec::new());
        }
        let clock = self.clock;
        // Some may be asked for a thread and for a connection of its process.
        let mut who: HashMap<(u32, i32), Vec<ThreadId>> = HashMap::with_capacity(fds.len());
        for (thread, fd) in fds {
            who.entry((thread.in_kernel().tid, *fd)).or_default().push(*thread);
        }
        let asked: Vec<(u32, i32)> = who.keys().copied().collect();
        let mut seen = Vec::new();
        self.kernel.look_up(&asked, |record, tail| {
            let same = |thread: &&ThreadId| is_start_of(&thread.in_kernel(), record.thread_start_ns);
            for thread in who.get(&(record.tid, record.fd)).into_iter().flatten().filter(same) {
                let state = fd_state(record.fd_state, &record.file);
                let socket = facts(&record.file, record.tail, tail, &clock);
                let flow = match record.flow {
                    FLOW_RUNS => Some(OutputFlow::Runs),
                    FLOW_STOPPED => Some(OutputFlow::Stopped),
                    _ => None,
                };
                seen.push(SeenFd { thread: *thread, fd: record.fd, state, socket, flow });
            }
        })?;
        Ok(seen)
    }

    fn looks_up_as_of_snapshot(&self) -> bool {
        true
    }

    fn stacks(&mut self, sleepers: &[Sleeper]) -> Result<Stacks> {
        if sleepers.is_empty() {
            return Ok(Stacks::new());
        }
        let asked: HashMap<u32, &Sleeper> =
            sleepers.iter().map(|sleeper| (sleeper.thread.tid, sleeper)).collect();
        let tids: Vec<u32> = asked.keys().copied().collect();
        let mut stacks = Stacks::new();
        self.kernel.stacks(&tids, |record, text| {
            // One that has slept since is in another sleep, or is another thread.
            let switches = record.nvcsw.wrapping_add(record.nivcsw);
            if let Some(sleeper) = asked.get(&record.tid)
                && sleeper.switches == switches
                && is_start_of(&sleeper.thread, record.thread_start_ns)
            {
                let stack = KernelStack::parse(&String::from_utf8_lossy(text));
                let lock = (record.locked != 0).then(|| KernelLock { holder: known(record.holder) });
                stacks.insert(sleeper.thread, stack.with_lock(lock));
            }
        })?;
        Ok(stacks)
    }

    fn registers(&mut self, _process: ProcessId, tids: &[u32]) -> Result<Vec<SleepRegisters>> {
        let mut found = Vec::with_capacity(tids.len());
        self.kernel.registers(tids, |record| {
            let is_compat = record.flags & CALL_COMPAT != 0;
            found.push(SleepRegisters {
                tid: record.tid,
                registers: UserRegisters::from_saved(&record.registers, record.thread_pointer, is_compat),
                switches: record.nvcsw.wrapping_add(record.nivcsw),
            });
        })?;
        Ok(found)
    }

    fn requests(&mut self, sleepers: &[Sleeper]) -> Result<Vec<RingRequest>> {
        if sleepers.is_empty() {
            return Ok(Vec::new());
        }
        let clock = self.clock;
        let threads: HashMap<u32, ThreadId> =
            sleepers.iter().map(|sleeper| (sleeper.thread.tid, sleeper.thread)).collect();
        let tids: Vec<u32> = threads.keys().copied().collect();
        let mut requests = Vec::new();
        self.kernel.requests(&tids, |record, tail| {
            let same = |thread: &&ThreadId| is_start_of(thread, record.thread_start_ns);
            if let Some(thread) = threads.get(&record.tid).filter(same) {
                requests.push(RingRequest {
                    thread: *thread,
                    fd: Some(record.fd).filter(|fd| *fd >= 0),
                    interest: wanted_by(record.opcode),
                    state: fd_state(FD_OPEN, &record.file),
                    socket: facts(&record.file, record.tail, tail, &clock),
                });
            }
        })?;
        Ok(requests)
    }

    fn connections(&mut self, wanted: &WantedConnections) -> Result<Option<SeenConnections>> {
        let (own, hz) = (procfs::own(), self.kernel.hz());
        let ticks = wanted.age.as_millis() as u64 * hz / 1000;
        let (clocks, bytes) = self.kernel.sockets(&WantedSockets {
            ticks,
            answered_one_in: wanted.answered_one_in,
            unclosed_ticks: wanted.of_servers.then(|| UNCLOSED_AGE.as_secs() * hz),
        })?;
        let Some(bytes) = bytes else { return Ok(None) };
        let clock = StampClock::new(&clocks, hz);
        let mut asked = Vec::new();
        let (mut incoming, mut unclosed) = (ConnectionTally::default(), ConnectionTally::default());
        take_all(&bytes, |record| {
            if let Record::Socket(record, mut tail) = record
                && let (Some(file), Some(raw)) = (open_file(&record.file), plain::<Tcp>(&mut tail))
                && !own.contains(&record.tgid)
            {
                let connection = AskedConnection {
                    process: ProcessId { pid: record.tgid, start_ns: record.process_start_ns },
                    comm: text(&record.comm),
                    uid: record.uid,
                    fd: record.fd,
                    file,
                    tcp: Box::new(tcp_facts(raw, &clock)),
                    is_watched: record.watched != 0,
                    seen_ns: clock.monotonic_ns,
                };
                match connection.tcp.state {
                    TcpState::CloseWait => unclosed.add_unclosed(connection),
                    TcpState::Established if !connection.tcp.has_connected() => incoming.add_owed(connection),
                    _ => asked.push(connection),
                }
            }
            Ok(())
        })?;
        Ok(Some(SeenConnections { asked, incoming: incoming.finish(), unclosed: unclosed.finish() }))
    }

    fn holders(&mut self, files: &[FileId], ends: &[ConnectionEnd]) -> Result<Option<Vec<Holder>>> {
        let files: Vec<_> = files.iter().map(file_key).collect();
        let ends: Vec<_> = ends.iter().map(tuple_key).collect();
        let mut holders = Vec::new();
        let walked = self.kernel.holders(&files, &ends, |record| holders.extend(holder(&record)))?;
        Ok(walked.then_some(holders))
    }
}

/// Whether a thread began then: a reused id is another's. What comes from `/proc` knows the start to a tick only.
fn is_start_of(thread: &ThreadId, start_ns: u64) -> bool {
    let tick = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
    start_ns.abs_diff(thread.start_ns) < tick
}

fn suspended(flags: u32) -> Option<Suspended> {
    if flags & THREAD_STOPPED != 0 {
        Some(Suspended::Stopped)
    } else if flags & THREAD_PTRACED != 0 {
        Some(Suspended::Traced)
    } else if flags & THREAD_FROZEN != 0 {
        Some(Suspended::Frozen)
    } else {
        None
    }
}

fn thread(record: &ThreadRecord) -> ThreadId {
    ThreadId {
        process: ProcessId { pid: record.tgid, start_ns: record.process_start_ns },
        tid: record.tid,
        start_ns: record.thread_start_ns,
    }
}

/// A record as the wait it is.
pub fn decode(
    record: &ThreadRecord,
    tail: &[u8],
    clocks: &Clocks,
    now: &Now,
    hz: u64,
    restarts: &mut Option<Restarts>,
) -> Wait {
    let began_ns = began(record, clocks).min(now.monotonic_ns);
    let age = Duration::from_nanos(now.monotonic_ns - began_ns);
    Wait {
        thread: thread(record),
        comm: text(&record.comm),
        uid: record.uid,
        sleep: if record.state & TASK_INTERRUPTIBLE != 0 {
            Sleep::Interruptible
        } else {
            Sleep::Uninterruptible
        },
        call: call(record, restarts),
        fd: (record.fd_state != 0).then_some(record.fd),
        fd_state: fd_state(record.fd_state, &record.file),
        socket: facts(&record.file, record.tail, tail, &StampClock::new(clocks, hz)),
        age,
        exact: record.began_ns != 0 && record.flags & WAIT_DERIVED == 0,
        since: now.wall_at(began_ns),
        began_ns,
        sleep_began_ns: began_ns,
        switches: record.nvcsw.wrapping_add(record.nivcsw),
        cgroups: NonZeroU64::new(record.cgroups),
        mount: NonZeroU32::new(record.file.mount),
    }
}

/// When the sleep began, `CLOCK_MONOTONIC`.
fn began(record: &ThreadRecord, clocks: &Clocks) -> u64 {
    if record.began_ns != 0 {
        return record.began_ns;
    }
    let arrived = record.arrival_ns.saturating_add_signed(clocks.offset_ns);
    let passed = clocks.header.monotonic_ns.saturating_sub(arrived);
    if record.flags & THREAD_FAIR != 0 && record.ran_ns < passed { arrived + record.ran_ns } else { arrived }
}

fn call(record: &ThreadRecord, restarts: &mut Option<Restarts>) -> Call {
    let table = if record.flags & CALL_COMPAT != 0 { CallTable::Compat } else { CallTable::Native };
    let mut call = Call {
        table,
        number: (record.nr >= 0).then_some(record.nr),
        syscall: syscall(table, record.nr),
        // Outside of calls the registers are the program's own.
        args: if record.nr < 0 { [0; 6] } else { record.args },
        restarted: false,
    };
    if let Some(syscall) = restarted(call.syscall, record.restart_fn, call.args[0], restarts) {
        (call.restarted, call.syscall) = (true, syscall);
    }
    call
}

/// The call that a `restart_syscall` goes on with.
pub(super) fn restarted(
    syscall: Syscall,
    restart_fn: u64,
    first_arg: u64,
    restarts: &mut Option<Restarts>,
) -> Option<Syscall> {
    if syscall.operation() != Operation::Restart {
        return None;
    }
    // A clock's number is small, an address is not: the two sleeps share their continuation.
    match restarts.get_or_insert_with(Restarts::read).call(restart_fn)? {
        Syscall::Nanosleep if first_arg < CLOCKS => Some(Syscall::ClockNanosleep),
        syscall => Some(syscall),
    }
}

/// A call, or what stands for one, by the number that the kernel programs give it.
pub fn syscall(table: CallTable, number: i32) -> Syscall {
    match number {
        0.. => Syscall::of(table, number),
        NR_EXIT => Syscall::Exit,
        NR_CORE_DUMP => Syscall::CoreDump,
        _ => Syscall::PageFault,
    }
}

fn facts(file: &File, kind: u32, mut tail: &[u8], clock: &StampClock) -> SocketFacts {
    match kind {
        TAIL_TCP => plain::<Tcp>(&mut tail)
            .map_or(SocketFacts::None, |tcp| SocketFacts::Tcp(Box::new(tcp_facts(tcp, clock)))),
        TAIL_UNIX => plain::<Unix>(&mut tail)
            .map_or(SocketFacts::None, |unix| SocketFacts::Unix(Box::new(unix_facts(file, &unix, clock)))),
        TAIL_UDP => plain::<Udp>(&mut tail).map_or(SocketFacts::None, |udp| {
            SocketFacts::Udp(UdpFacts {
                has_received: udp.stamp >= 0,
                receive_timeout: clock.timeout(udp.rcvtimeo),
                send_timeout: clock.timeout(udp.sndtimeo),
            })
        }),
        _ => SocketFacts::None,
    }
}

fn unix_facts(file: &File, unix: &Unix, clock: &StampClock) -> UnixFacts {
    let kind = SocketKind::of(file.sock_type);
    let waiting = records::waiting(unix.state.into(), Some(kind));
    let datagram = kind == SocketKind::Datagram;
    UnixFacts {
        path: unix_path(&unix.path, unix.path_len),
        peer_path: unix_path(&unix.peer_path, unix.peer_path_len),
        peer_inode: known(unix.peer_inode),
        peer_pid: known(unix.peer_pid),
        unread: if unix.unread > 0 { Queued::Messages(unix.unread) } else { Queued::Nothing },
        peer_limit: (datagram && unix.has_peer != 0).then_some(unix.peer_limit),
        // Until it is accepted no file leads to the other end (`unix_stream_connect`, net/unix/af_unix.c).
        unaccepted: !datagram && unix.has_peer != 0 && unix.peer_inode == 0 && unix.peer_path_len > 0,
        backlog: waiting.map(|waiting| records::backlog(waiting, unix.queue, unix.limit)),
        receive_timeout: clock.timeout(unix.rcvtimeo),
        send_timeout: clock.timeout(unix.sndtimeo),
    }
}

fn tcp_facts(raw: Tcp, clock: &StampClock) -> TcpFacts {
    let state = TcpState::of(raw.state);
    let activity = TcpActivity {
        bytes_sent: raw.bytes_sent,
        bytes_retransmitted: raw.bytes_retrans,
        bytes_acknowledged: raw.bytes_acked,
        bytes_received: raw.bytes_received,
        sent: known(raw.bytes_sent).map(|_| clock.since_ticks(raw.lsndtime)),
        received: known(raw.bytes_received).map(|_| clock.since_ticks(raw.lrcvtime)),
        acknowledged: clock.since_ticks(raw.rcv_tstamp),
        // Kept in eighths.
        round_trip: Duration::from_micros(u64::from(raw.srtt_us >> 3)),
        retransmits: raw.retransmits,
        backoff: raw.backoff,
        probes: raw.probes_out,
        window: Some(raw.snd_wnd),
        delivered: known(raw.delivered_us).map(|stamp| clock.since_us(stamp)),
        // The stamp of an earlier loss may still be there.
        first_sent: known(raw.retrans_stamp_ms)
            .filter(|_| raw.retransmits > 0 || state == TcpState::SynSent)
            .map(|stamp| clock.since_ms(stamp)),
        in_flight: raw.snd_nxt != raw.snd_una,
    };
    let setting =
        |own: u32, system: &Setting| known(own).map_or_else(|| system.time(), |own| clock.ticks(own.into()));
    let count = |setting: &Setting| u8::try_from(setting.number()).unwrap_or(u8::MAX);
    let internals = TcpInternals {
        in_flight: raw.snd_nxt.wrapping_sub(raw.snd_una),
        // Every segment in order moves the one number, data or not, and only data moves the other.
        last_segment: raw.rcv_nxt.wrapping_sub(raw.snd_wl1),
        receive_timeout: clock.timeout(raw.rcvtimeo),
        send_timeout: clock.timeout(raw.sndtimeo),
        user_timeout: known(raw.user_timeout).map(|ms| Duration::from_millis(ms.into())),
        keepalive_after: setting(raw.keepalive_time, &KEEPALIVE_TIME),
        keepalive_interval: setting(raw.keepalive_intvl, &KEEPALIVE_INTERVAL),
        keepalive_probes: known(raw.keepalive_probes).unwrap_or_else(|| count(&KEEPALIVE_PROBES)),
        retransmission: Duration::from_millis(clock.ticks(raw.rto.into()).as_millis() as u64),
        retries: count(&RETRIES),
        port_chosen_by: port_chooser(raw.port),
    };
    let listens = state == TcpState::Listen;
    TcpFacts {
        state,
        netns: known(raw.netns),
        send_queue: raw.write_seq.wrapping_sub(raw.snd_una),
        receive_queue: raw.rcv_nxt.wrapping_sub(raw.copied_seq),
        keepalive: raw.flags & SOCK_KEEPOPEN != 0,
        activity: Some(activity),
        internals: Some(internals),
        backlog: listens
            .then(|| records::backlog(QueueKind::Connections, raw.accept_queue, raw.accept_limit)),
    }
}

/// Units of time from a stamp until now, of which a second has so many. Both have 32 bits: the difference is right as long as
/// less than a wrap has passed. The socket is read after the clock, so a stamp may be a little newer than now: that is no time,
/// not a whole wrap.
fn units_since(now: u32, stamp: u32, each_second: u64) -> u32 {
    /// Longer than reading a snapshot can be held up.
    const SECONDS: u64 = 60;
    let newer = stamp.wrapping_sub(now);
    if u64::from(newer) <= SECONDS * each_second { 0 } else { now.wrapping_sub(stamp) }
}

/// A setting of the system: its name, the kernel's own default, what was read, once.
struct Setting(&'static str, u32, OnceLock<u32>);

/// The settings of TCP that a connection may not have of its own. The defaults are of include/net/tcp.h.
static KEEPALIVE_TIME: Setting = Setting("tcp_keepalive_time", 7200, OnceLock::new());
static KEEPALIVE_INTERVAL: Setting = Setting("tcp_keepalive_intvl", 75, OnceLock::new());
static KEEPALIVE_PROBES: Setting = Setting("tcp_keepalive_probes", 9, OnceLock::new());
static RETRIES: Setting = Setting("tcp_retries2", 15, OnceLock::new());

impl Setting {
    /// The number itself.
    fn number(&self) -> u32 {
        let Setting(name, default, read) = self;
        let number =
            || std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).ok()?.trim().parse().ok();
        *read.get_or_init(|| number().unwrap_or(*default))
    }

    /// Of a number of seconds.
    fn time(&self) -> Duration {
        Duration::from_secs(self.number().into())
    }
}

/// A unix socket's address: a path, or an abstract name, which begins with a zero byte and prints with `@`.
fn unix_path(path: &[u8], len: u16) -> Option<String> {
    let path = path.get(..usize::from(len)).unwrap_or(path);
    match path {
        [] => None,
        [0, name @ ..] => Some(format!("@{}", String::from_utf8_lossy(name))),
        path => Some(text(path).into()),
    }
}

/// A zero-terminated string of the kernel's.
pub fn text(bytes: &[u8]) -> CompactString {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    // Nearly always it is UTF-8, which is quicker to see than to mend.
    CompactString::from_utf8(&bytes[..end]).unwrap_or_else(|_| CompactString::from_utf8_lossy(&bytes[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_newer_than_the_clock_is_no_wrap() {
        assert_eq!(units_since(1000, 1021, 250), 0);
        assert_eq!(units_since(u32::MAX, 20, 250), 0, "over the wrap");
        assert_eq!(units_since(1000, 1000, 250), 0);
        assert_eq!(units_since(1000, 990, 250), 10);
        assert_eq!(units_since(5, u32::MAX - 4, 250), 10, "over the wrap");
        // More than half a wrap: an age of 120 days.
        assert_eq!(units_since(2_592_000_000, 0, 250), 2_592_000_000);
    }
}
