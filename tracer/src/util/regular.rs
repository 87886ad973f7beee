//! Opens tracer's own files (configuration, token, state, history, lock) so that nothing else under their names holds it up: a
//! pipe is not waited for, and what is no regular file is refused.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Whether a symbolic link may stand for the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// It is followed, as administrators and Kubernetes have them.
    Followed,
    /// It is refused: in this directory only tracer should make files.
    Refused,
}

/// Opens the file as `options` say, but for their custom flags.
pub fn open(path: &Path, options: &mut OpenOptions, links: Links) -> io::Result<File> {
    let no_link = if links == Links::Refused { libc::O_NOFOLLOW } else { 0 };
    let opened = options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | no_link).open(path);
    let file = match opened {
        // A pipe that nobody reads, or a socket.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => return Err(no_file()),
        opened => opened?,
    };
    if file.metadata()?.is_file() { Ok(file) } else { Err(no_file()) }
}

/// All of a file that is at most so many bytes long: else the error is [`ErrorKind::FileTooLarge`].
pub fn read(path: &Path, longest: u64) -> io::Result<Vec<u8>> {
    let file = open(path, OpenOptions::new().read(true), Links::Followed)?;
    let mut bytes = Vec::new();
    file.take(longest + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > longest {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("it is longer than {longest} bytes")));
    }
    Ok(bytes)
}

fn no_file() -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, "it is no regular file")
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::{ffi::OsStrExt, net::UnixListener},
        path::PathBuf,
    };

    use super::*;

    fn own_dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("tracer-regular-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        dir
    }

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let dir = own_dir("kinds");
        let fifo = dir.join("fifo");
        let name = std::ffi::CString::new(fifo.as_os_str().as_bytes()).expect("no zero byte");
        // SAFETY: a path, which outlives the call.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let socket = dir.join("socket");
        let _listener = UnixListener::bind(&socket).expect("binds");
        for path in [fifo, socket, dir.clone(), "/dev/zero".into()] {
            let error = read(&path, 100).expect_err("it is no file");
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{} {error}", path.display());
            let error = open(&path, OpenOptions::new().write(true).create(true), Links::Refused);
            let kind = error.expect_err("it is no file").kind();
            // A directory cannot be opened to be written at all.
            assert!(
                matches!(kind, ErrorKind::InvalidInput | ErrorKind::IsADirectory),
                "{} {kind}",
                path.display()
            );
        }
        fs::remove_dir_all(&dir).expect("is removed");
    }

    #[test]
    fn files_are_read_up_to_their_bound_and_links_as_asked() {
        let dir = own_dir("files");
        let (file, link) = (dir.join("file"), dir.join("link"));
        fs::write(&file, "12345").expect("writes");
        std::os::unix::fs::symlink(&file, &link).expect("a link");
        assert_eq!(read(&link, 5).expect("reads"), b"12345");
        assert_eq!(read(&file, 4).expect_err("too long").kind(), ErrorKind::FileTooLarge);
        assert!(open(&file, OpenOptions::new().read(true), Links::Refused).is_ok());
        assert!(open(&link, OpenOptions::new().read(true), Links::Refused).is_err());
        assert_eq!(read(&dir.join("none"), 4).expect_err("there is none").kind(), ErrorKind::NotFound);
        fs::remove_dir_all(&dir).expect("is removed");
    }
}
