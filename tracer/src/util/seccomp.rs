//! Filters for system calls, of which tracer's processes have one each.

use anyhow::{Result, anyhow};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, SeccompRule};

/// Flags of `clone` that a thread does not have: they make namespaces.
pub const NAMESPACES: &[i32] = &[
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// Its flags lie in memory, where a filter does not see them: C libraries make threads by `clone` where the kernel has no other.
pub fn without_clone3() -> Result<BpfProgram> {
    program([(libc::SYS_clone3, Vec::new())].into(), libc::ENOSYS)
}

/// Calls, and when they are refused: where no rule is given, always.
pub type Rules = std::collections::BTreeMap<i64, Vec<SeccompRule>>;

/// The filter that lets everything pass but what the rules refuse with this error.
pub fn program(rules: Rules, error: i32) -> Result<BpfProgram> {
    let arch = std::env::consts::ARCH.try_into().map_err(|_| anyhow!("no filter for this processor"))?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(error as u32), arch)?;
    Ok(filter.try_into()?)
}
