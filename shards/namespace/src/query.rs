//! Read-only operations, answered from executed state.

use crate::command::EntryContext;
use crate::data;
use crate::keys;
use crate::lock;
use crate::outcome::{Step, Stop};
use crate::record::{Counters, Dentry, Inode};
use crate::state::{find, find_dentry, read_inode};
use crate::view::{Key, NeedMore, Rows, View};
use cfs_types::{FsError, InodeId, Name, check_attribute_asked};
use cfs_wire::{DirEntry, EntryReply, FileKind, Op, Reply, Volume};

/// Entries of one listing at most, whatever the bytes.
const LISTING_ENTRIES_MAX: usize = 2048;
/// Bytes of an entry in a listing beside its name, and of its attributes; at most.
const ENTRY_BYTES: usize = 24;
const ATTR_BYTES: usize = 128;
/// Attributes of one inode at most: their names fill no more than a listing may.
const XATTRS_MAX: usize = super::xattr::LIST_BYTES_MAX / 2;

/// Answers an operation; `NotSupported` where it is not a read.
pub fn answer(view: &dyn View, ctx: &EntryContext, op: &Op) -> Step<Reply> {
    match op {
        Op::Lookup { dir, name } => lookup(view, ctx, *dir, name),
        Op::Getattr { ino } | Op::Open { ino, .. } => getattr(view, *ino),
        Op::Readlink { ino } => readlink(view, *ino),
        Op::Readdir { dir, cookie, bytes_max, plus } => {
            let bytes_max = usize::try_from(*bytes_max).unwrap_or(usize::MAX);
            readdir(view, ctx, *dir, *cookie, bytes_max, *plus)
        }
        Op::GetXattr { ino, name } => get_xattr(view, *ino, name),
        Op::ListXattr { ino } => list_xattr(view, *ino),
        Op::Parent { dir } => parent(view, *dir),
        Op::Statfs => statfs(view),
        _ => data::query(view, ctx, op),
    }
}

/// A directory that is read: a removed one reads as empty.
fn directory(view: &dyn View, dir: InodeId) -> Step<Inode> {
    let inode = read_inode(view, dir)?;
    if inode.is_dir() { Ok(inode) } else { Err(Stop::Fail(FsError::NotDirectory)) }
}

fn lookup(view: &dyn View, ctx: &EntryContext, dir: InodeId, name: &Name) -> Step<Reply> {
    let inode = directory(view, dir)?;
    lock::check(view, dir, &inode, name.as_bytes(), None)?;
    let found = find_dentry(view, ctx, dir, name)?.ok_or(Stop::Fail(FsError::NotFound))?;
    entry(view, ctx, found.dentry).map(Reply::Entry)
}

/// The reply for an entry, with attributes where the inode is here and not held.
pub fn entry(view: &dyn View, ctx: &EntryContext, dentry: Dentry) -> Step<EntryReply> {
    let mut reply = EntryReply { ino: dentry.ino, kind: dentry.kind, attr: None };
    if dentry.ino.shard() == ctx.shard {
        let inode = match read_inode(view, dentry.ino) {
            Err(Stop::Fail(FsError::Stale)) => return Err(Stop::Fail(FsError::Corrupt)),
            other => other?,
        };
        if inode.locks == 0 {
            reply.attr = Some(inode.attr(dentry.ino));
        }
    }
    Ok(reply)
}

fn getattr(view: &dyn View, ino: InodeId) -> Step<Reply> {
    let inode = read_inode(view, ino)?;
    lock::check_all(view, ino, &inode, None)?;
    Ok(Reply::Attr(inode.attr(ino)))
}

fn readlink(view: &dyn View, ino: InodeId) -> Step<Reply> {
    let inode = read_inode(view, ino)?;
    if inode.kind != FileKind::Symlink {
        return Err(Stop::Fail(FsError::Invalid));
    }
    Ok(Reply::Bytes(inode.target.into_vec()))
}

fn parent(view: &dyn View, dir: InodeId) -> Step<Reply> {
    let inode = directory(view, dir)?;
    lock::check(view, dir, &inode, b"", None)?;
    if inode.nlink == 0 {
        return Err(Stop::Fail(FsError::NotFound));
    }
    let ino = inode.parent.ok_or(FsError::Corrupt)?;
    Ok(Reply::Entry(EntryReply { ino, kind: FileKind::Directory, attr: None }))
}

fn readdir(
    view: &dyn View,
    ctx: &EntryContext,
    dir: InodeId,
    cookie: u64,
    bytes_max: usize,
    plus: bool,
) -> Step<Reply> {
    let inode = directory(view, dir)?;
    lock::check_all(view, dir, &inode, None)?;
    let parent = inode.parent.ok_or(FsError::Corrupt)?;
    let fixed = ENTRY_BYTES + if plus { ATTR_BYTES } else { 0 };
    let limit = (bytes_max / (fixed + 1)).clamp(1, LISTING_ENTRIES_MAX);
    let Some(after) = cookie.checked_add(1) else {
        return Ok(Reply::Listing { parent, entries: Vec::new(), end: true });
    };
    let from = keys::dentry(ctx.volume, dir, after, b"");
    let to = keys::after_prefix(&keys::dentry_prefix(ctx.volume, dir));
    let rows = view.scan(&from, &to, limit)?;
    let mut end = rows.len() < limit;
    let mut entries: Vec<DirEntry> = Vec::with_capacity(rows.len());
    let mut bytes = 0;
    for (key, value) in rows {
        let (cookie, name) = keys::parse_dentry(&key).ok_or(FsError::Corrupt)?;
        let dentry = Dentry::decode(&value)?;
        bytes += fixed + name.as_bytes().len();
        if bytes > bytes_max && !entries.is_empty() {
            end = false;
            break;
        }
        entries.push(DirEntry { cookie, name, ino: dentry.ino, kind: dentry.kind, attr: None });
    }
    if plus {
        add_attributes(view, ctx, &mut entries)?;
    }
    Ok(Reply::Listing { parent, entries, end })
}

/// Fills in the attributes of inodes that are here; asks for all missing ones at once.
fn add_attributes(view: &dyn View, ctx: &EntryContext, entries: &mut [DirEntry]) -> Step<()> {
    let mut missing: Vec<Key> = Vec::new();
    for listed in entries.iter_mut().filter(|e| e.ino.shard() == ctx.shard) {
        let dentry = Dentry { ino: listed.ino, kind: listed.kind };
        match entry(view, ctx, dentry) {
            Ok(reply) => listed.attr = reply.attr,
            Err(Stop::Need(NeedMore::Key(key))) => missing.push(key),
            Err(stop) => return Err(stop),
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(Stop::Need(NeedMore::Keys(missing))) }
}

fn get_xattr(view: &dyn View, ino: InodeId, name: &[u8]) -> Step<Reply> {
    check_attribute_asked(name).map_err(Stop::Fail)?;
    read_inode(view, ino)?;
    let value = view.get(&keys::xattr(ino, name))?.ok_or(Stop::Fail(FsError::NoAttribute))?;
    Ok(Reply::Bytes(value.to_vec()))
}

fn list_xattr(view: &dyn View, ino: InodeId) -> Step<Reply> {
    let inode = read_inode(view, ino)?;
    let mut names = Vec::new();
    if inode.xattr_name_bytes > 0 {
        let prefix = keys::xattr_prefix(ino);
        let rows: Rows = view.scan(&prefix, &keys::after_prefix(&prefix), XATTRS_MAX)?;
        for (key, _) in rows {
            names.extend_from_slice(key.get(prefix.len()..).ok_or(FsError::Corrupt)?);
            names.push(0);
        }
    }
    Ok(Reply::Bytes(names))
}

fn statfs(view: &dyn View) -> Step<Reply> {
    let counters: Counters = find(view, &keys::counters())?.unwrap_or_default();
    Ok(Reply::Statfs(Volume {
        inodes: counters.inodes,
        inodes_free: InodeId::SEQUENCE_MAX - counters.last_sequence.min(InodeId::SEQUENCE_MAX),
        ..Volume::default()
    }))
}
