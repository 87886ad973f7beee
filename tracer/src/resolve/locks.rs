//! Who holds the file lock that a process waits for: `/proc/locks` (Documentation/filesystems/proc.rst).

use crate::procfs::{Reads, by_pid};

/// Processes whose locks keep `pid` from getting its own on the file with this inode number. An open file description's
/// lock has no process and is left out.
pub fn holders(pid: u32, inode: Option<u64>, reads: &mut Reads) -> Vec<u32> {
    let locks = reads.host_file("/proc/locks").unwrap_or_default();
    parse(&String::from_utf8_lossy(&locks), pid, inode)
}

/// Whether this open fd has a lock on its file: its fdinfo lists the locks that were taken through it, also those of an
/// open file description, and those whose taker has exited and left them to a process that shares the description.
pub fn held_through(pid: u32, fd: i32, reads: &mut Reads) -> bool {
    reads.text(by_pid(pid), &format!("fdinfo/{fd}")).is_some_and(|info| has_lock(&info))
}

fn has_lock(info: &str) -> bool {
    info.lines().filter_map(|line| line.strip_prefix("lock:")).any(|lock| !lock.contains("->"))
}

pub fn parse(locks: &str, waiter: u32, inode: Option<u64>) -> Vec<u32> {
    let mut holders: Vec<u32> = Vec::new();
    // A lock that is held, then, with the same number and an arrow, those that wait for it.
    let mut held: Option<(&str, u32)> = None;
    for line in locks.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(number) = words.next() else { continue };
        let mut words = words.peekable();
        let waits = words.next_if_eq(&"->").is_some();
        // FLOCK ADVISORY WRITE 1234 fe:01:5678 0 EOF
        let (Some(pid), Some(file)) = (words.nth(3), words.next()) else { continue };
        let pid = pid.parse::<u32>().ok();
        if !waits {
            held = pid.map(|pid| (number, pid));
            continue;
        }
        let this = file.rsplit(':').next().and_then(|ino| ino.parse().ok());
        if pid == Some(waiter)
            && (inode.is_none() || this == inode)
            && let Some((_, holder)) = held.filter(|(of, _)| *of == number)
            && !holders.contains(&holder)
        {
            holders.push(holder);
        }
    }
    holders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_fd_shows_the_locks_taken_through_it() {
        assert!(has_lock("pos:\t0\nlock:\t1: FLOCK  ADVISORY  WRITE 3079 00:28:9 0 EOF\n"));
        assert!(!has_lock("pos:\t0\nflags:\t0100001\n"));
        assert!(!has_lock("lock:\t1: -> FLOCK  ADVISORY  WRITE 3079 00:28:9 0 EOF\n"));
    }

    #[test]
    fn the_lock_above_the_arrow_is_in_the_way() {
        let locks = "1: POSIX  ADVISORY  WRITE 100 fe:01:5 0 EOF\n\
                     1: -> POSIX  ADVISORY  WRITE 200 fe:01:5 0 EOF\n\
                     1:  -> POSIX  ADVISORY  WRITE 300 fe:01:5 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 101 fe:01:6 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 200 fe:01:6 0 EOF\n\
                     3: OFDLCK ADVISORY  READ -1 fe:01:7 0 EOF\n\
                     3: -> POSIX  ADVISORY  WRITE 200 fe:01:7 0 EOF\n";
        assert_eq!(parse(locks, 200, Some(5)), [100]);
        assert_eq!(parse(locks, 300, Some(5)), [100]);
        assert_eq!(parse(locks, 200, Some(6)), [101]);
        assert_eq!(parse(locks, 200, Some(7)), [] as [u32; 0]);
        assert_eq!(parse(locks, 200, None), [100, 101]);
        assert_eq!(parse("garbage\n\n1: ->\n", 1, None), [] as [u32; 0]);
    }
}
