//! What an operation comes to, given what its names lead to: parts, messages, walks.
//! Error rules follow Linux (`fs/namei.c`: vfs_mkdir, vfs_rmdir, vfs_link, vfs_rename).

use super::Part;
use crate::command::Message;
use crate::record::Dentry;
use cfs_types::{FsError, InodeId, Name, Nanos, ShardId};
use cfs_wire::{Attr, EntryReply, FileKind, Identity, Op, Reply};
use std::collections::BTreeMap;

/// What a coordinator asks before it plans.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Look {
    /// Attributes of an inode.
    Attr(InodeId),
    /// Where a name leads, if anywhere.
    Name(InodeId, Name),
}

/// What it was told, in the order of its questions.
#[derive(Clone, Default, Debug)]
pub struct Seen {
    /// Answers to `Look::Attr`.
    pub attr: Option<Result<Attr, FsError>>,
    /// Answers to `Look::Name`, in order.
    pub names: Vec<Option<Dentry>>,
}

/// The ancestors of `start` must not contain `unwanted`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Walk {
    /// Where the walk to the root begins.
    pub start: InodeId,
    /// What it must not meet.
    pub unwanted: InodeId,
}

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Parts by shard; in a shard names come first: `Conflict` goes before other failures.
    pub parts: BTreeMap<ShardId, Vec<Part>>,
    /// What follows from the commit.
    pub after: Vec<Message>,
    /// Walks to make under the rename lock.
    pub walks: Vec<Walk>,
    /// For the client.
    pub reply: Reply,
    /// The client's reply waits until the messages are executed.
    pub wait: bool,
}

impl Plan {
    fn new(reply: Reply) -> Self {
        Plan { parts: BTreeMap::new(), after: Vec::new(), walks: Vec::new(), reply, wait: true }
    }

    fn part(&mut self, shard: ShardId, part: Part) {
        self.parts.entry(shard).or_default().push(part);
    }

    fn rebind(&mut self, dir: InodeId, name: &Name, expect: Option<Dentry>, put: Option<Dentry>) {
        let name = name.clone();
        self.part(dir.shard(), Part::Rebind { dir, name, expect, put, inherit: None });
    }

    /// The directory was made elsewhere: its name is bound to it, and the client told of it.
    pub fn complete(&mut self, made: Attr) {
        let dentry = Dentry { ino: made.ino, kind: made.kind };
        for part in self.parts.values_mut().flatten() {
            if let Part::Rebind { put, .. } = part {
                *put = Some(dentry);
            }
        }
        let (ino, kind) = (made.ino, made.kind);
        self.reply = Reply::Entry(EntryReply { ino, kind, attr: Some(made) });
    }
}

/// What must be known of an operation; None where it needs no coordinator.
pub fn questions(op: &Op) -> Option<Vec<Look>> {
    Some(match op {
        Op::Mkdir { dir, name, .. } => {
            vec![Look::Name(*dir, name.clone()), Look::Attr(*dir)]
        }
        Op::Rmdir { dir, name } => vec![Look::Name(*dir, name.clone())],
        Op::Link { ino, dir, name } => vec![Look::Name(*dir, name.clone()), Look::Attr(*ino)],
        Op::Rename { from_dir, from, to_dir, to, .. } => {
            vec![Look::Name(*from_dir, from.clone()), Look::Name(*to_dir, to.clone())]
        }
        _ => return None,
    })
}

/// Plans an operation; `home` is where a new directory is born.
pub fn plan(op: &Op, identity: &Identity, home: ShardId, seen: &Seen) -> Result<Plan, FsError> {
    let first = seen.names.first().copied().flatten();
    let second = seen.names.get(1).copied().flatten();
    let attr = seen.attr.clone().unwrap_or(Err(FsError::NotFound));
    match op {
        Op::Mkdir { dir, name, mode } => mkdir((*dir, name), *mode, identity, home, first, &attr?),
        Op::Rmdir { dir, name } => rmdir(*dir, name, first),
        Op::Link { ino, dir, name } => {
            if first.is_some() {
                return Err(FsError::Exists);
            }
            // A file whose last link is gone has no name to link (Linux: ENOENT).
            let attr = attr.map_err(|e| if e == FsError::Stale { FsError::NotFound } else { e })?;
            link(*ino, (*dir, name), attr.kind)
        }
        Op::Rename { from_dir, from, to_dir, to, no_replace, exchange } => {
            let source = first.ok_or(FsError::NotFound)?;
            match (no_replace, exchange) {
                (true, true) => Err(FsError::Invalid),
                (true, false) if second.is_some() => Err(FsError::Exists),
                (false, true) => {
                    let target = second.ok_or(FsError::NotFound)?;
                    Ok(exchange_names((*from_dir, from, source), (*to_dir, to, target)))
                }
                _ => rename((*from_dir, from, source), (*to_dir, to, second)),
            }
        }
        _ => Err(FsError::NotSupported),
    }
}

fn mkdir(
    (dir, name): (InodeId, &Name),
    mode: u16,
    identity: &Identity,
    home: ShardId,
    there: Option<Dentry>,
    parent: &Attr,
) -> Result<Plan, FsError> {
    if parent.kind != FileKind::Directory {
        return Err(FsError::NotDirectory);
    }
    if there.is_some() {
        return Err(FsError::Exists);
    }
    let setgid = parent.mode & 0o2000 != 0;
    let gid = if setgid { parent.gid } else { identity.gid };
    let mode = if setgid { mode | 0o2000 } else { mode } & 0o7777;
    let mut plan = Plan::new(Reply::Done);
    plan.wait = false;
    plan.part(home, Part::MakeDir { parent: dir, mode, uid: identity.uid, gid });
    let inherit = Some((setgid, parent.gid));
    let name = name.clone();
    plan.part(dir.shard(), Part::Rebind { dir, name, expect: None, put: None, inherit });
    Ok(plan)
}

fn rmdir(dir: InodeId, name: &Name, there: Option<Dentry>) -> Result<Plan, FsError> {
    let child = there.ok_or(FsError::NotFound)?;
    if !child.is_dir() {
        return Err(FsError::NotDirectory);
    }
    let mut plan = Plan::new(Reply::Done);
    plan.rebind(dir, name, Some(child), None);
    plan.part(child.ino.shard(), Part::RemoveDir { dir: child.ino });
    Ok(plan)
}

fn link(ino: InodeId, (dir, name): (InodeId, &Name), kind: FileKind) -> Result<Plan, FsError> {
    if kind == FileKind::Directory {
        return Err(FsError::NotPermitted);
    }
    let mut plan = Plan::new(Reply::Entry(EntryReply { ino, kind, attr: None }));
    plan.rebind(dir, name, None, Some(Dentry { ino, kind }));
    plan.part(ino.shard(), Part::AddLink { ino });
    Ok(plan)
}

fn rename(
    (from_dir, from, source): (InodeId, &Name, Dentry),
    (to_dir, to, target): (InodeId, &Name, Option<Dentry>),
) -> Result<Plan, FsError> {
    let mut plan = Plan::new(Reply::Done);
    if target.is_some_and(|target| target.ino == source.ino) {
        return Ok(plan);
    }
    match target {
        Some(target) if source.is_dir() && !target.is_dir() => return Err(FsError::NotDirectory),
        Some(target) if !source.is_dir() && target.is_dir() => return Err(FsError::IsDirectory),
        _ => {}
    }
    plan.rebind(from_dir, from, Some(source), None);
    plan.rebind(to_dir, to, target, Some(source));
    move_inode(&mut plan, source, from_dir, to_dir);
    match target {
        Some(target) if target.is_dir() => {
            plan.part(target.ino.shard(), Part::RemoveDir { dir: target.ino });
        }
        Some(target) => {
            plan.after.push(Message::Unlink { ino: target.ino, now: Nanos::default() });
        }
        None => {}
    }
    Ok(plan)
}

fn exchange_names(
    (from_dir, from, source): (InodeId, &Name, Dentry),
    (to_dir, to, target): (InodeId, &Name, Dentry),
) -> Plan {
    let mut plan = Plan::new(Reply::Done);
    if source.ino == target.ino {
        return plan;
    }
    plan.rebind(from_dir, from, Some(source), Some(target));
    plan.rebind(to_dir, to, Some(target), Some(source));
    move_inode(&mut plan, source, from_dir, to_dir);
    move_inode(&mut plan, target, to_dir, from_dir);
    plan
}

/// The moved inode itself: its ctime, and a directory's parent.
fn move_inode(plan: &mut Plan, moved: Dentry, from_dir: InodeId, to_dir: InodeId) {
    let ino = moved.ino;
    if moved.is_dir() && from_dir != to_dir {
        plan.part(ino.shard(), Part::Reparent { dir: ino, parent: to_dir });
        plan.walks.push(Walk { start: to_dir, unwanted: ino });
    } else {
        plan.after.push(Message::Touch { ino, now: Nanos::default() });
    }
}
