//! The loads the bench starts as processes of their own: `cargo xtask load NAME ARGS`.
//!
//! Each prints one line when it is done, or `ready` when it stands.

use std::{
    fs::File,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    os::unix::net::UnixStream,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// Runs the load that the first argument names.
pub fn run(args: &[String]) -> Result<()> {
    let number = |index: usize| -> Result<u64> {
        args.get(index).context("a load lacks an argument")?.parse().context("a load's argument is no number")
    };
    match args.first().map(String::as_str) {
        Some("read-zero") => println!("{}", read_zero(number(1)?)?),
        Some("read-zero-when-told") => {
            std::io::stdin().read_line(&mut String::new())?;
            println!("{}", read_zero(number(1)?)?);
        }
        Some("getppid") => println!("{}", getppid(number(1)?)?),
        Some("ping-pong") => println!("{}", ping_pong(number(1)?)?),
        Some("ping-pong-tcp") => println!("{}", ping_pong_tcp(number(1)?)?),
        Some("blocked") => blocked(number(1)? as usize)?,
        other => bail!("there is no load {}", other.unwrap_or("without a name")),
    }
    Ok(())
}

/// Nanoseconds of one `read` of one byte of /dev/zero.
fn read_zero(rounds: u64) -> Result<f64> {
    let mut zero = File::open("/dev/zero")?;
    let mut byte = [0u8; 1];
    least(rounds, || Ok(zero.read_exact(&mut byte)?))
}

/// Nanoseconds of one of the cheapest system calls.
fn getppid(rounds: u64) -> Result<f64> {
    least(rounds, || {
        // SAFETY: getppid has no arguments and cannot fail.
        unsafe { libc::syscall(libc::SYS_getppid) };
        Ok(())
    })
}

/// Nanoseconds of one `act`: the best of fifty stretches, so that whatever else runs on the machine does not count.
fn least(rounds: u64, mut act: impl FnMut() -> Result<()>) -> Result<f64> {
    let stretch = (rounds / 50).max(1);
    let mut least = f64::MAX;
    for _ in 0..50 {
        let begun = Instant::now();
        for _ in 0..stretch {
            act()?;
        }
        least = least.min(begun.elapsed().as_nanos() as f64 / stretch as f64);
    }
    Ok(least)
}

/// Nanoseconds of one exchange of a byte between two threads on one CPU: two context switches.
fn ping_pong(rounds: u64) -> Result<f64> {
    let (near, far) = UnixStream::pair()?;
    exchange(rounds, near, far)
}

/// The same over loopback TCP.
fn ping_pong_tcp(rounds: u64) -> Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    exchange(rounds, near, far)
}

fn exchange<S: Read + Write + Send + 'static>(rounds: u64, mut near: S, mut far: S) -> Result<f64> {
    pin_to_first_cpu()?;
    let echo = thread::spawn(move || {
        let mut byte = [0u8; 1];
        while far.read_exact(&mut byte).is_ok() && far.write_all(&byte).is_ok() {}
    });
    let mut byte = [1u8; 1];
    let each = least(rounds, || {
        near.write_all(&byte)?;
        Ok(near.read_exact(&mut byte)?)
    })?;
    drop(near);
    let _ = echo.join();
    Ok(each)
}

fn pin_to_first_cpu() -> Result<()> {
    // SAFETY: a zeroed set is empty, CPU_SET stays within it, and the kernel only reads it.
    let pinned = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(0, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if pinned != 0 {
        return Err(std::io::Error::last_os_error()).context("cannot pin the load to a CPU");
    }
    Ok(())
}

/// Threads that read from pipes nobody writes to, until standard input ends.
fn blocked(threads: usize) -> Result<()> {
    /// Pipes the threads share.
    const PIPES: usize = 16;
    let pipes: Vec<(OwnedFd, OwnedFd)> = (0..PIPES.min(threads)).map(|_| pipe()).collect::<Result<_>>()?;
    for i in 0..threads {
        let fd = pipes[i % pipes.len()].0.as_raw_fd();
        thread::Builder::new()
            .stack_size(32 * 1024)
            .spawn(move || {
                let mut byte = 0u8;
                // SAFETY: one byte of this thread's own stack; the pipes outlive the process's threads.
                unsafe { libc::read(fd, (&raw mut byte).cast(), 1) };
            })
            .with_context(|| format!("cannot start thread {i}"))?;
    }
    thread::sleep(Duration::from_millis(300));
    println!("ready");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    std::process::exit(0);
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: the kernel fills two fds, which are then owned here alone.
    unsafe {
        if libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) != 0 {
            return Err(std::io::Error::last_os_error()).context("cannot make a pipe");
        }
        Ok((OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])))
    }
}
