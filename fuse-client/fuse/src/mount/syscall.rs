//! The system calls of mounting, each behind a safe function.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
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
