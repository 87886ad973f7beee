//! How does an agent keep its memory small, for months? glibc's allocator trades memory for speed with many threads; here few
//! threads allocate little. Other C libraries have no such settings, and need none.

/// Keeps one arena for all threads, and gives large blocks back as they are freed. Before other threads start.
pub fn keep_small() {
    #[cfg(target_env = "gnu")]
    for (setting, value) in [
        (libc::M_ARENA_MAX, 1),
        // glibc raises both to what was freed last, unless they are set.
        (libc::M_MMAP_THRESHOLD, 128 * 1024),
        (libc::M_TRIM_THRESHOLD, 128 * 1024),
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
