//! Where a file is, from its inode: a file does not know its names, a directory knows its parent.
//!
//! The shard of the inode is searched first: a file is created beside its name.

use super::page;
use crate::core::Core;
use crate::file_data::settle;
use crate::messages::{CoreReply, CoreRequest};
use crate::shard::Shard;
use cfs_namespace::audit::{self, Row};
use cfs_namespace::keys::{after_prefix, dentry_prefix};
use cfs_namespace::state::find_inode;
use cfs_seam::{Class, io, spawn};
use cfs_types::{FsError, InodeId, Name, ShardId, VolumeId};
use std::rc::Rc;

/// Deepest path that is spelled out.
const DEPTH_MAX: usize = 64;
/// Names looked at in one step.
const PAGE: usize = 512;
/// Of a dentry's key: what all names of a volume begin with.
const VOLUME_PREFIX_BYTES: usize = 5;

/// Where to look for what leads to an inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// In the inode: a directory names its parent.
    Parent,
    /// Among the names in a directory.
    Dir(InodeId),
    /// Among all names of a shard.
    Shard(ShardId),
}

/// A directory that leads to an inode, and the name where that was looked for.
pub type Found = Option<(InodeId, Option<Name>)>;

/// The path of an inode; None where no name was found, or not within what a search may cost.
pub async fn path_of(core: &Rc<Core>, ino: InodeId) -> Option<String> {
    let known = core.scrub.findings.borrow().path_of(ino.get());
    if known.is_some() {
        return known;
    }
    let (mut at, mut names) = (ino, Vec::new());
    while at != InodeId::ROOT {
        if names.len() == DEPTH_MAX {
            return None;
        }
        let (dir, name) = name_of(core, at).await?;
        names.push(name.as_bytes().escape_ascii().to_string());
        at = dir;
    }
    names.reverse();
    Some(format!("/{}", names.join("/")))
}

async fn name_of(core: &Rc<Core>, ino: InodeId) -> Option<(InodeId, Name)> {
    if let Some((parent, _)) = ask(core, ino, Scope::Parent).await {
        let (dir, name) = ask(core, ino, Scope::Dir(parent)).await?;
        return Some((dir, name?));
    }
    let own = ino.shard();
    let mut found = ask(core, ino, Scope::Shard(own)).await;
    if found.is_none() && core.scrub.findings.borrow_mut().may_search() {
        for shard in ShardId::all().filter(|shard| *shard != own) {
            found = ask(core, ino, Scope::Shard(shard)).await;
            if found.is_some() || core.stopping.get() {
                break;
            }
        }
    }
    let (dir, name) = found?;
    Some((dir, name?))
}

/// Asks the core that has what is to be looked at. What cannot be read has no names.
async fn ask(core: &Rc<Core>, ino: InodeId, scope: Scope) -> Found {
    let shard = match scope {
        Scope::Parent => ino.shard(),
        Scope::Dir(dir) => dir.shard(),
        Scope::Shard(shard) => shard,
    };
    match core.peers.call(core.config.owner(shard.into()), CoreRequest::Trace(ino, scope)).await {
        CoreReply::Traced(found) => found.unwrap_or_default(),
        _ => None,
    }
}

/// Looks at what this core has, in background class.
pub async fn trace(core: &Rc<Core>, ino: InodeId, scope: Scope) -> Result<Found, FsError> {
    let (promise, traced) = io();
    let core_of_task = core.clone();
    let task = async move { promise.complete(search(&core_of_task, ino, scope).await) };
    spawn(&core.world.tasks, Class::Background, task).detach();
    traced.await
}

async fn search(core: &Rc<Core>, ino: InodeId, scope: Scope) -> Result<Found, FsError> {
    let any = dentry_prefix(VolumeId::new(0), ino);
    match scope {
        Scope::Parent => {
            let inode = core.shard(ino.shard())?.read(|view, _| settle(find_inode(view, ino))).await??;
            Ok(inode.and_then(|inode| inode.parent).map(|parent| (parent, None)))
        }
        Scope::Dir(dir) => scan(core, core.shard(dir.shard())?, &dentry_prefix(VolumeId::new(0), dir), ino).await,
        Scope::Shard(shard) => scan(core, core.shard(shard)?, &any[..VOLUME_PREFIX_BYTES], ino).await,
    }
}

/// The first name whose key begins with `prefix` and that leads to the inode.
async fn scan(core: &Rc<Core>, shard: &Rc<Shard>, prefix: &[u8], ino: InodeId) -> Result<Found, FsError> {
    let (mut from, to) = (Some(prefix.to_vec()), after_prefix(prefix));
    while let Some(at) = from.take().filter(|_| !core.stopping.get()) {
        let (rows, next) = page(shard, &at, &to, PAGE).await?;
        let found = rows.iter().find_map(|(key, value)| match audit::decode(key, value)? {
            Row::Dentry { dir, name, dentry, .. } if dentry.ino == ino => Some((dir, Some(name))),
            _ => None,
        });
        if found.is_some() {
            return Ok(found);
        }
        from = next;
        core.world.tasks.yield_now().await;
    }
    Ok(None)
}
