//! How does a disk get full? A file system in memory that is small, and a file that takes what is left of it.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::own_dir;

/// How large it becomes when there is to be room.
const ROOMY_KIB: u32 = 8192;

/// A file system of so many KiB, unmounted when this is dropped.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one, in a directory of this name that is the test's own.
    pub fn mount(name: &str, kib: u32) -> Self {
        let dir = own_dir().join(name);
        fs::create_dir_all(&dir).expect("our own directory");
        mount(&dir, kib, 0);
        Self(dir)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Fills it to the last byte.
    pub fn fill(&self) {
        let written = fs::write(self.0.join("filler"), vec![0; 2 * 1024 * ROOMY_KIB as usize]);
        assert!(written.is_err(), "it is larger than it should be");
    }

    /// Makes room again, and more than there was: what a file leaves that is removed may be less than a database grows by.
    pub fn make_room(&self) {
        fs::remove_file(self.0.join("filler")).expect("it was full");
        mount(&self.0, ROOMY_KIB, libc::MS_REMOUNT);
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let dir = c_string(self.0.as_os_str().as_bytes());
        // Whoever wrote to it may have something open.
        // SAFETY: a path, which outlives the call.
        unsafe { libc::umount2(dir.as_ptr(), libc::MNT_DETACH) };
    }
}

/// Not by mount(8), which a machine may lack.
fn mount(dir: &Path, kib: u32, flags: libc::c_ulong) {
    let (kind, dir) = (c_string(b"tmpfs"), c_string(dir.as_os_str().as_bytes()));
    let size = c_string(format!("size={kib}k").as_bytes());
    // SAFETY: strings, which outlive the call.
    let result =
        unsafe { libc::mount(kind.as_ptr(), dir.as_ptr(), kind.as_ptr(), flags, size.as_ptr().cast()) };
    assert_eq!(result, 0, "mount: {}", io::Error::last_os_error());
}

fn c_string(bytes: &[u8]) -> CString {
    CString::new(bytes).expect("no zero byte")
}
