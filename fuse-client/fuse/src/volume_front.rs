//! CoreFS's volume as the file system that is served.
//!
//! Invariant: pages of an earlier open are kept only if the file's change counter has not moved
//! since; within an open file the kernel asks for attributes whenever their lease is over and drops
//! its pages if size or time of change moved (AUTO_INVAL_DATA).

use crate::file_system::{Caching, FileSystem, Opened};
use crate::notifier::Notifier;
use cfs_types::{FsError, InodeId, Name};
use cfs_volume::{
    Creation, Entry, Handle, KernelCache, Listing, Lookup, OpenFlags, PRIVILEGE_BITS, Parts, RenameMode, Volume,
    WriteFlags,
};
use cfs_wire::{Attr, AttrChange, FallocateMode, FileKind, Identity, SeekWhence, XattrMode};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

/// Files whose change counter is remembered; beyond, one open of each forgets its pages.
const FILES_REMEMBERED_MAX: usize = 1 << 16;

/// A volume behind a mount.
pub struct VolumeFront {
    volume: Rc<Volume>,
    /// Change counters as of the last open.
    changes: RefCell<BTreeMap<InodeId, u64>>,
    /// Directories removed or replaced through this mount, the latest last: a process that still works in one
    /// finds it empty and unlinked, and can leave it.
    removed: RefCell<VecDeque<Attr>>,
}

/// Removed directories remembered; a process in an older one is told that its handle is stale.
const REMOVED_MAX: usize = 1024;

/// A name that is there when it is to be made, and gone when it is to be opened, is made again so
/// many times.
const CREATES_MAX: u32 = 16;
/// Permission bits of a file's owner.
const OWNER_READS: u16 = 0o400;
const OWNER_WRITES: u16 = 0o200;

type Done<T> = Result<T, FsError>;

impl VolumeFront {
    /// Serves `volume`.
    pub fn new(volume: Rc<Volume>) -> Self {
        VolumeFront { volume, changes: RefCell::default(), removed: RefCell::default() }
    }

    fn remember_removed(&self, attr: Attr) {
        let mut removed = self.removed.borrow_mut();
        if removed.len() >= REMOVED_MAX {
            removed.pop_front();
        }
        removed.push_back(Attr { nlink: 0, ..attr });
    }

    fn removed(&self, ino: InodeId) -> Option<Attr> {
        self.removed.borrow().iter().find(|attr| attr.ino == ino).cloned()
    }

    /// Opens the file that somebody else made while the kernel asked to create it; None where it is
    /// gone again. `Stale` where its permissions are to be looked at, which is the kernel's work: it
    /// then looks the name up and opens what it finds.
    async fn open_found(
        &self,
        who: &Identity,
        dir: InodeId,
        name: &Name,
        how: &Creation,
    ) -> Done<Option<(Entry, Handle)>> {
        let Lookup::Found(entry) = self.volume.lookup_to_open(who, dir, name).await? else { return Ok(None) };
        let mut attr = entry.attr;
        let ino = attr.ino;
        if !is_open_to_owner(who, &attr, how) {
            return Err(FsError::Stale);
        }
        let handle = match self.volume.open(who, ino, how.flags).await {
            Ok(handle) => handle,
            Err(error) if is_gone(error) => return Ok(None),
            Err(error) => return Err(error),
        };
        if how.truncate {
            let change = AttrChange { size: Some(0), ..AttrChange::default() };
            match self.volume.setattr(who, ino, change).await {
                Ok((changed, _)) => attr = changed,
                Err(error) => {
                    self.volume.release(handle);
                    return Err(error);
                }
            }
        }
        Ok(Some((self.volume.entry_now(dir, name, attr), handle)))
    }

    fn caching(&self, attr: &Attr, flags: OpenFlags) -> Caching {
        if flags.append {
            // The server gives the offset, which the page cache would have to know before.
            return Caching::Direct;
        }
        let mut changes = self.changes.borrow_mut();
        if changes.get(&attr.ino) == Some(&attr.change) {
            return Caching::Keep;
        }
        if changes.len() >= FILES_REMEMBERED_MAX {
            changes.clear();
        }
        changes.insert(attr.ino, attr.change);
        Caching::Fresh
    }
}

/// Whether the kernel would certainly let its owner open a file so: the plain case, in which neither
/// groups nor capabilities nor privileges that end with the content have a say.
fn is_open_to_owner(who: &Identity, attr: &Attr, how: &Creation) -> bool {
    let writes = how.flags.write || how.truncate;
    let needed = if writes { OWNER_READS | OWNER_WRITES } else { OWNER_READS };
    let plain = attr.kind == FileKind::File && (!how.truncate || attr.mode & PRIVILEGE_BITS == 0);
    plain && attr.uid == who.uid && attr.mode & needed == needed
}

fn is_gone(error: FsError) -> bool {
    matches!(error, FsError::Stale | FsError::NotFound)
}

impl FileSystem for VolumeFront {
    type Data = Parts;

    async fn lookup(&self, who: &Identity, dir: InodeId, name: &Name, again: bool) -> Done<Lookup> {
        if again {
            return self.volume.lookup_to_open(who, dir, name).await;
        }
        self.volume.lookup(who, dir, name).await
    }
    async fn getattr(&self, ino: InodeId) -> Done<(Attr, Duration)> {
        match self.volume.getattr(ino).await {
            Err(error) if is_gone(error) => self.removed(ino).map(|attr| (attr, Duration::ZERO)).ok_or(error),
            answer => answer,
        }
    }
    async fn setattr(&self, who: &Identity, ino: InodeId, change: AttrChange) -> Done<(Attr, Duration)> {
        self.volume.setattr(who, ino, change).await
    }
    async fn readlink(&self, ino: InodeId) -> Done<Vec<u8>> {
        self.volume.readlink(ino).await
    }
    async fn symlink(&self, who: &Identity, dir: InodeId, name: &Name, target: &[u8]) -> Done<Entry> {
        self.volume.symlink(who, dir, name, target).await
    }
    async fn mknod(
        &self,
        who: &Identity,
        dir: InodeId,
        name: &Name,
        kind: FileKind,
        mode: u16,
        rdev: u32,
    ) -> Done<Entry> {
        self.volume.mknod(who, dir, name, kind, mode, rdev).await
    }
    async fn mkdir(&self, who: &Identity, dir: InodeId, name: &Name, mode: u16) -> Done<Entry> {
        self.volume.mkdir(who, dir, name, mode).await
    }
    async fn unlink(&self, who: &Identity, dir: InodeId, name: &Name) -> Done<()> {
        self.volume.unlink(who, dir, name).await
    }
    async fn rmdir(&self, who: &Identity, dir: InodeId, name: &Name) -> Done<()> {
        let target = self.volume.lookup(who, dir, name).await;
        self.volume.rmdir(who, dir, name).await?;
        if let Ok(Lookup::Found(entry)) = target {
            self.remember_removed(entry.attr);
        }
        Ok(())
    }
    async fn rename(&self, who: &Identity, from: (InodeId, &Name), to: (InodeId, &Name), mode: RenameMode) -> Done<()> {
        let replaced = match mode {
            RenameMode::Replace if self.volume.is_directory(from.0, from.1) => {
                self.volume.lookup(who, to.0, to.1).await.ok()
            }
            _ => None,
        };
        self.volume.rename(who, from, to, mode).await?;
        if let Some(Lookup::Found(entry)) = replaced {
            self.remember_removed(entry.attr);
        }
        Ok(())
    }
    async fn link(&self, who: &Identity, ino: InodeId, dir: InodeId, name: &Name) -> Done<Entry> {
        self.volume.link(who, ino, dir, name).await
    }
    async fn create(&self, who: &Identity, dir: InodeId, name: &Name, how: &Creation) -> Done<(Entry, Opened)> {
        for _ in 0..CREATES_MAX {
            let made = self.volume.create(who, dir, name, &Creation { exclusive: true, ..*how }).await;
            let (entry, handle) = match made {
                Err(FsError::Exists) if !how.exclusive => match self.open_found(who, dir, name, how).await? {
                    Some(opened) => opened,
                    None => continue,
                },
                made => made?,
            };
            let caching = self.caching(&entry.attr, how.flags);
            return Ok((entry, Opened { handle, caching }));
        }
        Err(FsError::Stale)
    }
    async fn open(&self, who: &Identity, ino: InodeId, flags: OpenFlags) -> Done<Opened> {
        let handle = self.volume.open(who, ino, flags).await?;
        match self.volume.getattr(ino).await {
            Ok((attr, _)) => Ok(Opened { handle, caching: self.caching(&attr, flags) }),
            Err(error) => {
                self.volume.release(handle);
                Err(error)
            }
        }
    }
    async fn read(&self, handle: Handle, offset: u64, len: u32) -> Done<Parts> {
        self.volume.read_parts(handle, offset, len).await
    }
    async fn write(&self, handle: Handle, offset: u64, data: &[u8], flags: WriteFlags) -> Done<usize> {
        self.volume.write(handle, offset, data, flags).await
    }
    async fn flush(&self, handle: Handle) -> Done<()> {
        self.volume.flush(handle).await
    }
    fn release(&self, handle: Handle) {
        self.volume.release(handle);
    }
    async fn fsync(&self, handle: Handle) -> Done<()> {
        self.volume.fsync(handle).await
    }
    async fn fallocate(
        &self,
        who: &Identity,
        handle: Handle,
        offset: u64,
        len: u64,
        mode: FallocateMode,
        keep_size: bool,
    ) -> Done<()> {
        self.volume.fallocate(who, handle, offset, len, mode, keep_size).await
    }
    async fn seek(&self, handle: Handle, offset: u64, whence: SeekWhence) -> Done<u64> {
        self.volume.seek(handle, offset, whence).await
    }
    async fn readdir(&self, who: &Identity, dir: InodeId, cookie: u64, bytes_max: u32, plus: bool) -> Done<Listing> {
        match self.volume.readdir(who, dir, cookie, bytes_max, plus).await {
            Err(error) if is_gone(error) && self.removed(dir).is_some() => {
                Ok(Listing { parent: dir, entries: Vec::new(), end: true })
            }
            answer => answer,
        }
    }
    /// Every reply of the server about names is durable: nothing is left to do. The root stands for the mount:
    /// all that is held back is delivered, which the kernel passes no syncfs for, nor asks for when it unmounts.
    async fn fsyncdir(&self, dir: InodeId) -> Done<()> {
        if dir == InodeId::ROOT { self.volume.syncfs().await } else { Ok(()) }
    }
    async fn statfs(&self) -> Done<cfs_wire::Volume> {
        self.volume.statfs().await
    }
    async fn syncfs(&self) -> Done<()> {
        self.volume.syncfs().await
    }
    async fn setxattr(&self, who: &Identity, ino: InodeId, name: &[u8], value: &[u8], mode: XattrMode) -> Done<()> {
        self.volume.setxattr(who, ino, name, value, mode).await
    }
    async fn getxattr(&self, ino: InodeId, name: &[u8]) -> Done<Vec<u8>> {
        self.volume.getxattr(ino, name).await
    }
    async fn listxattr(&self, ino: InodeId) -> Done<Vec<u8>> {
        self.volume.listxattr(ino).await
    }
    async fn removexattr(&self, who: &Identity, ino: InodeId, name: &[u8]) -> Done<()> {
        self.volume.removexattr(who, ino, name).await
    }
}

impl KernelCache for Notifier {
    fn forget_inode(&self, ino: InodeId) {
        Notifier::forget_inode(self, ino);
    }
    fn forget_pages(&self, ino: InodeId, offset: u64, bytes: u64) {
        Notifier::forget_pages(self, ino, offset, bytes);
    }
    fn forget_entry(&self, dir: InodeId, name: &Name) {
        Notifier::forget_entry(self, dir, name);
    }
    fn settled(&self) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(Notifier::settled(self))
    }
    fn waits_for_lock(&self) -> bool {
        Notifier::waits_for_lock(self)
    }
    fn distrust(&self, inodes: &[InodeId]) {
        Notifier::distrust(self, inodes);
    }
}
