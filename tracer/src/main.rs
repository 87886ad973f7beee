//! tracer
mod collect;
mod kernel;
mod syscalls;
mod wait;
use collect::Source;
fn main() -> anyhow::Result<()> {
    let t = std::time::Instant::now();
    let mut bpf = collect::bpf::Bpf::load(kernel::load::Options { waits: std::env::args().len() > 1, min_wait: std::time::Duration::from_micros(100), report: std::time::Duration::from_secs(1), verbose: false })?;
    eprintln!("load {:?}", t.elapsed());
    let s = bpf.snapshot()?;
    for w in &s.waits { println!("{:?} {} {}/{} {}({:?}) {:?} {:?}", w.age, w.comm, w.thread.process.pid, w.thread.tid, w.call.name, w.fd, w.fd_state, w.socket); }
    eprintln!("snap {:?} {} held", s.duration, s.held.len());
    Ok(())
}
