//! The system calls of mounting, each behind a safe function.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Whether this process may call mount(2), as far as its user id tells.
pub fn is_root() -> bool {
    // SAFETY: takes and writes nothing.
    unsafe { libc::geteuid() == 0 }
}

fn c_string(bytes: &[u8]) -> io::Result<CString> {
    CString::new(bytes).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// mount(2).
pub fn mount(source: &str, target: &Path, fs_type: &str, flags: libc::c_ulong, data: &str) -> io::Result<()> {
    let (source, fs_type) = (c_string(source.as_bytes())?, c_string(fs_type.as_bytes())?);
    let (target, data) = (c_string(target.as_os_str().as_bytes())?, c_string(data.as_bytes())?);
    // SAFETY: all four are NUL-terminated strings that live through the call.
    let answer =
        unsafe { libc::mount(source.as_ptr(), target.as_ptr(), fs_type.as_ptr(), flags, data.as_ptr().cast()) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// statfs(2): asks the file system itself, where the attributes that stat(2) shows may be cached
/// beyond its server's death.
pub fn ask(path: &Path) -> io::Result<()> {
    let path = c_string(path.as_os_str().as_bytes())?;
    let mut answer = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: a NUL-terminated string and room for the answer, which is not read; both live through
    // the call.
    let result = unsafe { libc::statfs(path.as_ptr(), answer.as_mut_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// umount2(2), which follows no symlink.
pub fn unmount(target: &Path, flags: libc::c_int) -> io::Result<()> {
    let target = c_string(target.as_os_str().as_bytes())?;
    // SAFETY: a NUL-terminated string that lives through the call.
    let answer = unsafe { libc::umount2(target.as_ptr(), flags | libc::UMOUNT_NOFOLLOW) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// fsopen(2), fsconfig(2), fsmount(2): a file system without options that is mounted nowhere.
pub fn detached_mount(fs_type: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: a NUL-terminated string that lives through the call.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, fs_type.as_ptr(), libc::FSOPEN_CLOEXEC) })?;
    let (create, none) = (libc::FSCONFIG_CMD_CREATE, std::ptr::null::<libc::c_char>());
    // SAFETY: the command takes neither key nor value.
    if unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), create, none, none, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: takes no pointers.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), libc::FSMOUNT_CLOEXEC, 0) })
}

/// openat(2) for writing.
pub fn open_within(dir: &OwnedFd, path: &str) -> io::Result<File> {
    let path = c_string(path.as_bytes())?;
    // SAFETY: a NUL-terminated string that lives through the call.
    let fd = unsafe { libc::openat(dir.as_raw_fd(), path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    owned(fd.into()).map(File::from)
}

fn owned(answer: libc::c_long) -> io::Result<OwnedFd> {
    match libc::c_int::try_from(answer) {
        // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
