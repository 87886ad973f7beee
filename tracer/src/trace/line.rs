//! One line of `tracer trace`. Pure.

use std::time::Duration;

use jiff::{Timestamp, tz::TimeZone};

use crate::util::human;

/// Errors a call may return: the kernel keeps this range of numbers for them (include/linux/err.h).
const LARGEST_ERROR: i64 = 4095;

/// A call that has ended, or still waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallLine {
    /// Now.
    pub at: Timestamp,
    /// Name of the thread.
    pub comm: String,
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// The call.
    pub syscall: &'static str,
    /// Its fd, if it has one.
    pub fd: Option<i32>,
    /// What the fd is, or what it waits on without one.
    pub target: String,
    /// The same without what differs from one connection to the next: what calls are counted under.
    pub peer: String,
    /// How long it has lasted.
    pub lasted: Duration,
    /// What came of it.
    pub end: End,
}

/// What came of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It waits.
    Waits,
    /// It returned this.
    Returned(i64),
    /// It has ended; what it returned was not seen.
    Unseen,
    /// It has ended, it was not seen when; it lasted at least so long.
    Gone,
}

impl CallLine {
    /// For people.
    pub fn text(&self) -> String {
        let time = self.at.to_zoned(TimeZone::UTC).strftime("%H:%M:%S%.3fZ");
        let id =
            if self.pid == self.tid { self.pid.to_string() } else { format!("{}/{}", self.pid, self.tid) };
        let call = self.call();
        let line = match self.end {
            End::Waits => format!("{time} {} {id} {call} <waiting {}…>", self.comm, took(self.lasted)),
            End::Unseen => format!("{time} {} {id} {call} after {}", self.comm, took(self.lasted)),
            End::Gone => format!("{time} {} {id} {call} after at least {}", self.comm, took(self.lasted)),
            End::Returned(result) => {
                let result = match error(result) {
                    Some(name) if is_interrupted(result) => format!("? {name} (interrupted)"),
                    Some(name) => format!("-1 {name}"),
                    None => result.to_string(),
                };
                format!("{time} {} {id} {call} = {result} after {}", self.comm, took(self.lasted))
            }
        };
        human::clean(&line)
    }

    /// `recvfrom(13 tcp 10.0.0.1:59720 → 10.0.0.2:443)`.
    fn call(&self) -> String {
        let fd = self.fd.map(|fd| fd.to_string());
        let inside: Vec<&str> = [fd.as_deref().unwrap_or_default(), &self.target]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect();
        format!("{}({})", self.syscall, inside.join(" "))
    }
}

/// Whether a call was interrupted by a signal or a stop: the kernel decides only after its return whether it goes on
/// or fails with EINTR (include/linux/errno.h: numbers that no program ever sees).
pub fn is_interrupted(result: i64) -> bool {
    const ERESTARTSYS: i64 = 512;
    const ERESTARTNOINTR: i64 = 513;
    const ERESTARTNOHAND: i64 = 514;
    const ERESTART_RESTARTBLOCK: i64 = 516;
    matches!(-result, ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND | ERESTART_RESTARTBLOCK)
}

/// Name of the error a result stands for.
pub fn error(result: i64) -> Option<String> {
    if !(-LARGEST_ERROR..0).contains(&result) {
        return None;
    }
    let number = -result as i32;
    Some(syscalls::Errno::new(number).name().map_or_else(|| format!("error {number}"), str::to_owned))
}

/// To the millisecond below a second: calls are compared here, not ages.
fn took(lasted: Duration) -> String {
    match lasted.as_millis() {
        ms @ 0..1000 => format!("{ms}ms"),
        ms @ 1000..60_000 => format!("{}.{}s", ms / 1000, ms % 1000 / 100),
        _ => human::age(lasted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(end: End) -> CallLine {
        CallLine {
            at: Timestamp::UNIX_EPOCH,
            comm: "php\u{1b}".into(),
            pid: 7,
            tid: 8,
            syscall: "recvfrom",
            fd: Some(13),
            target: "tcp 10.0.0.1:59720 → 10.0.0.2:443".into(),
            peer: "tcp → 10.0.0.2:443".into(),
            lasted: Duration::from_millis(12_345),
            end,
        }
    }

    #[test]
    fn a_line_says_who_what_on_whom_and_what_came_of_it() {
        let call = "00:00:00.000Z php? 7/8 recvfrom(13 tcp 10.0.0.1:59720 → 10.0.0.2:443)";
        assert_eq!(line(End::Returned(512)).text(), format!("{call} = 512 after 12.3s"));
        assert_eq!(line(End::Returned(-104)).text(), format!("{call} = -1 ECONNRESET after 12.3s"));
        assert_eq!(
            line(End::Returned(-512)).text(),
            format!("{call} = ? ERESTARTSYS (interrupted) after 12.3s")
        );
        assert_eq!(line(End::Waits).text(), format!("{call} <waiting 12.3s…>"));
        assert_eq!(line(End::Unseen).text(), format!("{call} after 12.3s"));
        assert_eq!(line(End::Gone).text(), format!("{call} after at least 12.3s"));
        let bare =
            CallLine { fd: None, target: String::new(), tid: 7, syscall: "wait4", ..line(End::Returned(9)) };
        assert_eq!(bare.text(), "00:00:00.000Z php? 7 wait4() = 9 after 12.3s");
    }

    #[test]
    fn addresses_and_large_results_are_no_errors() {
        assert_eq!(error(-4096), None);
        assert_eq!(error(i64::MIN), None);
        assert_eq!(error(0), None);
        assert_eq!(error(-111).as_deref(), Some("ECONNREFUSED"));
    }
}
