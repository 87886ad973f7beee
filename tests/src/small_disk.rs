//! How does a disk get full? A file system in memory that is small, and a file that takes what is left of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::own_dir;

/// A file system of so many KiB, unmounted when this is dropped.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one, in a directory of this name that is the test's own.
    pub fn mount(name: &str, kib: u32) -> Self {
        let dir = own_dir().join(name);
        fs::create_dir_all(&dir).expect("our own directory");
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kib}k"), name])
            .arg(&dir)
            .status()
            .expect("mount starts");
        assert!(status.success());
        Self(dir)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Fills it to the last byte.
    pub fn fill(&self) {
        let written = fs::write(self.0.join("filler"), vec![0; 1024 * 1024]);
        assert!(written.is_err(), "it is larger than it should be");
    }

    /// Makes room again, and more than there was: what a file leaves that is removed may be less than a database grows by.
    pub fn make_room(&self) {
        fs::remove_file(self.0.join("filler")).expect("it was full");
        let status = Command::new("mount").args(["-o", "remount,size=4096k"]).arg(&self.0).status();
        assert!(status.expect("mount starts").success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Whoever wrote to it may have something open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).stderr(Stdio::null()).status();
    }
}
