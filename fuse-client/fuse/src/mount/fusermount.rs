//! Mounting for ordinary users: fusermount3 opens the device and hands it over.
//!
//! Protocol (libfuse, util/fusermount.c): the helper finds in `_FUSE_COMMFD` a socket and sends one
//! byte over it with the descriptor beside it.
#![allow(unsafe_code)]

use super::MountError;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

const PROGRAM: &str = "fusermount3";
/// Room for one descriptor in a control message, as words so that it is aligned.
const CONTROL_WORDS: usize = 8;

/// Mounts and returns the device.
pub fn mount(path: &Path, options: &str) -> Result<OwnedFd, MountError> {
    let (ours, theirs) = UnixStream::pair().map_err(MountError::NoFusermount)?;
    let their_fd = theirs.as_raw_fd();
    let mut command = Command::new(PROGRAM);
    command.args(["-o", options, "--"]).arg(path).env("_FUSE_COMMFD", their_fd.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // SAFETY: between fork and exec only fcntl is called, which is async-signal-safe; the
    // descriptor is open in the child because `theirs` lives until the child was started.
    unsafe {
        command.pre_exec(move || match libc::fcntl(their_fd, libc::F_SETFD, 0) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    let mut child = command.spawn().map_err(MountError::NoFusermount)?;
    drop(theirs);
    let received = receive_fd(&ours);
    let mut complaint = String::new();
    if let Some(stderr) = child.stderr.as_mut() {
        stderr.read_to_string(&mut complaint).map_err(MountError::NoFusermount)?;
    }
    let status = child.wait().map_err(MountError::NoFusermount)?;
    match received {
        Ok(fd) if status.success() => Ok(fd),
        Ok(_) => Err(MountError::Fusermount(complaint.trim().to_owned())),
        Err(error) if complaint.trim().is_empty() => Err(MountError::Fusermount(error.to_string())),
        Err(_) => Err(MountError::Fusermount(complaint.trim().to_owned())),
    }
}

/// Unmounts.
pub fn unmount(path: &Path, lazily: bool) -> Result<(), MountError> {
    let mut command = Command::new(PROGRAM);
    command.args(if lazily { &["-u", "-z", "--"][..] } else { &["-u", "--"] }).arg(path);
    let done = command.stdin(Stdio::null()).output().map_err(MountError::NoFusermount)?;
    if done.status.success() {
        return Ok(());
    }
    Err(MountError::Fusermount(String::from_utf8_lossy(&done.stderr).trim().to_owned()))
}

fn receive_fd(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = 0u8;
    let mut part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let mut control = [0u64; CONTROL_WORDS];
    // SAFETY: all-zero bytes are a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    let bytes = loop {
        // SAFETY: `message` points to `part`, `byte` and `control`, which outlive the call.
        let bytes = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        let error = io::Error::last_os_error();
        if bytes >= 0 {
            break bytes;
        }
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    };
    if bytes == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended without a device"));
    }
    // SAFETY: `message` was filled in by recvmsg and `control` is alive.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    if header.is_null() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it sent no device"));
    }
    // SAFETY: not null, so it points to a whole header inside `control`.
    let (level, kind, len) = unsafe { ((*header).cmsg_level, (*header).cmsg_type, (*header).cmsg_len) };
    let fd_bytes = u32::try_from(size_of::<libc::c_int>()).expect("4");
    // SAFETY: computes a length.
    let wanted = usize::try_from(unsafe { libc::CMSG_LEN(fd_bytes) }).map_err(io::Error::other)?;
    if (level, kind, len) != (libc::SOL_SOCKET, libc::SCM_RIGHTS, wanted) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it sent something else than a device"));
    }
    // SAFETY: the message holds exactly one descriptor, checked above.
    let fd = unsafe { libc::CMSG_DATA(header).cast::<libc::c_int>().read_unaligned() };
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_byte_without_a_descriptor_is_refused() {
        let (ours, mut theirs) = UnixStream::pair().expect("sockets");
        theirs.write_all(b"x").expect("sent");
        assert_eq!(receive_fd(&ours).map_err(|e| e.kind()).err(), Some(io::ErrorKind::InvalidData));
        drop(theirs);
        assert_eq!(receive_fd(&ours).map_err(|e| e.kind()).err(), Some(io::ErrorKind::UnexpectedEof));
    }
}
