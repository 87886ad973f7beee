//! Which roles wait for a lock in memory whose owner is in another process, is gone, or is who waits? And who only rests on one.

use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Barrier, Condvar, Mutex, PoisonError};
use std::thread;

use crate::report::{Report, woke};
use crate::{Call, sys};

/// Locks in memory that this process's children share.
#[repr(C)]
struct Shared {
    plain: libc::pthread_mutex_t,
    inherits: libc::pthread_mutex_t,
    read_write: libc::pthread_rwlock_t,
    semaphore: libc::sem_t,
}

impl Shared {
    fn new() -> *mut Self {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new anonymous mapping, large enough and aligned for it; each lock is initialised before its first use.
        unsafe {
            let page = libc::mmap(std::ptr::null_mut(), size_of::<Self>(), rights, flags, -1, 0);
            assert!(page != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
            let shared = page.cast::<Self>();
            let mut attributes = MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
            let attributes = attributes.as_mut_ptr();
            assert_eq!(libc::pthread_mutexattr_init(attributes), 0);
            assert_eq!(libc::pthread_mutexattr_setpshared(attributes, libc::PTHREAD_PROCESS_SHARED), 0);
            assert_eq!(libc::pthread_mutex_init(&raw mut (*shared).plain, attributes), 0);
            assert_eq!(libc::pthread_mutexattr_setprotocol(attributes, libc::PTHREAD_PRIO_INHERIT), 0);
            assert_eq!(libc::pthread_mutex_init(&raw mut (*shared).inherits, attributes), 0);
            let mut attributes = MaybeUninit::<libc::pthread_rwlockattr_t>::uninit();
            let attributes = attributes.as_mut_ptr();
            assert_eq!(libc::pthread_rwlockattr_init(attributes), 0);
            assert_eq!(libc::pthread_rwlockattr_setpshared(attributes, libc::PTHREAD_PROCESS_SHARED), 0);
            assert_eq!(libc::pthread_rwlock_init(&raw mut (*shared).read_write, attributes), 0);
            assert_eq!(libc::sem_init(&raw mut (*shared).semaphore, 1, 1), 0);
            shared
        }
    }

    /// Takes one of its locks.
    fn take(shared: *mut Self, kind: &str) -> i64 {
        // SAFETY: all are initialised, and the mapping stays.
        let taken = unsafe {
            match kind {
                "mutex" => libc::pthread_mutex_lock(&raw mut (*shared).plain),
                "inherits" => libc::pthread_mutex_lock(&raw mut (*shared).inherits),
                "rwlock" => libc::pthread_rwlock_wrlock(&raw mut (*shared).read_write),
                "semaphore" => libc::sem_wait(&raw mut (*shared).semaphore),
                _ => panic!("no lock is called {kind}"),
            }
        };
        taken.into()
    }

    /// A child that takes the lock, and has it once this returns.
    fn held(shared: *mut Self, kind: &str) -> libc::pid_t {
        let (reader, writer) = sys::pipe();
        let holder = sys::peer(&[reader.as_raw_fd()], || {
            sys::must(Self::take(shared, kind), "take");
            sys::write_byte(writer.as_raw_fd());
        });
        assert_eq!(sys::read_byte(reader.as_raw_fd()), 1);
        holder
    }
}

/// For a lock that a living process has.
pub(crate) fn lock_held(call: &Call) {
    let (shared, kind) = (Shared::new(), kind(call));
    let holder = Shared::held(shared, kind);
    Report::new(call.role, "futex").with("holder", holder).print();
    woke(Shared::take(shared, kind))
}

/// For a lock whose holder was killed.
pub(crate) fn lock_left(call: &Call) {
    let (shared, kind) = (Shared::new(), kind(call));
    let holder = Shared::held(shared, kind);
    end(holder);
    Report::new(call.role, "futex").with("holder", holder).print();
    woke(Shared::take(shared, kind))
}

/// A child waits for a semaphore that a killed process had, and this one for the child.
pub(crate) fn semaphore_left(call: &Call) {
    let shared = Shared::new();
    let holder = Shared::held(shared, "semaphore");
    end(holder);
    let child = sys::peer(&[], || {
        Shared::take(shared, "semaphore");
    });
    Report::new(call.role, "wait4").with("child", child).print();
    woke(wait_for(child))
}

fn kind<'a>(call: &'a Call) -> &'a str {
    call.args.first().map_or("mutex", String::as_str)
}

fn end(child: libc::pid_t) {
    // SAFETY: kill takes numbers.
    unsafe { libc::kill(child, libc::SIGKILL) };
    wait_for(child);
}

pub(crate) fn wait_for(child: libc::pid_t) -> i64 {
    // SAFETY: no status is asked for.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) }.into()
}

/// A mutex of the C library, private to the process.
struct Private(std::cell::UnsafeCell<libc::pthread_mutex_t>);

// SAFETY: the C library's mutex is made to be used by several threads at once.
unsafe impl Sync for Private {}

static MUTEX: Private = Private(std::cell::UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER));

pub(crate) fn lock() -> i64 {
    // SAFETY: an initialised mutex, never moved, since it is static.
    unsafe { libc::pthread_mutex_lock(MUTEX.0.get()) }.into()
}

/// A child that was forked while another thread held a lock wants that, and this process waits for it.
pub(crate) fn forked_lock(call: &Call) {
    let (tell, told) = std::sync::mpsc::channel();
    thread::spawn(move || {
        lock();
        tell.send(sys::gettid()).expect("the main thread listens");
        sys::rest();
    });
    let holder = told.recv().expect("the thread reports");
    let child = sys::peer(&[], || {
        lock();
    });
    Report::new(call.role, "wait4").with("child", child).with("holder", holder).print();
    woke(wait_for(child))
}

/// A thread wants a lock that it has.
pub(crate) fn own_lock(call: &Call) {
    lock();
    Report::new(call.role, "futex").print();
    woke(lock())
}

/// Two threads, each with one of Rust's mutexes, want the other's; the first thread waits for them.
pub(crate) fn rust_deadlock(call: &Call) {
    let mutexes = Arc::new([Mutex::new(()), Mutex::new(())]);
    let both = Arc::new(Barrier::new(2));
    let threads = [0, 1].map(|own| {
        let (mutexes, both) = (Arc::clone(&mutexes), Arc::clone(&both));
        thread::spawn(move || {
            let _own = mutexes[own].lock().unwrap_or_else(PoisonError::into_inner);
            both.wait();
            drop(mutexes[1 - own].lock());
        })
    });
    Report::new(call.role, "futex").print();
    for thread in threads {
        let _ = thread.join();
    }
    unreachable!("neither lets go");
}

/// Threads that wait for work which nobody gives them, as a pool at rest does, and the first one for a word to end.
pub(crate) fn pool_at_rest(call: &Call) {
    static WORK: Mutex<usize> = Mutex::new(0);
    static COME: Condvar = Condvar::new();
    for _ in 0..3 {
        thread::spawn(|| {
            let mut work = WORK.lock().unwrap_or_else(PoisonError::into_inner);
            while *work == 0 {
                work = COME.wait(work).unwrap_or_else(PoisonError::into_inner);
            }
        });
    }
    let mut semaphore = MaybeUninit::<libc::sem_t>::uninit();
    // SAFETY: it is initialised first, and never moves.
    unsafe { assert_eq!(libc::sem_init(semaphore.as_mut_ptr(), 0, 0), 0) };
    Report::new(call.role, "futex").print();
    // SAFETY: as above.
    woke(unsafe { libc::sem_wait(semaphore.as_mut_ptr()) }.into())
}
