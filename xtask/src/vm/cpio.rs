//! What does the kernel unpack as the guest's root file system? An archive in the "newc" format
//! (Documentation/driver-api/early-userspace/buffer-format.rst), written without touching a disk.

const DIR: u32 = 0o040_755;
const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;
const CHARACTER: u32 = 0o020_600;

/// An archive being written.
pub struct Cpio {
    bytes: Vec<u8>,
    inode: u32,
}

impl Cpio {
    /// An empty one.
    pub fn new() -> Self {
        Self { bytes: Vec::new(), inode: 0 }
    }

    /// A directory.
    pub fn dir(&mut self, path: &str) {
        self.entry(path, DIR, (0, 0), b"");
    }

    /// A file to read.
    pub fn file(&mut self, path: &str, content: &[u8]) {
        self.entry(path, FILE, (0, 0), content);
    }

    /// A file to run.
    pub fn program(&mut self, path: &str, content: &[u8]) {
        self.entry(path, PROGRAM, (0, 0), content);
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, to: &str) {
        self.entry(path, LINK, (0, 0), to.as_bytes());
    }

    /// The device `/dev/console`.
    pub fn console(&mut self, path: &str) {
        self.entry(path, CHARACTER, (5, 1), b"");
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), b"");
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.inode += 1;
        let fields = [
            self.inode,
            mode,
            0, // user
            0, // group
            1, // links
            0, // time
            content.len() as u32,
            0,
            0, // the device it lies on
            device.0,
            device.1,
            path.len() as u32 + 1,
            0, // checksum, not used by this format
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(path.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_end_with_the_trailer() {
        let mut cpio = Cpio::new();
        cpio.dir("a");
        cpio.file("a/odd", b"12345");
        let bytes = cpio.finish();
        let at = |name: &[u8]| bytes.windows(name.len()).position(|window| window == name);
        // A header has 110 bytes, its name a zero; all that is filled up to four.
        assert_eq!(at(b"a/odd\0"), Some(112 + 110));
        assert_eq!(at(b"12345"), Some(112 + 116));
        assert_eq!(at(b"TRAILER!!!\0"), Some(112 + 116 + 8 + 110));
        assert_eq!(&bytes[112 + 54..112 + 62], b"00000005");
        assert!(bytes.len().is_multiple_of(4));
    }
}
