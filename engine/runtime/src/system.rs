//! The system calls the standard library lacks, each behind a safe function.
#![allow(unsafe_code)]

use cfs_seam::Instant;
use cfs_types::Nanos;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Turns a system call's answer into a result.
pub(crate) fn check(answer: libc::c_int) -> io::Result<libc::c_int> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// A blocking event counter: the ring waits for it by itself.
pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) })?;
    // SAFETY: the kernel just made this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn clock(id: libc::clockid_t) -> (i64, u32) {
    let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `at` is valid for the write.
    let answer = unsafe { libc::clock_gettime(id, &raw mut at) };
    assert_eq!(answer, 0, "the kernel has the clocks of CoreFS");
    (at.tv_sec, u32::try_from(at.tv_nsec).expect("below 1e9"))
}

/// CLOCK_BOOTTIME: never steps, runs during suspend.
pub(crate) fn boot_time() -> Instant {
    let (seconds, nanos) = clock(libc::CLOCK_BOOTTIME);
    Instant::new(u64::try_from(seconds).expect("time since boot") * 1_000_000_000 + u64::from(nanos))
}

/// CLOCK_REALTIME.
pub(crate) fn wall_time() -> Nanos {
    let (seconds, nanos) = clock(libc::CLOCK_REALTIME);
    Nanos::from_timespec(seconds, nanos)
}

/// A seed from the kernel.
pub(crate) fn random_seed() -> io::Result<[u64; 4]> {
    let mut seed = [0u64; 4];
    let bytes = std::mem::size_of_val(&seed);
    // SAFETY: `seed` is valid for `bytes` bytes; up to 256 bytes come whole or not at all.
    let answer = unsafe { libc::getrandom(seed.as_mut_ptr().cast(), bytes, 0) };
    if usize::try_from(answer).is_ok_and(|got| got == bytes) { Ok(seed) } else { Err(io::Error::last_os_error()) }
}

/// The effective user of this process.
pub(crate) fn user_id() -> u32 {
    // SAFETY: takes no pointers and always succeeds.
    unsafe { libc::geteuid() }
}

/// Takes an advisory lock on an open file without waiting for it.
pub(crate) fn flock(file: BorrowedFd<'_>, exclusive: bool) -> io::Result<()> {
    let mode = if exclusive { libc::LOCK_EX } else { libc::LOCK_SH };
    // SAFETY: takes no pointers.
    check(unsafe { libc::flock(file.as_raw_fd(), mode | libc::LOCK_NB) }).map(drop)
}

/// Allocates the first `bytes` bytes of a file.
pub(crate) fn allocate(file: BorrowedFd<'_>, bytes: u64) -> io::Result<()> {
    let bytes = libc::off_t::try_from(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    // SAFETY: takes no pointers.
    check(unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes) }).map(drop)
}

const BLKSSZGET: libc::Ioctl = 0x1268;
const BLKGETSIZE64: libc::Ioctl = 0x8008_1272;

/// Size in bytes and logical block size of a block device (linux/fs.h).
pub(crate) fn block_device_geometry(file: BorrowedFd<'_>) -> io::Result<(u64, u32)> {
    let (mut bytes, mut block) = (0u64, 0 as libc::c_int);
    // SAFETY: BLKGETSIZE64 writes one u64.
    check(unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64, &raw mut bytes) })?;
    // SAFETY: BLKSSZGET writes one int.
    check(unsafe { libc::ioctl(file.as_raw_fd(), BLKSSZGET, &raw mut block) })?;
    let block = u32::try_from(block).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    Ok((bytes, block))
}
