//! Durations that the kernel programs count, by what they count them under: of each kind two maps, one of which is written while the other
//! is emptied.

use std::{os::fd::AsFd, time::Duration};

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf,
    maps::{Array, MapData},
};
use tracer_ebpf::abi::{AnswerKey, Histogram, WaitKey};

use super::{batch, load::take};

/// Index of the map `LIVE`, see `settings.rs` of the kernel's half.
const ACTIVE: u32 = 1;

/// What the programs have counted under one key.
#[derive(Clone, Copy, Debug)]
pub enum Counted {
    /// Waits that have ended.
    Waits(WaitKey, Histogram),
    /// Answers that have been read.
    Answers(AnswerKey, Histogram),
}

/// All of them.
pub(super) struct Histograms {
    waits: [MapData; 2],
    answers: [MapData; 2],
    active: usize,
}

impl Histograms {
    /// The programs' maps.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self> {
        let mut pair = |names: [&str; 2]| -> Result<[MapData; 2]> {
            Ok([raw(take(ebpf, names[0])?)?, raw(take(ebpf, names[1])?)?])
        };
        Ok(Self {
            waits: pair(["WAITS_A", "WAITS_B"])?,
            answers: pair(["ANSWERS_A", "ANSWERS_B"])?,
            active: 0,
        })
    }

    /// Takes everything counted since the last call.
    pub(super) fn drain(
        &mut self,
        live: &mut Array<MapData, u64>,
        mut each: impl FnMut(Counted),
    ) -> Result<()> {
        let full = self.active;
        self.active = 1 - full;
        live.set(ACTIVE, self.active as u64, 0).context("cannot switch the maps of durations")?;
        // A program that began before the switch may still write the old map: wait until all CPUs have left it.
        // SAFETY: membarrier takes no pointers.
        if unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) } != 0 {
            std::thread::sleep(Duration::from_millis(10));
        }
        batch::drain(self.waits[full].fd().as_fd(), |key, histogram| each(Counted::Waits(key, histogram)))?;
        batch::drain(self.answers[full].fd().as_fd(), |key, histogram| each(Counted::Answers(key, histogram)))
    }
}

fn raw(map: aya::maps::Map) -> Result<MapData> {
    match map {
        aya::maps::Map::HashMap(data) => Ok(data),
        _ => bail!("a map of durations is no hash map: run `cargo xtask ebpf`"),
    }
}
