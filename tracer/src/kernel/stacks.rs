//! Which functions of the kernel do threads sleep in? Asked of the program `stacks`, which names them itself, so that neither
//! `/proc/PID/stack` nor the table of symbols is read.

use anyhow::{Context, Result};
use aya::{Btf, Ebpf};
use tracer_ebpf::abi::StackRecord;

use super::{
    load::{Kernel, Optional, load_iterator},
    record::{self, Record},
};

/// Entries of the map `ASKED_STACKS`.
const ASKED_AT_ONCE: usize = 1024;

impl Kernel {
    /// The kernel stacks of these threads, as lines `function+0x1/0x2`, the innermost first; none where the kernel refuses the
    /// program. The threads of the host are walked once for each [`ASKED_AT_ONCE`].
    ///
    /// # Errors
    /// What the program was asked or what it wrote cannot be passed.
    pub fn stacks(&mut self, tids: &[u32], mut each: impl FnMut(StackRecord, &[u8])) -> Result<()> {
        if self.stacks == Optional::NotLoaded {
            let types = super::btf::for_loading()?;
            self.stacks = load(&mut self.ebpf, &types);
        }
        if self.stacks == Optional::Refused {
            return Ok(());
        }
        for some in tids.chunks(ASKED_AT_ONCE) {
            for tid in some {
                self.asked_stacks
                    .insert(tid, 0, 0)
                    .context("cannot tell the program stacks whom to look at")?;
            }
            let walked = self.stream("stacks", |bytes| {
                record::take_all(bytes, |record| {
                    if let Record::Stack(record, text) = record {
                        each(record, text);
                    }
                    Ok(())
                })
            });
            for tid in some {
                // One that was asked for twice is gone by now.
                let _ = self.asked_stacks.remove(tid);
            }
            walked?;
        }
        Ok(())
    }
}

/// Without it what call and target do not explain stays unexplained.
pub(super) fn load(ebpf: &mut Ebpf, types: &Btf) -> Optional {
    match load_iterator(ebpf, "stacks", types) {
        Ok(()) => Optional::Loaded,
        Err(error) => {
            crate::util::human::say(&format!("kernel stacks cannot be read: {error:#}"));
            Optional::Refused
        }
    }
}
