//! The allocator.

/// Gives memory that was freed back to the kernel.
///
/// Loading one program parses the kernel's BTF, some 30 MB for a moment, and glibc keeps what was freed for an agent
/// that may never need it again. Takes milliseconds; with another libc it does nothing.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointers and may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
