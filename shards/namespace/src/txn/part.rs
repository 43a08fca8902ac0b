//! One part of a transaction: check, hold, release, apply.
//!
//! A local part is checked and applied in one command. A remote one is checked and held when it is
//! prepared, released and applied by Commit, released by Abort. What is held makes the check stay
//! true, and `apply` reads counts anew, so that messages that only count (Unlink, Touch) need not
//! wait for it.

use super::{Part, TxId};
use crate::entry::LINKS_MAX;
use crate::lock;
use crate::outcome::{Effect, Step, Stop};
use crate::reap;
use crate::record::{Dentry, Inode};
use crate::state::{State, find_inode};
use cfs_types::{FsError, InodeId, Name, Nanos, SessionId};
use cfs_wire::FileKind;

const CONFLICT: Stop = Stop::Fail(FsError::Conflict);

/// Whether the part can be done. `Conflict`: the state is not what the coordinator saw.
pub fn check(state: &State<'_>, tx: TxId, part: &Part) -> Step<()> {
    match part {
        Part::MakeDir { .. } => Ok(()),
        Part::AddLink { ino } => check_link(state, *ino),
        Part::RemoveDir { dir } => {
            let inode = find_inode(state, *dir)?.filter(|i| i.nlink > 0).ok_or(CONFLICT)?;
            if !inode.is_dir() {
                return Err(Stop::Fail(FsError::NotDirectory));
            }
            lock::check_all(state, *dir, &inode, Some(tx))?;
            if inode.size > 0 { Err(Stop::Fail(FsError::NotEmpty)) } else { Ok(()) }
        }
        Part::Rebind { dir, name, expect, put, inherit } => {
            let inode = state.directory(*dir)?;
            lock::check(state, *dir, &inode, name.as_bytes(), Some(tx))?;
            let found = state.dentry(*dir, name)?.map(|found| found.dentry);
            if found != *expect || inherit.is_some_and(|seen| seen != inheritance(&inode)) {
                return Err(CONFLICT);
            }
            let more = is_dir(put) && !is_dir(expect);
            if more && inode.nlink >= LINKS_MAX {
                return Err(Stop::Fail(FsError::TooManyLinks));
            }
            Ok(())
        }
        Part::Reparent { dir, .. } => {
            let inode = find_inode(state, *dir)?.filter(|i| i.nlink > 0).ok_or(CONFLICT)?;
            lock::check(state, *dir, &inode, b"", Some(tx))?;
            if inode.is_dir() { Ok(()) } else { Err(CONFLICT) }
        }
    }
}

/// What a new directory takes from its parent: (setgid, gid).
pub fn inheritance(parent: &Inode) -> (bool, u32) {
    (parent.mode & 0o2000 != 0, parent.gid)
}

fn check_link(state: &State<'_>, ino: InodeId) -> Step<()> {
    let inode = find_inode(state, ino)?.filter(|inode| inode.nlink > 0);
    let inode = inode.ok_or(Stop::Fail(FsError::NotFound))?;
    if inode.is_dir() {
        return Err(Stop::Fail(FsError::NotPermitted));
    }
    if inode.nlink.saturating_add(inode.pending_links) >= LINKS_MAX {
        return Err(Stop::Fail(FsError::TooManyLinks));
    }
    Ok(())
}

fn is_dir(dentry: &Option<Dentry>) -> bool {
    dentry.is_some_and(|d| d.is_dir())
}

/// Holds a checked part. Gives the inode that it made.
pub fn hold(state: &mut State<'_>, tx: TxId, part: &Part) -> Step<Option<InodeId>> {
    match part {
        Part::MakeDir { parent, mode, uid, gid } => {
            let ino = state.allocate(FileKind::Directory)?;
            let now = state.ctx.now;
            let mut inode = Inode::new(FileKind::Directory, *mode, *uid, *gid, now);
            inode.parent = Some(*parent);
            state.put_inode(ino, &inode);
            return Ok(Some(ino));
        }
        Part::AddLink { ino } => {
            let mut inode = state.inode(*ino)?;
            inode.pending_links += 1;
            state.put_inode(*ino, &inode);
        }
        Part::RemoveDir { dir } => {
            let mut inode = state.inode(*dir)?;
            inode.dying = true;
            lock::take(state, *dir, &mut inode, b"", tx)?;
            state.put_inode(*dir, &inode);
        }
        Part::Rebind { dir, name, .. } => {
            let mut inode = state.inode(*dir)?;
            lock::take(state, *dir, &mut inode, name.as_bytes(), tx)?;
            state.put_inode(*dir, &inode);
        }
        Part::Reparent { dir, .. } => {
            let mut inode = state.inode(*dir)?;
            lock::take(state, *dir, &mut inode, b"", tx)?;
            state.put_inode(*dir, &inode);
        }
    }
    Ok(None)
}

/// Lets go of a held part that is to be applied or undone next.
fn release(state: &mut State<'_>, part: &Part) -> Step<()> {
    let (ino, name): (InodeId, &[u8]) = match part {
        Part::MakeDir { .. } => return Ok(()),
        Part::AddLink { ino } => {
            let mut inode = state.inode(*ino)?;
            inode.pending_links = inode.pending_links.saturating_sub(1);
            state.put_inode(*ino, &inode);
            return Ok(());
        }
        Part::RemoveDir { dir } | Part::Reparent { dir, .. } => (*dir, b""),
        Part::Rebind { dir, name, .. } => (*dir, name.as_bytes()),
    };
    let mut inode = state.inode(ino)?;
    lock::release(state, ino, &mut inode, name);
    if matches!(part, Part::RemoveDir { .. }) {
        inode.dying = false;
    }
    state.put_inode(ino, &inode);
    state.effects.push(Effect::Unlocked);
    Ok(())
}

/// Commits a held part.
pub fn commit(state: &mut State<'_>, part: &Part, now: Nanos, pinned_by: &[SessionId]) -> Step<()> {
    release(state, part)?;
    apply(state, part, now, pinned_by)
}

/// Undoes a held part; `made` is the inode that holding it made.
pub fn abort(state: &mut State<'_>, part: &Part, made: Option<InodeId>) -> Step<()> {
    release(state, part)?;
    let ino = match part {
        Part::MakeDir { .. } => made.ok_or(FsError::Corrupt)?,
        Part::AddLink { ino } => *ino,
        _ => return Ok(()),
    };
    let mut inode = state.inode(ino)?;
    if inode.is_dir() {
        inode.nlink = 0;
    }
    reap::settle(state, ino, inode, &[])
}

/// Does a checked part at the time of the decision.
pub fn apply(state: &mut State<'_>, part: &Part, now: Nanos, pinned_by: &[SessionId]) -> Step<()> {
    match part {
        Part::MakeDir { .. } => Ok(()),
        Part::AddLink { ino } => {
            let mut inode = state.inode(*ino)?;
            inode.nlink += 1;
            inode.touch(now);
            state.put_inode(*ino, &inode);
            Ok(())
        }
        Part::RemoveDir { dir } => {
            let mut inode = state.inode(*dir)?;
            inode.nlink = 0;
            inode.touch(now);
            reap::settle(state, *dir, inode, pinned_by)
        }
        Part::Rebind { dir, name, expect, put, .. } => rebind(state, (*dir, name), expect, put, now),
        Part::Reparent { dir, parent } => {
            let mut inode = state.inode(*dir)?;
            inode.parent = Some(*parent);
            inode.touch(now);
            state.put_inode(*dir, &inode);
            Ok(())
        }
    }
}

fn rebind(
    state: &mut State<'_>,
    (dir, name): (InodeId, &Name),
    expect: &Option<Dentry>,
    put: &Option<Dentry>,
    now: Nanos,
) -> Step<()> {
    match (state.dentry_or_place(dir, name)?, put) {
        (Ok(found), Some(put)) => state.put_dentry(dir, name, found.cookie, *put),
        (Ok(found), None) => state.remove_dentry(dir, name, found.cookie),
        (Err(place), Some(put)) => state.add_dentry(dir, name, place, *put)?,
        (Err(_), None) => {}
    }
    let mut inode = state.inode(dir)?;
    inode.size = inode.size + u64::from(put.is_some()) - u64::from(expect.is_some());
    inode.nlink = inode.nlink + u32::from(is_dir(put)) - u32::from(is_dir(expect));
    inode.modify_late(now);
    state.put_inode(dir, &inode);
    Ok(())
}
