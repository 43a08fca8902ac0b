//! The descriptor of /dev/fuse: reading requests, writing replies, cloning.
//!
//! Invariants: never blocks; a request is read whole or not at all; a reply goes out in one write.
#![allow(unsafe_code)]

use crate::abi::OutHeader;
use crate::capability::TRANSFER_BYTES_MAX;
use crate::errno::Errno;
use crate::request::HEAD_BYTES;
use cfs_seam::IoBuf;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use zerocopy::IntoBytes;

/// Bytes of the second buffer of a read. The kernel refuses less than a whole WRITE needs.
pub const REST_BYTES: usize = 1 << 20;
const _: () = assert!(REST_BYTES as u64 == TRANSFER_BYTES_MAX as u64);

/// Outcome of a read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    /// A request of so many bytes lies in the buffers.
    Request(usize),
    /// Nothing now: wait until the descriptor is readable.
    Nothing,
    /// A request went away while it was read; there may be more.
    Vanished,
    /// The file system is unmounted or its connection aborted.
    Ended,
}

/// An open /dev/fuse.
#[derive(Clone, Debug)]
pub struct Device(Arc<OwnedFd>);

impl Device {
    /// Opens /dev/fuse, connected to nothing yet.
    pub fn open() -> io::Result<Self> {
        let file =
            std::fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/fuse")?;
        Ok(Device(Arc::new(file.into())))
    }

    /// Takes over a descriptor from fusermount3 and makes it non-blocking.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: F_GETFL takes no pointers.
        let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
        if flags < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: F_SETFL takes no pointers.
        if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Device(Arc::new(fd)))
    }

    /// The descriptor, to wait on.
    pub fn fd(&self) -> &Arc<OwnedFd> {
        &self.0
    }

    /// Reads one request: its first bytes to `head`, the others to `rest`, so that the payload of
    /// a WRITE lies at the start of `rest`.
    pub fn receive(&self, head: &mut [u8; HEAD_BYTES], rest: &mut IoBuf) -> io::Result<Received> {
        let mut parts = [IoSliceMut::new(head), IoSliceMut::new(rest)];
        let count = libc::c_int::try_from(parts.len()).expect("two");
        // SAFETY: `IoSliceMut` has the layout of iovec; both buffers are exclusively borrowed.
        let bytes = unsafe { libc::readv(self.0.as_raw_fd(), parts.as_mut_ptr().cast(), count) };
        match usize::try_from(bytes) {
            Ok(0) => Ok(Received::Ended),
            Ok(bytes) => Ok(Received::Request(bytes)),
            Err(_) => {
                let error = io::Error::last_os_error();
                match error.raw_os_error() {
                    Some(libc::EAGAIN) => Ok(Received::Nothing),
                    Some(libc::EINTR | libc::ENOENT) => Ok(Received::Vanished),
                    Some(libc::ENODEV | libc::ECONNABORTED) => Ok(Received::Ended),
                    _ => Err(error),
                }
            }
        }
    }

    /// Answers request `unique`. False if the kernel no longer waits for it.
    pub fn reply(&self, unique: u64, result: Result<&[&[u8]], Errno>) -> bool {
        let (error, body) = match result {
            Ok(body) => (0, body),
            Err(errno) => (-errno.get(), &[][..]),
        };
        match self.send(error, unique, body) {
            Ok(()) => true,
            // A reply the kernel does not accept must not leave a process waiting for ever.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) && error == 0 => {
                self.send(-libc::EIO, unique, &[]).is_err()
            }
            Err(_) => false,
        }
    }

    /// Sends notification `code`. `NotFound` where the kernel knows no such inode or name. May
    /// wait for locks in the kernel: not on an executor, unless the code is known not to.
    pub fn notify(&self, code: i32, body: &[&[u8]]) -> io::Result<()> {
        self.send(code, 0, body)
    }

    fn send(&self, error: i32, unique: u64, body: &[&[u8]]) -> io::Result<()> {
        let bytes = size_of::<OutHeader>() + body.iter().map(|part| part.len()).sum::<usize>();
        let header = OutHeader { len: u32::try_from(bytes).map_err(io::Error::other)?, error, unique };
        let mut parts = Vec::with_capacity(1 + body.len());
        parts.push(IoSlice::new(header.as_bytes()));
        parts.extend(body.iter().filter(|part| !part.is_empty()).map(|part| IoSlice::new(part)));
        let count = libc::c_int::try_from(parts.len()).map_err(io::Error::other)?;
        // SAFETY: `IoSlice` has the layout of iovec; all parts are borrowed through the call.
        let written = unsafe { libc::writev(self.0.as_raw_fd(), parts.as_ptr().cast(), count) };
        match usize::try_from(written) {
            Ok(written) if written == bytes => Ok(()),
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            Err(_) => Err(io::Error::last_os_error()),
        }
    }
}
