//! System calls that the standard library lacks.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// From now on output goes to the end of a file, or nowhere: whoever reads it must not wait for the end
/// of a mount, and must not be able to end it by going away.
pub fn leave_output(to: Option<&Path>) -> io::Result<()> {
    let nowhere =
        OpenOptions::new().append(true).create(to.is_some()).mode(0o600).open(to.unwrap_or(Path::new("/dev/null")))?;
    for fd in [libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        // SAFETY: takes no pointers; both descriptors stay open, so whoever holds their numbers
        // writes to that file afterwards.
        if unsafe { libc::dup2(nowhere.as_raw_fd(), fd) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Bytes that an ordinary user can still write to the file system of a path (statvfs(3)).
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: all zeros are a valid answer, and statvfs writes to it alone; the path is NUL-terminated and lives
    // through the call.
    let (answer, found) = unsafe {
        let mut found: libc::statvfs = std::mem::zeroed();
        (libc::statvfs(path.as_ptr(), &raw mut found), found)
    };
    if answer == 0 { Ok(found.f_bavail.saturating_mul(found.f_frsize)) } else { Err(io::Error::last_os_error()) }
}

/// What a signal asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    /// SIGINT, SIGTERM: an end.
    Stop,
    /// SIGHUP: the terminal has gone, and with it whoever reads our output.
    HungUp,
}

/// From now on SIGINT, SIGTERM and SIGHUP end nothing in this thread and those it starts, but wait in
/// the descriptor that is answered (signalfd(2)). A SIGHUP that was ignored stays ignored.
pub fn queue_of_stop_signals() -> io::Result<File> {
    let mut signals = vec![libc::SIGINT, libc::SIGTERM];
    // SAFETY: with no new action sigaction only writes the old one, which all zeros are room for.
    let hang_up = unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGHUP, std::ptr::null(), &raw mut now);
        now.sa_sigaction
    };
    if hang_up != libc::SIG_IGN {
        signals.push(libc::SIGHUP);
    }
    let set = mask(libc::SIG_BLOCK, &signals)?;
    // SAFETY: the set is valid for the read.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor and nobody else knows it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// The next signal in the queue, if there is one.
pub fn next_stop_signal(mut queue: &File) -> Option<Asked> {
    let mut entry = [0; size_of::<libc::signalfd_siginfo>()];
    queue.read_exact(&mut entry).ok()?;
    // Its first field is the number (signalfd(2)).
    let number = u32::from_ne_bytes([entry[0], entry[1], entry[2], entry[3]]);
    Some(if i64::from(number) == i64::from(libc::SIGHUP) { Asked::HungUp } else { Asked::Stop })
}

/// The queue as the management executor waits for it.
pub fn until_readable(queue: &File) -> io::Result<AsyncFd<BorrowedFd<'_>>> {
    // SAFETY: the descriptor is borrowed, so stays open and the same, for as long as the result lives.
    let registered = unsafe { AsyncFd::register_with_interest(queue.as_fd(), Interest::READABLE) };
    registered.map_err(|error| error.into_parts().1)
}

/// From now on SIGINT and SIGTERM end the process at once, as a crash would, as long as the calling
/// thread lives.
pub fn end_at_next_signal() {
    // It fails for wrong arguments only.
    let _set = mask(libc::SIG_UNBLOCK, &[libc::SIGINT, libc::SIGTERM]);
}

/// Changes this thread's signal mask; answers the set of the signals.
fn mask(how: libc::c_int, signals: &[libc::c_int]) -> io::Result<libc::sigset_t> {
    // SAFETY: all zeros are a valid set, and sigemptyset and sigaddset write to it alone.
    let set = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        set
    };
    // SAFETY: the set is valid for the read; the old one is not asked for.
    match unsafe { libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(set),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}
