//! Who may have called a function that has no rules for unwinding? What is on top of the stack, the chain of frame pointers, or the
//! first word that looks like a return address.

use super::{
    mappings::Mappings,
    memory::TargetMemory,
    rules::{PRESERVED, Values},
};
use crate::model::{
    registers::{FRAME_POINTER, PROGRAM_COUNTER, REGISTERS, STACK_POINTER},
    user_stack::FoundBy,
};

/// How far a frame reaches at most.
const FRAME_BYTES_MAX: u64 = 1 << 20;
/// How far below the stack pointer a frame pointer may point.
const BELOW_STACK: u64 = if cfg!(target_arch = "aarch64") { 8 } else { 0 };
/// Words of the stack that are looked through.
const SCANNED_WORDS: u64 = 64;

/// A caller that may be one.
pub struct Guessed {
    /// Its registers.
    pub values: Values,
    /// By what it was found.
    pub by: FoundBy,
    /// A signal has called the function.
    pub interrupted: bool,
}

/// The likeliest caller of a function that goes on at this address; `is_first`: it sleeps there.
pub fn caller(
    address: u64,
    registers: &Values,
    is_first: bool,
    mappings: &Mappings,
    memory: &mut dyn TargetMemory,
) -> Option<Guessed> {
    let stack = registers[STACK_POINTER]?;
    if let Some(values) = signal_frame(address, stack, memory) {
        return Some(Guessed { values, by: FoundBy::Rules, interrupted: true });
    }
    let guessed = |values, by| Some(Guessed { values, by, interrupted: false });
    // A function of assembler around a system call has no frame of its own.
    if is_first && let Some(values) = on_top(stack, registers, mappings, memory) {
        return guessed(values, FoundBy::Scan);
    }
    if let Some(values) = by_frame_pointer(stack, registers, mappings, memory) {
        return guessed(values, FoundBy::FramePointer);
    }
    // A chain of frame pointers that ends tells more than whatever is left on the stack.
    if is_outermost(registers) {
        return None;
    }
    for word in 0..SCANNED_WORDS {
        let at = stack.checked_add(8 * word)?;
        let returns = memory.word(at)?;
        if mappings.is_code(returns) && follows_call(returns, memory) {
            return guessed(behind(at.checked_add(8)?, returns, registers), FoundBy::Scan);
        }
    }
    None
}

/// Whether the chain of frame pointers has come to its end: whoever begins a thread sets it to zero.
pub fn is_outermost(registers: &Values) -> bool {
    registers[FRAME_POINTER] == Some(0)
}

/// What is known of a caller whose frame begins here.
fn behind(stack: u64, returns: u64, registers: &Values) -> Values {
    let mut values: Values = [None; REGISTERS];
    PRESERVED.iter().for_each(|number| values[*number] = registers[*number]);
    (values[STACK_POINTER], values[PROGRAM_COUNTER]) = (Some(stack), Some(returns));
    values
}

#[cfg(not(target_arch = "aarch64"))]
fn on_top(
    stack: u64,
    registers: &Values,
    mappings: &Mappings,
    memory: &mut dyn TargetMemory,
) -> Option<Values> {
    let returns = memory.word(stack)?;
    let is_one = mappings.is_code(returns) && follows_call(returns, memory);
    is_one.then(|| behind(stack + 8, returns, registers))
}

/// The return address is in a register.
#[cfg(target_arch = "aarch64")]
fn on_top(
    stack: u64,
    registers: &Values,
    mappings: &Mappings,
    memory: &mut dyn TargetMemory,
) -> Option<Values> {
    let returns = registers[super::rules::RETURN_ADDRESS]?;
    let is_one = mappings.is_code(returns) && follows_call(returns, memory);
    is_one.then(|| behind(stack, returns, registers))
}

/// Where the frame pointer points lie the caller's, and the return address.
fn by_frame_pointer(
    stack: u64,
    registers: &Values,
    mappings: &Mappings,
    memory: &mut dyn TargetMemory,
) -> Option<Values> {
    let frame = registers[FRAME_POINTER]?;
    // Go's on aarch64 lies a word below the stack pointer (cmd/compile/abi-internal.md).
    if frame < stack.saturating_sub(BELOW_STACK)
        || frame.saturating_sub(stack) >= FRAME_BYTES_MAX
        || !frame.is_multiple_of(8)
    {
        return None;
    }
    let (up, returns) = (memory.word(frame)?, memory.word(frame.checked_add(8)?)?);
    // Code that was made at run time may jump to what it has pushed.
    let has_file = |address| mappings.of(address).is_some_and(|mapping| mapping.has_file());
    let is_one = mappings.is_code(returns) && (!has_file(returns) || follows_call(returns, memory));
    if !is_one || up != 0 && up <= frame {
        return None;
    }
    let mut values: Values = [None; REGISTERS];
    values[FRAME_POINTER] = Some(up);
    (values[STACK_POINTER], values[PROGRAM_COUNTER]) = (Some(frame + 16), Some(returns));
    Some(values)
}

/// Whether there is a call just before an address (Intel 64 and IA-32 Architectures Software Developer's Manual, `CALL`).
#[cfg(not(target_arch = "aarch64"))]
fn follows_call(address: u64, memory: &mut dyn TargetMemory) -> bool {
    const NEAR: u8 = 0xe8;
    const INDIRECT: u8 = 0xff;
    let mut before = [0; 8];
    if !address.checked_sub(8).is_some_and(|at| memory.fill(at, &mut before)) {
        return false;
    }
    if before[3] == NEAR {
        return true;
    }
    // The byte behind the opcode says what the operand is, and so how long it is; `/2` of this opcode is a call.
    (2..=7).any(|length| {
        let [opcode, operand] = [before[8 - length], before[9 - length]];
        let (kind, register, memory) = (operand >> 6, operand >> 3 & 7, operand & 7);
        let is_scaled = usize::from(memory == 4);
        let expected = match kind {
            3 => 2,
            0 if memory == 5 => 6,
            0 => 2 + is_scaled,
            1 => 3 + is_scaled,
            _ => 6 + is_scaled,
        };
        opcode == INDIRECT && register == 2 && length == expected
    })
}

/// The same (Arm Architecture Reference Manual, `BL` and `BLR`).
#[cfg(target_arch = "aarch64")]
fn follows_call(address: u64, memory: &mut dyn TargetMemory) -> bool {
    let before = address.checked_sub(4).and_then(|at| memory.int(at));
    before.is_some_and(|code| code >> 26 == 0b10_0101 || code & 0xffff_fc1f == 0xd63f_0000)
}

/// The registers of whoever a signal has interrupted, where a handler returns to code that makes `rt_sigreturn`: musl's and Go's has no
/// rules. The stack pointer is at a `struct ucontext` (arch/x86/include/uapi/asm/ucontext.h, sigcontext.h).
#[cfg(not(target_arch = "aarch64"))]
fn signal_frame(address: u64, stack: u64, memory: &mut dyn TargetMemory) -> Option<Values> {
    /// `mov $15, %rax; syscall`.
    const RETURN: [u8; 9] = [0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05];
    /// Of the context: its registers.
    const CONTEXT: u64 = 40;
    /// The registers there, by DWARF's numbers.
    const ORDER: [usize; 17] = [8, 9, 10, 11, 12, 13, 14, 15, 5, 4, 6, 3, 1, 0, 2, 7, PROGRAM_COUNTER];
    let mut code = [0; RETURN.len()];
    if !memory.fill(address, &mut code) || code != RETURN {
        return None;
    }
    let mut values: Values = [None; REGISTERS];
    for (place, number) in ORDER.into_iter().enumerate() {
        values[number] = Some(memory.word(stack.checked_add(CONTEXT + 8 * place as u64)?)?);
    }
    Some(values)
}

/// The same (arch/arm64/include/uapi/asm/ucontext.h, sigcontext.h; arch/arm64/kernel/vdso/sigreturn.S, where the rules of the code are that
/// nobody may change it). The stack pointer is at a `siginfo_t`, the `struct ucontext` behind it.
#[cfg(target_arch = "aarch64")]
fn signal_frame(address: u64, stack: u64, memory: &mut dyn TargetMemory) -> Option<Values> {
    /// `mov x8, #139; svc #0`.
    const RETURN: [u8; 8] = [0x68, 0x11, 0x80, 0xd2, 0x01, 0, 0, 0xd4];
    /// Of what lies there: the registers.
    const CONTEXT: u64 = 128 + 176 + 8;
    let mut code = [0; RETURN.len()];
    if !memory.fill(address, &mut code) || code != RETURN {
        return None;
    }
    let mut values: Values = [None; REGISTERS];
    // `x0` to `x30`, `sp` and `pc`, as DWARF numbers them.
    for (place, value) in values.iter_mut().enumerate() {
        *value = Some(memory.word(stack.checked_add(CONTEXT + 8 * place as u64)?)?);
    }
    Some(values)
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::{super::memory::tests::Pieces, *};

    #[test]
    fn a_return_address_follows_a_call() {
        let follows = |code: &[u8]| {
            let mut bytes = vec![0x90; 8];
            bytes.extend(code);
            let end = 0x1000 + bytes.len() as u64;
            follows_call(end, &mut Pieces(vec![(0x1000, bytes)]))
        };
        for call in [
            &[0xe8, 1, 2, 3, 4][..],
            &[0xff, 0xd0],
            &[0xff, 0x15, 1, 2, 3, 4],
            &[0xff, 0x50, 8],
            &[0xff, 0x54, 0x24, 8],
            &[0x41, 0xff, 0xd4],
        ] {
            assert!(follows(call), "{call:x?}");
        }
        for other in [&[0x90, 0x90][..], &[0xff, 0xe0], &[0x0f, 0x05], &[0xff, 0x25, 1, 2, 3, 4]] {
            assert!(!follows(other), "{other:x?}");
        }
        assert!(!follows_call(3, &mut Pieces::default()));
    }
}
