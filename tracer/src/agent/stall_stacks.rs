//! Where in its program does the thread of a new stall sleep? Read once for each stall, for so long in a look and for so many of one
//! owner: who has thousands of stalls costs the others nothing.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::{
    collect::Source,
    model::{
        cgroup::Owner,
        user_stack::{NativeFrame, ProgramFrame, UserStack},
        wait::Wait,
    },
    procfs::Reads,
    resolve::stack::{ReadLimits, StackReader},
};

/// How long stacks are read in one look.
const LOOK_TIME: Duration = Duration::from_millis(50);
/// Stacks of one owner that are read in one look.
const OF_OWNER_MAX: usize = 16;
/// Frames that are told.
const FRAMES_MAX: usize = 20;
/// How much of a process is read for one stack: 4 MiB, which takes a fraction of a millisecond unless the machine is busy.
const OF_PROCESS: ReadLimits = ReadLimits { blocks: 256, time: Duration::from_millis(250) };

/// What a look may still spend. Pure.
#[derive(Debug, Default)]
struct LookAllowance {
    spent: Duration,
    read: HashMap<Owner, usize>,
}

impl LookAllowance {
    /// Whether another stack of this owner may be read, which counts.
    fn take(&mut self, owner: Owner) -> bool {
        let read = self.read.entry(owner).or_default();
        *read += 1;
        self.spent < LOOK_TIME && *read <= OF_OWNER_MAX
    }
}

/// Reads them.
pub struct StallStacks {
    reader: StackReader,
    look: LookAllowance,
}

impl StallStacks {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Self { reader: StackReader::within(OF_PROCESS), look: LookAllowance::default() }
    }

    /// A look begins.
    pub fn begin_look(&mut self) {
        self.look = LookAllowance::default();
    }

    /// The frames of a thread that waits, for people, the innermost first; none where they cannot be read, or not now.
    pub fn read(&mut self, wait: &Wait, owner: Owner, source: &mut dyn Source) -> Vec<String> {
        if wait.thread.is_request() || !self.look.take(owner) {
            return Vec::new();
        }
        let begun = Instant::now();
        let thread = wait.thread;
        let found = self.reader.read(thread.process, &[thread.tid], source, &mut Reads::new());
        self.look.spent += begun.elapsed();
        let same = found.unwrap_or_default().into_iter().find(|of| of.switches == wait.switches);
        same.map(|of| short(&of.stack)).unwrap_or_default()
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
        let taken = (0..100).filter(|_| look.take(Owner::User(33))).count();
        assert_eq!(taken, OF_OWNER_MAX);
        assert!(look.take(Owner::User(1000)));
        look.spent = LOOK_TIME;
        assert!(!look.take(Owner::User(1)), "no time is left");
    }

    #[test]
    fn the_programs_own_frames_are_told_if_there_are_some() {
        let frame = ProgramFrame { function: "page".into(), file: Some("/srv/b.php".into()), line: Some(7) };
        let stack = UserStack { frames: vec![frame; 30], ..UserStack::default() };
        assert_eq!(short(&stack), vec!["page b.php:7"; FRAMES_MAX]);
        assert!(short(&UserStack::default()).is_empty());
    }
}
