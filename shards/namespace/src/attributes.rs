//! setattr: mode, owner, group, size, times.

use crate::command::Command;
use crate::data;
use crate::lock;
use crate::outcome::{Begun, Step, Stop};
use crate::record::Inode;
use crate::state::State;
use crate::xattr;
use cfs_types::{FILE_BYTES_MAX, FsError, InodeId};
use cfs_wire::{AttrChange, FileKind, Identity, Reply, TimeChange};

/// Changes attributes; nothing changes where nothing is asked. A file that shrinks by much does so in
/// steps: `Reply::Offset`, and all else changes with the last one.
pub fn set(state: &mut State<'_>, command: &Command, ino: InodeId, change: &AttrChange, begun: Begun) -> Step<Reply> {
    let mut inode = state.inode(ino)?;
    lock::check_all(state, ino, &inode, None)?;
    if *change == AttrChange::default() {
        return Ok(Reply::Attr(inode.attr(ino)));
    }
    if !may_change(&inode, &command.identity, change) {
        return Err(Stop::Fail(FsError::NotPermitted));
    }
    let now = state.ctx.now;
    if let Some(size) = change.size {
        inode.written_by(command.session);
        if let Some(at) = resize(state, ino, &mut inode, size, begun)? {
            state.put_inode(ino, &inode);
            return Ok(Reply::Offset(at));
        }
    }
    let chown = change.uid.is_some() || change.gid.is_some();
    if change.kill_privileges || chown {
        inode.kill_privileges();
    }
    if change.kill_privileges || chown || change.size.is_some() {
        xattr::drop_capability(state, ino, &mut inode)?;
    }
    inode.uid = change.uid.unwrap_or(inode.uid);
    inode.gid = change.gid.unwrap_or(inode.gid);
    inode.mode = change.mode.unwrap_or(inode.mode) & 0o7777;
    let time = |change: TimeChange| match change {
        TimeChange::Now => now,
        TimeChange::At(time) => time,
    };
    inode.atime = change.atime.map_or(inode.atime, time);
    inode.mtime = change.mtime.map_or(inode.mtime, time);
    inode.touch(now);
    if let Some(TimeChange::At(ctime)) = change.ctime {
        inode.ctime = ctime;
    }
    state.put_inode(ino, &inode);
    Ok(Reply::Attr(inode.attr(ino)))
}

/// What only the owner may do (Linux: `setattr_prepare`). The kernel of a mount has looked at that already, but at
/// an owner that may be another by now, and it does not ask again. Groups and capabilities are its affair: here, as
/// for NFS, root alone may give a file away.
fn may_change(inode: &Inode, who: &Identity, change: &AttrChange) -> bool {
    let sets = |time: Option<TimeChange>| matches!(time, Some(TimeChange::At(_)));
    let needs_owner = change.mode.is_some()
        || change.uid.is_some()
        || change.gid.is_some()
        || sets(change.atime)
        || sets(change.mtime);
    let gives_away = change.uid.is_some_and(|uid| uid != inode.uid);
    who.uid == 0 || !gives_away && (!needs_owner || who.uid == inode.uid)
}

fn resize(state: &mut State<'_>, ino: InodeId, inode: &mut Inode, size: u64, begun: Begun) -> Step<Begun> {
    match inode.kind {
        FileKind::File => {}
        FileKind::Directory => return Err(Stop::Fail(FsError::IsDirectory)),
        _ => return Err(Stop::Fail(FsError::Invalid)),
    }
    if size > FILE_BYTES_MAX {
        return Err(Stop::Fail(FsError::FileTooLarge));
    }
    data::truncate(state, ino, inode, size, begun)
}
