//! The status of a command that was run, as shells return it.

use std::{os::unix::process::ExitStatusExt, process::ExitStatus};

/// For a command that is not there.
pub const NOT_FOUND: u8 = 127;
/// For one that cannot be run.
pub const NOT_RUN: u8 = 126;

/// For one that has ended; 128 and more: a signal has ended it.
pub fn code(status: ExitStatus) -> u8 {
    let of_signal = || status.signal().map_or(NOT_RUN, |signal| 128u8.saturating_add(signal as u8));
    status.code().map_or_else(of_signal, |code| code as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_as_shells_return_it() {
        for (raw, expected) in [(0, 0), (3 << 8, 3), (9, 137), (15, 143)] {
            assert_eq!(code(ExitStatus::from_raw(raw)), expected);
        }
    }
}
