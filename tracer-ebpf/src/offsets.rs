//! The kernel's field offsets as read-only globals, and the three ways to read a field.

use core::mem::MaybeUninit;

use aya_ebpf::{Global, helpers::generated::bpf_probe_read_kernel};
use tracer_ebpf::abi::MISSING;

/// The offset of one kernel field, filled in by tracer before the programs are loaded.
pub struct Offset(Global<u32>);

impl Offset {
    const fn new() -> Self {
        Self(Global::new(MISSING))
    }

    /// Whether the running kernel has the field. The verifier knows the answer and drops the other branch.
    #[inline(always)]
    pub fn exists(&self) -> bool {
        self.0.load() != MISSING
    }

    /// The address of the field in the struct at `base`.
    #[inline(always)]
    pub fn of(&self, base: *const u8) -> *const u8 {
        base.wrapping_add(self.0.load() as usize)
    }

    /// Loads the field from a struct the verifier knows by type: it checks the access, and a bad pointer reads zero. Not on Linux 5.10: what may be
    /// null is tested before.
    ///
    /// # Safety
    /// `base` comes, through typed pointers only, from a program's argument, and `T` is the field's type.
    #[inline(always)]
    pub unsafe fn load<T: Copy>(&self, base: *const u8) -> T {
        // SAFETY: the verifier refuses the program if this is not a field of the struct, and faults read zero.
        unsafe { self.of(base).cast::<T>().read_volatile() }
    }

    /// Copies the field from any kernel address to `to`, zero if it cannot be read. True if it could not.
    #[inline(always)]
    pub fn read<T: Copy>(&self, base: *const u8, to: &mut T) -> bool {
        read(self.of(base), to)
    }

    /// Takes the field out of the copy of a part of its struct, zero if that could not be read. The verifier refuses the program if it does not
    /// lie there: tracer makes sure that it does.
    #[inline(always)]
    pub fn take<T: Copy, const WORDS: usize>(&self, copied: &Copied<'_, WORDS>) -> T {
        let words: *const u64 = copied.block.0.as_ptr().cast();
        let at = self.0.load().wrapping_sub(copied.start) as usize;
        // SAFETY: within what the kernel has written of the block. Block and struct begin at a multiple of eight, and the kernel
        // aligns its fields.
        unsafe { words.cast::<u8>().add(at).cast::<T>().read_volatile() }
    }
}

/// Room for a copied part of a struct.
#[repr(C)]
pub struct Block<const WORDS: usize>(MaybeUninit<[u64; WORDS]>);

impl<const WORDS: usize> Block<WORDS> {
    /// Nothing copied yet.
    #[inline(always)]
    pub fn empty() -> Self {
        Self(MaybeUninit::uninit())
    }

    /// Copies so many bytes of the struct at `base`, from `start` on, which is a multiple of eight. A call of the kernel's takes as
    /// long as copying some hundred bytes, so that many fields are cheaper together.
    #[inline(always)]
    pub fn copy(&mut self, base: *const u8, start: u32, length: u32) -> Copied<'_, WORDS> {
        let from = base.wrapping_add(start as usize);
        // SAFETY: the helper checks the source and writes exactly `length` bytes, zeros if it fails. The verifier refuses the program if
        // there is no room for so many.
        let failed = unsafe { bpf_probe_read_kernel(self.0.as_mut_ptr().cast(), length, from.cast()) != 0 };
        Copied { block: self, start, failed }
    }
}

/// A part of a struct that has been copied.
pub struct Copied<'a, const WORDS: usize> {
    block: &'a Block<WORDS>,
    start: u32,
    /// It could not be read, and is all zeros.
    pub failed: bool,
}

/// Copies `T` from any kernel address to `to`, zero if it cannot be read. True if it could not.
#[inline(always)]
pub fn read<T: Copy>(from: *const u8, to: &mut T) -> bool {
    let to: *mut T = to;
    // SAFETY: the helper checks the source and writes exactly size_of::<T>() bytes, zeros if it fails.
    unsafe { bpf_probe_read_kernel(to.cast(), size_of::<T>() as u32, from.cast()) != 0 }
}

macro_rules! globals {
    ($($symbol:ident: $need:ident $structure:literal $($path:literal)|+;)+) => {
        $(#[unsafe(no_mangle)]
        pub static $symbol: Offset = Offset::new();)+
    };
}

tracer_ebpf::kernel_fields!(globals);
