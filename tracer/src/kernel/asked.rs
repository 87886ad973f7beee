//! What is asked of single threads: which functions of the kernel do they sleep in, which requests of their rings do they wait for, and
//! what do their user registers hold?
//! The programs answer themselves, so that neither `/proc/PID/stack` nor the table of symbols is read.

use anyhow::{Context, Result};
use aya::{
    Btf, Ebpf,
    maps::{HashMap, MapData},
};
use tracer_ebpf::abi::{RegisterRecord, RequestRecord, StackRecord};

use super::{
    load::{Kernel, Optional, load_iterator, take},
    record::{self, Record},
};

/// Entries of the map that says which threads are asked for.
const ASKED_AT_ONCE: usize = 1024;

/// A program that looks at the threads it is asked for. It is loaded when it is first needed, which few runs of `ps` do.
pub(super) struct ThreadProgram {
    name: &'static str,
    /// What is lost without it.
    without: &'static str,
    asked: HashMap<MapData, u32, u32>,
    pub(super) state: Optional,
}

impl ThreadProgram {
    /// The program `stacks`.
    pub(super) fn stacks(ebpf: &mut Ebpf) -> Result<Self> {
        Self::new(ebpf, "stacks", "ASKED_STACKS", "kernel stacks cannot be read")
    }

    /// The program `rings`.
    pub(super) fn rings(ebpf: &mut Ebpf) -> Result<Self> {
        Self::new(ebpf, "rings", "ASKED_RINGS", "requests of io_uring cannot be read")
    }

    /// The program `registers`.
    pub(super) fn registers(ebpf: &mut Ebpf) -> Result<Self> {
        Self::new(ebpf, "registers", "ASKED_REGISTERS", "user stacks cannot be read")
    }

    fn new(ebpf: &mut Ebpf, name: &'static str, map: &str, without: &'static str) -> Result<Self> {
        let asked = HashMap::try_from(take(ebpf, map)?)?;
        Ok(Self { name, without, asked, state: Optional::NotLoaded })
    }

    /// Loads it. Without it what call and target do not explain stays unexplained.
    pub(super) fn load(&mut self, ebpf: &mut Ebpf, types: &Btf) {
        self.state = match load_iterator(ebpf, self.name, types) {
            Ok(()) => Optional::Loaded,
            Err(error) => {
                crate::util::human::say(&format!("{}: {error:#}", self.without));
                Optional::Refused
            }
        };
    }
}

/// Which of the programs.
type Which = fn(&mut Kernel) -> (&mut ThreadProgram, &mut Ebpf);

impl Kernel {
    /// The kernel stacks of these threads, as lines `function+0x1/0x2`, the innermost first; none where the kernel refuses the
    /// program. The threads of the host are walked once for each [`ASKED_AT_ONCE`].
    ///
    /// # Errors
    /// What the program was asked or what it wrote cannot be passed.
    pub fn stacks(&mut self, tids: &[u32], mut each: impl FnMut(StackRecord, &[u8])) -> Result<()> {
        self.ask(
            |kernel| (&mut kernel.stacks, &mut kernel.ebpf),
            tids,
            |record| {
                if let Record::Stack(record, text) = record {
                    each(record, text);
                }
            },
        )
    }

    /// Requests that these threads wait for in `io_uring_enter`, likewise; each with the bytes of its tail.
    ///
    /// # Errors
    /// As above.
    pub fn requests(&mut self, tids: &[u32], mut each: impl FnMut(RequestRecord, &[u8])) -> Result<()> {
        self.ask(
            |kernel| (&mut kernel.rings, &mut kernel.ebpf),
            tids,
            |record| {
                if let Record::Request(record, tail) = record {
                    each(record, tail);
                }
            },
        )
    }

    /// The user registers of these threads, likewise.
    ///
    /// # Errors
    /// As above.
    pub fn registers(&mut self, tids: &[u32], mut each: impl FnMut(RegisterRecord)) -> Result<()> {
        self.ask(
            |kernel| (&mut kernel.registers, &mut kernel.ebpf),
            tids,
            |record| {
                if let Record::Registers(record) = record {
                    each(record);
                }
            },
        )
    }

    fn ask(&mut self, program: Which, tids: &[u32], mut each: impl FnMut(Record<'_>)) -> Result<()> {
        if program(self).0.state == Optional::NotLoaded {
            let types = self.take_types()?;
            let (of, ebpf) = program(self);
            of.load(ebpf, &types);
            self.types = Some(types);
        }
        let of = program(self).0;
        if of.state == Optional::Refused {
            return Ok(());
        }
        let name = of.name;
        for some in tids.chunks(ASKED_AT_ONCE) {
            for tid in some {
                let asked = program(self).0.asked.insert(tid, 0, 0);
                asked.with_context(|| format!("cannot tell the program {name} whom to look at"))?;
            }
            let walked = self.stream_of(name, some, |bytes| {
                record::take_all(bytes, |record| {
                    each(record);
                    Ok(())
                })
            });
            for tid in some {
                // One that was asked for twice is gone by now.
                let _ = program(self).0.asked.remove(tid);
            }
            walked?;
        }
        Ok(())
    }
}
