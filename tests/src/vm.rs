//! What is different in an emulated machine? It is slow, which the environment says; and some kernels lack things,
//! which a test says aloud.

use std::io::Write;
use std::sync::OnceLock;
use std::time::Duration;

/// How a line on standard error begins that says which test cannot be done on this kernel, and why.
pub const UNSUPPORTED: &str = "unsupported: ";

/// Says that this kernel lacks what the calling test is about. Not with `eprintln`, which the harness keeps to itself
/// while a test passes: a test that quietly does nothing would look like a passed one.
pub fn unsupported(why: &str) {
    let thread = std::thread::current();
    let line = format!("{UNSUPPORTED}{}: {why}\n", thread.name().unwrap_or("a test"));
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// `TRACER_TESTS_SLOW`: how many times slower this machine is than one that the claims about speed are about. What is
/// said about ages does not depend on it.
pub fn slowness() -> u32 {
    static TIMES: OnceLock<u32> = OnceLock::new();
    *TIMES.get_or_init(|| match std::env::var("TRACER_TESTS_SLOW") {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("TRACER_TESTS_SLOW is no whole number: {text:?}")),
        Err(_) => 1,
    })
}

/// How far off an age may be, in seconds. An emulated machine gives a thread the processor late, between its word that it
/// is about to wait and the wait.
pub fn age_tolerance() -> f64 {
    if slowness() == 1 { 0.2 } else { 1.0 }
}

/// How long a hypervisor has kept the processor from which it has taken most from it, since boot. Seconds.
pub fn stolen_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/stat").expect("/proc");
    let processors = text.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu "));
    // "cpu0 user nice system idle iowait irq softirq steal …", in hundredths.
    let ticks = processors.filter_map(|line| line.split_ascii_whitespace().nth(8)?.parse::<u64>().ok());
    ticks.max().unwrap_or(0) as f64 / 100.0
}

/// Sleeps until an agent's looks of so much time have certainly passed.
pub fn pause(time: Duration) {
    std::thread::sleep(time * slowness().min(3));
}

/// A time that a real machine keeps, as this one has to.
pub fn slow(time: Duration) -> Duration {
    time * slowness()
}
