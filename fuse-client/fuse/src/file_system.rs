//! What a front needs of a file system; [`crate::VolumeFront`] is CoreFS's.
//!
//! A trait, so that mount, transport and dispatch are proven against the real kernel with a file
//! system of a few lines.

use cfs_types::{FsError, InodeId, Name};
use cfs_volume::{Creation, Entry, Handle, Listing, Lookup, OpenFlags, Parts, RenameMode, WriteFlags};
use cfs_wire::{Attr, AttrChange, FallocateMode, FileKind, Identity, SeekWhence, XattrMode};
use std::future::Future;
use std::time::Duration;

/// What the kernel's page cache may hold of an open file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Caching {
    /// Pages of earlier opens are still valid: the lease covers them.
    Keep,
    /// Pages may be cached from now on.
    Fresh,
    /// Nothing: every read and write comes here (appends, whose offset the server gives).
    Direct,
}

/// An open file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// Names it in later requests.
    pub handle: Handle,
    /// See [`Caching`].
    pub caching: Caching,
}

/// Bytes of a read, in parts that lie where they lay.
pub trait Data {
    /// The parts, in order.
    fn slices(&self) -> impl Iterator<Item = &[u8]>;
}

impl Data for Parts {
    fn slices(&self) -> impl Iterator<Item = &[u8]> {
        Parts::slices(self)
    }
}

impl Data for Vec<u8> {
    fn slices(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(&self[..])
    }
}

type Done<T> = Result<T, FsError>;

/// Operations of a file system. Each future runs as a task of its own on the executor that serves
/// the session and is dropped only when the session is torn down.
pub trait FileSystem: 'static {
    /// Bytes of a read.
    type Data: Data;

    /// `again`: the thread came too late for what it had found before; what it finds now it must be
    /// able to open.
    fn lookup(&self, who: &Identity, dir: InodeId, name: &Name, again: bool) -> impl Future<Output = Done<Lookup>>;
    fn getattr(&self, ino: InodeId) -> impl Future<Output = Done<(Attr, Duration)>>;
    fn setattr(&self, who: &Identity, ino: InodeId, change: AttrChange)
    -> impl Future<Output = Done<(Attr, Duration)>>;
    fn readlink(&self, ino: InodeId) -> impl Future<Output = Done<Vec<u8>>>;
    fn symlink(&self, who: &Identity, dir: InodeId, name: &Name, target: &[u8]) -> impl Future<Output = Done<Entry>>;
    fn mknod(
        &self,
        who: &Identity,
        dir: InodeId,
        name: &Name,
        kind: FileKind,
        mode: u16,
        rdev: u32,
    ) -> impl Future<Output = Done<Entry>>;
    fn mkdir(&self, who: &Identity, dir: InodeId, name: &Name, mode: u16) -> impl Future<Output = Done<Entry>>;
    fn unlink(&self, who: &Identity, dir: InodeId, name: &Name) -> impl Future<Output = Done<()>>;
    fn rmdir(&self, who: &Identity, dir: InodeId, name: &Name) -> impl Future<Output = Done<()>>;
    fn rename(
        &self,
        who: &Identity,
        from: (InodeId, &Name),
        to: (InodeId, &Name),
        mode: RenameMode,
    ) -> impl Future<Output = Done<()>>;
    fn link(&self, who: &Identity, ino: InodeId, dir: InodeId, name: &Name) -> impl Future<Output = Done<Entry>>;
    fn create(
        &self,
        who: &Identity,
        dir: InodeId,
        name: &Name,
        how: &Creation,
    ) -> impl Future<Output = Done<(Entry, Opened)>>;
    fn open(&self, who: &Identity, ino: InodeId, flags: OpenFlags) -> impl Future<Output = Done<Opened>>;
    /// Fewer bytes than asked for only at the end of the file.
    fn read(&self, handle: Handle, offset: u64, len: u32) -> impl Future<Output = Done<Self::Data>>;
    /// The bytes written: fewer than given only where an error follows.
    fn write(&self, handle: Handle, offset: u64, data: &[u8], flags: WriteFlags) -> impl Future<Output = Done<usize>>;
    /// A descriptor is closed: reports errors of held-back writes.
    fn flush(&self, handle: Handle) -> impl Future<Output = Done<()>>;
    /// The last descriptor is closed.
    fn release(&self, handle: Handle);
    fn fsync(&self, handle: Handle) -> impl Future<Output = Done<()>>;
    fn fallocate(
        &self,
        who: &Identity,
        handle: Handle,
        offset: u64,
        len: u64,
        mode: FallocateMode,
        keep_size: bool,
    ) -> impl Future<Output = Done<()>>;
    fn seek(&self, handle: Handle, offset: u64, whence: SeekWhence) -> impl Future<Output = Done<u64>>;
    /// Entries after `cookie` (0: from the start) worth about `bytes_max`; empty at the end.
    fn readdir(
        &self,
        who: &Identity,
        dir: InodeId,
        cookie: u64,
        bytes_max: u32,
        plus: bool,
    ) -> impl Future<Output = Done<Listing>>;
    fn fsyncdir(&self, dir: InodeId) -> impl Future<Output = Done<()>>;
    fn statfs(&self) -> impl Future<Output = Done<cfs_wire::Volume>>;
    fn syncfs(&self) -> impl Future<Output = Done<()>>;
    fn setxattr(
        &self,
        who: &Identity,
        ino: InodeId,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> impl Future<Output = Done<()>>;
    fn getxattr(&self, ino: InodeId, name: &[u8]) -> impl Future<Output = Done<Vec<u8>>>;
    /// Names, each ended by NUL.
    fn listxattr(&self, ino: InodeId) -> impl Future<Output = Done<Vec<u8>>>;
    fn removexattr(&self, who: &Identity, ino: InodeId, name: &[u8]) -> impl Future<Output = Done<()>>;
}
