//! What do kernels before 5.15 lack, and what takes its place? `bpf_task_pt_regs` (5.15) and task storage for tracing
//! programs (5.11).

use anyhow::{Context, Result, ensure};

use super::btf::Btf;

/// Slots at most where they are in a hash: as many threads as `waits` can follow. An empty one costs 16 bytes.
pub const SLOTS: u32 = 65_536;
/// `BPF_MAP_TYPE_HASH`.
const HASH: u32 = 1;

/// Whether slots must be in a hash keyed by thread id.
pub fn needs_hash(version: (u32, u32)) -> bool {
    version < (5, 11)
}

/// Where the saved user registers lie in a thread's kernel stack: at its very top, on x86-64 and aarch64 alike. Zero
/// where the kernel has a helper that tells.
pub fn stack_regs(btf: &Btf, version: (u32, u32)) -> Result<u32> {
    if version >= (5, 15) {
        return Ok(0);
    }
    // THREAD_SIZE; a page where pages are larger. With KASAN it is twice as much, but nobody runs that in earnest.
    let stack = u32::try_from(rustix::param::page_size()).unwrap_or(0).max(16 * 1024);
    let regs = btf.size_of("pt_regs")?.context("this kernel does not describe struct pt_regs")?;
    ensure!(regs != 0 && regs < stack, "this kernel says that struct pt_regs has {regs} bytes");
    Ok(stack - regs)
}

/// The object with the task storage `name` declared as a hash: the type of a map is, in its BTF, the length of an array
/// that its declaration points to.
pub fn with_hash(object: &[u8], name: &str) -> Result<Vec<u8>> {
    let btf_at = section(object, b".BTF").context("the compiled programs have no BTF")?;
    let btf = Btf::parse(object[btf_at.clone()].to_vec()).context("the compiled programs' BTF")?;
    let at = btf_at.start + btf.map_type_at(name)?;
    let mut changed = object.to_vec();
    changed.get_mut(at..at + 4).context("truncated")?.copy_from_slice(&HASH.to_ne_bytes());
    Ok(changed)
}

/// Where a section of a 64-bit ELF file lies.
fn section(elf: &[u8], name: &[u8]) -> Option<std::ops::Range<usize>> {
    let number = |at: usize, size: usize| -> Option<usize> {
        let bytes = elf.get(at..at + size)?;
        bytes.iter().rev().try_fold(0usize, |sum, byte| sum.checked_mul(256)?.checked_add(usize::from(*byte)))
    };
    let (headers, size, count, names) =
        (number(0x28, 8)?, number(0x3a, 2)?, number(0x3c, 2)?, number(0x3e, 2)?);
    let header = |index: usize| headers.checked_add(index.checked_mul(size)?);
    let range = |header: usize| {
        let (start, length) = (number(header + 0x18, 8)?, number(header + 0x20, 8)?);
        Some(start..start.checked_add(length)?)
    };
    let names = range(header(names)?)?;
    (0..count).find_map(|index| {
        let header = header(index)?;
        let own = elf.get(names.start.checked_add(number(header, 4)?)?..)?;
        let range = range(header)?;
        (own.strip_prefix(name)?.first() == Some(&0) && range.end <= elf.len()).then_some(range)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_word_of_the_object_changes() {
        let object = crate::kernel::object::OBJECT;
        let changed = with_hash(object, "SLOTS").expect("SLOTS is declared");
        let differing: Vec<usize> = (0..object.len()).filter(|i| object[*i] != changed[*i]).collect();
        // BPF_MAP_TYPE_TASK_STORAGE.
        assert_eq!(differing.iter().map(|i| (object[*i], changed[*i])).collect::<Vec<_>>(), [(29, 1)]);
        assert!(with_hash(object, "NO_SUCH_MAP").is_err());
        assert!(with_hash(&object[..1000], "SLOTS").is_err());
    }
}
