//! What a front needs of a file system; [`crate::VolumeFront`] is CoreFS's.
//!
//! A trait, so that mount, transport and dispatch are proven against the real kernel with a file
//! system of a few lines.

use crate::request::{OpenFlags, RenameMode};
use cfs_types::{FsError, InodeId, Name};
use cfs_wire::{
    Attr, AttrChange, DirEntry, FallocateMode, FileKind, Identity, SeekWhence, Volume, XattrMode,
};
use std::future::Future;
use std::time::Duration;

/// A name's inode and how long the kernel may believe it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Attributes.
    pub attr: Attr,
    /// Validity of the name.
    pub entry_ttl: Duration,
    /// Validity of the attributes.
    pub attr_ttl: Duration,
}

/// Outcome of a lookup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Lookup {
    /// The name exists.
    Found(Entry),
    /// It does not; the kernel may believe that for `ttl`.
    Missing {
        /// Validity; zero forbids caching.
        ttl: Duration,
    },
}

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
    pub fh: u64,
    /// See [`Caching`].
    pub caching: Caching,
}

/// A piece of a directory, in cookie order, without `.` and `..`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Listing {
    /// Entries.
    pub entries: Vec<DirEntry>,
    /// Validity of the names (where attributes are present).
    pub entry_ttl: Duration,
    /// Validity of the attributes.
    pub attr_ttl: Duration,
}

type Done<T> = Result<T, FsError>;

/// Operations of a file system. Each future runs as a task of its own on the executor that serves
/// the session and is dropped only when the session is torn down.
pub trait FileSystem: 'static {
    /// Bytes of a read.
    type Data: AsRef<[u8]>;

    fn lookup(&self, who: &Identity, dir: InodeId, name: &Name) -> impl Future<Output = Done<Lookup>>;
    fn getattr(&self, ino: InodeId) -> impl Future<Output = Done<(Attr, Duration)>>;
    fn setattr(
        &self,
        who: &Identity,
        ino: InodeId,
        change: AttrChange,
    ) -> impl Future<Output = Done<(Attr, Duration)>>;
    fn readlink(&self, ino: InodeId) -> impl Future<Output = Done<Vec<u8>>>;
    fn symlink(
        &self,
        who: &Identity,
        dir: InodeId,
        name: &Name,
        target: Vec<u8>,
    ) -> impl Future<Output = Done<Entry>>;
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
        mode: u16,
        flags: OpenFlags,
    ) -> impl Future<Output = Done<(Entry, Opened)>>;
    fn open(&self, who: &Identity, ino: InodeId, flags: OpenFlags) -> impl Future<Output = Done<Opened>>;
    /// Fewer bytes than asked for only at the end of the file.
    fn read(&self, fh: u64, offset: u64, len: u32) -> impl Future<Output = Done<Self::Data>>;
    /// All of `data` or an error. With `append` the server gives the offset.
    fn write(
        &self,
        fh: u64,
        offset: u64,
        data: &[u8],
        append: bool,
        kill_privileges: bool,
    ) -> impl Future<Output = Done<()>>;
    /// A descriptor is closed: reports errors of held-back writes.
    fn flush(&self, fh: u64) -> impl Future<Output = Done<()>>;
    /// The last descriptor is closed.
    fn release(&self, fh: u64) -> impl Future<Output = Done<()>>;
    fn fsync(&self, fh: u64, data_only: bool) -> impl Future<Output = Done<()>>;
    fn fallocate(
        &self,
        fh: u64,
        offset: u64,
        len: u64,
        mode: FallocateMode,
        keep_size: bool,
    ) -> impl Future<Output = Done<()>>;
    fn seek(&self, fh: u64, offset: u64, whence: SeekWhence) -> impl Future<Output = Done<u64>>;
    /// Entries after `cookie` (0: from the start) worth about `bytes_max`; empty at the end.
    fn readdir(
        &self,
        dir: InodeId,
        cookie: u64,
        bytes_max: u32,
        plus: bool,
    ) -> impl Future<Output = Done<Listing>>;
    fn fsyncdir(&self, dir: InodeId) -> impl Future<Output = Done<()>>;
    fn statfs(&self) -> impl Future<Output = Done<Volume>>;
    fn syncfs(&self) -> impl Future<Output = Done<()>>;
    fn setxattr(
        &self,
        who: &Identity,
        ino: InodeId,
        name: &[u8],
        value: Vec<u8>,
        mode: XattrMode,
    ) -> impl Future<Output = Done<()>>;
    fn getxattr(&self, ino: InodeId, name: &[u8]) -> impl Future<Output = Done<Vec<u8>>>;
    /// Names, each ended by NUL.
    fn listxattr(&self, ino: InodeId) -> impl Future<Output = Done<Vec<u8>>>;
    fn removexattr(&self, who: &Identity, ino: InodeId, name: &[u8]) -> impl Future<Output = Done<()>>;
}
