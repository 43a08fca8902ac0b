//! Leaving the terminal that started us.
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
