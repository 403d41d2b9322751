//! How long the receiver's threads keep a core when others wait for it.

/// Asks the kernel to give this thread short turns, and so to let it in soon when it wakes: what a
/// webhook needs takes microseconds, but PostgreSQL on the same cores works for milliseconds at a stretch.
///
/// The thread gets no more of the cores by it. Nothing is lost where this is refused: Linux knows it since 6.12, before
/// that the request has no effect. Processes and threads that this one starts do not inherit it.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no crate has these calls")]
pub fn short_turns() {
    /// The least that the kernel grants.
    const NANOSECONDS: u64 = 100_000;

    // SAFETY: all its fields are integers.
    let mut now: libc::sched_attr = unsafe { std::mem::zeroed() };
    let size = size_of_val(&now);
    // SAFETY: the kernel writes at most `size` bytes to the pointer. 0 is the calling thread.
    let known = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut now, size, 0) } == 0;
    // Whoever runs the receiver may have chosen another policy, or a lower priority: that stays. A higher one needs no
    // short turns, and those whom this thread starts would not inherit it.
    if known && now.sched_policy == libc::SCHED_OTHER.cast_unsigned() && now.sched_nice >= 0 {
        now.sched_flags |= u64::from(libc::SCHED_FLAG_RESET_ON_FORK.cast_unsigned());
        now.sched_runtime = NANOSECONDS;
        // SAFETY: the kernel reads `now.size` bytes from the pointer, as it has set them itself.
        unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const now, 0) };
    }
}

/// Other systems have no such request.
#[cfg(not(target_os = "linux"))]
pub fn short_turns() {}
