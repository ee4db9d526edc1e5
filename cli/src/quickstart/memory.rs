//! How the process's allocator behaves.

/// Keeps the memory of an idle server small. glibc gives each thread an arena of its own, which it fills and
/// hardly ever gives back; two are enough for what threads really share here. Has an effect only before the
/// threads start. Does nothing elsewhere than with glibc.
pub(crate) fn tame() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[allow(unsafe_code)]
    // SAFETY: mallopt takes two integers and is called before any other thread exists.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}
