//! The end of an inode: the last link, open and unlinked inodes, freeing in bounded steps.
//!
//! Invariants: an inode without links, pending links and orphan records is gone or has a reap
//! record; content is freed a bounded part a command.

use crate::data;
use crate::keys;
use crate::outcome::{Effect, Step};
use crate::record::Inode;
use crate::state::{State, find_inode};
use crate::view::View;
use cfs_types::{InodeId, Nanos, SessionId};
use cfs_wire::FileKind;

/// Extended attributes freed by one command.
const XATTRS_STEP: usize = 64;

/// Removes one link of a file, and the file with the last one unless sessions hold it open.
pub fn drop_link(
    state: &mut State<'_>,
    ino: InodeId,
    mut inode: Inode,
    now: Nanos,
    pinned_by: &[SessionId],
) -> Step<()> {
    inode.nlink = inode.nlink.saturating_sub(1);
    inode.touch(now);
    settle(state, ino, inode, pinned_by)
}

/// Writes an inode whose links changed, or removes it where nothing holds it any more.
pub fn settle(state: &mut State<'_>, ino: InodeId, mut inode: Inode, pinned_by: &[SessionId]) -> Step<()> {
    if inode.nlink > 0 {
        state.put_inode(ino, &inode);
        return Ok(());
    }
    for session in pinned_by {
        state.put(keys::orphan(ino, *session), [].into());
    }
    if inode.pending_links > 0 || is_pinned(state, ino)? {
        state.put_inode(ino, &inode);
        return Ok(());
    }
    step(state, ino, &mut inode)
}

/// A session no longer holds an unlinked inode.
pub fn release(state: &mut State<'_>, ino: InodeId, session: SessionId) -> Step<()> {
    let key = keys::orphan(ino, session);
    if state.get(&key)?.is_none() {
        return Ok(());
    }
    state.delete(key);
    match find_inode(state, ino)? {
        Some(inode) => settle(state, ino, inode, &[]),
        None => Ok(()),
    }
}

/// Frees some more of an inode that is being reaped.
pub fn proceed(state: &mut State<'_>, ino: InodeId) -> Step<()> {
    if state.get(&keys::reap(ino))?.is_none() {
        return Ok(());
    }
    match find_inode(state, ino)? {
        Some(mut inode) => step(state, ino, &mut inode),
        None => Ok(()),
    }
}

fn is_pinned(state: &State<'_>, ino: InodeId) -> Step<bool> {
    let prefix = keys::orphan_prefix(ino);
    Ok(!state.scan(&prefix, &keys::after_prefix(&prefix), 1)?.is_empty())
}

fn step(state: &mut State<'_>, ino: InodeId, inode: &mut Inode) -> Step<()> {
    let begun = state.get(&keys::reap(ino))?.is_some();
    let mut done = free_xattrs(state, ino, inode)?;
    if done && inode.kind == FileKind::File {
        done = data::reap_step(state, ino, inode)?;
    }
    if !done {
        state.put_inode(ino, inode);
        if !begun {
            state.put(keys::reap(ino), [].into());
        }
        state.effects.push(Effect::ReapPending(ino));
        return Ok(());
    }
    if begun {
        state.delete(keys::reap(ino));
    }
    state.delete(keys::inode(ino));
    state.uncount(inode.kind)?;
    state.effects.push(Effect::Gone(ino));
    Ok(())
}

fn free_xattrs(state: &mut State<'_>, ino: InodeId, inode: &mut Inode) -> Step<bool> {
    if inode.xattr_name_bytes == 0 {
        return Ok(true);
    }
    let prefix = keys::xattr_prefix(ino);
    let rows = state.scan(&prefix, &keys::after_prefix(&prefix), XATTRS_STEP)?;
    let all = rows.len() < XATTRS_STEP;
    for (key, _) in rows {
        state.delete(key);
    }
    if all {
        inode.xattr_name_bytes = 0;
    }
    Ok(all)
}
