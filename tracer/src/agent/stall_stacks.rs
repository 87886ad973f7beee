//! Where in its program does the thread of a new stall sleep? Read once for each stall, for so long in a look and for so many of one
//! owner: who has thousands of stalls costs the others nothing. Threads of one process are read together, as most of the work is the same.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::{
    collect::Source,
    model::{
        cgroup::Owner,
        user_stack::{NativeFrame, ProgramFrame, UserStack},
        wait::{ProcessId, ThreadId, Wait},
    },
    procfs::Reads,
    resolve::stack::{ReadLimits, StackReader, ThreadStack},
};

/// How long stacks are read in one look.
const LOOK_TIME: Duration = Duration::from_millis(50);
/// Stacks of one owner that are read in one look.
const OF_OWNER_MAX: usize = 16;
/// Frames that are told.
const FRAMES_MAX: usize = 20;
/// How much of a process is read in one look: 4 MiB, which takes a fraction of a millisecond unless the machine is busy.
const OF_PROCESS: ReadLimits = ReadLimits { blocks: 256, time: Duration::from_millis(250) };

/// What a look may still spend. Pure.
#[derive(Debug, Default)]
struct LookAllowance {
    spent: Duration,
    read: HashMap<Owner, usize>,
}

impl LookAllowance {
    /// How many of so many stacks of this owner may be read, which count.
    fn take(&mut self, owner: Owner, wanted: usize) -> usize {
        let read = self.read.entry(owner).or_default();
        let left = if self.spent < LOOK_TIME { OF_OWNER_MAX.saturating_sub(*read) } else { 0 };
        *read += wanted.min(left);
        wanted.min(left)
    }
}

/// Reads them.
pub struct StallStacks {
    reader: StackReader,
    look: LookAllowance,
    /// Threads of each process that may be stalls in this look, and are not read yet.
    due: HashMap<ProcessId, Vec<u32>>,
    /// What was read in this look; `None`: it has moved.
    read: HashMap<(ProcessId, u32), Option<ThreadStack>>,
}

impl StallStacks {
    /// Nothing is known yet.
    pub fn new() -> Self {
        let reader = StackReader::within(OF_PROCESS);
        Self { reader, look: LookAllowance::default(), due: HashMap::new(), read: HashMap::new() }
    }

    /// A look begins, in which these threads may turn out to be stalls.
    pub fn begin_look(&mut self, due: impl Iterator<Item = ThreadId>) {
        self.look = LookAllowance::default();
        (self.due, self.read) = (HashMap::new(), HashMap::new());
        for ThreadId { process, tid, .. } in due.filter(|thread| !thread.is_request()) {
            let of_process = self.due.entry(process).or_default();
            if of_process.len() < OF_OWNER_MAX {
                of_process.push(tid);
            }
        }
    }

    /// The frames of a thread that waits, for people, the innermost first; none where they cannot be read, or not now.
    pub fn read(&mut self, wait: &Wait, owner: Owner, source: &mut dyn Source) -> Vec<String> {
        let ThreadId { process, tid, .. } = wait.thread;
        if wait.thread.is_request() {
            return Vec::new();
        }
        if !self.read.contains_key(&(process, tid)) {
            self.read_with_others(process, tid, owner, source);
        }
        let read = self.read.get(&(process, tid)).and_then(Option::as_ref);
        read.filter(|of| of.switches == wait.switches).map(|of| short(&of.stack)).unwrap_or_default()
    }

    /// Reads a thread's stack, and those of others of its process that may be stalls, if that may be.
    fn read_with_others(&mut self, process: ProcessId, tid: u32, owner: Owner, source: &mut dyn Source) {
        let others = self.due.remove(&process).unwrap_or_default();
        let mut tids: Vec<u32> =
            [tid].into_iter().chain(others.into_iter().filter(|other| *other != tid)).collect();
        tids.truncate(self.look.take(owner, tids.len()));
        if tids.is_empty() {
            return;
        }
        let begun = Instant::now();
        let found = self.reader.read(process, &tids, source, &mut Reads::new()).unwrap_or_default();
        self.look.spent += begun.elapsed();
        self.read.extend(tids.into_iter().map(|tid| ((process, tid), None)));
        self.read.extend(found.into_iter().map(|of| ((process, of.tid), Some(of))));
    }
}

/// The program's own frames, else those of machine code.
fn short(stack: &UserStack) -> Vec<String> {
    let program = stack.frames.iter().map(ProgramFrame::short);
    match stack.frames.is_empty() {
        false => program.take(FRAMES_MAX).collect(),
        true => stack.native.iter().map(NativeFrame::short).take(FRAMES_MAX).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_with_many_stalls_leaves_time_for_others() {
        let mut look = LookAllowance::default();
        let taken: usize = (0..100).map(|_| look.take(Owner::User(33), 3)).sum();
        assert_eq!(taken, OF_OWNER_MAX);
        assert_eq!(look.take(Owner::User(1000), 3), 3);
        look.spent = LOOK_TIME;
        assert_eq!(look.take(Owner::User(1), 1), 0, "no time is left");
    }

    #[test]
    fn the_programs_own_frames_are_told_if_there_are_some() {
        let frame = ProgramFrame { function: "page".into(), file: Some("/srv/b.php".into()), line: Some(7) };
        let stack = UserStack { frames: vec![frame; 30], ..UserStack::default() };
        assert_eq!(short(&stack), vec!["page b.php:7"; FRAMES_MAX]);
        assert!(short(&UserStack::default()).is_empty());
    }
}
