//! How the process's allocator behaves.

/// Keeps the memory of an idle server small. glibc gives threads up to eight arenas a core, each of which it fills
/// and hardly ever gives back; one a core, and no more than eight, serve as well. Has an effect only before
/// the threads start. Does nothing elsewhere than with glibc.
pub(crate) fn tame() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let arenas = i32::try_from(cores.clamp(2, 8)).unwrap_or(2);
        #[allow(unsafe_code)]
        // SAFETY: mallopt takes two integers and is called before any other thread exists.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, arenas);
        }
    }
}
