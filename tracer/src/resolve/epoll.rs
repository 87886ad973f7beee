//! Which fds an epoll set watches: the `tfd:` lines of its fdinfo (Documentation/filesystems/proc.rst).

use std::collections::BTreeMap;

use crate::model::target::Interest;
use crate::{model::wait::ProcessId, procfs::Reads};

const EPOLLIN: u32 = 0x1;
const EPOLLOUT: u32 = 0x4;
const EPOLLRDHUP: u32 = 0x2000;

/// The fds of the set `fd` of a thread; `None` if it could not be read.
pub fn read(process: ProcessId, tid: u32, fd: i32, reads: &mut Reads) -> Option<BTreeMap<i32, Interest>> {
    // A set of a hundred thousand connections has a line for each.
    let info = reads.table(process, &format!("task/{tid}/fdinfo/{fd}"))?;
    Some(parse(&String::from_utf8_lossy(&info)))
}

pub fn parse(info: &str) -> BTreeMap<i32, Interest> {
    let mut set: BTreeMap<i32, Interest> = BTreeMap::new();
    for line in info.lines().filter_map(|line| line.strip_prefix("tfd:")) {
        let mut words = line.split_ascii_whitespace();
        let Some(fd) = words.next().and_then(|fd| fd.parse().ok()) else { continue };
        let events = words
            .skip_while(|word| *word != "events:")
            .nth(1)
            .and_then(|events| u32::from_str_radix(events, 16).ok())
            .unwrap_or(0);
        let interest = set.entry(fd).or_default();
        interest.read |= events & (EPOLLIN | EPOLLRDHUP) != 0;
        interest.write |= events & EPOLLOUT != 0;
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_name_fds_and_what_is_wanted_of_them() {
        let info = "pos:\t0\nflags:\t02\n\
                    tfd:        5 events:       19 data:                5  pos:0 ino:61 sdev:5\n\
                    tfd:        9 events:        4 data: ffff000000000009\n\
                    tfd: x events: 1\n";
        let read = Interest { read: true, write: false };
        let write = Interest { read: false, write: true };
        assert_eq!(parse(info), BTreeMap::from([(5, read), (9, write)]));
        assert!(parse("").is_empty());
    }
}
