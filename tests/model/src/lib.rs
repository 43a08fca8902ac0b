//! A reference file system in memory: the oracle of namespace, simulator and mount tests.
//!
//! Purpose: POSIX as Linux has it, written in the plainest way and independent of the product's
//! code: one map of nodes, no shards, no transactions. `Model::apply` mirrors `wire::Op`.
//!
//! Invariants: numbers are never reused; a node lives while it has links or is held open.

mod attributes;
mod compare;
mod content;
mod names;
mod node;

pub use compare::{Correspondence, Strictness};
pub use content::Content;
pub use node::{Node, NodeBody};

use cfs_types::{FILE_BYTES_MAX, FsError, InodeId, Name, Nanos, SessionId, ShardId};
use cfs_wire::{DirEntry, EntryReply, FallocateMode, FileKind, Identity, Op, Reply, SeekWhence};
use std::collections::BTreeMap;

/// One call: an operation with its context.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// What; inodes by the model's numbers.
    pub op: Op,
    /// Bytes of a write.
    pub payload: Vec<u8>,
    /// Who.
    pub identity: Identity,
    /// Whose open files it counts among.
    pub session: SessionId,
    /// When.
    pub now: Nanos,
}

/// A reply and the bytes of a read.
pub type Answer = Result<(Reply, Vec<u8>), FsError>;

/// The file system.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Model {
    nodes: BTreeMap<InodeId, Node>,
    last: u64,
}

impl Model {
    /// An empty file system whose root directory has these attributes.
    pub fn new(mode: u16, uid: u32, gid: u32, now: Nanos) -> Self {
        let mut root = Node::new(FileKind::Directory, mode, uid, gid, now);
        root.body = NodeBody::Directory { entries: BTreeMap::new(), parent: InodeId::ROOT };
        Model { nodes: BTreeMap::from([(InodeId::ROOT, root)]), last: 1 }
    }

    /// All nodes by number.
    pub fn nodes(&self) -> impl Iterator<Item = (InodeId, &Node)> {
        self.nodes.iter().map(|(ino, node)| (*ino, node))
    }

    /// A node; `Stale` where it is gone.
    pub fn node(&self, ino: InodeId) -> Result<&Node, FsError> {
        self.nodes.get(&ino).ok_or(FsError::Stale)
    }

    fn node_mut(&mut self, ino: InodeId) -> Result<&mut Node, FsError> {
        self.nodes.get_mut(&ino).ok_or(FsError::Stale)
    }

    fn add(&mut self, node: Node) -> InodeId {
        self.last += 1;
        let ino = InodeId::new(self.last, ShardId::new(0)).expect("few nodes");
        self.nodes.insert(ino, node);
        ino
    }

    fn entry(&self, ino: InodeId) -> Result<Reply, FsError> {
        let node = self.node(ino)?;
        Ok(Reply::Entry(EntryReply { ino, kind: node.kind(), attr: Some(node.attr(ino)) }))
    }

    fn attr(&self, ino: InodeId) -> Result<Reply, FsError> {
        Ok(Reply::Attr(self.node(ino)?.attr(ino)))
    }

    /// Forgets a node that has neither links nor openers.
    fn sweep(&mut self, ino: InodeId) {
        if self.nodes.get(&ino).is_some_and(|node| node.nlink == 0 && node.open_by.is_empty()) {
            self.nodes.remove(&ino);
        }
    }

    /// A session is gone: so are its open files.
    pub fn end_session(&mut self, session: SessionId) {
        let all: Vec<InodeId> = self.nodes.keys().copied().collect();
        for ino in all {
            if let Some(node) = self.nodes.get_mut(&ino) {
                node.open_by.remove(&session);
            }
            self.sweep(ino);
        }
    }

    /// Performs a call. A failed one changes nothing.
    pub fn apply(&mut self, call: &Call) -> Answer {
        if let Op::Read { ino, offset, len, .. } = &call.op {
            let bytes = self.node(*ino)?.file()?.read(*offset, *len);
            let len = u32::try_from(bytes.len()).expect("no more than asked for");
            return Ok((Reply::Data { len }, bytes));
        }
        self.change(call).map(|reply| (reply, Vec::new()))
    }

    /// As [`Model::apply`], while a file without a name has not been let go of yet. Panics where it is gone.
    pub fn apply_before_it_goes(&mut self, ino: InodeId, call: &Call) -> Answer {
        self.node_mut(ino).expect("it is open").nlink += 1;
        let answer = self.apply(call);
        self.node_mut(ino).expect("it is open").nlink -= 1;
        answer
    }

    fn change(&mut self, call: &Call) -> Result<Reply, FsError> {
        match &call.op {
            Op::Lookup { dir, name } => self.entry(self.find(*dir, name)?),
            Op::Getattr { ino } => self.attr(*ino),
            Op::Setattr { ino, change } => self.set_attributes(&call.identity, *ino, change, call.now),
            Op::Create { dir, name, mode, exclusive, truncate } => {
                self.create(call, (*dir, name), *mode, *exclusive, *truncate)
            }
            Op::Mknod { dir, name, kind, mode, rdev } => self.make(call, (*dir, name), *kind, *mode, *rdev, &[]),
            Op::Symlink { dir, name, target } => self.make(call, (*dir, name), FileKind::Symlink, 0o777, 0, target),
            Op::Mkdir { dir, name, mode } => self.mkdir(call, (*dir, name), *mode),
            Op::Unlink { dir, name } => self.unlink((*dir, name), call.now),
            Op::Rmdir { dir, name } => self.rmdir((*dir, name), call.now),
            Op::Rename { from_dir, from, to_dir, to, no_replace, exchange } => {
                self.rename((*from_dir, from), (*to_dir, to), (*no_replace, *exchange), call.now)
            }
            Op::Link { ino, dir, name } => self.link(*ino, (*dir, name), call.now),
            Op::Readdir { dir, .. } => self.list(*dir),
            Op::Parent { dir } => self.entry(self.node(*dir)?.directory()?.1),
            Op::Open { ino, .. } => {
                self.node_mut(*ino)?.open_by.insert(call.session);
                self.attr(*ino)
            }
            Op::Close { ino } => {
                self.node_mut(*ino)?.open_by.remove(&call.session);
                self.sweep(*ino);
                Ok(Reply::Done)
            }
            Op::Write { .. } | Op::Fallocate { .. } | Op::Seek { .. } => self.data(call),
            other => self.attribute(other, call.now),
        }
    }

    /// The whole listing, in the order of names: cookies are the product's own affair.
    fn list(&self, dir: InodeId) -> Result<Reply, FsError> {
        let (entries, parent) = self.node(dir)?.directory()?;
        let entries = entries.iter().map(|(name, ino)| {
            let attr = self.node(*ino)?.attr(*ino);
            Ok(DirEntry { cookie: 0, name: name.clone(), ino: *ino, kind: attr.kind, attr: Some(attr) })
        });
        Ok(Reply::Listing { parent, entries: entries.collect::<Result<_, FsError>>()?, end: true })
    }

    fn find(&self, dir: InodeId, name: &Name) -> Result<InodeId, FsError> {
        let (entries, _) = self.node(dir)?.directory()?;
        entries.get(name).copied().ok_or(FsError::NotFound)
    }

    fn data(&mut self, call: &Call) -> Result<Reply, FsError> {
        match &call.op {
            Op::Write { ino, offset, append, kill_privileges, .. } => {
                let node = self.node_mut(*ino)?;
                let offset = if *append { node.file()?.size() } else { *offset };
                let bytes = u64::try_from(call.payload.len()).expect("64 bits");
                if offset.checked_add(bytes).is_none_or(|end| end > FILE_BYTES_MAX) {
                    return Err(FsError::FileTooLarge);
                }
                node.file_mut()?.write(offset, &call.payload);
                if *kill_privileges {
                    node.kill_privileges();
                }
                if bytes > 0 {
                    node.drop_capability();
                }
                node.modified(call.now);
                Ok(Reply::Written { offset, attr: self.node(*ino)?.attr(*ino), sequence: 0 })
            }
            Op::Fallocate { ino, offset, len, mode, keep_size } => {
                let node = self.node_mut(*ino)?;
                let content = node.file_mut()?;
                let end = offset.checked_add(*len).filter(|end| *end <= FILE_BYTES_MAX);
                let end = end.ok_or(FsError::FileTooLarge)?;
                if *len == 0 {
                    return Err(FsError::Invalid);
                }
                if *mode != FallocateMode::Allocate {
                    content.zero(*offset, end);
                }
                let node = self.node_mut(*ino)?;
                node.drop_capability();
                let content = node.file_mut()?;
                if !*keep_size && *mode != FallocateMode::PunchHole && end > content.size() {
                    content.resize(end);
                }
                node.modified(call.now);
                self.attr(*ino)
            }
            Op::Seek { ino, offset, whence } => {
                let content = self.node(*ino)?.file()?;
                let found = match whence {
                    SeekWhence::Data => content.seek_data(*offset),
                    SeekWhence::Hole => content.seek_hole(*offset),
                };
                found.map(Reply::Offset).ok_or(FsError::NoExtent)
            }
            _ => Err(FsError::NotSupported),
        }
    }
}
