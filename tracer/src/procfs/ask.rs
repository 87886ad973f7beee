//! What a reader process is asked and what it answers: the bytes between it and the rest of tracer. Pure.

use rustix::io::Errno;

/// Bytes of a file that are read unless more are asked for: those of `/proc` that are read here have a few hundred.
pub const SHORT_BYTES: usize = 64 * 1024;
/// As much of one file as is ever read: a network namespace's table with a hundred thousand connections.
pub const LONG_BYTES: usize = 32 * 1024 * 1024;
/// Entries of one directory that are read at most: a process may have a million descriptors.
pub const ENTRIES_MAX: usize = 65_536;

/// One read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReadRequest {
    /// The first `limit` bytes of a file.
    File { path: String, limit: usize },
    /// Where a symbolic link leads.
    Link { path: String },
    /// The names in a directory, [`ENTRIES_MAX`] at most.
    Names { path: String },
    /// The names in a directory of symbolic links, each with where it leads.
    Links { path: String },
    /// What a file is; see [`FileStat`]. No file system is asked for news of it.
    Stat { path: String },
    /// `length` bytes of a process's memory; fewer where it ends before.
    Memory { pid: u32, address: u64, length: usize },
    /// A zero-terminated string of `limit` bytes at most in a process's memory, without its zero.
    Text { pid: u32, address: u64, limit: usize },
    /// Opens a file for reading and hands over its descriptor.
    Open { path: String },
    /// The names of the functions that addresses lie in, by the symbols of an ELF file or by a map of compiled code: see
    /// [`symbols`](super::symbols). It must be the regular file with this inode number; zero: any that the process's user owns.
    Symbols { path: String, inode: u64, addresses: Vec<u64> },
    /// Where in memory a section of an ELF file belongs, and how long it is: eight bytes each. The file is as above, the section one that
    /// [`allowed`](super::allowed) names.
    Section { path: String, inode: u64, section: String },
    /// Everything that can be read from the descriptor that the reader was started with.
    Drain,
}

/// What a file is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileStat {
    /// Inode number.
    pub inode: u64,
    /// Device that it is on, as the kernel has it (`major << 20 | minor`).
    pub dev: u32,
    /// Device that it is, likewise.
    pub rdev: u32,
    /// Kind and permissions (`S_IF*`).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Number of names.
    pub links: u32,
}

/// Length of a question's head: length of the whole, kind, pid, address, limit.
const QUESTION_HEAD_BYTES: usize = 4 + 1 + 4 + 8 + 8;
/// Length of an answer's head: what it is, and how many bytes follow.
pub const ANSWER_HEAD_BYTES: usize = 4 + 4;
/// Bytes of one answer of several.
pub const PART_BYTES: usize = 64 * 1024;

/// What an answer's head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// The last bytes, so many.
    Last(usize),
    /// So many bytes, and more to come.
    Part(usize),
    /// It failed.
    Failed(Errno),
}

const LAST: i32 = 0;
const MORE: i32 = 1;

impl Head {
    /// As bytes.
    pub fn encode(self) -> [u8; ANSWER_HEAD_BYTES] {
        let (status, length) = match self {
            Head::Last(length) => (LAST, length),
            Head::Part(length) => (MORE, length),
            Head::Failed(error) => (-error.raw_os_error(), 0),
        };
        let mut bytes = [0; ANSWER_HEAD_BYTES];
        bytes[..4].copy_from_slice(&status.to_ne_bytes());
        bytes[4..].copy_from_slice(&(length as u32).to_ne_bytes());
        bytes
    }

    /// From bytes.
    pub fn decode(bytes: [u8; ANSWER_HEAD_BYTES]) -> Self {
        let [a, b, c, d, length @ ..] = bytes;
        let length = u32::from_ne_bytes(length) as usize;
        match i32::from_ne_bytes([a, b, c, d]) {
            LAST => Head::Last(length),
            status if status > 0 => Head::Part(length),
            status => Head::Failed(Errno::from_raw_os_error(status.saturating_neg())),
        }
    }
}

impl ReadRequest {
    /// Whether a descriptor comes with the answer.
    pub fn opens(&self) -> bool {
        matches!(self, ReadRequest::Open { .. })
    }

    /// As bytes, at the end of `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        if let ReadRequest::Symbols { path, inode, addresses } = self {
            let words = addresses.len() * size_of::<u64>();
            out.extend(((QUESTION_HEAD_BYTES + words + path.len()) as u32).to_ne_bytes());
            out.push(9);
            out.extend(0u32.to_ne_bytes());
            out.extend(inode.to_ne_bytes());
            out.extend((addresses.len() as u64).to_ne_bytes());
            addresses.iter().for_each(|address| out.extend(address.to_ne_bytes()));
            out.extend(path.as_bytes());
            return;
        }
        if let ReadRequest::Section { path, inode, section } = self {
            out.extend(((QUESTION_HEAD_BYTES + section.len() + path.len()) as u32).to_ne_bytes());
            out.push(10);
            out.extend(0u32.to_ne_bytes());
            out.extend(inode.to_ne_bytes());
            out.extend((section.len() as u64).to_ne_bytes());
            out.extend(section.as_bytes());
            out.extend(path.as_bytes());
            return;
        }
        let (kind, path, pid, address, limit): (u8, &str, u32, u64, usize) = match self {
            ReadRequest::File { path, limit } => (0, path, 0, 0, *limit),
            ReadRequest::Link { path } => (1, path, 0, 0, 0),
            ReadRequest::Names { path } => (2, path, 0, 0, 0),
            ReadRequest::Links { path } => (3, path, 0, 0, 0),
            ReadRequest::Stat { path } => (4, path, 0, 0, 0),
            ReadRequest::Memory { pid, address, length } => (5, "", *pid, *address, *length),
            ReadRequest::Text { pid, address, limit } => (6, "", *pid, *address, *limit),
            ReadRequest::Open { path } => (7, path, 0, 0, 0),
            ReadRequest::Symbols { .. } | ReadRequest::Section { .. } | ReadRequest::Drain => {
                (8, "", 0, 0, 0)
            }
        };
        out.extend(((QUESTION_HEAD_BYTES + path.len()) as u32).to_ne_bytes());
        out.push(kind);
        out.extend(pid.to_ne_bytes());
        out.extend(address.to_ne_bytes());
        out.extend((limit as u64).to_ne_bytes());
        out.extend(path.as_bytes());
    }

    /// The first question in `bytes`, and how long it is; `None` where it has not all come. A question that makes no sense is
    /// an error: only tracer itself asks.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, Errno> {
        let Some(head) = bytes.get(..QUESTION_HEAD_BYTES) else { return Ok(None) };
        let number = |at: usize| u64::from_ne_bytes(std::array::from_fn(|byte| head[at + byte]));
        let short = |at: usize| u32::from_ne_bytes(std::array::from_fn(|byte| head[at + byte]));
        let whole = short(0) as usize;
        if !(QUESTION_HEAD_BYTES..QUESTION_HEAD_BYTES + SHORT_BYTES).contains(&whole) {
            return Err(Errno::INVAL);
        }
        let Some(text) = bytes.get(QUESTION_HEAD_BYTES..whole) else { return Ok(None) };
        let path = || String::from_utf8(text.to_vec()).map_err(|_| Errno::INVAL);
        let (pid, address) = (short(5), number(9));
        let limit = usize::try_from(number(17)).map_err(|_| Errno::INVAL)?.min(LONG_BYTES);
        let ask = match head[4] {
            0 => ReadRequest::File { path: path()?, limit },
            1 => ReadRequest::Link { path: path()? },
            2 => ReadRequest::Names { path: path()? },
            3 => ReadRequest::Links { path: path()? },
            4 => ReadRequest::Stat { path: path()? },
            5 => ReadRequest::Memory { pid, address, length: limit },
            6 => ReadRequest::Text { pid, address, limit },
            7 => ReadRequest::Open { path: path()? },
            8 => ReadRequest::Drain,
            9 => {
                let bytes = limit.checked_mul(size_of::<u64>()).ok_or(Errno::INVAL)?;
                let (words, path) = text.split_at_checked(bytes).ok_or(Errno::INVAL)?;
                let addresses =
                    words.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word)).collect();
                let path = String::from_utf8(path.to_vec()).map_err(|_| Errno::INVAL)?;
                ReadRequest::Symbols { path, inode: address, addresses }
            }
            10 => {
                let both = path()?;
                let (section, path) = both.split_at_checked(limit).ok_or(Errno::INVAL)?;
                ReadRequest::Section { path: path.into(), inode: address, section: section.into() }
            }
            _ => return Err(Errno::INVAL),
        };
        Ok(Some((ask, whole)))
    }
}

impl FileStat {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.inode.to_ne_bytes().to_vec();
        for word in [self.dev, self.rdev, u32::from(self.mode), self.uid, self.links] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes
    }

    /// From bytes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (inode, words) = bytes.split_first_chunk::<8>()?;
        let (words, rest) = words.as_chunks::<4>();
        let [dev, rdev, mode, uid, links] = words else { return None };
        let word = |bytes: &[u8; 4]| u32::from_ne_bytes(*bytes);
        rest.is_empty().then(|| Self {
            inode: u64::from_ne_bytes(*inode),
            dev: word(dev),
            rdev: word(rdev),
            mode: word(mode) as u16,
            uid: word(uid),
            links: word(links),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_arrive_as_they_were_sent() {
        let path = || "/proc/1/fd/3".to_owned();
        let asks = [
            ReadRequest::File { path: path(), limit: 7 },
            ReadRequest::Link { path: path() },
            ReadRequest::Names { path: path() },
            ReadRequest::Links { path: path() },
            ReadRequest::Stat { path: path() },
            ReadRequest::Memory { pid: 4_000_000, address: u64::MAX, length: 9 },
            ReadRequest::Text { pid: 1, address: 2, limit: 3 },
            ReadRequest::Open { path: path() },
            ReadRequest::Drain,
            ReadRequest::Symbols { path: path(), inode: 9, addresses: vec![1, u64::MAX] },
            ReadRequest::Symbols { path: String::new(), inode: 0, addresses: Vec::new() },
            ReadRequest::Section { path: path(), inode: 9, section: ".eh_frame".into() },
        ];
        let mut bytes = Vec::new();
        asks.iter().for_each(|ask| ask.encode(&mut bytes));
        let mut rest = &bytes[..];
        for ask in &asks {
            let (came, used) = ReadRequest::decode(rest).expect("makes sense").expect("all of it");
            assert_eq!(came, *ask);
            assert_eq!(ReadRequest::decode(&rest[..used - 1]), Ok(None), "not yet");
            rest = &rest[used..];
        }
        assert!(rest.is_empty());
        for head in [Head::Last(0), Head::Last(70_000), Head::Part(5), Head::Failed(Errno::ACCESS)] {
            assert_eq!(Head::decode(head.encode()), head);
        }
        let stat = FileStat { inode: u64::MAX, dev: 1, rdev: 2, mode: 0o140_777, uid: 65_534, links: 6 };
        assert_eq!(FileStat::decode(&stat.encode()), Some(stat));
        assert_eq!(FileStat::decode(&[0; 27]), None);
    }

    #[test]
    fn what_makes_no_sense_is_an_error_and_never_a_huge_read() {
        let mut bytes = Vec::new();
        ReadRequest::Memory { pid: 1, address: 0, length: usize::MAX }.encode(&mut bytes);
        assert!(matches!(
            ReadRequest::decode(&bytes),
            Ok(Some((ReadRequest::Memory { length: LONG_BYTES, .. }, _)))
        ));
        bytes[4] = 99;
        assert_eq!(ReadRequest::decode(&bytes), Err(Errno::INVAL));
        assert_eq!(ReadRequest::decode(&[0; QUESTION_HEAD_BYTES]), Err(Errno::INVAL));
        assert_eq!(ReadRequest::decode(&[0xff; QUESTION_HEAD_BYTES]), Err(Errno::INVAL));
    }
}
