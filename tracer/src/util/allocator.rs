//! How does an agent keep its memory small, for months? glibc's allocator trades memory for speed with many threads; here few
//! threads allocate little. Other C libraries have no such settings, and need none.

/// Blocks of this size are taken from the system one by one, and so much that is free stays with the process, bytes. What a look takes
/// for a thousand waits is smaller: memory that is new to the process at each look costs it a tenth of its time.
#[cfg(target_env = "gnu")]
const LARGE_BLOCK: i32 = 1 << 20;

/// Keeps one arena for all threads, and gives large blocks back as they are freed. Before other threads start.
pub fn keep_small() {
    #[cfg(target_env = "gnu")]
    for (setting, value) in [
        (libc::M_ARENA_MAX, 1),
        // glibc raises both to what was freed last, unless they are set.
        (libc::M_MMAP_THRESHOLD, LARGE_BLOCK),
        (libc::M_TRIM_THRESHOLD, LARGE_BLOCK),
    ] {
        // SAFETY: mallopt takes numbers; one that it does not know changes nothing.
        unsafe { libc::mallopt(setting, value) };
    }
}

/// Returns free memory to the system: reading the kernel's types took megabytes that are not needed again.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim only returns free memory to the system.
    unsafe {
        libc::malloc_trim(0);
    }
}
