//! Operations on one directory that its shard executes alone: create, mknod, symlink, unlink.

use crate::command::{Command, Message};
use crate::data;
use crate::lock;
use crate::outcome::{Begun, Step, Stop};
use crate::query;
use crate::reap;
use crate::record::{Dentry, Inode, SYMLINK_BYTES_MAX};
use crate::state::{Place, State};
use cfs_types::{FsError, InodeId, Name, SessionId};
use cfs_wire::{EntryReply, FileKind, Reply};

/// Links an inode may have (`LINK_MAX` of XFS; the kernel keeps the count in 31 bits).
pub const LINKS_MAX: u32 = (1 << 31) - 1;

/// What a new inode is to be.
pub struct Birth<'a> {
    /// Kind.
    pub kind: FileKind,
    /// Mode bits.
    pub mode: u16,
    /// Device number.
    pub rdev: u32,
    /// Symlink target.
    pub target: &'a [u8],
}

/// Creates a file, or answers the one that is there unless `exclusive`.
pub fn create(
    state: &mut State<'_>,
    command: &Command,
    (dir, name): (InodeId, &Name),
    mode: u16,
    (exclusive, truncate): (bool, bool),
    begun: Begun,
) -> Step<Reply> {
    let directory = state.directory(dir)?;
    lock::check(state, dir, &directory, name.as_bytes(), None)?;
    let found = match state.dentry_or_place(dir, name)? {
        Ok(found) => found,
        Err(place) => {
            let birth = Birth { kind: FileKind::File, mode, rdev: 0, target: &[] };
            return bear(state, command, (dir, directory), (name, place), &birth);
        }
    };
    if exclusive {
        return Err(Stop::Fail(FsError::Exists));
    }
    if found.dentry.is_dir() {
        return Err(Stop::Fail(FsError::IsDirectory));
    }
    let ino = found.dentry.ino;
    if truncate && found.dentry.kind == FileKind::File && ino.shard() == state.ctx.shard {
        let mut inode = state.inode(ino)?;
        inode.written_by(command.session);
        let left = data::truncate(state, ino, &mut inode, 0, begun)?;
        state.put_inode(ino, &inode);
        if let Some(at) = left {
            return Ok(Reply::Offset(at));
        }
    }
    query::entry(state, state.ctx, found.dentry).map(Reply::Entry)
}

/// Makes a node that must not be there yet.
pub fn make(state: &mut State<'_>, command: &Command, (dir, name): (InodeId, &Name), birth: &Birth<'_>) -> Step<Reply> {
    let symlink = birth.kind == FileKind::Symlink;
    if birth.kind == FileKind::Directory || symlink == birth.target.is_empty() {
        return Err(Stop::Fail(FsError::Invalid));
    }
    if birth.target.len() > SYMLINK_BYTES_MAX {
        return Err(Stop::Fail(FsError::NameTooLong));
    }
    let directory = state.directory(dir)?;
    lock::check(state, dir, &directory, name.as_bytes(), None)?;
    let Err(place) = state.dentry_or_place(dir, name)? else { return Err(Stop::Fail(FsError::Exists)) };
    bear(state, command, (dir, directory), (name, place), birth)
}

fn bear(
    state: &mut State<'_>,
    command: &Command,
    (dir, mut directory): (InodeId, Inode),
    (name, place): (&Name, Place),
    birth: &Birth<'_>,
) -> Step<Reply> {
    let now = state.ctx.now;
    let ino = state.allocate(birth.kind)?;
    let inherits = directory.mode & 0o2000 != 0;
    let gid = if inherits { directory.gid } else { command.identity.gid };
    let mut inode = Inode::new(birth.kind, birth.mode, command.identity.uid, gid, now);
    if matches!(birth.kind, FileKind::CharDevice | FileKind::BlockDevice) {
        inode.rdev = birth.rdev;
    }
    inode.target = birth.target.into();
    if birth.kind == FileKind::File {
        inode.writer = command.session;
    }
    state.add_dentry(dir, name, place, Dentry { ino, kind: birth.kind })?;
    state.put_inode(ino, &inode);
    directory.size += 1;
    directory.modify(now);
    state.put_inode(dir, &directory);
    let attr = Some(inode.attr(ino));
    Ok(Reply::Entry(EntryReply { ino, kind: birth.kind, attr }))
}

/// Removes a name that leads to no directory, and a link of its inode, here or by message.
/// `Conflict`: it does not lead to the inode that was `asked` about.
pub fn unlink(
    state: &mut State<'_>,
    (dir, name): (InodeId, &Name),
    asked: Option<InodeId>,
    pinned_by: &[SessionId],
) -> Step<Reply> {
    let mut directory = state.directory(dir)?;
    lock::check(state, dir, &directory, name.as_bytes(), None)?;
    let found = state.dentry(dir, name)?.ok_or(Stop::Fail(FsError::NotFound))?;
    if found.dentry.is_dir() {
        return Err(Stop::Fail(FsError::IsDirectory));
    }
    if asked.is_some_and(|ino| ino != found.dentry.ino) {
        return Err(Stop::Fail(FsError::Conflict));
    }
    let now = state.ctx.now;
    state.remove_dentry(dir, name, found.cookie);
    directory.size = directory.size.saturating_sub(1);
    directory.modify(now);
    state.put_inode(dir, &directory);
    let ino = found.dentry.ino;
    if ino.shard() == state.ctx.shard {
        let inode = state.inode(ino)?;
        reap::drop_link(state, ino, inode, now, pinned_by)?;
    } else {
        state.send(ino.shard(), &Message::Unlink { ino, now })?;
    }
    Ok(Reply::Done)
}
