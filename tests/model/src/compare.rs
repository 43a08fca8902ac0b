//! The model's numbers and the product's, and whether two answers agree.

use cfs_types::{FsError, InodeId, Nanos};
use cfs_wire::{Attr, DirEntry, Op, Reply};
use std::collections::BTreeMap;

/// What must agree beside names, kinds, modes, owners, links, sizes and bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Strictness {
    /// mtime and ctime: where both sides were given the same clock.
    pub times: bool,
}

/// Which of the product's inodes is which of the model's.
#[derive(Clone, Debug)]
pub struct Correspondence {
    product: BTreeMap<InodeId, InodeId>,
}

impl Default for Correspondence {
    /// Only the root is known.
    fn default() -> Self {
        Correspondence { product: BTreeMap::from([(InodeId::ROOT, InodeId::ROOT)]) }
    }
}

impl Correspondence {
    /// The product's number of one of the model's inodes.
    pub fn product(&self, model: InodeId) -> Option<InodeId> {
        self.product.get(&model).copied()
    }

    /// The operation with the product's numbers; None where one is not known.
    pub fn translate(&self, op: &Op) -> Option<Op> {
        let mut op = op.clone();
        let fields: [Option<&mut InodeId>; 2] = match &mut op {
            Op::Rename { from_dir, to_dir, .. } => [Some(from_dir), Some(to_dir)],
            Op::Link { ino, dir, .. } => [Some(ino), Some(dir)],
            Op::Lookup { dir, .. }
            | Op::Create { dir, .. }
            | Op::Mknod { dir, .. }
            | Op::Mkdir { dir, .. }
            | Op::Symlink { dir, .. }
            | Op::Unlink { dir, .. }
            | Op::Rmdir { dir, .. }
            | Op::Readdir { dir, .. }
            | Op::Parent { dir } => [Some(dir), None],
            Op::Getattr { ino }
            | Op::Setattr { ino, .. }
            | Op::Readlink { ino }
            | Op::GetXattr { ino, .. }
            | Op::SetXattr { ino, .. }
            | Op::ListXattr { ino }
            | Op::RemoveXattr { ino, .. }
            | Op::Open { ino, .. }
            | Op::Close { ino }
            | Op::Read { ino, .. }
            | Op::Write { ino, .. }
            | Op::Fallocate { ino, .. }
            | Op::Seek { ino, .. } => [Some(ino), None],
            Op::Statfs | Op::Renew | Op::ReturnLeases { .. } | Op::CloseSession | Op::Echo | Op::Reopen { .. } => {
                [None, None]
            }
        };
        for field in fields.into_iter().flatten() {
            *field = self.product(*field)?;
        }
        Some(op)
    }

    /// Whether the product's answer is the model's; learns the numbers of new inodes from it.
    /// The error tells both.
    pub fn agree(
        &mut self,
        model: &Result<Reply, FsError>,
        product: &Result<Reply, FsError>,
        strict: Strictness,
    ) -> Result<(), String> {
        let agree = match (model, product) {
            (Ok(Reply::Entry(ours)), Ok(Reply::Entry(theirs))) => {
                let known = *self.product.entry(ours.ino).or_insert(theirs.ino);
                let attrs = match (&ours.attr, &theirs.attr) {
                    (Some(ours), Some(theirs)) => self.same_attr(ours, theirs, strict),
                    _ => true,
                };
                known == theirs.ino && ours.kind == theirs.kind && attrs
            }
            (Ok(Reply::Attr(ours)), Ok(Reply::Attr(theirs))) => self.same_attr(ours, theirs, strict),
            (Ok(Reply::Written { offset: at, attr: ours, .. }), Ok(Reply::Written { offset, attr: theirs, .. })) => {
                at == offset && self.same_attr(ours, theirs, strict)
            }
            (Ok(Reply::Listing { entries: ours, .. }), Ok(Reply::Listing { entries, .. })) => {
                self.same_listing(ours, entries, strict)
            }
            (Ok(Reply::Statfs(ours)), Ok(Reply::Statfs(theirs))) => ours.inodes == theirs.inodes,
            (Ok(ours), Ok(theirs)) => ours == theirs,
            (Err(ours), Err(theirs)) => ours == theirs,
            _ => false,
        };
        if agree { Ok(()) } else { Err(format!("model: {model:?}\nproduct: {product:?}")) }
    }

    fn same_attr(&self, ours: &Attr, theirs: &Attr, strict: Strictness) -> bool {
        let comparable = |attr: &Attr, ino: InodeId| {
            let times = if strict.times { (attr.mtime, attr.ctime) } else { (Nanos::default(), Nanos::default()) };
            (ino, attr.kind, attr.mode, attr.nlink, attr.uid, attr.gid, attr.rdev, attr.size, times)
        };
        self.product(ours.ino).is_some_and(|ino| comparable(ours, ino) == comparable(theirs, theirs.ino))
    }

    /// Listings agree whatever their order; attributes where the product gives them.
    fn same_listing(&self, ours: &[DirEntry], theirs: &[DirEntry], strict: Strictness) -> bool {
        let theirs: BTreeMap<_, _> = theirs.iter().map(|entry| (&entry.name, entry)).collect();
        ours.len() == theirs.len()
            && ours.iter().all(|ours| {
                theirs.get(&ours.name).is_some_and(|theirs| {
                    let attrs = match (&ours.attr, &theirs.attr) {
                        (Some(ours), Some(theirs)) => self.same_attr(ours, theirs, strict),
                        _ => true,
                    };
                    self.product(ours.ino) == Some(theirs.ino) && ours.kind == theirs.kind && attrs
                })
            })
    }
}
