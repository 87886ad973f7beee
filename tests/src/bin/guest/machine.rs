//! How does a bare kernel become a machine? File systems, loopback, limits; and how does it end?

use std::ffi::CString;
use std::io::Error;

/// Type, where, options.
const MOUNTS: &[(&str, &str, &str)] = &[
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("securityfs", "/sys/kernel/security", ""),
    ("devtmpfs", "/dev", ""),
    ("devpts", "/dev/pts", "ptmxmode=0666"),
    ("tmpfs", "/tmp", "mode=1777"),
    ("tmpfs", "/run", ""),
    // Both versions, as systemd's hybrid layout has them: version 1 for its freezer.
    ("tmpfs", "/sys/fs/cgroup", ""),
    ("cgroup2", "/sys/fs/cgroup/unified", ""),
    ("cgroup", "/sys/fs/cgroup/freezer", "freezer"),
];

pub(crate) fn mount() {
    for (kind, place, options) in MOUNTS {
        // devtmpfs comes with directories of its own.
        let _ = std::fs::create_dir_all(place);
        mount_one(kind, place, options);
    }
}

/// Makes a directory look empty.
pub(crate) fn hide(place: &str) {
    mount_one("tmpfs", place, "");
}

fn mount_one(kind: &str, place: &str, options: &str) {
    let [kind, place, options] = [kind, place, options].map(|text| CString::new(text).expect("no NUL"));
    // SAFETY: all strings are NUL-terminated and outlive the call.
    let result =
        unsafe { libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, options.as_ptr().cast()) };
    if result != 0 {
        println!("guest: cannot mount {kind:?} on {place:?}: {}", Error::last_os_error());
    }
}

pub(crate) fn loopback_up() {
    // SAFETY: an all-zero ifreq is a valid value of the C struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: socket takes numbers; the ioctl reads an ifreq that outlives the call; the descriptor is closed here.
    let result = unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
        let result = libc::ioctl(socket, libc::SIOCSIFFLAGS as libc::Ioctl, &raw const request);
        libc::close(socket);
        result
    };
    assert!(result == 0, "loopback does not come up: {}", Error::last_os_error());
}

/// What a distribution's init allows, for tests with ten thousand threads and sockets.
pub(crate) fn raise_limits() {
    let many = libc::rlimit { rlim_cur: 65_536, rlim_max: 1 << 20 };
    // SAFETY: `many` outlives the calls.
    unsafe {
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const many);
        libc::setrlimit(libc::RLIMIT_NPROC, &raw const many);
    }
    for name in ["kernel/threads-max", "kernel/pid_max", "vm/max_map_count"] {
        let file = format!("/proc/sys/{name}");
        if let Err(error) = std::fs::write(&file, "100000") {
            println!("guest: {file}: {error}");
        }
    }
}

/// The kernel's version.
pub(crate) fn release() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc");
    text.trim().to_owned()
}

/// Waits for a child and, as process 1 has to, for every orphan that ends meanwhile.
pub(crate) fn reap_until(child: u32) {
    loop {
        // SAFETY: the status is not asked for.
        let ended = unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) };
        if ended == child as libc::pid_t {
            return;
        }
        assert!(ended > 0, "waitpid: {}", Error::last_os_error());
    }
}

pub(crate) fn power_off() -> ! {
    // SAFETY: sync and reboot take no pointers here.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_POWER_OFF);
    }
    panic!("the machine does not power off: {}", Error::last_os_error());
}
