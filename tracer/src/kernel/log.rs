//! What the kernel programs log, on standard error.

use anyhow::{Context, Result};
use aya_log::EbpfLogger;

/// The kernel programs' log, read by [`flush`](EbpfLogger::flush).
pub type KernelLog = EbpfLogger<&'static Stderr>;

/// Opens the log.
pub fn open(ebpf: &mut aya::Ebpf) -> Result<KernelLog> {
    EbpfLogger::init_with_logger(ebpf, &STDERR).context("cannot read the kernel programs' log")
}

/// Writes log records to standard error.
pub struct Stderr;

static STDERR: Stderr = Stderr;

impl log::Log for Stderr {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        crate::util::human::say(&format!("kernel: {}", record.args()));
    }

    fn flush(&self) {}
}
