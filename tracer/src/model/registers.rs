//! What did the user registers of a thread hold when it went to sleep? Numbered as DWARF numbers them, so that unwinding need not
//! translate.

/// Registers that are told apart, the program counter among them.
pub const REGISTERS: usize = 33;

/// Where x86-64 has what every frame has (System V ABI, AMD64 supplement, figure 3.36).
#[cfg(not(target_arch = "aarch64"))]
mod numbers {
    pub const STACK_POINTER: usize = 7;
    pub const FRAME_POINTER: usize = 6;
    pub const PROGRAM_COUNTER: usize = 16;
    /// Words of `struct pt_regs` by DWARF's number: `rax rdx rcx rbx rsi rdi rbp rsp r8 … r15 rip`.
    pub const SAVED_AT: &[(usize, usize)] = &[
        (0, 10),
        (1, 12),
        (2, 11),
        (3, 5),
        (4, 13),
        (5, 14),
        (6, 4),
        (7, 19),
        (8, 9),
        (9, 8),
        (10, 7),
        (11, 6),
        (12, 3),
        (13, 2),
        (14, 1),
        (15, 0),
        (16, 16),
    ];
}

/// Where aarch64 has it (DWARF for the Arm 64-bit Architecture); the program counter takes the number after `sp`.
#[cfg(target_arch = "aarch64")]
mod numbers {
    pub const STACK_POINTER: usize = 31;
    pub const FRAME_POINTER: usize = 29;
    pub const PROGRAM_COUNTER: usize = 32;
}

pub use numbers::{FRAME_POINTER, PROGRAM_COUNTER, STACK_POINTER};

/// The user registers of a thread; `None`: not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserRegisters {
    /// By number.
    pub values: [Option<u64>; REGISTERS],
    /// Where its thread-local variables are.
    pub thread_pointer: Option<u64>,
    /// It runs 32-bit code.
    pub is_compat: bool,
}

impl UserRegisters {
    /// From the words of `struct pt_regs`.
    pub fn from_saved(words: &[u64], thread_pointer: u64, is_compat: bool) -> Self {
        let mut values = [None; REGISTERS];
        #[cfg(not(target_arch = "aarch64"))]
        for (number, at) in numbers::SAVED_AT {
            values[*number] = words.get(*at).copied();
        }
        #[cfg(target_arch = "aarch64")]
        for (value, word) in values.iter_mut().zip(words) {
            *value = Some(*word);
        }
        Self { values, thread_pointer: Some(thread_pointer).filter(|at| *at != 0), is_compat }
    }

    /// Of a thread of which only these are known.
    pub fn of_pointers(stack_pointer: u64, program_counter: u64) -> Self {
        let mut registers = Self { values: [None; REGISTERS], thread_pointer: None, is_compat: false };
        registers.values[STACK_POINTER] = Some(stack_pointer);
        registers.values[PROGRAM_COUNTER] = Some(program_counter);
        registers
    }

    /// The instruction that it goes on with.
    pub fn program_counter(&self) -> Option<u64> {
        self.values[PROGRAM_COUNTER]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn saved_registers_are_numbered_as_dwarf_numbers_them() {
        let words: Vec<u64> = (100..121).collect();
        let registers = UserRegisters::from_saved(&words, 0, false);
        assert_eq!(registers.program_counter(), Some(116), "rip");
        assert_eq!(registers.values[STACK_POINTER], Some(119), "rsp");
        assert_eq!(registers.values[FRAME_POINTER], Some(104), "rbp");
        assert_eq!((registers.values[3], registers.values[15]), (Some(105), Some(100)), "rbx, r15");
        assert_eq!(registers.thread_pointer, None);
        assert_eq!(UserRegisters::from_saved(&[], 7, true).values, [None; REGISTERS]);
    }
}
