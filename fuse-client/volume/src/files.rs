//! Open handles.

use cfs_types::{FsError, InodeId};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// Names an open file of one volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Handle(u64);

impl Handle {
    /// As the kernel keeps it. A number that no open gave answers `Stale`.
    pub const fn new(raw: u64) -> Self {
        Handle(raw)
    }
    /// For the kernel to keep.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenFlags {
    /// May write.
    pub write: bool,
    /// O_APPEND.
    pub append: bool,
    /// O_DIRECT: nothing is held back or read ahead.
    pub direct: bool,
    /// O_SYNC or O_DSYNC: every write is durable when it returns.
    pub sync: bool,
}

/// One handle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenFile {
    pub ino: InodeId,
    pub flags: OpenFlags,
    /// Write errors of the inode that this handle has been told of.
    pub errors_seen: u64,
    /// Where a sequential reader would go on, and how many reads in a row did.
    pub read_next: u64,
    pub read_run: u32,
}

#[derive(Default)]
pub(crate) struct Files {
    open: RefCell<BTreeMap<Handle, OpenFile>>,
    last: Cell<u64>,
}

impl Files {
    pub fn insert(&self, ino: InodeId, flags: OpenFlags, errors_seen: u64) -> Handle {
        self.last.set(self.last.get() + 1);
        let handle = Handle(self.last.get());
        let file = OpenFile { ino, flags, errors_seen, read_next: 0, read_run: 0 };
        self.open.borrow_mut().insert(handle, file);
        handle
    }

    pub fn get(&self, handle: Handle) -> Result<OpenFile, FsError> {
        self.open.borrow().get(&handle).copied().ok_or(FsError::Stale)
    }

    pub fn change(&self, handle: Handle, change: impl FnOnce(&mut OpenFile)) {
        if let Some(file) = self.open.borrow_mut().get_mut(&handle) {
            change(file);
        }
    }

    pub fn remove(&self, handle: Handle) -> Option<OpenFile> {
        self.open.borrow_mut().remove(&handle)
    }
}
