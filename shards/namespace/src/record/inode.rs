//! The inode record, version 1.

use crate::view::Value;
use cfs_types::{FsError, InodeId, Nanos, SessionId};
use cfs_wire::{Attr, FileKind};

/// Bytes of the fixed part; a symlink's target follows.
pub const INODE_BYTES: usize = 144;
/// Longest symlink target, bytes (PATH_MAX without the NUL).
pub const SYMLINK_BYTES_MAX: usize = 4095;

const VERSION: u8 = 1;
const FLAG_DYING: u32 = 1;

/// An inode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inode {
    /// Kind.
    pub kind: FileKind,
    /// Permission, setuid, setgid and sticky bits (07777).
    pub mode: u16,
    /// Links; 0 is an orphan or being reaped.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number.
    pub rdev: u32,
    /// A directory that a prepared transaction is about to remove: it takes no new entries.
    pub dying: bool,
    /// Bytes; of a directory the number of its entries.
    pub size: u64,
    /// Bytes stored (docs/decisions/0004-file-data.md): never too low.
    pub allocated: u64,
    /// Extents of range 0 from this offset on are dead and being deleted.
    pub trim_from: Option<u64>,
    /// Last access.
    pub atime: Nanos,
    /// Last change of data.
    pub mtime: Nanos,
    /// Last change of the inode.
    pub ctime: Nanos,
    /// Birth.
    pub btime: Nanos,
    /// Rises with every change.
    pub change: u64,
    /// Epoch of the file: rises when it is cut, taken from a silent session, or written by another
    /// session than before.
    pub epoch: u64,
    /// The session that changed a file's content last; 0 where the file was taken since.
    pub writer: SessionId,
    /// The epoch from which on the writer has had the file to itself: never above the present one.
    pub writer_epoch: u64,
    /// Last outbox sequence sent to the file's ranges.
    pub sequence: u64,
    /// A directory's parent; None for other kinds.
    pub parent: Option<InodeId>,
    /// Links that prepared transactions may add: they keep the inode alive.
    pub pending_links: u32,
    /// Locks that prepared transactions hold on this inode or on names in this directory.
    pub locks: u16,
    /// Project (quota).
    pub project: u32,
    /// Tenant.
    pub tenant: u32,
    /// Placement and redundancy policy.
    pub policy: u32,
    /// Bytes of the names of all extended attributes, each with its NUL.
    pub xattr_name_bytes: u32,
    /// Retained until then; 0 is not at all.
    pub retention: Nanos,
    /// A symlink's target; empty for other kinds.
    pub target: Box<[u8]>,
}

impl Inode {
    /// A new inode with one link (two for a directory).
    pub fn new(kind: FileKind, mode: u16, uid: u32, gid: u32, now: Nanos) -> Self {
        Inode {
            kind,
            mode: mode & 0o7777,
            nlink: if kind == FileKind::Directory { 2 } else { 1 },
            uid,
            gid,
            rdev: 0,
            dying: false,
            size: 0,
            allocated: 0,
            trim_from: None,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            change: 1,
            epoch: 0,
            writer: SessionId::new(0),
            writer_epoch: 0,
            sequence: 0,
            parent: None,
            pending_links: 0,
            locks: 0,
            project: 0,
            tenant: 0,
            policy: 0,
            xattr_name_bytes: 0,
            retention: Nanos::new(0),
            target: Box::default(),
        }
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }

    /// The inode changed: ctime and change counter. ctime never moves back.
    pub fn touch(&mut self, now: Nanos) {
        self.ctime = self.ctime.max(now);
        self.change += 1;
    }

    /// Content changed: mtime, ctime and change counter.
    pub fn modify(&mut self, now: Nanos) {
        self.mtime = now;
        self.touch(now);
    }

    /// Content was changed at `then` by somebody who tells it only `now`: that time counts, but none
    /// to come, and none before what the file had by then.
    pub fn modify_at(&mut self, then: Nanos, now: Nanos) {
        let then = then.min(now);
        self.modify(if self.mtime <= now { self.mtime.max(then) } else { then });
    }

    /// Content changed at `then`, which a message tells late: later changes keep their times.
    pub fn modify_late(&mut self, then: Nanos) {
        self.mtime = self.mtime.max(then);
        self.touch(then);
    }

    /// `session` changes the file's content: it takes the file unless it was the last to do so.
    pub fn written_by(&mut self, session: SessionId) {
        if self.writer != session {
            self.take(session);
        }
    }

    /// From now on nothing that others held back of the file may be written.
    pub fn take(&mut self, by: SessionId) {
        self.writer_epoch = self.epoch;
        self.epoch += 1;
        self.writer = by;
    }

    /// Whether what `session` holds back since `epoch` may be written: nobody else had the file.
    pub fn admits(&self, session: SessionId, epoch: u64) -> bool {
        epoch >= if self.writer == session { self.writer_epoch } else { self.epoch }
    }

    /// Whether [`Inode::kill_privileges`] may take something from it.
    pub fn has_privileges(&self) -> bool {
        self.mode & 0o6000 != 0
    }

    /// Clears setuid, and setgid where the group may execute (Linux: `setattr_should_drop_suidgid`).
    pub fn kill_privileges(&mut self) {
        if !self.is_dir() {
            self.mode &= !0o4000;
            if self.mode & 0o010 != 0 {
                self.mode &= !0o2000;
            }
        }
    }

    /// Attributes as clients see them.
    pub fn attr(&self, ino: InodeId) -> Attr {
        Attr {
            ino,
            kind: self.kind,
            mode: self.mode,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            rdev: self.rdev,
            size: if self.kind == FileKind::Symlink {
                u64::try_from(self.target.len()).expect("a target is short")
            } else {
                self.size
            },
            blocks: self.allocated.div_ceil(512),
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            btime: self.btime,
            change: self.change,
            epoch: self.epoch,
            sequence: self.sequence,
        }
    }

    /// The record's bytes.
    pub fn encode(&self) -> Value {
        let mut out = Vec::with_capacity(INODE_BYTES + self.target.len());
        out.extend([VERSION, kind_to_byte(self.kind)]);
        out.extend(self.mode.to_le_bytes());
        for field in [self.nlink, self.uid, self.gid, self.rdev] {
            out.extend(field.to_le_bytes());
        }
        out.extend(if self.dying { FLAG_DYING } else { 0 }.to_le_bytes());
        out.extend(self.size.to_le_bytes());
        out.extend(self.allocated.to_le_bytes());
        for time in [self.atime, self.mtime, self.ctime, self.btime] {
            out.extend(time.get().to_le_bytes());
        }
        let file = self.kind == FileKind::File;
        let parent_or_writer = if file { self.writer.get() } else { self.parent.map_or(0, InodeId::get) };
        // Saturating: what was held back through so many own truncations is refused.
        let alone = u16::try_from(self.epoch - self.writer_epoch).unwrap_or(u16::MAX);
        for field in [self.change, self.epoch, self.sequence, parent_or_writer] {
            out.extend(field.to_le_bytes());
        }
        out.extend(self.pending_links.to_le_bytes());
        out.extend(self.locks.to_le_bytes());
        out.extend(if file { alone } else { 0 }.to_le_bytes());
        for field in [self.project, self.tenant, self.policy, self.xattr_name_bytes] {
            out.extend(field.to_le_bytes());
        }
        out.extend(self.retention.get().to_le_bytes());
        out.extend(self.trim_from.map_or(0, |from| from + 1).to_le_bytes());
        out.extend_from_slice(&self.target);
        out.into()
    }

    /// Reads a record; `Corrupt` where it is not one.
    pub fn decode(bytes: &[u8]) -> Result<Self, FsError> {
        Self::parse(bytes).ok_or(FsError::Corrupt)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (fixed, target) = bytes.split_first_chunk::<INODE_BYTES>()?;
        let mut fields = Fields(fixed);
        if fields.u8()? != VERSION {
            return None;
        }
        let kind = kind_from_byte(fields.u8()?)?;
        let (mode, nlink, uid, gid, rdev) = (fields.u16()?, fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?);
        let flags = fields.u32()?;
        let (size, allocated) = (fields.u64()?, fields.u64()?);
        let (atime, mtime) = (fields.time()?, fields.time()?);
        let (ctime, btime) = (fields.time()?, fields.time()?);
        let (change, epoch, sequence) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let (parent_or_writer, file) = (fields.u64()?, kind == FileKind::File);
        let parent = if file { None } else { InodeId::from_raw(parent_or_writer) };
        let writer = SessionId::new(if file { parent_or_writer } else { 0 });
        let (pending_links, locks) = (fields.u32()?, fields.u16()?);
        let alone = fields.u16()?;
        let writer_epoch = epoch.checked_sub(u64::from(alone))?;
        let (project, tenant, policy) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let (xattr_name_bytes, retention) = (fields.u32()?, fields.time()?);
        let trim_from = fields.u64()?.checked_sub(1);
        let sound = (alone == 0 || file)
            && flags & !FLAG_DYING == 0
            && mode & !0o7777 == 0
            && target.len() <= SYMLINK_BYTES_MAX
            && target.is_empty() == (kind != FileKind::Symlink)
            && parent.is_some() == (kind == FileKind::Directory)
            && (file || parent.is_some() || parent_or_writer == 0);
        sound.then(|| Inode {
            kind,
            mode,
            nlink,
            uid,
            gid,
            rdev,
            dying: flags & FLAG_DYING != 0,
            size,
            allocated,
            trim_from,
            atime,
            mtime,
            ctime,
            btime,
            change,
            epoch,
            writer,
            writer_epoch: if file { writer_epoch } else { 0 },
            sequence,
            parent,
            pending_links,
            locks,
            project,
            tenant,
            policy,
            xattr_name_bytes,
            retention,
            target: target.into(),
        })
    }
}

/// Little-endian fields in order.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }
    fn u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_le_bytes)
    }
    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }
    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
    fn time(&mut self) -> Option<Nanos> {
        self.take().map(|bytes| Nanos::new(i64::from_le_bytes(bytes)))
    }
}

/// The stored byte of a kind: its `d_type` in Linux.
pub(super) fn kind_to_byte(kind: FileKind) -> u8 {
    match kind {
        FileKind::Fifo => 1,
        FileKind::CharDevice => 2,
        FileKind::Directory => 4,
        FileKind::BlockDevice => 6,
        FileKind::File => 8,
        FileKind::Symlink => 10,
        FileKind::Socket => 12,
    }
}

/// The kind of a stored byte.
pub(super) fn kind_from_byte(byte: u8) -> Option<FileKind> {
    Some(match byte {
        1 => FileKind::Fifo,
        2 => FileKind::CharDevice,
        4 => FileKind::Directory,
        6 => FileKind::BlockDevice,
        8 => FileKind::File,
        10 => FileKind::Symlink,
        12 => FileKind::Socket,
        _ => return None,
    })
}
