//! A small file system in memory. Names that begin with `fail-` answer the failure they name;
//! reading a file called `stuck` waits until the attribute `user.release` is removed. Setting the attribute
//! `user.behind` of any file to a name changes what that name of the root holds, and renames `old`
//! to `new`, behind the kernel's back, as another mount would, and then notifies the kernel. Unlinking
//! `stuck` never ends, and has the kernel forget the name meanwhile.

use cfs_exec::Event;
use cfs_fuse::{Caching, FileSystem, Notifier, Opened};
use cfs_types::{FsError, InodeId, Name, Nanos};
use cfs_volume::{Creation, Entry, Handle, Listed, Listing, Lookup, OpenFlags, RenameMode, WriteFlags};
use cfs_wire::{Attr, AttrChange, FallocateMode, FileKind, Identity, SeekWhence, TimeChange, Volume, XattrMode};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

struct Node {
    attr: Attr,
    bytes: Vec<u8>,
    names: BTreeMap<Name, (u64, InodeId)>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    stuck: bool,
}

/// The file system; handles are inode numbers.
pub struct Memory {
    nodes: RefCell<BTreeMap<InodeId, Node>>,
    next: Cell<u64>,
    free: Event,
    is_free: Cell<bool>,
    /// Handles released.
    pub released: Cell<usize>,
    /// Tells the kernel of changes behind its back.
    pub notifier: RefCell<Option<Notifier>>,
    /// There is a notifier now.
    pub notifies: Event,
    ttl: Duration,
}

fn number(raw: u64) -> InodeId {
    InodeId::from_raw(raw).expect("a small number")
}

fn failure(name: &Name) -> Option<FsError> {
    match name.as_bytes() {
        b"fail-space" => Some(FsError::NoSpace),
        b"fail-corrupt" => Some(FsError::Corrupt),
        b"fail-unknown" => Some(FsError::UnknownOperation),
        _ => None,
    }
}

fn new_node(ino: InodeId, kind: FileKind, mode: u16, who: &Identity) -> Node {
    let time = Nanos::from_timespec(1_700_000_000, 5);
    let nlink = if kind == FileKind::Directory { 2 } else { 1 };
    let attr = Attr {
        ino,
        kind,
        mode,
        nlink,
        uid: who.uid,
        gid: who.gid,
        rdev: 0,
        size: 0,
        blocks: 0,
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
        change: 0,
        epoch: 0,
        sequence: 0,
    };
    Node { attr, bytes: Vec::new(), names: BTreeMap::new(), xattrs: BTreeMap::new(), stuck: false }
}

impl Memory {
    /// With an empty root that anybody may write to; the kernel may believe everything for `ttl`.
    pub fn new(ttl: Duration) -> Self {
        let root = new_node(InodeId::ROOT, FileKind::Directory, 0o777, &Identity::default());
        Memory {
            nodes: RefCell::new(BTreeMap::from([(InodeId::ROOT, root)])),
            next: Cell::new(16),
            free: Event::new(),
            is_free: Cell::new(false),
            released: Cell::new(0),
            notifier: RefCell::new(None),
            notifies: Event::new(),
            ttl,
        }
    }

    fn with<T>(&self, ino: InodeId, work: impl FnOnce(&mut Node) -> Result<T, FsError>) -> Result<T, FsError> {
        work(self.nodes.borrow_mut().get_mut(&ino).ok_or(FsError::Stale)?)
    }

    fn find(&self, dir: InodeId, name: &Name) -> Result<InodeId, FsError> {
        self.with(dir, |node| node.names.get(name).map(|(_, ino)| *ino).ok_or(FsError::NotFound))
    }

    fn entry(&self, ino: InodeId) -> Result<Entry, FsError> {
        self.with(ino, |node| Ok(Entry { attr: node.attr.clone(), entry_ttl: self.ttl, attr_ttl: self.ttl }))
    }

    fn place(&self, dir: InodeId, name: &Name, ino: InodeId) -> Result<(), FsError> {
        let cookie = self.next.get();
        self.next.set(cookie + 1);
        self.with(dir, |node| {
            node.names.insert(name.clone(), (cookie, ino));
            Ok(())
        })
    }

    fn make(&self, who: &Identity, dir: InodeId, name: &Name, kind: FileKind, mode: u16) -> Result<Entry, FsError> {
        if let Some(error) = failure(name) {
            return Err(error);
        }
        if self.find(dir, name).is_ok() {
            return Err(FsError::Exists);
        }
        let ino = number(self.next.get());
        let mut node = new_node(ino, kind, mode, who);
        node.stuck = name.as_bytes() == b"stuck";
        self.nodes.borrow_mut().insert(ino, node);
        self.place(dir, name, ino)?;
        self.entry(ino)
    }

    async fn change_behind(&self, name: &[u8]) -> Result<(), FsError> {
        let name_of = |bytes: &[u8]| Name::new(bytes).ok_or(FsError::Invalid);
        let ino = self.find(InodeId::ROOT, &name_of(name)?)?;
        self.with(ino, |node| {
            node.bytes = b"changed behind".to_vec();
            resize(node, 14);
            Ok(())
        })?;
        let (old, new) = (name_of(b"old")?, name_of(b"new")?);
        self.rename(&Identity::default(), (InodeId::ROOT, &old), (InodeId::ROOT, &new), RenameMode::Replace).await?;
        // Requests are served before the notifier starts.
        while self.notifier.borrow().is_none() {
            self.notifies.wait().await;
        }
        let settled = self.notifier.borrow().as_ref().map(|notifier| {
            notifier.forget_inode(ino);
            notifier.forget_entry(InodeId::ROOT, &old);
            notifier.forget_entry(InodeId::ROOT, &new);
            notifier.settled()
        });
        settled.ok_or(FsError::Busy)?.await;
        Ok(())
    }

    fn remove(&self, dir: InodeId, name: &Name) -> Result<(), FsError> {
        let ino = self.find(dir, name)?;
        self.with(ino, |node| if node.names.is_empty() { Ok(()) } else { Err(FsError::NotEmpty) })?;
        self.with(dir, |node| node.names.remove(name).map(|_| ()).ok_or(FsError::NotFound))
    }
}

fn resize(node: &mut Node, len: usize) {
    node.bytes.resize(len, 0);
    node.attr.size = u64::try_from(len).expect("small");
    node.attr.blocks = node.attr.size.div_ceil(512);
}

/// Files end here.
const FILE_BYTES_MAX: u64 = 1 << 26;

fn index(offset: u64) -> Result<usize, FsError> {
    usize::try_from(offset).ok().filter(|_| offset <= FILE_BYTES_MAX).ok_or(FsError::FileTooLarge)
}

fn inode(handle: Handle) -> Result<InodeId, FsError> {
    InodeId::from_raw(handle.get()).ok_or(FsError::Stale)
}

impl FileSystem for Memory {
    type Data = Vec<u8>;

    async fn lookup(&self, _: &Identity, dir: InodeId, name: &Name, _: bool) -> Result<Lookup, FsError> {
        match self.find(dir, name) {
            Ok(ino) => self.entry(ino).map(Lookup::Found),
            Err(FsError::NotFound) if failure(name) == Some(FsError::Corrupt) => Err(FsError::Corrupt),
            Err(FsError::NotFound) => Ok(Lookup::Missing { ttl: self.ttl }),
            Err(error) => Err(error),
        }
    }
    async fn getattr(&self, ino: InodeId) -> Result<(Attr, Duration), FsError> {
        self.entry(ino).map(|entry| (entry.attr, self.ttl))
    }
    async fn setattr(&self, _: &Identity, ino: InodeId, change: AttrChange) -> Result<(Attr, Duration), FsError> {
        self.with(ino, |node| {
            if let Some(size) = change.size {
                resize(node, index(size)?);
            }
            node.attr.mode = change.mode.unwrap_or(node.attr.mode);
            if let Some(TimeChange::At(time)) = change.mtime {
                node.attr.mtime = time;
            }
            Ok((node.attr.clone(), self.ttl))
        })
    }
    async fn readlink(&self, ino: InodeId) -> Result<Vec<u8>, FsError> {
        self.with(ino, |node| Ok(node.bytes.clone()))
    }
    async fn symlink(&self, who: &Identity, dir: InodeId, name: &Name, to: &[u8]) -> Result<Entry, FsError> {
        let entry = self.make(who, dir, name, FileKind::Symlink, 0o777)?;
        self.with(entry.attr.ino, |node| {
            node.bytes = to.to_vec();
            Ok(())
        })?;
        Ok(entry)
    }
    async fn mknod(
        &self,
        who: &Identity,
        dir: InodeId,
        name: &Name,
        kind: FileKind,
        mode: u16,
        _rdev: u32,
    ) -> Result<Entry, FsError> {
        self.make(who, dir, name, kind, mode)
    }
    async fn mkdir(&self, who: &Identity, dir: InodeId, name: &Name, mode: u16) -> Result<Entry, FsError> {
        self.make(who, dir, name, FileKind::Directory, mode)
    }
    async fn unlink(&self, _: &Identity, dir: InodeId, name: &Name) -> Result<(), FsError> {
        if name.as_bytes() == b"stuck" {
            self.notifier.borrow().as_ref().ok_or(FsError::Busy)?.forget_entry(dir, name);
            std::future::pending::<()>().await;
        }
        self.remove(dir, name)
    }
    async fn rmdir(&self, _: &Identity, dir: InodeId, name: &Name) -> Result<(), FsError> {
        self.remove(dir, name)
    }
    async fn rename(
        &self,
        _: &Identity,
        from: (InodeId, &Name),
        to: (InodeId, &Name),
        mode: RenameMode,
    ) -> Result<(), FsError> {
        let ino = self.find(from.0, from.1)?;
        if mode == RenameMode::NoReplace && self.find(to.0, to.1).is_ok() {
            return Err(FsError::Exists);
        }
        self.with(from.0, |node| node.names.remove(from.1).ok_or(FsError::NotFound))?;
        self.place(to.0, to.1, ino)
    }
    async fn link(&self, _: &Identity, ino: InodeId, dir: InodeId, name: &Name) -> Result<Entry, FsError> {
        self.with(ino, |node| {
            node.attr.nlink += 1;
            Ok(())
        })?;
        self.place(dir, name, ino)?;
        self.entry(ino)
    }
    async fn create(
        &self,
        who: &Identity,
        dir: InodeId,
        name: &Name,
        how: &Creation,
    ) -> Result<(Entry, Opened), FsError> {
        let entry = self.make(who, dir, name, FileKind::File, how.mode)?;
        let opened = self.open(who, entry.attr.ino, how.flags).await?;
        Ok((entry, opened))
    }
    async fn open(&self, _: &Identity, ino: InodeId, flags: OpenFlags) -> Result<Opened, FsError> {
        let stuck = self.with(ino, |node| Ok(node.stuck))?;
        let caching = if flags.append || stuck { Caching::Direct } else { Caching::Keep };
        Ok(Opened { handle: Handle::new(ino.get()), caching })
    }
    async fn read(&self, handle: Handle, offset: u64, len: u32) -> Result<Vec<u8>, FsError> {
        let stuck = self.with(inode(handle)?, |node| Ok(node.stuck))?;
        while stuck && !self.is_free.get() {
            self.free.wait().await;
        }
        self.with(inode(handle)?, |node| {
            let from = index(offset)?.min(node.bytes.len());
            let to = (from + index(len.into())?).min(node.bytes.len());
            Ok(node.bytes[from..to].to_vec())
        })
    }
    async fn write(&self, handle: Handle, offset: u64, data: &[u8], flags: WriteFlags) -> Result<usize, FsError> {
        self.with(inode(handle)?, |node| {
            let from = if flags.append == Some(true) { node.bytes.len() } else { index(offset)? };
            let to = from + data.len();
            if to > node.bytes.len() {
                resize(node, to);
            }
            node.bytes[from..to].copy_from_slice(data);
            Ok(data.len())
        })
    }
    async fn flush(&self, _: Handle) -> Result<(), FsError> {
        Ok(())
    }
    fn release(&self, _: Handle) {
        self.released.set(self.released.get() + 1);
    }
    async fn fsync(&self, _: Handle) -> Result<(), FsError> {
        Ok(())
    }
    async fn fallocate(
        &self,
        _: &Identity,
        handle: Handle,
        offset: u64,
        len: u64,
        _: FallocateMode,
        _: bool,
    ) -> Result<(), FsError> {
        let end = index(offset.saturating_add(len))?;
        self.with(inode(handle)?, |node| {
            resize(node, end.max(node.bytes.len()));
            Ok(())
        })
    }
    async fn seek(&self, handle: Handle, offset: u64, whence: SeekWhence) -> Result<u64, FsError> {
        let size = self.with(inode(handle)?, |node| Ok(node.attr.size))?;
        match whence {
            _ if offset >= size => Err(FsError::NoExtent),
            SeekWhence::Data => Ok(offset),
            SeekWhence::Hole => Ok(size),
        }
    }
    async fn readdir(
        &self,
        _: &Identity,
        dir: InodeId,
        cookie: u64,
        _max: u32,
        plus: bool,
    ) -> Result<Listing, FsError> {
        let rows = self.with(dir, |node| Ok(node.names.iter().map(|(n, (c, i))| (*c, n.clone(), *i)).collect()));
        let mut rows: Vec<(u64, Name, InodeId)> = rows?;
        rows.sort();
        let mut listing = Listing { parent: dir, entries: Vec::new(), end: true };
        for (cookie, name, ino) in rows.into_iter().filter(|row| row.0 > cookie) {
            let entry = self.entry(ino)?;
            let (kind, entry) = (entry.attr.kind, plus.then_some(entry));
            listing.entries.push(Listed { cookie, name, ino, kind, entry });
        }
        Ok(listing)
    }
    async fn fsyncdir(&self, _: InodeId) -> Result<(), FsError> {
        Ok(())
    }
    async fn statfs(&self) -> Result<Volume, FsError> {
        Ok(Volume { bytes: 1 << 30, bytes_free: 1 << 29, inodes: 5, inodes_free: 95 })
    }
    async fn syncfs(&self) -> Result<(), FsError> {
        Ok(())
    }
    async fn setxattr(
        &self,
        _: &Identity,
        ino: InodeId,
        name: &[u8],
        value: &[u8],
        _: XattrMode,
    ) -> Result<(), FsError> {
        if name == b"user.behind" {
            return self.change_behind(value).await;
        }
        self.with(ino, |node| {
            node.xattrs.insert(name.to_vec(), value.to_vec());
            Ok(())
        })
    }
    async fn getxattr(&self, ino: InodeId, name: &[u8]) -> Result<Vec<u8>, FsError> {
        self.with(ino, |node| node.xattrs.get(name).cloned().ok_or(FsError::NoAttribute))
    }
    async fn listxattr(&self, ino: InodeId) -> Result<Vec<u8>, FsError> {
        self.with(ino, |node| Ok(node.xattrs.keys().flat_map(|k| [k, &b"\0"[..]].concat()).collect()))
    }
    async fn removexattr(&self, _: &Identity, ino: InodeId, name: &[u8]) -> Result<(), FsError> {
        if name == b"user.release" {
            self.is_free.set(true);
            self.free.notify_all();
        }
        self.with(ino, |node| node.xattrs.remove(name).map(drop).ok_or(FsError::NoAttribute))
    }
}
