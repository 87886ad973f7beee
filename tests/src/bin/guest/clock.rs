//! How is the clock made to run away from the scheduler's? By adjtimex, as NTP does it, only faster.

use std::io::{Error, Read, Write};
use std::time::{Duration, Instant};

/// `ADJ_TICK` of include/uapi/linux/timex.h.
const ADJ_TICK: libc::c_uint = 0x4000;
/// Microseconds a tick of 1/100 s, and the most the kernel allows.
const TICK: libc::c_long = 10_000;
const FASTEST: libc::c_long = 11_000;

/// Runs the clock a tenth too fast for so many seconds; how far it is then ahead of the scheduler's clock, which is not
/// slewed. Seconds.
pub(crate) fn slew(seconds: u64) -> f64 {
    let before = ahead();
    set_tick(FASTEST);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(seconds) {
        std::thread::sleep(Duration::from_millis(200));
    }
    set_tick(TICK);
    let gained = ahead() - before;
    // Otherwise the tests would pass whatever tracer does.
    assert!(gained > seconds as f64 * 0.05, "the clock gained {gained:.3} s on the scheduler's: not slewed");
    ahead()
}

fn set_tick(tick: libc::c_long) {
    // SAFETY: an all-zero timex is a valid value of the C struct.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    timex.modes = ADJ_TICK;
    timex.tick = tick;
    // SAFETY: `timex` outlives the call.
    let result = unsafe { libc::adjtimex(&raw mut timex) };
    assert!(result >= 0, "adjtimex: {}", Error::last_os_error());
}

/// `CLOCK_MONOTONIC` minus the scheduler's clock, which the kernel's log is stamped with. Seconds.
fn ahead() -> f64 {
    let word = format!("tracer-clock-{}", now_ns());
    let mut log = std::fs::File::options().read(true).write(true).open("/dev/kmsg").expect("/dev/kmsg");
    // Behind all that is there.
    use std::os::fd::AsRawFd;
    // SAFETY: lseek takes numbers.
    unsafe { libc::lseek(log.as_raw_fd(), 0, libc::SEEK_END) };
    let monotonic = now_ns();
    // Without its newline a record waits for the rest of its line.
    log.write_all(format!("{word}\n").as_bytes()).expect("/dev/kmsg takes a line");
    loop {
        let mut record = [0_u8; 1024];
        let length = log.read(&mut record).expect("/dev/kmsg");
        let record = String::from_utf8_lossy(&record[..length]);
        if record.contains(&word) {
            // "priority,sequence,microseconds,flags;text"
            let stamp: i64 = record.split(',').nth(2).and_then(|n| n.parse().ok()).expect("a stamp");
            return (monotonic / 1000 - stamp) as f64 / 1e6;
        }
    }
}

fn now_ns() -> i64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}
