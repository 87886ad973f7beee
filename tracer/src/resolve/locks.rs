//! Who holds the file lock that a process waits for: `/proc/locks` (Documentation/filesystems/proc.rst).

use std::{collections::HashMap, io::BufRead};

use crate::{
    model::file::Device,
    procfs::{Reads, by_pid},
};

/// Threads that wait for locks on files, on the whole host, up to which `/proc/locks` is read. Those that wait for one lock stand in
/// a queue, and the kernel indents each of them by its place in it: a thousand take half a megabyte, which the kernel writes in some
/// ten milliseconds, and five thousand 13 MB, for which it takes longer than a reader has. Of more, the locks are looked for in the
/// fdinfo of those who have the file open.
pub const LONGEST_QUEUE: usize = 1_000;

/// Who keeps whom from a lock on a file, of the whole host.
#[derive(Debug, Default)]
pub struct LockTable(HashMap<u32, Vec<WaitingLock>>);

/// That a process waits for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct WaitingLock {
    /// The file's inode number; `None` if it is not written as a number.
    inode: Option<u64>,
    /// Who has the lock.
    holder: u32,
}

impl LockTable {
    /// As it is now, read once; nothing where it cannot be read.
    pub fn read(reads: &mut Reads) -> Self {
        reads.host_file("/proc/locks").map(|text| Self::parse(&text[..])).unwrap_or_default()
    }

    /// From the text of `/proc/locks`. An open file description's lock has no process and is left out.
    pub fn parse(mut text: impl BufRead) -> Self {
        let mut table: HashMap<u32, Vec<WaitingLock>> = HashMap::new();
        // A lock that is held, then, with the same number and an arrow, those that wait for it.
        let mut held: Option<(String, u32)> = None;
        let mut bytes = Vec::new();
        let mut next = |bytes: &mut Vec<u8>| {
            bytes.clear();
            text.read_until(b'\n', bytes).is_ok_and(|read| read > 0)
        };
        while next(&mut bytes) {
            let line = String::from_utf8_lossy(&bytes);
            let Some((number, rest)) = line.split_once(' ') else { continue };
            // The blanks are most of the text where many wait for one lock.
            let mut words = rest.trim_start_matches(' ').split_ascii_whitespace().peekable();
            let waits = words.next_if_eq(&"->").is_some();
            // FLOCK ADVISORY WRITE 1234 fe:01:5678 0 EOF
            let (Some(pid), Some(file)) = (words.nth(3), words.next()) else { continue };
            let pid = pid.parse::<u32>().ok();
            if !waits {
                held = pid.map(|pid| (number.to_owned(), pid));
                continue;
            }
            let inode = file.rsplit(':').next().and_then(|ino| ino.parse().ok());
            if let (Some(waiter), Some((of, holder))) = (pid, &held)
                && of == number
            {
                table.entry(waiter).or_default().push(WaitingLock { inode, holder: *holder });
            }
        }
        for kept in table.values_mut() {
            kept.sort_unstable();
            kept.dedup();
        }
        Self(table)
    }

    /// Processes whose locks keep `waiter` from getting its own on the file with this inode number, on any file if that is
    /// not known.
    pub fn holders(&self, waiter: u32, inode: Option<u64>) -> Vec<u32> {
        let kept = self.0.get(&waiter).map_or(&[][..], Vec::as_slice);
        let of = match inode {
            None => kept,
            // They are sorted by it.
            Some(_) => {
                let begin = kept.partition_point(|one| one.inode < inode);
                let end = kept.partition_point(|one| one.inode <= inode);
                &kept[begin..end]
            }
        };
        let mut holders: Vec<u32> = of.iter().map(|one| one.holder).collect();
        holders.sort_unstable();
        holders.dedup();
        holders
    }
}

/// Processes that are to give a lease back, each with the device of the file, by the text of `/proc/locks`.
pub fn broken_leases(text: &str) -> Vec<(u32, Device)> {
    // 1: LEASE  BREAKING  WRITE 1234 fe:01:5678 0 EOF
    let lease = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().skip(1).take(5).collect();
        let &["LEASE", "BREAKING", _, pid, file] = &words[..] else { return None };
        let mut parts = file.split(':').map(|part| u32::from_str_radix(part, 16).ok());
        let (major, minor) = (parts.next()??, parts.next()??);
        Some((pid.parse().ok()?, Device(major << 20 | minor)))
    };
    text.lines().filter_map(lease).collect()
}

/// Whether this open fd has a lock on its file: its fdinfo lists the locks that were taken through it, also those of an
/// open file description, and those whose taker has exited and left them to a process that shares the description.
pub fn held_through(pid: u32, fd: i32, reads: &mut Reads) -> bool {
    reads.text(by_pid(pid), &format!("fdinfo/{fd}")).is_some_and(|info| has_lock(&info))
}

fn has_lock(info: &str) -> bool {
    info.lines().filter_map(|line| line.strip_prefix("lock:")).any(|lock| !lock.contains("->"))
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
    fn a_lease_that_is_wanted_back_has_a_holder() {
        let locks = "1: LEASE  BREAKING  WRITE 1234 fe:01:5678 0 EOF\n\
                     2: LEASE  ACTIVE    READ  7 fe:01:5679 0 EOF\n\
                     3: LEASE  BREAKER   READ  8 fe:01:5678 0 EOF\n\
                     4: POSIX  ADVISORY  WRITE 100 fe:01:5 0 EOF\n5: LEASE  BREAKING  READ -1 fe:01:5 0 EOF\n";
        assert_eq!(broken_leases(locks), [(1234, Device(254 << 20 | 1))]);
        assert!(broken_leases("garbage\n\n1: LEASE\n").is_empty());
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
        let table = LockTable::parse(locks.as_bytes());
        assert_eq!(table.holders(200, Some(5)), [100]);
        assert_eq!(table.holders(300, Some(5)), [100]);
        assert_eq!(table.holders(200, Some(6)), [101]);
        assert_eq!(table.holders(200, Some(7)), [] as [u32; 0]);
        assert_eq!(table.holders(200, None), [100, 101]);
        assert_eq!(table.holders(100, None), [] as [u32; 0]);
        let garbage = LockTable::parse("garbage\n\n1: ->\n\u{0}".as_bytes());
        assert_eq!(garbage.holders(1, None), [] as [u32; 0]);
    }

    /// As the kernel writes it, each indented by its place in the queue; those blanks are the kernel's doing, and left out here.
    #[test]
    fn a_queue_is_read_once() {
        let queue = |number: usize| {
            let waiter = |at: usize| format!("1: -> FLOCK  ADVISORY  WRITE {} fe:01:5 0 EOF\n", 200 + at);
            "1: FLOCK  ADVISORY  WRITE 100 fe:01:5 0 EOF\n".to_owned()
                + &(0..number).map(waiter).collect::<String>()
        };
        crate::util::growth::at_each_size(|number| {
            let table = LockTable::parse(queue(number).as_bytes());
            assert!((0..number as u32).all(|at| table.holders(200 + at, Some(5)) == [100]));
            assert_eq!(table.0.values().map(Vec::len).sum::<usize>(), number);
        });
        crate::util::growth::assert_linear("a queue for a lock", queue, |text| {
            let table = LockTable::parse(text.as_bytes());
            assert_eq!(table.holders(200, None), [100]);
        });
    }
}
