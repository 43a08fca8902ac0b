//! A node: what a name leads to.

use crate::content::Content;
use cfs_types::{FsError, InodeId, Name, Nanos, SessionId};
use cfs_wire::{Attr, FileKind};
use std::collections::{BTreeMap, BTreeSet};

/// What is particular to a kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NodeBody {
    /// A regular file.
    File(Content),
    /// A directory.
    Directory {
        /// Names.
        entries: BTreeMap<Name, InodeId>,
        /// The parent; the root is its own.
        parent: InodeId,
    },
    /// A symbolic link's target.
    Symlink(Vec<u8>),
    /// Anything else, with its device number.
    Special(FileKind, u32),
}

/// An inode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Mode bits (07777).
    pub mode: u16,
    /// Links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last access.
    pub atime: Nanos,
    /// Last change of data.
    pub mtime: Nanos,
    /// Last change of the inode.
    pub ctime: Nanos,
    /// Birth.
    pub btime: Nanos,
    /// Extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Sessions that hold it open.
    pub open_by: BTreeSet<SessionId>,
    /// The rest.
    pub body: NodeBody,
}

impl Node {
    /// A new node with its first link; of a directory the parent is still the root.
    pub fn new(kind: FileKind, mode: u16, uid: u32, gid: u32, now: Nanos) -> Self {
        let body = match kind {
            FileKind::File => NodeBody::File(Content::default()),
            FileKind::Directory => NodeBody::Directory { entries: BTreeMap::new(), parent: InodeId::ROOT },
            FileKind::Symlink => NodeBody::Symlink(Vec::new()),
            kind => NodeBody::Special(kind, 0),
        };
        Node {
            mode: mode & 0o7777,
            nlink: if kind == FileKind::Directory { 2 } else { 1 },
            uid,
            gid,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            xattrs: BTreeMap::new(),
            open_by: BTreeSet::new(),
            body,
        }
    }

    /// Its kind.
    pub fn kind(&self) -> FileKind {
        match &self.body {
            NodeBody::File(_) => FileKind::File,
            NodeBody::Directory { .. } => FileKind::Directory,
            NodeBody::Symlink(_) => FileKind::Symlink,
            NodeBody::Special(kind, _) => *kind,
        }
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind() == FileKind::Directory
    }

    /// A file's content.
    pub fn file(&self) -> Result<&Content, FsError> {
        match &self.body {
            NodeBody::File(content) => Ok(content),
            NodeBody::Directory { .. } => Err(FsError::IsDirectory),
            _ => Err(FsError::Invalid),
        }
    }

    /// A file's content.
    pub fn file_mut(&mut self) -> Result<&mut Content, FsError> {
        match &mut self.body {
            NodeBody::File(content) => Ok(content),
            NodeBody::Directory { .. } => Err(FsError::IsDirectory),
            _ => Err(FsError::Invalid),
        }
    }

    /// A directory's entries and parent.
    pub fn directory(&self) -> Result<(&BTreeMap<Name, InodeId>, InodeId), FsError> {
        match &self.body {
            NodeBody::Directory { entries, parent } => Ok((entries, *parent)),
            _ => Err(FsError::NotDirectory),
        }
    }

    pub(crate) fn changed(&mut self, now: Nanos) {
        self.ctime = now;
    }

    pub(crate) fn modified(&mut self, now: Nanos) {
        self.mtime = now;
        self.ctime = now;
    }

    pub(crate) fn drop_capability(&mut self) {
        self.xattrs.remove(&b"security.capability"[..]);
    }

    pub(crate) fn kill_privileges(&mut self) {
        if !self.is_dir() {
            let group_executes = self.mode & 0o010 != 0;
            self.mode &= if group_executes { !0o6000 } else { !0o4000 };
        }
    }

    /// As `stat` shows it. Of a directory the size is the number of entries; `blocks`, `change`,
    /// `epoch` and `sequence` are the product's own affair.
    pub fn attr(&self, ino: InodeId) -> Attr {
        let bytes = |len: usize| u64::try_from(len).expect("64 bits");
        let (size, rdev) = match &self.body {
            NodeBody::File(content) => (content.size(), 0),
            NodeBody::Directory { entries, .. } => (bytes(entries.len()), 0),
            NodeBody::Symlink(target) => (bytes(target.len()), 0),
            NodeBody::Special(_, rdev) => (0, *rdev),
        };
        Attr {
            ino,
            kind: self.kind(),
            mode: self.mode,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            rdev,
            size,
            blocks: 0,
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            btime: self.btime,
            change: 0,
            epoch: 0,
            sequence: 0,
        }
    }
}
