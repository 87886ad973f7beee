//! From an fd number to its file: inode, type and device, and the socket behind it.

use tracer_ebpf::abi::{
    FD_ABSENT, FD_OPEN, FLOW_RUNS, FLOW_STOPPED, File, TAIL_NONE, TAIL_TCP, TAIL_UDP, TAIL_UNIX, Tcp, Udp,
    Unix,
};

use crate::{
    offsets::*,
    sock::{AF_UNIX, Sock, TcpBlock, is_tcp, is_udp},
    task::Task,
};

pub const S_IFMT: u16 = 0o170000;
pub const S_IFSOCK: u16 = 0o140000;
const S_IFCHR: u16 = 0o020000;
pub const S_IFIFO: u16 = 0o010000;
pub const S_IFREG: u16 = 0o100000;

/// What looking an fd up gave.
pub struct Found {
    /// One of `FD_*`.
    pub state: u32,
    /// A kernel pointer on the way could not be read.
    pub failed: bool,
    /// The socket, null where the file is none.
    pub sock: Sock,
    /// The open file, null where there is none.
    file: *const u8,
}

impl Found {
    /// Nothing yet.
    pub const NONE: Found =
        Found { state: FD_ABSENT, failed: false, sock: Sock::NONE, file: core::ptr::null() };
}

/// A thread's table of open files.
#[derive(Clone, Copy)]
pub struct OpenFiles {
    max: u32,
    table: *const u8,
}

impl OpenFiles {
    /// The one of this thread; it has none any more when it is on its way out.
    #[inline(always)]
    pub fn of(task: Task) -> Self {
        // SAFETY: typed pointers all the way.
        let files: *const u8 = unsafe { TASK_FILES.load(task.0) };
        // Linux 5.10 dies of a load through a null pointer, if the program has functions: it looks for the fault's entry in another table.
        if files.is_null() {
            return Self { max: 0, table: core::ptr::null() };
        }
        // SAFETY: likewise.
        unsafe {
            let fdt = FILES_FDT.load::<*const u8>(files);
            Self { max: FDT_MAX.load(fdt), table: FDT_FD.load(fdt) }
        }
    }

    /// The open file of `fd`, null where there is none; and whether the table could not be read.
    #[inline(always)]
    pub fn get(self, fd: i32) -> (*const u8, bool) {
        if fd < 0 || fd as u32 >= self.max {
            return (core::ptr::null(), false);
        }
        let mut file = 0u64;
        let failed = read(self.table.wrapping_add(fd as usize * 8), &mut file);
        (file as *const u8, failed)
    }

    /// Looks `fd` up and fills `to`, which the caller has zeroed.
    #[inline(always)]
    pub fn find(self, fd: i32, to: &mut File) -> Found {
        let mut found = Found::NONE;
        (found.file, found.failed) = self.get(fd);
        if found.file.is_null() {
            return found;
        }
        found.state = FD_OPEN;
        let file = found.file;
        describe(file, to, &mut found);
        found
    }
}

/// What the file at `file` is: fills `to`, which the caller has zeroed, and `found`.
#[inline(always)]
pub fn describe(file: *const u8, to: &mut File, found: &mut Found) {
    let mut inode = 0u64;
    found.failed |= FILE_INODE.read(file, &mut inode);
    let inode = inode as *const u8;
    found.failed |= INODE_MODE.read(inode, &mut to.mode);
    found.failed |= INODE_INO.read(inode, &mut to.inode);
    let kind = to.mode & S_IFMT;
    if kind == S_IFSOCK {
        let mut socket = 0u64;
        found.failed |= FILE_PRIVATE.read(file, &mut socket);
        let (sock, failed) = Sock::of_socket(socket as *const u8);
        found.sock = sock;
        found.failed |= failed | sock.describe(to);
    } else {
        let mut sb = 0u64;
        if kind != S_IFIFO {
            found.failed |= INODE_RDEV.read(inode, &mut to.rdev);
        }
        found.failed |= INODE_SB.read(inode, &mut sb);
        found.failed |= SB_DEV.read(sb as *const u8, &mut to.dev);
    }
}

/// Id of the mount of an open file that has a name, zero where it is not known.
#[inline(always)]
pub fn mount(found: &Found, file: &File) -> u32 {
    let kind = file.mode & S_IFMT;
    if found.file.is_null() || kind == 0 || kind == S_IFSOCK || kind == S_IFIFO {
        return 0;
    }
    if !FILE_MNT.exists() || !MOUNT_MNT.exists() || !MOUNT_ID.exists() {
        return 0;
    }
    let (mut mnt, mut id) = (0u64, 0u32);
    FILE_MNT.read(found.file, &mut mnt);
    let mount = (mnt as *const u8).wrapping_sub(MOUNT_MNT.of(core::ptr::null()) as usize);
    MOUNT_ID.read(mount, &mut id);
    id
}

/// Whether output leaves a terminal: one of `FLOW_*`, zero for what is none.
#[inline(always)]
pub fn flow(found: &Found, file: &File) -> u32 {
    if !TTY_FILE_TTY.exists() || !TTY_STOPPED.exists() {
        return 0;
    }
    // Consoles and serial lines, /dev/tty, pseudo-terminals (Documentation/admin-guide/devices.txt).
    let major = file.rdev >> 20;
    let is_terminal = major == 4 || major == 5 || (major >= 136 && major <= 143) || major == 204;
    if file.mode & S_IFMT != S_IFCHR || !is_terminal {
        return 0;
    }
    let (mut private, mut tty, mut stopped) = (0u64, 0u64, 0u8);
    FILE_PRIVATE.read(found.file, &mut private);
    TTY_FILE_TTY.read(private as *const u8, &mut tty);
    match TTY_STOPPED.read(tty as *const u8, &mut stopped) {
        true => 0,
        false if stopped & 1 != 0 => FLOW_STOPPED,
        false => FLOW_RUNS,
    }
}

/// Room for what follows a record: one of them; and for reading it.
#[repr(C)]
pub struct Tails {
    pub tcp: Tcp,
    pub unix: Unix,
    pub udp: Udp,
    block: TcpBlock,
}

/// Fills the socket's facts: which tail they are, and whether something could not be read.
#[inline(always)]
pub fn facts(found: &Found, file: &File, tails: &mut Tails) -> (u32, bool) {
    if found.sock.is_none() {
        (TAIL_NONE, false)
    } else if is_tcp(file) {
        zero(&mut tails.tcp);
        (TAIL_TCP, found.sock.tcp(&mut tails.tcp, &mut tails.block))
    } else if file.family == AF_UNIX {
        zero(&mut tails.unix);
        (TAIL_UNIX, found.sock.unix(&mut tails.unix))
    } else if is_udp(file) {
        zero(&mut tails.udp);
        (TAIL_UDP, found.sock.udp(&mut tails.udp))
    } else {
        (TAIL_NONE, false)
    }
}

/// All bytes zero, eight at a time: the compiler's own memset goes byte by byte on this target.
#[inline(always)]
pub fn zero<T: tracer_ebpf::abi::Plain>(to: &mut T) {
    const { assert!(size_of::<T>() % 8 == 0 && align_of::<T>() == 8) };
    let words: *mut u64 = core::ptr::from_mut(to).cast();
    for i in 0..size_of::<T>() / 8 {
        // SAFETY: within `to`, aligned, and zero is a value of every Plain record. Volatile, or it becomes memset.
        unsafe { words.add(i).write_volatile(0) };
    }
}
