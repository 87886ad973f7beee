//! Everything that is read of other processes: their files in `/proc` and their memory, and what of the host's files may lie
//! on storage that does not answer.
//!
//! Any such read may hang: behind a lock that its process holds, a page that never comes, a file system whose server is gone.
//! So none is made by a thread of tracer's. A small process of tracer's own makes it, [`reader`], and is left behind if it
//! does not answer in time; [`supervisor`] starts and ends these; [`ledger`] knows whom to leave alone; [`client`] joins them.
//!
//! Layer 2: uses the model.

mod allowed;
mod ask;
mod client;
mod confine;
mod ledger;
mod reader;
pub mod stat;
pub mod supervisor;
mod symbols;

use std::{
    borrow::Cow,
    collections::HashMap,
    ffi::OsStr,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::PathBuf,
};

use rustix::io::Errno;

#[cfg(any(fuzzing, test))]
pub use self::symbols::read_anything;
pub use self::{
    ask::FileStat,
    client::{Unread, is_own, own},
    ledger::{Needs, Refused},
    symbols::{ADDRESSES_MAX, FoundSymbol},
};
use self::{
    ask::{LONG_BYTES, ReadRequest, SHORT_BYTES},
    client::{HOST, ProcessRead, ReaderClient},
};
use crate::{
    model::cgroup,
    model::wait::{ProcessId, ThreadId, Wait},
};

/// Reads, each of which ends within a deadline: by a reader that the present thread has for itself, however many of these it
/// has.
pub struct Reads {
    client: ReaderClient,
    /// What was asked for ahead and has not been read yet.
    ahead: HashMap<ReadRequest, Result<Vec<u8>, Unread>>,
}

/// Something below `/proc/PID` that is read together with more.
pub enum Wanted<'a> {
    /// A file, its first 64 KiB.
    File(Cow<'a, str>),
    /// A link: where it leads.
    Link(Cow<'a, str>),
    /// A directory of links, each with where it leads.
    Links(Cow<'a, str>),
}

impl Wanted<'_> {
    fn question(&self, process: ProcessId) -> ProcessRead {
        let (name, ask) = match self {
            Wanted::File(name) => (name, ReadRequest::File { path: path(process, name), limit: SHORT_BYTES }),
            Wanted::Link(name) => (name, ReadRequest::Link { path: path(process, name) }),
            Wanted::Links(name) => {
                let ask = ReadRequest::Links { path: path(process, name) };
                return ProcessRead { process, needs: Needs::of(&format!("{name}/")), ask };
            }
        };
        ProcessRead { process, needs: Needs::of(name), ask }
    }
}

/// An entry of a directory of links, as `/proc/PID/fd` is.
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Where it leads.
    pub link: String,
}

impl Reads {
    /// Costs nothing before something is read.
    pub fn new() -> Self {
        Self { client: ReaderClient::new(), ahead: HashMap::new() }
    }

    /// Reads that did not come back in time, so far, of all of this program's.
    pub fn abandoned(&self) -> u64 {
        self.client.abandoned()
    }

    /// Reads that were not made as too many others had been late, so far.
    pub fn refused(&self) -> u64 {
        self.client.refused()
    }

    /// Reads that had no answer as there was no reader, or it ended before, so far.
    pub fn unanswered(&self) -> u64 {
        self.client.unanswered()
    }

    /// Waits of these processes have ended: what hung may have come back with them.
    pub fn forgive(&mut self, processes: impl Iterator<Item = ProcessId>) {
        self.client.forgive(processes);
    }

    fn ask(&mut self, process: ProcessId, needs: Needs, ask: ReadRequest) -> Result<Vec<u8>, Unread> {
        if !self.ahead.is_empty()
            && let Some(answer) = self.ahead.remove(&ask)
        {
            return answer;
        }
        self.client.ask(ProcessRead { process, needs, ask }).map(|(bytes, _)| bytes)
    }

    /// Asks now, together, for what will be read next, of many processes: one by one each would cost a switch to the reader and
    /// back. An answer is kept until it is read, or until the next such call, so that it is never old.
    pub fn ahead<'a>(&mut self, wanted: impl Iterator<Item = (ProcessId, Wanted<'a>)>) {
        self.ahead.clear();
        let questions: Vec<ProcessRead> = wanted.map(|(process, wanted)| wanted.question(process)).collect();
        let asks: Vec<ReadRequest> = questions.iter().map(|question| question.ask.clone()).collect();
        let answers = self.client.ask_all(questions).into_iter().map(|answer| answer.map(|(bytes, _)| bytes));
        self.ahead.extend(asks.into_iter().zip(answers));
    }

    /// Everything that was asked for ahead has been read that will be.
    pub fn forget_ahead(&mut self) {
        self.ahead = HashMap::new();
    }

    /// A file below `/proc/PID`, its first 64 KiB.
    ///
    /// # Errors
    /// Why it was not read.
    pub fn file(&mut self, process: ProcessId, name: &str) -> Result<Vec<u8>, Unread> {
        self.ask(
            process,
            Needs::of(name),
            ReadRequest::File { path: path(process, name), limit: SHORT_BYTES },
        )
    }

    /// The same, of a table of the process's network namespace, which may be long.
    pub fn table(&mut self, process: ProcessId, name: &str) -> Option<Vec<u8>> {
        self.ask(process, Needs::of(name), ReadRequest::File { path: path(process, name), limit: LONG_BYTES })
            .ok()
    }

    /// The beginning of such a table, as far as `enough` says of what has been read that it is; else all of it.
    pub fn beginning(
        &mut self,
        process: ProcessId,
        name: &str,
        enough: impl Fn(&[u8]) -> bool,
    ) -> Option<Vec<u8>> {
        let mut limit = SHORT_BYTES;
        loop {
            let ask = ReadRequest::File { path: path(process, name), limit };
            let bytes = self.ask(process, Needs::of(name), ask).ok()?;
            if bytes.len() < limit || limit >= LONG_BYTES || enough(&bytes) {
                return Some(bytes);
            }
            limit *= 4;
        }
    }

    /// A file below `/proc/PID` as text: a process's name in it may be any bytes.
    pub fn text(&mut self, process: ProcessId, name: &str) -> Option<String> {
        self.file(process, name).ok().map(|bytes| lossy(&bytes))
    }

    /// Several files and links, asked for together.
    pub fn many<const N: usize>(
        &mut self,
        process: ProcessId,
        wanted: [Wanted<'_>; N],
    ) -> [Result<Vec<u8>, Unread>; N] {
        let questions = wanted.map(|wanted| wanted.question(process));
        let mut known = questions.each_ref().map(|question| self.ahead.remove(&question.ask));
        let unknown = questions.into_iter().zip(&known).filter(|(_, known)| known.is_none());
        let mut answers = self.client.ask_all(unknown.map(|(question, _)| question).collect()).into_iter();
        std::array::from_fn(|at| {
            let asked = || answers.next().unwrap_or(Err(Unread::NoReader)).map(|(bytes, _)| bytes);
            known[at].take().unwrap_or_else(asked)
        })
    }

    /// Several files, asked for together.
    pub fn files<const N: usize>(
        &mut self,
        process: ProcessId,
        names: [&str; N],
    ) -> [Result<Vec<u8>, Unread>; N] {
        self.many(process, names.map(|name| Wanted::File(name.into())))
    }

    /// The same as texts.
    pub fn texts<const N: usize>(&mut self, process: ProcessId, names: [&str; N]) -> [Option<String>; N] {
        self.files(process, names).map(|bytes| bytes.ok().map(|bytes| lossy(&bytes)))
    }

    /// Where a link below `/proc/PID` leads.
    ///
    /// # Errors
    /// Why it was not read.
    pub fn link(&mut self, process: ProcessId, name: &str) -> Result<PathBuf, Unread> {
        let bytes = self.ask(process, Needs::of(name), ReadRequest::Link { path: path(process, name) })?;
        Ok(PathBuf::from(OsStr::from_bytes(&bytes)))
    }

    /// The names in a directory below `/proc/PID` that are numbers: threads, descriptors.
    pub fn numbers(&mut self, process: ProcessId, name: &str) -> Vec<u32> {
        let bytes = self.ask(process, Needs::of(name), ReadRequest::Names { path: path(process, name) });
        numbers(&bytes.unwrap_or_default())
    }

    /// Every link in a directory below `/proc/PID`; what could not be read of them is left out.
    pub fn links(&mut self, process: ProcessId, name: &str) -> Vec<Entry> {
        // Each link is asked for what the entry itself would be.
        let needs = Needs::of(&format!("{name}/"));
        let bytes =
            self.ask(process, needs, ReadRequest::Links { path: path(process, name) }).unwrap_or_default();
        let mut words = bytes.split(|byte| *byte == 0).map(lossy);
        let mut entries = Vec::new();
        while let (Some(name), Some(link)) = (words.next(), words.next()) {
            entries.push(Entry { name, link });
        }
        entries
    }

    /// What a file below `/proc/PID` is; of a link there, what it leads to. An empty name is the directory itself.
    ///
    /// # Errors
    /// Why it was not read.
    pub fn what(&mut self, process: ProcessId, name: &str) -> Result<FileStat, Unread> {
        let bytes = self.ask(process, Needs::of(name), ReadRequest::Stat { path: path(process, name) })?;
        FileStat::decode(&bytes).ok_or(Unread::Failed(Errno::INVAL))
    }

    /// Opens a file below `/proc/PID`.
    pub fn open(&mut self, process: ProcessId, name: &str) -> Option<OwnedFd> {
        let ask = ReadRequest::Open { path: path(process, name) };
        self.client.ask(ProcessRead { process, needs: Needs::of(name), ask }).ok()?.1
    }

    /// Bytes of a process's memory, as many as are there up to `length`.
    pub fn memory(&mut self, process: ProcessId, address: u64, length: usize) -> Option<Vec<u8>> {
        let ask = ReadRequest::Memory { pid: process.pid, address, length };
        self.ask(process, Needs::Memory, ask).ok().filter(|bytes| !bytes.is_empty())
    }

    /// A zero-terminated string in a process's memory, of at most `limit` bytes.
    pub fn string(&mut self, process: ProcessId, address: u64, limit: usize) -> Option<Vec<u8>> {
        self.ask(process, Needs::Memory, ReadRequest::Text { pid: process.pid, address, limit }).ok()
    }

    /// The functions of these addresses, [`ADDRESSES_MAX`] at most, by the symbols of the ELF file with this inode number that is
    /// below `/proc/PID`; without one by a perf map there.
    ///
    /// # Errors
    /// Why they were not read.
    pub fn symbols(
        &mut self,
        process: ProcessId,
        name: &str,
        inode: u64,
        addresses: &[u64],
    ) -> Result<Vec<Option<FoundSymbol>>, Unread> {
        let ask = ReadRequest::Symbols { path: path(process, name), inode, addresses: addresses.to_vec() };
        let bytes = self.ask(process, Needs::Path, ask)?;
        let found = symbols::decode(&bytes).filter(|found| found.len() == addresses.len());
        found.ok_or(Unread::Failed(Errno::INVAL))
    }

    /// Where in memory a section of such a file belongs, and how many bytes it has.
    ///
    /// # Errors
    /// Why that was not read.
    pub fn section(
        &mut self,
        process: ProcessId,
        name: &str,
        inode: u64,
        section: &str,
    ) -> Result<(u64, u64), Unread> {
        let ask = ReadRequest::Section { path: path(process, name), inode, section: section.into() };
        let bytes = self.ask(process, Needs::Path, ask)?;
        match bytes.as_chunks::<8>() {
            ([address, length], []) => Ok((u64::from_ne_bytes(*address), u64::from_ne_bytes(*length))),
            _ => Err(Unread::Failed(Errno::INVAL)),
        }
    }

    /// Everything that can be read from a descriptor of tracer's own, where reading it may wait for others.
    ///
    /// # Errors
    /// Why it was not read.
    pub fn drain(&mut self, from: BorrowedFd<'_>) -> Result<Vec<u8>, Unread> {
        self.client.drain(from)
    }

    /// `stat` of a process's first thread.
    pub fn stat(&mut self, process: ProcessId) -> Option<stat::Stat> {
        stat::parse_stat(&self.text(process, "stat")?)
    }

    /// `stat` of a thread.
    pub fn thread_stat(&mut self, process: ProcessId, tid: u32) -> Option<stat::Stat> {
        stat::parse_stat(&self.text(process, &format!("task/{tid}/stat"))?)
    }

    /// The name of a process, that of its first thread.
    pub fn comm(&mut self, process: ProcessId) -> Option<String> {
        Some(stat::comm(&self.text(process, "comm")?))
    }

    /// The name of a thread.
    pub fn thread_comm(&mut self, process: ProcessId, tid: u32) -> Option<String> {
        Some(stat::comm(&self.text(process, &format!("task/{tid}/comm"))?))
    }

    /// Whether the thread has not run since the wait was seen: only then is what was read meanwhile what its call was given.
    pub fn still_in(&mut self, wait: &Wait) -> bool {
        let status = self.text(wait.thread.process, &format!("task/{}/status", wait.thread.tid));
        status.and_then(|status| stat::status(&status)).is_some_and(|(_, switches)| switches == wait.switches)
    }

    /// Whether this very thread has not ended; a zombie has. One that cannot be read for now counts as alive: what keeps
    /// it from being read is a call that it is in.
    pub fn thread_lives(&mut self, thread: &ThreadId) -> bool {
        match self.file(thread.process, &format!("task/{}/stat", thread.tid)) {
            Ok(bytes) => stat::parse_stat(&lossy(&bytes))
                .is_some_and(|stat| stat.thread_lives() && stat::same_start(thread.start_ns, &stat)),
            Err(Unread::Failed(_)) => false,
            Err(_) => self.exists(thread.process),
        }
    }

    /// Whether this very process still makes calls; see [`thread_lives`](Self::thread_lives).
    pub fn lives(&mut self, process: ProcessId) -> bool {
        match self.file(process, "stat") {
            Ok(bytes) => stat::parse_stat(&lossy(&bytes))
                .is_some_and(|stat| stat.lives() && stat::same_start(process.start_ns, &stat)),
            Err(Unread::Failed(_)) => false,
            Err(_) => self.exists(process),
        }
    }

    /// Whether there is a process with this id.
    pub fn exists(&mut self, process: ProcessId) -> bool {
        self.what(process, "").is_ok()
    }

    /// Ids of all processes.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn processes(&mut self) -> Result<Vec<u32>, Unread> {
        Ok(numbers(&self.ask(HOST, Needs::Host, ReadRequest::Names { path: "/proc".into() })?))
    }

    /// A file of the host's that is not about one process: `/proc/locks`, a log folder's entry.
    pub fn host_file(&mut self, path: &str) -> Option<Vec<u8>> {
        self.ask(HOST, Needs::Host, ReadRequest::File { path: path.into(), limit: LONG_BYTES }).ok()
    }

    /// The names in a folder of the host's.
    pub fn host_names(&mut self, path: &str) -> Vec<String> {
        let bytes = self.ask(HOST, Needs::Host, ReadRequest::Names { path: path.into() }).unwrap_or_default();
        reader::names(&bytes).map(|name| name.to_string_lossy().into_owned()).collect()
    }
}

/// A process of which only the id is known.
pub fn by_pid(pid: u32) -> ProcessId {
    ProcessId { pid, start_ns: 0 }
}

/// Who has to answer for a process, by its `cgroup` and `status`: its container or unit, else its user.
fn owner_of(cgroup: &str, status: &str) -> ledger::AccountName {
    let path = cgroup::of(cgroup).map(|(path, _)| path);
    stat::status(status)
        .map_or_else(String::new, |(uid, _)| cgroup::Owner::at(path.as_deref(), uid).to_string())
}

fn path(process: ProcessId, name: &str) -> String {
    let ProcessId { pid, .. } = process;
    if name.is_empty() { format!("/proc/{pid}") } else { format!("/proc/{pid}/{name}") }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn numbers(names: &[u8]) -> Vec<u32> {
    reader::names(names).filter_map(|name| name.to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_as_it_is() {
        let mut reads = Reads::new();
        let me = by_pid(std::process::id());
        let stat = reads.stat(me).expect("its own");
        let process = ProcessId { start_ns: stat.start_ns(), ..me };
        assert!(reads.lives(process) && reads.exists(process));
        assert!(!reads.lives(ProcessId { start_ns: 1, ..process }), "another had this id");
        let tids = reads.numbers(me, "task");
        assert!(tids.contains(&me.pid) && tids.len() > 1);
        let [status, nothing] = reads.texts(me, ["status", "nothing"]);
        assert!(status.is_some_and(|text| text.contains("NSpid:")) && nothing.is_none());
        assert!(
            reads.links(me, "ns").iter().any(|entry| entry.name == "net" && entry.link.starts_with("net:["))
        );
        assert_eq!(reads.what(me, "fd/99999"), Err(Unread::Failed(Errno::NOENT)));
        assert!(reads.processes().is_ok_and(|pids| pids.contains(&me.pid)));
        assert!(reads.comm(me).is_some_and(|comm| !comm.ends_with('\n')));
        assert!(!reads.exists(by_pid(u32::MAX >> 1)));
        assert_eq!(reads.string(me, c"text".as_ptr() as u64, 9).as_deref(), Some(&b"text"[..]));
        assert_eq!(reads.memory(me, 1, 9), None);
    }

    /// A function of this program, by the symbols of its own file.
    #[test]
    fn functions_of_a_program_are_named_and_devices_are_left_alone() {
        let (mut reads, me) = (Reads::new(), by_pid(std::process::id()));
        let own = std::fs::metadata("/proc/self/exe").expect("its own");
        let inode = std::os::unix::fs::MetadataExt::ino(&own);
        let (address, bytes) = reads.section(me, "exe", inode, ".eh_frame").expect("it has rules");
        assert!(address > 0 && bytes > 0);
        assert_eq!(reads.symbols(me, "exe", inode, &[1]), Ok(vec![None]));
        let stale = Unread::Failed(Errno::STALE);
        assert_eq!(reads.symbols(me, "exe", inode + 1, &[1]), Err(stale));
        assert_eq!(reads.section(me, "exe", inode, ".data"), Err(Unread::Failed(Errno::PERM)));
        let device = reads.symbols(me, "root/dev/null", 1, &[1]);
        assert_eq!(device, Err(Unread::Failed(Errno::ACCESS)));
    }

    #[test]
    fn a_name_is_as_the_kernel_has_it() {
        let me = by_pid(std::process::id());
        let tid = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        std::fs::write(format!("/proc/self/task/{tid}/comm"), "blanks  ").expect("its own");
        assert_eq!(Reads::new().thread_comm(me, tid).as_deref(), Some("blanks  "));
        assert_eq!(stat::comm("two\n\n"), "two\n");
        assert_eq!(stat::comm("x"), "x");
    }

    #[test]
    fn what_was_asked_for_ahead_is_read_once() {
        let mut reads = Reads::new();
        let me = by_pid(std::process::id());
        let name = format!("task/{}/comm", rustix::thread::gettid().as_raw_nonzero());
        let rename = |name: &str| {
            std::fs::write(
                format!("/proc/self/task/{}/comm", rustix::thread::gettid().as_raw_nonzero()),
                name,
            )
            .expect("its own")
        };
        let read = |reads: &mut Reads| reads.text(me, &name).expect("its own").trim_end().to_owned();
        rename("before");
        let many = (0..200).map(|_| (me, Wanted::File("stat".into())));
        reads.ahead(
            many.chain([(me, Wanted::File(name.clone().into())), (me, Wanted::Link("fd/99999".into()))]),
        );
        rename("after");
        assert_eq!(read(&mut reads), "before");
        assert_eq!(read(&mut reads), "after", "it is taken once");
        assert_eq!(reads.link(me, "fd/99999").map(drop), Err(Unread::Failed(Errno::NOENT)));
        reads.ahead([(me, Wanted::File(name.clone().into()))].into_iter());
        rename("later");
        reads.forget_ahead();
        assert_eq!(read(&mut reads), "later");
    }

    #[test]
    fn the_unit_answers_for_its_processes_and_else_the_user() {
        let status = "Uid:\t33\t33\t33\t33\nvoluntary_ctxt_switches:\t1\nnonvoluntary_ctxt_switches:\t1\n";
        assert_eq!(owner_of("0::/system.slice/nginx.service\n", status), "unit nginx.service");
        assert_eq!(owner_of("0::/\n", status), "user 33");
        assert_eq!(owner_of("", ""), "");
    }
}
