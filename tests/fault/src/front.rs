//! The disk as a file: a directory with one name in it, which is read, written and flushed, and nothing else.

use crate::medium::{Medium, Refused};
use cfs_fuse::{Caching, FileSystem, Opened};
use cfs_types::{FsError, InodeId, Name, Nanos};
use cfs_volume::{Creation, Entry, Handle, Listed, Listing, Lookup, OpenFlags, RenameMode, WriteFlags};
use cfs_wire::{Attr, AttrChange, FallocateMode, FileKind, Identity, SeekWhence, Volume, XattrMode};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The one name.
pub const FILE: &str = "disk";
const FILE_NUMBER: u64 = 16;
/// Nothing here changes but the content, which the kernel does not keep.
const FOREVER: Duration = Duration::from_secs(3600);

type Done<T> = Result<T, FsError>;

/// The file system; the medium is shared with whoever commands it.
pub struct Front {
    medium: Arc<Mutex<Medium>>,
    name: Name,
    file: InodeId,
}

impl Front {
    /// Serves `medium`.
    pub fn new(medium: Arc<Mutex<Medium>>) -> Self {
        let name = Name::new(FILE.as_bytes()).expect("a short name");
        Front { medium, name, file: InodeId::from_raw(FILE_NUMBER).expect("a small number") }
    }

    fn medium(&self) -> MutexGuard<'_, Medium> {
        self.medium.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attr(&self, ino: InodeId) -> Done<Attr> {
        let (kind, mode, nlink, size) = match ino {
            InodeId::ROOT => (FileKind::Directory, 0o755, 2, 0),
            ino if ino == self.file => (FileKind::File, 0o600, 1, self.medium().bytes()),
            _ => return Err(FsError::Stale),
        };
        let time = Nanos::from_timespec(0, 0);
        let (uid, gid, rdev, blocks) = (0, 0, 0, size.div_ceil(512));
        let (atime, mtime, ctime, btime) = (time, time, time, time);
        let (change, epoch, sequence) = (0, 0, 0);
        Ok(Attr {
            ino,
            kind,
            mode,
            nlink,
            uid,
            gid,
            rdev,
            size,
            blocks,
            atime,
            mtime,
            ctime,
            btime,
            change,
            epoch,
            sequence,
        })
    }
}

/// What the program is told of any of them is the same.
fn told(refused: Refused) -> FsError {
    match refused {
        Refused::Dark | Refused::Told => FsError::Device,
        Refused::Misplaced => FsError::Invalid,
        Refused::Backing(_) => {
            eprintln!("cfs-volatile-disk: {refused}");
            FsError::Device
        }
    }
}

impl FileSystem for Front {
    type Data = Vec<u8>;

    async fn lookup(&self, _: &Identity, dir: InodeId, name: &Name, _: bool) -> Done<Lookup> {
        if dir != InodeId::ROOT || *name != self.name {
            return Ok(Lookup::Missing { ttl: FOREVER });
        }
        Ok(Lookup::Found(Entry { attr: self.attr(self.file)?, entry_ttl: FOREVER, attr_ttl: FOREVER }))
    }
    async fn getattr(&self, ino: InodeId) -> Done<(Attr, Duration)> {
        Ok((self.attr(ino)?, FOREVER))
    }
    async fn setattr(&self, _: &Identity, ino: InodeId, _: AttrChange) -> Done<(Attr, Duration)> {
        Ok((self.attr(ino)?, FOREVER))
    }
    async fn readlink(&self, _: InodeId) -> Done<Vec<u8>> {
        Err(FsError::Invalid)
    }
    async fn symlink(&self, _: &Identity, _: InodeId, _: &Name, _: &[u8]) -> Done<Entry> {
        Err(FsError::NotSupported)
    }
    async fn mknod(&self, _: &Identity, _: InodeId, _: &Name, _: FileKind, _: u16, _: u32) -> Done<Entry> {
        Err(FsError::NotSupported)
    }
    async fn mkdir(&self, _: &Identity, _: InodeId, _: &Name, _: u16) -> Done<Entry> {
        Err(FsError::NotSupported)
    }
    async fn unlink(&self, _: &Identity, _: InodeId, _: &Name) -> Done<()> {
        Err(FsError::NotSupported)
    }
    async fn rmdir(&self, _: &Identity, _: InodeId, _: &Name) -> Done<()> {
        Err(FsError::NotSupported)
    }
    async fn rename(&self, _: &Identity, _: (InodeId, &Name), _: (InodeId, &Name), _: RenameMode) -> Done<()> {
        Err(FsError::NotSupported)
    }
    async fn link(&self, _: &Identity, _: InodeId, _: InodeId, _: &Name) -> Done<Entry> {
        Err(FsError::NotSupported)
    }
    async fn create(&self, _: &Identity, _: InodeId, _: &Name, _: &Creation) -> Done<(Entry, Opened)> {
        Err(FsError::NotSupported)
    }
    async fn open(&self, _: &Identity, ino: InodeId, _: OpenFlags) -> Done<Opened> {
        if ino != self.file {
            return Err(FsError::Stale);
        }
        Ok(Opened { handle: Handle::new(FILE_NUMBER), caching: Caching::Direct })
    }
    async fn read(&self, _: Handle, offset: u64, len: u32) -> Done<Vec<u8>> {
        self.medium().read(offset, len).map_err(told)
    }
    async fn write(&self, _: Handle, offset: u64, data: &[u8], _: WriteFlags) -> Done<usize> {
        self.medium().write(offset, data).map_err(told)?;
        Ok(data.len())
    }
    async fn flush(&self, _: Handle) -> Done<()> {
        Ok(())
    }
    fn release(&self, _: Handle) {}
    async fn fsync(&self, _: Handle) -> Done<()> {
        self.medium().flush().map_err(told)
    }
    async fn fallocate(&self, _: &Identity, _: Handle, _: u64, _: u64, _: FallocateMode, _: bool) -> Done<()> {
        Err(FsError::NotSupported)
    }
    async fn seek(&self, _: Handle, _: u64, _: SeekWhence) -> Done<u64> {
        Err(FsError::NotSupported)
    }
    async fn readdir(&self, _: &Identity, _: InodeId, cookie: u64, _: u32, plus: bool) -> Done<Listing> {
        let mut listing = Listing { parent: InodeId::ROOT, entries: Vec::new(), end: true };
        if cookie < FILE_NUMBER {
            let attr = self.attr(self.file)?;
            let (name, ino, kind) = (self.name.clone(), self.file, attr.kind);
            let entry = plus.then_some(Entry { attr, entry_ttl: FOREVER, attr_ttl: FOREVER });
            listing.entries.push(Listed { cookie: FILE_NUMBER, name, ino, kind, entry });
        }
        Ok(listing)
    }
    async fn fsyncdir(&self, _: InodeId) -> Done<()> {
        Ok(())
    }
    async fn statfs(&self) -> Done<Volume> {
        Ok(Volume { bytes: self.medium().bytes(), bytes_free: 0, inodes: 1, inodes_free: 0 })
    }
    async fn syncfs(&self) -> Done<()> {
        self.medium().flush().map_err(told)
    }
    async fn setxattr(&self, _: &Identity, _: InodeId, _: &[u8], _: &[u8], _: XattrMode) -> Done<()> {
        Err(FsError::NotSupported)
    }
    async fn getxattr(&self, _: InodeId, _: &[u8]) -> Done<Vec<u8>> {
        Err(FsError::NoAttribute)
    }
    async fn listxattr(&self, _: InodeId) -> Done<Vec<u8>> {
        Ok(Vec::new())
    }
    async fn removexattr(&self, _: &Identity, _: InodeId, _: &[u8]) -> Done<()> {
        Err(FsError::NoAttribute)
    }
}
