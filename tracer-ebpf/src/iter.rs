//! The context of an iterator over threads or their files, and writing to its file.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_seq_printf, bpf_seq_write},
};
use tracer_ebpf::abi::{Plain, TAIL_TCP, TAIL_UDP, TAIL_UNIX};

use crate::{file::Tails, task::Task};

/// An address as the function that it returns to, in the kernel's own words.
static FUNCTION: [u8; 5] = *b"%pB\n\0";

/// `struct bpf_iter__task` or `struct bpf_iter__task_file` (kernel/bpf/task_iter.c) and, behind its first pointer, `struct bpf_iter_meta` (include/linux/bpf.h).
pub struct Context(pub *mut c_void);

impl EbpfContext for Context {
    fn as_ptr(&self) -> *mut c_void {
        self.0
    }
}

impl Context {
    #[inline(always)]
    fn word<T: Copy>(base: *const c_void, index: usize) -> T {
        // SAFETY: the verifier checks context and meta accesses by type.
        unsafe { base.cast::<T>().add(index).read_volatile() }
    }

    #[inline(always)]
    fn seq(&self) -> *mut c_void {
        Self::word(Self::word::<*const c_void>(self.0, 0), 0)
    }

    /// How many threads came before.
    #[inline(always)]
    pub fn number(&self) -> u64 {
        Self::word(Self::word::<*const c_void>(self.0, 0), 2)
    }

    /// The thread visited; null at the end.
    #[inline(always)]
    pub fn task(&self) -> Task {
        Task(Self::word(self.0, 1))
    }

    /// Of an iterator over files, the fd visited.
    #[inline(always)]
    pub fn fd(&self) -> u32 {
        Self::word(self.0, 4)
    }

    /// Of an iterator over files, the file visited; null at the end.
    #[inline(always)]
    pub fn file(&self) -> *const u8 {
        Self::word(self.0, 3)
    }

    /// Writes a record. One that does not fit is no loss: the kernel drops all that this run has written, hands the
    /// buffer to the reader and runs the program again for the same thread or file (`bpf_seq_read`,
    /// kernel/bpf/bpf_iter.c). What fits into no buffer at all fails the reader's `read` with E2BIG.
    #[inline(always)]
    pub fn write<T: Plain>(&self, record: &T) {
        let record: *const T = record;
        // SAFETY: the helper copies size_of::<T>() initialised bytes.
        unsafe { bpf_seq_write(self.seq().cast(), record.cast_mut().cast(), size_of::<T>() as u32) };
    }

    /// Writes which function this address lies in, and a line feed.
    #[inline(always)]
    pub fn write_function(&self, address: &mut u64) {
        let address: *mut u64 = address;
        // SAFETY: the helper reads a format that ends with a zero, and the one value that it names.
        unsafe {
            bpf_seq_printf(
                self.seq().cast(),
                FUNCTION.as_ptr().cast_mut().cast(),
                FUNCTION.len() as u32,
                address.cast(),
                size_of::<u64>() as u32,
            )
        };
    }

    /// Writes a record and the tail it names.
    #[inline(always)]
    pub fn write_with_tail<T: Plain>(&self, record: &T, tail: u32, tails: &Tails) {
        self.write(record);
        match tail {
            TAIL_TCP => self.write(&tails.tcp),
            TAIL_UNIX => self.write(&tails.unix),
            TAIL_UDP => self.write(&tails.udp),
            _ => {}
        }
    }
}
