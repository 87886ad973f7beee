//! Who has called this function, by the rules that its compiler wrote down for exceptions (`.eh_frame`)? Read from memory, one rule at
//! a time: its file may be gone, and is not needed.

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, EhFrame, EhFrameOffset, EndianSlice, EvaluationResult, LittleEndian,
    Register, RegisterRule, UnwindContext, UnwindExpression, UnwindSection, Value,
};

use super::{memory::TargetMemory, module::LoadedModule};
use crate::model::registers::{PROGRAM_COUNTER, REGISTERS, STACK_POINTER};

/// Bytes of the rules of one function.
const FUNCTION_BYTES_MAX: u32 = 64 * 1024;
/// Bytes of what functions share.
const SHARED_BYTES_MAX: u32 = 4096;
/// Steps of one expression.
const STEPS_MAX: u32 = 200;

/// What registers hold, by number.
pub type Values = [Option<u64>; REGISTERS];

/// Registers that a function hands back as it got them (System V ABI; Procedure Call Standard for the Arm 64-bit Architecture).
#[cfg(not(target_arch = "aarch64"))]
pub const PRESERVED: &[usize] = &[3, 6, 12, 13, 14, 15];
#[cfg(target_arch = "aarch64")]
pub const PRESERVED: &[usize] = &[19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29];

/// The register that holds where a function returns to: the program counter itself, or the link register.
#[cfg(not(target_arch = "aarch64"))]
pub const RETURN_ADDRESS: usize = PROGRAM_COUNTER;
#[cfg(target_arch = "aarch64")]
pub const RETURN_ADDRESS: usize = 30;

/// What comes of looking for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// These are its registers.
    Found(Values),
    /// The same, and the function was called by a signal: it may return to the beginning of another.
    Interrupted(Values),
    /// It is the outermost.
    Nobody,
}

/// Why the caller is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// There are no rules for this function.
    NoRules,
    /// They need what is not known, or make no sense.
    Unusable,
}

type Bytes<'a> = EndianSlice<'a, LittleEndian>;

/// The caller of the function that `address` is in.
///
/// # Errors
/// Why it is not known.
pub fn caller(
    module: &LoadedModule,
    address: u64,
    registers: &Values,
    memory: &mut dyn TargetMemory,
) -> Result<Caller, Unknown> {
    let found = rules_of(module, address, memory).ok_or(Unknown::NoRules)?;
    let mut section = EhFrame::new(&found.bytes, LittleEndian);
    section.set_address_size(8);
    // Addresses in the rules are relative to where these lie.
    let bases = BaseAddresses::default().set_eh_frame(found.at.wrapping_sub(found.function as u64));
    let parsed = section.fde_from_offset(&bases, EhFrameOffset(found.function), |section, bases, offset| {
        section.cie_from_offset(bases, offset)
    });
    let function = parsed.map_err(|_| Unknown::Unusable)?;
    if !function.contains(address) {
        return Err(Unknown::NoRules);
    }
    let mut context = UnwindContext::new();
    let row = function
        .unwind_info_for_address(&section, &bases, &mut context, address)
        .map_err(|_| Unknown::Unusable)?;
    let known = RuleValues { section: &section, encoding: function.cie().encoding(), registers };
    let frame = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => {
            known.register(*register).map(|value| value.wrapping_add_signed(*offset))
        }
        CfaRule::Expression(expression) => known.evaluate(expression, None, memory),
    };
    let frame = frame.ok_or(Unknown::Unusable)?;
    let mut values: Values = [None; REGISTERS];
    PRESERVED.iter().for_each(|number| values[*number] = registers[*number]);
    values[STACK_POINTER] = Some(frame);
    // Where the processor has a register for it, a function that calls no other leaves it there.
    let mut returns = if RETURN_ADDRESS == PROGRAM_COUNTER { None } else { registers[RETURN_ADDRESS] };
    for (number, value) in values.iter_mut().enumerate() {
        let rule = u16::try_from(number).ok().and_then(|number| row.register(Register(number)));
        match rule {
            None => continue,
            Some(RegisterRule::Undefined) if number == RETURN_ADDRESS => return Ok(Caller::Nobody),
            Some(rule) => *value = known.held(&rule, registers[number], frame, memory),
        }
        if number == RETURN_ADDRESS {
            returns = *value;
        }
    }
    values[PROGRAM_COUNTER] = Some(returns.map(without_signature).ok_or(Unknown::Unusable)?);
    Ok(match function.is_signal_trampoline() {
        true => Caller::Interrupted(values),
        false => Caller::Found(values),
    })
}

/// A return address without what the processor has signed it with (pointer authentication).
fn without_signature(address: u64) -> u64 {
    if cfg!(target_arch = "aarch64") { address & ((1 << 48) - 1) } else { address }
}

/// What rules are evaluated against.
struct RuleValues<'a> {
    section: &'a EhFrame<Bytes<'a>>,
    encoding: gimli::Encoding,
    registers: &'a Values,
}

impl RuleValues<'_> {
    fn register(&self, register: Register) -> Option<u64> {
        self.registers.get(usize::from(register.0)).copied().flatten()
    }

    /// What a register held before the call.
    fn held(
        &self,
        rule: &RegisterRule<usize>,
        now: Option<u64>,
        frame: u64,
        memory: &mut dyn TargetMemory,
    ) -> Option<u64> {
        match rule {
            RegisterRule::SameValue => now,
            RegisterRule::Offset(offset) => memory.word(frame.wrapping_add_signed(*offset)),
            RegisterRule::ValOffset(offset) => Some(frame.wrapping_add_signed(*offset)),
            RegisterRule::Register(other) => self.register(*other),
            RegisterRule::Expression(expression) => {
                let at = self.evaluate(expression, Some(frame), memory)?;
                memory.word(at)
            }
            RegisterRule::ValExpression(expression) => self.evaluate(expression, Some(frame), memory),
            RegisterRule::Constant(value) => Some(*value),
            RegisterRule::Undefined | RegisterRule::Architectural => None,
        }
    }

    /// The value of an expression, with this below it on its stack.
    fn evaluate(
        &self,
        expression: &UnwindExpression<usize>,
        first: Option<u64>,
        memory: &mut dyn TargetMemory,
    ) -> Option<u64> {
        let mut evaluation = expression.get(self.section).ok()?.evaluation(self.encoding);
        evaluation.set_max_iterations(STEPS_MAX);
        if let Some(first) = first {
            evaluation.set_initial_value(first);
        }
        let mut state = evaluation.evaluate().ok()?;
        loop {
            state = match state {
                EvaluationResult::Complete => break,
                EvaluationResult::RequiresMemory { address, size, .. } => {
                    let mut bytes = [0; 8];
                    let wanted = bytes.get_mut(..usize::from(size))?;
                    if !memory.fill(address, wanted) {
                        return None;
                    }
                    evaluation.resume_with_memory(Value::Generic(u64::from_le_bytes(bytes))).ok()?
                }
                EvaluationResult::RequiresRegister { register, .. } => {
                    let value = self.register(register)?;
                    evaluation.resume_with_register(Value::Generic(value)).ok()?
                }
                _ => return None,
            };
        }
        match evaluation.result().first()?.location {
            gimli::Location::Address { address } => Some(address),
            _ => None,
        }
    }
}

/// The rules of one function, as a section of their own.
struct FunctionRules {
    /// What functions share, and behind it what this one has of its own.
    bytes: Vec<u8>,
    /// Where that begins.
    function: usize,
    /// Where in memory that begins.
    at: u64,
}

/// Where the rules of the function are that an address is in, by the index that linkers make: sorted pairs of a function and its rules,
/// both four bytes from the index's own beginning (Linux Standard Base, Exception Frames).
fn by_index(index: u64, bytes: u64, address: u64, memory: &mut dyn TargetMemory) -> Option<u64> {
    const PAIRS: u64 = 12;
    // Version 1; an address of four bytes, a number of four, and pairs relative to the index.
    let [1, first, 0x03, 0x3b] = memory.int(index)?.to_le_bytes() else { return None };
    if !matches!(first & 0x0f, 0x03 | 0x0b) {
        return None;
    }
    let number = u64::from(memory.int(index.checked_add(8)?)?).min(bytes / 8);
    let mut pair = |place: u64| {
        let pair = memory.word(index.checked_add(PAIRS + place * 8)?)?;
        let absolute = |offset: u32| index.wrapping_add_signed(i64::from(offset as i32));
        Some((absolute(pair as u32), absolute((pair >> 32) as u32)))
    };
    let (mut low, mut high) = (0, number);
    while low < high {
        let middle = low.midpoint(high);
        if pair(middle)?.0 <= address { low = middle + 1 } else { high = middle }
    }
    Some(pair(low.checked_sub(1)?)?.1)
}

/// Where the rules of each function are, sorted by where the functions begin: all rules, which lie here, are read once.
pub fn functions(at: u64, bytes: u64, memory: &mut dyn TargetMemory) -> Option<Vec<(u64, u64)>> {
    const BYTES_MAX: u64 = 8 << 20;
    const PART_BYTES: u64 = 64 * 1024;
    let (bytes, mut all) = (bytes.min(BYTES_MAX), Vec::new());
    while (all.len() as u64) < bytes {
        let done = all.len() as u64;
        let part = PART_BYTES.min(bytes - done);
        all.extend(memory.bytes(at.checked_add(done)?, usize::try_from(part).ok()?)?);
    }
    let mut section = EhFrame::new(&all, LittleEndian);
    section.set_address_size(8);
    let bases = BaseAddresses::default().set_eh_frame(at);
    let (mut entries, mut functions) = (section.entries(&bases), Vec::new());
    while let Ok(Some(entry)) = entries.next() {
        if memory.is_spent() {
            return None;
        }
        let CieOrFde::Fde(function) = entry else { continue };
        let parsed = function.parse(|section, bases, offset| section.cie_from_offset(bases, offset));
        let Ok(function) = parsed else { continue };
        functions.push((function.initial_address(), at.checked_add(function.offset() as u64)?));
    }
    functions.sort_unstable();
    Some(functions)
}

/// Finds the rules of the function that an address is in.
fn rules_of(module: &LoadedModule, address: u64, memory: &mut dyn TargetMemory) -> Option<FunctionRules> {
    let at = match module.rules {
        Some((index, bytes)) => by_index(index, bytes, address, memory)?,
        None => {
            let behind = module.functions.partition_point(|(start, _)| *start <= address);
            module.functions.get(behind.checked_sub(1)?)?.1
        }
    };
    let own = entry(at, FUNCTION_BYTES_MAX, memory)?;
    // How far before this word that begins which it shares with others.
    let pointer = at.checked_add(4)?;
    let back = u32::from_le_bytes(own.get(4..8)?.try_into().ok()?);
    let mut all = entry(pointer.checked_sub(back.into())?, SHARED_BYTES_MAX, memory)?;
    let function = all.len();
    all.extend(own);
    // Here they follow each other.
    let back = u32::try_from(function).ok()?.checked_add(4)?;
    all.get_mut(function + 4..function + 8)?.copy_from_slice(&back.to_le_bytes());
    Some(FunctionRules { bytes: all, function, at })
}

/// An entry of `.eh_frame`, with its length before it.
fn entry(at: u64, bytes_max: u32, memory: &mut dyn TargetMemory) -> Option<Vec<u8>> {
    let length = memory.int(at).filter(|length| (8..=bytes_max).contains(length))?;
    memory.bytes(at, usize::try_from(length).ok()?.checked_add(4)?)
}
