//! Limits that the host sets this process (`ulimit`), and what happens at them.

use std::io;

/// Has a write beyond the largest file that this process may make (`ulimit -f`) fail as it does on
/// a full disk. As it is, the kernel ends a process that tries: the whole server, for a line of its
/// log. To be called at the start, since programs that this one starts inherit it.
pub fn outlive_large_files() {
    // SAFETY: no handler is installed; the signal is ignored. It cannot fail for this one.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Lets this process have as many descriptors as it may, and says how many.
pub fn raise_descriptors() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a structure that lives through the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } {
        0 => Ok(limit.rlim_cur),
        _ => Err(io::Error::last_os_error()),
    }
}
