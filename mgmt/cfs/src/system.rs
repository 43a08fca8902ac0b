//! System calls that the standard library lacks.
#![allow(unsafe_code)]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;

/// From now on output goes nowhere: whoever reads it must not wait for the end of a mount, and
/// must not be able to end it by going away.
pub fn leave_output() -> io::Result<()> {
    let nowhere = OpenOptions::new().write(true).open("/dev/null")?;
    for fd in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        // SAFETY: takes no pointers; both descriptors stay open, so whoever holds their numbers
        // writes to /dev/null afterwards.
        if unsafe { libc::dup2(nowhere.as_raw_fd(), fd) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// From now on SIGINT and SIGTERM end the process at once, as a crash would: for whoever does not
/// want to wait for a clean end.
pub fn end_at_next_signal() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: SIG_DFL is a valid disposition; no handler of ours runs afterwards.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}
