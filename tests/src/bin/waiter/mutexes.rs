//! Which roles wait in a mutex of the C library, or in what looks like one? Two threads, each in the other's; and a barrier.

use std::cell::UnsafeCell;
use std::sync::{Barrier, mpsc};
use std::thread;

use crate::report::Report;
use crate::{Call, sys};

/// `pthread_mutex_t`, which std's own mutex is not: it waits in another kind of futex. Recursive, since musl keeps no
/// owner of others.
struct Mutex(UnsafeCell<libc::pthread_mutex_t>);

// SAFETY: the C library's mutex is made to be used by several threads at once.
unsafe impl Sync for Mutex {}

impl Mutex {
    const fn new() -> Self {
        Self(UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER))
    }

    /// Before its first use.
    fn init(&self) {
        let mut attributes = std::mem::MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
        let attributes = attributes.as_mut_ptr();
        // SAFETY: attributes are initialised first, and the mutex, which nobody uses yet, never moves.
        unsafe {
            assert_eq!(libc::pthread_mutexattr_init(attributes), 0, "pthread_mutexattr_init");
            libc::pthread_mutexattr_settype(attributes, libc::PTHREAD_MUTEX_RECURSIVE);
            assert_eq!(libc::pthread_mutex_init(self.0.get(), attributes), 0, "pthread_mutex_init");
        }
    }

    fn lock(&self) {
        // SAFETY: an initialised mutex, never moved, since it is static.
        assert_eq!(unsafe { libc::pthread_mutex_lock(self.0.get()) }, 0, "pthread_mutex_lock");
    }
}

static MUTEXES: [Mutex; 2] = [Mutex::new(), Mutex::new()];

/// Both threads' lines come as one, `threads`, when both have the one mutex and are about to ask for the other.
pub(crate) fn deadlock(call: &Call) {
    static BOTH: Barrier = Barrier::new(2);
    let (tell, told) = mpsc::channel();
    MUTEXES.iter().for_each(Mutex::init);
    for own in 0..2 {
        let (tell, role) = (tell.clone(), call.role.to_owned());
        thread::spawn(move || {
            MUTEXES[own].lock();
            BOTH.wait();
            tell.send(Report::new(&role, "futex").stamped()).expect("the main thread listens");
            MUTEXES[1 - own].lock();
            unreachable!("the other never lets go");
        });
    }
    let threads: Vec<_> = told.iter().take(2).collect();
    Report::new(call.role, "futex").with("threads", threads).print();
    sys::rest();
}

/// A barrier of the C library, not of std.
struct TwoAtATime(UnsafeCell<std::mem::MaybeUninit<libc::pthread_barrier_t>>);

// SAFETY: the C library's barrier is made to be used by several threads at once.
unsafe impl Sync for TwoAtATime {}

/// A thread at a barrier, in its second round: the first is over, and nobody else comes.
pub(crate) fn barrier(call: &Call) {
    static GATE: TwoAtATime = TwoAtATime(UnsafeCell::new(std::mem::MaybeUninit::uninit()));
    let gate = || GATE.0.get().cast::<libc::pthread_barrier_t>();
    // SAFETY: nobody uses it yet; it is static and never moves.
    let made = unsafe { libc::pthread_barrier_init(gate(), std::ptr::null(), 2) };
    assert_eq!(made, 0, "pthread_barrier_init");
    // SAFETY: it has been initialised.
    let other = thread::spawn(move || unsafe { libc::pthread_barrier_wait(GATE.0.get().cast()) });
    // SAFETY: as above.
    unsafe { libc::pthread_barrier_wait(gate()) };
    other.join().expect("the other thread passes");
    Report::new(call.role, "futex").print();
    // SAFETY: as above.
    unsafe { libc::pthread_barrier_wait(gate()) };
    unreachable!("nobody else comes");
}
