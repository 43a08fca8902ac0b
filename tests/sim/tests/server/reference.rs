//! The reference file system as one task sees it: a subtree, by the numbers that the server gave
//! its inodes.

use crate::history::ME;
use cfs_model::{Call, Content, Model};
use cfs_types::{FsError, InodeId, Name, Nanos, SessionId};
use cfs_wire::{Attr, AttrChange, FallocateMode, FileKind, Op, OpenMode, Reply, XattrMode};
use std::collections::BTreeMap;

type Answer = Result<Reply, FsError>;

/// What a subtree must look like.
pub struct Reference {
    model: Model,
    /// The model's number of each of the server's.
    numbers: BTreeMap<InodeId, InodeId>,
    /// And back.
    back: BTreeMap<InodeId, InodeId>,
    /// Open handles.
    opens: BTreeMap<InodeId, u32>,
}

impl Reference {
    /// An empty directory.
    pub fn new(root: InodeId, mode: u16) -> Self {
        Reference {
            model: Model::new(mode, 0, 0, Nanos::default()),
            numbers: [(root, InodeId::ROOT)].into(),
            back: [(InodeId::ROOT, root)].into(),
            opens: BTreeMap::new(),
        }
    }

    fn number(&self, ino: InodeId) -> InodeId {
        self.numbers.get(&ino).copied().unwrap_or_else(|| panic!("{ino:?} is not known here"))
    }

    fn apply(&mut self, op: Op, payload: &[u8]) -> Answer {
        let (identity, session, now) = (ME, SessionId::new(1), Nanos::default());
        self.model.apply(&Call { op, payload: payload.to_vec(), identity, session, now }).map(|(reply, _)| reply)
    }

    /// Performs an operation; its inodes are the model's ([`Reference::op`] translates).
    pub fn perform(&mut self, op: Op, payload: &[u8]) -> Answer {
        let op = self.op(op);
        self.apply(op, payload)
    }

    /// The operation with the model's numbers.
    fn op(&self, mut op: Op) -> Op {
        let fields: [Option<&mut InodeId>; 2] = match &mut op {
            Op::Rename { from_dir, to_dir, .. } => [Some(from_dir), Some(to_dir)],
            Op::Link { ino, dir, .. } => [Some(ino), Some(dir)],
            Op::Create { dir, .. } | Op::Mkdir { dir, .. } | Op::Symlink { dir, .. } => [Some(dir), None],
            Op::Unlink { dir, .. } | Op::Rmdir { dir, .. } => [Some(dir), None],
            Op::Setattr { ino, .. } | Op::Write { ino, .. } | Op::Fallocate { ino, .. } => [Some(ino), None],
            Op::SetXattr { ino, .. } | Op::RemoveXattr { ino, .. } => [Some(ino), None],
            Op::Open { ino, .. } | Op::Close { ino } => [Some(ino), None],
            other => panic!("{other:?} is not used here"),
        };
        for field in fields.into_iter().flatten() {
            *field = self.number(*field);
        }
        op
    }

    /// As [`Reference::perform`], for what makes an inode or opens it by name: `ino` is the number
    /// that the server gave it, where it did. False where it is known by another one.
    pub fn make(&mut self, op: Op, ino: Option<InodeId>) -> Result<bool, FsError> {
        match (self.perform(op, &[])?, ino) {
            (Reply::Entry(made), Some(ino)) => {
                let fresh = !self.back.contains_key(&made.ino) && !self.numbers.contains_key(&ino);
                if fresh {
                    self.numbers.insert(ino, made.ino);
                    self.back.insert(made.ino, ino);
                }
                Ok(self.numbers.get(&ino) == Some(&made.ino))
            }
            _ => Ok(false),
        }
    }

    /// A handle is opened.
    pub fn open(&mut self, ino: InodeId) {
        *self.opens.entry(ino).or_default() += 1;
        self.perform(Op::Open { ino, mode: OpenMode::Write }, &[]).expect("it is there");
    }

    /// A handle is closed.
    pub fn close(&mut self, ino: InodeId) {
        let left = self.opens.get_mut(&ino).expect("it was opened");
        *left -= 1;
        if *left == 0 {
            self.opens.remove(&ino);
            self.perform(Op::Close { ino }, &[]).expect("it is there");
        }
    }

    /// All inodes that have a name, and the top.
    pub fn linked(&self) -> impl Iterator<Item = Attr> {
        let linked = self.model.nodes().filter(|(_, node)| node.nlink > 0);
        linked.map(|(ino, node)| node.attr(self.back[&ino]))
    }

    /// What stat shows.
    pub fn attr(&self, ino: InodeId) -> Option<Attr> {
        let node = self.model.node(*self.numbers.get(&ino)?).ok()?;
        Some(node.attr(ino))
    }

    /// Where a name leads.
    pub fn lookup(&self, dir: InodeId, name: &Name) -> Option<InodeId> {
        self.entries(dir).get(name).copied()
    }

    /// A directory's names.
    pub fn entries(&self, dir: InodeId) -> BTreeMap<Name, InodeId> {
        let node = self.model.node(self.number(dir)).expect("a living directory");
        let (entries, _) = node.directory().expect("a directory");
        entries.iter().map(|(name, ino)| (name.clone(), self.back[ino])).collect()
    }

    /// A file's bytes.
    pub fn content(&self, ino: InodeId) -> &Content {
        self.model.node(self.number(ino)).and_then(|node| node.file()).expect("a file")
    }

    /// Extended attributes.
    pub fn xattrs(&self, ino: InodeId) -> &BTreeMap<Vec<u8>, Vec<u8>> {
        &self.model.node(self.number(ino)).expect("it is there").xattrs
    }

    /// ftruncate and chmod.
    pub fn set(&mut self, ino: InodeId, change: AttrChange) -> Answer {
        self.perform(Op::Setattr { ino, change }, &[])
    }

    /// pwrite, or an append.
    pub fn write(&mut self, ino: InodeId, offset: u64, append: bool, data: &[u8]) -> Answer {
        let len = u32::try_from(data.len()).expect("short");
        self.perform(Op::Write { ino, offset, len, append, kill_privileges: false, held: None }, data)
    }

    /// fallocate.
    pub fn fallocate(&mut self, ino: InodeId, offset: u64, len: u64, mode: FallocateMode, keep_size: bool) -> Answer {
        self.perform(Op::Fallocate { ino, offset, len, mode, keep_size }, &[])
    }

    /// setxattr, or removexattr without a value.
    pub fn set_xattr(&mut self, ino: InodeId, name: &[u8], value: Option<&[u8]>) -> Answer {
        let name = name.to_vec();
        let op = match value {
            Some(value) => Op::SetXattr { ino, name, value: value.to_vec(), mode: XattrMode::Set },
            None => Op::RemoveXattr { ino, name },
        };
        self.perform(op, &[])
    }
}

/// Whether two attributes agree in what a user sees, times apart.
pub fn agree(got: &Attr, want: &Attr) -> bool {
    let seen = |attr: &Attr| (attr.ino, attr.kind, attr.mode, attr.nlink, attr.uid, attr.gid, attr.rdev);
    let size = got.size == want.size || got.kind == FileKind::Directory;
    size && seen(got) == seen(want)
}
