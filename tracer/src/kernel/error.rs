//! Why a kernel program cannot be used. `doctor` decides by it what stands in the way; everybody else only says it.

use std::{error::Error, io, iter};

use aya::{
    BtfError,
    maps::MapError,
    programs::{ProgramError as Refusal, kprobe::KProbeError},
};

/// Prints the verifier's whole log where it is set.
const WHOLE_LOG: &str = "TRACER_VERIFIER_LOG";

/// Why a kernel program cannot be used, in one line.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// The compiled programs lack it.
    #[error("the compiled programs have no {0}: run `cargo xtask ebpf`")]
    NotCompiled(String),
    /// Nobody asked the kernel: its types lack the place that the program hooks into.
    #[error("{0}")]
    NoPlace(String),
    /// The kernel was asked, and gave this error.
    #[error("{why}")]
    Refused {
        /// The kernel's reason.
        why: String,
        /// The error's number.
        errno: i32,
    },
}

impl ProgramError {
    /// The same, with what failed in front of the reason.
    pub(super) fn while_it(self, failed: &str) -> Self {
        let after = |why: String| format!("{failed}: {why}");
        match self {
            Self::NotCompiled(name) => Self::NotCompiled(name),
            Self::NoPlace(why) => Self::NoPlace(after(why)),
            Self::Refused { why, errno } => Self::Refused { why: after(why), errno },
        }
    }
}

impl From<Refusal> for ProgramError {
    fn from(error: Refusal) -> Self {
        let why = in_short(&error);
        match kernels_error(&error).and_then(io::Error::raw_os_error) {
            Some(errno) => Self::Refused { why, errno },
            None => Self::NoPlace(why),
        }
    }
}

/// The error that the kernel gave, if it was asked.
fn kernels_error(error: &Refusal) -> Option<&io::Error> {
    match error {
        Refusal::LoadError { io_error, .. }
        | Refusal::IOError(io_error)
        | Refusal::KProbeError(KProbeError::FileError { io_error, .. })
        | Refusal::MapError(MapError::CreateError { io_error, .. } | MapError::IoError(io_error))
        | Refusal::Btf(BtfError::FileError { error: io_error, .. } | BtfError::LoadError { io_error, .. }) => {
            Some(io_error)
        }
        Refusal::SyscallError(call) | Refusal::MapError(MapError::SyscallError(call)) => Some(&call.io_error),
        _ => None,
    }
}

/// What aya says of a refusal, in one line: its errors carry the verifier's whole log.
pub(super) fn in_short(error: &(dyn Error + 'static)) -> String {
    let causes = iter::successors(Some(error), |&cause| cause.source()).map(ToString::to_string);
    if std::env::var_os(WHOLE_LOG).is_some() {
        return causes.collect::<Vec<_>>().join(": ");
    }
    let mut said: Vec<String> = Vec::new();
    for text in causes {
        let line = text.lines().next().unwrap_or_default();
        let line = line.split(". Verifier output").next().unwrap_or(line);
        // Some causes are in the text of what they caused.
        if !said.last().is_some_and(|before| before.contains(line)) {
            said.push(line.to_owned());
        }
    }
    said.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(error: Refusal) -> (String, Option<i32>) {
        match ProgramError::from(error) {
            ProgramError::Refused { why, errno } => (why, Some(errno)),
            other => (other.to_string(), None),
        }
    }

    #[test]
    fn the_kernels_error_is_found_in_what_the_library_says() {
        let denied = || io::Error::from_raw_os_error(libc::EPERM);
        let with_file = KProbeError::FileError { filename: "kprobe_events".into(), io_error: denied() };
        let said = "Operation not permitted (os error 1)";
        assert_eq!(refused(with_file.into()), (format!("`kprobe_events`: {said}"), Some(libc::EPERM)));
        assert_eq!(refused(denied().into()), (said.into(), Some(libc::EPERM)));
        let map = MapError::CreateError { name: "SLOTS".into(), io_error: denied() };
        assert_eq!(refused(map.into()).1, Some(libc::EPERM));
        let no_type = BtfError::UnknownBtfTypeName { type_name: "x64_sys_call".into() };
        assert_eq!(refused(no_type.into()), ("unknown BTF type `x64_sys_call`".into(), None));
    }

    #[test]
    fn a_reason_is_one_line_and_says_nothing_twice() {
        #[derive(Debug, thiserror::Error)]
        #[error("{0}")]
        struct Cause(&'static str, #[source] Option<Box<Cause>>);
        let inner = Cause("Invalid argument (os error 22)", None);
        let outer = Cause(
            "the call returned Invalid argument (os error 22). Verifier output: 0: R1=ctx()\nmore",
            Some(Box::new(inner)),
        );
        let top = Cause("program error\nand more", Some(Box::new(outer)));
        assert_eq!(in_short(&top), "program error: the call returned Invalid argument (os error 22)");
    }

    #[test]
    fn what_failed_comes_first() {
        let error = ProgramError::Refused { why: "no".into(), errno: 2 }.while_it("no kprobes");
        assert_eq!(error.to_string(), "no kprobes: no");
        assert!(matches!(error, ProgramError::Refused { errno: 2, .. }));
    }
}
