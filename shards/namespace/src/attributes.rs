//! setattr: mode, owner, group, size, times.

use crate::data;
use crate::lock;
use crate::outcome::{Step, Stop};
use crate::record::Inode;
use crate::state::State;
use crate::xattr;
use cfs_types::{FILE_BYTES_MAX, FsError, InodeId, Nanos};
use cfs_wire::{AttrChange, FileKind, Reply, TimeChange};

/// Changes attributes; nothing changes where nothing is asked.
pub fn set(state: &mut State<'_>, ino: InodeId, change: &AttrChange) -> Step<Reply> {
    let mut inode = state.inode(ino)?;
    lock::check_all(state, ino, &inode, None)?;
    if *change == AttrChange::default() {
        return Ok(Reply::Attr(inode.attr(ino)));
    }
    let now = state.ctx.now;
    if let Some(size) = change.size {
        resize(state, ino, &mut inode, size)?;
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

fn resize(state: &mut State<'_>, ino: InodeId, inode: &mut Inode, size: u64) -> Step<()> {
    match inode.kind {
        FileKind::File => {}
        FileKind::Directory => return Err(Stop::Fail(FsError::IsDirectory)),
        _ => return Err(Stop::Fail(FsError::Invalid)),
    }
    if size > FILE_BYTES_MAX {
        return Err(Stop::Fail(FsError::FileTooLarge));
    }
    let now: Nanos = state.ctx.now;
    data::truncate(state, ino, inode, size, now)
}
